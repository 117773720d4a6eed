// Tensor cores: what PTX says of mma.sync. The sum of a product and what it is added to is cut to a float32, as devices do
// ("round toward zero" is the coarsest that was ever seen of one), so that a test judges kernels by that.
#include <math.h>

#include "block.h"

namespace simt {

namespace {

float from_bits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

double from_bf16(uint32_t half) { return from_bits(half << 16); }
double from_f16(uint32_t half) {
  const int exponent = int(half >> 10 & 31), mantissa = int(half & 1023);
  double x = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
  if (exponent == 31) x = mantissa ? NAN : INFINITY;
  return half & 0x8000 ? -x : x;
}

// Towards zero.
float cut(double x) {
  const float near = float(x);
  return isfinite(near) && fabs(double(near)) > fabs(x) ? nextafterf(near, 0) : near;
}

}  // namespace

uint32_t cvt_rna_tf32(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if (isnan(x)) return 0x7fffffffu;
  return (bits + 0x1000u) & ~0x1fffu;
}

void multiply(Thread* lanes) {
  const char* const what = lanes[0].fragments.what;
  const bool bf16 = strstr(what, ".bf16."), tf32 = strstr(what, ".tf32.");
  const int terms = tf32 ? 8 : 16;
  double a[16][16], b[16][8], c[16][8];
  for (int l = 0; l < int(kWarp); ++l) {
    const Fragments& of = lanes[l].fragments;
    const int g = l / 4, q = l % 4;
    // Register r of a has row g or g + 8, and of the terms the first or the second half; of b the halves alone.
    const auto each_term = [&](uint32_t word, int half, auto to) {
      if (tf32) {
        to(half * 4 + q) = from_bits(word & ~0x1fffu);
        return;
      }
      for (int i = 0; i < 2; ++i) {
        const uint32_t number = word >> 16 * i & 0xffff;
        to(half * 8 + 2 * q + i) = bf16 ? from_bf16(number) : from_f16(number);
      }
    };
    for (int r = 0; r < 4; ++r) {
      const int row = g + r % 2 * 8;
      each_term(of.a[r], r / 2, [&](int k) -> double& { return a[row][k]; });
      c[g + r / 2 * 8][2 * q + r % 2] = of.c[r];
    }
    for (int r = 0; r < 2; ++r) each_term(of.b[r], r, [&](int k) -> double& { return b[k][g]; });
  }
  for (int l = 0; l < int(kWarp); ++l)
    for (int r = 0; r < 4; ++r) {
      const int row = l / 4 + r / 2 * 8, column = l % 4 * 2 + r % 2;
      double sum = c[row][column];
      for (int k = 0; k < terms; ++k) sum += a[row][k] * b[k][column];
      lanes[l].fragments.c[r] = cut(sum);
    }
}

}  // namespace simt
