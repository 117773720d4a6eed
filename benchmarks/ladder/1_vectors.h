// Rung 1, vectors: the sums of neighbouring units side by side, a vector at a time.
//
// Nothing needs to be split or reordered within a sum: vectors run along the outputs, and x[k] is broadcast. For that
// the weights of neighbouring outputs have to lie side by side: W and R are transposed once per sequence. The sums of a
// row live in an array, 4H of them, which each k loads, adds to and stores.
#pragma once
#include "0_textbook.h"

namespace rnnfast {
namespace {

// to (K, rows) from (rows, K)
void transpose(const Real* from, Index rows, Index K, Real* to) {
  for (Index row = 0; row < rows; row += kLanes) {
    Index k = 0;
    for (; k + kLanes <= K; k += kLanes)
      transpose_block(from + row * K + k, K, to + k * rows + row, rows);
    for (; k < K; ++k)
      for (Index lane = 0; lane < kLanes; ++lane)
        to[k * rows + row + lane] = from[(row + lane) * K + k];
  }
}

// sums[0..n) += by[0..K) times weights (K, n)
RNNFAST_NOINLINE void add_product(const Real* by, const Real* weights, Index K, Index n,
                                  Real* sums) {
  for (Index k = 0; k < K; ++k, weights += n) {
    const Raw factor = raw_set(by[k]);
    for (Index j = 0; j < n; j += kLanes)
      raw_store(sums + j, raw_fma(factor, raw_load(weights + j), raw_load(sums + j)));
  }
}

// cell(sums of a row, its c, its new h)
template <class Cell>
RNNFAST_INLINE void row_by_row(const Problem<Real>& p, Cell&& cell) {
  const Index n = 4 * p.H;
  Real *W = room(of_W, p.I * n), *R = room(of_R, p.H * n), *sums = room(of_sums, n);
  transpose(p.W, n, p.I, W);
  transpose(p.R, n, p.H, R);
  for (Index t = 0; t < p.T; ++t)
    for (Index row = 0; row < p.B; ++row) {
      memcpy(sums, p.b, size_t(n) * sizeof(Real));
      add_product(p.x + (t * p.B + row) * p.I, W, p.I, n, sums);
      add_product(p.h_before(t) + row * p.H, R, p.H, n, sums);
      cell(sums, p.c + row * p.H, p.y + (t * p.B + row) * p.H);
    }
}

void vectors(const Problem<Real>& p) {
  const auto sigmoid = [](Real a) { return 1 / (1 + std::exp(-a)); };
  const Index H = p.H;
  row_by_row(p, [=](const Real* a, Real* c, Real* h) {
    for (Index j = 0; j < H; ++j) {
      c[j] = sigmoid(a[H + j]) * c[j] + sigmoid(a[j]) * std::tanh(a[2 * H + j]);
      h[j] = sigmoid(a[3 * H + j]) * std::tanh(c[j]);
    }
  });
}

}  // namespace
}  // namespace rnnfast
