// Rung 4, tiles: several rows at once, or with a single row several panels.
//
// A multiply-add takes 4 cycles and two can begin in each: 8 chains have to be under way, and rung 3 has 4. A tile of
// rows also uses each weight that it loads for all of them. A finished tile lies in an array that the first-level cache
// holds, and the cell runs on it there. The product is a function of its own: next to other code the compiler runs out of
// registers.
#pragma once
#include "3_registers.h"

namespace rnnfast {
namespace {

// Sums, weights and broadcasts fill the registers: 3 rows of 16, 6 of 32.
constexpr int kRows = max_rows<4>(), kPanels = max_panels<4>();
constexpr Index kTileRow = kPanels * kPanel;  // from row to row of a tile in its array

// out[row][panel] = start[row][panel] + by[row][k] * weights[panel][k], summed over k
template <int Rows, int Panels>
RNNFAST_NOINLINE void tile_of(const Real* const* by, Index K, const Real* weights, Index panel_size,
                              const Real* start, Index ld_start, Real* out, Index ld_out) {
  constexpr int n = Panels * 4;
  const Real* x[Rows];
  Raw sum[Rows][n];
  unroll<Rows>([&](auto row) RNNFAST_INLINE_LAMBDA {
    x[row] = by[row];
    unroll<n>([&](auto j) RNNFAST_INLINE_LAMBDA {
      sum[row][j] = raw_load(start + row * ld_start + j * kLanes);
    });
  });
  for (Index k = 0; k < K; ++k, weights += kPanel) {
    Raw factor[Rows];
    unroll<Rows>([&](auto row) RNNFAST_INLINE_LAMBDA { factor[row] = raw_set(x[row][k]); });
    unroll<n>([&](auto j) RNNFAST_INLINE_LAMBDA {
      const Raw weight = raw_load(weights + j / 4 * panel_size + j % 4 * kLanes);
      unroll<Rows>([&](auto row) RNNFAST_INLINE_LAMBDA {
        sum[row][j] = raw_fma(factor[row], weight, sum[row][j]);
      });
    });
  }
  unroll<Rows>([&](auto row) RNNFAST_INLINE_LAMBDA {
    unroll<n>([&](auto j) RNNFAST_INLINE_LAMBDA {
      raw_store(out + row * ld_out + j * kLanes, sum[row][j]);
    });
  });
}

// The cell on the finished sums of a tile.
RNNFAST_INLINE void cells_of(const Problem<Real>& p, Index t, Index row, Index rows, Index panel,
                             Index panels, const Real* sums) {
  for (Index m = 0; m < rows; ++m)
    for (Index j = 0; j < panels; ++j) {
      const Real* a = sums + m * kTileRow + j * kPanel;
      const Index unit = (panel + j) * kLanes;
      lstm_cell(raw_load(a), raw_load(a + kLanes), raw_load(a + 2 * kLanes),
                raw_load(a + 3 * kLanes), p.c + (row + m) * p.H + unit,
                p.y + (t * p.B + row + m) * p.H + unit);
    }
}

// f(row, rows, panel, panels) for each tile: a panel and up to kRows of n rows, or with one row kPanels. Panels from the
// first to the last, or backwards.
template <class F>
RNNFAST_INLINE void each_tile(Index n, Range panels, bool backwards, F&& f) {
  for (Index done = 0, some; done < panels.size(); done += some) {
    some = n == 1 && panels.size() - done >= kPanels ? kPanels : 1;
    const Index panel = backwards ? panels.end - done - some : panels.begin + done;
    for (Index row = 0; row < n; row += kRows) f(row, min_of(kRows, n - row), panel, some);
  }
}

// tile_of with sizes known only now.
RNNFAST_INLINE void product(Index rows, Index panels, const Real* const* by, Index K,
                            const Real* weights, Index panel_size, const Real* start,
                            Index ld_start, Real* out, Index ld_out) {
  if (panels == kPanels)
    return tile_of<1, kPanels>(by, K, weights, panel_size, start, ld_start, out, ld_out);
  with_constant<kRows>(int(rows), [&](auto Rows) RNNFAST_INLINE_LAMBDA {
    tile_of<Rows, 1>(by, K, weights, panel_size, start, ld_start, out, ld_out);
  });
}

void tiles(const Problem<Real>& p) {
  const Range panels{0, p.H / kLanes};
  const Packed w = pack(p, panels);
  alignas(64) Real sums[kRows * kTileRow];
  for (Index t = 0; t < p.T; ++t)
    each_tile(p.B, panels, false, [&](Index row, Index rows, Index panel, Index some) {
      const Real *x[kRows], *h[kRows];
      for (Index m = 0; m < rows; ++m) {
        x[m] = p.x + (t * p.B + row + m) * p.I;
        h[m] = p.h_before(t) + (row + m) * p.H;
      }
      product(rows, some, x, p.I, w.W + panel * w.W_panel, w.W_panel, w.b + panel * kPanel, 0, sums,
              kTileRow);
      product(rows, some, h, p.H, w.R + panel * w.R_panel, w.R_panel, sums, kTileRow, sums,
              kTileRow);
      cells_of(p, t, row, rows, panel, some, sums);
    });
}

}  // namespace
}  // namespace rnnfast
