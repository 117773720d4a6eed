// The primitives of a "value" for plain float and double. A value is what the cells compute on: a
// scalar (here), a SIMD vector (cpu/vec.h) or a dual number over either (math/dual.h). Besides
// + - * / a value offers the functions below, found by argument-dependent lookup.
#pragma once
#include <stdint.h>

#include "hd.h"

namespace rnnfast {

// The element type behind a value, which decides the polynomial and the clamps it needs.
template <class V>
struct RealOf {
  using type = typename V::Real;
};
template <>
struct RealOf<float> {
  using type = float;
};
template <>
struct RealOf<double> {
  using type = double;
};
template <class V>
using real_of = typename RealOf<V>::type;

// a*b + c, rounded once where the target has the instruction.
RNNFAST_HD float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RNNFAST_HD double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

RNNFAST_HD float absolute(float x) { return __builtin_fabsf(x); }
RNNFAST_HD double absolute(double x) { return __builtin_fabs(x); }
RNNFAST_HD float copy_sign(float x, float s) { return __builtin_copysignf(x, s); }
RNNFAST_HD double copy_sign(double x, double s) { return __builtin_copysign(x, s); }

// The smaller (larger) of x and a bound; NaN in x passes through, which x < bound ? ... would lose.
RNNFAST_HD float at_most(float x, float bound) { return bound < x ? bound : x; }
RNNFAST_HD double at_most(double x, double bound) { return bound < x ? bound : x; }
RNNFAST_HD float at_least(float x, float bound) { return bound > x ? bound : x; }
RNNFAST_HD double at_least(double x, double bound) { return bound > x ? bound : x; }

// x within +-bound; NaN passes through.
RNNFAST_HD float clamp(float x, float bound) { return at_least(at_most(x, bound), -bound); }
RNNFAST_HD double clamp(double x, double bound) { return at_least(at_most(x, bound), -bound); }
// `value` where |x| <= bound, else 0: the derivative of clamp, times value.
RNNFAST_HD float if_within(float x, float bound, float value) {
  return absolute(x) <= bound ? value : 0.0f;
}
RNNFAST_HD double if_within(double x, double bound, double value) {
  return absolute(x) <= bound ? value : 0.0;
}

// `value` where x <= 0 does not hold (so also where x is NaN), else 0.
RNNFAST_HD float unless_negative(float x, float value) { return x <= 0 ? 0.0f : value; }
RNNFAST_HD double unless_negative(double x, double value) { return x <= 0 ? 0.0 : value; }

// 2^n, for z = n + 1.5 * 2^mantissa_bits: adding that constant leaves n in the low bits of z.
RNNFAST_HD float power_of_two(float z) {
  union {
    float f;
    uint32_t u;
  } v = {z};
  v.u = (v.u << 23) + 0x3f800000u;
  return v.f;
}
RNNFAST_HD double power_of_two(double z) {
  union {
    double f;
    uint64_t u;
  } v = {z};
  v.u = (v.u << 52) + 0x3ff0000000000000u;
  return v.f;
}

}  // namespace rnnfast
