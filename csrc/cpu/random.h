// Masks by Philox-4x32-10 (Salmon, Moraes, Dror and Shaw 2011): a function of a key (the seed) and a counter
// (quad, row, step, place of use), so that a mask is the same however the batch is put together or the
// sequence is cut, and backward draws it again instead of keeping it. A row of n units takes Q = ceil(n / 4)
// counters; unit j*Q + q is word j of counter q. rnnfast/_random.py states the same in NumPy.
#pragma once
#include "../api.h"
#include "vec.h"

namespace rnnfast {
namespace {

constexpr int kWideLanes = RNNFAST_VECTOR_BYTES / 8;
typedef uint64_t Wide __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));

RNNFAST_INLINE Wide wide(uint64_t s) { return s - Wide{}; }

// The product of the low halves. Written as a plain product, GCC takes three multiplications for it.
RNNFAST_INLINE Wide multiply_low(Wide a, Wide b) {
#if defined(__AVX512F__) && RNNFAST_VECTOR_BYTES == 64
  // Masked by all ones: GCC 12 warns about its own header in the plain form.
  return (Wide)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && RNNFAST_VECTOR_BYTES == 32
  return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__aarch64__)
  return (Wide)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#else
  const Wide low = wide(0xffffffffu);
  return (a & low) * (b & low);
#endif
}

// Words 0 ... 3 of counters q, q+1, ..., one per lane; the low 32 bits of a lane hold the word.
RNNFAST_INLINE void philox(uint64_t seed, Index q, uint32_t row, uint32_t step, uint32_t place,
                           Wide (&c)[4]) {
  const Wide low = wide(0xffffffffu), m0 = wide(0xD2511F53u), m1 = wide(0xCD9E8D57u);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  Wide lane;
  for (int l = 0; l < kWideLanes; ++l) lane[l] = uint64_t(l);
  c[0] = lane + wide(uint64_t(q));
  c[1] = wide(row);
  c[2] = wide(step);
  c[3] = wide(place);
  for (int round = 0; round < 10; ++round) {
    const Wide p0 = multiply_low(m0, c[0]), p1 = multiply_low(m1, c[2]);
    c[0] = (p1 >> 32) ^ c[1] ^ wide(k0);
    c[1] = p1 & low;
    c[2] = (p0 >> 32) ^ c[3] ^ wide(k1);
    c[3] = p0 & low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

typedef Real MaskLanes __attribute__((vector_size(kWideLanes * sizeof(Real))));
typedef Bits MaskBits __attribute__((vector_size(kWideLanes * sizeof(Real))));

// Mask rows for one use: `dropped` with probability p, else `kept`.
struct MaskSource {
  uint64_t seed;
  uint32_t place;
  uint64_t threshold;  // a word below it drops
  Real kept, dropped;
  // `which` tells states apart.
  MaskSource(const MaskKey& random, Purpose purpose, int which, double p, Real kept, Real dropped)
      : seed(random.seed),
        place((uint32_t(purpose) + uint32_t(which)) << 24 | random.layer << 8 | random.direction),
        threshold(uint64_t(__builtin_rint(p * 4294967296.0))),
        kept(kept),
        dropped(dropped) {}

  RNNFAST_NOINLINE void row(uint32_t row, uint32_t step, Index n, Real* out) const {
    const MaskLanes keep = kept - MaskLanes{}, drop = dropped - MaskLanes{};
    const Index Q = (n + 3) / 4;
    for (Index q = 0; q < Q; q += kWideLanes) {
      Wide c[4];
      philox(seed, q, row, step, place, c);
      const Index count = Q - q < kWideLanes ? Q - q : kWideLanes;
      unroll<4>([&](auto j) RNNFAST_INLINE_LAMBDA {
        const MaskBits kept_here = __builtin_convertvector(c[j] >= wide(threshold), MaskBits);
        const MaskLanes lanes = kept_here ? keep : drop;
        const Index at = j * Q + q, valid = n - at < count ? n - at : count;
        if (valid == kWideLanes) memcpy(out + at, &lanes, sizeof(lanes));
        else
          for (Index l = 0; l < valid; ++l) out[at + l] = lanes[l];
      });
    }
  }
};

// Dropout scales what it keeps, so that the expectation stays.
RNNFAST_INLINE MaskSource dropout_mask(const MaskKey& random, Purpose purpose, double p) {
  return MaskSource(random, purpose, 0, p, p < 1 ? Real(1 / (1 - p)) : Real(0), Real(0));
}

}  // namespace
}  // namespace rnnfast
