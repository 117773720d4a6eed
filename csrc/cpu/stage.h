// A stage: {operand rows, weight panels, epilogue}. Every product over time or batch is one: the input
// projection, the recurrent step (epilogue: the cell), its backward (epilogue: the cell's backward), dx,
// and the linear layer. The epilogue runs on each tile while it is in L1; no (B, G*H) array exists.
//
// A step of today's cells is a list of one stage. A cell with a second product inside the step (GRU with
// the reset gate before the product, projections, normalised gates) runs a second one over the first's result.
#pragma once
#include "../carver.h"
#include "pack.h"

namespace rnnfast {
namespace {

// f(Constant<n>) for the n in [1, N] that equals `value`.
template <int N, class F>
RNNFAST_INLINE void with_constant(int value, F&& f) {
  if constexpr (N > 0) {
    if (value == N) f(Constant<N>{});
    else with_constant<N - 1>(value, f);
  }
}

// What becomes of a finished part of the product, still in L1: rows [row, row + rows) of one panel, or, where there is
// one row, panels [panel, panel + panels) side by side; it may write there. Called through a pointer, so that a product is
// compiled once per width and not once per epilogue.
struct Epilogue {
  const void* self;
  void (*run)(const void* self, Index panel, Index panels, Index row, Index rows, Real* out);
  // Not null: nothing is run. The product is wanted as it comes, panel by panel, all rows of each.
  Real* to;
};
template <class E>
RNNFAST_INLINE Epilogue epilogue(const E& e) {
  return {&e,
          [](const void* self, Index panel, Index panels, Index row, Index rows, Real* out) {
            (*static_cast<const E*>(self))(panel, panels, row, rows, out);
          },
          nullptr};
}
RNNFAST_INLINE Epilogue written_to(Real* to) { return {nullptr, nullptr, to}; }

// What follows is for one row, where every weight is used once: W is read where it lies. Sums are in the order of tiles.

// sums[c] = the sum of n terms of a chain, elements of a row times columns of kLanes rows of W, beginning at from[c]. The
// terms of a chain wait for each other: those of N chains fill the gaps.
template <int N>
RNNFAST_INLINE void sum_columns(const Real* const (&from)[N], Index ld, const Real* const (&row)[N],
                                Index n, Ahead& ahead, Raw (&sums)[N]) {
  unroll<N>([&](auto c) RNNFAST_INLINE_LAMBDA { sums[c] = Raw{}; });
  Index k = 0;
  for (; k + kColumns <= n; k += kColumns)
    unroll<N>([&](auto c) RNNFAST_INLINE_LAMBDA {
      Raw columns[kColumns];
      load_columns(from[c] + k, ld, columns);
      ahead.ask<int(max_of(kColumns * kLanes / kLine, 1))>();
      unroll<kColumns>([&](auto i) RNNFAST_INLINE_LAMBDA {
        sums[c] = raw_fma(raw_set(row[c][k + i]), columns[i], sums[c]);
      });
    });
  for (; k < n; ++k)
    unroll<N>([&](auto c) RNNFAST_INLINE_LAMBDA {
      Real column[kLanes];
      for (Index l = 0; l < kLanes; ++l) column[l] = from[c][l * ld + k];
      sums[c] = raw_fma(raw_set(row[c][k]), raw_load(column), sums[c]);
    });
}

// One row with one panel of W, which has all its kLanes rows of each gate.
template <int NV>
RNNFAST_NOINLINE void row_by_rows(const RowPanels& W, Index panel, const Real* row,
                                  const Real* init, Real* out) {
  const Index K = W.K;
  const Real* rows[NV];
  Raw total[NV];
  unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA {
    rows[v] = W.W + (v % W.G * W.H + (panel * W.U + v / W.G) * kLanes) * K;
    total[v] = init ? raw_load(init + v * kLanes) : Raw{};
  });
  // Chains side by side: two blocks of the same rows, one behind the other in memory, and what is left over of all gates.
  const Index done = K / (2 * kBlock) * 2 * kBlock;
  for (int v = 0; v < NV; ++v)
    for (Index k = 0; k < done; k += 2 * kBlock) {
      Ahead ahead(rows[v], K, k, 2 * kBlock);
      const Real* const w = rows[v] + k;
      Raw sums[2];
      sum_columns({w, w + kBlock}, K, {row + k, row + k + kBlock}, kBlock, ahead, sums);
      total[v] = total[v] + sums[0] + sums[1];
    }
  for (Index k = done; k < K; k += kBlock) {
    const Real *from[NV], *at[NV];
    unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA {
      from[v] = rows[v] + k;
      at[v] = row + k;
    });
    Ahead nothing;
    Raw sums[NV];
    sum_columns(from, K, at, min_of(kBlock, K - k), nothing, sums);
    unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA { total[v] += sums[v]; });
  }
  unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA { raw_store(out + v * kLanes, total[v]); });
  W.note(panel);
}

// One step forward and backward took, with 4 and with 12 for 8, 1.04 each of the time for a GRU with H = 1024, and as long
// or 1.02 with H = 256 (AVX2, Zen 3).
constexpr int kRowsAtOnce = 8;

// sums (n columns) = (fresh ? 0 : sums) + the sum over R rows of W, w[r] each, times x[r].
template <int R>
RNNFAST_NOINLINE void add_rows(const Real* const* w, const Real* x, Index n, bool fresh,
                               Real* sums) {
  Raw factor[R];
  unroll<R>([&](auto r) RNNFAST_INLINE_LAMBDA { factor[r] = raw_set(x[r]); });
  const auto add = [&](Index j, auto lanes) RNNFAST_INLINE_LAMBDA {
    Raw acc = fresh ? Raw{} : raw_load(sums + j);
    unroll<R>([&](auto r) RNNFAST_INLINE_LAMBDA {
      acc = raw_fma(factor[r], raw_load(w[r] + j, lanes), acc);
    });
    raw_store(sums + j, acc);
  };
  Index j = 0;
  for (; j + kLanes <= n; j += kLanes) add(j, Constant<kLanes>{});
  if (j < n) add(j, int(n - j));
}

// One row with panels [first, last) of W^T: sums (count, width). `block`: room for as much.
RNNFAST_NOINLINE void row_by_columns(const ColumnPanels& W, Index first, Index last,
                                     const Real* row, Real* sums, Real* block) {
  const Index width = W.NV * kLanes, begin = first * width, count = (last - first) * width;
  const Index columns = min_of(last * width, W.N) - begin;
  memset(sums, 0, size_t(count) * sizeof(Real));
  for (Index k0 = 0; k0 < W.depth(); k0 += kBlock) {
    const Index k1 = min_of(k0 + kBlock, W.depth());
    const Real* w[kBlock];
    Real x[kBlock];
    Index terms = 0;
    for (Index k = k0; k < k1; ++k)
      if (const Real* from = W.row(k)) {
        w[terms] = from + begin;
        x[terms++] = row[k];
      }
    for (Index i = 0; i < terms; i += kRowsAtOnce)
      with_constant<kRowsAtOnce>(
          int(min_of(kRowsAtOnce, terms - i)),
          [&](auto R) RNNFAST_INLINE_LAMBDA { add_rows<R>(w + i, x + i, columns, i == 0, block); });
    for (Index j = 0; j < columns && terms > 0; j += kLanes)
      raw_store(sums + j, raw_load(sums + j) + raw_load(block + j));
    W.note(k0, k1);
  }
}

// A slice of a panel stays in L1 while a group of rows passes over it, with the sums of the group beside it. Without
// slices a panel of K = 512 (64 KiB) comes from L2 again for every few rows. With those and packed gate gradients
// (weight_gradient.h) an LSTM forward and back at (128, 64, 512, 512) took 0.96 of the time on one thread and 0.90 on
// two, at H = 256 as long as before (AVX2, Zen 3; medians of 7 pairs that spread by 5 to 10 %).
constexpr Index kSliceBytes = 16 << 10, kGroupRows = 48;

// The first rows of a group would wait for every line of a slice that comes from the third-level cache or from memory.
// So each block of rows asks for a share of the slice that is next. LSTM (16, 128, 1024, 1024) on one thread, time over
// that without (AVX2, Zen 3, medians of 4 pairs): forward 0.92, backward 1.00; at H = 512, 4 MiB of weights, 0.97 and
// 1.02, at H = 256 longer: asked for from 512 KiB on. With 4 blocks of rows inference at H = 1024 took 0.97 of the time when
// it asked, LSTM and GRU alike, with 8 1.04 and 1.03 when it did not; with 2 1.00 each, with 3 1.02 and 0.98 when it asked.
constexpr Index kAskedBytes = 4 << 20, kBlocksToAsk = 4;

// With one row, so many panels go to the epilogue at once: two bundles of one gate's panels. Inference at (100, 1, 64, 64) and
// (100, 1, 256, 256) took 0.99 to 1.02 of the time with 4, 0.99 to 1.01 with 16 (AVX2, Zen 3).
constexpr Index kPanelsAtOnce = 8;

// The product of rows[0..n) with panels [first, last) of `source` (K terms each). init: null, or a packed
// row of starting values, one tile width per panel. Odd steps walk backwards: the panels used last are
// the ones still in cache (20 % at B=1 when the weights are just over a cache level).
template <int NV, class Source>
RNNFAST_NOINLINE void run_stage(const Source& source, const Panels& panels, Index K, Index first,
                                Index last, bool backwards, const Real* const* rows, Index n,
                                const Real* init, const Epilogue& epilogue) {
  constexpr int kWidth = NV * kLanes;
  alignas(64) Real out[max_of(kTileSize, kGroupRows * kWidth)];
  const auto weights = [&](Index panel) RNNFAST_INLINE_LAMBDA -> const Real* {
    if (panels.packed || K == 0) return panels.packed + panel * panels.size;
    source.pack(panel, panels.buffer);
    return panels.buffer;
  };
  if (n == 1) {
    if constexpr (Source::by_columns)
      if (!panels.packed && K > 0) {
        const Index count = last - first;
        row_by_columns(source, first, last, rows[0], panels.buffer, panels.buffer + count * kWidth);
        epilogue.run(epilogue.self, first, count, 0, 1, panels.buffer);
        return;
      }
    for (Index done = 0; done < last - first;) {
      const Index count = min_of(kPanelsAtOnce, last - first - done);
      const Index panel = backwards ? last - done - count : first + done;
      for (Index i = 0; i < count;) {
        Real* const to = epilogue.to ? epilogue.to + (panel + i) * kWidth : out + i * kWidth;
        const Real* const start = init ? init + (panel + i) * kWidth : nullptr;
        if constexpr (!Source::by_columns)
          if (!panels.packed && K > 0 && (panel + i + 1) * source.U * kLanes <= source.H) {
            row_by_rows<NV>(source, panel + i++, rows[0], start, to);
            continue;
          }
        const Real* const w = weights(panel + i);
        int pn = panels.packed || K == 0 ? max_panels<NV>() : 1;
        while (pn > count - i) pn /= 2;
        if (pn == 8)
          row_tile<max_panels<NV>() >= 8 ? 8 : 1, NV>(rows[0], w, panels.size, K, start, to);
        else if (pn == 4)
          row_tile<max_panels<NV>() >= 4 ? 4 : 1, NV>(rows[0], w, panels.size, K, start, to);
        else if (pn == 2) row_tile<2, NV>(rows[0], w, panels.size, K, start, to);
        else row_tile<1, NV>(rows[0], w, panels.size, K, start, to);
        i += pn;
      }
      if (!epilogue.to) epilogue.run(epilogue.self, panel, count, 0, 1, out);
      done += count;
    }
    return;
  }
  constexpr int kRows = max_rows<NV>();
  // Blocks of rows, split evenly: 32 rows are 6 5 5 5 5 6, not 5 x 6 + 2. A group of them passes over a panel slice by
  // slice, its sums so far beside it in L1.
  const Index blocks = (n + kRows - 1) / kRows, group = kGroupRows / kRows;
  const Index depth = max_of(kSliceBytes / Index(kWidth * sizeof(Real)) / kBlock, 1) * kBlock;
  const bool asks = panels.packed && blocks >= kBlocksToAsk &&
                    (last - first) * panels.size * Index(sizeof(Real)) > kAskedBytes;
  for (Index j = first; j < last; ++j) {
    const Index panel = backwards ? first + last - 1 - j : j;
    const Real* w = weights(panel);
    for (Index block0 = 0; block0 < blocks; block0 += group) {
      const Index block1 = min_of(block0 + group, blocks), row0 = block0 * n / blocks;
      const Real* start = init ? init + panel * kWidth : nullptr;
      Real* const group_sums = epilogue.to ? epilogue.to + (panel * n + row0) * kWidth : out;
      Index ld_start = 0, k = 0;
      do {
        const Index terms = min_of(depth, K - k);
        const Real* next = nullptr;
        Index asked = 0;
        if (asks) {
          asked = depth * kWidth / (block1 - block0) + kLine;
          if (k + terms < K) next = w + (k + terms) * kWidth;
          else if (block1 < blocks) next = w;
          else if (j + 1 < last) next = backwards ? w - panels.size : w + panels.size;
        }
        for (Index block = block0, r = row0; block < block1; ++block) {
          const Index end = (block + 1) * n / blocks;
          const int mb = int(end - r);
          Real* const sums = group_sums + (r - row0) * kWidth;
          const Real* before = ld_start ? sums : start;
          with_constant<kRows>(mb, [&](auto MB) RNNFAST_INLINE_LAMBDA {
            tile<MB, NV>(rows + r, k, w + k * kWidth, terms, before, ld_start, sums);
          });
          if (next)
            for (const Real* const end_of_share = next + asked; next < end_of_share; next += kLine)
              __builtin_prefetch(next, 0, 2);
          r = end;
        }
        k += terms;
        ld_start = kWidth;
      } while (k < K);
      if (!epilogue.to)
        epilogue.run(epilogue.self, panel, 1, row0, block1 * n / blocks - row0, out);
    }
  }
}

// Vectors per panel for a product with N result columns, when `members` share its panels: as wide as
// leaves no lane idle and no member without a panel.
RNNFAST_INLINE int column_vectors(Index N, int members) {
  const Index vectors = unit_vectors(N);
  if (vectors <= members) return 1;
  if (vectors <= 2 * members || vectors == 2) return 2;
  return 4;
}

// run_stage with a width known only at run time (1 ... 4 vectors).
template <class Source>
RNNFAST_INLINE void run_stage(int nv, const Source& source, const Panels& panels, Index K,
                              Index first, Index last, bool backwards, const Real* const* rows,
                              Index n, const Real* init, const Epilogue& epilogue) {
  if (n <= 0) return;
  with_constant<4>(nv, [&](auto NV) RNNFAST_INLINE_LAMBDA {
    run_stage<NV>(source, panels, K, first, last, backwards, rows, n, init, epilogue);
  });
}

// The epilogue that only stores: row r of the product to to[r], columns cut at N.
struct Store {
  Real* const* to;
  Index N;
  int width;
  RNNFAST_INLINE void operator()(Index panel, Index panels, Index r, Index rows,
                                 const Real* out) const {
    const Index column = panel * width;
    const Index valid = min_of(panels * width, N - column);
    for (Index m = 0; m < rows; ++m, out += width) {
      Real* row = to[r + m] + column;
      Index j = 0;
      for (; j + kLanes <= valid; j += kLanes) raw_store(row + j, raw_load(out + j));
      if (j < valid) raw_store(row + j, raw_load(out + j), int(valid - j));
    }
  }
};

// Scratch of a team: what its members share, and behind it one equal part for each of them.
struct Parts {
  size_t base = 0, size = 0;
  template <class CarveOne>
  RNNFAST_INLINE void add(Carver& carver, int n, CarveOne&& carve_one) {
    Carver measure{nullptr};
    carve_one(measure);
    base = carver.used;
    size = measure.used;
    carver.used += size * size_t(n);
  }
  RNNFAST_INLINE Carver of(void* scratch, int id) const {
    return {static_cast<char*>(scratch) + base + size_t(id) * size};
  }
};

struct Range {
  Index begin, end;
  RNNFAST_INLINE Index size() const { return end - begin; }
};
RNNFAST_INLINE Range share(Index n, const Member& m) {
  return {n * m.id / m.n, n * (m.id + 1) / m.n};
}

// Few rows per member: split hidden units, with a barrier per step; else split the batch, with none.
// Measured at H=128: 2 rows 237 -> 128 us, 6 rows 350 -> 297 us by units; from 8 rows on equal. With 2 for 4 an LSTM's inference
// with 4 and 6 rows took 1.24 and 1.26 of the time on two threads, with 8 for 4 one with 8 rows 1.05, forward and backward of a
// GRU with 8 rows and H=256 1.07 (AVX-512, Emerald Rapids).
constexpr Index kRowsPerMember = 4;
RNNFAST_INLINE bool split_units(Index B, int n) { return n > 1 && B < kRowsPerMember * n; }

}  // namespace
}  // namespace rnnfast
