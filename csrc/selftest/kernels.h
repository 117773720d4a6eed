// The kernels of the instruction set in use, through the engine: against plain loops by the yardstick, and against
// themselves to the bit, where threads, packing, the tape or the kind of input may change no bit.
#pragma once
#include <thread>

#include "../cpu/arena.h"
#include "../cpu/engine.h"
#include "report.h"

namespace rnnfast {

struct Way {
  int threads = 1;
  bool tape = true;                             // without: forward only
  bool prepared = false;                        // weights packed beforehand; needs tape = false
  const std::vector<int32_t>* slots = nullptr;  // index input, (T, B) positions in `distinct`
  const std::vector<int64_t>* distinct = nullptr;
};

// A sequence of n columns in an array of (T, B, width), as a scan in either direction sees it.
template <class Real>
Sequence<Real> columns(std::vector<Real>& array, const Dims& d, Index width, Index first,
                       bool reverse) {
  const Index time = d.B * width;
  if (array.empty()) return {nullptr, 0, 0};
  if (reverse) return {array.data() + (d.T - 1) * time + first, -time, width};
  return {array.data() + first, time, width};
}
template <class Real>
Sequence<const Real> constant(const Sequence<Real>& s) {
  return {s.base, s.time, s.batch};
}
template <class Real>
const Real* or_null(const std::vector<Real>& a) {
  return a.empty() ? nullptr : a.data();
}

// Runs jobs of one shape as the directions of one layer, every second one reversed: x, y, dy and dx lie in memory as
// in a bidirectional layer, results come back in the order of the scans. Outputs start as NaN.
template <class Cell, class Real>
std::vector<Result<Real>> run(CellId id, const std::vector<Problem<Real>>& problems,
                              const Way& way) {
  const Dims d = problems[0].dims;
  const Index D = Index(problems.size()), steps = d.T * d.B, GH = Cell::G * d.H;
  const Real nan = std::numeric_limits<Real>::quiet_NaN();
  const auto unwritten = [&](Index n) { return std::vector<Real>(size_t(n), nan); };
  const bool want_dx = problems[0].want_dx && !way.slots;
  std::vector<Real> x = unwritten(way.slots ? 0 : steps * D * d.I), y = unwritten(steps * D * d.H),
                    dy = unwritten(problems[0].dy.empty() ? 0 : steps * D * d.H),
                    dx = unwritten(want_dx ? steps * D * d.I : 0);
  // f(row of a scan-ordered array, row of the sequence)
  const auto each_row = [&](const Sequence<Real>& s, std::vector<Real>& ordered, Index n, auto f) {
    if (s.base && n)
      for (Index t = 0; t < d.T; ++t)
        for (Index b = 0; b < d.B; ++b) f(ordered.data() + (t * d.B + b) * n, s.row(t, b), n);
  };
  const auto put = [](const Real* from, Real* to, Index n) {
    memcpy(to, from, size_t(n) * sizeof(Real));
  };
  const auto get = [](Real* to, const Real* from, Index n) {
    memcpy(to, from, size_t(n) * sizeof(Real));
  };

  std::vector<Result<Real>> results(problems.size());
  std::vector<ForwardArgs<Real>> forward(problems.size());
  std::vector<AlignedBlock> blocks;
  const auto block = [&](size_t bytes) {
    blocks.push_back(allocate_aligned(bytes));
    return static_cast<Real*>(blocks.back().get());
  };
  for (Index j = 0; j < D; ++j) {
    Problem<Real> p = problems[size_t(j)];
    Result<Real>& r = results[size_t(j)];
    ForwardArgs<Real>& a = forward[size_t(j)];
    a.dims = d;
    each_row(columns(x, d, D * d.I, j * d.I, j & 1), p.in[in_x], d.I, put);
    each_row(columns(dy, d, D * d.H, j * d.H, j & 1), p.dy, d.H, put);
    a.x = constant(columns(x, d, D * d.I, j * d.I, j & 1));
    a.y = columns(y, d, D * d.H, j * d.H, j & 1);
    if (way.slots)
      a.index = {
          true, {way.slots->data(), d.B, 1}, way.distinct->data(), Index(way.distinct->size())};
    const std::vector<Real>* in = problems[size_t(j)].in;
    for (int w = 0; w < kWeights; ++w) a.weights.at[w] = or_null(in[in_W + w]);
    for (int s = 0; s < Cell::S; ++s) {
      a.state0[s] = or_null(in[in_h0 + s]);
      r.state_n[s] = unwritten(d.B * d.H);
      a.state_n[s] = r.state_n[s].data();
    }
    if (way.tape) {
      a.tape.cell = block(size_t(tape_cell_size<Real>(id, steps, d.H)) * sizeof(Real));
      if (Cell::S > 1)
        a.tape.states[1] = block(size_t(tape_state_size<Real>(d.B + steps, d.H)) * sizeof(Real));
    }
    if (way.prepared) {
      const CellKernels<Real>& k = kernels<Real>().cells[int(id)];
      Real* packed = block(k.packed_size(d));
      k.prepare(d, a.weights, packed);
      a.packed = packed;
      a.weights = {};
    }
  }
  run_forward(id, forward.data(), int(D), way.threads);
  for (Index j = 0; j < D; ++j) {
    results[size_t(j)].y = unwritten(steps * d.H);
    each_row(forward[size_t(j)].y, results[size_t(j)].y, d.H, get);
  }
  if (!way.tape) return results;

  std::vector<BackwardArgs<Real>> backward(problems.size());
  for (Index j = 0; j < D; ++j) {
    const Problem<Real>& p = problems[size_t(j)];
    Result<Real>& r = results[size_t(j)];
    const ForwardArgs<Real>& f = forward[size_t(j)];
    BackwardArgs<Real>& a = backward[size_t(j)];
    a.dims = d;
    a.x = f.x;
    a.index = f.index;
    a.weights = f.weights;
    a.y = constant(f.y);
    a.tape = f.tape;
    a.dy = constant(columns(dy, d, D * d.H, j * d.H, j & 1));
    a.dx = columns(dx, d, D * d.I, j * d.I, j & 1);
    for (int w = 0; w < kWeights; ++w) {
      std::vector<Real>& grad = r.grad[in_W + w];
      grad = unwritten(w == int(Weight::W) && way.slots ? f.index.n * GH
                                                        : Index(p.in[in_W + w].size()));
      a.dweights[w] = grad.empty() ? nullptr : grad.data();
    }
    for (int s = 0; s < Cell::S; ++s) {
      a.state0[s] = f.state0[s];
      a.dstate_n[s] = or_null(p.dstate_n[s]);
      r.grad[in_h0 + s] = unwritten(d.B * d.H);
      a.dstate0[s] = r.grad[in_h0 + s].data();
    }
  }
  run_backward(id, backward.data(), int(D), way.threads);
  for (Index j = 0; j < D && want_dx; ++j) {
    results[size_t(j)].grad[in_x] = unwritten(steps * d.I);
    each_row(backward[size_t(j)].dx, results[size_t(j)].grad[in_x], d.I, get);
  }
  return results;
}

// A type wide enough to judge Real.
template <class Real>
using Reference = std::conditional_t<sizeof(Real) == 4, double, Wide>;

template <class Real>
std::string describe(const char* what, const Dims& d) {
  char text[160];
  snprintf(text, sizeof text, "%s.%s.%s T=%lld B=%lld I=%lld H=%lld", what,
           sizeof(Real) == 4 ? "f32" : "f64", chosen_isa().c_str(), (long long)d.T, (long long)d.B,
           (long long)d.I, (long long)d.H);
  return text;
}

// A few units give a few rounding errors, which chance may make small: there, plain loops run on inputs off by up to two
// units in the last place as well, and the largest error counts.
template <class Cell, class Real, class Ref>
Result<long double> errors_of_plain_loops(const Problem<Real>& p, const Result<Ref>& ref,
                                          Random& random) {
  const int samples = p.dims.H <= 7 ? 8 : 1;
  const Real eps = std::numeric_limits<Real>::epsilon();
  Result<long double> error;
  for (int i = 0; i < samples; ++i) {
    const auto near = map_problem<Real>(
        p, [&](Real v) { return i == 0 ? v : v + v * Real(random.next()) * 2 * eps; });
    const Result<Real> loops = plain<Cell>(near);
    each_array([](const char*, const auto& l, const auto& r, auto& e) { largest_error(l, r, e); },
               loops, ref, error);
  }
  return error;
}

template <class Cell, class Real>
void check_cell(Report& report, CellId id, const Dims& d, int directions, const Without& without,
                uint64_t seed) {
  const std::string name = describe<Real>(Cell::name, d);
  Random random(seed);
  std::vector<Problem<Real>> problems;
  for (int j = 0; j < directions; ++j)
    problems.push_back(map_problem<Real>(random_problem<Cell>(d, random, without),
                                         [](double v) { return Real(v); }));
  const auto one = run<Cell>(id, problems, Way{});
  for (int j = 0; j < directions; ++j) {
    const auto& p = problems[size_t(j)];
    const auto ref =
        plain<Cell>(map_problem<Reference<Real>>(p, [](Real v) { return Reference<Real>(v); }));
    const Result<long double> error = errors_of_plain_loops<Cell>(p, ref, random);
    each_array(
        [&](const std::string& array, const auto& got, const auto& allowed, const auto& wide) {
          Grouping grouping{1, 0};
          if (array == "y") grouping = {d.T, 1};
          if (array == "dx") grouping = {d.T, -1};
          if (array == "dW" || array == "dR" || array == "dbW" || array == "dbR")
            grouping.groups = Cell::G;
          judge(report, name + (j ? " reversed " : " ") + array, got, allowed, wide, grouping,
                d.I + d.H);
        },
        one[size_t(j)], error, ref);
  }
  for (int threads : {2, 3}) {
    const auto more = run<Cell>(id, problems, Way{threads});
    for (int j = 0; j < directions; ++j)
      check_bits(report, name + " with " + std::to_string(threads) + " threads", one[size_t(j)],
                 more[size_t(j)]);
  }
  for (bool prepared : {false, true}) {
    const auto inference = run<Cell>(id, problems, Way{1 + int(seed % 2), false, prepared});
    for (int j = 0; j < directions; ++j) {
      Result<Real> states = one[size_t(j)];
      for (auto& grad : states.grad) grad.clear();
      check_bits(report, name + (prepared ? " prepared" : " without a tape"), states,
                 inference[size_t(j)]);
    }
  }
}

// Index input gives the bits of the same input one-hot.
template <class Cell, class Real>
void check_index_input(Report& report, CellId id, const Dims& d, uint64_t seed) {
  const std::string name = describe<Real>(Cell::name, d) + " index input";
  Random random(seed);
  Problem<double> wide = random_problem<Cell>(d, random);
  std::vector<int64_t> distinct;
  for (Index k = d.I % 2; k < d.I; k += 2)
    distinct.push_back(k);  // some columns are never asked for
  const Index n = Index(distinct.size());
  std::vector<int32_t> slots;
  std::fill(wide.in[in_x].begin(), wide.in[in_x].end(), 0.0);
  for (Index r = 0; r < d.T * d.B; ++r) {
    slots.push_back(int32_t(Index((random.next() + 1) / 2 * double(n)) % n));
    wide.in[in_x][size_t(r * d.I + distinct[size_t(slots.back())])] = 1;
  }
  const std::vector<Problem<Real>> problem{
      map_problem<Real>(wide, [](double v) { return Real(v); })};
  Result<Real> one_hot = run<Cell>(id, problem, Way{})[0];
  one_hot.grad[in_x].clear();
  const Index GH = Cell::G * d.H;
  std::vector<Real> rows;  // dW of the distinct columns, (n, G*H)
  for (Index j = 0; j < n; ++j)
    for (Index i = 0; i < GH; ++i)
      rows.push_back(one_hot.grad[in_W][size_t(i * d.I + distinct[size_t(j)])]);
  one_hot.grad[in_W] = rows;
  for (int threads : {1, 2, 3}) {
    Way way{threads};
    way.slots = &slots;
    way.distinct = &distinct;
    check_bits(report, name + " with " + std::to_string(threads) + " threads", one_hot,
               run<Cell>(id, problem, way)[0]);
  }
}

// y = x W^T + b and its gradients.
template <class Real>
struct Linear {
  std::vector<Real> y, dx, dW, db;
};
template <class Real>
Linear<Real> run_linear(const Dims& d, const Problem<Real>& p, int threads) {
  const Real nan = std::numeric_limits<Real>::quiet_NaN();
  const std::vector<Real>&x = p.in[in_x], &W = p.in[in_W], &b = p.in[in_bW];
  Linear<Real> r{std::vector<Real>(p.dy.size(), nan),
                 std::vector<Real>(p.want_dx ? x.size() : 0, nan), std::vector<Real>(W.size(), nan),
                 std::vector<Real>(b.size(), nan)};
  LinearArgs<Real> a{};
  a.N = d.B;
  a.K = d.I;
  a.M = d.H;
  a.x = x.data();
  a.W = W.data();
  a.b = or_null(b);
  a.y = r.y.data();
  run_linear_forward(a, threads);
  a.dy = p.dy.data();
  a.dx = r.dx.empty() ? nullptr : r.dx.data();
  a.dW = r.dW.data();
  a.db = r.db.empty() ? nullptr : r.db.data();
  run_linear_backward(a, threads);
  return r;
}
template <class V>
Linear<V> plain_linear(const Dims& d, const Problem<V>& p) {
  const std::vector<V>&x = p.in[in_x], &W = p.in[in_W], &b = p.in[in_bW];
  const Index N = d.B, K = d.I, M = d.H;
  const V zero(0);
  Linear<V> r{std::vector<V>(p.dy.size(), zero), std::vector<V>(x.size(), zero),
              std::vector<V>(W.size(), zero), std::vector<V>(b.size(), zero)};
  for (Index n = 0; n < N; ++n)
    for (Index m = 0; m < M; ++m) {
      V sum = b.empty() ? zero : b[m];
      for (Index k = 0; k < K; ++k) {
        sum = sum + W[m * K + k] * x[n * K + k];
        r.dx[n * K + k] = r.dx[n * K + k] + W[m * K + k] * p.dy[n * M + m];
        r.dW[m * K + k] = r.dW[m * K + k] + p.dy[n * M + m] * x[n * K + k];
      }
      r.y[n * M + m] = sum;
      if (!b.empty()) r.db[m] = r.db[m] + p.dy[n * M + m];
    }
  if (!p.want_dx) r.dx.clear();
  return r;
}
template <class Real>
void check_linear(Report& report, const Dims& d, bool everything, uint64_t seed) {
  const std::string name = describe<Real>("linear", d);
  Random random(seed);
  Problem<Real> p{d, {}, {}, {}, everything};
  p.in[in_x] = random.array<Real>(d.B * d.I, 1);
  p.in[in_W] = random.array<Real>(d.H * d.I, 1);
  if (everything) p.in[in_bW] = random.array<Real>(d.H, 1);
  p.dy = random.array<Real>(d.B * d.H, 1);
  const auto one = run_linear(d, p, 1);
  const auto loops = plain_linear(d, p);
  const auto ref =
      plain_linear(d, map_problem<Reference<Real>>(p, [](Real v) { return Reference<Real>(v); }));
  const auto check = [&](const char* array, const auto& got, const auto& plain, const auto& wide) {
    std::vector<long double> error;
    largest_error(plain, wide, error);
    judge(report, name + " " + array, got, error, wide, {1, 0}, d.I + d.H);
  };
  check("y", one.y, loops.y, ref.y);
  check("dx", one.dx, loops.dx, ref.dx);
  check("dW", one.dW, loops.dW, ref.dW);
  check("db", one.db, loops.db, ref.db);
  for (int threads : {2, 3}) {
    const auto more = run_linear(d, p, threads);
    report.check(same_bits(one.y, more.y) && same_bits(one.dx, more.dx) &&
                     same_bits(one.dW, more.dW) && same_bits(one.db, more.db),
                 name + ": other bits with " + std::to_string(threads) + " threads");
  }
}

// A runtime may give fewer threads than were asked for: their scratch must suffice whatever those choose.
template <class Real>
void check_linear_scratch(Report& report) {
  const auto& k = kernels<Real>();
  Real some = 0;
  for (Index size = 16; size <= 1200; size += 16)
    for (int n = 2; n <= 8; ++n) {
      LinearArgs<Real> a{};
      a.N = 3, a.K = a.M = size, a.dx = &some;
      report.check(k.linear_forward_scratch(a, n) >= k.linear_forward_scratch(a, n - 1) &&
                       k.linear_backward_scratch(a, n) >= k.linear_backward_scratch(a, n - 1),
                   describe<Real>("linear", {1, a.N, a.K, a.M}) + ": " + std::to_string(n) +
                       " threads have less room than one fewer");
    }
}

// Several threads call at once, each with its own team: the first calls of the process, so that what is loaded and
// chosen on first use is raced for too.
template <class Cell, class Real>
void check_concurrent_calls(Report& report, CellId id) {
  constexpr int kCallers = 4, kRounds = 6;
  const Dims shapes[2] = {{17, 7, 5, 33}, {17, 3, 65, 17}};
  std::vector<std::vector<Problem<Real>>> problems;
  Random random(23);
  for (const Dims& d : shapes) {
    const auto p = random_problem<Cell>(d, random);
    problems.push_back({map_problem<Real>(p, [](double v) { return Real(v); })});
  }
  std::vector<Result<Real>> got(kCallers * kRounds);
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c)
    callers.emplace_back([&, c] {
      for (int r = 0; r < kRounds; ++r)
        got[size_t(c * kRounds + r)] =
            run<Cell>(id, problems[size_t((c + r) % 2)], Way{1 + r % 3})[0];
    });
  for (std::thread& caller : callers) caller.join();
  const Result<Real> expected[2] = {run<Cell>(id, problems[0], Way{})[0],
                                    run<Cell>(id, problems[1], Way{})[0]};
  for (int c = 0; c < kCallers; ++c)
    for (int r = 0; r < kRounds; ++r)
      check_bits(report, describe<Real>(Cell::name, shapes[(c + r) % 2]) + " called concurrently",
                 expected[(c + r) % 2], got[size_t(c * kRounds + r)]);
}

template <class Real>
void check_kernels(Report& report) {
#define RNNFAST_CHECK(id, Cell) check_concurrent_calls<Cell, Real>(report, CellId::id);
  RNNFAST_FOR_EACH_CELL(RNNFAST_CHECK)
#undef RNNFAST_CHECK
  const Index Is[] = {1, 5, 65};
  uint64_t number = 0;
  for (Index H : {1, 7, 16, 17, 33, 70})
    for (Index B : {1, 3, 7})
      for (Index T : {0, 1, 2, 17}) {
        // Every T, B and H together; I, and what is left out, take turns.
        const Dims d{T, B, Is[++number % 3], H};
        const Without without{number % 4 == 1, number % 4 == 2, number % 4 == 3};
        const int directions = number % 5 == 0 ? 2 : 1;
#define RNNFAST_CHECK(id, Cell) \
  check_cell<Cell, Real>(report, CellId::id, d, directions, without, number);
        RNNFAST_FOR_EACH_CELL(RNNFAST_CHECK)
#undef RNNFAST_CHECK
      }
  for (const Dims& d :
       {Dims{0, 3, 5, 7}, Dims{2, 1, 5, 17}, Dims{17, 3, 65, 33}, Dims{17, 7, 5, 7}}) {
#define RNNFAST_CHECK(id, Cell) check_index_input<Cell, Real>(report, CellId::id, d, ++number);
    RNNFAST_FOR_EACH_CELL(RNNFAST_CHECK)
#undef RNNFAST_CHECK
  }
  for (Index N : {0, 1, 7, 33, 150})
    for (Index K : {1, 5, 65})
      for (Index M : {1, 7, 33, 70}) {
        ++number;
        check_linear<Real>(report, {1, N, K, M}, number % 2, number);
      }
  check_linear_scratch<Real>(report);
}

}  // namespace rnnfast
