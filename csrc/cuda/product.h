// The products of the CUDA back end: acc[m][n] = sum over k of A(m, k) B(n, k), for a tile of rows m and columns n that a
// block of 256 threads computes together. A tile (fma_tile.h, tensor_tile.h) has
//
//   rows, columns, shared     its size, and the bytes of shared memory that it takes
//   run(a, b, ..., shared)    the sums over k in [k_begin, k_end) of the tile whose first row and column are m0 and n0;
//                             all threads of the block call it, and may use `shared` again afterwards
//   each(f)                   f(row, column, sum) for what this thread has of them
//
// k is summed in ascending order in blocks of 64, each from zero: a single chain over thousands of terms is several
// times as inexact as a BLAS product. The order depends on nothing else, so that a row has the same bits whatever rows
// are beside it, and whatever the shape of the tile.
#pragma once
#include "args.h"
#include "launch.h"

namespace rnnfast::cuda {

constexpr int kTileThreads = 256;
constexpr int kSumBlock = 64;  // terms of one chain of sums

// Operands. Where k lies together (x, h and W in x W^T), line(i) points to the k of row i; where it does not (both in
// dgx^T x, W in dgx W), line(k) points to the rows i at that k. A null line is one of zeros.
constexpr bool kTogether = true, kApart = false;

// An operand that is a plain matrix of lines `stride` apart.
template <class Value_, bool together>
struct Matrix {
  using Value = Value_;
  static constexpr bool k_together = together;
  const Value* base;
  Index stride;
  RNNFAST_DEVICE const Value* line(Index i) const { return base + i * stride; }
};

// An operand whose lines a table in device memory holds: places of a chunk of steps, wherever they lie.
template <class Value_, bool together>
struct Rows {
  using Value = Value_;
  static constexpr bool k_together = together;
  const Value* const* rows;
  RNNFAST_DEVICE const Value* line(Index i) const { return rows[i]; }
};

// The sums of a tile as rows in shared memory, for threads to share out otherwise.
template <class Tile, class Acc>
RNNFAST_DEVICE void spread(const Tile& tile, Acc* shared) {
  tile.each([&](int row, int column, Acc sum) { shared[row * Tile::columns + column] = sum; });
  __syncthreads();
}

// Tiles of `size` that n rows or columns fill.
RNNFAST_HD Index tiles_of(Index n, int size) { return (n + size - 1) / size; }

// C (M, N) = A B, a block for each tile, all of them along x, the one axis of a grid that takes more than 65,535, with
// neighbours in M one behind the other; blockIdx.y is a segment of k, whose results `out` keeps apart.
template <class Tile, class A, class B, class Out>
RNNFAST_GLOBAL(kTileThreads, 1)
product_kernel(A a, B b, Index M, Index N, Index K, Index segment, Out out) {
  RNNFAST_SHARED(unsigned char, shared);
  const Index down = tiles_of(M, Tile::rows);
  const Index m0 = Index(blockIdx.x) % down * Tile::rows,
              n0 = Index(blockIdx.x) / down * Tile::columns;
  const Index k0 = Index(blockIdx.y) * segment, k1 = k0 + segment < K ? k0 + segment : K;
  Tile tile;
  tile.run(a, b, m0, M, n0, N, k0, k1, shared);
  tile.each([&](int row, int column, auto sum) {
    if (m0 + row < M && n0 + column < N) out(m0 + row, n0 + column, Index(blockIdx.y), sum);
  });
}

// By the tile that `Math` has for a product of these operands (arithmetic.h).
template <class Math, class A, class B, class Out>
void launch_product(const char* id, const A& a, const B& b, Index M, Index N, Index K,
                    Index segment, const Out& out, cudaStream_t stream) {
  using Tile = typename Math::template Tile<Math::kRows, Math::kColumns, A, B>;
  if (M == 0 || N == 0) return;
  const dim3 grid(unsigned(tiles_of(M, Tile::rows) * tiles_of(N, Tile::columns)),
                  unsigned(K > 0 ? (K + segment - 1) / segment : 1));
  launch(id, product_kernel<Tile, A, B, Out>, grid, dim3(kTileThreads), Tile::shared, stream, a, b,
         M, N, K, segment, out);
}

}  // namespace rnnfast::cuda
