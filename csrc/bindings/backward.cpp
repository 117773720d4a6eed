// A layer backward: a tape and gradients to jobs, and what the jobs wrote to Python.
#include "borrowed.h"
#include "gaps.h"
#include "jobs.h"

namespace rnnfast {
namespace {

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
                         int threads, py::handle dstates_given, py::handle dgates_given,
                         bool need_dstate0) {
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
    dstates[size_t(s)] = py::none();
    if (!need_dstate0) continue;
    auto array = empty<Real>({tape.D, d.B, d.H});
    dstate0[s] = array.mutable_data();
    dstates[size_t(s)] = std::move(array);
  }
  py::object dreset = py::none();
  Real* dreplacement[kMaxStates] = {};
  if (o.replaces()) {
    py::tuple entries{size_t(info.S)};
    for (int s = 0; s < info.S; ++s) {
      const CallOptions::Replacement& r = o.replacement[s];
      if (!r.given) {
        entries[size_t(s)] = py::none();
        continue;
      }
      // Few of its rows are written; the pages of the others are never touched.
      auto array = o.flat && r.per_step
                       ? zeros<Real>({tape.D, r.rows, d.H})
                       : zeros<Real>({tape.D, d.B ? r.rows / d.B : r.steps, d.B, d.H});
      dreplacement[s] = array.mutable_data();
      entries[size_t(s)] = std::move(array);
    }
    dreset = std::move(entries);
  }
  WeightSums<Real> sums;
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
      job.dstate0[s] = dstate0[s] ? dstate0[s] + dir * d.B * d.H : nullptr;
      job.dstates[s] = into[s][dir];
      if (dreplacement[s])
        job.dreplacement[s] = dreplacement[s] + dir * o.replacement[s].rows * d.H;
    }
    const auto& kept = tape.directions[size_t(dir)];
    job.tape.cell = static_cast<Real*>(kept.cell.get());
    job.tape.states[1] = static_cast<Real*>(kept.states.get());
    job.tape.replaced = static_cast<Real*>(kept.replaced.get());
    job.tape.masks = static_cast<Real*>(kept.masks.get());
    sums.reads[0] = job.dx.base != nullptr;
    sums.reads[1] = job.reads_R();
    sums.want(dir, job, kept.dropped_R ? job.weights[Weight::R] : nullptr);
    if (kept.dropped_R)
      job.weights.at[int(Weight::R)] = static_cast<const Real*>(kept.dropped_R.get());

    py::object dW;
    if (tape.dense_x) {
      auto array = lasting<Real>({GH, d.I});
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
    auto dR = lasting<Real>({GH, d.H});
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
              {}, initial[dir][k].data(), job.dreplacement[k], s.reset_source[k], d.H};
          if (k == 0 && job.dy.base)
            job.dy = folded(tape, dir, job.dy, rows, copies[dir][kMaxStates]);
          if (job.dstates[k].base)
            job.dstates[k] = folded(tape, dir, job.dstates[k], rows, copies[dir][k]);
        }
      }
    run_backward(tape.cell, jobs, tape.D, threads);
    sums.add_dropped(d, info.G);
    if (folds && need_dstate0)
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
  verify_weights<Real>(tape, sums);
  note_kernel(info.name, "backward", type_number<Real>());
  return py::make_tuple(std::move(dx), std::move(grads), std::move(dstates), std::move(dreset));
}

}  // namespace

py::object backward(const PyTape& tape, py::handle dy, py::handle dstate, py::handle need_dx,
                    py::handle threads_given, py::handle dstates, py::handle dgates,
                    py::handle need_dstate0) {
  int threads;
  if (!parse_threads(threads_given, threads)) return py::none();
  const bool need = need_dx.ptr() == Py_True, need_first = need_dstate0.ptr() == Py_True;
  if (tape.type == kFloat)
    return backward_impl<float>(tape, dy, dstate, need, threads, dstates, dgates, need_first);
  return backward_impl<double>(tape, dy, dstate, need, threads, dstates, dgates, need_first);
}

}  // namespace rnnfast
