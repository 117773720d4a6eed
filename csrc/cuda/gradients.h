// What follows from the gate gradients of a chunk of steps: dx, dW, dR and the biases, each a product over all places
// at once. Sums over places are cut into segments that blocks add up apart, and one kernel adds in their order: no
// atomics, and the same bits at every run.
#pragma once
#include "product.h"
#include "rows.h"

namespace rnnfast::cuda {

// Where a product over places leaves the sums of its segments: (segments, M, N).
template <class Acc>
struct StorePartial {
  Acc* to;
  Index M, N;
  RNNFAST_DEVICE void operator()(Index m, Index n, Index segment, Acc v) const {
    to[(segment * M + m) * N + n] = v;
  }
};

// gx with its bias.
template <class Store>
struct StoreGates {
  AccumulateIn<Store>* to;
  const Store* bias;
  Index N;
  RNNFAST_DEVICE void operator()(Index m, Index n, Index, AccumulateIn<Store> v) const {
    to[m * N + n] = bias ? v + load(bias[n]) : v;
  }
};

// dx, to where the rows lie. The second direction adds to the first.
template <class Store>
struct StoreRows {
  Store* const* to;
  bool add;
  RNNFAST_DEVICE void operator()(Index m, Index n, Index, AccumulateIn<Store> v) const {
    Store* row = to[m];
    if (row) store(row[n], add ? load(row[n]) + v : v);
  }
};

// How many segments fill the machine: about two blocks for each multiprocessor of the largest (132), each with at least
// 256 places; not more than 16, since what they leave is written and read again.
struct Segments {
  Index length, count;
};
inline Segments segments_of(Index places, Index tiles) {
  Index count = 264 / (tiles > 0 ? tiles : 1);
  if (count > 16) count = 16;
  if (count > places / 256) count = places / 256;
  if (count < 1) count = 1;
  const Index length = ((places + count - 1) / count + kSumBlock - 1) / kSumBlock * kSumBlock;
  return {length > 0 ? length : 1, places > 0 ? (places + length - 1) / length : 1};
}

// total (+)= the segments in their order, and at the end the result as it is stored.
template <class Store>
struct AddSegments {
  AccumulateIn<Store>* total;
  const AccumulateIn<Store>* partial;
  Index n, segments;
  bool first;
  Store* out;  // null: not the end
};
template <class Store>
RNNFAST_GLOBAL(kRowThreads, 1)
add_segments(AddSegments<Store> p) {
  each_of(p.n, [&](Index i) {
    auto sum = p.first ? AccumulateIn<Store>(0) : p.total[i];
    for (Index s = 0; s < p.segments; ++s) sum = sum + p.partial[s * p.n + i];
    p.total[i] = sum;
    if (p.out) store(p.out[i], sum);
  });
}

// Sums of the columns of (rows, n), by segments of rows: the gradient of a bias. Eight threads share a column.
constexpr int kColumnThreads = 32, kColumnParts = 8;
constexpr Index kColumnSegment = 1024;
template <class Acc>
struct ColumnSums {
  const Acc* from;
  Index rows, n;
  Acc* partial;  // (segments, n)
};
template <class Acc>
RNNFAST_GLOBAL(kColumnThreads* kColumnParts, 1)
column_sums(ColumnSums<Acc> p) {
  RNNFAST_SHARED(Acc, shared);
  const int column = int(threadIdx.x) % kColumnThreads, part = int(threadIdx.x) / kColumnThreads;
  const Index n = Index(blockIdx.x) * kColumnThreads + column;
  const Index begin = Index(blockIdx.y) * kColumnSegment;
  const Index end = begin + kColumnSegment < p.rows ? begin + kColumnSegment : p.rows;
  Acc sum = Acc(0);
  if (n < p.n)
    for (Index i = begin + part; i < end; i += kColumnParts) sum = sum + p.from[i * p.n + n];
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (part > 0 || n >= p.n) return;
  for (int other = 1; other < kColumnParts; ++other)
    sum = sum + shared[other * kColumnThreads + column];
  p.partial[Index(blockIdx.y) * p.n + n] = sum;
}

// dW of index input: a block for each column of W looks through the places for its own, in order.
template <class Store>
struct IndexedSums {
  Sequence<const Index> index;
  Steps steps;
  const AccumulateIn<Store>* dgx;  // (n, G*H)
  Index t0, n, GH, I;
  bool first;
  AccumulateIn<Store>* total;  // (G*H, I)
  Store* out;                  // null: not the end
};
template <class Store>
RNNFAST_GLOBAL(kRowThreads, 1)
indexed_sums(IndexedSums<Store> p) {
  using Acc = AccumulateIn<Store>;
  for (Index k = blockIdx.x; k < p.I; k += gridDim.x)
    for (Index j = threadIdx.x; j < p.GH; j += kRowThreads) {
      const Index at = j * p.I + k;
      Acc sum = p.first ? Acc(0) : p.total[at], part = Acc(0);
      Index terms = 0;
      for (Index i = 0; i < p.n; ++i) {
        const Index t = p.t0 + i / p.steps.B, b = i % p.steps.B;
        if (!p.steps.used(t, b) || *p.index.row(t, b) != k) continue;
        part = part + p.dgx[i * p.GH + j];
        if (++terms % kSumBlock == 0) {
          sum = sum + part;
          part = Acc(0);
        }
      }
      sum = sum + part;
      p.total[at] = sum;
      if (p.out) store(p.out[at], sum);
    }
}

}  // namespace rnnfast::cuda
