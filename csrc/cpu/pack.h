// Packed layouts. Hidden units are taken kLanes at a time ("units"); the last vector is padded with zero
// weights, so that padding lanes compute finite values and zero gradients, and never reach an output.
//
//   Panels of W (G*H, K):       [panel][k][u][gate][lane]  with U unit vectors per panel: all gates of the same
//                               hidden units meet in one register tile. U > 1 only where a cell has one gate.
//   Panels of W^T:              [panel][(unit, gate, lane)][v][lane]  the rows of W as they are, cut in columns
//   Gate rows (gx, dgx, dgh, biases, index tables): [unit][gate][lane]
#pragma once
#include "checksum.h"
#include "tile.h"

namespace rnnfast {
namespace {

RNNFAST_INLINE Index unit_vectors(Index H) { return (H + kLanes - 1) / kLanes; }
RNNFAST_INLINE constexpr Index min_of(Index a, Index b) { return a < b ? a : b; }
RNNFAST_INLINE constexpr Index max_of(Index a, Index b) { return a > b ? a : b; }

// A transpose in registers, in rounds of two-way shuffles. Rounds of S swap blocks of S lanes; for floats the last two are
// such as one instruction each does: in blocks of four lanes, a0 b0 a1 b1 and a2 b2 a3 b3, then rounds of 2.
constexpr int kZip = 0;
template <int S>
constexpr int shuffle_index(int lane, bool high) {
  if (S == kZip) return lane / 4 * 4 + (high ? 2 : 0) + lane % 4 / 2 + (lane % 2 ? kLanes : 0);
  return high ? (lane & S ? kLanes + lane : lane + S) : (lane & S ? kLanes + lane - S : lane);
}
#if defined(__clang__) || __GNUC__ >= 12
template <int S, bool high, class Done, int next>
struct ShuffleBuild;
template <int... lanes>
struct LaneList {};
template <int S, bool high, int next, int... lanes>
struct ShuffleBuild<S, high, LaneList<lanes...>, next> {
  static RNNFAST_INLINE Raw apply(Raw a, Raw b) {
    if constexpr (next == kLanes) return __builtin_shufflevector(a, b, lanes...);
    else
      return ShuffleBuild<S, high, LaneList<lanes..., shuffle_index<S>(next, high)>,
                          next + 1>::apply(a, b);
  }
};
template <int S, bool high>
RNNFAST_INLINE Raw shuffle(Raw a, Raw b) {
  return ShuffleBuild<S, high, LaneList<>, 0>::apply(a, b);
}
#else  // GCC before 12 has only the form with a mask vector
template <int S, bool high>
RNNFAST_INLINE Raw shuffle(Raw a, Raw b) {
  RawBits mask;
  for (int l = 0; l < kLanes; ++l) mask[l] = shuffle_index<S>(l, high);
  return __builtin_shuffle(a, b, mask);
}
#endif
template <int S>
RNNFAST_INLINE void shuffle_pair(Raw& a, Raw& b) {
  const Raw low = shuffle<S, false>(a, b);
  b = shuffle<S, true>(a, b);
  a = low;
}
template <int S, int N>
RNNFAST_INLINE void transpose_rounds(Raw (&r)[N]) {
  if constexpr (S == 2 && sizeof(Real) == 4) {
    unroll<N / 4>([&](auto quad) RNNFAST_INLINE_LAMBDA {
      Raw* const q = r + quad * 4;
      shuffle_pair<kZip>(q[0], q[1]);
      shuffle_pair<kZip>(q[2], q[3]);
      shuffle_pair<2>(q[0], q[2]);
      shuffle_pair<2>(q[1], q[3]);
      const Raw third = q[1];
      q[1] = q[2];
      q[2] = third;
    });
  } else if constexpr (S > 0) {
    unroll<N>([&](auto i) RNNFAST_INLINE_LAMBDA {
      if constexpr (!(decltype(i)::value & S)) shuffle_pair<S>(r[i], r[i + S]);
    });
    transpose_rounds<S / 2>(r);
  }
}
// Some columns of kLanes rows of memory, a column in each vector.
#if RNNFAST_VECTOR_BYTES > 16
constexpr int kColumns = kLanes / 2;  // the first round is in the loads
RNNFAST_INLINE void load_columns(const Real* from, Index ld, Raw (&columns)[kColumns]) {
  unroll<kColumns>([&](auto i) RNNFAST_INLINE_LAMBDA {
    columns[i] = raw_load_halves(from + i * ld, from + (i + kColumns) * ld);
  });
  transpose_rounds<kColumns / 2>(columns);
}
#else
constexpr int kColumns = kLanes;
RNNFAST_INLINE void load_columns(const Real* from, Index ld, Raw (&columns)[kColumns]) {
  unroll<kColumns>([&](auto i) RNNFAST_INLINE_LAMBDA { columns[i] = raw_load(from + i * ld); });
  transpose_rounds<kColumns / 2>(columns);
}
#endif

// to[k * ld_to + lane] = from[lane * ld_from + k]
RNNFAST_NOINLINE void transpose_block(const Real* from, Index ld_from, Real* to, Index ld_to) {
  for (int k = 0; k < kLanes; k += kColumns) {
    Raw columns[kColumns];
    load_columns(from + k, ld_from, columns);
    unroll<kColumns>([&](auto i)
                         RNNFAST_INLINE_LAMBDA { raw_store(to + (k + i) * ld_to, columns[i]); });
  }
}

constexpr int kLine = 64 / int(sizeof(Real));  // elements of a cache line

// The hardware foresees the lines of a page once it has seen some of them, so of rows of a page or more the first 16 of each
// are asked for, of shorter ones all. At T = B = 1 without it H = 256 took 1.03 (LSTM) and 1.11 (RNN) of the time, 1024 1.21
// and 1.01, a GRU 1.30; at 1024 with 8 lines 0.96 to 1.04, with 32 1.08 to 1.12, with all 1.06 to 1.18 (AVX2, Zen 3).
// Forward of a few steps, which packs on its way, took 0.75 to 0.99 of the time at H = 256 and 512 with all of this file's
// turning, 1.03 to 1.10 at 1024.
constexpr Index kPage = 4096 / int(sizeof(Real)), kHead = 16 * kLine;

// What is asked for bit by bit while columns [k, k + n) of kLanes rows of K are read: as much of the kLanes rows behind them.
struct Ahead {
  const Real *next = nullptr, *end = nullptr;
  Ahead() = default;
  RNNFAST_INLINE Ahead(const Real* rows, Index K, Index k, Index n)
      : next(rows + (K + k) * kLanes),
        end(next + (K >= kPage ? min_of(kHead, n * kLanes) : n * kLanes)) {}
  template <int lines>
  RNNFAST_INLINE void ask() {
    if (next >= end) return;
    unroll<lines>([&](auto line)
                      RNNFAST_INLINE_LAMBDA { __builtin_prefetch(next + line * kLine, 0, 2); });
    next += lines * kLine;
  }
};

// W (G*H, K), seen as panels of its rows, packed now or found packed.
struct RowPanels {
  static constexpr bool by_columns = false;
  const Real* W;  // null where everything was packed beforehand
  Index H, K;     // rows of one gate block, columns
  int G, U;
  WeightSum sum{};  // added to when a panel is read
  RNNFAST_INLINE int nv() const { return G * U; }
  RNNFAST_INLINE Index count() const { return (unit_vectors(H) + U - 1) / U; }
  RNNFAST_INLINE Index size() const { return K * nv() * kLanes; }  // of one panel, in elements

  RNNFAST_INLINE void note(Index panel) const {
    for (int u = 0; u < U; ++u) sum.add(W, H, K, G, panel * U + u);
  }
  void pack(Index panel, Real* out) const {
    if (K == 0) return;  // and no memory to write to
    for (int u = 0; u < U; ++u) {
      const Index unit = (panel * U + u) * kLanes;
      const Index lanes = max_of(0, min_of(kLanes, H - unit));
      for (int g = 0; g < G; ++g) {
        const Real* from = W + (g * H + unit) * K;
        Real* to = out + (u * G + g) * kLanes;
        Index k = 0;
        Ahead ahead;
        if (lanes == kLanes)
          for (; k + kLanes <= K; k += kLanes) {
            if (k % (2 * kBlock) == 0) ahead = Ahead(from, K, k, min_of(2 * kBlock, K - k));
            ahead.ask<int(max_of(kLanes * kLanes / kLine, 1))>();
            transpose_block(from + k, K, to + k * nv() * kLanes, nv() * kLanes);
          }
        for (; k < K; ++k)
          for (Index l = 0; l < kLanes; ++l)
            to[k * nv() * kLanes + l] = l < lanes ? from[l * K + k] : Real(0);
      }
    }
    note(panel);
  }
};

// W^T: the product of a gate row (unit, gate, lane) with W (G*H, N), giving N columns, in panels of NV vectors.
struct ColumnPanels {
  static constexpr bool by_columns = true;
  const Real* W;
  Index H, N;
  int G, NV;
  WeightSum
      sum{};  // added to when rows are read, by one of the members that each read a part of them
  Member member{0, 1, nullptr, nullptr};
  RNNFAST_INLINE int nv() const { return NV; }
  RNNFAST_INLINE Index count() const { return (unit_vectors(N) + NV - 1) / NV; }
  RNNFAST_INLINE Index depth() const { return unit_vectors(H) * G * kLanes; }
  RNNFAST_INLINE Index size() const { return depth() * NV * kLanes; }

  void pack(Index panel, Real* out) const {
    pack_rows(panel, panel + 1, out, [](Index) {});
  }
  // Panels [first, last) at once, row by row of W: column by column every row would be a page of its own.
  void pack(Index first, Index last, Real* out) const {
    pack_rows(first, last, out, [&](Index k) RNNFAST_INLINE_LAMBDA { note(k, k + 1); });
  }
  // Rows [begin, end) have been read.
  RNNFAST_INLINE void note(Index begin, Index end) const {
    const Index depth = G * kLanes;
    for (Index unit = begin / depth; unit < end / depth; ++unit)
      if (unit % member.n == member.id) sum.add(W, H, N, G, unit);
  }
  template <class AfterRow>
  RNNFAST_INLINE void pack_rows(Index first, Index last, Real* out, AfterRow&& after) const {
    const Index width = NV * kLanes;
    for (Index k = 0; k < depth(); ++k, out += width) {
      const Real* from = row(k);
      for (Index panel = first; panel < last; ++panel) {
        Real* to = out + (panel - first) * size();
        const Index column = panel * width, valid = from ? min_of(width, N - column) : 0;
        if (valid == width) {
          for (int v = 0; v < NV; ++v)
            raw_store(to + v * kLanes, raw_load(from + column + v * kLanes));
        } else {
          for (Index j = 0; j < width; ++j) to[j] = j < valid ? from[column + j] : Real(0);
        }
      }
      after(k);
    }
  }
  // Row k of W in the order of gate rows; null where that is padding.
  RNNFAST_INLINE const Real* row(Index k) const {
    const Index item = k / kLanes, h = item / G * kLanes + k % kLanes;
    return h < H ? W + (item % G * H + h) * N : nullptr;
  }
};

// A (G*H,) bias, or gate values by index, as one gate row; null packs zeros.
void pack_gate_row(const Real* b, Index stride, Index H, int G, Real* out) {
  for (Index unit = 0; unit < unit_vectors(H); ++unit)
    for (int g = 0; g < G; ++g)
      for (Index l = 0; l < kLanes; ++l, ++out) {
        const Index h = unit * kLanes + l;
        *out = b && h < H ? b[(g * H + h) * stride] : Real(0);
      }
}
void unpack_gate_row(const Real* row, Index H, int G, Real* out) {
  for (Index unit = 0; unit < unit_vectors(H); ++unit)
    for (int g = 0; g < G; ++g, row += kLanes) {
      const Index lanes = min_of(kLanes, H - unit * kLanes);
      memcpy(out + g * H + unit * kLanes, row, size_t(lanes) * sizeof(Real));
    }
}

// Where a product finds its panels: packed by an earlier pass over them, or packed on the way into a small
// buffer of this member's when every panel is used once (T*B small: whole packed copies would cost more).
struct Panels {
  const Real* packed;  // null: pack on the way
  Real* buffer;        // room for one of them; by columns, also for two rows of results
  Index size;          // elements of one panel
};

}  // namespace
}  // namespace rnnfast
