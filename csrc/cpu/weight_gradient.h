// dW (G*H, N) += sum over rows r of gate_gradient[r] (outer) operand[r], written in the caller's own layout:
// vectors run along N, the gate gradients are broadcast, so nothing is packed but a strip of the operand and
// nothing is transposed back at the end. Also the sums over rows for biases, and the indexed form for index input.
//
// Rows are summed in blocks of kBlock from zero, and each block is added to what stood before: the order depends on T
// and B, never on the members, who own disjoint rows of dW.
#pragma once
#include "history.h"

namespace rnnfast {
namespace {

constexpr int kOuterRows =
    kRegisters == 32 ? int(kLanes < 8 ? kLanes : 8) : int(kLanes < 4 ? kLanes : 4);
#if defined(__FMA__) || defined(__aarch64__)
constexpr int kOuterVectors = kRegisters == 32 && kOuterRows < 8 ? 4 : 3;
#else
constexpr int kOuterVectors = 2;
#endif
// Rows are taken in blocks. A strip of the operands (24 KiB) stays in L1 while the gate gradients of a group of (unit,
// gate) pairs pass over it, and those stay in L2 while strip after strip passes over them: 128 KiB, or 256 where AVX-512
// is, whose CPUs have more of it. In Gflop/s for H = N of 256, 512 and 1024, strips of 24 KiB gave 180, 176 and 153, of
// 48 KiB 164, 167 and 154 (a Xeon with AVX-512, peak 211). With AVX2 (Zen 3) an LSTM's backward at I = H = 512 took 0.975
// of the time with strips of 24 KiB for 12.
constexpr Index kStripRow = kOuterVectors * RNNFAST_VECTOR_BYTES;  // bytes
constexpr Index kBlockRows = (24 << 10) / kStripRow < 256 ? (24 << 10) / kStripRow : 256;
constexpr Index kGroup = RNNFAST_VECTOR_BYTES == 64 ? 32 : 16;
// Of so many strips on the gate gradients are copied first, which costs about as much as a few strips gain. Without it forward
// and backward on one thread took, with 3 strips 0.96 to 0.98 of the time, with 4 0.98, with 5 1.01, with 6 0.98 and 0.99, with
// 8 1.00 and 1.01 (AVX2, Zen 3). Two builds of the same code differed by up to 3 %. With AVX-512 nothing stood out of the
// noise (docs/benchmarks.md, "Constants of the kernels").
constexpr Index kStripsToPack = 7;
// They are copied kOuterRows at a time, each to a place of its own, a cache line further than a power of two: as many as a
// row has would fall on the same few sets.
constexpr Index kPart = kBlockRows * kOuterRows + 64 / Index(sizeof(Real));
constexpr Index kGroupSize = kGroup * (kLanes / kOuterRows) * kPart;
// Where the operands have so many columns in all, every strip is copied once, before the first group: rows of a power of
// two of bytes share their cache sets as they lie. With fewer, a strip is copied for each group, when its turn comes. An
// LSTM's backward and forward, for 1,024 columns (I = H = 512) 0.93 and 1.00 of the time; 384, 0.98 and 1.02; 192, 1.01
// and 1.03 (AVX2, Zen 3). The upper bound is chosen: they take 8 MiB there.
constexpr Index kColumnsAhead = 512, kMostAhead = 8192;
RNNFAST_INLINE bool copies_ahead(Index columns) {
  return columns > kColumnsAhead && columns <= kMostAhead;
}
// Elements of scratch for operands of so many columns in all, each in whole vectors.
RNNFAST_INLINE Index gradient_scratch(Index columns) {
  return kGroupSize + kBlockRows * (copies_ahead(columns) ? columns : kOuterVectors * kLanes);
}

// Gate gradients of `n` rows in chunk order: row r at base + r * ld, as a gate row [unit][gate][lane].
struct GateRows {
  const Real* base;
  Index ld, n;
};

// Those of a block of rows and a group of pairs, where a strip finds them: kOuterRows of a pair at row r stand at
// at(item, lane) + r * ld.
struct GateBlock {
  const Real* base;
  Index ld, pair, part;  // from a row, a pair, and kOuterRows lanes of it to the next
  RNNFAST_INLINE const Real* at(Index item, int lane) const {
    return base + item * pair + lane / kOuterRows * part;
  }
};

// Copied in the order of use: as they lie every row is in a page of its own, and a core knows fewer pages at once than
// a block has rows.
RNNFAST_NOINLINE GateBlock pack_gates(const GateRows& g, Index r0, Index rows, Range group,
                                      Real* packed) {
  for (Index r = 0; r < rows; ++r) {
    const Real* from = g.base + (r0 + r) * g.ld + group.begin * kLanes;
    for (Index i = 0; i < group.size() * kLanes; i += kOuterRows)
      memcpy(packed + i / kOuterRows * kPart + r * kOuterRows, from + i, kOuterRows * sizeof(Real));
  }
  return {packed, kOuterRows, kLanes / kOuterRows * kPart, kPart};
}

// One block of rows, the pairs of `group`, one strip of columns.
template <int NV>
RNNFAST_NOINLINE void gradient_strip(const GateBlock& gates, Index rows, const Real* strip, Index H,
                                     int G, Range group, Real* dW, Index N, Index column,
                                     Index valid, bool first) {
  alignas(64) Real out[kTileSize];
  for (Index item = group.begin; item < group.end; ++item) {
    const Index unit = item / G, gate = item % G;
    for (int l = 0; l < kLanes; l += kOuterRows) {
      const Index h = unit * kLanes + l;
      if (h >= H) break;
      const Index count = min_of(kOuterRows, H - h);
      const Real* a = gates.at(item - group.begin, l);
      Real* to = dW + (gate * H + h) * N + column;
      if (count == kOuterRows && valid == NV * kLanes) {
        outer_tile<kOuterRows, NV>(a, gates.ld, strip, rows, first, to, N);
        continue;
      }
      // An edge goes through a whole tile of its own.
      const auto each = [&](auto&& f) RNNFAST_INLINE_LAMBDA {
        for (Index i = 0; i < count; ++i)
          for (Index j = 0; j < valid; j += kLanes)
            f(to + i * N + j, out + i * NV * kLanes + j, int(min_of(kLanes, valid - j)));
      };
      if (!first)
        each([](const Real* in, Real* tile, int lanes)
                 RNNFAST_INLINE_LAMBDA { raw_store(tile, raw_load(in, lanes)); });
      outer_tile<kOuterRows, NV>(a, gates.ld, strip, rows, first, out, NV * kLanes);
      each([](Real* in, const Real* tile, int lanes)
               RNNFAST_INLINE_LAMBDA { raw_store(in, raw_load(tile), lanes); });
    }
  }
}

// Of a single row: nothing is used twice, so dW is written as it lies; a large one past the caches, which would read it
// first, and lose the weights that the next step reads. Without that one step forward and backward with H = 1024 took 1.15
// (RNN), 1.17 (GRU) and 1.20 (LSTM) of the time. With it an RNN of H = 512 (1 MiB) took 1.06, a GRU of H = 512 (3 MiB) 0.90 and
// 0.93 (AVX2, Zen 3). Below 4 MiB it is left out all the same: who reads dW next would not find it in a cache.
constexpr Index kStreamed = Index(4) << 20;  // bytes
RNNFAST_NOINLINE void one_row_gradient(const GateRows& g, const Real* x, Index H, int G, Range mine,
                                       Real* dW, Index N, bool first) {
  const bool streams =
      can_stream(dW) && first && N % kLanes == 0 && G * H * N * Index(sizeof(Real)) >= kStreamed;
  for (Index item = mine.begin; item < mine.end; ++item)
    for (Index h = item / G * kLanes; h < min_of(H, (item / G + 1) * kLanes); ++h) {
      const Raw factor = raw_set(g.base[item * kLanes + h % kLanes]);
      Real* to = dW + (item % G * H + h) * N;
      const auto add = [&](Index j, auto lanes) RNNFAST_INLINE_LAMBDA {
        const Raw term = raw_fma(factor, raw_load(x + j, lanes), Raw{});
        raw_store(to + j, first ? term : raw_load(to + j, lanes) + term, lanes);
      };
      Index j = 0;
      if (streams)
        for (; j < N; j += kLanes) raw_stream(to + j, raw_fma(factor, raw_load(x + j), Raw{}));
      for (; j + kLanes <= N; j += kLanes) add(j, Constant<kLanes>{});
      if (j < N) add(j, int(N - j));
    }
  if (streams) stream_done();
}

// What the gate gradients of weights are multiplied with: rows (N,) in chunk order. dW (G*H, N) receives the sum.
struct Operand {
  const Real* const* rows;
  Index N;
  Real* dW;
  RNNFAST_INLINE Index vectors() const { return unit_vectors(N); }
  RNNFAST_INLINE Index strips() const { return (vectors() + kOuterVectors - 1) / kOuterVectors; }
};

// Columns [column, column + valid) of some rows, as rows of whole vectors.
RNNFAST_NOINLINE void pack_strip(const Real* const* rows, Index n, Index column, Index valid,
                                 Real* to) {
  for (Index r = 0; r < n; ++r) {
    const Real* from = rows[r] + column;
    Index j = 0;
    for (; j + kLanes <= valid; j += kLanes, to += kLanes) raw_store(to, raw_load(from + j));
    if (j < valid) {
      raw_store(to, raw_load(from + j, int(valid - j)));
      to += kLanes;
    }
  }
}

// All operands of the same gate gradients. scratch: gradient_scratch elements for their columns. mine: the share of the
// (unit, gate) pairs. first: nothing stands in dW yet.
template <int n>
RNNFAST_NOINLINE void weight_gradient(const GateRows& g, const Operand (&operands)[n], Index H,
                                      int G, Range mine, Real* scratch, bool first) {
  if (g.n == 1) {
    for (const Operand& o : operands) one_row_gradient(g, o.rows[0], H, G, mine, o.dW, o.N, first);
    return;
  }
  Index strips = 0, columns = 0;
  for (const Operand& o : operands) {
    strips += o.strips();
    columns += o.vectors() * kLanes;
  }
  const bool ahead = copies_ahead(columns);
  for (Index r0 = 0; r0 < g.n; r0 += kBlockRows) {
    const Index rows = min_of(kBlockRows, g.n - r0);
    // f(operand, vectors, first column, columns, copy)
    const auto each_strip = [&](auto&& f) RNNFAST_INLINE_LAMBDA {
      Real* to = scratch + kGroupSize;
      for (const Operand& o : operands)
        for (Index s = 0, v0 = 0; s < o.strips(); ++s) {
          const Index v1 = (s + 1) * o.vectors() / o.strips(), column = v0 * kLanes;
          f(o, int(v1 - v0), column, min_of((v1 - v0) * kLanes, o.N - column), to);
          if (ahead) to += rows * (v1 - v0) * kLanes;
          v0 = v1;
        }
    };
    const auto pack =
        [&](const Operand& o, int, Index column, Index valid, Real* to)
            RNNFAST_INLINE_LAMBDA { pack_strip(o.rows + r0, rows, column, valid, to); };
    if (ahead) each_strip(pack);
    for (Index begin = mine.begin; begin < mine.end; begin += kGroup) {
      const Range group{begin, min_of(begin + kGroup, mine.end)};
      const GateBlock gates =
          strips < kStripsToPack
              ? GateBlock{g.base + r0 * g.ld + begin * kLanes, g.ld, kLanes, kOuterRows}
              : pack_gates(g, r0, rows, group, scratch);
      each_strip([&](const Operand& o, int nv, Index column, Index valid, Real* to)
                     RNNFAST_INLINE_LAMBDA {
                       if (!ahead) pack(o, nv, column, valid, to);
                       with_constant<kOuterVectors>(nv, [&](auto NV) RNNFAST_INLINE_LAMBDA {
                         gradient_strip<NV>(gates, rows, to, H, G, group, o.dW, o.N, column, valid,
                                            first && r0 == 0);
                       });
                     });
    }
  }
}

// sum (one gate row) += the gate gradients of all rows, for the pairs of `mine`.
RNNFAST_NOINLINE void bias_gradient(const GateRows& g, Range mine, Real* sum) {
  for (Index item = mine.begin; item < mine.end; ++item) {
    Raw total = raw_load(sum + item * kLanes);
    for (Index r0 = 0; r0 < g.n; r0 += kBlock) {
      const Index end = min_of(g.n, r0 + kBlock);
      Raw block = {};
      for (Index r = r0; r < end; ++r) block += raw_load(g.base + r * g.ld + item * kLanes);
      total += block;
    }
    raw_store(sum + item * kLanes, total);
  }
}

// The same sums where the operand is one-hot: row slots[r] of `table` (n, ld) receives gate gradient r. Blocks as
// above, so the bits equal those of the dense product with a one-hot operand.
struct IndexedSums {
  Real *table, *block;  // (n, ld): all rows so far, and those of the current block
  int32_t* stamp;       // (n,): this member's; the block that last wrote a row of `block`
  Index ld;
};
RNNFAST_NOINLINE void indexed_gradient(const GateRows& g, const int32_t* slots, Range mine,
                                       const IndexedSums& sums, int32_t& stamp) {
  const Index begin = mine.begin * kLanes, end = mine.end * kLanes;
  for (Index r0 = 0; r0 < g.n; r0 += kBlock) {
    const Index r1 = min_of(g.n, r0 + kBlock);
    ++stamp;
    for (Index r = r0; r < r1; ++r) {
      const Index slot = slots[r];
      const bool fresh = sums.stamp[slot] != stamp;
      sums.stamp[slot] = stamp;
      Real* to = sums.block + slot * sums.ld;
      for (Index i = begin; i < end; i += kLanes) {
        const Raw add = raw_load(g.base + r * g.ld + i);
        raw_store(to + i, fresh ? Raw{} + add : raw_load(to + i) + add);
      }
    }
    for (Index r = r0; r < r1; ++r) {
      const Index slot = slots[r];
      if (sums.stamp[slot] != stamp) continue;
      sums.stamp[slot] = -1;  // added once
      Real* to = sums.table + slot * sums.ld;
      const Real* from = sums.block + slot * sums.ld;
      for (Index i = begin; i < end; i += kLanes)
        raw_store(to + i, raw_load(to + i) + raw_load(from + i));
    }
  }
}

}  // namespace
}  // namespace rnnfast
