// One hidden unit of one batch row, in the registers of one CUDA thread: what a step does around the cell, forward and
// backward. Both families of kernels (resident.h, stepwise.h) run the same; they differ in where R lies.
#pragma once
#include "args.h"
#include "masks.h"

namespace rnnfast::cuda {

// The factor of recurrent dropout on the operand that enters step t, and what a unit keeps of its old value by zoneout.
template <class Acc>
RNNFAST_HD Acc dropout_factor(const Extras<Acc>& e, Index t, Index b, Index u, Index H) {
  const uint32_t word = mask_word(e.random, Purpose::recurrent, 0, e.random.row_of(b),
                                  e.drops_per_step ? e.random.step_of(t) : 0, u, H);
  return word >= e.drop_threshold ? e.drop_factor : Acc(0);
}
template <class Acc>
RNNFAST_HD Acc zoneout_share(const Extras<Acc>& e, int s, Index t, Index b, Index u, Index H) {
  if (!e.zoneout_draws) return e.zoneout[s];
  const uint32_t word =
      mask_word(e.random, Purpose::zoneout, s, e.random.row_of(b), e.random.step_of(t), u, H);
  return word >= e.zoneout_threshold[s] ? Acc(0) : Acc(1);
}

// The state as it is stored, which is what R multiplies.
template <class Store>
RNNFAST_HD AccumulateIn<Store> rounded(AccumulateIn<Store> v) {
  Store stored;
  store(stored, v);
  return load(stored);
}

template <class Cell, class Store>
struct UnitForward {
  using Acc = AccumulateIn<Store>;
  static constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
  Index b, u;
  Acc state[S] = {};

  RNNFAST_HD void start(const ForwardArgs<Store>& a) {
    for (int s = 0; s < S; ++s)
      state[s] = a.state0[s] ? load(a.state0[s][b * a.dims.H + u]) : Acc(0);
  }
  // Over the border before step t.
  RNNFAST_HD void enter(const ForwardArgs<Store>& a, Index t) {
    if (!a.steps.replaced(t, b)) return;
    for (int s = 0; s < S; ++s) {
      const auto& from = a.replacement[s];
      state[s] = from.base ? load(from.row(a.steps, t, b, a.dims.H)[u]) : Acc(0);
    }
  }
  RNNFAST_HD Acc operand(const ForwardArgs<Store>& a, Index t) const {
    const Acc h = rounded<Store>(state[0]);
    return a.extras.drops ? h * dropout_factor(a.extras, t, b, u, a.dims.H) : h;
  }
  // A used step. `operand` is what this unit gave to the product.
  RNNFAST_HD void run(const ForwardArgs<Store>& a, Index t, const Acc (&gx)[G], const Acc (&gh)[G],
                      Acc operand) {
    const Index H = a.dims.H, place = a.steps.place(t, b), at = place * H + u;
    const Tape<Store>& tape = a.tape;
    Acc old[S], kept[K];
    for (int s = 0; s < S; ++s) old[s] = state[s];
    Cell::forward(gx, gh, a.extras.has_params ? a.extras.params : static_cast<const Acc*>(nullptr),
                  state, kept);
    for (int s = 0; s < S; ++s)
      if (a.extras.zoneout[s] > 0) {
        const Acc z = zoneout_share(a.extras, s, t, b, u, H);
        state[s] = z * old[s] + (Acc(1) - z) * state[s];
      }
    store(a.y.row(t, b)[u], state[0]);
    if (!tape.cell) return;
    for (int k = 0; k < K; ++k) store(tape.cell[(place * K + k) * H + u], kept[k]);
    if (tape.c) tape.c[at] = state[S - 1];
    if (tape.entered) store(tape.entered[at], old[0]);
    if (tape.entered_c) tape.entered_c[at] = old[S - 1];
    if (tape.operand) tape.operand[at] = operand;
  }
  // An unused step: the state stays, and y has what the caller wants there. Where that is zero, so is the tape already.
  RNNFAST_HD void hold(const ForwardArgs<Store>& a, Index t) const {
    if (!a.steps.exists(t, b)) return;
    store(a.y.row(t, b)[u], a.steps.hold ? state[0] : Acc(0));
    if (a.tape.c && a.steps.hold) a.tape.c[a.steps.place(t, b) * a.dims.H + u] = state[S - 1];
  }
  RNNFAST_HD void finish(const ForwardArgs<Store>& a) const {
    for (int s = 0; s < S; ++s) store(a.state_n[s][b * a.dims.H + u], state[s]);
  }
};

template <class Cell, class Store>
struct UnitBackward {
  using Acc = AccumulateIn<Store>;
  static constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
  Index b, u;
  Acc ds[S] = {};    // of the states that the step left; after send(), of those that entered it
  Acc past[S] = {};  // between the two: what goes past the cell
  bool used = false;

  RNNFAST_HD void start(const BackwardArgs<Store>& a) {
    for (int s = 0; s < S; ++s)
      ds[s] = a.dstate_n[s] ? load(a.dstate_n[s][b * a.dims.H + u]) : Acc(0);
  }
  // The cell's part of step t: gradients of its gate inputs, zero where the step is not used.
  RNNFAST_HD void run(const BackwardArgs<Store>& a, Index t, Acc (&dgx)[G], Acc (&dgh)[G]) {
    const Index H = a.dims.H;
    used = a.steps.used(t, b);
    for (int s = 0; s < S; ++s) past[s] = Acc(0);
    if (used || (a.steps.hold && a.steps.exists(t, b))) {
      if (a.dy.base) ds[0] = ds[0] + load(a.dy.row(t, b)[u]);
      for (int s = 0; s < S; ++s)
        if (a.dstates[s].base) ds[s] = ds[s] + load(a.dstates[s].row(t, b)[u]);
    }
    for (int g = 0; g < G; ++g) dgx[g] = dgh[g] = Acc(0);
    if (!used) return;
    const Index place = a.steps.place(t, b);
    Acc kept[K], before[S], gate[G];
    for (int k = 0; k < K; ++k) kept[k] = load(a.tape.cell[(place * K + k) * H + u]);
    for (int s = 0; s < S; ++s) before[s] = Cell::reads_state(s) ? entered(a, s, t, place) : Acc(0);
    for (int s = 0; s < S; ++s)
      if (a.extras.zoneout[s] > 0) {
        const Acc z = zoneout_share(a.extras, s, t, b, u, H);
        past[s] = z * ds[s];
        ds[s] = (Acc(1) - z) * ds[s];
      }
    if (a.dgates.base)
      for (int g = 0; g < G; ++g) gate[g] = load(a.dgates.row(t, b)[g * H + u]);
    Cell::backward(kept, a.extras.has_params ? a.extras.params : static_cast<const Acc*>(nullptr),
                   before, ds, a.dgates.base ? gate : static_cast<const Acc*>(nullptr), dgx, dgh);
    for (int s = 0; s < S; ++s) past[s] = past[s] + ds[s];
  }
  // What the step sends back over the border before it; `product` is R^T dgh of this unit.
  RNNFAST_HD void send(const BackwardArgs<Store>& a, Index t, Acc product) {
    const Index H = a.dims.H;
    const Extras<Acc>& e = a.extras;
    if (used) {
      if (e.drops) product = product * dropout_factor(e, t, b, u, H);
      for (int s = 0; s < S; ++s) {
        ds[s] = s == 0 ? past[s] + product : past[s];
        if (e.gradient_clip > 0) ds[s] = clamp(ds[s], e.gradient_clip);
      }
    }
    bool cut = false;
    if (a.steps.replaced(t, b)) {
      for (int s = 0; s < S; ++s)
        if (a.dreplacement[s].base) {
          Acc* to = a.dreplacement[s].row(a.steps, t, b, H) + u;
          *to = *to + ds[s];
        }
      cut = true;
    }
    // A row that has ended is cut no more, or its final state's gradient would depend on the rows beside it.
    if (e.tbptt > 0 && t > 0 && t % e.tbptt == 0 && (!a.steps.lengths || t < a.steps.lengths[b]))
      cut = true;
    if (cut)
      for (int s = 0; s < S; ++s) ds[s] = Acc(0);
  }
  RNNFAST_HD void finish(const BackwardArgs<Store>& a) const {
    const bool past_burn_in = a.extras.burn_in > 0;
    for (int s = 0; s < S; ++s)
      store(a.dstate0[s][b * a.dims.H + u], past_burn_in ? Acc(0) : ds[s]);
  }

 private:
  RNNFAST_HD Acc entered(const BackwardArgs<Store>& a, int s, Index t, Index place) const {
    const Index H = a.dims.H;
    if (s == 0) {
      if (a.tape.entered) return load(a.tape.entered[place * H + u]);
      if (t > 0) return load(a.y.row(t - 1, b)[u]);
    } else {
      if (a.tape.entered_c) return a.tape.entered_c[place * H + u];
      if (t > 0) return a.tape.c[a.steps.place(t - 1, b) * H + u];
    }
    return a.state0[s] ? load(a.state0[s][b * H + u]) : Acc(0);
  }
};

}  // namespace rnnfast::cuda
