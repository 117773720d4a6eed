// The cells on dual numbers: forward gives Jacobian-vector products, backward second derivatives. Both must agree
// with the cells' backward and with central differences, which also proves every cell's backward.
#pragma once
// cpu/vec.h is compiled for one dtype and width; any will do here.
#define RNNFAST_REAL double
#define RNNFAST_VECTOR_BYTES 16
#include "../cpu/vec.h"
#include "../math/dual.h"
#include "report.h"

namespace rnnfast {

// What the gradients are gradients of: the sum over y and the final states, weighted by dy and dstate_n.
template <class V>
V loss(const Problem<V>& p, const Result<V>& r) {
  V sum(0);
  for (size_t i = 0; i < r.y.size(); ++i) sum = sum + p.dy[i] * r.y[i];
  for (int s = 0; s < kMaxStates; ++s)
    for (size_t i = 0; i < r.state_n[s].size(); ++i) sum = sum + p.dstate_n[s][i] * r.state_n[s][i];
  return sum;
}

inline bool near(double a, double b, double size, double tolerance) {
  return std::fabs(a - b) <= tolerance * (1 + size);  // false for NaN
}

// One direction per input array, so that no array's error hides behind another's.
template <class Cell>
void check_duals_of_scan(Report& report) {
  Random random(7);
  const Problem<double> p = random_problem<Cell>({3, 2, 3, 4}, random);
  const Result<double> result = plain<Cell>(p);
  for (int k = 0; k < in_h0 + Cell::S; ++k) {
    const std::string name = std::string("dual ") + Cell::name + " along " + kInputNames[k];
    const std::vector<double> direction = random.array<double>(Index(p.in[k].size()), 1);

    auto dual = map_problem<Dual<double>>(p, [](double v) { return Dual<double>(v); });
    for (size_t i = 0; i < direction.size(); ++i) dual.in[k][i].d = direction[i];
    const Result<Dual<double>> tangent = plain<Cell>(dual);

    double contracted = 0;
    for (size_t i = 0; i < direction.size(); ++i) contracted += result.grad[k][i] * direction[i];
    const double jvp = loss(dual, tangent).d;
    report.check(near(jvp, contracted, std::fabs(contracted), 1e-13),
                 name + ": forward's tangent is not backward's gradient");

    const long double step = 1e-6L;
    Result<Wide> side[2];
    long double value[2];
    for (int i = 0; i < 2; ++i) {
      auto moved = map_problem<Wide>(p, [](double v) { return Wide(v); });
      for (size_t j = 0; j < direction.size(); ++j)
        moved.in[k][j].v += (i ? step : -step) * direction[j];
      side[i] = plain<Cell>(moved);
      value[i] = loss(moved, side[i]).v;
    }
    const double difference = double((value[1] - value[0]) / (2 * step));
    report.check(near(jvp, difference, std::fabs(difference), 1e-9),
                 name + ": forward's tangent is not the difference");
    for (int j = 0; j < in_h0 + Cell::S; ++j) {
      bool good = tangent.grad[j].size() == side[0].grad[j].size();
      for (size_t i = 0; good && i < tangent.grad[j].size(); ++i) {
        const double d = double((side[1].grad[j][i].v - side[0].grad[j][i].v) / (2 * step));
        good = near(tangent.grad[j][i].d, d, std::fabs(d), 1e-9);
      }
      report.check(good, name + ": backward's tangent is not the difference of d" + kInputNames[j]);
    }
  }
}

// One unit through forward and backward; every output in one list.
template <class Cell, class V, class F>
std::vector<V> one_unit(F&& next) {
  V gx[Cell::G], gh[Cell::G], s[Cell::S], before[Cell::S], ds[Cell::S], tape[Cell::K];
  V dgx[Cell::G], dgh[Cell::G];
  for (int g = 0; g < Cell::G; ++g) {
    gx[g] = next();
    gh[g] = next();
  }
  for (int j = 0; j < Cell::S; ++j) {
    before[j] = s[j] = next();
    ds[j] = next();
  }
  Cell::forward(gx, gh, static_cast<const V*>(nullptr), s, tape);
  Cell::backward(tape, static_cast<const V*>(nullptr), before, ds, static_cast<const V*>(nullptr),
                 dgx, dgh);
  std::vector<V> out(s, s + Cell::S);
  out.insert(out.end(), ds, ds + Cell::S);
  out.insert(out.end(), dgx, dgx + Cell::G);
  out.insert(out.end(), dgh, dgh + Cell::G);
  return out;
}

// A dual number over a SIMD vector is, lane by lane, a dual number.
template <class Cell>
void check_duals_of_vectors(Report& report) {
  const auto value = [](Random& random) {
    const double v = random.next(), d = random.next();
    return Dual<double>(v, d);
  };
  std::vector<Dual<double>> scalar[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    Random random(uint64_t(11 + l));
    scalar[l] = one_unit<Cell, Dual<double>>([&] { return value(random); });
  }
  std::vector<Random> random;
  for (int l = 0; l < kLanes; ++l) random.emplace_back(uint64_t(11 + l));
  const auto vectors = one_unit<Cell, Dual<Vec>>([&] {
    Raw v{}, d{};
    for (int l = 0; l < kLanes; ++l) {
      const Dual<double> x = value(random[size_t(l)]);
      v[l] = x.v;
      d[l] = x.d;
    }
    return Dual<Vec>(v, d);
  });
  for (int l = 0; l < kLanes; ++l)
    for (size_t i = 0; i < vectors.size(); ++i)
      report.check(near(vectors[i].v.v[l], scalar[l][i].v, 1, 1e-14) &&
                       near(vectors[i].d.v[l], scalar[l][i].d, 1, 1e-14),
                   std::string("dual vector ") + Cell::name + ": lane " + std::to_string(l) +
                       ", output " + std::to_string(i));
}

inline void check_duals(Report& report) {
#define RNNFAST_CHECK(id, Cell)      \
  check_duals_of_scan<Cell>(report); \
  check_duals_of_vectors<Cell>(report);
  RNNFAST_FOR_EACH_CELL(RNNFAST_CHECK)
#undef RNNFAST_CHECK
}

}  // namespace rnnfast
