// Backward through time, once for every cell:
//
//   for each chunk of steps, last first:
//     for each step t, last first:   dh = R^T dgh[t+1] + dy[t] + the elementwise path; the cell's backward on each
//                                    finished tile gives dgx[t], dgh[t] and what flows on to step t-1
//     dx = W^T dgx, dW += dgx x^T, dR += dgh h^T, biases                          (time-parallel, for the whole chunk)
//
// Gate gradients live in scratch, a chunk at a time: the tape is read only, and a second backward is right.
#pragma once
#include "scan_forward.h"
#include "weight_gradient.h"

namespace rnnfast {
namespace {

// Epilogue of the product with R^T: the cell's backward on a tile of dh.
template <class Cell>
struct CellBackward {
  Index H;
  int NV;
  const Real* const* state[Cell::S];  // per row: the states that entered this step
  const Real* tape;
  Index tape_batch;
  const Real* dy;  // null: zero
  Index dy_batch;
  Real* dstate[Cell::S];  // in: from step t+1; out: to step t-1. Packed rows, `units` apart
  Real *dgx, *dgh;        // gate rows, `row_stride` apart; dgx null where it equals dgh
  Index row_stride;

  RNNFAST_NOINLINE void operator()(Index panel, Index row, int rows, const Real* dh_tile) const {
    for (int v = 0; v < NV; ++v) {
      const Index unit = panel * NV + v, lanes = min_of(kLanes, H - unit * kLanes);
      if (lanes == kLanes) run_rows(unit, row, rows, dh_tile + v * kLanes, Constant<kLanes>{});
      else if (lanes > 0) run_rows(unit, row, rows, dh_tile + v * kLanes, int(lanes));
    }
  }

  // One unit vector of each row, as in CellForward.
  template <class Lanes>
  RNNFAST_INLINE void run_rows(Index unit, Index row, int rows, const Real* dh, Lanes lanes) const {
    constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
    const CellBackward self = *this;
    const Index at = unit * kLanes, units = unit_vectors(self.H) * kLanes;
    for (Index r = row; r < row + rows; ++r, dh += self.NV * kLanes) {
      Vec kept[K], before[S], ds[S], x[G], g[G];
      const Real* tape_row = self.tape + r * self.tape_batch + at * K;
      unroll<K>([&](auto j) RNNFAST_INLINE_LAMBDA { kept[j] = raw_load(tape_row + j * kLanes); });
      unroll<S>([&](auto j) RNNFAST_INLINE_LAMBDA {
        if constexpr (Cell::reads_state(j)) {
          before[j] = j ? raw_load(self.state[j][r] + at) : raw_load(self.state[j][r] + at, lanes);
        } else {
          before[j] = Raw{};
        }
        ds[j] = raw_load(self.dstate[j] + r * units + at);
      });
      ds[0] = ds[0] + Vec(raw_load(dh));
      if (self.dy) ds[0] = ds[0] + Vec(raw_load(self.dy + r * self.dy_batch + at, lanes));
      Cell::backward(kept, static_cast<const Vec*>(nullptr), before, ds, x, g);
      const Index to = r * self.row_stride + at * G;
      unroll<G>([&](auto j) RNNFAST_INLINE_LAMBDA {
        raw_store(self.dgh + to + j * kLanes, g[j].v);
        if constexpr (!Cell::one_gate_gradient) raw_store(self.dgx + to + j * kLanes, x[j].v);
      });
      unroll<S>([&](auto j)
                    RNNFAST_INLINE_LAMBDA { raw_store(self.dstate[j] + r * units + at, ds[j].v); });
    }
  }
};

// Epilogue of the last product: the gradient of the initial states.
template <class Cell>
struct InitialGradient {
  Index H;
  int NV;
  Index first_row;
  Real* const* dstate;
  Real* const* dstate0;

  RNNFAST_NOINLINE void operator()(Index panel, Index row, int rows, const Real* dh_tile) const {
    const Index units = unit_vectors(H);
    for (Index r = row; r < row + rows; ++r)
      for (int v = 0; v < NV; ++v, dh_tile += kLanes) {
        const Index unit = panel * NV + v;
        if (unit >= units) continue;
        const Index at = unit * kLanes, b = first_row + r;
        const int lanes = int(min_of(kLanes, H - at));
        for (int j = 0; j < Cell::S; ++j) {
          Raw d = raw_load(dstate[j] + b * units * kLanes + at);
          if (j == 0) d += raw_load(dh_tile);
          raw_store(dstate0[j] + b * H + at, d, lanes);
        }
      }
  }
};

template <class Cell>
struct BackwardScratch {
  Index chunk;
  bool lazy_W, lazy_R;
  int nv_x, nv_h;
  Real *W, *R, *dgh, *dgx, *carry, *dstate[kMaxStates], *zero, *dbW, *dbR;
  IndexedSums sums;
  struct PerMember {
    const Real **rows, **state[kMaxStates];
    Real *panels, *strip;
    int32_t* stamp;
  };
  size_t member_base, member_size;

  // Rows per chunk: the gate gradients of 256 rows stay in L2; where the weights exceed it anyway, each chunk
  // reads and writes all of dW once, so fewer and larger chunks win (H=512: 50, 42, 39 ms at 128, 256, 512 rows).
  static Index chunk_rows(const Dims& d) {
    const Index bytes = Cell::G * d.H * (d.I + d.H) * Index(sizeof(Real));
    return bytes > (1 << 20) ? 1024 : 256;
  }

  BackwardScratch(Carver& carver, const BackwardArgs<Real>& a, int n)
      : chunk(chunk_steps(chunk_rows(a.dims), a.dims.B)) {
    const Dims& d = a.dims;
    const bool by_units = split_units(d.B, n);
    const Index row = gate_row_stride<Cell>(d.H), units = unit_vectors(d.H) * kLanes;
    chunk = min_of(chunk, max_of(1, d.T));
    lazy_W = d.T * d.B <= 16 && n == 1;
    lazy_R = d.T <= 1 && (n == 1 || by_units);  // one product with R^T: dh0
    nv_x = column_vectors(d.I, 1);
    nv_h = column_vectors(d.H, by_units ? n : 1);
    const ColumnPanels w = W_panels(a), r = R_panels(a);
    const bool want_dx = a.dx.base != nullptr;
    W = want_dx && !lazy_W ? carver.take<Real>(w.count() * w.size()) : nullptr;
    R = !lazy_R ? carver.take<Real>(r.count() * r.size()) : nullptr;
    dgh = carver.take<Real>(chunk * d.B * row);
    carry = carver.take<Real>(d.B * row);
    dgx = Cell::one_gate_gradient ? dgh : carver.take<Real>(chunk * d.B * row);
    for (int s = 0; s < Cell::S; ++s) dstate[s] = carver.take<Real>(d.B * units);
    zero = carver.take<Real>(d.H);
    dbW = carver.take<Real>(row);
    dbR = Cell::one_gate_gradient ? dbW : carver.take<Real>(row);
    sums = IndexedSums{nullptr, nullptr, nullptr, row};
    if (a.index.used) {
      sums.table = carver.take<Real>(a.index.n * row);
      sums.block = carver.take<Real>(a.index.n * row);
    }
    member_base = carver.used;
    Carver measure{nullptr};
    member(measure, a);
    member_size = measure.used;
    carver.used += member_size * size_t(n);
  }
  ColumnPanels W_panels(const BackwardArgs<Real>& a) const {
    return {a.weights[Weight::W], a.dims.H, a.dims.I, Cell::G, nv_x};
  }
  ColumnPanels R_panels(const BackwardArgs<Real>& a) const {
    return {a.weights[Weight::R], a.dims.H, a.dims.H, Cell::G, nv_h};
  }
  PerMember member(Carver& carver, const BackwardArgs<Real>& a) const {
    const Dims& d = a.dims;
    PerMember m{};
    m.rows = carver.take<const Real*>(max_of(chunk, 1) * d.B);
    for (int s = 0; s < Cell::S; ++s) m.state[s] = carver.take<const Real*>(d.B);
    Index panel = 0;
    if (lazy_W && a.dx.base) panel = max_of(panel, W_panels(a).size());
    if (lazy_R) panel = max_of(panel, R_panels(a).size());
    m.panels = panel ? carver.take<Real>(8 * panel) : nullptr;
    m.strip = carver.take<Real>(kBlockRows * kOuterVectors * kLanes);
    m.stamp = a.index.used ? carver.take<int32_t>(a.index.n) : nullptr;
    return m;
  }
};

template <class Cell>
void backward_scan(const BackwardArgs<Real>& a, void* scratch, const Member& m) {
  constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
  const Dims d = a.dims;
  Carver carver{static_cast<char*>(scratch)};
  BackwardScratch<Cell> shared(carver, a, m.n);
  Carver own_carver{static_cast<char*>(scratch) + shared.member_base +
                    size_t(m.id) * shared.member_size};
  const auto own = shared.member(own_carver, a);

  const ColumnPanels W = shared.W_panels(a), R = shared.R_panels(a);
  const bool by_units = split_units(d.B, m.n);
  const Range panels = by_units ? share(R.count(), m) : Range{0, R.count()};
  const Range rows = by_units ? Range{0, d.B} : share(d.B, m);
  const Index units = unit_vectors(d.H) * kLanes, row = gate_row_stride<Cell>(d.H);
  const Index depth = unit_vectors(d.H) * G * kLanes;
  const Range pairs = share(unit_vectors(d.H) * G, m);  // the rows of dW and dR that are mine

  {
    const Range w = share(W.count(), m), r = share(R.count(), m), b = share(d.B, m);
    if (shared.W)
      for (Index p = w.begin; p < w.end; ++p) W.pack(p, shared.W + p * W.size());
    if (shared.R)
      for (Index p = r.begin; p < r.end; ++p) R.pack(p, shared.R + p * R.size());
    for (Index i = b.begin; i < b.end; ++i)
      for (int s = 0; s < S; ++s)
        copy_padded(a.dstate_n[s] ? a.dstate_n[s] + i * d.H : nullptr, d.H,
                    shared.dstate[s] + i * units);
    const size_t begin = size_t(pairs.begin) * kLanes,
                 count = size_t(pairs.end - pairs.begin) * kLanes;
    memset(shared.dbW + begin, 0, count * sizeof(Real));
    memset(shared.dbR + begin, 0, count * sizeof(Real));
    if (a.index.used) {
      for (Index j = 0; j < a.index.n; ++j) {
        memset(shared.sums.table + j * row + begin, 0, count * sizeof(Real));
        own.stamp[j] = -1;
      }
    }
    if (m.id == 0) memset(shared.zero, 0, size_t(d.H) * sizeof(Real));
    m.barrier();
  }

  const History history{
      a.state0[0] ? a.state0[0] : shared.zero, a.state0[0] ? d.H : 0, a.y.base, a.y.time, a.y.batch,
      S > 1 ? a.tape.states[1] : nullptr,      d.B * units,           units};
  const Panels W_panels{shared.W, own.panels, W.size()}, R_panels{shared.R, own.panels, R.size()};
  const Panels none{shared.zero, nullptr, 0};  // for a product of no terms
  int32_t stamp = 0;

  // The rows of dgh that the product for step t reads: those of step t + 1.
  const auto next_rows = [&](Index t, Index t0, Index t1) RNNFAST_INLINE_LAMBDA {
    for (Index b = rows.begin; b < rows.end; ++b)
      own.rows[b] =
          t + 1 < t1 ? shared.dgh + ((t + 1 - t0) * d.B + b) * row : shared.carry + b * row;
  };

  for (Index t1 = d.T; t1 > 0;) {
    const Index t0 =
        (t1 - 1) / shared.chunk * shared.chunk;  // chunk borders counted from the first step
    for (Index t = t1 - 1; t >= t0; --t) {
      CellBackward<Cell> cell{};
      cell.H = d.H;
      cell.NV = shared.nv_h;
      for (int s = 0; s < S; ++s) {
        for (Index b = rows.begin; b < rows.end; ++b) own.state[s][b] = history.state(s, t, b);
        cell.state[s] = own.state[s] + rows.begin;
        cell.dstate[s] = shared.dstate[s] + rows.begin * units;
      }
      cell.tape_batch = units * K;
      cell.tape = a.tape.cell + (t * d.B + rows.begin) * cell.tape_batch;
      cell.dy = a.dy.base ? a.dy.row(t, rows.begin) : nullptr;
      cell.dy_batch = a.dy.batch;
      cell.row_stride = row;
      cell.dgh = shared.dgh + ((t - t0) * d.B + rows.begin) * row;
      cell.dgx = shared.dgx + ((t - t0) * d.B + rows.begin) * row;
      const bool last = t == d.T - 1;  // nothing flows in from step T but dstate_n
      next_rows(t, t0, t1);
      run_stage_nv(shared.nv_h, R, last ? none : R_panels, last ? 0 : depth, panels.begin,
                   panels.end, t & 1, own.rows + rows.begin, rows.end - rows.begin, nullptr, cell);
      if (by_units) m.barrier();
    }
    // The first step of this chunk is what the next chunk's last step reads. Each member carries what it wrote.
    const Range columns = by_units ? Range{min_of(units, panels.begin * shared.nv_h * kLanes) * G,
                                           min_of(units, panels.end * shared.nv_h * kLanes) * G}
                                   : Range{0, depth};
    for (Index b = rows.begin; b < rows.end; ++b)
      memcpy(shared.carry + b * row + columns.begin, shared.dgh + b * row + columns.begin,
             size_t(columns.end - columns.begin) * sizeof(Real));
    m.barrier();

    const Index n = (t1 - t0) * d.B;
    const GateRows dgx{shared.dgx, row, n}, dgh{shared.dgh, row, n};
    if (a.dx.base) {
      const Range mine = share(n, m);
      for (Index r = mine.begin; r < mine.end; ++r) own.rows[r - mine.begin] = shared.dgx + r * row;
      const auto to = store_to(
          [&](Index r) RNNFAST_INLINE_LAMBDA {
            return a.dx.row(t0 + (mine.begin + r) / d.B, (mine.begin + r) % d.B);
          },
          d.I, shared.nv_x);
      run_stage_nv(shared.nv_x, W, W_panels, depth, 0, W.count(), false, own.rows,
                   mine.end - mine.begin, nullptr, to);
    }
    if (a.index.used) {
      IndexedSums sums = shared.sums;
      sums.stamp = own.stamp;
      indexed_gradient(
          dgx, [&](Index r) RNNFAST_INLINE_LAMBDA { return a.index.row(t0 + r / d.B, r % d.B); },
          pairs, sums, stamp);
    } else {
      for (Index r = 0; r < n; ++r) own.rows[r] = a.x.row(t0 + r / d.B, r % d.B);
      weight_gradient(dgx, own.rows, d.H, G, d.I, a.dweights[int(Weight::W)], pairs, own.strip,
                      t1 == d.T);
    }
    for (Index r = 0; r < n; ++r) own.rows[r] = history.operand(t0 + r / d.B, r % d.B);
    weight_gradient(dgh, own.rows, d.H, G, d.H, a.dweights[int(Weight::R)], pairs, own.strip,
                    t1 == d.T);
    bias_gradient(dgx, pairs, shared.dbW);
    if constexpr (!Cell::one_gate_gradient) bias_gradient(dgh, pairs, shared.dbR);
    m.barrier();
    t1 = t0;
  }

  {
    for (Index b = rows.begin; b < rows.end; ++b) own.rows[b] = shared.carry + b * row;
    const InitialGradient<Cell> initial{d.H, shared.nv_h, rows.begin, shared.dstate, a.dstate0};
    const bool empty = d.T == 0;
    run_stage_nv(shared.nv_h, R, empty ? none : R_panels, empty ? 0 : depth, panels.begin,
                 panels.end, false, own.rows + rows.begin, rows.end - rows.begin, nullptr, initial);
  }
  m.barrier();
  if (d.T == 0 || d.B == 0) {  // no product has written the gradients
    if (m.id == 0) {
      if (!a.index.used)
        memset(a.dweights[int(Weight::W)], 0, size_t(G * d.H * d.I) * sizeof(Real));
      memset(a.dweights[int(Weight::R)], 0, size_t(G * d.H * d.H) * sizeof(Real));
    }
  }
  if (m.id == 0) {
    if (Real* dbW = a.dweights[int(Weight::bW)]) unpack_gate_row(shared.dbW, d.H, G, dbW);
    if (Real* dbR = a.dweights[int(Weight::bR)]) unpack_gate_row(shared.dbR, d.H, G, dbR);
  }
  if (a.index.used) {
    const Range mine = share(a.index.n, m);
    for (Index j = mine.begin; j < mine.end; ++j)
      unpack_gate_row(shared.sums.table + j * row, d.H, G,
                      a.dweights[int(Weight::W)] + j * G * d.H);
  }
}

}  // namespace
}  // namespace rnnfast
