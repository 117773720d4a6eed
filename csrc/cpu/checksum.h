// Checksums of arrays that are read again later, or were packed before: at the speed at which memory is read.
#pragma once
#include "../api.h"
#include "vec.h"

namespace rnnfast {
namespace {

// Two running sums per lane (Fletcher) of 64 bytes at a time: any change of one word is seen, and so is a swap. In
// vectors of this instruction set: GCC takes wider ones apart through memory, at a sixth of the speed. Of several
// stretches of `bytes`, `stride` bytes apart, one behind the other.
RNNFAST_NOINLINE uint64_t checksum(const void* data, size_t bytes, uint64_t seed, int stretches,
                                   size_t stride) {
  typedef uint64_t Words __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));
  typedef uint64_t WordsAny
      __attribute__((vector_size(RNNFAST_VECTOR_BYTES), aligned(1), may_alias));
  constexpr int kParts = 64 / RNNFAST_VECTOR_BYTES, kWords = 8 / kParts;
  Words a[kParts] = {}, b[kParts] = {};
  const auto add = [&](const char* from) RNNFAST_INLINE_LAMBDA {
    unroll<kParts>([&](auto i) RNNFAST_INLINE_LAMBDA {
      a[i] += reinterpret_cast<const WordsAny*>(from)[i];
      b[i] += a[i];
    });
  };
  for (int s = 0; s < stretches; ++s) {
    const char* p = static_cast<const char*>(data) + size_t(s) * stride;
    size_t at = 0;
    for (; at + 64 <= bytes; at += 64) add(p + at);
    alignas(64) char tail[64] = {};
    memcpy(tail, p + at, bytes - at);
    add(tail);
  }
  uint64_t hash = seed ^ bytes;
  // One after the other: of a single block both sums are the same, and together they would undo each other in part.
  unroll<8>([&](auto l) RNNFAST_INLINE_LAMBDA {
    hash = (hash ^ a[l / kWords][l % kWords]) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ b[l / kWords][l % kWords]) * 0x9e3779b97f4a7c15u;
  });
  return hash;
}
uint64_t checksum(const void* data, size_t bytes, uint64_t seed) {
  return checksum(data, bytes, seed, 1, 0);
}

// That of a weight (G*H, K) is a sum over unit vectors, with the rows of all gates each: who reads them for a product
// adds them while they are in the cache, in any order and in any thread. Reading both matrices of a large layer for
// the checksum alone took longer than the step that it guards.
struct WeightSum {
  uint64_t* sum = nullptr;  // null: not wanted
  RNNFAST_INLINE void add(const Real* W, Index H, Index K, int G, Index unit) const {
    const Index begin = unit * kLanes, rows = H - begin < kLanes ? H - begin : kLanes;
    if (!sum || rows <= 0 || K == 0) return;
    const size_t row = size_t(K) * sizeof(Real);
    const uint64_t term =
        checksum(W + begin * K, size_t(rows) * row, uint64_t(unit), G, size_t(H) * row);
    __atomic_fetch_add(sum, term, __ATOMIC_RELAXED);
  }
  RNNFAST_INLINE void add_all(const Real* W, Index H, Index K, int G, const Member& m) const {
    for (Index unit = m.id; unit * kLanes < H; unit += m.n) add(W, H, K, G, unit);
  }
};

}  // namespace
}  // namespace rnnfast
