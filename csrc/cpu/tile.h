// The product at the heart of every pass: a few rows of an operand times one panel of packed weights,
//   out[m][v] = init[m][v] + sum_k a[m][k] * w[k][v]       m < MB rows, v < NV vectors.
//
// A panel is w[k][v][lane]. The sum over k runs in blocks of kBlock: each block is summed from zero in
// ascending k by one chain of fma and then added to what stood before. This order is the same for every
// MB, NV and instruction width, which is why a row's result does not depend on the rows beside it.
//
// Tiles are the only functions that hold accumulators, and are never inlined: next to other code the
// compiler runs out of registers and spills in the inner loop.
#pragma once
#include "../api.h"
#include "vec.h"

namespace rnnfast {
namespace {

// One chain of 513 terms has three to five times the rounding error of a BLAS product, whose kernels sum in many
// lanes; blocks of 64 stay within twice of it (tests/yardstick.py) for 24 additions per 1,536 fma. Without fma every
// term is rounded twice, and blocks of 32 do.
#if defined(__FMA__) || defined(__aarch64__)
constexpr Index kBlock = 64;
#else
constexpr Index kBlock = 32;
#endif

#if RNNFAST_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// Rows of the widest tile: accumulators, weights and one broadcast fill the register file. What fewer cost, and all that
// follows without a figure beside it: docs/benchmarks.md, "Constants of the kernels".
template <int NV>
constexpr int max_rows() {
  if (kRegisters == 32) return NV == 4 ? 6 : 8;
#if defined(__FMA__)
  return NV == 4 ? 3 : NV == 3 ? 4 : NV == 2 ? 6 : 8;
#else  // multiply, then add, takes one register more
  return NV == 4 ? 2 : NV == 3 ? 3 : NV == 2 ? 4 : 8;
#endif
}
constexpr int kTileSize = 32 * kLanes;  // elements of the largest tile: 8 x 4 vectors

// The terms [begin, begin + K) of it; w is where the panel's begin. init may be null (zero); its rows are ld_init apart
// (0: one row for all). out is compact: [m][v][lane], and may be init.
template <int MB, int NV>
RNNFAST_NOINLINE void tile(const Real* const* rows, Index begin, const Real* w, Index K,
                           const Real* init, Index ld_init, Real* out) {
  const Real* a[MB];
  unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA { a[m] = rows[m] + begin; });
  Index k = 0;
  do {
    const Index end = K - k > kBlock ? k + kBlock : K;
    Raw acc[MB][NV];
    unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA {
      unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA { acc[m][v] = Raw{}; });
    });
    for (; k < end; ++k, w += NV * kLanes) {
      if constexpr (MB * NV + NV + 1 <=
                    kRegisters) {  // all weights of this k live, one broadcast at a time
        Raw weight[NV];
        unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA { weight[v] = raw_load(w + v * kLanes); });
        unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA {
          const Raw x = raw_set(a[m][k]);
          unroll<NV>([&](auto v)
                         RNNFAST_INLINE_LAMBDA { acc[m][v] = raw_fma(x, weight[v], acc[m][v]); });
        });
      } else {  // 3x4 on 16 registers: all broadcasts live, one weight vector at a time
        Raw x[MB];
        unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA { x[m] = raw_set(a[m][k]); });
        unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA {
          const Raw weight = raw_load(w + v * kLanes);
          unroll<MB>([&](auto m)
                         RNNFAST_INLINE_LAMBDA { acc[m][v] = raw_fma(x[m], weight, acc[m][v]); });
        });
      }
    }
    unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA {
      unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA {
        const Raw before = init ? raw_load(init + m * ld_init + v * kLanes) : Raw{};
        raw_store(out + (m * NV + v) * kLanes, before + acc[m][v]);
      });
    });
    init = out;
    ld_init = NV * kLanes;
  } while (k < K);
}

// One row times PN panels side by side (`stride` elements apart): with a single row the latency of the
// fma is hidden by more panels, never by splitting k, which would change the order of the sum.
template <int PN, int NV>
RNNFAST_NOINLINE void row_tile(const Real* a, const Real* w, Index stride, Index K,
                               const Real* init, Real* out) {
  Index k = 0;
  do {
    const Index end = K - k > kBlock ? k + kBlock : K;
    Raw acc[PN][NV];
    unroll<PN>([&](auto p) RNNFAST_INLINE_LAMBDA {
      unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA { acc[p][v] = Raw{}; });
    });
    for (; k < end; ++k, w += NV * kLanes) {
      const Raw x = raw_set(a[k]);
      unroll<PN>([&](auto p) RNNFAST_INLINE_LAMBDA {
        unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA {
          acc[p][v] = raw_fma(x, raw_load(w + p * stride + v * kLanes), acc[p][v]);
        });
      });
    }
    unroll<PN>([&](auto p) RNNFAST_INLINE_LAMBDA {
      unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA {
        const int at = (p * NV + v) * kLanes;
        const Raw before = init ? raw_load(init + at) : Raw{};
        raw_store(out + at, before + acc[p][v]);
      });
    });
    init = out;
  } while (k < K);
}

// Panels that row_tile takes at once: at least 8 chains (latency 4, two fma units).
template <int NV>
constexpr int max_panels() {
  return NV == 4 ? 2 : NV == 3 ? 4 : NV == 2 ? 4 : 8;
}

// out[m][v] (+)= sum_r a[r][m] * x[r][v], in blocks as above, each added to what stands in out unless fresh: the tile
// of a weight gradient, an outer product summed over rows. a's rows are ld_a apart and hold MB consecutive gate
// gradients; x is a packed copy, NV vectors wide; out's rows are ld_out apart.
template <int MB, int NV>
RNNFAST_NOINLINE void outer_tile(const Real* a, Index ld_a, const Real* x, Index rows, bool fresh,
                                 Real* out, Index ld_out) {
  if (!fresh)  // what it is added to comes from the third-level cache meanwhile
    unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA {
      unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA {
        __builtin_prefetch(out + m * ld_out + v * kLanes, 1);
      });
    });
  Index r = 0;
  do {
    const Index end = rows - r > kBlock ? r + kBlock : rows;
    Raw acc[MB][NV];
    unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA {
      unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA { acc[m][v] = Raw{}; });
    });
    for (; r < end; ++r, a += ld_a, x += NV * kLanes) {
      Raw b[NV];
      unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA { b[v] = raw_load(x + v * kLanes); });
      unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA {
        const Raw g = raw_set(a[m]);
        unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA { acc[m][v] = raw_fma(g, b[v], acc[m][v]); });
      });
    }
    unroll<MB>([&](auto m) RNNFAST_INLINE_LAMBDA {
      unroll<NV>([&](auto v) RNNFAST_INLINE_LAMBDA {
        Real* to = out + m * ld_out + v * kLanes;
        raw_store(to, fresh ? acc[m][v] : raw_load(to) + acc[m][v]);
      });
    });
    fresh = false;
  } while (r < rows);
}

}  // namespace
}  // namespace rnnfast
