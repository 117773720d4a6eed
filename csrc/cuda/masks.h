// Random masks on the device: the words of csrc/cpu/random.h and rnnfast/_random.py, to the bit. Philox-4x32-10 of the
// key (the seed) and the counter (quad, row, step, place of use); a row of n units takes Q = ceil(n / 4) counters, and
// unit j*Q + q is word j of counter q.
#pragma once
#include <cuda_runtime.h>

#include "../api.h"
#include "launch.h"

namespace rnnfast::cuda {

struct Words {
  uint32_t at[4];
};

RNNFAST_HD uint32_t multiply_high(uint32_t a, uint32_t b) {
  return uint32_t(uint64_t(a) * b >> 32);
}

RNNFAST_HD Words philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  RNNFAST_NO_UNROLL  // ten times the code in every kernel that may draw
      for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint32_t low0 = 0xD2511F53u * c0, high0 = multiply_high(0xD2511F53u, c0);
    const uint32_t low1 = 0xCD9E8D57u * c2, high1 = multiply_high(0xCD9E8D57u, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
  }
  return {{c0, c1, c2, c3}};
}

// Counters of a row of n units.
RNNFAST_HD uint32_t quads(Index n) { return uint32_t((n + 3) / 4); }

// The words of units q, Q + q, 2*Q + q and 3*Q + q. `which` tells states apart, `row` and `step` are as
// MaskKey::row_of and step_of give them.
RNNFAST_HD Words mask_words(const MaskKey& key, Purpose purpose, int which, uint32_t row,
                            uint32_t step, uint32_t q) {
  const uint32_t place =
      (uint32_t(purpose) + uint32_t(which)) << 24 | key.layer << 8 | key.direction;
  return philox(key.seed, q, row, step, place);
}

// The word of one unit of n; who wants four of them takes mask_words.
RNNFAST_HD uint32_t mask_word(const MaskKey& key, Purpose purpose, int which, uint32_t row,
                              uint32_t step, Index unit, Index n) {
  const uint32_t Q = quads(n), u = uint32_t(unit);
  return mask_words(key, purpose, which, row, step, u % Q).at[u / Q];
}

// A word below it drops (zoneout: keeps the old value). 2^32, which no word reaches, for p = 1.
inline uint64_t mask_threshold(double p) { return uint64_t(__builtin_rint(p * 4294967296.0)); }
// Dropout scales what it keeps, so that the expectation stays.
template <class Real>
Real kept_factor(double p) {
  return p < 1 ? Real(1 / (1 - p)) : Real(0);
}

// out = in * mask (+ add): what stands between two layers, and weight drop (T = 1, and a row of weights for B).
template <class Store>
struct MaskedRows {
  Index T, B, n;
  Sequence<const Store> in, add;  // (T, B, n); add.base null: nothing
  Sequence<Store> out;
  Purpose purpose;
  double p;  // 0: no mask
  MaskKey random;
};

// Store: float, double, bf16, f16. No rows or no units: nothing happens.
template <class Store>
void masked_rows(const MaskedRows<Store>& args, cudaStream_t stream);

}  // namespace rnnfast::cuda
