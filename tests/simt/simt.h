// CUDA's words inside a kernel, for a kernel that g++ compiles for the CPU. collectives.cpp says what they do; one of
// fibers.cpp and threads.cpp runs the threads. Own code, with CUDA's documented meaning where that is defined, and
// a report where it is not: a barrier that threads reach at different places, a shuffle that names a thread which left.
//
// Not modelled: the order in which memory operations become visible to other blocks, and time.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define SIMT_VECTOR2(T, name)                        \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }
#define SIMT_VECTOR4(T, name)                   \
  struct alignas(16) name##4 { T x, y, z, w; }; \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTOR2(float, float)
SIMT_VECTOR2(double, double)
SIMT_VECTOR2(int, int)
SIMT_VECTOR2(unsigned, uint)
SIMT_VECTOR4(float, float)
SIMT_VECTOR4(int, int)
SIMT_VECTOR4(unsigned, uint)
#undef SIMT_VECTOR2
#undef SIMT_VECTOR4

namespace simt {

constexpr unsigned kWarp = 32;

struct Coordinates {
  uint3 thread, block;
  unsigned id;  // of the thread in its block
};
extern __thread Coordinates* here;

// Where a call stands in the source: default arguments are taken at the call.
struct Site {
  const char* file;
  int line;
};
#define SIMT_HERE \
  simt::Site { __FILE__, __LINE__ }

enum class Vote { ballot, any, all };

void sync_block(Site site);
void sync_warp(unsigned mask, Site site);
// What lane `source` of the warp gives; both are lanes of the mask. Bytes: 4, 8 or 16.
void shuffle(unsigned mask, unsigned source, const void* given, void* got, size_t bytes, Site site);
unsigned vote(unsigned mask, bool value, Vote kind, Site site);
// PTX's mma.sync, `what` its shape and types: c += a b, by all lanes of a warp.
void mma(const char* what, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         Site site);
// PTX's instruction of that name.
uint32_t cvt_rna_tf32(float x);
void spin();
void* dynamic_shared();
void* fixed_shared(const void* key, size_t bytes, size_t alignment);
// Report a fault of the kernel and leave it.
[[noreturn]] void fault(const char* text);

template <class T, class Key>
T& shared_array(Key) {
  static char key;  // one for each declaration, for its lambda has a type of its own
  return *static_cast<T*>(fixed_shared(&key, sizeof(T), alignof(T) < 16 ? 16 : alignof(T)));
}

inline unsigned lane() { return here->id % kWarp; }

template <class T>
T shuffle_from(unsigned mask, T value, unsigned source, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "as __shfl_sync");
  T out;
  shuffle(mask, source, &value, &out, sizeof(T), site);
  return out;
}
// The four of CUDA, within groups of `width` lanes. A source outside of the group means the lane itself.
inline unsigned group(int width) { return lane() & ~unsigned(width - 1); }
inline unsigned source_at(int source, int width) {
  return group(width) + (unsigned(source) & unsigned(width - 1));
}
inline unsigned source_xor(int flip, int width) {
  const unsigned to = lane() ^ unsigned(flip);
  return to < group(width) + unsigned(width) ? to : lane();
}
inline unsigned source_down(unsigned by, int width) {
  return lane() + by < group(width) + unsigned(width) ? lane() + by : lane();
}
inline unsigned source_up(unsigned by, int width) {
  return lane() >= group(width) + by ? lane() - by : lane();
}

}  // namespace simt

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// __shared__ is not defined: RNNFAST_SHARED and RNNFAST_SHARED_ARRAY (csrc/cuda/launch.h) are.

#define threadIdx (simt::here->thread)
#define blockIdx (simt::here->block)
// The same for all threads that an OS thread runs. No macros, for these are names of cudaLaunchConfig_t too.
extern __thread dim3 gridDim, blockDim;
constexpr int warpSize = int(simt::kWarp);

#define SIMT_FIRST(first, ...) first
#define SIMT_WIDTH(...) SIMT_FIRST(__VA_ARGS__ __VA_OPT__(, ) warpSize)
#define __syncthreads() simt::sync_block(SIMT_HERE)
#define __syncwarp(...) simt::sync_warp(SIMT_FIRST(__VA_ARGS__ __VA_OPT__(, ) ~0u), SIMT_HERE)
#define __shfl_sync(mask, value, source, ...) \
  simt::shuffle_from(mask, value, simt::source_at(source, SIMT_WIDTH(__VA_ARGS__)), SIMT_HERE)
#define __shfl_xor_sync(mask, value, flip, ...) \
  simt::shuffle_from(mask, value, simt::source_xor(flip, SIMT_WIDTH(__VA_ARGS__)), SIMT_HERE)
#define __shfl_down_sync(mask, value, by, ...) \
  simt::shuffle_from(mask, value, simt::source_down(by, SIMT_WIDTH(__VA_ARGS__)), SIMT_HERE)
#define __shfl_up_sync(mask, value, by, ...) \
  simt::shuffle_from(mask, value, simt::source_up(by, SIMT_WIDTH(__VA_ARGS__)), SIMT_HERE)
#define __ballot_sync(mask, value) simt::vote(mask, bool(value), simt::Vote::ballot, SIMT_HERE)
#define __any_sync(mask, value) int(simt::vote(mask, bool(value), simt::Vote::any, SIMT_HERE))
#define __all_sync(mask, value) int(simt::vote(mask, bool(value), simt::Vote::all, SIMT_HERE))

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __nanosleep(unsigned) { simt::spin(); }

template <class T>
T __ldg(const T* p) {
  return *p;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __float_as_uint(float x) {
  unsigned u;
  memcpy(&u, &x, 4);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

// Atomic operations on integers; each returns the old value. Those on floating point are left out on purpose: their
// sums depend on the order, and no result of ours may.
template <class T>
T atomicAdd(T* p, T v) {
  static_assert(T(1) / 2 == 0, "integers only");
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicExch(T* p, T v) {
  return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicCAS(T* p, T expected, T v) {
  __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
template <class T>
T atomicOr(T* p, T v) {
  return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicMax(T* p, T v) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old < v &&
         !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
