// The incoming-state table: for each step t and row b, where the state that enters the step lives, as
//   operand(t, b)   the row that R multiplies, and that dR's sum uses;
//   state(s, t, b)  the row that the cell's elementwise part reads.
// The two are one row today. They part where recurrent dropout changes what R sees but not what z*h keeps;
// a reset, a mask or a learned initial state only changes where a row points. Neither is y shifted by one.
#pragma once
#include "stage.h"

namespace rnnfast {
namespace {

struct History {
  const Real* h0;  // (B, H), or one row of zeros with ld_h0 = 0
  Index ld_h0;
  const Real* y;  // h_t for t >= 0
  Index time, batch;
  const Real*
      c;  // states after the first, packed; c_t of step t at c + t*c_time (slice 0: initial)
  Index c_time, c_batch;

  RNNFAST_INLINE const Real* operand(Index t, Index b) const {
    return t == 0 ? h0 + b * ld_h0 : y + (t - 1) * time + b * batch;
  }
  RNNFAST_INLINE const Real* state(int s, Index t, Index b) const {
    return s == 0 ? operand(t, b) : c + t * c_time + b * c_batch;
  }
};

// Steps per chunk of the time-parallel products: `rows` rows at most, at least one step. It must depend on
// neither the threads nor T, or bits would.
RNNFAST_INLINE Index chunk_steps(Index rows, Index B) { return max_of(1, rows / max_of(1, B)); }

// (B, n) rows with padding lanes zero, into packed rows.
RNNFAST_INLINE void copy_padded(const Real* from, Index H, Real* to) {
  const Index padded = unit_vectors(H) * kLanes;
  if (from) memcpy(to, from, size_t(H) * sizeof(Real));
  else memset(to, 0, size_t(H) * sizeof(Real));
  memset(to + H, 0, size_t(padded - H) * sizeof(Real));
}

}  // namespace
}  // namespace rnnfast
