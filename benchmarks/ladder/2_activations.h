// Rung 2, activations: sigmoid and tanh of a whole vector, by a polynomial without branches (csrc/math/activations.h),
// instead of a call of the C library for each number. Five of them per unit and step.
#pragma once
#include "1_vectors.h"

namespace rnnfast {
namespace {

// A vector of units: their sums, c, which is updated, and the new h.
RNNFAST_INLINE void lstm_cell(Raw i, Raw f, Raw g, Raw o, Real* c, Real* h) {
  const Vec sums[Lstm::G] = {i, f, g, o}, nothing[Lstm::G] = {Raw{}, Raw{}, Raw{}, Raw{}};
  Vec state[Lstm::S] = {Raw{}, raw_load(c)}, tape[Lstm::K];
  Lstm::forward<Vec>(sums, nothing, nullptr, state, tape);
  raw_store(c, state[Lstm::c].v);
  raw_store(h, state[Lstm::h].v);
}

void activations(const Problem<Real>& p) {
  const Index H = p.H;
  row_by_row(p, [=](const Real* a, Real* c, Real* h) {
    for (Index j = 0; j < H; j += kLanes)
      lstm_cell(raw_load(a + j), raw_load(a + H + j), raw_load(a + 2 * H + j),
                raw_load(a + 3 * H + j), c + j, h + j);
  });
}

}  // namespace
}  // namespace rnnfast
