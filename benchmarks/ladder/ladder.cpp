// Times the rungs in turns and prints a line of JSON for each: benchmarks/ladder/run.py builds and runs this.
//
//   ladder T B I H [seconds of a turn] [rounds]
//
// Each rung is checked first, against rung 0 in double: it may be off by twice what rung 0 in float is, and four
// roundings (docs/precision.md).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "library.h"

namespace rnnfast {
namespace {

struct Rung {
  const char* name;
  void (*run)(const Problem<Real>&);
  int threads, before;  // before: the rung that it is compared with
};
constexpr Rung kRungs[] = {
    {"0 textbook", textbook<Real>, 1, 0},
    {"1 vectors", vectors, 1, 0},
    {"2 activations", activations, 1, 1},
    {"3 registers", registers, 1, 2},
    {"4 tiles", tiles, 1, 3},
    {"5 input ahead", input_ahead, 1, 4},
    {"6 there and back", there_and_back, 1, 5},
    {"7 two threads", two_threads, 2, 6},
    {"library, one thread", library<1>, 1, 6},
    {"library, two threads", library<2>, 2, 7},
};
constexpr int kCount = sizeof kRungs / sizeof *kRungs;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + long(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// The arrays of a problem, drawn like the initial values of a layer.
template <class Number>
struct Arrays {
  std::vector<Number> x, W, R, b, h0, c0, y, c;
  Problem<Number> problem;
  Arrays(Index T, Index B, Index I, Index H) {
    unsigned seed = 1;
    const auto draw = [&](std::vector<Number>& to, Index count, double bound) {
      to.resize(size_t(count));
      for (Number& each : to) {
        seed = seed * 1664525u + 1013904223u;
        each = Number(
            float(bound * (double(seed >> 8) / double(1 << 23) - 1)));  // the same floats in double
      }
    };
    const double bound = 1 / std::sqrt(double(H));
    draw(x, T * B * I, 1.7);  // variance 1
    draw(W, 4 * H * I, bound);
    draw(R, 4 * H * H, bound);
    draw(b, 4 * H, bound);
    draw(h0, B * H, 1);
    draw(c0, B * H, 1);
    y.resize(size_t(T * B * H));
    c = c0;
    problem = {T,        B,        I,         H,         x.data(), W.data(),
               R.data(), b.data(), h0.data(), c0.data(), y.data(), c.data()};
  }
};

// The largest difference of y and c from those of double, and the largest number there.
void differ(const Arrays<Real>& found, const Arrays<double>& exact, double& error, double& size) {
  error = size = 0;
  const auto look = [&](const std::vector<Real>& a, const std::vector<double>& e) {
    for (size_t i = 0; i < e.size(); ++i) {
      const double off = std::fabs(double(a[i]) - e[i]);
      if (!(off <= error)) error = off;  // and not a number
      size = std::max(size, std::fabs(e[i]));
    }
  };
  look(found.y, exact.y);
  look(found.c, exact.c);
}

// What so many threads can do at most: operations per second, and bytes of an array of R's size, in shares.
thread_local volatile uint64_t seen;  // or nothing would have to be computed
struct Peaks {
  double flops = 0, read = 0;

  template <class Work>
  static double rate(int threads, double seconds,
                     Work work) {  // work(id, rounds): what it has done
    struct Shared {
      Work& work;
      uint64_t rounds;
      double done[kThreads];
    } shared{work, 1, {}};
    for (;;) {
      const double begin = now();
      run_team(
          threads,
          [](void* context, int id, int) {
            auto& s = *static_cast<Shared*>(context);
            s.done[id] = s.work(id, s.rounds);
          },
          &shared);
      const double took = now() - begin;
      if (took >= seconds) return (shared.done[0] + (threads > 1 ? shared.done[1] : 0)) / took;
      shared.rounds *= 2;
    }
  }
  void measure(int threads, const std::vector<Real>& R) {
    const size_t bytes = R.size() * sizeof(Real) / size_t(threads) / kReadBytes * kReadBytes;
    for (int i = 0; i < 5; ++i) {
      flops = std::max(flops, rate(threads, 0.01, [](int, uint64_t rounds) {
                         seen = uint64_t(multiply_add(rounds));
                         return double(rounds) * kFlopsPerRound;
                       }));
      read = std::max(read, rate(threads, 0.01, [&](int id, uint64_t rounds) {
                        seen = read_memory(
                            reinterpret_cast<const char*>(R.data()) + size_t(id) * bytes, bytes,
                            rounds);
                        return double(rounds) * double(bytes);
                      }));
    }
  }
};

int main_(int argc, char** argv) {
  if (argc < 5) return std::puts("ladder T B I H [seconds of a turn] [rounds]"), 2;
  const Index T = std::atoll(argv[1]), B = std::atoll(argv[2]), I = std::atoll(argv[3]),
              H = std::atoll(argv[4]);
  const double seconds = argc > 5 ? std::atof(argv[5]) : 0.01;
  const int rounds = argc > 6 ? std::atoi(argv[6]) : 21;
  if (T < 1 || B < 1 || I < 1 || H < 1 || H % kLanes)
    return std::fprintf(stderr, "ladder: sizes are at least 1, H a multiple of %d here\n", kLanes),
           2;

  Arrays<double> exact(T, B, I, H);
  textbook(exact.problem);
  Arrays<Real> arrays(T, B, I, H);
  const auto run = [&](const Rung& rung) {
    arrays.c = arrays.c0;
    rung.run(arrays.problem);
  };
  double allowed = 0, calls[kCount], errors[kCount];
  for (int i = 0; i < kCount; ++i) {
    double error, size;
    std::fill(arrays.y.begin(), arrays.y.end(), Real(0));
    run(kRungs[i]);
    differ(arrays, exact, error, size);
    if (i == 0) allowed = 2 * error + 4 * 1.2e-7 * size;
    if (!(error <= allowed)) {
      std::fprintf(stderr, "ladder: \"%s\" is off by %.3g, allowed %.3g\n", kRungs[i].name, error,
                   allowed);
      return 1;
    }
    errors[i] = error / allowed;
    const double begin = now();
    run(kRungs[i]);
    calls[i] = std::max(1.0, std::round(seconds / (now() - begin)));
  }

  // In turns: a mood of the machine meets all.
  Peaks peaks[kThreads];
  for (int n = 1; n <= kThreads; ++n) peaks[n - 1].measure(n, arrays.R);
  std::vector<double> times[kCount];
  for (int round = 0; round < rounds; ++round)
    for (int i = 0; i < kCount; ++i) {
      const Rung& rung = kRungs[round % 2 ? kCount - 1 - i : i];
      const auto at = &rung - kRungs;
      if (calls[at] > 1) run(rung);  // the caches are another's
      const double begin = now();
      for (double call = 0; call < calls[at]; ++call) run(rung);
      times[at].push_back((now() - begin) / calls[at] / double(T));
    }
  for (int n = 1; n <= kThreads; ++n) peaks[n - 1].measure(n, arrays.R);

  double limit[kThreads];
  const auto shape = [&] {
    std::printf("\"shape\": [%ld, %ld, %ld, %ld], ", long(T), long(B), long(I), long(H));
  };
  for (int n = 1; n <= kThreads; ++n) {
    const Peaks& peak = peaks[n - 1];
    limit[n - 1] = std::max(double(2 * B * 4 * H * (I + H)) / peak.flops,
                            double(4 * H * H) * sizeof(Real) / peak.read);
    std::printf("{\"row\": \"limit\", ");
    shape();
    std::printf("\"threads\": %d, \"gflops\": %.4g, \"read_gbs\": %.4g, \"us\": %.4g}\n", n,
                peak.flops / 1e9, peak.read / 1e9, limit[n - 1] * 1e6);
  }
  for (int i = 0; i < kCount; ++i) {
    const Rung& rung = kRungs[i];
    std::vector<double> gains;
    for (int round = 0; round < rounds; ++round)
      gains.push_back(times[rung.before][size_t(round)] / times[i][size_t(round)]);
    const double time = median(times[i]);
    std::printf("{\"row\": \"rung\", ");
    shape();
    std::printf(
        "\"rung\": \"%s\", \"threads\": %d, \"us\": %.4g, \"before\": \"%s\", \"gain\": %.3g, "
        "\"of_limit\": %.3g, \"error\": %.2g}\n",
        rung.name, rung.threads, time * 1e6, kRungs[rung.before].name, median(gains),
        limit[rung.threads - 1] / time, errors[i]);
  }
  return 0;
}

}  // namespace
}  // namespace rnnfast

int main(int argc, char** argv) { return rnnfast::main_(argc, argv); }
