// What this CPU can do at most, for `rnnfast bench`: multiply and add without waiting for anything, and read memory
// without computing. The limit of a call is made of these two. Beside them the widest tile, on what lies in L1: no product
// of the kernels is faster.
#pragma once
#include "stage.h"

namespace rnnfast {
namespace {

// `rounds` times so many independent multiply-adds of one vector. An fma takes 4 or 5 cycles and two can begin in
// each, so 8 to 10 at once keep the units busy; 12 fit the 16 registers of AVX2 with both factors.
constexpr int kChains = 12;
constexpr int kFlopsPerRound = kChains * kLanes * 2;

// Each chain runs towards 2 and stays normal. Returned is their sum, so that nothing can be left out.
RNNFAST_NOINLINE Real multiply_add(uint64_t rounds) {
  Raw chain[kChains];
  unroll<kChains>([&](auto i) RNNFAST_INLINE_LAMBDA { chain[i] = raw_set(Real(int(i))); });
  Raw factor = raw_set(Real(0.5)), term = raw_set(Real(1));
  __asm__ volatile("" : "+m"(factor), "+m"(term));  // not known to the compiler
  for (uint64_t r = 0; r < rounds; ++r)
    unroll<kChains>([&](auto i)
                        RNNFAST_INLINE_LAMBDA { chain[i] = raw_fma(chain[i], factor, term); });
  Raw all = {};
  unroll<kChains>([&](auto i) RNNFAST_INLINE_LAMBDA { all += chain[i]; });
  Real sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += all[l];
  return sum;
}

// `rounds` times the tile, as it passes over a slice of a panel.
constexpr int kTileVectors = 4, kTileRows = max_rows<kTileVectors>();
constexpr Index kTileTerms = kSliceBytes / (kTileVectors * RNNFAST_VECTOR_BYTES);
constexpr int kFlopsPerTile = int(kTileRows * kTileTerms * kTileVectors * kLanes * 2);

RNNFAST_NOINLINE Real tile_product(uint64_t rounds) {
  alignas(64) Real weights[kTileTerms * kTileVectors * kLanes], x[kTileRows][kTileTerms],
      sums[kTileRows * kTileVectors * kLanes] = {};
  for (Real& w : weights) w = Real(0.5);
  for (auto& row : x)
    for (Real& value : row) value = Real(0.5);
  const Real* rows[kTileRows];
  for (int m = 0; m < kTileRows; ++m) rows[m] = x[m];
  for (uint64_t r = 0; r < rounds; ++r)
    tile<kTileRows, kTileVectors>(rows, 0, weights, kTileTerms, nullptr, 0, sums);
  return sums[0];
}

// Read whole blocks of kReadBytes, `passes` times over, and return the exclusive or of their 64-bit words.
constexpr int kReadVectors = 8;
constexpr size_t kReadBytes = kReadVectors * RNNFAST_VECTOR_BYTES;

RNNFAST_NOINLINE uint64_t read_memory(const void* data, size_t bytes, uint64_t passes) {
  typedef uint64_t Words __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));
  typedef uint64_t WordsAny
      __attribute__((vector_size(RNNFAST_VECTOR_BYTES), aligned(1), may_alias));
  Words seen[kReadVectors];
  unroll<kReadVectors>([&](auto i) RNNFAST_INLINE_LAMBDA { seen[i] = Words{}; });
  const char* const p = static_cast<const char*>(data);
  for (uint64_t pass = 0; pass < passes; ++pass) {
    for (size_t at = 0; at + kReadBytes <= bytes; at += kReadBytes)
      unroll<kReadVectors>([&](auto i) RNNFAST_INLINE_LAMBDA {
        seen[i] ^= *reinterpret_cast<const WordsAny*>(p + at + i * RNNFAST_VECTOR_BYTES);
      });
    __asm__ volatile("" ::: "memory");  // the next pass reads again
  }
  Words all = {};
  unroll<kReadVectors>([&](auto i) RNNFAST_INLINE_LAMBDA { all ^= seen[i]; });
  uint64_t word = 0;
  for (size_t l = 0; l < RNNFAST_VECTOR_BYTES / sizeof(uint64_t); ++l) word ^= all[l];
  return word;
}

}  // namespace
}  // namespace rnnfast
