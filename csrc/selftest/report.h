// What the parts of the self-test share: random numbers that are the same everywhere, the yardstick of
// tests/yardstick.py, and the count of what failed.
#pragma once
#include <stdio.h>
#include <string.h>

#include <limits>

#include "plain.h"

namespace rnnfast {

struct Report {
  int checks = 0, failed = 0;
  void check(bool good, const std::string& what) {
    ++checks;
    if (good) return;
    if (++failed <= 20) printf("FAIL %s\n", what.c_str());
    if (failed == 20) printf("FAIL (further failures are counted only)\n");
  }
};

// Uniform in (-1, 1). The standard library's distributions differ between its implementations.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  double next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return double((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1;
  }
  template <class Real>
  std::vector<Real> array(Index n, double scale) {
    std::vector<Real> out;
    for (Index i = 0; i < n; ++i) out.push_back(Real(scale * next()));
    return out;
  }

 private:
  uint64_t state_;
};

// Without: what this problem leaves out.
struct Without {
  bool biases, states, dy_and_dx;
};
template <class Cell>
Problem<double> random_problem(const Dims& d, Random& random, const Without& without = {}) {
  Problem<double> p{d, {}, {}, {}, !without.dy_and_dx};
  const Index GH = Cell::G * d.H;
  // Recurrent weights within 1/sqrt(H) keep the spectral radius below 1: rounding errors do not grow with T.
  const double scale = 1 / std::sqrt(double(d.H));
  p.in[in_x] = random.array<double>(d.T * d.B * d.I, 1);
  p.in[in_W] = random.array<double>(GH * d.I, scale);
  p.in[in_R] = random.array<double>(GH * d.H, scale);
  for (int k : {in_bW, in_bR})
    if (!without.biases) p.in[k] = random.array<double>(GH, scale);
  for (int s = 0; s < Cell::S; ++s)
    if (!without.states) {
      p.in[in_h0 + s] = random.array<double>(d.B * d.H, 1);
      p.dstate_n[s] = random.array<double>(d.B * d.H, 1);
    }
  if (!without.dy_and_dx) p.dy = random.array<double>(d.T * d.B * d.H, 1);
  return p;
}

// How the elements of an array are judged: in `groups` equal parts of axis 0, each alone, or as time steps by all
// steps before them in a pass that runs up (1) or down (-1).
struct Grouping {
  Index groups;
  int time;
};

// How far plain loops in the dtype under test are off, element by element; the largest of several samples.
template <class Real, class Ref>
void largest_error(const std::vector<Real>& plain, const std::vector<Ref>& ref,
                   std::vector<long double>& error) {
  error.resize(ref.size(), 0);
  for (size_t i = 0; i < ref.size(); ++i)
    error[i] = std::fmax(error[i], std::fabs(exact(plain[i]) - exact(ref[i])));
}

// max |got - ref| <= 2 max error + 4 eps max |ref| + width * smallest normal, in every group; `error` is that of plain
// loops.
template <class Real, class Ref>
void judge(Report& report, const std::string& name, const std::vector<Real>& got,
           const std::vector<long double>& error, const std::vector<Ref>& ref, Grouping grouping,
           Index width) {
  using Limits = std::numeric_limits<Real>;
  if (got.size() != ref.size()) return report.check(false, name + ": sizes differ");
  if (ref.empty()) return;
  const Index size = Index(ref.size()) / grouping.groups;
  long double allowed = 0, largest = 0;
  for (Index i = 0; i < grouping.groups; ++i) {
    const Index group = grouping.time < 0 ? grouping.groups - 1 - i : i;
    if (!grouping.time) allowed = largest = 0;
    long double off = 0;
    for (Index j = group * size; j < (group + 1) * size; ++j) {
      const long double one = std::fabs(exact(got[j]) - exact(ref[j]));
      if (!(one <= off)) off = one;  // NaN stays
      allowed = std::fmax(allowed, error[j]);
      largest = std::fmax(largest, std::fabs(exact(ref[j])));
    }
    const long double bound = 2 * allowed + 4 * (long double)Limits::epsilon() * largest +
                              (long double)width * Limits::min();
    if (off <= bound) continue;
    char text[160];
    snprintf(text, sizeof text, ": %s %lld is off by %.3Le, allowed %.3Le (plain loops: %.3Le)",
             grouping.time ? "step" : "block", (long long)group, off, bound, allowed);
    return report.check(false, name + text);
  }
  report.check(true, name);
}

template <class Real>
bool same_bits(const std::vector<Real>& a, const std::vector<Real>& b) {
  return a.size() == b.size() &&
         (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(Real)) == 0);
}

template <class Real>
void check_bits(Report& report, const std::string& name, const Result<Real>& a,
                const Result<Real>& b) {
  each_array(
      [&](const char* array, const std::vector<Real>& u, const std::vector<Real>& v) {
        report.check(same_bits(u, v), name + ": other bits in " + array);
      },
      a, b);
}

}  // namespace rnnfast
