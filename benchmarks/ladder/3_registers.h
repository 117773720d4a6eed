// Rung 3, registers: the four sums of a vector of units stay in registers over the whole of k, and the cell takes them
// from there. The array of 4H sums is gone, and with it a load and a store for each multiply-add.
//
// W and R are packed for it: [panel][k][gate][lane], a panel being the weights of one vector of units, so that they are
// read in the order in which they lie. A panel is used for all rows while it is in the cache.
#pragma once
#include "2_activations.h"

namespace rnnfast {
namespace {

constexpr Index kPanel = 4 * kLanes;  // columns of a panel: the gates of a vector of units

struct Packed {
  const Real *W, *R, *b;
  Index W_panel, R_panel;  // elements of a panel
};
// Some of the panels; the others stay as they are.
Packed pack(const Problem<Real>& p, Range some) {
  const RowPanels W{p.W, p.H, p.I, 4, 1}, R{p.R, p.H, p.H, 4, 1};
  Real *to_W = room(of_W, W.count() * W.size()), *to_R = room(of_R, R.count() * R.size());
  Real* to_b = room(of_b, 4 * p.H);
  for (Index panel = some.begin; panel < some.end; ++panel) {
    W.pack(panel, to_W + panel * W.size());
    R.pack(panel, to_R + panel * R.size());
    for (Index gate = 0; gate < 4; ++gate)
      raw_store(to_b + panel * kPanel + gate * kLanes, raw_load(p.b + gate * p.H + panel * kLanes));
  }
  return {to_W, to_R, to_b, W.size(), R.size()};
}

RNNFAST_NOINLINE void add_panel(const Real* by, const Real* panel, Index K, Raw (&sums)[4]) {
  Raw sum[4] = {sums[0], sums[1], sums[2], sums[3]};
  for (Index k = 0; k < K; ++k, panel += kPanel) {
    const Raw factor = raw_set(by[k]);
    unroll<4>([&](auto gate) RNNFAST_INLINE_LAMBDA {
      sum[gate] = raw_fma(factor, raw_load(panel + gate * kLanes), sum[gate]);
    });
  }
  unroll<4>([&](auto gate) RNNFAST_INLINE_LAMBDA { sums[gate] = sum[gate]; });
}

void registers(const Problem<Real>& p) {
  const Index panels = p.H / kLanes;
  const Packed w = pack(p, {0, panels});
  for (Index t = 0; t < p.T; ++t)
    for (Index panel = 0; panel < panels; ++panel)
      for (Index row = 0; row < p.B; ++row) {
        const Real* b = w.b + panel * kPanel;
        Raw a[4] = {raw_load(b), raw_load(b + kLanes), raw_load(b + 2 * kLanes),
                    raw_load(b + 3 * kLanes)};
        add_panel(p.x + (t * p.B + row) * p.I, w.W + panel * w.W_panel, p.I, a);
        add_panel(p.h_before(t) + row * p.H, w.R + panel * w.R_panel, p.H, a);
        const Index unit = panel * kLanes;
        lstm_cell(a[0], a[1], a[2], a[3], p.c + row * p.H + unit,
                  p.y + (t * p.B + row) * p.H + unit);
      }
}

}  // namespace
}  // namespace rnnfast
