// Rung 5, the input ahead: W x of many steps at once, before any of them runs.
//
// Only R h has to wait for the step before. W x is a product over steps as well as rows: its panels are read once per
// chunk of steps and not once per step, and with a batch of one it gets tiles of several rows all the same. A chunk is as
// long as its sums stay in the caches.
#pragma once
#include "4_tiles.h"

namespace rnnfast {
namespace {

constexpr Index kChunkRows = 192;  // as in csrc/cpu/scan_forward.h

// From row to row of these sums: a cache line more than there is, for rows a power of two apart share a few cache sets.
RNNFAST_INLINE Index ahead_row(Index H) { return 4 * H + 64 / Index(sizeof(Real)); }

// All steps of some rows and panels; the rungs above turn some steps round, and share them among threads.
// backwards(t): whether step t takes its panels from the last to the first. after_step() follows each.
template <class Backwards, class AfterStep>
RNNFAST_INLINE void run_steps(const Problem<Real>& p, const Packed& w, Range rows, Range panels,
                              Real* ahead, Backwards&& backwards, AfterStep&& after_step) {
  const Index B = rows.size(), chunk = max_of(1, kChunkRows / B), ld = ahead_row(p.H);
  alignas(64) Real sums[kRows * kTileRow];
  const Real* by[kRows];
  for (Index t0 = 0; t0 < p.T; t0 += chunk) {
    const Index t1 = min_of(p.T, t0 + chunk);
    each_tile((t1 - t0) * B, panels, false, [&](Index n, Index some, Index panel, Index np) {
      for (Index m = 0; m < some; ++m)
        by[m] = p.x + ((t0 + (n + m) / B) * p.B + rows.begin + (n + m) % B) * p.I;
      product(some, np, by, p.I, w.W + panel * w.W_panel, w.W_panel, w.b + panel * kPanel, 0,
              ahead + n * ld + panel * kPanel, ld);
    });
    for (Index t = t0; t < t1; ++t) {
      const Real* const start = ahead + (t - t0) * B * ld;
      each_tile(B, panels, backwards(t), [&](Index n, Index some, Index panel, Index np) {
        for (Index m = 0; m < some; ++m) by[m] = p.h_before(t) + (rows.begin + n + m) * p.H;
        product(some, np, by, p.H, w.R + panel * w.R_panel, w.R_panel,
                start + n * ld + panel * kPanel, ld, sums, kTileRow);
        cells_of(p, t, rows.begin + n, some, panel, np, sums);
      });
      after_step();
    }
  }
}

// Sums of W x: (rows of a chunk, panel, gate, lane), for each member of a team.
Index size_ahead(const Problem<Real>& p) { return max_of(kChunkRows, p.B) * ahead_row(p.H); }
Real* room_ahead(const Problem<Real>& p, int members) {
  return room(of_sums, members * size_ahead(p));
}

void input_ahead(const Problem<Real>& p) {
  const Range rows{0, p.B}, panels{0, p.H / kLanes};
  run_steps(p, pack(p, panels), rows, panels, room_ahead(p, 1), [](Index) { return false; }, [] {});
}

}  // namespace
}  // namespace rnnfast
