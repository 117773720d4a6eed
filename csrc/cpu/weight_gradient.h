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
// The strip (24 KiB) and the gate gradients (8 KiB) of a block fit L1 together; the gate gradients of a group of
// (unit, gate) pairs (256 KiB) stay in L2 while strip after strip passes over them. Measured on a Xeon with 2 MiB of L2,
// AVX-512, Gflop/s for H = N of 256, 512 and 1024 (peak 211): 180, 176, 153; strip by strip over all rows, through a
// copy of each tile, 116, 112, 103; with blocks of 256 rows 164, 167, 154.
constexpr Index kBlockRows = 128, kGroup = 32;
// Of so many strips on the gate gradients are copied first: the copy costs about as much as a strip gains.
constexpr Index kStripsToPack = 3;
// A strip, and the gate gradients of a group.
constexpr Index kGradientScratch = kBlockRows * kLanes * (kOuterVectors + kGroup);

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
      memcpy(packed + (i * kBlockRows) + r * kOuterRows, from + i, kOuterRows * sizeof(Real));
  }
  return {packed, kOuterRows, kBlockRows * kLanes, kBlockRows * kOuterRows};
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
// first, and lose the weights that the next step reads.
constexpr Index kStreamed = Index(4) << 20;  // bytes
RNNFAST_NOINLINE void one_row_gradient(const GateRows& g, const Real* x, Index H, int G, Range mine,
                                       Real* dW, Index N, bool first) {
  const bool streams = kStreams && first && N % kLanes == 0 &&
                       G * H * N * Index(sizeof(Real)) >= kStreamed &&
                       uintptr_t(dW) % RNNFAST_VECTOR_BYTES == 0;
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

// operand: the n rows in chunk order. strip: kGradientScratch elements of scratch. mine: the share of the (unit, gate)
// pairs. first: nothing stands in dW yet.
RNNFAST_NOINLINE void weight_gradient(const GateRows& g, const Real* const* operand, Index H, int G,
                                      Index N, Real* dW, Range mine, Real* strip, bool first) {
  if (g.n == 1) return one_row_gradient(g, operand[0], H, G, mine, dW, N, first);
  const Index vectors = unit_vectors(N), strips = (vectors + kOuterVectors - 1) / kOuterVectors;
  for (Index r0 = 0; r0 < g.n; r0 += kBlockRows) {
    const Index rows = min_of(kBlockRows, g.n - r0);
    for (Index begin = mine.begin; begin < mine.end; begin += kGroup) {
      const Range group{begin, min_of(begin + kGroup, mine.end)};
      const GateBlock gates =
          strips < kStripsToPack
              ? GateBlock{g.base + r0 * g.ld + begin * kLanes, g.ld, kLanes, kOuterRows}
              : pack_gates(g, r0, rows, group, strip + kBlockRows * kOuterVectors * kLanes);
      for (Index s = 0, v0 = 0; s < strips; ++s) {
        const Index v1 = (s + 1) * vectors / strips;
        const int nv = int(v1 - v0);
        const Index column = v0 * kLanes, valid = min_of(nv * kLanes, N - column);
        for (Index r = 0; r < rows; ++r) {
          const Real* from = operand[r0 + r] + column;
          Real* to = strip + r * nv * kLanes;
          Index j = 0;
          for (; j + kLanes <= valid; j += kLanes) raw_store(to + j, raw_load(from + j));
          if (j < valid) raw_store(to + j, raw_load(from + j, int(valid - j)));
        }
        with_constant<kOuterVectors>(nv, [&](auto NV) RNNFAST_INLINE_LAMBDA {
          gradient_strip<NV>(gates, rows, strip, H, G, group, dW, N, column, valid,
                             first && r0 == 0);
        });
        v0 = v1;
      }
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
