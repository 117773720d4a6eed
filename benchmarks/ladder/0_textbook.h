// Rung 0, the textbook: each number as the equations state it, one after the other, exp and tanh of the C library.
//
// A sum over k is a chain: each addition waits for the one before, 3 or 4 cycles, and the compiler may not split it, for
// that would round differently.
#pragma once
#include <cmath>
#include <cstring>

#include "problem.h"

namespace rnnfast {
namespace {

template <class Number>
void textbook(const Problem<Number>& p) {
  const auto sigmoid = [](Number a) { return 1 / (1 + std::exp(-a)); };
  for (Index t = 0; t < p.T; ++t) {
    const Number *x = p.x + t * p.B * p.I, *h = p.h_before(t);
    for (Index row = 0; row < p.B; ++row)
      for (Index j = 0; j < p.H; ++j) {
        Number a[4];
        for (Index gate = 0; gate < 4; ++gate) {
          const Index out = gate * p.H + j;
          Number sum = p.b[out];
          for (Index k = 0; k < p.I; ++k) sum += p.W[out * p.I + k] * x[row * p.I + k];
          for (Index k = 0; k < p.H; ++k) sum += p.R[out * p.H + k] * h[row * p.H + k];
          a[gate] = sum;
        }
        Number& c = p.c[row * p.H + j];
        c = sigmoid(a[1]) * c + sigmoid(a[0]) * std::tanh(a[2]);
        p.y[(t * p.B + row) * p.H + j] = sigmoid(a[3]) * std::tanh(c);
      }
  }
}

}  // namespace
}  // namespace rnnfast
