// Forward through time, once for every cell:
//
//   for each chunk of steps:  gx = W x + bW for the whole chunk          (time-parallel product)
//     for each step t:        gh = R h + bR, the cell on each finished tile, h written once, into the caller's y
//
// Members of a team split the batch (no barrier) or the hidden units (one barrier per step); which of them
// it is changes no bit, since every element is computed by one member in the same order of operations.
#pragma once
#include "history.h"

namespace rnnfast {
namespace {

// Unit vectors per panel of a cell's gates: a cell with one gate takes several, or its tiles would be one
// vector wide and wait for loads.
template <class Cell>
RNNFAST_INLINE int units_per_panel(Index H) {
  if constexpr (Cell::G > 1) return 1;
  return column_vectors(H, 1);
}

// The packed form of a layer: panels of W and R and the two biases as gate rows.
template <class Cell>
struct PackedLayer {
  Real *W, *R, *bW, *bR;
  PackedLayer(Carver& carver, const Dims& d, bool with_W, bool with_R) {
    const RowPanels w{nullptr, d.H, d.I, Cell::G, units_per_panel<Cell>(d.H)};
    const RowPanels r{nullptr, d.H, d.H, Cell::G, units_per_panel<Cell>(d.H)};
    const Index row = w.count() * w.nv() * kLanes;
    W = with_W ? carver.take<Real>(w.count() * w.size()) : nullptr;
    R = with_R ? carver.take<Real>(r.count() * r.size()) : nullptr;
    bW = carver.take<Real>(row);
    bR = carver.take<Real>(row);
  }
};

// Elements of one gate row, with U > 1 padded to whole panels, and one cache line more: rows a power of two
// apart would fall on the same few cache sets.
template <class Cell>
RNNFAST_INLINE Index gate_row_stride(Index H) {
  const Index U = units_per_panel<Cell>(H);
  return (unit_vectors(H) + U - 1) / U * U * Cell::G * kLanes + 64 / Index(sizeof(Real));
}

// Epilogue of the recurrent product: the cell on a tile of gh.
template <class Cell, bool with_tape>
struct CellForward {
  Index H;
  int U;
  const Real* const* gx;              // per row: its gate row
  const Real* const* state[Cell::S];  // per row: the incoming states
  Real* y;                            // this step's rows, y_batch apart
  Index y_batch;
  Real* c;  // states after the first, packed rows c_batch apart
  Index c_batch;
  Real* tape;
  Index tape_batch;

  RNNFAST_NOINLINE void operator()(Index panel, Index row, int rows, const Real* gh_tile) const {
    for (int u = 0; u < U; ++u) {
      const Index unit = panel * U + u, lanes = min_of(kLanes, H - unit * kLanes);
      const Real* gh = gh_tile + u * Cell::G * kLanes;
      if (lanes == kLanes) run_rows(unit, row, rows, gh, Constant<kLanes>{});
      else if (lanes > 0) run_rows(unit, row, rows, gh, int(lanes));
    }
  }

  // One unit vector of each row; `lanes` is a constant but for the last unit of an H that kLanes does not divide.
  template <class Lanes>
  RNNFAST_INLINE void run_rows(Index unit, Index row, int rows, const Real* gh, Lanes lanes) const {
    constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
    const CellForward self = *this;  // a copy that no store through these pointers can change
    const Index at = unit * kLanes;
    for (Index r = row; r < row + rows; ++r, gh += self.U * G * kLanes) {
      // Every loop over gates, states and slots is unrolled, so that the arrays are registers: as plain loops they
      // are memory, and a tile's cell takes 1.4 (AVX-512) to 2.5 times (AVX2) as long (benchmarks/cell_in_tile.cpp).
      Vec x[G], g[G], s[S], kept[K];
      const Real* gx_row = self.gx[r] + at * G;
      unroll<G>([&](auto j) RNNFAST_INLINE_LAMBDA {
        x[j] = raw_load(gx_row + j * kLanes);
        g[j] = raw_load(gh + j * kLanes);
      });
      unroll<S>([&](auto j) RNNFAST_INLINE_LAMBDA {
        if constexpr (Cell::reads_state(j)) {
          s[j] = j ? raw_load(self.state[j][r] + at) : raw_load(self.state[j][r] + at, lanes);
        } else {
          s[j] = Raw{};
        }
      });
      Cell::forward(x, g, static_cast<const Vec*>(nullptr), s, kept);
      raw_store(self.y + r * self.y_batch + at, s[0].v, lanes);
      if constexpr (S > 1) raw_store(self.c + r * self.c_batch + at, s[1].v);
      if constexpr (with_tape) {
        Real* tape_row = self.tape + r * self.tape_batch + at * K;
        unroll<K>([&](auto j)
                      RNNFAST_INLINE_LAMBDA { raw_store(tape_row + j * kLanes, kept[j].v); });
      }
    }
  }
};

template <class Cell>
struct ForwardScratch {
  static constexpr Index kChunkRows =
      192;  // gx of a chunk stays in L2; fewer rows repeat W's panels more often

  Index chunk;          // steps
  bool lazy_W, lazy_R;  // pack panels on the way
  PackedLayer<Cell> packed;
  Real *gx, *table, *zero, *c;
  struct PerMember {
    const Real **operand, **gx, **state[kMaxStates];
    Real* panels;
  };

  ForwardScratch(Carver& carver, const ForwardArgs<Real>& a, int n)
      : chunk(chunk_steps(kChunkRows, a.dims.B)),
        // Small work uses each panel once: W when one chunk holds all, R when there is one step. (With the batch
        // split every member would pack all of them again.)
        lazy_W(!a.packed && a.dims.T * a.dims.B <= 16 && (n == 1 || split_units(a.dims.B, n))),
        lazy_R(!a.packed && a.dims.T <= 1 && (n == 1 || split_units(a.dims.B, n))),
        packed(carver, a.dims, !a.packed && !a.index.used && !lazy_W, !a.packed && !lazy_R) {
    const Dims& d = a.dims;
    const Index row = gate_row_stride<Cell>(d.H), units = unit_vectors(d.H) * kLanes;
    gx = a.index.used ? nullptr : carver.take<Real>(min_of(chunk, d.T) * d.B * row);
    table = a.index.used ? carver.take<Real>(a.index.n * row) : nullptr;
    zero = carver.take<Real>(d.H);
    c = Cell::S > 1 && !a.tape.cell ? carver.take<Real>(d.B * units) : nullptr;
    member_base = carver.used;
    member_size = 0;
    Carver measure{nullptr};
    member(measure, a);
    member_size = measure.used;
    carver.used += member_size * size_t(n);
  }
  size_t member_base, member_size;

  PerMember member(Carver& carver, const ForwardArgs<Real>& a) const {
    const Dims& d = a.dims;
    PerMember m{};
    m.operand = carver.take<const Real*>(d.B);
    m.gx = carver.take<const Real*>(d.B * min_of(chunk, max_of(d.T, 1)));
    for (int s = 0; s < Cell::S; ++s) m.state[s] = carver.take<const Real*>(d.B);
    const int nv = Cell::G * units_per_panel<Cell>(d.H);
    const Index depth = max_of(lazy_W ? d.I : 0, lazy_R ? d.H : 0);
    m.panels = depth ? carver.take<Real>(8 * depth * nv * kLanes) : nullptr;
    return m;
  }
};

// Runs `stage(Constant<width>)` with the tile width of the cell's gate panels.
template <class Cell, class F>
RNNFAST_INLINE void with_gate_width(int U, F&& f) {
  if constexpr (Cell::G > 1) {
    f(Constant<Cell::G>{});
  } else {
    if (U == 4) f(Constant<4>{});
    else if (U == 2) f(Constant<2>{});
    else f(Constant<1>{});
  }
}

template <class Cell, bool with_tape>
void forward_scan(const ForwardArgs<Real>& a, void* scratch, const Member& m) {
  constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
  const Dims d = a.dims;
  Carver carver{static_cast<char*>(scratch)};
  ForwardScratch<Cell> shared(carver, a, m.n);
  Carver own_carver{static_cast<char*>(scratch) + shared.member_base +
                    size_t(m.id) * shared.member_size};
  const auto own = shared.member(own_carver, a);

  const int U = units_per_panel<Cell>(d.H);
  const RowPanels W{a.weights[Weight::W], d.H, d.I, G, U}, R{a.weights[Weight::R], d.H, d.H, G, U};
  const bool by_units = split_units(d.B, m.n);
  const Range panels = by_units ? share(R.count(), m) : Range{0, R.count()};
  const Range rows = by_units ? Range{0, d.B} : share(d.B, m);
  const Index units = unit_vectors(d.H) * kLanes, row = gate_row_stride<Cell>(d.H);
  // A member may only skip the barriers where it shares nothing that others write.
  const bool shares = m.n > 1;

  PackedLayer<Cell> packed = shared.packed;
  if (a.packed) {
    Carver whole{const_cast<char*>(reinterpret_cast<const char*>(a.packed))};
    packed = PackedLayer<Cell>(whole, d, true, true);
  } else {
    const Range mine = share(R.count(), m);  // equal to `panels` when units are split
    for (Index p = mine.begin; p < mine.end; ++p) {
      if (packed.W) W.pack(p, packed.W + p * W.size());
      if (packed.R) R.pack(p, packed.R + p * R.size());
    }
    if (m.id == 0) {
      pack_gate_row(a.weights[Weight::bW], 1, d.H, G, packed.bW);
      pack_gate_row(a.weights[Weight::bR], 1, d.H, G, packed.bR);
      // The gate rows of U > 1 end in whole panels: the rest is read by the tile and its result dropped.
      const Index used = unit_vectors(d.H) * G * kLanes, width = R.count() * R.nv() * kLanes;
      memset(packed.bW + used, 0, size_t(width - used) * sizeof(Real));
      memset(packed.bR + used, 0, size_t(width - used) * sizeof(Real));
    }
  }
  if (a.index.used) {
    // The one-hot product picks a column of W: bW + column, over the distinct columns only.
    const Range mine = share(a.index.n, m);
    for (Index j = mine.begin; j < mine.end; ++j) {
      const Index k = a.index.distinct[j];
      Real* to = shared.table + j * row;
      if (a.packed) {
        for (Index p = 0; p < W.count(); ++p)
          memcpy(to + p * W.nv() * kLanes, packed.W + p * W.size() + k * W.nv() * kLanes,
                 size_t(W.nv()) * kLanes * sizeof(Real));
      } else {
        pack_gate_row(W.W + k, d.I, d.H, G, to);
      }
    }
  }
  Real* c = S > 1 ? (with_tape ? a.tape.states[1] : shared.c) : nullptr;
  const Index c_time = with_tape ? d.B * units : 0;
  if (m.id == 0) {
    memset(shared.zero, 0, size_t(d.H) * sizeof(Real));
    if (S > 1)
      for (Index b = 0; b < d.B; ++b)
        copy_padded(a.state0[1] ? a.state0[1] + b * d.H : nullptr, d.H, c + b * units);
  }
  if (shares) m.barrier();
  if (a.index.used) {
    const Range mine = share(a.index.n, m);
    const Index width = unit_vectors(d.H) * G * kLanes;
    for (Index j = mine.begin; j < mine.end; ++j)
      for (Index i = 0; i < width; i += kLanes)
        raw_store(shared.table + j * row + i,
                  raw_load(packed.bW + i) + raw_load(shared.table + j * row + i));
    if (shares) m.barrier();
  }

  const Panels W_panels{packed.W, own.panels, W.size()}, R_panels{packed.R, own.panels, R.size()};
  const History history{a.state0[0] ? a.state0[0] : shared.zero,
                        a.state0[0] ? d.H : 0,
                        a.y.base,
                        a.y.time,
                        a.y.batch,
                        c,
                        c_time,
                        units};

  with_gate_width<Cell>(U, [&](auto NV) RNNFAST_INLINE_LAMBDA {
    for (Index t0 = 0; t0 < d.T; t0 += shared.chunk) {
      const Index t1 = min_of(d.T, t0 + shared.chunk);
      if (!a.index.used) {
        // The rows of this chunk that are mine, whole steps in one product where the batch is not split.
        Index n = 0;
        for (Index t = t0; t < t1; ++t)
          for (Index b = rows.begin; b < rows.end; ++b) own.gx[n++] = a.x.row(t, b);
        const Index per_step = rows.end - rows.begin;
        const auto to = store_to(
            [&](Index r) RNNFAST_INLINE_LAMBDA {
              return shared.gx + (r / per_step * d.B + rows.begin + r % per_step) * row;
            },
            row, NV);
        run_stage<NV>(W, W_panels, d.I, panels.begin, panels.end, false, own.gx, n, packed.bW, to);
      }
      for (Index t = t0; t < t1; ++t) {
        for (Index b = rows.begin; b < rows.end; ++b) {
          own.operand[b] = history.operand(t, b);
          for (int s = 0; s < S; ++s) own.state[s][b] = history.state(s, t, b);
          own.gx[b] = a.index.used ? shared.table + a.index.row(t, b) * row
                                   : shared.gx + ((t - t0) * d.B + b) * row;
        }
        CellForward<Cell, with_tape> cell{};
        cell.H = d.H;
        cell.U = U;
        cell.gx = own.gx + rows.begin;
        for (int s = 0; s < S; ++s) cell.state[s] = own.state[s] + rows.begin;
        cell.y = a.y.row(t, rows.begin);
        cell.y_batch = a.y.batch;
        if constexpr (S > 1) {
          cell.c = c + (with_tape ? t + 1 : 0) * c_time + rows.begin * units;
          cell.c_batch = units;
        }
        if constexpr (with_tape) {
          cell.tape_batch = units * K;
          cell.tape = a.tape.cell + (t * d.B + rows.begin) * cell.tape_batch;
        }
        run_stage<NV>(R, R_panels, d.H, panels.begin, panels.end, t & 1, own.operand + rows.begin,
                      rows.end - rows.begin, packed.bR, cell);
        if (by_units) m.barrier();
      }
    }
  });

  // Final states: the ones that would enter step T.
  if (shares) m.barrier();
  const Range last = share(d.B, m);
  for (Index b = last.begin; b < last.end; ++b)
    for (int s = 0; s < S; ++s)
      memcpy(a.state_n[s] + b * d.H, history.state(s, d.T, b), size_t(d.H) * sizeof(Real));
}

}  // namespace
}  // namespace rnnfast
