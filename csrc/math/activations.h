// sigmoid, tanh and relu on any value (math/scalar.h says what a value is).
//
// Maximum errors, measured by tests/test_activations.py on every instruction set built:
//   sigmoid  3 ulp (float32, float64) for x >= -87 (-708); below, the result is at most 2e-38 (4e-308)
//   tanh     3 ulp (float32, float64), odd to the bit, exact at 0 and at +-inf
// NaN in, NaN out. No table, no branch: lanes never wait for each other.
#pragma once
#include "scalar.h"

namespace rnnfast {

// e^x = 2^n * (1 + p) with n = round(x / ln 2), r = x - n ln 2, p = expm1(r) = r + r^2 q(r).
// ln 2 is split so that n * ln2_hi is exact (Cody and Waite 1980).
template <class Real>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float log2e = 1.44269504089f;
  static constexpr float magic = 12582912.0f;  // 1.5 * 2^23
  static constexpr float ln2_hi = 0.693359375f;
  static constexpr float ln2_lo = -2.12194440e-4f;
  static constexpr float max_input = 87.0f;   // e^87 is finite and e^-87 normal
  static constexpr float saturation = 20.0f;  // tanh(10) = 1 - 4e-9 rounds to 1
  // Least-maximum fit of q on |r| <= ln2 / 2: relative error of p 1.4e-8, under a quarter ulp.
  template <class V>
  RNNFAST_HD static V q(V r) {
    V s = V(0.00138825f);
    s = fma(s, r, V(0.00836655f));
    s = fma(s, r, V(0.0416672f));
    s = fma(s, r, V(0.16666543f));
    return fma(s, r, V(0.49999998f));
  }
};

template <>
struct ExpConstants<double> {
  static constexpr double log2e = 1.4426950408889634074;
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_hi = 6.93147180369123816490e-01;
  static constexpr double ln2_lo = 1.90821492927058770002e-10;
  static constexpr double max_input = 708.0;
  static constexpr double saturation = 40.0;  // tanh(20) = 1 - 8e-18 rounds to 1
  // Taylor terms 1/2! .. 1/13!: the next one is below 5e-18 of p on |r| <= ln2 / 2.
  template <class V>
  RNNFAST_HD static V q(V r) {
    V s = V(1.0 / 6227020800.0);
    s = fma(s, r, V(1.0 / 479001600.0));
    s = fma(s, r, V(1.0 / 39916800.0));
    s = fma(s, r, V(1.0 / 3628800.0));
    s = fma(s, r, V(1.0 / 362880.0));
    s = fma(s, r, V(1.0 / 40320.0));
    s = fma(s, r, V(1.0 / 5040.0));
    s = fma(s, r, V(1.0 / 720.0));
    s = fma(s, r, V(1.0 / 120.0));
    s = fma(s, r, V(1.0 / 24.0));
    s = fma(s, r, V(1.0 / 6.0));
    return fma(s, r, V(0.5));
  }
};

// For |x| <= max_input: scale = 2^n and p with e^x = scale * (1 + p).
template <class V>
RNNFAST_HD void exp_parts(V x, V& p, V& scale) {
  using C = ExpConstants<real_of<V>>;
  const V z = fma(x, V(C::log2e), V(C::magic));
  const V n = z - V(C::magic);
  const V r = fma(n, V(-C::ln2_lo), fma(n, V(-C::ln2_hi), x));
  p = fma(C::q(r) * r, r, r);
  scale = power_of_two(z);
}

template <class V>
RNNFAST_HD V sigmoid(V x) {
  using C = ExpConstants<real_of<V>>;
  V p, scale;
  exp_parts(at_most(at_least(V(0) - x, V(-C::max_input)), V(C::max_input)), p, scale);
  return V(1) / (V(1) + fma(scale, p, scale));
}

// With e = expm1(2|x|): tanh|x| = e / (e + 2), which keeps its relative accuracy down to 0.
template <class V>
RNNFAST_HD V tanh_(V x) {
  using C = ExpConstants<real_of<V>>;
  V p, scale;
  const V a = absolute(x);
  exp_parts(at_most(a + a, V(C::saturation)), p, scale);
  const V e = fma(scale, p, scale - V(1));
  return copy_sign(e / (e + V(2)), x);
}

template <class V>
RNNFAST_HD V relu(V x) {
  return unless_negative(x, x);
}

}  // namespace rnnfast
