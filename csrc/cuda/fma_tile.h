// A tile of fused multiply-adds, for float32 and float64 as IEEE has them: TM x TN sums for each thread, of a grid of
// 16 x 16.
#pragma once
#include "product.h"

namespace rnnfast::cuda {

template <int TM, int TN, class A, class B>
struct FmaTile {
  using Acc = AccumulateIn<typename B::Value>;
  static constexpr int kSide = 16;   // a thread for each pair of a row group and a column group
  static constexpr int kDepth = 16;  // k per pass over shared memory
  static constexpr int rows = kSide * TM, columns = kSide * TN;
  // Operands, with one column more than needed, for threads that write a column of k would all meet in the same bank; or
  // afterwards the sums.
  static constexpr int kOperands = kDepth * (rows + 1) + kDepth * (columns + 1);
  static constexpr size_t shared =
      (kOperands > rows * columns ? kOperands : rows * columns) * sizeof(Acc);

  Acc sums[TM][TN];

  RNNFAST_DEVICE static int first_row() { return int(threadIdx.x) / kSide * TM; }
  RNNFAST_DEVICE static int first_column() { return int(threadIdx.x) % kSide * TN; }

  RNNFAST_DEVICE void run(const A& a, const B& b, Index m0, Index M, Index n0, Index N,
                          Index k_begin, Index k_end, void* shared_memory) {
    Acc *as = static_cast<Acc*>(shared_memory), *bs = as + kDepth * (rows + 1);
    const int row = first_row(), column = first_column();
    Acc part[TM][TN];
    for (int i = 0; i < TM; ++i)
      for (int j = 0; j < TN; ++j) sums[i][j] = part[i][j] = Acc(0);
    for (Index k0 = k_begin; k0 < k_end; k0 += kDepth) {
      bring<rows>(a, m0, M, k0, k_end, as);
      bring<columns>(b, n0, N, k0, k_end, bs);
      __syncthreads();
      RNNFAST_UNROLL
      for (int k = 0; k < kDepth; ++k) {
        Acc x[TM], w[TN];
        RNNFAST_UNROLL
        for (int i = 0; i < TM; ++i) x[i] = as[k * (rows + 1) + row + i];
        RNNFAST_UNROLL
        for (int j = 0; j < TN; ++j) w[j] = bs[k * (columns + 1) + column + j];
        RNNFAST_UNROLL
        for (int i = 0; i < TM; ++i) {
          RNNFAST_UNROLL
          for (int j = 0; j < TN; ++j) part[i][j] = fma(x[i], w[j], part[i][j]);
        }
      }
      __syncthreads();
      if ((k0 + kDepth - k_begin) % kSumBlock == 0 || k0 + kDepth >= k_end) {
        RNNFAST_UNROLL
        for (int i = 0; i < TM; ++i) {
          RNNFAST_UNROLL
          for (int j = 0; j < TN; ++j) {
            sums[i][j] = sums[i][j] + part[i][j];
            part[i][j] = Acc(0);
          }
        }
      }
    }
  }

  template <class F>
  RNNFAST_DEVICE void each(F f) const {
    RNNFAST_UNROLL
    for (int i = 0; i < TM; ++i) {
      RNNFAST_UNROLL
      for (int j = 0; j < TN; ++j) f(first_row() + i, first_column() + j, sums[i][j]);
    }
  }

 private:
  // Rows [first, first + count) and k in [k0, k0 + kDepth) of an operand to shared memory, [k][i].
  template <int count, class Operand>
  RNNFAST_DEVICE static void bring(const Operand& from, Index first, Index limit, Index k0, Index K,
                                   Acc* to) {
    for (int e = int(threadIdx.x); e < count * kDepth; e += kTileThreads) {
      // Neighbouring threads read neighbouring elements.
      const int i = Operand::k_together ? e / kDepth : e % count;
      const int k = Operand::k_together ? e % kDepth : e / count;
      Acc v = Acc(0);
      if (first + i < limit && k0 + k < K) {
        const auto* line = from.line(Operand::k_together ? first + i : k0 + k);
        if (line) v = load(line[Operand::k_together ? k0 + k : first + i]);
      }
      to[k * (count + 1) + i] = v;
    }
  }
};

}  // namespace rnnfast::cuda
