// Backward through time, once for every cell:
//
//   for each chunk of steps, last first:
//     for each step t, last first:   dh = R^T dgh[next] + dy[t] + the elementwise path; the cell's backward on each
//                                    finished tile gives dgx[t], dgh[t] and what flows on to the step before
//     dx = W^T dgx, dW += dgx x^T, dR += dgh h^T, biases                          (time-parallel, for the whole chunk)
//
// "next" is the step at which a row was used next: each row remembers where its last dgh lies, and where there is
// none (the last step, behind a reset, behind a cut) its product is zero. Gate gradients live in scratch, a chunk at a
// time: the tape is read only, and a second backward is right.
#pragma once
#include "around_cell.h"
#include "scan_forward.h"
#include "weight_gradient.h"

namespace rnnfast {
namespace {

// What else depends on the activated gates of a bundle; false in the plain call and where nothing does.
template <int N, bool extras>
struct GateGradients {
  const Real* of[N];  // null: nothing
  Index H;
  int lanes;
  RNNFAST_INLINE explicit operator bool() const { return extras && of[0]; }
  RNNFAST_INLINE Bundle<N> operator[](int gate) const {
    return Bundle<N>::of(
        [&](auto n) RNNFAST_INLINE_LAMBDA { return Vec(raw_load(of[n] + gate * H, lanes)); });
  }
};

// Epilogue of the product with R^T: the cell's backward on a tile of dh. Tables have one entry per row of the step.
template <class Cell, bool extras>
struct CellBackward {
  Index H;
  int NV;
  const Real* const* state[Cell::S];  // the states that entered this step
  const Real* tape;                   // packed rows of the step, one behind the other
  const Real* const* dy;              // null: zero
  Real* const* carry[Cell::S];  // in: from the step after; out: to the step before. Packed rows
  Real *dgx, *dgh;              // gate rows, `row_stride` apart; dgx null where it equals dgh
  Index row_stride;
  AroundCell around;
  // extras
  const Real* const* dgates;  // rows (G, H); null: zero
  const Real* params;         // null: none

  RNNFAST_INLINE void operator()(Index panel, Index panels, Index row, Index rows, Real* dh) const {
    if (around.receives()) around(panel, panels, row, rows, dh);
    each_bundle(H, NV, 1, panel, panels, row, rows, dh,
                [&](auto N, const Place& p, Index count)
                    RNNFAST_INLINE_LAMBDA { run<N>(p, count); });
    if (around.sends()) around.send(panel, panels, row, rows);
  }

  // As in CellForward.
  template <int N>
  RNNFAST_NOINLINE void run(Place p, Index count) const {
    const CellBackward self = *this;
    const Params<Cell, extras, Bundle<N>> scalars(params);
    for (; count > 0; --count, p.advance(N)) {
      if (N > 1 && count > 1 && !p.along_row) self.ask_for_next<N>(p);
      self.run_bundle<N>(p, scalars);
    }
  }
  template <int N>
  RNNFAST_INLINE void ask_for_next(const Place& p) const {
    const Index tape_row = unit_vectors(H) * kLanes * Cell::K;
    unroll<N>([&](auto n) RNNFAST_INLINE_LAMBDA {
      const Index row = p.row_of(N + n), at = p.at(n);
      ask<Cell::K * kLanes>(tape + row * tape_row + at * Cell::K);
      unroll<Cell::S>([&](auto j) RNNFAST_INLINE_LAMBDA {
        if constexpr (Cell::reads_state(j)) ask<kLanes>(state[j][row] + at);
        ask<kLanes>(carry[j][row] + at);
      });
      if (dy) ask<kLanes>(dy[row] + at);
    });
  }
  template <int N>
  RNNFAST_INLINE void run_bundle(const Place& p,
                                 const Params<Cell, extras, Bundle<N>>& scalars) const {
    using V = Bundle<N>;
    constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
    const Index tape_row = unit_vectors(H) * kLanes * K;
    const int lanes = N > 1 ? kLanes : int(min_of(kLanes, H - p.unit * kLanes));
    Slots<N> kept;
    GateGradients<N, extras> gates;
    V before[S], dh, ds[S], x[G], g[G];
    // f(n, row, at) for the N places. What a call may have or not is asked once for all of them.
    const auto each = [&](auto&& f) RNNFAST_INLINE_LAMBDA {
      unroll<N>([&](auto n) RNNFAST_INLINE_LAMBDA { f(n, p.row_of(n), p.at(n)); });
    };
    each([&](auto n, Index row, Index at) RNNFAST_INLINE_LAMBDA {
      kept.of[n] = tape + row * tape_row + at * K;
      unroll<S>([&](auto j) RNNFAST_INLINE_LAMBDA {
        if constexpr (Cell::reads_state(j)) {
          before[j].at[n] = j ? raw_load(state[j][row] + at) : raw_load(state[j][row] + at, lanes);
        } else {
          before[j].at[n] = Raw{};
        }
        ds[j].at[n] = raw_load(carry[j][row] + at);
      });
      dh.at[n] = raw_load(p.tile + n * p.step);
    });
    ds[0] = ds[0] + dh;
    if (dy)
      each([&](auto n, Index row, Index at) RNNFAST_INLINE_LAMBDA {
        ds[0].at[n] = ds[0].at[n] + Vec(raw_load(dy[row] + at, lanes));
      });
    if constexpr (extras) {
      gates.H = H;
      gates.lanes = lanes;
      each([&](auto n, Index row, Index at)
               RNNFAST_INLINE_LAMBDA { gates.of[n] = dgates ? dgates[row] + at : nullptr; });
    }
    Cell::backward(kept, scalars.get(), before, ds, gates, x, g);
    each([&](auto n, Index row, Index at) RNNFAST_INLINE_LAMBDA {
      const Index to = row * row_stride + at * G;
      unroll<G>([&](auto j) RNNFAST_INLINE_LAMBDA {
        raw_store(dgh + to + j * kLanes, g[j].at[n].v);
        if constexpr (!Cell::one_gate_gradient) raw_store(dgx + to + j * kLanes, x[j].at[n].v);
      });
      unroll<S>([&](auto j)
                    RNNFAST_INLINE_LAMBDA { raw_store(carry[j][row] + at, ds[j].at[n].v); });
    });
  }
};

// Whether the cell's backward of this call looks at more than the plain one does.
RNNFAST_INLINE bool backward_extras(const BackwardArgs<Real>& a) {
  return a.options.has_params || a.dgates.base;
}

template <class Cell>
struct BackwardScratch {
  Walk walk;
  Index limit, chunk;  // places of a chunk, asked for and at most
  bool lazy_W, lazy_R;
  int nv_x, nv_h;
  Real *W, *R, *dgh, *dgx, *last_dgh, *carry[kMaxStates], *zero, *no_gates, *dbW, *dbR;
  Real *dropped, *masked;  // recurrent dropout: notes of the sequences, operands of a chunk
  IndexedSums sums;
  struct PerMember {
    const Real** rows;  // of a product over a chunk
    const Real** h;     // and the operands of R
    Real** to;          // and its results
    const Real** state[kMaxStates];
    Real** carry[kMaxStates];
    const Real** dy;
    const Real **dstates[kMaxStates], **dgates, **zoneout[kMaxStates];
    Real* kept[kMaxStates];  // slots, packed: what passes the cell by zoneout
    const Real** dropped;
    Real* bound;
    Real** gradient[kMaxStates];
    // Resets that put a state in place. The product that the step before them computes anyway has its gradient:
    Index* leaving;             // by b: one more than the number of the reset that waits for it
    Real** leaves[kMaxStates];  // by slot of the step, as CellBackward has it
    Real* nowhere;              // of a state that nothing was given for
    const Real** product;       // by b: the dgh of the step after, null: none
    Index* sent;                // by b: its place at that step
    Index* borders;             // first steps of the chunks, where a schedule makes them uneven
    Real *panels, *products;
    int32_t *stamp, *slots;
    MaskRows masks;
    explicit PerMember(const MaskRows& masks) : masks(masks) {}
  };
  Parts parts;

  // Rows per chunk: the gate gradients of 256 rows stay in L2. With 128 and with 512, forward and backward at (128, 8, 64, 64)
  // took 1.02 and 1.01 of the time with an LSTM, 1.02 and 0.99 with an RNN (AVX2, Zen 3). Where the weights exceed L2
  // anyway, each chunk reads and writes all of dW once, so fewer and larger chunks win (H=512: 50, 42, 39 ms at 128, 256, 512
  // rows).
  static Index chunk_rows(const Dims& d) {
    const Index bytes = Cell::G * d.H * (d.I + d.H) * Index(sizeof(Real));
    return bytes > (1 << 20) ? 1024 : 256;
  }

  BackwardScratch(Carver& carver, const BackwardArgs<Real>& a, int n)
      : walk{a.dims.T, a.dims.B, a.options.schedule},
        limit(chunk_rows(a.dims)),
        chunk(walk.chunk_places(limit)) {
    const Dims& d = a.dims;
    const bool by_units = split_units(d.B, n), drops = MaskRows::drops(a.options);
    const Index row = gate_row_stride<Cell>(d.H), units = unit_vectors(d.H) * kLanes;
    lazy_W = d.T * d.B <= 16 && (n == 1 || by_units);
    lazy_R = d.T <= 1 && (n == 1 || by_units);  // one product with R^T: dh0
    nv_x = column_vectors(d.I, lazy_W ? n : 1);
    nv_h = column_vectors(d.H, by_units ? n : 1);
    const ColumnPanels w = W_panels(a), r = R_panels(a);
    const bool want_dx = a.dx.base != nullptr;
    W = want_dx && !lazy_W ? carver.take<Real>(w.count() * w.size()) : nullptr;
    R = !lazy_R && a.reads_R() ? carver.take<Real>(r.count() * r.size()) : nullptr;
    dgh = carver.take<Real>(chunk * row);
    last_dgh = carver.take<Real>(d.B * row);
    dgx = Cell::one_gate_gradient ? dgh : carver.take<Real>(chunk * row);
    for (int s = 0; s < Cell::S; ++s) carry[s] = carver.take<Real>(d.B * units);
    zero = carver.take<Real>(d.H);
    no_gates = carver.take<Real>(row);
    dbW = carver.take<Real>(row);
    dbR = Cell::one_gate_gradient ? dbW : carver.take<Real>(row);
    dropped = MaskRows::room_of_sequences(carver, a.options, d.B, d.H);
    masked = drops ? carver.take<Real>(chunk * d.H) : nullptr;
    sums = IndexedSums{nullptr, nullptr, nullptr, row};
    if (a.index.used) {
      sums.table = carver.take<Real>(a.index.n * row);
      sums.block = carver.take<Real>(a.index.n * row);
    }
    parts.add(carver, n, [&](Carver& own) { member(own, a); });
  }
  ColumnPanels W_panels(const BackwardArgs<Real>& a) const {
    return {a.weights[Weight::W], a.dims.H, a.dims.I, Cell::G, nv_x};
  }
  ColumnPanels R_panels(const BackwardArgs<Real>& a) const {
    return {a.weights[Weight::R], a.dims.H, a.dims.H, Cell::G, nv_h};
  }
  PerMember member(Carver& carver, const BackwardArgs<Real>& a) const {
    const Dims& d = a.dims;
    const Options<Real>& o = a.options;
    const Index h = unit_vectors(d.H) * kLanes;
    PerMember m(MaskRows(carver, o, d.B, d.H, Cell::S, dropped, a.tape.masks, true));
    const auto table = [&](bool wanted) RNNFAST_INLINE_LAMBDA {
      return wanted ? carver.take<const Real*>(d.B) : nullptr;
    };
    m.rows = carver.take<const Real*>(max_of(chunk, d.B));
    m.h = carver.take<const Real*>(chunk);
    m.to = carver.take<Real*>(chunk);
    for (int s = 0; s < Cell::S; ++s) {
      m.state[s] = table(true);
      m.carry[s] = carver.take<Real*>(d.B);
      m.dstates[s] = table(a.dstates[s].base);
      m.zoneout[s] = table(o.draws_zoneout(s));
      m.kept[s] = o.zoneout[s] > 0 ? carver.take<Real>(d.B * h) : nullptr;
      m.gradient[s] = carver.take<Real*>(d.B);
    }
    m.dy = table(a.dy.base);
    m.dgates = table(a.dgates.base);
    m.dropped = table(MaskRows::drops(o));
    m.bound = o.gradient_clip > 0 ? carver.take<Real>(d.B) : nullptr;
    m.leaving = a.replaces() ? carver.take<Index>(d.B) : nullptr;
    for (int s = 0; s < Cell::S; ++s)
      m.leaves[s] = a.replaces() ? carver.take<Real*>(d.B) : nullptr;
    m.nowhere = a.replaces() ? carver.take<Real>(d.H) : nullptr;
    m.product = table(true);
    m.sent = carver.take<Index>(d.B);
    m.borders = o.schedule.first ? carver.take<Index>(d.T + 1) : nullptr;
    Index panel = 0;
    const auto room = [&](const ColumnPanels& p) RNNFAST_INLINE_LAMBDA {
      panel = max_of(panel, max_of(p.size(), 2 * p.count() * p.NV * kLanes));
    };
    if (lazy_W && a.dx.base) room(W_panels(a));
    if (lazy_R && a.reads_R()) room(R_panels(a));
    m.panels = panel ? carver.take<Real>(panel) : nullptr;
    const Index x = unit_vectors(d.I) * kLanes;
    Index products = a.index.used ? 0 : gradient_scratch(Cell::one_gate_gradient ? x + h : x);
    if (!Cell::one_gate_gradient || a.index.used) products = max_of(products, gradient_scratch(h));
    m.products = carver.take<Real>(products);
    m.stamp = a.index.used ? carver.take<int32_t>(a.index.n) : nullptr;
    m.slots = a.index.used ? carver.take<int32_t>(chunk) : nullptr;
    return m;
  }
};

template <class Cell>
void backward_scan(const BackwardArgs<Real>& a, void* scratch, const Member& m) {
  constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
  const Dims d = a.dims;
  const Options<Real>& o = a.options;
  Carver carver{static_cast<char*>(scratch)};
  BackwardScratch<Cell> shared(carver, a, m.n);
  Carver own_carver = shared.parts.of(scratch, m.id);
  const auto own = shared.member(own_carver, a);
  const Walk walk = shared.walk;
  const bool extras = backward_extras(a), drops = MaskRows::drops(o);
  const bool tabled = a.dgates.base || a.dstates[0].base || a.dstates[1].base || o.zones_out();
  const Real scale = dropout_scale(o.dropout);

  ColumnPanels W = shared.W_panels(a), R = shared.R_panels(a);
  W.member = R.member = m;
  // Checksums are taken on the way where all members read all rows exactly once.
  const bool once = !o.schedule.first && walk.places() == 1 && o.burn_in == 0;
  const auto note = [&](ColumnPanels& panels, uint64_t* sum, bool on_the_way)
                        RNNFAST_INLINE_LAMBDA {
                          if (on_the_way) panels.sum = {sum};
                          else WeightSum{sum}.add_all(panels.W, panels.H, panels.N, G, m);
                        };
  note(W, a.checksum[0], shared.W || (shared.lazy_W && a.dx.base && once));
  note(R, a.checksum[1], shared.R || (shared.lazy_R && a.reads_R() && once));
  const bool by_units = split_units(d.B, m.n);
  const Range panels = by_units ? share(R.count(), m) : Range{0, R.count()};
  const Range all{0, d.B}, rows = by_units ? all : walk.share_rows(m);
  const Index units = unit_vectors(d.H) * kLanes, row = gate_row_stride<Cell>(d.H);
  const Index depth = unit_vectors(d.H) * G * kLanes;
  const Range pairs = share(unit_vectors(d.H) * G, m);  // the rows of dW and dR that are mine
  // The units of a row that this member writes.
  const Range mine_of_row = by_units ? Range{min_of(units, panels.begin * shared.nv_h * kLanes),
                                             min_of(units, panels.end * shared.nv_h * kLanes)}
                                     : Range{0, units};

  {
    const Range w = share(W.count(), m), r = share(R.count(), m), b = share(d.B, m);
    if (shared.W) W.pack(w.begin, w.end, shared.W + w.begin * W.size());
    if (shared.R) R.pack(r.begin, r.end, shared.R + r.begin * R.size());
    for (Index i = b.begin; i < b.end; ++i) {
      for (int s = 0; s < S; ++s)
        copy_padded(a.dstate_n[s] ? a.dstate_n[s] + i * d.H : nullptr, d.H,
                    shared.carry[s] + i * units);
      if (shared.dropped) own.masks.of_sequence(i);
    }
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
    if (m.id == 0) {
      memset(shared.zero, 0, size_t(d.H) * sizeof(Real));
      memset(shared.no_gates, 0, size_t(depth) * sizeof(Real));
    }
    for (Index i = rows.begin; i < rows.end; ++i) {
      own.product[i] = nullptr;
      own.sent[i] = 0;
      if (own.leaving) own.leaving[i] = 0;
    }
    if (own.nowhere) memset(own.nowhere, 0, size_t(d.H) * sizeof(Real));
    m.barrier();
  }

  const History history{a.state0[0] ? a.state0[0] : shared.zero,
                        a.state0[0] ? d.H : 0,
                        a.y,
                        a.tape.states[1],
                        false,
                        a.tape.replaced,
                        d.B,
                        units,
                        S};
  const Panels W_panels{shared.W, own.panels, W.size()}, R_panels{shared.R, own.panels, R.size()};
  const Panels none{shared.zero, nullptr, 0};  // for a product of no terms
  int32_t stamp = 0;

  // Slot r of the coming product: what row b takes back from the step at which it was used next. Returns
  // whether there is a product at all.
  const auto receive = [&](Index r, Index b) RNNFAST_INLINE_LAMBDA {
    const bool some = own.product[b] != nullptr;
    own.rows[r] = some ? own.product[b] : shared.no_gates;
    for (int s = 0; s < S; ++s) own.carry[s][r] = shared.carry[s] + b * units;
    if (drops) own.dropped[r] = own.masks.dropout(r, own.sent[b], 0, b);
    // What came from outside was not sent by a step, and is not bounded.
    if (own.bound) own.bound[r] = some ? o.gradient_clip : Real(__builtin_inf());
    return some;
  };
  // What is done to all that the coming product is added to, be it for a step or for what leaves the scan.
  const auto around = [&]() RNNFAST_INLINE_LAMBDA {
    AroundCell r{};
    r.H = d.H;
    r.NV = shared.nv_h;
    r.S = S;
    for (int s = 0; s < S; ++s) r.carry[s] = own.carry[s];
    r.dropped = own.dropped;
    r.scale = scale;
    r.bound = own.bound;
    return r;
  };
  const auto multiply = [&](bool any, bool backwards, Index n,
                            const Epilogue& to) RNNFAST_INLINE_LAMBDA {
    run_stage(shared.nv_h, R, any ? R_panels : none, any ? depth : 0, panels.begin, panels.end,
              backwards, own.rows, n, nullptr, to);
  };
  // From here on nothing more reaches row b's earlier steps.
  const auto cut = [&](Index b) RNNFAST_INLINE_LAMBDA {
    own.product[b] = nullptr;
    for (int s = 0; s < S; ++s)
      memset(shared.carry[s] + b * units + mine_of_row.begin, 0,
             size_t(mine_of_row.size()) * sizeof(Real));
  };
  const auto leave = [&](bool any, Index n, bool add) RNNFAST_INLINE_LAMBDA {
    AroundCell gradient = around();
    for (int s = 0; s < S; ++s) gradient.leaves[s] = own.gradient[s];
    gradient.adds = add;
    multiply(any, false, n, epilogue(gradient));
  };
  // Where the gradient of state s goes that reset k put in place.
  const auto target = [&](int s, Index k) RNNFAST_INLINE_LAMBDA {
    return a.dreplacement[s] ? a.dreplacement[s] + o.schedule.reset_source[s][k] * d.H
                             : own.nowhere;
  };
  // The border before step t: resets take their rows' gradient, a cut drops it. `follows`: step t - 1 comes next, and
  // those of its rows leave it to that step.
  const auto border = [&](Index t, bool follows) RNNFAST_INLINE_LAMBDA {
    const Range resets = walk.resets(t, rows);
    if (own.leaving) {
      bool any = false;
      Index n = 0;
      for (Index k = resets.begin; k < resets.end; ++k) {
        const Index b = o.schedule.reset_row[k];
        if (follows && walk.uses(t - 1, b)) {
          own.leaving[b] = k + 1;
          continue;
        }
        any |= receive(n, b);
        for (int s = 0; s < S; ++s) own.gradient[s][n] = target(s, k);
        ++n;
      }
      if (n > 0) leave(any, n, true);
    }
    const auto cut_unless_leaving = [&](Index b) RNNFAST_INLINE_LAMBDA {
      if (!own.leaving || !own.leaving[b]) cut(b);
    };
    for (Index k = resets.begin; k < resets.end; ++k) cut_unless_leaving(o.schedule.reset_row[k]);
    if (t > 0 && t == o.burn_in)
      for (Index b = rows.begin; b < rows.end; ++b) cut(b);
    // A row that has ended is cut no more, or its final state's gradient would depend on the rows beside it.
    if (t > 0 && o.tbptt > 0 && t % o.tbptt == 0)
      for (Index b = rows.begin; b < rows.end; ++b)
        if (!o.schedule.lengths || t < o.schedule.lengths[b]) cut_unless_leaving(b);
  };

  // Chunk borders are counted from the first step.
  const Index even = max_of(1, shared.limit / max_of(1, d.B));
  Index chunks = 0;
  if (own.borders)
    for (Index t = 0; t < d.T; t = walk.chunk_end(t, shared.limit)) own.borders[chunks++] = t;
  bool fresh = true;  // no place has reached dW and dR
  const Index stop = min_of(d.T, o.burn_in);

  for (Index t1 = d.T; t1 > stop;) {
    if (own.borders)
      while (own.borders[chunks - 1] >= t1) --chunks;
    const Index t0 = max_of(stop, own.borders ? own.borders[chunks - 1] : (t1 - 1) / even * even);
    const Index first = walk.first(t0), n = walk.first(t1) - first;
    for (Index t = t1 - 1; t >= t0; --t) {
      if (t + 1 < d.T) border(t + 1, true);
      const Range at = walk.at(t, rows);
      bool any = false, leaves = false;
      walk.each(t, at, [&](Index p, Index b, Source from) RNNFAST_INLINE_LAMBDA {
        const Index r = p - at.begin;
        any |= receive(r, b);
        if (own.leaving) {
          const Index k = own.leaving[b];
          for (int s = 0; s < S; ++s) own.leaves[s][r] = k ? target(s, k - 1) : nullptr;
          own.leaving[b] = 0;
          leaves |= k > 0;
        }
        unroll<S>([&](auto s) RNNFAST_INLINE_LAMBDA {
          if (Cell::reads_state(s)) own.state[s][r] = history.state(s, from, b);
        });
        if (own.dy) own.dy[r] = a.dy.row(t, b);
      });
      if (tabled)
        walk.each(t, at, [&](Index p, Index b, Source) RNNFAST_INLINE_LAMBDA {
          const Index r = p - at.begin;
          for (int s = 0; s < S; ++s) {
            if (own.dstates[s]) own.dstates[s][r] = a.dstates[s].row(t, b);
            if (own.zoneout[s]) own.zoneout[s][r] = own.masks.zoneout(s, r, p, t, b);
          }
          if (own.dgates) own.dgates[r] = a.dgates.row(t, b);
        });
      const auto run = [&](auto more) RNNFAST_INLINE_LAMBDA {
        CellBackward<Cell, more> cell{};
        cell.H = d.H;
        cell.NV = shared.nv_h;
        cell.tape = a.tape.cell + at.begin * units * K;
        cell.row_stride = row;
        cell.dgh = shared.dgh + (at.begin - first) * row;
        cell.dgx = shared.dgx + (at.begin - first) * row;
        cell.around = around();
        cell.around.adds = true;
        cell.around.sent_bound = o.gradient_clip;
        (own.kept[0] ? cell.around.dy : cell.dy) = own.dy;
        for (int s = 0; s < S; ++s) {
          cell.state[s] = own.state[s];
          cell.carry[s] = own.carry[s];
          cell.around.leaves[s] = leaves ? own.leaves[s] : nullptr;
          cell.around.dstates[s] = own.dstates[s];
          cell.around.zoneout[s] = Zoneout::of(o, s, own.zoneout[s]);
          cell.around.kept[s] = own.kept[s];
        }
        cell.dgates = own.dgates;
        cell.params = o.has_params ? o.params : nullptr;
        multiply(any, t & 1, at.size(), epilogue(cell));
      };
      extras ? run(Constant<1>{}) : run(Constant<0>{});
      walk.each(t, at, [&](Index p, Index b, Source) RNNFAST_INLINE_LAMBDA {
        own.product[b] = shared.dgh + (p - first) * row;
        own.sent[b] = p;
      });
      if (by_units) m.barrier();
    }
    // What the next chunk's products read is kept beyond this chunk. Each member keeps what it wrote.
    for (Index b = rows.begin; b < rows.end; ++b) {
      Real* kept = shared.last_dgh + b * row;
      if (!own.product[b] || own.product[b] == kept) continue;
      memcpy(kept + mine_of_row.begin * G, own.product[b] + mine_of_row.begin * G,
             size_t(mine_of_row.size() * G) * sizeof(Real));
      own.product[b] = kept;
    }
    const Range mine = share(n, m);
    // f(i, t, b, source) for slots i of the places of this chunk.
    const auto each = [&](Range slots, auto&& f) RNNFAST_INLINE_LAMBDA {
      for (Index t = t0; t < t1; ++t) {
        const Range at = walk.at(t, all);
        walk.each(t, {max_of(at.begin, first + slots.begin), min_of(at.end, first + slots.end)},
                  [&](Index p, Index b, Source from)
                      RNNFAST_INLINE_LAMBDA { f(p - first, t, b, from); });
      }
    };
    if (drops)
      each(mine, [&](Index i, Index t, Index b, Source from) RNNFAST_INLINE_LAMBDA {
        drop_row(history.operand(from, b), own.masks.dropout(0, first + i, t, b), scale, d.H,
                 shared.masked + i * d.H);
      });
    m.barrier();

    const GateRows dgx{shared.dgx, row, n}, dgh{shared.dgh, row, n};
    if (a.dx.base) {
      // Members share the rows, or W where they pack it on the way.
      const Range of_rows = shared.lazy_W ? Range{0, n} : mine;
      const Range of_W = shared.lazy_W ? share(W.count(), m) : Range{0, W.count()};
      each(of_rows, [&](Index i, Index t, Index b, Source) RNNFAST_INLINE_LAMBDA {
        own.rows[i - of_rows.begin] = shared.dgx + i * row;
        own.to[i - of_rows.begin] = a.dx.row(t, b);
      });
      const Store store{own.to, d.I, shared.nv_x * kLanes};
      run_stage(shared.nv_x, W, W_panels, depth, of_W.begin, of_W.end, false, own.rows,
                of_rows.size(), nullptr, epilogue(store));
    }
    each({0, n}, [&](Index i, Index, Index b, Source from) RNNFAST_INLINE_LAMBDA {
      own.h[i] = drops ? shared.masked + i * d.H : history.operand(from, b);
    });
    const Operand h{own.h, d.H, a.dweights[int(Weight::R)]};
    const auto multiply_with = [&](const GateRows& g, const auto&... operands)
                                   RNNFAST_INLINE_LAMBDA {
                                     const Operand all[] = {operands...};
                                     weight_gradient(g, all, d.H, G, pairs, own.products, fresh);
                                   };
    if (a.index.used) {
      each({0, n}, [&](Index i, Index t, Index b, Source)
                       RNNFAST_INLINE_LAMBDA { own.slots[i] = int32_t(a.index.row(t, b)); });
      IndexedSums sums = shared.sums;
      sums.stamp = own.stamp;
      indexed_gradient(dgx, own.slots, pairs, sums, stamp);
      multiply_with(dgh, h);
    } else {
      each({0, n}, [&](Index i, Index t, Index b, Source)
                       RNNFAST_INLINE_LAMBDA { own.rows[i] = a.x.row(t, b); });
      const Operand x{own.rows, d.I, a.dweights[int(Weight::W)]};
      if constexpr (Cell::one_gate_gradient) {
        multiply_with(dgh, x, h);
      } else {
        multiply_with(dgx, x);
        multiply_with(dgh, h);
      }
    }
    bias_gradient(dgx, pairs, shared.dbW);
    if constexpr (!Cell::one_gate_gradient) bias_gradient(dgh, pairs, shared.dbR);
    if (n > 0) fresh = false;
    m.barrier();
    t1 = t0;
  }

  // The initial states: the border before step 0, or the end of a burn-in, which nothing passes.
  if (stop < d.T) border(stop, false);
  if (a.dstate0[0]) {
    if (o.burn_in > 0)
      for (Index b = rows.begin; b < rows.end; ++b) cut(b);
    bool any = false;
    for (Index b = rows.begin; b < rows.end; ++b) {
      any |= receive(b - rows.begin, b);
      for (int s = 0; s < S; ++s) own.gradient[s][b - rows.begin] = a.dstate0[s] + b * d.H;
    }
    leave(any, rows.size(), false);
  }
  m.barrier();
  if (fresh && m.id == 0) {  // no product has written the gradients
    if (!a.index.used) memset(a.dweights[int(Weight::W)], 0, size_t(G * d.H * d.I) * sizeof(Real));
    memset(a.dweights[int(Weight::R)], 0, size_t(G * d.H * d.H) * sizeof(Real));
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
