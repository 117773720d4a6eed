// A layer as plain loops over any value: what the kernels are compared with, and, on dual numbers, what
// proves the cells' derivatives. Products are triple loops; the elementwise part is the cell's own.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "../api.h"

namespace rnnfast {

// A value in long double with the C library's functions, so that a comparison in it judges
// math/activations.h too.
struct Wide {
  using Real = double;
  long double v;
  Wide() = default;
  explicit Wide(long double value) : v(value) {}
  friend Wide operator+(Wide a, Wide b) { return Wide(a.v + b.v); }
  friend Wide operator-(Wide a, Wide b) { return Wide(a.v - b.v); }
  friend Wide operator*(Wide a, Wide b) { return Wide(a.v * b.v); }
  friend Wide fma(Wide a, Wide b, Wide c) { return Wide(a.v * b.v + c.v); }
  friend Wide sigmoid(Wide x) { return Wide(1 / (1 + std::exp(-x.v))); }
  friend Wide tanh_(Wide x) { return Wide(std::tanh(x.v)); }
  friend Wide clamp(Wide x, Wide bound) {
    return x.v > bound.v ? bound : x.v < -bound.v ? Wide(-bound.v) : x;
  }
  friend Wide if_within(Wide x, Wide bound, Wide value) {
    return std::fabs(x.v) <= bound.v ? value : Wide(0);
  }
  friend Wide unless_negative(Wide x, Wide value) { return x.v <= 0 ? Wide(0) : value; }
};
inline long double exact(float x) { return x; }
inline long double exact(double x) { return x; }
inline long double exact(Wide x) { return x.v; }

// What a scan is a function of, and so what has a gradient.
enum Input { in_x, in_W, in_R, in_bW, in_bR, in_h0, in_c0, kInputs };
constexpr const char* kInputNames[kInputs] = {"x", "W", "R", "bW", "bR", "h0", "c0"};

// One layer in one direction, in the order of its scan, with the gradients that flow into it. An empty
// array is one that is not given.
template <class V>
struct Problem {
  Dims dims;
  std::vector<V> in[kInputs];
  std::vector<V> dy, dstate_n[kMaxStates];
  bool want_dx;
};

template <class V>
struct Result {
  std::vector<V> y, state_n[kMaxStates], grad[kInputs];
};

// f on every array of one or several results, with its name.
template <class F, class... Results>
void each_array(F&& f, Results&... r) {
  f("y", r.y...);
  f("h_n", r.state_n[0]...);
  f("c_n", r.state_n[1]...);
  for (int k = 0; k < kInputs; ++k) f((std::string("d") + kInputNames[k]).c_str(), r.grad[k]...);
}

// f on every element of a problem.
template <class To, class From, class F>
Problem<To> map_problem(const Problem<From>& p, F&& f) {
  Problem<To> out{p.dims, {}, {}, {}, p.want_dx};
  const auto map = [&](const std::vector<From>& from, std::vector<To>& to) {
    for (const From& v : from) to.push_back(f(v));
  };
  for (int k = 0; k < kInputs; ++k) map(p.in[k], out.in[k]);
  map(p.dy, out.dy);
  for (int s = 0; s < kMaxStates; ++s) map(p.dstate_n[s], out.dstate_n[s]);
  return out;
}

template <class Cell, class V>
Result<V> plain(const Problem<V>& p) {
  constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
  const Index T = p.dims.T, B = p.dims.B, I = p.dims.I, H = p.dims.H;
  const V zero(0);
  const auto given = [&](const std::vector<V>& a, Index n) {
    return a.empty() ? std::vector<V>(size_t(n), zero) : a;
  };
  const std::vector<V>&x = p.in[in_x], &W = p.in[in_W], &R = p.in[in_R];
  const std::vector<V> bW = given(p.in[in_bW], G * H), bR = given(p.in[in_bR], G * H);
  const std::vector<V> dy = given(p.dy, T * B * H);
  Result<V> r;

  std::vector<V> state[S], tape(size_t(T * B * H * K), zero);  // states (T+1, B, H)
  for (int s = 0; s < S; ++s) {
    state[s] = given(p.in[in_h0 + s], B * H);
    state[s].resize(size_t((T + 1) * B * H), zero);
  }
  for (Index t = 0; t < T; ++t)
    for (Index b = 0; b < B; ++b)
      for (Index h = 0; h < H; ++h) {
        const Index before = (t * B + b) * H, after = before + B * H;
        V gx[G], gh[G], s[S], kept[K];
        for (Index g = 0; g < G; ++g) {
          gx[g] = bW[g * H + h];
          gh[g] = bR[g * H + h];
          for (Index k = 0; k < I; ++k)
            gx[g] = gx[g] + W[(g * H + h) * I + k] * x[(t * B + b) * I + k];
          for (Index k = 0; k < H; ++k)
            gh[g] = gh[g] + R[(g * H + h) * H + k] * state[0][before + k];
        }
        for (int j = 0; j < S; ++j) s[j] = state[j][before + h];
        Cell::forward(gx, gh, static_cast<const V*>(nullptr), s, kept);
        for (int j = 0; j < S; ++j) state[j][after + h] = s[j];
        for (int j = 0; j < K; ++j) tape[(before + h) * K + j] = kept[j];
      }
  r.y.assign(state[0].begin() + B * H, state[0].end());
  for (int s = 0; s < S; ++s) r.state_n[s].assign(state[s].end() - B * H, state[s].end());

  std::vector<V> ds[S];  // what flows into the states between two steps, (B, H)
  for (int s = 0; s < S; ++s) ds[s] = given(p.dstate_n[s], B * H);
  for (int k : {in_x, in_W, in_R, in_bW, in_bR}) r.grad[k].assign(p.in[k].size(), zero);
  const auto add = [](std::vector<V>& to, Index at, V v) {
    if (!to.empty()) to[at] = to[at] + v;
  };
  for (Index t = T - 1; t >= 0; --t)
    for (Index b = 0; b < B; ++b) {
      const Index before = (t * B + b) * H;
      std::vector<V> dgx(size_t(G * H)), dgh(size_t(G * H));
      for (Index h = 0; h < H; ++h) {
        V kept[K], s[S], d[S], x_gate[G], h_gate[G];
        for (int j = 0; j < K; ++j) kept[j] = tape[(before + h) * K + j];
        for (int j = 0; j < S; ++j) {
          s[j] = state[j][before + h];
          d[j] = ds[j][b * H + h];
        }
        d[0] = d[0] + dy[before + h];
        Cell::backward(kept, static_cast<const V*>(nullptr), s, d, static_cast<const V*>(nullptr),
                       x_gate, h_gate);
        for (int j = 0; j < S; ++j) ds[j][b * H + h] = d[j];
        for (int g = 0; g < G; ++g) {
          dgx[g * H + h] = x_gate[g];
          dgh[g * H + h] = h_gate[g];
        }
      }
      for (Index j = 0; j < G * H; ++j) {
        for (Index k = 0; k < I; ++k) {
          add(r.grad[in_x], (t * B + b) * I + k, W[j * I + k] * dgx[j]);
          add(r.grad[in_W], j * I + k, dgx[j] * x[(t * B + b) * I + k]);
        }
        for (Index k = 0; k < H; ++k) {
          add(ds[0], b * H + k, R[j * H + k] * dgh[j]);
          add(r.grad[in_R], j * H + k, dgh[j] * state[0][before + k]);
        }
        add(r.grad[in_bW], j, dgx[j]);
        add(r.grad[in_bR], j, dgh[j]);
      }
    }
  for (int s = 0; s < S; ++s) r.grad[in_h0 + s] = ds[s];
  if (!p.want_dx) r.grad[in_x].clear();
  return r;
}

}  // namespace rnnfast
