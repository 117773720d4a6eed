// A linear layer through the same tiles: y = x W^T + b. A row of y does not depend on the rows beside it, nor
// on the number of threads, so a model's logits are as repeatable as its states.
#pragma once
#include "weight_gradient.h"

namespace rnnfast {
namespace {

// Members share the panels of W where those divide evenly enough: each then packs its own on the way and nobody waits. Else
// they pack all of them together and share the rows.
RNNFAST_INLINE bool shares_panels(Index count, int n) { return count % n == 0 || count >= 8 * n; }

// Seen as a cell: M units of one gate over K inputs.
struct LinearScratch {
  Real *W, *b, *db;
  Index row;  // elements of one padded row of M
  int U;
  bool lazy;
  Index panel;  // elements of a member's panel, or of its sums over one row
  Parts parts;
  LinearScratch(Carver& carver, const LinearArgs<Real>& a, int n, bool backward) {
    U = column_vectors(a.M, 1);
    row = unit_vectors(a.M) * kLanes + 64 / Index(sizeof(Real));
    const RowPanels w{nullptr, a.M, a.K, 1, U};
    const ColumnPanels wt{nullptr, a.M, a.K, 1, column_vectors(a.K, 1)};
    const Index count = backward ? wt.count() : w.count(), size = backward ? wt.size() : w.size();
    lazy = shares_panels(count, n);
    W = !lazy && (a.dx || !backward) ? carver.take<Real>(count * size) : nullptr;
    panel = lazy ? max_of(size, 2 * count * wt.NV * kLanes) : 0;
    b = carver.take<Real>(w.count() * U * kLanes);
    db = backward ? carver.take<Real>(row) : nullptr;
    dy = backward ? carver.take<Real>(a.N * row) : nullptr;
    parts.add(carver, n, [&](Carver& own) { member(own, a); });
  }
  Real* dy;  // rows padded to whole vectors with zeros
  struct PerMember {
    const Real** rows;
    Real** to;
    Real *products, *panel;
  };
  PerMember member(Carver& carver, const LinearArgs<Real>& a) const {
    return {carver.take<const Real*>(a.N), carver.take<Real*>(a.N),
            carver.take<Real>(gradient_scratch(unit_vectors(a.K) * kLanes)),
            carver.take<Real>(panel)};
  }
  // The member's part of to[r] = from[r] W^T + init, all of them packed already unless lazy.
  template <class Source, class Row, class To>
  void multiply(const Source& source, int nv, Index terms, Index N, Index columns, const Real* init,
                const PerMember& own, const Member& m, Row&& row, To&& to) const {
    const Range rows = lazy ? Range{0, N} : share(N, m);
    const Range panels = lazy ? share(source.count(), m) : Range{0, source.count()};
    for (Index r = rows.begin; r < rows.end; ++r) {
      own.rows[r - rows.begin] = row(r);
      own.to[r - rows.begin] = to(r);
    }
    const Store store{own.to, columns, nv * kLanes};
    run_stage(nv, source, Panels{W, own.panel, source.size()}, terms, panels.begin, panels.end,
              false, own.rows, rows.size(), init, epilogue(store));
  }
};

void linear_forward(const LinearArgs<Real>& a, void* scratch, const Member& m) {
  Carver carver{static_cast<char*>(scratch)};
  LinearScratch shared(carver, a, m.n, false);
  Carver own_carver = shared.parts.of(scratch, m.id);
  const auto own = shared.member(own_carver, a);
  const RowPanels W{a.W, a.M, a.K, 1, shared.U};
  const Range mine = share(W.count(), m);
  if (!shared.lazy)
    for (Index p = mine.begin; p < mine.end; ++p) W.pack(p, shared.W + p * W.size());
  if (m.id == 0) {
    pack_gate_row(a.b, 1, a.M, 1, shared.b);
    const Index used = unit_vectors(a.M) * kLanes, width = W.count() * shared.U * kLanes;
    memset(shared.b + used, 0, size_t(width - used) * sizeof(Real));
  }
  m.barrier();
  shared.multiply(
      W, shared.U, a.K, a.N, a.M, shared.b, own, m, [&](Index r) { return a.x + r * a.K; },
      [&](Index r) { return a.y + r * a.M; });
}

void linear_backward(const LinearArgs<Real>& a, void* scratch, const Member& m) {
  Carver carver{static_cast<char*>(scratch)};
  LinearScratch shared(carver, a, m.n, true);
  Carver own_carver = shared.parts.of(scratch, m.id);
  const auto own = shared.member(own_carver, a);
  const ColumnPanels W{a.W, a.M, a.K, 1, column_vectors(a.K, 1)};
  const Range rows = share(a.N, m), pairs = share(unit_vectors(a.M), m),
              panels = share(W.count(), m);
  for (Index r = rows.begin; r < rows.end; ++r)
    copy_padded(a.dy + r * a.M, a.M, shared.dy + r * shared.row);
  if (a.dx && !shared.lazy) W.pack(panels.begin, panels.end, shared.W + panels.begin * W.size());
  m.barrier();
  if (a.dx)
    shared.multiply(
        W, W.NV, W.depth(), a.N, a.K, nullptr, own, m,
        [&](Index r) { return shared.dy + r * shared.row; },
        [&](Index r) { return a.dx + r * a.K; });
  const GateRows dy{shared.dy, shared.row, a.N};
  for (Index r = 0; r < a.N; ++r) own.rows[r] = a.x + r * a.K;
  const Operand x[] = {{own.rows, a.K, a.dW}};
  weight_gradient(dy, x, a.M, 1, pairs, own.products, true);
  if (a.N == 0 && m.id == 0) memset(a.dW, 0, size_t(a.M * a.K) * sizeof(Real));
  if (a.db) {
    memset(shared.db + pairs.begin * kLanes, 0,
           size_t((pairs.end - pairs.begin) * kLanes) * sizeof(Real));
    bias_gradient(dy, pairs, shared.db);
    m.barrier();
    if (m.id == 0) unpack_gate_row(shared.db, a.M, 1, a.db);
  }
}

}  // namespace
}  // namespace rnnfast
