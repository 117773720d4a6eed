// Forward through time, once for every cell:
//
//   for each chunk of steps:  gx = W x + bW for the whole chunk          (time-parallel product)
//     for each step t:        gh = R h + bR, the cell on each finished tile, h written once, into the caller's y
//
// A schedule (lengths, masks, resets) only changes which rows a step runs and where their states are read. Members
// of a team split the batch (no barrier) or the hidden units (one barrier per step); which of them it is changes no
// bit, since every element is computed by one member in the same order of operations.
#pragma once
#include "history.h"
#include "masks.h"

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

// Elements of the gates of one row, with U > 1 padded to whole panels.
template <class Cell>
RNNFAST_INLINE Index panels_width(Index H) {
  const Index U = units_per_panel<Cell>(H);
  return (unit_vectors(H) + U - 1) / U * U * Cell::G * kLanes;
}

// The same, and one cache line more: rows a power of two apart would fall on the same few cache sets.
template <class Cell>
RNNFAST_INLINE Index gate_row_stride(Index H) {
  return panels_width<Cell>(H) + 64 / Index(sizeof(Real));
}

// The cell's scalars as values; null where a call has none, and known to be in the plain one, so that the compiler drops
// them.
template <class Cell, bool extras, class V>
struct Params {
  V at[Cell::P ? int(Cell::P) : 1];
  bool given;
  RNNFAST_INLINE explicit Params(const Real* scalars) : given(scalars) {
    if (given)
      for (int p = 0; p < Cell::P; ++p) at[p] = V(double(scalars[p]));
  }
  RNNFAST_INLINE const V* get() const { return extras && Cell::P && given ? at : nullptr; }
};

// Unit vectors that an epilogue takes at once. Inference at (128, 8, 64, 64) on one thread took, against 4: with 3, LSTM
// 1.03, GRU 1.02, RNN 1.02 of the time; with 8, 1.04, 1.01 and 1.04 (AVX2, Zen 3). With AVX-512 on Emerald Rapids it took
// with 2 1.28, 1.12 and 0.96, with 8 1.03, 1.00 and 1.00.
constexpr int kBundle = 4;

// A unit vector of a row in a finished part of a product, and where the next ones are: below it or, along a row, beside it.
struct Place {
  Index unit, row;
  bool along_row;
  const Real* tile;
  Index step;  // in the tile
  RNNFAST_INLINE Index row_of(int n) const { return along_row ? row : row + n; }
  RNNFAST_INLINE Index unit_of(int n) const { return along_row ? unit + n : unit; }
  RNNFAST_INLINE Index at(int n) const { return unit_of(n) * kLanes; }
  RNNFAST_INLINE void advance(int n) {
    (along_row ? unit : row) += n;
    tile += n * step;
  }
};

// f(Constant<n>, Place, count), count times n places, for all of a finished part of a product (see Epilogue) with G
// vectors for each of U units to a panel. Those of an incomplete unit vector come alone.
template <class F>
RNNFAST_INLINE void each_bundle(Index H, int U, int G, Index panel, Index panels, Index row,
                                Index rows, const Real* tile, F&& f) {
  const Index first = panel * U, units = min_of(panels * U, unit_vectors(H) - first);
  const Index whole = H / kLanes - first;
  const bool along_row = rows == 1;
  for (Index line = 0; line < (along_row ? 1 : units); ++line) {
    Place p{first + line, row, along_row, tile + line * G * kLanes,
            (along_row ? 1 : U) * Index(G) * kLanes};
    const Index length = along_row ? units : rows;
    const Index bundles = (along_row ? min_of(units, whole) : line < whole ? rows : 0) / kBundle;
    if (bundles > 0) f(Constant<kBundle>{}, p, bundles);
    p.advance(int(bundles * kBundle));
    if (bundles * kBundle < length) f(Constant<1>{}, p, length - bundles * kBundle);
  }
}

// Vectors that a bundle has several of, gates or slots of the tape, each read where the cell uses it: loaded all at once,
// most went to the stack and back, for there are not registers for them. With this and `ask`, on one thread, time over
// that without (AVX2, Zen 3, medians of pairs): LSTM (128, 8, 64, 64), (50, 32, 64, 128) and (64, 64, 128, 256) inference 0.99,
// 0.99 and 0.98, forward and backward 0.97 each; GRU inference 1.00, forward and backward 0.97 to 1.01.
template <int N>
struct Slots {
  const Real* of[N];
  RNNFAST_INLINE Bundle<N> operator[](int slot) const {
    return Bundle<N>::of(
        [&](auto n) RNNFAST_INLINE_LAMBDA { return Vec(raw_load(of[n] + slot * kLanes)); });
  }
};

// Asks for some of the elements behind p, before they are needed.
template <int count>
RNNFAST_INLINE void ask(const Real* p) {
  constexpr int line = 64 / int(sizeof(Real));
  unroll<(count + line - 1) / line>(
      [&](auto i) RNNFAST_INLINE_LAMBDA { __builtin_prefetch(p + i * line); });
}

// Gates for the backward pass that are this large are written past the caches: nobody reads them before the whole forward
// pass is over, and a cache would read each line before it wrote it. Forward and backward on one thread took, of the time
// without (AVX-512, Emerald Rapids, medians of pairs): LSTM (50, 32, 64, 128), 3.1 MiB, 0.97, (100, 32, 64, 128) 0.95, (2000, 16,
// 64, 128) 0.93, (128, 64, 128, 256) 0.89; GRU (100, 32, 64, 128) 0.91, (64, 64, 96, 256) 0.94; RNN (128, 64, 128, 256) 0.99; but
// LSTM (128, 8, 64, 64), 1 MiB, 1.05.
constexpr Index kStreamedTape = Index(3) << 20;  // bytes

// Epilogue of the recurrent product: the cell on a tile of gh. Tables have one entry per row of the step.
template <class Cell, bool with_tape, bool extras>
struct CellForward {
  Index H;
  int U;
  const Real* const* gx;              // of each row its gates of the first panel, and
  Index gx_stride;                    // how far behind them those of the next panel are
  const Real* const* state[Cell::S];  // the incoming states
  Real* const* to[Cell::S];           // the new states: y rows, then packed rows
  Real* tape;                         // packed rows of the step, one behind the other,
  bool streams;                       // and whether they are written past the caches
  // extras
  Zoneout zoneout[Cell::S];
  const Real* params;  // by Cell::Param; null: none

  RNNFAST_INLINE void operator()(Index panel, Index panels, Index row, Index rows,
                                 const Real* gh) const {
    each_bundle(H, U, Cell::G, panel, panels, row, rows, gh,
                [&](auto N, const Place& p, Index count)
                    RNNFAST_INLINE_LAMBDA { run<N>(p, count); });
  }

  RNNFAST_INLINE Index gx_at(Index unit) const {
    if constexpr (Cell::G > 1) return unit * gx_stride;  // U = 1
    const int shift = U / 2;                             // U = 1, 2 or 4
    return (unit >> shift) * gx_stride + (unit & (U - 1)) * kLanes;
  }

  RNNFAST_INLINE Raw load_state(int j, Index row, Index at, int lanes) const {
    return j ? raw_load(state[j][row] + at) : raw_load(state[j][row] + at, lanes);
  }

  // N at once, `count` times. Every loop over gates, states and slots is unrolled, so that the arrays are registers and
  // not memory.
  template <int N>
  RNNFAST_NOINLINE void run(Place p, Index count) const {
    const CellForward self = *this;  // a copy that no store through these pointers can change
    const Params<Cell, extras, Bundle<N>> scalars(params);
    for (; count > 0; --count, p.advance(N)) {
      if (N > 1 && count > 1 && !p.along_row) self.ask_for_next<N>(p);
      self.run_bundle<N>(p, scalars);
    }
  }
  // Each row has its own page, and gx of a chunk may be more than the second-level cache holds. An RNN has little to ask
  // for, and lost 2 % by it at (128, 8, 64, 64).
  template <int N>
  RNNFAST_INLINE void ask_for_next(const Place& p) const {
    if constexpr (Cell::G > 1)
      unroll<N>([&](auto n) RNNFAST_INLINE_LAMBDA {
        const Index row = p.row_of(N + n), at = p.at(n);
        ask<Cell::G * kLanes>(gx[row] + gx_at(p.unit_of(n)));
        unroll<Cell::S>([&](auto j) RNNFAST_INLINE_LAMBDA {
          if constexpr (Cell::reads_state(j)) ask<kLanes>(state[j][row] + at);
        });
      });
  }
  template <int N>
  RNNFAST_INLINE void run_bundle(const Place& p,
                                 const Params<Cell, extras, Bundle<N>>& scalars) const {
    using V = Bundle<N>;
    constexpr int S = Cell::S, K = Cell::K;
    const Index tape_row = unit_vectors(H) * kLanes * K;
    const int lanes = N > 1 ? kLanes : int(min_of(kLanes, H - p.unit * kLanes));
    V s[S], kept[K];
    Slots<N> x, g;
    unroll<N>([&](auto n) RNNFAST_INLINE_LAMBDA {
      const Index row = p.row_of(n), at = p.at(n);
      x.of[n] = gx[row] + gx_at(p.unit_of(n));
      g.of[n] = p.tile + n * p.step;
      unroll<S>([&](auto j) RNNFAST_INLINE_LAMBDA {
        if constexpr (Cell::reads_state(j)) s[j].at[n] = load_state(j, row, at, lanes);
        else s[j].at[n] = Raw{};
      });
    });
    Cell::forward(x, g, scalars.get(), s, kept);
    if constexpr (extras) {
      unroll<S>([&](auto j) RNNFAST_INLINE_LAMBDA {
        if (zoneout[j])
          unroll<N>([&](auto n) RNNFAST_INLINE_LAMBDA {
            const Index row = p.row_of(n);
            // The old state is read again: there are not registers to keep it in.
            s[j].at[n] =
                zoneout[j].blend(row, p.unit_of(n), load_state(j, row, p.at(n), lanes), s[j].at[n]);
          });
      });
    }
    unroll<N>([&](auto n) RNNFAST_INLINE_LAMBDA {
      const Index row = p.row_of(n), at = p.at(n);
      raw_store(to[0][row] + at, s[0].at[n].v, lanes);
      unroll<S>([&](auto j) RNNFAST_INLINE_LAMBDA {
        if constexpr (j > 0) raw_store(to[j][row] + at, s[j].at[n].v);
      });
      if constexpr (with_tape) {
        Real* slots = tape + row * tape_row + at * K;
        if (streams)
          unroll<K>([&](auto j)
                        RNNFAST_INLINE_LAMBDA { raw_stream(slots + j * kLanes, kept[j].at[n].v); });
        else
          unroll<K>([&](auto j)
                        RNNFAST_INLINE_LAMBDA { raw_store(slots + j * kLanes, kept[j].at[n].v); });
      }
    });
  }
};

// Whether the epilogues of this call look at more than the plain ones do.
RNNFAST_INLINE bool forward_extras(const Options<Real>& o) { return o.has_params || o.zones_out(); }

template <class Cell>
struct ForwardScratch {
  // gx of a chunk stays in L2; fewer rows repeat W's panels more often. LSTM inference on one thread took, with 96 and with 384
  // for 192, 1.00 and 0.99 of the time at (128, 8, 64, 64), 1.01 and 1.00 at (64, 64, 128, 256), 1.03 and 0.99 at (16, 64, 512,
  // 512), with twice the scratch (AVX2, Zen 3).
  static constexpr Index kChunkRows = 192;

  Walk walk;
  bool lazy_W, lazy_R;  // pack panels on the way
  PackedLayer<Cell> packed;
  Real *table, *zero, *c, *replaced;
  Real* dropped;  // recurrent dropout: notes of the sequences
  Index chunk;    // places of a member's chunk at most
  struct PerMember {
    const Real **operand, **gx, **state[kMaxStates], **zoneout[kMaxStates];
    Real** to[kMaxStates];
    const Real** x;                    // rows of a chunk
    Real *gx_chunk, *masked, *panels;  // gx of a chunk, places in order in each panel
    MaskRows masks;
    explicit PerMember(const MaskRows& masks) : masks(masks) {}
  };
  Parts parts;

  ForwardScratch(Carver& carver, const ForwardArgs<Real>& a, int n)
      : walk{a.dims.T, a.dims.B, a.options.schedule},
        // Small work uses each panel once: W when one chunk holds all, R when there is one step. (With the batch
        // split every member would pack all of them again.) Up to 192 rows and not 16, one thread took, medians of
        // 7 pairs of processes that spread by 10 %: inference of LSTM (24, 1, 256, 256) 0.87 of the time, (100, 1,
        // 512, 512) 0.92, (100, 1, 64, 64) 0.96, (24, 8, 64, 64) 1.00, RNN (100, 1, 256, 256) 0.98; forward and
        // backward of (100, 1, 256, 256), LSTM 0.95, GRU 0.96 (AVX-512, Emerald Rapids).
        lazy_W(!a.packed && a.dims.T * a.dims.B <= kChunkRows &&
               (n == 1 || split_units(a.dims.B, n))),
        lazy_R(!a.packed && a.dims.T <= 1 && (n == 1 || split_units(a.dims.B, n))),
        packed(carver, a.dims, !a.packed && !a.index.used && !lazy_W, !a.packed && !lazy_R) {
    const Dims& d = a.dims;
    const Index row = gate_row_stride<Cell>(d.H), units = unit_vectors(d.H) * kLanes;
    // Under a schedule one member may have all rows; else they are shared evenly.
    const bool even = !a.options.schedule.first && !split_units(d.B, n);
    const Index rows = even ? (d.B + n - 1) / n : d.B;
    chunk = a.index.used ? 0 : min_of(max_of(kChunkRows, rows), walk.places());
    table = a.index.used ? carver.take<Real>(a.index.n * row) : nullptr;
    zero = carver.take<Real>(d.H);
    c = Cell::S > 1 && !a.tape.cell ? carver.take<Real>(d.B * units) : nullptr;
    replaced = a.tape.cell ? nullptr
                           : carver.take<Real>(a.options.schedule.replacements * Cell::S * units);
    dropped = MaskRows::room_of_sequences(carver, a.options, d.B, d.H);
    parts.add(carver, n, [&](Carver& own) { member(own, a); });
  }

  PerMember member(Carver& carver, const ForwardArgs<Real>& a) const {
    const Dims& d = a.dims;
    PerMember m(MaskRows(carver, a.options, d.B, d.H, Cell::S, dropped, a.tape.masks, false));
    m.operand = carver.take<const Real*>(d.B);
    m.gx = carver.take<const Real*>(d.B);
    for (int s = 0; s < Cell::S; ++s) {
      m.state[s] = carver.take<const Real*>(d.B);
      m.to[s] = carver.take<Real*>(d.B);
      m.zoneout[s] = a.options.draws_zoneout(s) ? carver.take<const Real*>(d.B) : nullptr;
    }
    m.gx_chunk = chunk ? carver.take<Real>(chunk * panels_width<Cell>(d.H)) : nullptr;
    m.x = carver.take<const Real*>(chunk);
    m.masked = MaskRows::drops(a.options) ? carver.take<Real>(d.B * d.H) : nullptr;
    const int nv = Cell::G * units_per_panel<Cell>(d.H);
    const Index depth = max_of(lazy_W ? d.I : 0, lazy_R ? d.H : 0);
    m.panels = depth ? carver.take<Real>(depth * nv * kLanes) : nullptr;
    return m;
  }
};

// The states that resets put in place, as packed rows; a member's share of them.
RNNFAST_INLINE void pack_replacements(const Options<Real>& o, Index H, int S, const Member& m,
                                      Real* replaced) {
  const Index units = unit_vectors(H) * kLanes;
  const Range mine = share(o.schedule.replacements, m);
  for (Index k = mine.begin; k < mine.end; ++k)
    for (int s = 0; s < S; ++s)
      copy_padded(o.replacement[s] ? o.replacement[s] + o.schedule.reset_source[s][k] * H : nullptr,
                  H, replaced + (k * S + s) * units);
}

template <class Cell>
void forward_scan(const ForwardArgs<Real>& a, void* scratch, const Member& m) {
  constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
  const Dims d = a.dims;
  Carver carver{static_cast<char*>(scratch)};
  ForwardScratch<Cell> shared(carver, a, m.n);
  Carver own_carver = shared.parts.of(scratch, m.id);
  auto own = shared.member(own_carver, a);
  const Walk walk = shared.walk;
  const bool with_tape = a.tape.cell != nullptr, extras = forward_extras(a.options);
  const bool drops = MaskRows::drops(a.options), draws = drops || a.options.step_masks() > 0;
  const Real scale = dropout_scale(a.options.dropout);

  const int U = units_per_panel<Cell>(d.H);
  RowPanels W{a.weights[Weight::W], d.H, d.I, G, U}, R{a.weights[Weight::R], d.H, d.H, G, U};
  const bool by_units = split_units(d.B, m.n);
  const Range panels = by_units ? share(R.count(), m) : Range{0, R.count()};
  const Range rows = by_units ? Range{0, d.B} : walk.share_rows(m);
  const Index units = unit_vectors(d.H) * kLanes, row = gate_row_stride<Cell>(d.H);
  const bool streams = with_tape && can_stream(a.tape.cell) &&
                       walk.places() * units * K * Index(sizeof(Real)) >= kStreamedTape;
  // A member may only skip the barriers where it shares nothing that others write.
  const bool shares = m.n > 1;

  PackedLayer<Cell> packed = shared.packed;
  // Checksums are taken on the way where each panel is read exactly once.
  const bool once = !a.options.schedule.first && walk.places() > 0;
  const auto note = [&](RowPanels& panels, uint64_t* sum, bool on_the_way) RNNFAST_INLINE_LAMBDA {
    if (on_the_way) panels.sum = {sum};
    else WeightSum{sum}.add_all(panels.W, panels.H, panels.K, G, m);
  };
  note(W, a.checksum[0], packed.W || (shared.lazy_W && !a.index.used && once));
  note(R, a.checksum[1], packed.R || (shared.lazy_R && d.T == 1 && once));
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
  Real* const c = with_tape ? a.tape.states[1] : shared.c;
  Real* const replaced = with_tape ? a.tape.replaced : shared.replaced;
  pack_replacements(a.options, d.H, S, m, replaced);
  if (by_units && m.id > 0) own.masks.note_nothing();
  if (shared.dropped) {
    const Range mine = share(d.B, m);
    for (Index b = mine.begin; b < mine.end; ++b) own.masks.of_sequence(b);
  }
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
  const Sequence<const Real> y{a.y.base, a.y.time, a.y.batch, a.y.start};
  const History history{a.state0[0] ? a.state0[0] : shared.zero,
                        a.state0[0] ? d.H : 0,
                        y,
                        c,
                        !with_tape,
                        replaced,
                        d.B,
                        units,
                        S};

  // gx of a chunk lies panel by panel, as the product makes it and as the cell reads it, which takes several rows of a
  // panel at once. Row by row, inference on one thread took (AVX2, Zen 3) 1.01 to 1.02 of the time with an LSTM and 1.02 to
  // 1.03 with a GRU at (128, 8, 64, 64) and (64, 64, 128, 256); with one row 1.02 at H = 64, and as long at H = 256.
  const Index width = R.nv() * kLanes;
  for (Index t0 = 0; t0 < d.T;) {
    // A chunk of my own places: no sum runs over it, so that its size changes no bit.
    Index t1 = t0, n = 0, slot = 0;
    do n += walk.at(t1++, rows).size();
    while (t1 < d.T && n + walk.at(t1, rows).size() <= ForwardScratch<Cell>::kChunkRows);
    if (!a.index.used) {
      n = 0;
      for (Index t = t0; t < t1; ++t) {
        walk.each(t, walk.at(t, rows), [&](Index, Index b, Source) RNNFAST_INLINE_LAMBDA {
          own.x[n++] = a.x.row(t, b);
        });
      }
      run_stage(R.nv(), W, W_panels, d.I, panels.begin, panels.end, a.turned, own.x, n, packed.bW,
                written_to(own.gx_chunk));
    }
    const Index gx_stride = a.index.used ? width : n * width;
    for (Index t = t0; t < t1; ++t) {
      const Range at = walk.at(t, rows);
      n = at.size();
      walk.each(t, at, [&](Index p, Index b, Source from) RNNFAST_INLINE_LAMBDA {
        const Index r = p - at.begin;
        own.operand[r] = history.operand(from, b);
        unroll<S>([&](auto s) RNNFAST_INLINE_LAMBDA {
          if (Cell::reads_state(s) || extras) own.state[s][r] = history.state(s, from, b);
        });
        own.gx[r] = a.index.used ? shared.table + a.index.row(t, b) * row
                                 : own.gx_chunk + (slot + r) * width;
        own.to[0][r] = a.y.row(t, b);
        if (S > 1) own.to[1][r] = c + (with_tape ? d.B + p : b) * units;
      });
      if (draws)
        walk.each(t, at, [&](Index p, Index b, Source) RNNFAST_INLINE_LAMBDA {
          const Index r = p - at.begin;
          if (drops) {
            Real* masked = own.masked + r * d.H;
            drop_row(own.operand[r], own.masks.dropout(r, p, t, b), scale, d.H, masked);
            own.operand[r] = masked;
          }
          for (int s = 0; s < S; ++s)
            if (own.zoneout[s]) own.zoneout[s][r] = own.masks.zoneout(s, r, p, t, b);
        });
      const auto run = [&](auto tape, auto more) RNNFAST_INLINE_LAMBDA {
        CellForward<Cell, tape, more> cell{};
        cell.H = d.H;
        cell.U = U;
        cell.gx = own.gx;
        cell.gx_stride = gx_stride;
        for (int s = 0; s < S; ++s) {
          cell.state[s] = own.state[s];
          cell.to[s] = own.to[s];
          cell.zoneout[s] = Zoneout::of(a.options, s, own.zoneout[s]);
        }
        if constexpr (tape) {
          cell.tape = a.tape.cell + at.begin * units * K;
          cell.streams = streams;
        }
        cell.params = a.options.has_params ? a.options.params : nullptr;
        run_stage(R.nv(), R, R_panels, d.H, panels.begin, panels.end, (t & 1) != int(a.turned),
                  own.operand, n, packed.bR, epilogue(cell));
      };
      if (extras) with_tape ? run(Constant<1>{}, Constant<1>{}) : run(Constant<0>{}, Constant<1>{});
      else with_tape ? run(Constant<1>{}, Constant<0>{}) : run(Constant<0>{}, Constant<0>{});
      slot += n;
      if (by_units) m.barrier();
    }
    t0 = t1;
  }

  if (streams) stream_done();
  if (shares) m.barrier();
  const Range last = share(d.B, m);
  for (Index b = last.begin; b < last.end; ++b)
    for (int s = 0; s < S; ++s)
      memcpy(a.state_n[s] + b * d.H, history.state(s, walk.last(b), b), size_t(d.H) * sizeof(Real));
}

}  // namespace
}  // namespace rnnfast
