// How numbers are stored: float, double, and the two 16-bit formats, which are computed in float. Rounding is to
// nearest, ties to even, with denormals; NaN stays NaN, its payload is not kept.
#pragma once
#include <stdint.h>

#include "../math/hd.h"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace rnnfast::cuda {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// What a stored type is computed and summed in.
template <class Store>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class Store>
using AccumulateIn = typename Accumulate<Store>::type;

namespace bits {

RNNFAST_HD uint32_t of(float x) {
  union {
    float f;
    uint32_t u;
  } v = {x};
  return v.u;
}
RNNFAST_HD float to_float(uint32_t u) {
  union {
    uint32_t u;
    float f;
  } v = {u};
  return v.f;
}
// x / 2^shift, to nearest, ties to even; 0 < shift < 32.
RNNFAST_HD uint32_t round_off(uint32_t x, uint32_t shift) {
  const uint32_t half = (1u << (shift - 1)) - 1;
  return (x + half + (x >> shift & 1)) >> shift;
}

RNNFAST_HD uint16_t narrow_bf16(float x) {
  const uint32_t u = of(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t(u >> 16 | 0x40u);  // a quiet NaN
  return uint16_t(round_off(u, 16));
}

// binary16: 5 bits of exponent with bias 15, 10 bits behind the point.
RNNFAST_HD uint16_t narrow_f16(float x) {
  const uint32_t u = of(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (a >= 0x47800000u) return uint16_t(sign | 0x7c00u);  // 65536; what rounds to it carries below
  // Normal: the exponent's bias falls from 127 to 15, and a carry out of the mantissa raises it.
  if (a >= 0x38800000u) return uint16_t(sign | round_off(a - (112u << 23), 13));
  if (a <= 0x33000000u) return uint16_t(sign);  // 2^-25, half the smallest denormal, and below
  // Denormal: the mantissa with its leading one, in units of 2^-24.
  return uint16_t(sign | round_off((a & 0x7fffffu) | 0x800000u, 126u - (a >> 23)));
}
RNNFAST_HD float widen_f16(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, exponent = h >> 10 & 31u,
                 mantissa = h & 0x3ffu;
  if (exponent == 31) return to_float(sign | 0x7f800000u | mantissa << 13);
  if (exponent) return to_float(sign | (exponent + 112u) << 23 | mantissa << 13);
  return to_float(sign | of(float(mantissa) * 0x1p-24f));
}

}  // namespace bits

RNNFAST_HD float load(float x) { return x; }
RNNFAST_HD double load(double x) { return x; }
RNNFAST_HD float load(bf16 x) { return bits::to_float(uint32_t(x.bits) << 16); }
RNNFAST_HD float load(f16 x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  return bits::widen_f16(x.bits);
#endif
}

RNNFAST_HD void store(float& to, float x) { to = x; }
RNNFAST_HD void store(double& to, double x) { to = x; }
RNNFAST_HD void store(bf16& to, float x) {
#if defined(__CUDA_ARCH__)
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  to.bits = bits::narrow_bf16(x);
#endif
}
RNNFAST_HD void store(f16& to, float x) {
#if defined(__CUDA_ARCH__)
  to.bits = __half_as_ushort(__float2half_rn(x));
#else
  to.bits = bits::narrow_f16(x);
#endif
}

}  // namespace rnnfast::cuda
