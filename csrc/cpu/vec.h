// One SIMD vector type per instruction set: GCC/Clang vector extensions of RNNFAST_VECTOR_BYTES, with an
// explicit fma (the compiler's own contraction is off, or bits would depend on what it fuses where).
// Only C headers here: this file is compiled once per instruction set, and nothing in it may become a
// symbol that the linker shares between them.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../math/hd.h"

#define RNNFAST_INLINE inline __attribute__((always_inline))
#define RNNFAST_NOINLINE __attribute__((noinline))
// Every unrolled lambda carries it: GCC outlines some of them otherwise, the accumulators go to memory
// and the product runs five times slower, without a word.
#define RNNFAST_INLINE_LAMBDA __attribute__((always_inline))

namespace rnnfast {
namespace {

using Real = RNNFAST_REAL;
constexpr int kLanes = RNNFAST_VECTOR_BYTES / int(sizeof(Real));

template <class R>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = int32_t;
  using unsigned_type = uint32_t;
};
template <>
struct BitsOf<double> {
  using type = int64_t;
  using unsigned_type = uint64_t;
};
using Bits = BitsOf<Real>::type;

typedef Real Raw __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));
typedef Bits RawBits __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));
typedef Real RawAny
    __attribute__((vector_size(RNNFAST_VECTOR_BYTES), aligned(sizeof(Real)), may_alias));

RNNFAST_INLINE Raw raw_set(Real s) { return s - Raw{}; }
RNNFAST_INLINE Raw raw_load(const Real* p) { return *reinterpret_cast<const RawAny*>(p); }
RNNFAST_INLINE void raw_store(Real* p, Raw v) { *reinterpret_cast<RawAny*>(p) = v; }

#if RNNFAST_VECTOR_BYTES > 16
// Half a vector from `low`, half from `high`.
RNNFAST_INLINE Raw raw_load_halves(const Real* low, const Real* high) {
#if RNNFAST_VECTOR_BYTES == 64
  const auto half = [](const Real* p)
                        RNNFAST_INLINE_LAMBDA { return _mm256_loadu_pd((const double*)p); };
  return (Raw)_mm512_insertf64x4(_mm512_castpd256_pd512(half(low)), half(high), 1);
#else
  const auto half = [](const Real* p)
                        RNNFAST_INLINE_LAMBDA { return _mm_loadu_ps((const float*)p); };
  return (Raw)_mm256_insertf128_ps(_mm256_castps128_ps256(half(low)), half(high), 1);
#endif
}
#endif

template <class R>
RNNFAST_INLINE Raw raw_fma_generic(R a, R b, R c) {
  return a * b + c;  // an instruction set without fma: multiply, then add
}
RNNFAST_INLINE Raw raw_fma(Raw a, Raw b, Raw c) {
  constexpr bool f32 = sizeof(Real) == 4;
#if defined(__AVX512F__) && RNNFAST_VECTOR_BYTES == 64
  if constexpr (f32) return (Raw)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else return (Raw)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__) && RNNFAST_VECTOR_BYTES == 32
  if constexpr (f32) return (Raw)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else return (Raw)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  if constexpr (f32) return (Raw)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
  else return (Raw)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  (void)f32;
  return raw_fma_generic(a, b, c);
#endif
}

// a < b ? a : b and a > b ? a : b in each lane, so b where either is NaN. As instructions: from the conditional the
// compiler makes a comparison and a blend.
RNNFAST_INLINE Raw raw_min(Raw a, Raw b) {
  constexpr bool f32 = sizeof(Real) == 4;
#if RNNFAST_VECTOR_BYTES == 64
  if constexpr (f32) return (Raw)_mm512_min_ps((__m512)a, (__m512)b);
  else return (Raw)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif RNNFAST_VECTOR_BYTES == 32
  if constexpr (f32) return (Raw)_mm256_min_ps((__m256)a, (__m256)b);
  else return (Raw)_mm256_min_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__)
  if constexpr (f32) return (Raw)_mm_min_ps((__m128)a, (__m128)b);
  else return (Raw)_mm_min_pd((__m128d)a, (__m128d)b);
#else
  (void)f32;
  return a < b ? a : b;
#endif
}
RNNFAST_INLINE Raw raw_max(Raw a, Raw b) {
  constexpr bool f32 = sizeof(Real) == 4;
#if RNNFAST_VECTOR_BYTES == 64
  if constexpr (f32) return (Raw)_mm512_max_ps((__m512)a, (__m512)b);
  else return (Raw)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif RNNFAST_VECTOR_BYTES == 32
  if constexpr (f32) return (Raw)_mm256_max_ps((__m256)a, (__m256)b);
  else return (Raw)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__)
  if constexpr (f32) return (Raw)_mm_max_ps((__m128)a, (__m128)b);
  else return (Raw)_mm_max_pd((__m128d)a, (__m128d)b);
#else
  (void)f32;
  return a > b ? a : b;
#endif
}

// The first n lanes (1 <= n <= kLanes); the others read as 0 and are never touched in memory.
RNNFAST_INLINE Raw raw_load(const Real* p, int n) {
  if (n >= kLanes) return raw_load(p);
  Real lanes[kLanes] = {};
  for (int l = 0; l < n; ++l) lanes[l] = p[l];
  return raw_load(lanes);
}
RNNFAST_INLINE void raw_store(Real* p, Raw v, int n) {
  if (n >= kLanes) return raw_store(p, v);
  Real lanes[kLanes];
  raw_store(lanes, v);
  for (int l = 0; l < n; ++l) p[l] = lanes[l];
}

// A store that leaves the caches alone, to a place aligned to vectors; `stream_done` before others may read there.
#if defined(__AVX2__) || defined(__AVX512F__)
constexpr bool kStreams = true;
RNNFAST_INLINE void raw_stream(Real* p, Raw v) {
  constexpr bool f32 = sizeof(Real) == 4;
#if RNNFAST_VECTOR_BYTES == 64
  if constexpr (f32) _mm512_stream_ps((float*)p, (__m512)v);
  else _mm512_stream_pd((double*)p, (__m512d)v);
#else
  if constexpr (f32) _mm256_stream_ps((float*)p, (__m256)v);
  else _mm256_stream_pd((double*)p, (__m256d)v);
#endif
}
RNNFAST_INLINE void stream_done() { _mm_sfence(); }
#else
constexpr bool kStreams = false;
RNNFAST_INLINE void raw_stream(Real* p, Raw v) { raw_store(p, v); }
RNNFAST_INLINE void stream_done() {}
#endif
RNNFAST_INLINE bool can_stream(const Real* to) {
  return kStreams && uintptr_t(to) % RNNFAST_VECTOR_BYTES == 0;
}

// The value type that cells are compiled for. Its name is local to this unit, so every template over it is too.
struct Vec {
  using Real = rnnfast::Real;
  Raw v;
  Vec() = default;
  RNNFAST_INLINE explicit Vec(double s) : v(raw_set(Real(s))) {}
  RNNFAST_INLINE Vec(Raw raw) : v(raw) {}
  friend RNNFAST_INLINE Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  friend RNNFAST_INLINE Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  friend RNNFAST_INLINE Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  // The instruction: with an approximation and Newton's steps instead, inference at (128, 8, 64, 64) took 3 to 5 %
  // longer (AVX-512, Xeon).
  friend RNNFAST_INLINE Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  friend RNNFAST_INLINE Vec fma(Vec a, Vec b, Vec c) { return raw_fma(a.v, b.v, c.v); }
  friend RNNFAST_INLINE Vec at_most(Vec x, Vec bound) { return raw_min(bound.v, x.v); }
  friend RNNFAST_INLINE Vec at_least(Vec x, Vec bound) { return raw_max(bound.v, x.v); }
  friend RNNFAST_INLINE Vec clamp(Vec x, Vec bound) {
    return at_least(at_most(x, bound), Vec(-bound.v));
  }
  friend RNNFAST_INLINE Vec if_within(Vec x, Vec bound, Vec value) {
    return absolute(x).v <= bound.v ? value.v : Raw{};
  }
  friend RNNFAST_INLINE Vec unless_negative(Vec x, Vec value) {
    return x.v <= Raw{} ? Raw{} : value.v;
  }
  static RNNFAST_INLINE RawBits sign_bit() { return (RawBits)raw_set(Real(-0.0)); }
  friend RNNFAST_INLINE Vec absolute(Vec x) { return (Raw)((RawBits)x.v & ~sign_bit()); }
  friend RNNFAST_INLINE Vec copy_sign(Vec x, Vec s) {
    return (Raw)(((RawBits)x.v & ~sign_bit()) | ((RawBits)s.v & sign_bit()));
  }
  friend RNNFAST_INLINE Vec power_of_two(Vec z) {
    constexpr int mantissa = sizeof(Real) == 4 ? 23 : 52;
    constexpr Bits one = sizeof(Real) == 4 ? Bits(0x3f800000) : Bits(0x3ff0000000000000);
    return (Raw)(((RawBits)z.v << mantissa) + one);
  }
};

template <int N>
struct Constant {
  static constexpr int value = N;
  constexpr operator int() const { return N; }
};

// f(0), f(1), ..., f(N-1) with constant arguments, so that arrays indexed by them live in registers. The
// standard library's integer_sequence would do, but its headers are kept out of these units.
template <int N, int I = 0, class F>
RNNFAST_INLINE void unroll(F&& f) {
  if constexpr (I < N) {
    f(Constant<I>{});
    unroll<N, I + 1>(f);
  }
}

// N vectors as one value, each operation on all of them in turn. An activation is one long chain of operations that
// wait for each other, and the CPU looks only so far ahead for others to begin meanwhile: here they stand beside it.
template <int N>
struct Bundle {
  using Real = rnnfast::Real;
  Vec at[N];
  Bundle() = default;
  RNNFAST_INLINE explicit Bundle(double s) {
    each([&](auto) RNNFAST_INLINE_LAMBDA { return Vec(s); });
  }
  template <class F>
  RNNFAST_INLINE Bundle& each(F&& f) {
    unroll<N>([&](auto n) RNNFAST_INLINE_LAMBDA { at[n] = f(n); });
    return *this;
  }
  template <class F>
  static RNNFAST_INLINE Bundle of(F&& f) {
    Bundle r;
    return r.each(f);
  }
#define RNNFAST_EACH(expression) of([&](auto n) RNNFAST_INLINE_LAMBDA { return expression; })
  friend RNNFAST_INLINE Bundle operator+(Bundle a, Bundle b) {
    return RNNFAST_EACH(a.at[n] + b.at[n]);
  }
  friend RNNFAST_INLINE Bundle operator-(Bundle a, Bundle b) {
    return RNNFAST_EACH(a.at[n] - b.at[n]);
  }
  friend RNNFAST_INLINE Bundle operator*(Bundle a, Bundle b) {
    return RNNFAST_EACH(a.at[n] * b.at[n]);
  }
  friend RNNFAST_INLINE Bundle operator/(Bundle a, Bundle b) {
    return RNNFAST_EACH(a.at[n] / b.at[n]);
  }
  friend RNNFAST_INLINE Bundle fma(Bundle a, Bundle b, Bundle c) {
    return RNNFAST_EACH(fma(a.at[n], b.at[n], c.at[n]));
  }
  friend RNNFAST_INLINE Bundle at_most(Bundle x, Bundle bound) {
    return RNNFAST_EACH(at_most(x.at[n], bound.at[n]));
  }
  friend RNNFAST_INLINE Bundle at_least(Bundle x, Bundle bound) {
    return RNNFAST_EACH(at_least(x.at[n], bound.at[n]));
  }
  friend RNNFAST_INLINE Bundle clamp(Bundle x, Bundle bound) {
    return RNNFAST_EACH(clamp(x.at[n], bound.at[n]));
  }
  friend RNNFAST_INLINE Bundle if_within(Bundle x, Bundle bound, Bundle value) {
    return RNNFAST_EACH(if_within(x.at[n], bound.at[n], value.at[n]));
  }
  friend RNNFAST_INLINE Bundle unless_negative(Bundle x, Bundle value) {
    return RNNFAST_EACH(unless_negative(x.at[n], value.at[n]));
  }
  friend RNNFAST_INLINE Bundle absolute(Bundle x) { return RNNFAST_EACH(absolute(x.at[n])); }
  friend RNNFAST_INLINE Bundle copy_sign(Bundle x, Bundle s) {
    return RNNFAST_EACH(copy_sign(x.at[n], s.at[n]));
  }
  friend RNNFAST_INLINE Bundle power_of_two(Bundle z) {
    return RNNFAST_EACH(power_of_two(z.at[n]));
  }
#undef RNNFAST_EACH
};

}  // namespace
}  // namespace rnnfast
