// A linear layer through the same tiles: y = x W^T + b. A row of y does not depend on the rows beside it, nor
// on the number of threads, so a model's logits are as repeatable as its states.
#pragma once
#include "weight_gradient.h"

namespace rnnfast {
namespace {

// Seen as a cell: M units of one gate over K inputs.
struct LinearScratch {
  Real *W, *b, *db;
  Index row;  // elements of one padded row of M
  int U;
  Parts parts;
  LinearScratch(Carver& carver, const LinearArgs<Real>& a, bool backward, int n) {
    U = column_vectors(a.M, 1);
    row = unit_vectors(a.M) * kLanes + 64 / Index(sizeof(Real));
    const RowPanels w{nullptr, a.M, a.K, 1, U};
    const ColumnPanels wt{nullptr, a.M, a.K, 1, column_vectors(a.K, 1)};
    W = backward ? (a.dx ? carver.take<Real>(wt.count() * wt.size()) : nullptr)
                 : carver.take<Real>(w.count() * w.size());
    b = carver.take<Real>(w.count() * U * kLanes);
    db = backward ? carver.take<Real>(row) : nullptr;
    dy = backward ? carver.take<Real>(a.N * row) : nullptr;
    parts.add(carver, n, [&](Carver& own) { member(own, a); });
  }
  Real* dy;  // rows padded to whole vectors with zeros
  struct PerMember {
    const Real** rows;
    Real** to;
    Real* products;
  };
  PerMember member(Carver& carver, const LinearArgs<Real>& a) const {
    return {carver.take<const Real*>(a.N), carver.take<Real*>(a.N),
            carver.take<Real>(gradient_scratch(unit_vectors(a.K) * kLanes))};
  }
};

void linear_forward(const LinearArgs<Real>& a, void* scratch, const Member& m) {
  Carver carver{static_cast<char*>(scratch)};
  LinearScratch shared(carver, a, false, m.n);
  Carver own_carver = shared.parts.of(scratch, m.id);
  const auto own = shared.member(own_carver, a);
  const RowPanels W{a.W, a.M, a.K, 1, shared.U};
  const Range mine = share(W.count(), m);
  for (Index p = mine.begin; p < mine.end; ++p) W.pack(p, shared.W + p * W.size());
  if (m.id == 0) {
    pack_gate_row(a.b, 1, a.M, 1, shared.b);
    const Index used = unit_vectors(a.M) * kLanes, width = W.count() * shared.U * kLanes;
    memset(shared.b + used, 0, size_t(width - used) * sizeof(Real));
  }
  m.barrier();
  const Range rows = share(a.N, m);
  for (Index r = rows.begin; r < rows.end; ++r) {
    own.rows[r - rows.begin] = a.x + r * a.K;
    own.to[r - rows.begin] = a.y + r * a.M;
  }
  const Store store{own.to, a.M, shared.U * kLanes};
  run_stage(shared.U, W, Panels{shared.W, nullptr, W.size()}, a.K, 0, W.count(), false, own.rows,
            rows.size(), shared.b, epilogue(store));
}

void linear_backward(const LinearArgs<Real>& a, void* scratch, const Member& m) {
  Carver carver{static_cast<char*>(scratch)};
  LinearScratch shared(carver, a, true, m.n);
  Carver own_carver = shared.parts.of(scratch, m.id);
  const auto own = shared.member(own_carver, a);
  const ColumnPanels W{a.W, a.M, a.K, 1, column_vectors(a.K, 1)};
  const Range rows = share(a.N, m), pairs = share(unit_vectors(a.M), m),
              panels = share(W.count(), m);
  for (Index r = rows.begin; r < rows.end; ++r)
    copy_padded(a.dy + r * a.M, a.M, shared.dy + r * shared.row);
  if (a.dx) W.pack(panels.begin, panels.end, shared.W + panels.begin * W.size());
  m.barrier();
  if (a.dx) {
    for (Index r = rows.begin; r < rows.end; ++r) {
      own.rows[r - rows.begin] = shared.dy + r * shared.row;
      own.to[r - rows.begin] = a.dx + r * a.K;
    }
    const Store store{own.to, a.K, W.NV * kLanes};
    run_stage(W.NV, W, Panels{shared.W, nullptr, W.size()}, W.depth(), 0, W.count(), false,
              own.rows, rows.size(), nullptr, epilogue(store));
  }
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
