// The line between the callers of the CUDA kernels and the kernels: plain structs of device pointers, passed by value.
// As csrc/api.h is for the CPU; the difference is that lengths, masks and resets stay the caller's arrays on the device,
// for making a table of them would need the host to wait.
//
// Letters: T steps, B batch, I input, H hidden, G gate blocks, S states, K tape slots. A "place" is one (t, b) of the
// caller's arrays: t * B + b, or a row of a flat array.
#pragma once
#include "../api.h"
#include "numbers.h"

namespace rnnfast::cuda {

// Which rows run at which step, and where the state that enters is replaced. Flags are read in the sequence's own time;
// a step t of the kernels counts in the order of the scan.
struct Steps {
  Index T, B;
  bool reverse, hold;
  const Index* lengths;  // (B,); null: T
  const Index*
      start;  // (B,) first row of each sequence where the arrays are flat; null: they are (T, B, ...)
  const uint8_t*
      mask;  // (T, B) or flat, C-contiguous, true where the step is used; null: everywhere
  const uint8_t* reset;  // the same, the border between steps t-1 and t; null: nowhere

  RNNFAST_HD bool some() const { return lengths || mask || reset; }
  RNNFAST_HD Index time(Index t) const { return reverse ? T - 1 - t : t; }
  RNNFAST_HD Index place_of(Index time, Index b) const {
    return start ? start[b] + time : time * B + b;
  }
  RNNFAST_HD Index place(Index t, Index b) const { return place_of(time(t), b); }
  RNNFAST_HD Index length(Index b) const { return lengths ? lengths[b] : T; }
  // Whether the caller's arrays have this place: flat ones end with the sequence.
  RNNFAST_HD bool exists(Index t, Index b) const { return !start || time(t) < lengths[b]; }
  RNNFAST_HD bool used(Index t, Index b) const {
    if (lengths && time(t) >= lengths[b]) return false;
    return !mask || mask[place(t, b)];
  }
  // The border over which step t is entered. Scanned backwards it lies behind the step, and there is none behind the last.
  RNNFAST_HD Index border(Index t) const { return reverse ? T - t : t; }
  RNNFAST_HD bool replaced(Index t, Index b) const {
    const Index at = border(t);
    return reset && at < length(b) && reset[place_of(at, b)];
  }
};

// What replaces a state: (T or 1, B, H), flat (N, H) or (1, B, H).
template <class Value>
struct Replacement {
  Value* base;  // null: zero, or no gradient wanted
  bool per_step;
  RNNFAST_HD Value* row(const Steps& steps, Index t, Index b, Index H) const {
    return base + (per_step ? steps.place_of(steps.border(t), b) : b) * H;
  }
};

// Everything in a scan beside the plain loop that acts on one unit; see rnnfast::Options for each.
template <class Acc>
struct Extras {
  MaskKey random;
  bool drops, drops_per_step;  // the operand of R
  uint64_t drop_threshold;     // masks.h
  Acc drop_factor;             // of what is kept
  Acc zoneout[kMaxStates];     // probability that a state keeps its old value; 0: none
  bool zoneout_draws;          // else its expectation is taken
  uint64_t zoneout_threshold[kMaxStates];
  bool has_params;
  Acc params[kMaxParams];
  Acc gradient_clip;  // 0: none
  Index burn_in, tbptt;
};

// What forward keeps for backward, by place. Cell states are kept as they are computed, not as they are stored.
template <class Store>
struct Tape {
  Store* cell;  // (places, K, H); null: nothing is kept
  AccumulateIn<Store>*
      c;  // (places, H) the second state after each step; null where the cell has one state
  Store* entered;  // (places, H) h that entered each step; null where it is y of the step before
  AccumulateIn<Store>* entered_c;  // (places, H); null where it is c of the step before
  AccumulateIn<Store>*
      operand;  // (places, H) what R multiplied, with recurrent dropout; null: the same as `entered`
};

template <class Store>
struct ForwardArgs {
  using Acc = AccumulateIn<Store>;
  Dims dims;
  Sequence<const Store> x;      // base null: index input
  Sequence<const Index> index;  // (T, B, 1)
  Weights<Store> weights;
  const Store* state0[kMaxStates];  // (B, H) each; null: zero
  Sequence<Store> y;
  Store* state_n[kMaxStates];  // (B, H) each
  Tape<Store> tape;
  Steps steps;
  Replacement<const Store> replacement[kMaxStates];
  Extras<Acc> extras;
};

template <class Store>
struct BackwardArgs {
  using Acc = AccumulateIn<Store>;
  Dims dims;
  Sequence<const Store> x;
  Sequence<const Index> index;
  Weights<Store> weights;
  const Store* state0[kMaxStates];
  Sequence<const Store> y;
  Tape<Store> tape;
  Sequence<const Store> dy;           // base null: zero
  const Store* dstate_n[kMaxStates];  // null: zero
  Sequence<const Store> dstates[kMaxStates],
      dgates;  // into every state and the activated gates; base null: zero
  Steps steps;
  Extras<Acc> extras;
  Sequence<Store> dx;          // base null: not wanted
  bool add_to_dx;              // the second direction adds to what the first one wrote
  Store* dstate0[kMaxStates];  // (B, H) each
  Replacement<Acc> dreplacement[kMaxStates];  // added to
  Store* dweights[kWeights];                  // shapes of the weights; biases may be null
};

}  // namespace rnnfast::cuda
