// Running a layer, forward and back: arrays to jobs, and jobs to arrays.
#include <algorithm>
#include <stdexcept>

#include "call.h"
#include "gaps.h"

namespace rnnfast {
namespace {

double flops_of(CellId cell, const Dims& d, int D) {
  return 2.0 * D * double(d.T) * double(d.B) * kCells[int(cell)].G * double(d.H) *
         double(d.I + d.H);
}

template <class Real>
uint64_t checksum_of(const View& v) {
  const auto& sum = kernels<Real>().checksum;
  Index n = 1;
  for (int i = 0; i < v.nd; ++i) n *= v.shape[i];
  if (n == 0) return 0;
  if (v.contiguous()) return sum(v.data, size_t(n) * sizeof(Real), 0);
  // Only sequences come here: row by row.
  uint64_t hash = 0;
  const Index B = v.nd == 3 ? v.shape[1] : 1, last = v.shape[v.nd - 1];
  for (Index t = 0; t < v.shape[0]; ++t)
    for (Index b = 0; b < B; ++b)
      hash = sum(static_cast<char*>(v.data) + t * v.strides[0] + (v.nd == 3 ? b * v.strides[1] : 0),
                 size_t(last) * sizeof(Real), hash);
  return hash;
}

// The initial (or final) states, or their gradients: None, or S entries of (D, B, H) or None.
template <class Real>
bool parse_states(py::handle h, int S, Index D, const Dims& d, const Real* (&out)[kMaxStates]) {
  for (auto& p : out) p = nullptr;
  if (h.is_none()) return true;
  if (!PyTuple_Check(h.ptr()) || PyTuple_GET_SIZE(h.ptr()) != S) return false;
  for (int s = 0; s < S; ++s)
    if (!optional_array<Real>(PyTuple_GET_ITEM(h.ptr(), s), {D, d.B, d.H}, out[s])) return false;
  return true;
}

// A sequence of n features: (T, B, n), or (N, n) where flat.
template <class Real>
bool steps(const View& v, const CallOptions& o, const Dims& d, Index n, Sequence<Real>& out) {
  if (v.type != type_number<std::remove_const_t<Real>>() || v.nd != (o.flat ? 2 : 3) ||
      v.shape[v.nd - 1] != n)
    return false;
  if (o.flat) return v.shape[0] == o.start.back() && flat_sequence(v, o.starts(), out);
  return v.shape[0] == d.T && v.shape[1] == d.B && sequence(v, out);
}

// The shape of an array of this call with n features.
template <class Real>
py::array_t<Real> empty_steps(const CallOptions& o, const Dims& d, Index n) {
  if (o.flat) return empty<Real>({o.start.back(), n});
  return empty<Real>({d.T, d.B, n});
}
template <class Real>
Sequence<Real> dense_steps(const CallOptions& o, const Dims& d, Index n, Real* base) {
  if (o.flat) return {base, n, n, o.starts()};
  return {base, d.B * n, n};
}

IndexTable make_index_table(const int64_t* x, Index n, Index I, const CallOptions& o,
                            const Dims& d) {
  IndexTable table;
  table.slot.resize(size_t(n));
  std::vector<int32_t> of(size_t(I), -1);
  // What stands at unused places may be anything.
  const auto each_used = [&](auto&& f) {
    if (!o.scheduled) {
      for (Index i = 0; i < n; ++i) f(i);
      return;
    }
    const Schedule s = o.schedule[0].view();
    for (Index t = 0; t < d.T; ++t)
      for (Index p = s.first[t]; p < s.first[t + 1]; ++p) {
        const Index time = o.reversed(0) ? d.T - 1 - t : t, b = s.row[p];
        f(o.flat ? o.start[size_t(b)] + time : time * d.B + b);
      }
  };
  each_used([&](Index i) {
    if (x[i] < 0 || x[i] >= I) throw py::index_error("rnnfast: an index is outside [0, I)");
    of[size_t(x[i])] = 0;
  });
  for (Index k = 0; k < I; ++k)
    if (of[size_t(k)] == 0) {
      of[size_t(k)] = int32_t(table.distinct.size());
      table.distinct.push_back(k);
    }
  each_used([&](Index i) { table.slot[size_t(i)] = of[size_t(x[i])]; });
  return table;
}

IndexInput index_input(const IndexTable& table, const CallOptions& o, const Dims& d, bool reverse) {
  const Sequence<const int32_t> slot =
      o.flat ? Sequence<const int32_t>{table.slot.data(), 1, 1, o.starts()}
             : Sequence<const int32_t>{table.slot.data(), d.B, 1};
  return {true, direction(slot, d.T, 0, reverse), table.distinct.data(),
          Index(table.distinct.size())};
}

constexpr const char* kWeightNames[kWeights] = {"W", "R", "bW", "bR"};

// R with weight drop, or dR from that of the dropped R; rows of H.
template <class Real>
void drop_weights(const CallOptions& o, const Dims& d, int dir, Index rows, const Real* from,
                  Real* to, int threads) {
  std::vector<const Real*> in(static_cast<size_t>(rows));
  std::vector<Real*> out(static_cast<size_t>(rows));
  std::vector<uint32_t> ids(static_cast<size_t>(rows));
  for (Index r = 0; r < rows; ++r) {
    in[size_t(r)] = from + r * d.H;
    out[size_t(r)] = to + r * d.H;
    ids[size_t(r)] = uint32_t(r);
  }
  MaskedRows<Real> args{};
  args.rows = rows;
  args.n = d.H;
  args.in = in.data();
  args.out = out.data();
  args.row_id = ids.data();
  args.purpose = Purpose::weight_drop;
  args.p = o.weight_drop;
  args.random = o.random(d.T, dir);
  run_masked_rows(args, threads);
}

[[noreturn]] void changed(const CellInfo& info, const std::string& name) {
  throw std::runtime_error(
      "rnnfast." + std::string(info.name) + ": " + name +
      " has changed since the forward pass whose tape this is; backward needs it as it was. "
      "Change it after backward, or give forward a copy.");
}

template <class Real>
void note(PyTape::Borrowed& b) {
  View v;
  view_of(b.array, v);
  b.data = v.data;
  b.nd = v.nd;
  b.type = v.type;
  std::copy_n(v.shape, v.nd, b.shape);
  std::copy_n(v.strides, v.nd, b.strides);
  b.checksum = checksum_of<Real>(v);
}

template <class Real>
void verify(const PyTape& tape, const char* only = nullptr) {
  for (const auto& b : tape.borrowed) {
    if (only && b.name != only) continue;
    View v;
    const bool same = view_of(b.array, v) && v.data == b.data && v.nd == b.nd && v.type == b.type &&
                      std::equal(b.shape, b.shape + b.nd, v.shape) &&
                      std::equal(b.strides, b.strides + b.nd, v.strides);
    if (!same || checksum_of<Real>(v) != b.checksum) changed(kCells[int(tape.cell)], b.name);
  }
}

template <class Real>
py::object forward_impl(CellId cell, const View& x, py::handle x_object, py::handle params,
                        const PyPrepared* prepared, Index I, Index H, py::handle state,
                        py::handle out, bool keep_tape, int threads, bool dense,
                        py::handle options_given) {
  const CellInfo& info = kCells[int(cell)];
  const int D = prepared ? int(prepared->directions.size()) : int(PyTuple_GET_SIZE(params.ptr()));
  std::unique_ptr<CallOptions> given;
  Dims d{0, 0, I, H};
  if (options_given.is_none()) {
    if (x.nd != (dense ? 3 : 2)) return py::none();
    d.T = x.shape[0];
    d.B = x.shape[1];
  } else {
    given = std::make_unique<CallOptions>();
    if (!parse_options(options_given, info, D, x, dense, d, *given)) return py::none();
  }
  const CallOptions& o = given ? *given : kPlainCall;
  if (prepared && o.weight_drop > 0) return py::none();
  Sequence<const Real> xs{nullptr, 0, 0};
  if (dense && !steps(x, o, d, I, xs)) return py::none();

  ForwardArgs<Real> jobs[2] = {};
  for (int dir = 0; dir < D; ++dir) {
    if (prepared)
      jobs[dir].packed = static_cast<const Real*>(prepared->directions[size_t(dir)].get());
    else if (!parse_weights(PyTuple_GET_ITEM(params.ptr(), dir), info.G, I, H, jobs[dir].weights))
      return py::none();
  }
  const Real *state0[kMaxStates], *replacement[kMaxStates] = {};
  if (!parse_states(state, info.S, D, d, state0)) return py::none();
  if (o.given && !parse_replacement(options_given, info.S, D, H, d, o, replacement))
    return py::none();

  View y_view;
  py::object y;
  if (out.is_none()) {
    y = empty_steps<Real>(o, d, D * H);
    view_of(y, y_view);
  } else {
    if (!view_of(out, y_view) || !y_view.writeable()) return py::none();
    y = py::reinterpret_borrow<py::object>(out);
  }
  Sequence<Real> ys;
  if (!steps(y_view, o, d, D * H, ys)) return py::none();

  py::tuple states{size_t(info.S)};
  Real* state_n[kMaxStates] = {};
  for (int s = 0; s < info.S; ++s) {
    auto array = empty<Real>({D, d.B, H});
    state_n[s] = array.mutable_data();
    states[size_t(s)] = std::move(array);
  }

  IndexTable inference_index;
  IndexTable* index = &inference_index;
  std::unique_ptr<PyTape> tape;
  if (keep_tape) {
    tape = std::make_unique<PyTape>();
    tape->cell = cell;
    tape->type = type_number<Real>();
    tape->dims = d;
    tape->D = D;
    tape->dense_x = dense;
    index = &tape->index;
  }
  if (!dense)
    *index = make_index_table(static_cast<const int64_t*>(x.data),
                              o.flat ? o.start.back() : d.T * d.B, I, o, d);

  AlignedBlock dropped[2];
  for (int dir = 0; dir < D; ++dir) {
    ForwardArgs<Real>& job = jobs[dir];
    const bool reverse = o.reversed(dir);
    job.dims = d;
    job.x = direction(xs, d.T, 0, reverse);
    if (!dense) job.index = index_input(*index, o, d, reverse);
    job.y = direction(ys, d.T, dir * H, reverse);
    job.options = options_of<Real>(o, info, d.T, dir);
    for (int s = 0; s < info.S; ++s) {
      job.state0[s] = state0[s] ? state0[s] + dir * d.B * H : nullptr;
      job.state_n[s] = state_n[s] + dir * d.B * H;
      if (replacement[s])
        job.options.replacement[s] = replacement[s] + dir * o.replacement_rows * H;
    }
    if (o.weight_drop > 0) {
      dropped[dir] = allocate_aligned(size_t(info.G * H * H) * sizeof(Real));
      auto* R = static_cast<Real*>(dropped[dir].get());
      drop_weights(o, d, dir, info.G * H, job.weights[Weight::R], R, threads);
      job.weights.at[int(Weight::R)] = R;
    }
    if (tape) {
      const Index places = o.scheduled ? o.schedule[dir].places() : d.T * d.B;
      PyTape::Direction kept;
      kept.cell = allocate_aligned(size_t(tape_cell_size<Real>(cell, places, H)) * sizeof(Real));
      if (info.S > 1)
        kept.states =
            allocate_aligned(size_t(tape_state_size<Real>(d.B + places, H)) * sizeof(Real));
      if (const Index n = job.options.schedule.replacements)
        kept.replaced =
            allocate_aligned(size_t(tape_state_size<Real>(n * info.S, H)) * sizeof(Real));
      if (const int n = job.options.step_masks())
        kept.masks = allocate_aligned(size_t(tape_mask_size<Real>(n * places, H)) * sizeof(Real));
      kept.has_bW = job.weights[Weight::bW] != nullptr;
      kept.has_bR = job.weights[Weight::bR] != nullptr;
      job.tape.cell = static_cast<Real*>(kept.cell.get());
      job.tape.states[1] = static_cast<Real*>(kept.states.get());
      job.tape.replaced = static_cast<Real*>(kept.replaced.get());
      job.tape.masks = static_cast<Real*>(kept.masks.get());
      kept.dropped_R = std::move(dropped[dir]);
      tape->directions.push_back(std::move(kept));
    }
  }
  {
    const MaybeRelease release(flops_of(cell, d, D));
    run_forward(cell, jobs, D, threads);
    if (o.scheduled && !(o.flat && o.schedule[0].places() == o.start.back()))
      for (int dir = 0; dir < D; ++dir) {
        const ForwardArgs<Real>& job = jobs[dir];
        const StateRows<Real> rows{job.y, const_cast<Real*>(job.state0[0]),
                                   const_cast<Real*>(job.options.replacement[0]),
                                   job.options.schedule.reset_source, H};
        fill_gaps(o, dir, d, rows);
      }
  }
  if (tape) {
    tape->given = std::move(given);
    tape->x = py::reinterpret_borrow<py::object>(x_object);
    tape->y = y;
    tape->params = py::reinterpret_borrow<py::object>(params);
    tape->state = py::reinterpret_borrow<py::object>(state);
    const auto borrow = [&](std::string name, py::handle array) {
      if (!array.is_none())
        tape->borrowed.push_back({std::move(name), py::reinterpret_borrow<py::object>(array)});
    };
    if (dense) borrow("x", x_object);
    borrow("y", y);
    for (int dir = 0; dir < D; ++dir)
      for (int w = 0; w < 2; ++w)  // the biases are not read again
        borrow(std::string(kWeightNames[w]) + (dir ? " of the reverse direction" : ""),
               PyTuple_GET_ITEM(PyTuple_GET_ITEM(params.ptr(), dir), w));
    if (!state.is_none())
      borrow("h0", PyTuple_GET_ITEM(state.ptr(), 0));  // c0 has a copy on the tape
    for (auto& b : tape->borrowed) note<Real>(b);
  }
  note_kernel(info.name, "forward", type_number<Real>());
  return py::make_tuple(std::move(y), std::move(states),
                        tape ? py::cast(std::move(tape)) : py::none());
}

// Gradients into the states of every step: (D, T, B, n), flat (D, N, n); one direction of them, in scan order.
template <class Real>
bool parse_dsteps(py::handle h, const PyTape& tape, Index n, Sequence<const Real> (&out)[2]) {
  const Dims& d = tape.dims;
  const CallOptions& o = tape.options();
  const Index rows = o.flat ? o.start.back() : d.T * d.B;
  View v;
  if (!view_of(h, v) || v.type != type_number<Real>() || !v.contiguous()) return false;
  const Index features = v.nd > 0 ? v.shape[v.nd - 1] : 0;
  Index trailing = features;
  const int axes = o.flat ? 2 : 3;
  if (v.nd == axes + 2) trailing *= v.shape[v.nd - 2];  // (G, H)
  else if (v.nd != axes + 1) return false;
  if (v.shape[0] != tape.D || trailing != n || features != d.H) return false;
  if (o.flat ? v.shape[1] != rows : v.shape[1] != d.T || v.shape[2] != d.B) return false;
  for (int dir = 0; dir < tape.D; ++dir)
    out[dir] = direction(dense_steps(o, d, n, static_cast<const Real*>(v.data) + dir * rows * n),
                         d.T, 0, o.reversed(dir));
  return true;
}

// A copy of one direction's incoming gradients, with those at unused places folded onto the states held there.
template <class Real>
Sequence<const Real> folded(const PyTape& tape, int dir, Sequence<const Real> from,
                            StateRows<Real> rows, std::vector<Real>& copy) {
  const Dims& d = tape.dims;
  const CallOptions& o = tape.options();
  copy.resize(size_t((o.flat ? o.start.back() : d.T * d.B) * d.H));
  rows.steps = direction(dense_steps(o, d, d.H, copy.data()), d.T, 0, o.reversed(dir));
  for (Index t = 0; t < d.T; ++t)
    for (Index b = 0; b < d.B; ++b)
      if (o.inside(dir, d.T, t, b))
        std::memcpy(rows.steps.row(t, b), from.row(t, b), size_t(d.H) * sizeof(Real));
  fold_gaps(o, dir, d, rows);
  return {rows.steps.base, rows.steps.time, rows.steps.batch, rows.steps.start};
}

template <class Real>
py::object backward_impl(const PyTape& tape, py::handle dy, py::handle dstate, bool need_dx,
                         int threads, py::handle dstates_given, py::handle dgates_given) {
  const CellInfo& info = kCells[int(tape.cell)];
  const Dims& d = tape.dims;
  const CallOptions& o = tape.options();
  Sequence<const Real> dys{nullptr, 0, 0};
  if (!dy.is_none()) {
    View v;
    if (!view_of(dy, v) || !steps(v, o, d, tape.D * d.H, dys)) return py::none();
  }
  const Real* dstate_n[kMaxStates];
  if (!parse_states(dstate, info.S, tape.D, d, dstate_n)) return py::none();
  Sequence<const Real> into[kMaxStates][2] = {}, dgates[2] = {};
  if (!dstates_given.is_none()) {
    if (!PyTuple_Check(dstates_given.ptr()) || PyTuple_GET_SIZE(dstates_given.ptr()) != info.S)
      return py::none();
    for (int s = 0; s < info.S; ++s) {
      py::handle entry = PyTuple_GET_ITEM(dstates_given.ptr(), s);
      if (!entry.is_none() && !parse_dsteps<Real>(entry, tape, d.H, into[s])) return py::none();
    }
  }
  if (!dgates_given.is_none() && !parse_dsteps<Real>(dgates_given, tape, info.G * d.H, dgates))
    return py::none();
  verify<Real>(tape);

  BackwardArgs<Real> jobs[2] = {};
  View x, y;
  Sequence<const Real> xs{nullptr, 0, 0}, ys;
  view_of(tape.x, x);
  view_of(tape.y, y);
  if (tape.dense_x) steps(x, o, d, d.I, xs);
  steps(y, o, d, tape.D * d.H, ys);
  const Real* state0[kMaxStates];
  parse_states(tape.state, info.S, tape.D, d, state0);

  py::object dx = py::none();
  Sequence<Real> dxs[2] = {};
  // The two directions both flow into dx: the second one writes beside it and is added afterwards.
  py::array_t<Real> second;
  const Index dx_size = (o.flat ? o.start.back() : d.T * d.B) * d.I;
  if (need_dx && tape.dense_x) {
    auto array = empty_steps<Real>(o, d, d.I);
    dxs[0] = dense_steps(o, d, d.I, array.mutable_data());
    dx = std::move(array);
    if (tape.D == 2) {
      second = empty_steps<Real>(o, d, d.I);
      dxs[1] = dense_steps(o, d, d.I, second.mutable_data());
    }
  }
  py::tuple dstates{size_t(info.S)};
  Real* dstate0[kMaxStates] = {};
  for (int s = 0; s < info.S; ++s) {
    auto array = empty<Real>({tape.D, d.B, d.H});
    dstate0[s] = array.mutable_data();
    dstates[size_t(s)] = std::move(array);
  }
  py::object dreset = py::none();
  Real* dreplacement[kMaxStates] = {};
  if (o.replaces[0] || o.replaces[1]) {
    py::tuple entries{size_t(info.S)};
    for (int s = 0; s < info.S; ++s) {
      if (!o.replaces[s]) {
        entries[size_t(s)] = py::none();
        continue;
      }
      const Index rows = o.replacement_rows;
      // Few of its rows are written; the pages of the others are never touched.
      auto array = o.flat && o.replacement_per_step
                       ? zeros<Real>({tape.D, rows, d.H})
                       : zeros<Real>({tape.D, d.B ? rows / d.B : o.replacement_steps, d.B, d.H});
      dreplacement[s] = array.mutable_data();
      entries[size_t(s)] = std::move(array);
    }
    dreset = std::move(entries);
  }
  py::tuple grads{size_t(tape.D)};
  const Index GH = info.G * d.H;
  for (int dir = 0; dir < tape.D; ++dir) {
    BackwardArgs<Real>& job = jobs[dir];
    const bool reverse = o.reversed(dir);
    job.dims = d;
    job.x = direction(xs, d.T, 0, reverse);
    if (!tape.dense_x) job.index = index_input(tape.index, o, d, reverse);
    parse_weights(PyTuple_GET_ITEM(tape.params.ptr(), dir), info.G, d.I, d.H, job.weights);
    job.y = direction(ys, d.T, dir * d.H, reverse);
    job.dy = direction(dys, d.T, dir * d.H, reverse);
    job.dx = direction(dxs[dir], d.T, 0, reverse);
    if (job.dx.base && o.leaves_gaps()) clear_gaps(o, dir, d, job.dx, d.I);
    job.dgates = dgates[dir];
    job.options = options_of<Real>(o, info, d.T, dir);
    for (int s = 0; s < info.S; ++s) {
      job.state0[s] = state0[s] ? state0[s] + dir * d.B * d.H : nullptr;
      job.dstate_n[s] = dstate_n[s] ? dstate_n[s] + dir * d.B * d.H : nullptr;
      job.dstate0[s] = dstate0[s] + dir * d.B * d.H;
      job.dstates[s] = into[s][dir];
      if (dreplacement[s]) job.dreplacement[s] = dreplacement[s] + dir * o.replacement_rows * d.H;
    }
    const auto& kept = tape.directions[size_t(dir)];
    job.tape.cell = static_cast<Real*>(kept.cell.get());
    job.tape.states[1] = static_cast<Real*>(kept.states.get());
    job.tape.replaced = static_cast<Real*>(kept.replaced.get());
    job.tape.masks = static_cast<Real*>(kept.masks.get());
    if (kept.dropped_R)
      job.weights.at[int(Weight::R)] = static_cast<const Real*>(kept.dropped_R.get());

    py::object dW;
    if (tape.dense_x) {
      auto array = empty<Real>({GH, d.I});
      job.dweights[int(Weight::W)] = array.mutable_data();
      dW = std::move(array);
    } else {
      const auto n = Index(tape.index.distinct.size());
      auto rows = empty<Real>({n, GH});
      auto indices = empty<int64_t>({n});
      for (Index i = 0; i < n; ++i) indices.mutable_data()[i] = tape.index.distinct[size_t(i)];
      job.dweights[int(Weight::W)] = rows.mutable_data();
      dW = py::make_tuple(std::move(indices), std::move(rows));
    }
    auto dR = empty<Real>({GH, d.H});
    job.dweights[int(Weight::R)] = dR.mutable_data();
    py::object biases[2] = {py::none(), py::none()};
    const bool has[2] = {kept.has_bW, kept.has_bR};
    for (int i = 0; i < 2; ++i) {
      if (!has[i]) continue;
      auto array = empty<Real>({GH});
      job.dweights[int(Weight::bW) + i] = array.mutable_data();
      biases[i] = std::move(array);
    }
    grads[size_t(dir)] = py::make_tuple(std::move(dW), std::move(dR), biases[0], biases[1]);
  }
  {
    const MaybeRelease release(2 * flops_of(tape.cell, d, tape.D));
    // Gradients into held states: those of the scan first, then what was held from the start.
    std::vector<Real> copies[2][1 + kMaxStates], initial[2][kMaxStates];
    const bool folds = o.hold && o.scheduled;
    if (folds)
      for (int dir = 0; dir < tape.D; ++dir) {
        BackwardArgs<Real>& job = jobs[dir];
        const Schedule& s = job.options.schedule;
        for (int k = 0; k < info.S; ++k) {
          initial[dir][k].assign(size_t(d.B * d.H), Real(0));
          const StateRows<Real> rows{
              {}, initial[dir][k].data(), job.dreplacement[k], s.reset_source, d.H};
          if (k == 0 && job.dy.base)
            job.dy = folded(tape, dir, job.dy, rows, copies[dir][kMaxStates]);
          if (job.dstates[k].base)
            job.dstates[k] = folded(tape, dir, job.dstates[k], rows, copies[dir][k]);
        }
      }
    run_backward(tape.cell, jobs, tape.D, threads);
    if (folds)
      for (int dir = 0; dir < tape.D; ++dir)
        for (int k = 0; k < info.S; ++k)
          for (Index i = 0; i < d.B * d.H; ++i)
            jobs[dir].dstate0[k][i] += initial[dir][k][size_t(i)];
    if (o.weight_drop > 0)
      for (int dir = 0; dir < tape.D; ++dir) {
        Real* dR = jobs[dir].dweights[int(Weight::R)];
        drop_weights<Real>(o, d, dir, GH, dR, dR, threads);
      }
    if (dxs[1].base)
      for (Index i = 0; i < dx_size; ++i) dxs[0].base[i] += dxs[1].base[i];
  }
  note_kernel(info.name, "backward", type_number<Real>());
  return py::make_tuple(std::move(dx), std::move(grads), std::move(dstates), std::move(dreset));
}

// Slots of packed rows, as the caller's (D, T, B, slots, H), flat (D, N, slots, H); zero at unused places.
template <class Real>
py::array_t<Real> unpack(const PyTape& tape, bool gates) {
  const CellInfo& info = kCells[int(tape.cell)];
  const Dims& d = tape.dims;
  const CallOptions& o = tape.options();
  const int slots = gates ? info.G : 1, kept_slots = gates ? info.K : 1;
  const Index lanes = kernels<Real>().lanes, units = padded_units(d.H, int(lanes));
  const Index rows = o.flat ? o.start.back() : d.T * d.B, n = slots * d.H;
  auto array = gates && o.flat ? empty<Real>({tape.D, rows, slots, d.H})
               : gates         ? empty<Real>({tape.D, d.T, d.B, slots, d.H})
               : o.flat        ? empty<Real>({tape.D, rows, d.H})
                               : empty<Real>({tape.D, d.T, d.B, d.H});
  if (o.scheduled) std::memset(array.mutable_data(), 0, size_t(tape.D * rows * n) * sizeof(Real));
  for (int dir = 0; dir < tape.D; ++dir) {
    const auto& kept = tape.directions[size_t(dir)];
    const Real* base = gates ? static_cast<const Real*>(kept.cell.get())
                             : static_cast<const Real*>(kept.states.get()) + d.B * units;
    const Sequence<Real> to = direction(dense_steps(o, d, n, array.mutable_data() + dir * rows * n),
                                        d.T, 0, o.reversed(dir));
    const Schedule s = o.scheduled ? o.schedule[dir].view() : Schedule{};
    for (Index t = 0; t < d.T; ++t) {
      const Index begin = s.first ? s.first[t] : t * d.B,
                  end = s.first ? s.first[t + 1] : begin + d.B;
      for (Index p = begin; p < end; ++p) {
        const Real* from = base + p * units * kept_slots;
        Real* out = to.row(t, s.first ? s.row[p] : p - begin);
        for (Index unit = 0; unit < d.H; unit += lanes) {
          const Index valid = unit + lanes <= d.H ? lanes : d.H - unit;
          for (int k = 0; k < slots; ++k)
            std::memcpy(out + k * d.H + unit, from + unit * kept_slots + k * lanes,
                        size_t(valid) * sizeof(Real));
        }
      }
    }
    if (!gates && o.hold && o.scheduled) {
      // Unused places hold the state before: initial states and replacements have copies on the tape, padded.
      std::vector<Real> initial(size_t(d.B * d.H)), replaced(size_t(s.replacements * d.H));
      const Real* first = static_cast<const Real*>(kept.states.get());
      for (Index b = 0; b < d.B; ++b)
        std::memcpy(initial.data() + b * d.H, first + b * units, size_t(d.H) * sizeof(Real));
      std::vector<Index> number(size_t(s.replacements));
      for (Index k = 0; k < s.replacements; ++k) {
        number[size_t(k)] = k;
        std::memcpy(replaced.data() + k * d.H,
                    static_cast<const Real*>(kept.replaced.get()) + (k * info.S + 1) * units,
                    size_t(d.H) * sizeof(Real));
      }
      const bool shared = s.replacements == 1 && !(o.replaces[0] || o.replaces[1]);
      const StateRows<Real> held{to, initial.data(), shared ? nullptr : replaced.data(),
                                 number.data(), d.H};
      fill_gaps(o, dir, d, held);
    }
  }
  return array;
}

template <class Real>
py::tuple states_impl(const PyTape& tape) {
  const CellInfo& info = kCells[int(tape.cell)];
  const Dims& d = tape.dims;
  const CallOptions& o = tape.options();
  verify<Real>(tape, "y");
  py::tuple out{size_t(info.S)};
  View v;
  Sequence<const Real> y;
  view_of(tape.y, v);
  steps(v, o, d, tape.D * d.H, y);
  const Index rows = o.flat ? o.start.back() : d.T * d.B;
  auto h = o.flat ? empty<Real>({tape.D, rows, d.H}) : empty<Real>({tape.D, d.T, d.B, d.H});
  Real* to = h.mutable_data();
  for (int dir = 0; dir < tape.D; ++dir)
    for (Index i = 0; i < rows; ++i, to += d.H) {
      const Real* from = o.flat ? y.base + i * y.batch : y.row(i / d.B, i % d.B);
      std::memcpy(to, from + dir * d.H, size_t(d.H) * sizeof(Real));
    }
  out[0] = std::move(h);
  if (info.S > 1) out[1] = unpack<Real>(tape, false);
  return out;
}

template <class Real>
py::object between_impl(const View& x, py::handle add, Index H, double p, const MaskKey& random,
                        const uint32_t* row_ids, Index B, const CallOptions& o, int threads) {
  const Index width = x.shape[x.nd - 1], D = width / H;
  const Dims d{o.flat ? 0 : x.shape[0], B, width, H};
  Sequence<const Real> in, sum{nullptr, 0, 0};
  if (!steps(x, o, d, width, in)) return py::none();
  if (!add.is_none()) {
    View v;
    if (!view_of(add, v) || !steps(v, o, d, width, sum)) return py::none();
  }
  auto array = empty_steps<Real>(o, d, width);
  const Sequence<Real> out = dense_steps(o, d, width, array.mutable_data());
  const Index rows = o.flat ? o.start.back() : d.T * B;
  std::vector<const Real*> from, plus;
  std::vector<Real*> to;
  std::vector<uint32_t> ids, step;
  const auto push = [&](Index t, Index b) {
    from.push_back(in.row(t, b));
    if (sum.base) plus.push_back(sum.row(t, b));
    to.push_back(out.row(t, b));
    ids.push_back(row_ids ? row_ids[b] : uint32_t(b));
    step.push_back(random.first_step + uint32_t(t));
  };
  from.reserve(size_t(rows));
  to.reserve(size_t(rows));
  if (o.flat) {
    for (Index b = 0; b < B; ++b)
      for (Index t = 0; t < o.start[size_t(b) + 1] - o.start[size_t(b)]; ++t) push(t, b);
  } else {
    for (Index t = 0; t < d.T; ++t)
      for (Index b = 0; b < B; ++b) push(t, b);
  }
  for (Index dir = 0; dir < D; ++dir) {
    MaskedRows<Real> args{};
    args.rows = rows;
    args.n = H;
    args.in = from.data();
    args.add = plus.empty() ? nullptr : plus.data();
    args.out = to.data();
    args.row_id = ids.data();
    args.step = step.data();
    args.purpose = Purpose::between_layers;
    args.p = p;
    args.random = random;
    args.random.direction = uint32_t(dir);
    run_masked_rows(args, threads);
    for (Index r = 0; r < rows; ++r) {
      from[size_t(r)] += H;
      to[size_t(r)] += H;
      if (args.add) plus[size_t(r)] += H;
    }
  }
  return std::move(array);
}

}  // namespace

py::object forward(py::handle cell_name, py::handle x, py::handle params, py::handle state,
                   py::handle out, py::handle keep_tape, py::handle threads_given,
                   py::handle options) {
  CellId cell;
  View v;
  int threads, type = 0;
  Index I = 0, H = 0;
  if (!find_cell(cell_name, cell) || !view_of(x, v) || !parse_threads(threads_given, threads))
    return py::none();
  const bool keep = keep_tape.ptr() == Py_True;
  const PyPrepared* prepared = nullptr;
  if (py::isinstance<PyPrepared>(params)) {
    prepared = params.cast<const PyPrepared*>();
    if (keep || prepared->cell != cell) return py::none();
    type = prepared->type;
    I = prepared->I;
    H = prepared->H;
  } else if (!sizes_of(params, kCells[int(cell)].G, type, I, H)) {
    return py::none();
  }
  const bool dense = v.type == type;
  if (!dense && !(v.nd >= 1 && v.contiguous() && py::isinstance<py::array_t<int64_t>>(x)))
    return py::none();
  if (type == kFloat)
    return forward_impl<float>(cell, v, x, params, prepared, I, H, state, out, keep, threads, dense,
                               options);
  return forward_impl<double>(cell, v, x, params, prepared, I, H, state, out, keep, threads, dense,
                              options);
}

py::object backward(const PyTape& tape, py::handle dy, py::handle dstate, py::handle need_dx,
                    py::handle threads_given, py::handle dstates, py::handle dgates) {
  int threads;
  if (!parse_threads(threads_given, threads)) return py::none();
  const bool need = need_dx.ptr() == Py_True;
  if (tape.type == kFloat)
    return backward_impl<float>(tape, dy, dstate, need, threads, dstates, dgates);
  return backward_impl<double>(tape, dy, dstate, need, threads, dstates, dgates);
}

py::tuple tape_states(const PyTape& tape) {
  return tape.type == kFloat ? states_impl<float>(tape) : states_impl<double>(tape);
}

py::object tape_gates(const PyTape& tape) {
  if (tape.type == kFloat) return unpack<float>(tape, true);
  return unpack<double>(tape, true);
}

py::object between_layers(py::handle x, py::handle add, py::handle H_given, py::handle p_given,
                          py::handle seed, py::handle layer, py::handle t0, py::handle row_ids,
                          py::handle cu_seqlens, py::handle threads_given) {
  View v;
  int threads;
  double p;
  uint64_t H_whole, seed_whole, layer_whole, t0_whole;
  if (!view_of(x, v) || v.nd < 2 || !parse_threads(threads_given, threads) ||
      !parse_real(p_given, 0, 1, p) || !parse_whole(H_given, kMostWhole, H_whole) ||
      !parse_whole(seed, ~uint64_t(0), seed_whole) || !parse_whole(layer, 0xffff, layer_whole) ||
      !parse_whole(t0, 0xffffffffu, t0_whole))
    return py::none();
  const auto H = Index(H_whole);
  if (H < 1 || v.shape[v.nd - 1] % H) return py::none();
  CallOptions o;
  Index B = v.nd == 3 ? v.shape[1] : 0;
  if (!cu_seqlens.is_none()) {
    View cu;
    if (!view_of(cu_seqlens, cu) || !cu.contiguous() || cu.nd != 1 || cu.shape[0] < 1 ||
        !py::isinstance<py::array_t<int64_t>>(cu_seqlens))
      return py::none();
    const auto* start = static_cast<const int64_t*>(cu.data);
    o.flat = true;
    o.start.assign(start, start + cu.shape[0]);
    B = cu.shape[0] - 1;
    if (start[0] != 0 || start[B] != v.shape[0]) return py::none();
    for (Index b = 0; b < B; ++b)
      if (start[b + 1] < start[b]) return py::none();
  }
  const uint32_t* ids = nullptr;
  View id_view;
  if (!row_ids.is_none()) {
    if (!view_of(row_ids, id_view) || id_view.type != kUint32 || !id_view.contiguous() ||
        id_view.nd != 1 || id_view.shape[0] != B)
      return py::none();
    ids = static_cast<const uint32_t*>(id_view.data);
  }
  const MaskKey random{seed_whole, uint32_t(layer_whole), 0, uint32_t(t0_whole), 1, nullptr};
  if (v.type == kFloat) return between_impl<float>(v, add, H, p, random, ids, B, o, threads);
  if (v.type == kDouble) return between_impl<double>(v, add, H, p, random, ids, B, o, threads);
  return py::none();
}

}  // namespace rnnfast
