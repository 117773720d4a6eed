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
// points at the last step and whose time stride is negative; the kernels know no direction. A flat ragged
// array (N, n) has the first row of each sequence in `start`, and `batch` is the stride of a row.
template <class Real>
struct Sequence {
  Real* base;
  Index time, batch;
  const Index* start = nullptr;  // (B,); null: row b starts b * batch behind the base
  RNNFAST_HD Real* row(Index t, Index b) const {
    return base + t * time + (start ? start[b] : b) * batch;
  }
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
  bool used;                     // false: x is dense
  Sequence<const int32_t> slot;  // (T, B, 1), position in `distinct`
  const int64_t* distinct;       // (n,) columns of W, ascending; for forward in any order
  Index n;
  RNNFAST_HD Index row(Index t, Index b) const { return *slot.row(t, b); }
};

// Where the state that enters a step lives.
struct Source {
  Index step;   // the earlier step whose result it is, or one of the two below
  Index place;  // that step's place; of a replacement, its number
};
constexpr Index kInitialState = -1, kReplacedState = -2;

// Which rows run at which step, and what enters there: lengths, masks and resets in one form, in scan order
// (csrc/schedule.h makes it). A "place" is one used (t, b), numbered by step and then by row.
struct Schedule {
  const Index* first;        // (T+1,) places before each step; null: every row runs at every step
  const int32_t* row;        // (places,) b
  const Source* source;      // (places,) of the state that enters
  const Source* last;        // (B,) of the final state
  const Index* lengths;      // (B,) steps of each row, used or not; null: T
  const Index* load;         // (B+1,) places of the rows before each: what a row costs
  const Index* resets;       // (T+1,) resets before each step; null: none
  const int32_t* reset_row;  // (resets,) b
  const Index* reset_source[kMaxStates];  // (resets,) row of the replacement of each state
  Index replacements;  // rows kept on the tape: one for each reset, or a single one of zeros
};

// The key and counter of the masks (cpu/random.h). Steps count in the sequence's own time.
struct MaskKey {
  uint64_t seed;
  uint32_t layer, direction;
  uint32_t first_step, step;  // number of scan step t is first_step + t * step, modulo 2^32
  const uint32_t* row_id;     // (B,); null: b
  RNNFAST_HD uint32_t step_of(Index t) const { return first_step + uint32_t(t) * step; }
  RNNFAST_HD uint32_t row_of(Index b) const { return row_id ? row_id[b] : uint32_t(b); }
};

// What a mask is for; the number is part of its counter. 4 is zoneout of the second state.
enum class Purpose : uint32_t { between_layers = 1, recurrent = 2, zoneout = 3, weight_drop = 5 };

constexpr int kMaxParams = 1;

// What a scan does beside the plain loop. `schedule` moves rows and costs nothing in the cell; the others
// are `extras`, which the epilogues with that template argument look at.
template <class Real>
struct Options {
  Schedule schedule;
  const Real* replacement[kMaxStates];  // (rows, H), by reset_source; null: zero
  MaskKey random;
  double dropout;              // of the operand of R
  bool dropout_per_step;       // else one mask per sequence
  double zoneout[kMaxStates];  // probability that a state keeps its old value
  bool zoneout_draws;          // else its expectation is taken
  bool has_params;
  Real params[kMaxParams];  // scalars by Cell::Param; without an effect where has_params is false
  Real gradient_clip;       // of what a step sends back to its incoming states; 0: none
  Index burn_in;            // backward stops at this step
  Index tbptt;              // the gradient is cut every so many steps; 0: never
  RNNFAST_HD bool draws_zoneout(int s) const { return zoneout_draws && zoneout[s] > 0; }
  RNNFAST_HD bool zones_out() const { return zoneout[0] > 0 || zoneout[1] > 0; }
  // Masks that every step draws anew.
  RNNFAST_HD int step_masks() const {
    return (dropout > 0 && dropout_per_step) + draws_zoneout(0) + draws_zoneout(1);
  }
};

// What a forward pass keeps for the backward pass of one scan, in packed rows whose layout belongs to the
// instruction set that wrote them. Without a schedule places are t * B + b.
template <class Real>
struct Tape {
  Real* cell;  // (places, units, K, lanes); null: inference, nothing is kept
  Real* states
      [kMaxStates];  // [s >= 1]: (B + places, units, lanes), the initial states first; [0] unused
  Real* replaced;    // (replacements, S, units, lanes)
  Real*
      masks;  // (places, step_masks(), notes, lanes): bits, which units the masks of each step kept
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
  Real* state_n[kMaxStates];       // (B, H) each; may be state0 itself
  Tape<Real> tape;
  Options<Real> options;
  uint64_t* checksum[2];  // of W and R, added to; null: not wanted
  bool
      turned;  // walk the panels the other way round: single steps that follow each other alternate
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
  // Gradients into every state (T, B, H) and the activated gates (T, B, G*H); base null: zero.
  Sequence<const Real> dstates[kMaxStates], dgates;
  Options<Real> options;           // as in forward
  Sequence<Real> dx;               // base null: not wanted. Unused steps are left as they are
  Real* dstate0[kMaxStates];       // (B, H) each; null, all of them: not wanted
  Real* dreplacement[kMaxStates];  // (rows, H), by reset_source, added to; null: not wanted
  uint64_t* checksum[2];           // as in forward
  Real* dweights
      [kWeights];  // shapes of the weights; dW is (n, G*H) under index input; biases may be null

  bool replaces() const {
    for (const Real* to : dreplacement)
      if (to) return true;
    return false;
  }
  // A single step multiplies with R only for what goes on beyond it: to the initial state, or to what a reset put in place.
  bool reads_R() const {
    return dims.T > 1 || dstate0[0] || (options.schedule.resets && replaces());
  }
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

// out = in * mask (+ add), for rows of n elements: what stands between two layers, and weight drop.
template <class Real>
struct MaskedRows {
  Index rows, n;
  const Real* const* in;
  const Real* const* add;  // null: nothing
  Real* const* out;
  const uint32_t* row_id;  // (rows,)
  const uint32_t* step;    // (rows,); null: 0
  Purpose purpose;
  double p;  // 0: no mask
  MaskKey random;
};

// States and gates of a tape in the caller's form: of each row the first of its slots.
template <class Real>
struct UnpackRows {
  Index rows, H;
  const Real* const* from;  // [unit vector][kept][lane]; of one slot the last vector may end with H
  Real* const* to;          // (slots, H)
  int kept, slots;
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
  size_t (*masked_rows_scratch)(const MaskedRows<Real>&, int n);
  void (*masked_rows)(const MaskedRows<Real>&, void* scratch, const Member&);
  void (*unpack_rows)(const UnpackRows<Real>&, void* scratch, const Member&);  // needs no scratch
  void (*activation)(int which, const Real* in, Real* out, Index n);  // 0 sigmoid, 1 tanh, 2 relu
  uint64_t (*checksum)(const void* data, size_t bytes, uint64_t seed);
  // What a pass adds to `checksum` of its arguments.
  uint64_t (*weight_checksum)(const Real* W, Index H, Index K, int G);
  // The machine's peaks (cpu/peaks.h).
  int flops_per_round;
  Real (*multiply_add)(uint64_t rounds);
  int flops_per_tile;
  Real (*tile_product)(uint64_t rounds);
  size_t read_block;  // bytes; what does not fill a block is not read
  uint64_t (*read_memory)(const void* data, size_t bytes, uint64_t passes);
};

// Sizes of the tape of one scan, in elements; the layout is private to the instruction set.
RNNFAST_HD Index padded_units(Index H, int lanes) { return (H + lanes - 1) / lanes * lanes; }
// A bit for each unit, in vectors (cpu/random.h).
template <class Real>
RNNFAST_HD Index mask_notes(Index H, int lanes) {
  const Index bits = lanes * Index(sizeof(Real)) * 8;
  return (H + bits - 1) / bits * lanes;
}

}  // namespace rnnfast
