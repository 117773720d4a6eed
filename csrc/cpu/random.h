// Masks by Philox-4x32-10 (Salmon, Moraes, Dror and Shaw 2011): a function of a key (the seed) and a counter
// (quad, row, step, place of use), so that a mask is the same however the batch is put together or the
// sequence is cut. A row of n units takes Q = ceil(n / 4) counters; unit j*Q + q is word j of counter q.
// rnnfast/_random.py states the same in NumPy.
#pragma once
#include "../api.h"
#include "vec.h"

namespace rnnfast {
namespace {

// Bits of a note: unsigned, for the last one of a lane is the sign of a signed type.
constexpr int kNoteVectors = sizeof(Real) * 8;
typedef BitsOf<Real>::unsigned_type NoteBits __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));
constexpr int kWideLanes = RNNFAST_VECTOR_BYTES / 8;
typedef uint64_t Wide __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));

RNNFAST_INLINE Wide wide(uint64_t s) { return s - Wide{}; }

// The product of the low halves; the high ones may hold anything. Written as a plain product, GCC takes three
// multiplications for it.
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

typedef Real MaskLanes __attribute__((vector_size(kWideLanes * sizeof(Real))));
typedef Bits MaskBits __attribute__((vector_size(kWideLanes * sizeof(Bits))));

// `above` where the low half of a lane is at least the threshold, else `below`.
template <class Lanes>  // MaskLanes; a template, so that only the branch of this dtype is looked at
RNNFAST_INLINE Lanes choose(Wide word, Wide threshold, Lanes above, Lanes below) {
  const Wide low = word & wide(0xffffffffu);
#if defined(__AVX512F__) && RNNFAST_VECTOR_BYTES == 64
  // GCC goes from a comparison of 64-bit lanes to a choice of 32-bit lanes by way of three shuffles.
  const __mmask8 k = _mm512_cmpge_epu64_mask((__m512i)low, (__m512i)threshold);
  if constexpr (sizeof(Lanes) == 32)
    return (Lanes)_mm256_mask_blend_ps(k, (__m256)below, (__m256)above);
  else return (Lanes)_mm512_mask_blend_pd(k, (__m512d)below, (__m512d)above);
#else
  const MaskBits stays = __builtin_convertvector(low >= threshold, MaskBits);
  return stays ? above : below;
#endif
}

// Mask rows for one use: `dropped` with probability p, else `kept`.
class MaskSource {
 public:
  MaskSource() = default;
  // `which` tells states apart.
  MaskSource(const MaskKey& key, Purpose purpose, int which, double p, Real kept, Real dropped)
      : place_((uint32_t(purpose) + uint32_t(which)) << 24 | key.layer << 8 | key.direction),
        threshold_(uint64_t(__builtin_rint(p * 4294967296.0))),
        kept_(kept),
        dropped_(dropped) {
    uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
    for (int round = 0; round < kRounds; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      keys_[round][0] = k0;
      keys_[round][1] = k1;
    }
  }

  RNNFAST_NOINLINE void row(uint32_t row, uint32_t step, Index n, Real* out) const {
    const Index Q = (n + 3) / 4;
    Index q = 0;
    // Two vectors of counters at once: each round waits for the multiplication of the one before.
    for (; q + kWideLanes < Q; q += 2 * kWideLanes) words<2>(q, Q, row, step, n, out);
    if (q < Q) words<1>(q, Q, row, step, n, out);
  }

  // Note which units of a drawn row are kept, and make the same row of the note. A note is a vector for each
  // kNoteVectors unit vectors: bit v of lane l is of unit v * lanes + l, so that no lane ever moves.
  RNNFAST_INLINE void note(const Real* row, Index vectors, Real* to) const {
    const Raw drop = raw_set(dropped_);
    for (Index first = 0; first < vectors; first += kNoteVectors, to += kLanes) {
      NoteBits note{}, bit = one();
      for (Index v = first; v < vectors && v < first + kNoteVectors; ++v, bit += bit)
        note |= bit & (NoteBits)(raw_load(row + v * kLanes) != drop);
      memcpy(to, &note, sizeof(note));
    }
  }
  RNNFAST_INLINE void row_of_note(const Real* from, Index vectors, Real* row) const {
    const Raw keep = raw_set(kept_), drop = raw_set(dropped_);
    for (Index first = 0; first < vectors; first += kNoteVectors, from += kLanes) {
      NoteBits note, bit = one();
      memcpy(&note, from, sizeof(note));
      for (Index v = first; v < vectors && v < first + kNoteVectors; ++v, bit += bit)
        raw_store(row + v * kLanes, (note & bit) != NoteBits{} ? keep : drop);
    }
  }

 private:
  static constexpr int kRounds = 10;
  uint64_t keys_[kRounds][2];
  uint32_t place_;
  uint64_t threshold_;  // a word below it drops
  Real kept_, dropped_;

  static RNNFAST_INLINE NoteBits one() { return 1 - NoteBits{}; }

  template <int N>
  RNNFAST_INLINE void words(Index q, Index Q, uint32_t row, uint32_t step, Index n,
                            Real* out) const {
    const Wide m0 = wide(0xD2511F53u), m1 = wide(0xCD9E8D57u);
    Wide lane, c[N][4];
    for (int l = 0; l < kWideLanes; ++l) lane[l] = uint64_t(l);
    unroll<N>([&](auto i) RNNFAST_INLINE_LAMBDA {
      c[i][0] = lane + wide(uint64_t(q + i * kWideLanes));
      c[i][1] = wide(row);
      c[i][2] = wide(step);
      c[i][3] = wide(place_);
    });
    unroll<kRounds>([&](auto round) RNNFAST_INLINE_LAMBDA {
      unroll<N>([&](auto i) RNNFAST_INLINE_LAMBDA {
        const Wide p0 = multiply_low(m0, c[i][0]), p1 = multiply_low(m1, c[i][2]);
        c[i][0] = (p1 >> 32) ^ c[i][1] ^ wide(keys_[round][0]);
        c[i][1] = p1;
        c[i][2] = (p0 >> 32) ^ c[i][3] ^ wide(keys_[round][1]);
        c[i][3] = p0;
      });
    });
    const Wide threshold = wide(threshold_);
    const MaskLanes keep = kept_ - MaskLanes{}, drop = dropped_ - MaskLanes{};
    unroll<N>([&](auto i) RNNFAST_INLINE_LAMBDA {
      const Index first = q + i * kWideLanes;
      const Index count = Q - first < kWideLanes ? Q - first : kWideLanes;
      unroll<4>([&](auto j) RNNFAST_INLINE_LAMBDA {
        const MaskLanes lanes = choose(c[i][j], threshold, keep, drop);
        const Index at = j * Q + first, valid = n - at < count ? n - at : count;
        if (valid == kWideLanes) memcpy(out + at, &lanes, sizeof(lanes));
        else
          for (Index l = 0; l < valid; ++l) out[at + l] = lanes[l];
      });
    });
  }
};

// Dropout scales what it keeps, so that the expectation stays.
RNNFAST_INLINE MaskSource dropout_mask(const MaskKey& random, Purpose purpose, double p) {
  return MaskSource(random, purpose, 0, p, p < 1 ? Real(1 / (1 - p)) : Real(0), Real(0));
}

}  // namespace
}  // namespace rnnfast
