// Tables of rows: where the places of a chunk of steps lie, so that the time-parallel products take any strides, flat
// arrays, both directions and unused steps alike. Place i of a chunk is step t0 + i / B of row i % B.
#pragma once
#include "args.h"
#include "launch.h"

namespace rnnfast::cuda {

constexpr int kRowThreads = 256;

inline dim3 row_grid(Index n) {
  const Index blocks = (n + kRowThreads - 1) / kRowThreads;
  return dim3(unsigned(blocks < 65536 ? blocks : 65536));
}

// f(i) for all i in [0, n), by all threads of a grid.
template <class F>
RNNFAST_DEVICE void each_of(Index n, F f) {
  for (Index i = Index(blockIdx.x) * kRowThreads + threadIdx.x; i < n;
       i += Index(gridDim.x) * kRowThreads)
    f(i);
}

// Rows of a sequence; null where the step is not used, or, if only `existing`, where there is no such place.
template <class Value>
struct SequenceRows {
  Sequence<Value> of;
  Steps steps;
  Index t0, n;
  bool existing;
  Value** rows;
};
template <class Value>
RNNFAST_GLOBAL(kRowThreads, 1)
sequence_rows(SequenceRows<Value> p) {
  each_of(p.n, [&](Index i) {
    const Index t = p.t0 + i / p.steps.B, b = i % p.steps.B;
    const bool there = p.existing ? p.steps.exists(t, b) : p.steps.used(t, b);
    p.rows[i] = there ? p.of.row(t, b) : nullptr;
  });
}

// Rows that R multiplied: as kept, else y of the step before, else the initial state. Null where they are zero.
template <class Store>
struct OperandRows {
  Sequence<const Store> y;
  Tape<Store> tape;
  const Store* h0;
  Steps steps;
  Index t0, n, H;
  const void** rows;  // to AccumulateIn<Store> where the tape has operands, else to Store
};
template <class Store>
RNNFAST_GLOBAL(kRowThreads, 1)
operand_rows(OperandRows<Store> p) {
  each_of(p.n, [&](Index i) {
    const Index t = p.t0 + i / p.steps.B, b = i % p.steps.B, place = p.steps.place(t, b);
    const void* row = nullptr;
    if (p.steps.used(t, b)) {
      if (p.tape.operand) row = p.tape.operand + place * p.H;
      else if (p.tape.entered) row = p.tape.entered + place * p.H;
      else if (t > 0) row = p.y.row(t - 1, b);
      else if (p.h0) row = p.h0 + b * p.H;
    }
    p.rows[i] = row;
  });
}

// gx of index input: bW plus a column of W. A thread for each element; unused places are left as they are.
template <class Store>
struct GatherColumns {
  Sequence<const Index> index;
  Steps steps;
  Weights<Store> weights;
  Index t0, n, GH, I;
  AccumulateIn<Store>* gx;  // (n, G*H)
};
template <class Store>
RNNFAST_GLOBAL(kRowThreads, 1)
gather_columns(GatherColumns<Store> p) {
  each_of(p.n * p.GH, [&](Index e) {
    const Index i = e / p.GH, j = e % p.GH, t = p.t0 + i / p.steps.B, b = i % p.steps.B;
    if (!p.steps.used(t, b)) return;
    const Store* bW = p.weights[Weight::bW];
    const auto w = load(p.weights[Weight::W][j * p.I + *p.index.row(t, b)]);
    p.gx[e] = bW ? load(bW[j]) + w : w;
  });
}

// Zero in rows of n elements: steps that backward does not go through.
template <class Store>
struct ClearRows {
  Sequence<Store> rows;
  Steps steps;
  Index t0, t1, n;
};
template <class Store>
RNNFAST_GLOBAL(kRowThreads, 1)
clear_rows(ClearRows<Store> p) {
  each_of((p.t1 - p.t0) * p.steps.B * p.n, [&](Index e) {
    const Index i = e / p.n, t = p.t0 + i / p.steps.B, b = i % p.steps.B;
    if (p.steps.exists(t, b)) p.rows.row(t, b)[e % p.n] = Store{};
  });
}

}  // namespace rnnfast::cuda
