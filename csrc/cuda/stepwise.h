// The per-step path: a kernel for each step, for any size. The product of a step is a grid of tiles, each of which ends
// in the cell; between two steps stands the launch.
#pragma once
#include "product.h"
#include "rows.h"
#include "unit.h"

namespace rnnfast::cuda {

// State between two steps, in scratch.
template <class Acc>
struct StepState {
  Acc* state;       // (S, B, H)
  Acc* operand[2];  // (B, H), of even and odd steps
};

template <class Store>
struct StepForward {
  ForwardArgs<Store> scan;
  StepState<AccumulateIn<Store>> between;
  Index t;                        // the step that runs
  const AccumulateIn<Store>* gx;  // (B, G*H) of this step, with bW in it
};

// Columns of the product in a thread's own order: unit by unit, so that all gates of a unit meet in one thread.
template <class Store>
struct GateRows {
  using Value = Store;
  static constexpr bool k_together = kTogether;
  const Store* R;
  Index H;
  int G;
  RNNFAST_DEVICE const Store* line(Index n) const { return R + ((n % G) * H + n / G) * H; }
};

// Before the first step: the states that enter it. A thread for each unit of each row.
template <class Cell, class Store>
RNNFAST_GLOBAL(kRowThreads, 1)
step_start(StepForward<Store> p) {
  const Index H = p.scan.dims.H, n = p.scan.dims.B * H;
  each_of(n, [&](Index i) {
    UnitForward<Cell, Store> unit;
    unit.b = i / H;
    unit.u = i % H;
    unit.start(p.scan);
    if (p.scan.dims.T == 0) {
      unit.finish(p.scan);
      return;
    }
    unit.enter(p.scan, 0);
    for (int s = 0; s < Cell::S; ++s) p.between.state[s * n + i] = unit.state[s];
    p.between.operand[0][i] = unit.operand(p.scan, 0);
  });
}

// The tile's operands are a Matrix and GateRows; `units` are those of a tile.
template <class Cell, class Store, class Tile, int units>
RNNFAST_GLOBAL(kTileThreads, 1)
step_forward(StepForward<Store> p) {
  using Acc = AccumulateIn<Store>;
  constexpr int G = Cell::G, S = Cell::S, rows = Tile::rows;
  static_assert(Tile::columns == units * G);
  const ForwardArgs<Store>& a = p.scan;
  const Index H = a.dims.H, B = a.dims.B, t = p.t;
  RNNFAST_SHARED(Acc, shared);
  const Index b0 = Index(blockIdx.x) * rows, u0 = Index(blockIdx.y) * units;
  const Acc* const operand = p.between.operand[t & 1];
  Tile tile;
  tile.run({operand, H}, {a.weights[Weight::R], H, G}, b0, B, u0 * G, G * H, Index(0), H, shared);
  spread(tile, shared);
  // Neighbouring threads take neighbouring units.
  for (int e = int(threadIdx.x); e < rows * units; e += kTileThreads) {
    UnitForward<Cell, Store> unit;
    unit.b = b0 + e / units;
    unit.u = u0 + e % units;
    if (unit.b >= B || unit.u >= H) continue;
    const Index here = unit.b * H + unit.u;
    for (int s = 0; s < S; ++s) unit.state[s] = p.between.state[s * B * H + here];
    if (a.steps.used(t, unit.b)) {
      Acc gx[G], gh[G];
      const Store* bR = a.weights[Weight::bR];
      RNNFAST_UNROLL
      for (int g = 0; g < G; ++g) {
        gx[g] = p.gx[(unit.b * G + g) * H + unit.u];
        gh[g] = shared[e * G + g];
        if (bR) gh[g] = gh[g] + load(bR[g * H + unit.u]);
      }
      unit.run(a, t, gx, gh, operand[here]);
    } else {
      unit.hold(a, t);
    }
    if (t + 1 == a.dims.T) {
      unit.finish(a);
    } else {
      unit.enter(a, t + 1);
      for (int s = 0; s < S; ++s) p.between.state[s * B * H + here] = unit.state[s];
      p.between.operand[(t + 1) & 1][here] = unit.operand(a, t + 1);
    }
  }
}

// A step back first finishes the step after it: only now is there the product of that one's gate gradients, which
// UnitBackward::send waits for. Then its own unit runs, and leaves what the next kernel finishes.
template <class Store>
struct StepBackward {
  BackwardArgs<Store> scan;
  AccumulateIn<Store>* between;  // (2 * S, B, H): ds, then past, of the step after
  Index t;  // the step that runs; the one before the first of them: only the step after is finished
  bool first;                            // there is no step after
  AccumulateIn<Store>*dgx, *dgh;         // (B, G*H) of this step
  const AccumulateIn<Store>* dgh_after;  // of the step after
};

template <class Cell, class Store, class Tile>
RNNFAST_GLOBAL(kTileThreads, 1)
step_backward(StepBackward<Store> p) {
  using Acc = AccumulateIn<Store>;
  constexpr int G = Cell::G, S = Cell::S, rows = Tile::rows, units = Tile::columns;
  const BackwardArgs<Store>& a = p.scan;
  const Index H = a.dims.H, B = a.dims.B, t = p.t;
  RNNFAST_SHARED(Acc, shared);
  const Index b0 = Index(blockIdx.x) * rows, u0 = Index(blockIdx.y) * units;
  Tile tile;
  tile.run({p.dgh_after, G * H}, {a.weights[Weight::R], H}, b0, B, u0, H, Index(0),
           p.first ? Index(0) : G * H, shared);
  spread(tile, shared);
  for (int e = int(threadIdx.x); e < rows * units; e += kTileThreads) {
    UnitBackward<Cell, Store> unit;
    unit.b = b0 + e / units;
    unit.u = u0 + e % units;
    if (unit.b >= B || unit.u >= H) continue;
    const Index here = unit.b * H + unit.u, n = B * H;
    if (p.first) {
      unit.start(a);
    } else {
      for (int s = 0; s < S; ++s) {
        unit.ds[s] = p.between[s * n + here];
        unit.past[s] = p.between[(S + s) * n + here];
      }
      unit.used = a.steps.used(t + 1, unit.b);
      unit.send(a, t + 1, shared[e]);
    }
    if (t < a.extras.burn_in) {
      unit.finish(a);
      continue;
    }
    Acc dgx[G], dgh[G];
    unit.run(a, t, dgx, dgh);
    RNNFAST_UNROLL
    for (int g = 0; g < G; ++g) {
      const Index to = (unit.b * G + g) * H + unit.u;
      p.dgh[to] = dgh[g];
      if (!Cell::one_gate_gradient) p.dgx[to] = dgx[g];
    }
    for (int s = 0; s < S; ++s) {
      p.between[s * n + here] = unit.ds[s];
      p.between[(S + s) * n + here] = unit.past[s];
    }
  }
}

}  // namespace rnnfast::cuda
