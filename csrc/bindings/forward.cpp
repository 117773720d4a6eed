// A layer forward: arrays to jobs, and what the jobs wrote to Python.
#include "borrowed.h"
#include "gaps.h"
#include "jobs.h"

namespace rnnfast {
namespace {

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

constexpr const char* kWeightNames[kWeights] = {"W", "R", "bW", "bR"};

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
  WeightSums<Real> sums;
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
        job.options.replacement[s] = replacement[s] + dir * o.replacement[s].rows * H;
    }
    const Real* const R_given = job.weights[Weight::R];
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
      sums.want(dir, job, kept.dropped_R ? R_given : nullptr);
      tape->directions.push_back(std::move(kept));
    }
  }
  {
    const MaybeRelease release(flops_of(cell, d, D));
    run_forward(cell, jobs, D, threads);
    sums.add_dropped(d, info.G);
    if (o.scheduled && !(o.flat && o.schedule[0].places() == o.start.back()))
      for (int dir = 0; dir < D; ++dir) {
        const ForwardArgs<Real>& job = jobs[dir];
        const StateRows<Real> rows{job.y, const_cast<Real*>(job.state0[0]),
                                   const_cast<Real*>(job.options.replacement[0]),
                                   job.options.schedule.reset_source[0], H};
        fill_gaps(o, dir, d, rows);
      }
  }
  if (tape) {
    tape->given = std::move(given);
    tape->x = py::reinterpret_borrow<py::object>(x_object);
    tape->y = y;
    tape->params = py::reinterpret_borrow<py::object>(params);
    tape->state = py::reinterpret_borrow<py::object>(state);
    const auto borrow = [&](std::string name, py::handle array) -> PyTape::Borrowed& {
      tape->borrowed.push_back({std::move(name), py::reinterpret_borrow<py::object>(array)});
      return tape->borrowed.back();
    };
    if (dense) borrow("x", x_object);
    borrow("y", y);
    for (int dir = 0; dir < D; ++dir)
      for (int w = 0; w < 2; ++w) {  // the biases are not read again
        auto& b = borrow(std::string(kWeightNames[w]) + (dir ? " of the reverse direction" : ""),
                         PyTuple_GET_ITEM(PyTuple_GET_ITEM(params.ptr(), dir), w));
        b.direction = dir;
        b.weight = w;
        b.checksum = sums.at[dir][w];
      }
    if (!state.is_none() && PyTuple_GET_ITEM(state.ptr(), 0) != Py_None)
      borrow("h0", PyTuple_GET_ITEM(state.ptr(), 0));  // c0 has a copy on the tape
    for (auto& b : tape->borrowed) note<Real>(b);
  }
  note_kernel(info.name, "forward", type_number<Real>());
  return py::make_tuple(std::move(y), std::move(states),
                        tape ? py::cast(std::move(tape)) : py::none());
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

}  // namespace rnnfast
