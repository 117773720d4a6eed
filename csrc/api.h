// The line between callers (bindings, self-test, later other front ends) and kernels: plain structs of
// caller-owned pointers. Kernels trust them, allocate nothing, keep nothing and touch no Python. Its few functions are
// always inlined: it is included by units of every instruction set.
//
// Letters: T steps, B batch, I input, H hidden, G gate blocks, S states, K tape slots.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "cells/cells.h"

namespace rnnfast {

using Index = int64_t;

struct Dims {
  Index T, B, I, H;
};

// A (T, B, n) array: inner stride 1, any other strides, in elements. A reversed scan is one whose base
// points at the last step and whose time stride is negative; the kernels know no direction.
template <class Real>
struct Sequence {
  Real* base;
  Index time, batch;
  RNNFAST_HD Real* row(Index t, Index b) const { return base + t * time + b * batch; }
};

constexpr int kMaxStates = 2;

// A cell's parameters, by name. Later cells add rows (peepholes, projections, norm gains).
enum class Weight { W, R, bW, bR, count };  // (G*H, I), (G*H, H), (G*H,), (G*H,)
constexpr int kWeights = int(Weight::count);

template <class Real>
struct Weights {
  const Real* at
      [kWeights];  // in Weight order, C-contiguous, gate blocks in Cell::Gate order; a bias may be null
  RNNFAST_HD const Real* operator[](Weight w) const { return at[int(w)]; }
};

// Index input: the row of `table` that each (t, b) takes, over the distinct indices only.
struct IndexInput {
  bool used;                // false: x is dense
  const int32_t* slot;      // (T, B) C-contiguous, position in `distinct`
  Index time, batch;        // strides of slot, in elements (time is negative in a reversed scan)
  const int64_t* distinct;  // (n,) ascending column numbers of W
  Index n;
  RNNFAST_HD Index row(Index t, Index b) const { return slot[t * time + b * batch]; }
};

// What a forward pass keeps for the backward pass of one scan. `cell` is packed rows of K slots, c the
// sequence of the states after the first; their layout belongs to the instruction set that wrote them.
template <class Real>
struct Tape {
  Real* cell;  // (T, B, units, K, lanes); null: inference, nothing is kept
  Real* states
      [kMaxStates];  // [s >= 1]: (T+1, B, units, lanes), slice 0 the initial state; [0] unused
};

// One layer in one direction.
template <class Real>
struct ForwardArgs {
  Dims dims;
  Sequence<const Real> x;
  IndexInput index;
  Weights<Real> weights;
  const Real* packed;              // of prepare(); null: weights are packed in scratch
  const Real* state0[kMaxStates];  // (B, H) each; null: zero
  Sequence<Real> y;                // (T, B, H)
  Real* state_n[kMaxStates];       // (B, H) each
  Tape<Real> tape;
};

template <class Real>
struct BackwardArgs {
  Dims dims;
  Sequence<const Real> x;
  IndexInput index;
  Weights<Real> weights;
  const Real* state0[kMaxStates];    // as in forward
  Sequence<const Real> y;            // as forward wrote it
  Tape<Real> tape;                   // read only
  Sequence<const Real> dy;           // base null: zero
  const Real* dstate_n[kMaxStates];  // null: zero
  Sequence<Real> dx;                 // base null: not wanted
  Real* dstate0[kMaxStates];         // (B, H) each
  Real* dweights
      [kWeights];  // shapes of the weights; dW is (n, G*H) under index input; biases may be null
};

// One member of a team of threads that runs a scan together.
struct Member {
  int id, n;
  void* team;
  void (*wait)(void* team, int id, int n);  // barrier of the team's n members
  RNNFAST_HD void barrier() const {
    if (n > 1) wait(team, id, n);
  }
};

// The entry points of one instruction set and one dtype. Every member of a team calls forward (backward)
// with the same arguments and the same scratch, 64-byte aligned, of the size that *_scratch gives for n.
template <class Real>
struct CellKernels {
  const char* cell;
  size_t (*packed_size)(const Dims&);  // in bytes
  void (*prepare)(const Dims&, const Weights<Real>&, Real* packed);
  size_t (*forward_scratch)(const ForwardArgs<Real>&, int n);
  void (*forward)(const ForwardArgs<Real>&, void* scratch, const Member&);
  size_t (*backward_scratch)(const BackwardArgs<Real>&, int n);
  void (*backward)(const BackwardArgs<Real>&, void* scratch, const Member&);
};

// y (N, M) = x (N, K) W^T (M, K) + b, and its gradients, through the same tiles as the scans.
template <class Real>
struct LinearArgs {
  Index N, K, M;
  const Real *x, *W, *b;  // C-contiguous; b may be null
  Real* y;                // forward
  const Real* dy;         // backward, from here on
  Real *dx, *dW, *db;     // dx and db may be null
};

template <class Real>
struct KernelTable {
  const char* isa;
  int lanes;  // elements of one vector
  CellKernels<Real> cells[int(CellId::count)];
  size_t (*linear_forward_scratch)(const LinearArgs<Real>&, int n);
  void (*linear_forward)(const LinearArgs<Real>&, void* scratch, const Member&);
  size_t (*linear_backward_scratch)(const LinearArgs<Real>&, int n);
  void (*linear_backward)(const LinearArgs<Real>&, void* scratch, const Member&);
  void (*activation)(int which, const Real* in, Real* out, Index n);  // 0 sigmoid, 1 tanh, 2 relu
  uint64_t (*checksum)(const void* data, size_t bytes, uint64_t seed);
};

// Sizes of the tape of one scan, in elements; the layout is private to the instruction set.
RNNFAST_HD Index padded_units(Index H, int lanes) { return (H + lanes - 1) / lanes * lanes; }

}  // namespace rnnfast
