// The one tiled product of the CUDA back end: acc[m][n] = sum over k of A(m, k) B(n, k), for a tile of rows m and
// columns n that a block of 256 threads computes together.
//
// k is summed in ascending order in blocks of 64, each from zero: a single chain over thousands of terms is several
// times as inexact as a BLAS product. The order depends on nothing else, so that a row has the same bits whatever rows
// are beside it, and whatever the shape of the tile.
#pragma once
#include "args.h"
#include "launch.h"

namespace rnnfast::cuda {

constexpr int kTileThreads = 256,
              kTileSide = 16;  // a thread for each pair of a row group and a column group
constexpr int kTileDepth = 16,
              kSumBlock = 64;  // k per pass over shared memory; terms of one chain of sums

// Operands. Where k lies together (x, h and W in x W^T), line(i) points to the k of row i; where it does not (both in
// dgx^T x, W in dgx W), line(k) points to the rows i at that k. A null line is one of zeros.
constexpr bool kTogether = true, kApart = false;

// TM x TN results for each thread; (m, n) of result [i][j] is (row + i, column + j) of `TileAt`.
template <int TM, int TN, class Acc>
struct TileSums {
  Acc at[TM][TN];
};

template <int TM, int TN>
struct TileAt {
  int row, column;  // of this thread in the tile
  RNNFAST_DEVICE TileAt() {
    row = int(threadIdx.x) / kTileSide * TM;
    column = int(threadIdx.x) % kTileSide * TN;
  }
};

// Elements of shared memory that a tile takes: operands, with one column more than needed, for threads that write a
// column of k would all meet in the same bank; or afterwards its sums.
template <int TM, int TN>
constexpr int tile_shared() {
  constexpr int operands = kTileDepth * (kTileSide * TM + 1) + kTileDepth * (kTileSide * TN + 1);
  constexpr int sums = kTileSide * TM * kTileSide * TN;
  return operands > sums ? operands : sums;
}

// Brings rows [first, first + count) and k in [k0, k0 + kTileDepth) of an operand to shared memory, [k][i].
template <int count, class Acc, class Operand>
RNNFAST_DEVICE void bring(const Operand& from, Index first, Index limit, Index k0, Index K,
                          Acc* to) {
  for (int e = int(threadIdx.x); e < count * kTileDepth; e += kTileThreads) {
    // Neighbouring threads read neighbouring elements.
    const int i = Operand::k_together ? e / kTileDepth : e % count;
    const int k = Operand::k_together ? e % kTileDepth : e / count;
    Acc v = Acc(0);
    if (first + i < limit && k0 + k < K) {
      if (Operand::k_together) {
        const auto* row = from.line(first + i);
        if (row) v = load(row[k0 + k]);
      } else {
        const auto* column = from.line(k0 + k);
        if (column) v = load(column[first + i]);
      }
    }
    to[k * (count + 1) + i] = v;
  }
}

// The sums over k in [k_begin, k_end) of a tile whose first row and column are m0 and n0; every thread of the block calls
// it, and may use `shared` again afterwards.
template <int TM, int TN, class Acc, class A, class B>
RNNFAST_DEVICE void tile_product(const A& a, const B& b, Index m0, Index M, Index n0, Index N,
                                 Index k_begin, Index k_end, Acc* shared,
                                 TileSums<TM, TN, Acc>& sums) {
  constexpr int BM = kTileSide * TM, BN = kTileSide * TN;
  Acc *as = shared, *bs = shared + kTileDepth * (BM + 1);
  const TileAt<TM, TN> at;
  Acc part[TM][TN];
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) sums.at[i][j] = part[i][j] = Acc(0);
  for (Index k0 = k_begin; k0 < k_end; k0 += kTileDepth) {
    bring<BM>(a, m0, M, k0, k_end, as);
    bring<BN>(b, n0, N, k0, k_end, bs);
    __syncthreads();
    RNNFAST_UNROLL
    for (int k = 0; k < kTileDepth; ++k) {
      Acc x[TM], w[TN];
      RNNFAST_UNROLL
      for (int i = 0; i < TM; ++i) x[i] = as[k * (BM + 1) + at.row + i];
      RNNFAST_UNROLL
      for (int j = 0; j < TN; ++j) w[j] = bs[k * (BN + 1) + at.column + j];
      RNNFAST_UNROLL
      for (int i = 0; i < TM; ++i) {
        RNNFAST_UNROLL
        for (int j = 0; j < TN; ++j) part[i][j] = fma(x[i], w[j], part[i][j]);
      }
    }
    __syncthreads();
    if ((k0 + kTileDepth - k_begin) % kSumBlock == 0 || k0 + kTileDepth >= k_end) {
      RNNFAST_UNROLL
      for (int i = 0; i < TM; ++i) {
        RNNFAST_UNROLL
        for (int j = 0; j < TN; ++j) {
          sums.at[i][j] = sums.at[i][j] + part[i][j];
          part[i][j] = Acc(0);
        }
      }
    }
  }
}

// The sums of a tile as rows in shared memory, for threads to share out otherwise.
template <int TM, int TN, class Acc>
RNNFAST_DEVICE void spread(const TileSums<TM, TN, Acc>& sums, Acc* shared) {
  const TileAt<TM, TN> at;
  RNNFAST_UNROLL
  for (int i = 0; i < TM; ++i) {
    RNNFAST_UNROLL
    for (int j = 0; j < TN; ++j)
      shared[(at.row + i) * (kTileSide * TN) + at.column + j] = sums.at[i][j];
  }
  __syncthreads();
}

// An operand that is a plain matrix of lines `stride` apart.
template <class Value, bool together>
struct Matrix {
  static constexpr bool k_together = together;
  const Value* base;
  Index stride;
  RNNFAST_DEVICE const Value* line(Index i) const { return base + i * stride; }
};

// An operand whose lines a table in device memory holds: places of a chunk of steps, wherever they lie.
template <class Value, bool together>
struct Rows {
  static constexpr bool k_together = together;
  const Value* const* rows;
  RNNFAST_DEVICE const Value* line(Index i) const { return rows[i]; }
};

// C (M, N) = A B, a block for each tile; blockIdx.z is a segment of k, whose results `out` keeps apart.
template <int TM, int TN, class Acc, class A, class B, class Out>
RNNFAST_GLOBAL(kTileThreads, 1)
product_kernel(A a, B b, Index M, Index N, Index K, Index segment, Out out) {
  RNNFAST_SHARED(Acc, shared);
  const Index m0 = Index(blockIdx.x) * (kTileSide * TM), n0 = Index(blockIdx.y) * (kTileSide * TN);
  const Index k0 = Index(blockIdx.z) * segment, k1 = k0 + segment < K ? k0 + segment : K;
  TileSums<TM, TN, Acc> sums;
  tile_product<TM, TN>(a, b, m0, M, n0, N, k0, k1, shared, sums);
  const TileAt<TM, TN> at;
  RNNFAST_UNROLL
  for (int i = 0; i < TM; ++i) {
    RNNFAST_UNROLL
    for (int j = 0; j < TN; ++j) {
      const Index m = m0 + at.row + i, n = n0 + at.column + j;
      if (m < M && n < N) out(m, n, Index(blockIdx.z), sums.at[i][j]);
    }
  }
}

template <int TM, int TN, class Acc, class A, class B, class Out>
void launch_product(const char* id, const A& a, const B& b, Index M, Index N, Index K,
                    Index segment, const Out& out, cudaStream_t stream) {
  if (M == 0 || N == 0) return;
  const dim3 grid(unsigned((M + kTileSide * TM - 1) / (kTileSide * TM)),
                  unsigned((N + kTileSide * TN - 1) / (kTileSide * TN)),
                  unsigned(K > 0 ? (K + segment - 1) / segment : 1));
  launch(id, product_kernel<TM, TN, Acc, A, B, Out>, grid, dim3(kTileThreads),
         tile_shared<TM, TN>() * sizeof(Acc), stream, a, b, M, N, K, segment, out);
}

}  // namespace rnnfast::cuda
