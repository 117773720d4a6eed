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

// Words of 32 bits, of one counter in each lane.
typedef uint32_t Words __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));
constexpr int kWordLanes = 2 * kWideLanes;

// The low (first = 0) or high halves of two vectors, two of a and two of b in turns: a lane that left its 16 bytes would
// take several instructions.
template <int first, int... lanes>
struct Halves {
  static RNNFAST_INLINE Words of(Words a, Words b) {
    constexpr int n = sizeof...(lanes);
    if constexpr (n < kWordLanes)
      return Halves<first, lanes..., (n & 2 ? kWordLanes : 0) + n / 4 * 4 + n % 2 * 2 + first>::of(
          a, b);
#if defined(__clang__)
    else return __builtin_shufflevector(a, b, lanes...);
#else
    else return __builtin_shuffle(a, b, Words{lanes...});
#endif
  }
};
RNNFAST_INLINE Words low_halves(Wide a, Wide b) { return Halves<0>::of((Words)a, (Words)b); }
RNNFAST_INLINE Words high_halves(Wide a, Wide b) { return Halves<1>::of((Words)a, (Words)b); }

// Mask rows for one use: `dropped` with probability p, else `kept`.
class MaskSource {
 public:
  MaskSource() = default;
  // `which` tells states apart. start: start_size(n) vectors of scratch, for rows of n units.
  MaskSource(const MaskKey& key, Purpose purpose, int which, double p, Real kept, Real dropped,
             Index n, Wide* start)
      : start_(start), kept_(kept), dropped_(dropped) {
    const uint64_t threshold = uint64_t(__builtin_rint(p * 4294967296.0));
    threshold_ = uint32_t(threshold) - Words{};
    if (threshold >> 32) kept_ = dropped_;  // no word reaches it
    uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
    for (int round = 0; round < kRounds; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      keys_[round][0] = wide(uint64_t(k0) << 32 | k0);
      keys_[round][1] = wide(uint64_t(k1) << 32 | k1);
    }
    const uint32_t place =
        (uint32_t(purpose) + uint32_t(which)) << 24 | key.layer << 8 | key.direction;
    const Index Q = counters(n);
    for (Index i = 0; i < 2 * groups(n); ++i, start += 3) {
      const Index group = i / 2 * kWordLanes;
      Wide q{};
      for (int l = 0; l < kWideLanes; ++l)
        q[l] = uint64_t(group + (Q - group > kWideLanes ? l / 2 * 4 + i % 2 * 2 + l % 2 : l));
      const Wide p0 = multiply_low(wide(kM0), q);
      const Wide p1 = multiply_low(wide(kM1), p0 >> 32 ^ wide(place) ^ keys_[0][1]);
      start[0] = p1 >> 32 ^ keys_[1][0];
      start[1] = p1 ^ keys_[2][0];
      start[2] = p0;
    }
  }
  static RNNFAST_INLINE Index start_size(Index n) { return 6 * groups(n); }

  RNNFAST_NOINLINE void row(uint32_t row, uint32_t step, Index n, Real* out) const {
    // The first two rounds of what is the same for all of the row.
    const uint64_t p1 = kM1 * step;
    const uint64_t p0 = kM0 * (uint32_t(p1 >> 32) ^ row ^ uint32_t(keys_[0][0][0]));
    const Wide of_row[3] = {wide(uint32_t(p1)), wide(p0 >> 32) ^ keys_[1][1],
                            wide(uint32_t(p0)) ^ keys_[2][1]};
    const Index Q = counters(n);
    Index q = 0;
    // As long as the four words of each counter are units of the row.
    for (; q + kWordLanes <= n - 3 * Q; q += kWordLanes) {
      Words word[4];
      words<2>(q, of_row, word);
      unroll<4>([&](auto j) RNNFAST_INLINE_LAMBDA { choose(word[j], out + j * Q + q); });
    }
    for (; q < Q; q += kWordLanes) {
      Words word[4];
      const bool two = Q - q > kWideLanes;
      two ? words<2>(q, of_row, word) : words<1>(q, of_row, word);
      for (int j = 0; j < 4; ++j) {
        Real lanes[kWordLanes];
        choose(word[j], lanes);
        for (Index l = 0; l < kWordLanes && q + l < Q && j * Q + q + l < n; ++l)
          out[j * Q + q + l] = lanes[two ? l : l / 2 * 4 + l % 2];
      }
    }
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
  static constexpr uint64_t kM0 = 0xD2511F53, kM1 = 0xCD9E8D57;
  Wide keys_[kRounds][2];  // in both halves
  const Wide* start_;
  Words threshold_;  // a word below it drops
  Real kept_, dropped_;

  static RNNFAST_INLINE Index counters(Index n) { return (n + 3) / 4; }
  static RNNFAST_INLINE Index groups(Index n) {
    return (counters(n) + kWordLanes - 1) / kWordLanes;
  }
  static RNNFAST_INLINE NoteBits one() { return 1 - NoteBits{}; }

  RNNFAST_INLINE void choose(Words words, Real* out) const {
    const Raw keep = raw_set(kept_), drop = raw_set(dropped_);
    const auto stays = words >= threshold_;
    typedef int32_t Part __attribute__((vector_size(4 * kLanes)));
    for (Index l = 0; l < kWordLanes; l += kLanes) {
      Part part;
      memcpy(&part, reinterpret_cast<const char*>(&stays) + l * 4, sizeof(part));
      raw_store(out + l, __builtin_convertvector(part, RawBits) ? keep : drop);
    }
  }

  // The words of a group of counters. In two vectors, for each round waits for the multiplication of the one before;
  // what fits in one is a group of its own form.
  template <int N>
  RNNFAST_INLINE void words(Index q, const Wide (&of_row)[3], Words (&word)[4]) const {
    const Wide m0 = wide(kM0), m1 = wide(kM1);
    Wide c[N][4], p[N][2];
    const Wide* start = start_ + q / kWideLanes * 3;
    unroll<N>([&](auto i) RNNFAST_INLINE_LAMBDA {
      p[i][0] = multiply_low(m0, start[3 * i] ^ of_row[0]);
      p[i][1] = multiply_low(m1, start[3 * i + 2] ^ of_row[1]);
      c[i][0] = (p[i][1] >> 32) ^ start[3 * i + 1];
      c[i][1] = p[i][1];
      c[i][2] = (p[i][0] >> 32) ^ of_row[2];
      c[i][3] = p[i][0];
    });
    unroll<kRounds - 3>([&](auto left) RNNFAST_INLINE_LAMBDA {
      constexpr int round = 3 + left;
      unroll<N>([&](auto i) RNNFAST_INLINE_LAMBDA {
        p[i][0] = multiply_low(m0, c[i][0]);
        p[i][1] = multiply_low(m1, c[i][2]);
        if constexpr (round < kRounds - 1) {
          c[i][0] = (p[i][1] >> 32) ^ (c[i][1] ^ keys_[round][0]);
          c[i][1] = p[i][1];
          c[i][2] = (p[i][0] >> 32) ^ (c[i][3] ^ keys_[round][1]);
          c[i][3] = p[i][0];
        }
      });
    });
    // The last round, of both vectors as one.
    constexpr int b = N - 1;
    unroll<2>([&](auto j) RNNFAST_INLINE_LAMBDA {
      word[2 * j] = high_halves(p[0][1 - j], p[b][1 - j]) ^
                    low_halves(c[0][2 * j + 1], c[b][2 * j + 1]) ^ (Words)keys_[kRounds - 1][j];
      word[2 * j + 1] = low_halves(p[0][1 - j], p[b][1 - j]);
    });
  }
};

// Dropout scales what it keeps, so that the expectation stays.
RNNFAST_INLINE MaskSource dropout_mask(const MaskKey& random, Purpose purpose, double p, Index n,
                                       Wide* start) {
  return MaskSource(random, purpose, 0, p, p < 1 ? Real(1 / (1 - p)) : Real(0), Real(0), n, start);
}

}  // namespace
}  // namespace rnnfast
