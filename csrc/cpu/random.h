// Masks by Philox-4x32-10 (Salmon, Moraes, Dror and Shaw 2011): a function of a key (the seed) and a counter
// (quad, row, step, place of use), so that a mask is the same however the batch is put together or the
// sequence is cut. A row of n units takes Q = ceil(n / 4) counters; unit j*Q + q is word j of counter q.
// rnnfast/_random.py states the same in NumPy.
#pragma once
#include "../api.h"
#include "vec.h"

namespace rnnfast {
namespace {

// A mask is noted as bits: of each unit, whether it stays. A note is a vector for each kNoteVectors unit vectors: bit v of
// lane l is of unit v * lanes + l, so that no lane ever moves. Bits behind the last unit may be any. They are
// unsigned, for the last one of a lane is the sign of a signed type.
constexpr int kNoteVectors = sizeof(Real) * 8;
typedef BitsOf<Real>::unsigned_type NoteBits __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));

// All bits where a unit of vector v stays, else none.
RNNFAST_INLINE RawBits noted(const Real* note, Index v) {
  NoteBits bits;
  memcpy(&bits, note + v / kNoteVectors * kLanes, sizeof(bits));
  const NoteBits bit = (BitsOf<Real>::unsigned_type(1) << v % kNoteVectors) - NoteBits{};
  return (RawBits)((bits & bit) != NoteBits{});
}

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
// Of halves of one vector taken for both: each once, in the low half.
template <int... lanes>
RNNFAST_INLINE Words one_of_two(Words w) {
  constexpr int n = sizeof...(lanes);
  if constexpr (n < kWordLanes) return one_of_two<lanes..., n % kWideLanes / 2 * 4 + n % 2>(w);
#if defined(__clang__)
  else return __builtin_shufflevector(w, w, lanes...);
#else
  else return __builtin_shuffle(w, Words{lanes...});
#endif
}
RNNFAST_INLINE Words low_halves(Wide a, Wide b) { return Halves<0>::of((Words)a, (Words)b); }
RNNFAST_INLINE Words high_halves(Wide a, Wide b) { return Halves<1>::of((Words)a, (Words)b); }

// The masks of one use: a unit stays with probability 1 - p.
class MaskSource {
 public:
  MaskSource() = default;
  // `which` tells states apart. scratch: of scratch_size(n), for rows of n units.
  MaskSource(const MaskKey& key, Purpose purpose, int which, double p, Index n, Wide* scratch)
      : start_(scratch), stays_(reinterpret_cast<Bits*>(scratch + start_size(n))) {
    const uint64_t threshold = uint64_t(__builtin_rint(p * 4294967296.0));
    threshold_ = uint32_t(threshold) - Words{};
    first_ = threshold >> 32 ? 0 : 1;  // no word reaches 2^32
    uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
    for (int round = 0; round < kRounds; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      keys_[round][0] = wide(uint64_t(k0) << 32 | k0);
      keys_[round][1] = wide(uint64_t(k1) << 32 | k1);
    }
    const uint32_t place =
        (uint32_t(purpose) + uint32_t(which)) << 24 | key.layer << 8 | key.direction;
    const Index Q = counters(n);
    Wide* start = scratch;
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
    // A last vector may have lanes that no word reaches.
    memset(stays_, 0, size_t(drawn_size(n)) * sizeof(Bits));
  }
  // In vectors.
  static RNNFAST_INLINE Index scratch_size(Index n) {
    return start_size(n) + drawn_size(n) / kLanes;
  }

  RNNFAST_NOINLINE void note(uint32_t row, uint32_t step, Index n, Real* to) const {
    // The first two rounds of what is the same for all of the row.
    const uint64_t p1 = kM1 * step;
    const uint64_t p0 = kM0 * (uint32_t(p1 >> 32) ^ row ^ uint32_t(keys_[0][0][0]));
    const Wide of_row[3] = {wide(uint32_t(p1)), wide(p0 >> 32) ^ keys_[1][1],
                            wide(uint32_t(p0)) ^ keys_[2][1]};
    const Index Q = counters(n), vectors = unit_vectors(n);
    const NoteBits first = first_ - NoteBits{};
    if (Q * 4 == n && Q % kWordLanes == 0 && vectors <= kNoteVectors) {
      // The words are whole unit vectors, and never lie in memory.
      NoteBits bits{};
      for (Index q = 0; q < Q; q += kWordLanes) {
        Words word[4];
        words<2>(q, of_row, word);
        unroll<4>([&](auto j) RNNFAST_INLINE_LAMBDA {
          each_part(word[j], [&](int l, RawBits stays) RNNFAST_INLINE_LAMBDA {
            bits |= first << ((j * Q + q + l) / kLanes) & (NoteBits)stays;
          });
        });
      }
      memcpy(to, &bits, sizeof(bits));
      return;
    }
    // A group of counters ends past the Q units that are a word's, in those that the next word of the first group
    // writes: the first group comes last.
    for (Index q = (groups(n) - 1) * kWordLanes; q >= 0; q -= kWordLanes) {
      Words word[4];
      Q - q > kWideLanes ? words<2>(q, of_row, word) : words<1>(q, of_row, word);
      unroll<4>([&](auto j) RNNFAST_INLINE_LAMBDA {
        each_part(word[j], [&](int l, RawBits stays) RNNFAST_INLINE_LAMBDA {
          memcpy(stays_ + j * Q + q + l, &stays, sizeof(stays));
        });
      });
    }
    for (Index v = 0; v < vectors; to += kLanes) {
      NoteBits bits{}, bit = first;
      for (const Index end = min_of(v + kNoteVectors, vectors); v < end; ++v, bit += bit) {
        NoteBits stays;
        memcpy(&stays, stays_ + v * kLanes, sizeof(stays));
        bits |= bit & stays;
      }
      memcpy(to, &bits, sizeof(bits));
    }
  }

 private:
  static constexpr int kRounds = 10;
  static constexpr uint64_t kM0 = 0xD2511F53, kM1 = 0xCD9E8D57;
  Wide keys_[kRounds][2];  // in both halves
  const Wide* start_;
  Bits* stays_;                        // of a row whose words are not whole unit vectors
  Words threshold_;                    // a word below it drops
  BitsOf<Real>::unsigned_type first_;  // bit of a note

  static RNNFAST_INLINE Index counters(Index n) { return (n + 3) / 4; }
  static RNNFAST_INLINE Index groups(Index n) {
    return (counters(n) + kWordLanes - 1) / kWordLanes;
  }
  static RNNFAST_INLINE Index start_size(Index n) { return 6 * groups(n); }
  // Units that the words of a row reach, in whole vectors.
  static RNNFAST_INLINE Index drawn_size(Index n) {
    return unit_vectors(3 * counters(n) + groups(n) * kWordLanes) * kLanes;
  }

  // f(l, whether the units of lanes l ... of a vector of words stay).
  template <class F>
  RNNFAST_INLINE void each_part(Words words, F&& f) const {
    const auto stays = words >= threshold_;
    typedef int32_t Part __attribute__((vector_size(4 * kLanes)));
    unroll<kWordLanes / kLanes>([&](auto i) RNNFAST_INLINE_LAMBDA {
      Part part;
      memcpy(&part, reinterpret_cast<const char*>(&stays) + i * sizeof(part), sizeof(part));
      f(i * kLanes, __builtin_convertvector(part, RawBits));
    });
  }

  // The words of a group of counters. In two vectors, for each round waits for the multiplication of the one before;
  // of what fits in one, in the low half.
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
      if constexpr (N == 1) {
        word[2 * j] = one_of_two(word[2 * j]);
        word[2 * j + 1] = one_of_two(word[2 * j + 1]);
      }
    });
  }
};

// Dropout scales what stays, so that the expectation is as it was.
RNNFAST_INLINE Real dropout_scale(double p) { return p < 1 ? Real(1 / (1 - p)) : Real(0); }
// v where a unit stays, times the scale.
RNNFAST_INLINE Raw drop(Raw v, RawBits stays, Real scale) {
  return v * (stays ? raw_set(scale) : Raw{});
}

}  // namespace
}  // namespace rnnfast
