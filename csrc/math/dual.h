// A dual number v + e*d with e*e = 0 over any value V: running a cell's forward on it gives the
// Jacobian-vector product, running forward and backward gives second derivatives, without a third
// statement of the cell's maths. Used by csrc/selftest.cpp today.
#pragma once
#include "activations.h"

namespace rnnfast {

template <class V>
struct Dual {
  using Real = real_of<V>;
  V v, d;
  Dual() = default;
  RNNFAST_HD explicit Dual(Real constant) : v(constant), d(Real(0)) {}
  RNNFAST_HD Dual(V value, V tangent) : v(value), d(tangent) {}

  friend RNNFAST_HD Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
  friend RNNFAST_HD Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
  friend RNNFAST_HD Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.v * b.d + a.d * b.v}; }
  friend RNNFAST_HD Dual fma(Dual a, Dual b, Dual c) {
    return {fma(a.v, b.v, c.v), fma(a.v, b.d, fma(a.d, b.v, c.d))};
  }
  friend RNNFAST_HD Dual sigmoid(Dual x) {
    const V s = sigmoid(x.v);
    return {s, x.d * s * (V(Real(1)) - s)};
  }
  friend RNNFAST_HD Dual tanh_(Dual x) {
    const V t = tanh_(x.v);
    return {t, x.d * (V(Real(1)) - t * t)};
  }
  friend RNNFAST_HD Dual clamp(Dual x, Dual bound) {
    return {clamp(x.v, bound.v), if_within(x.v, bound.v, x.d)};
  }
  friend RNNFAST_HD Dual if_within(Dual x, Dual bound, Dual value) {
    return {if_within(x.v, bound.v, value.v), if_within(x.v, bound.v, value.d)};
  }
  friend RNNFAST_HD Dual unless_negative(Dual x, Dual value) {
    return {unless_negative(x.v, value.v), unless_negative(x.v, value.d)};
  }
};

}  // namespace rnnfast
