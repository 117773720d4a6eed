#include "engine.h"

#include <algorithm>
#include <chrono>

#include "../team/barrier.h"
#include "../team/crowd.h"
#include "../team/team.h"
#include "arena.h"

namespace rnnfast {
namespace {

struct CellFacts {
  int gates, states, tape;
};
constexpr CellFacts kFacts[] = {
#define RNNFAST_FACTS(id, Type) {Type::G, Type::S, Type::K},
    RNNFAST_FOR_EACH_CELL(RNNFAST_FACTS)
#undef RNNFAST_FACTS
};

// Where a call asks for n threads it gets them; where for -n, at most n.
int most_threads(int asked) { return members_in_crowd(asked < 0 ? -asked : team_threads()); }

// How many threads pay. Results do not depend on the answer. The figures are times with two threads over one
// (benchmarks/threads.py; AVX-512, Emerald Rapids, 2 virtual cores).
//   - Opening a region and meeting in it costs a microsecond or more: less than 0.4 Mflop of products stay with the
//     caller. One step of a GRU took at H = 96 (0.11 Mflop) 1.01, at 192 (0.44) 0.86; of an RNN at 256 (0.26) 0.97, at 384
//     (0.59) 0.84; an LSTM at 128 (0.26) would have gained already, 0.78.
//   - Members who split a batch pack no weights on the way, but all of them beforehand: with B = 8 and H = 64 an LSTM of 4
//     steps (1.0 million terms) took 1.09, forward and backward 1.20; of 8 steps 0.95 and 0.98. A GRU of 4 steps 1.12 and
//     1.19, of 8 steps (1.6 million) 0.89 and 0.91.
//   - With few rows per thread the units are split and every step meets in a barrier, where h goes from core to core, and
//     backward sums of it: a step must be worth it. Of 50 steps with B = 1 took an RNN at H = 128 (8,192 terms a
//     member) 1.08 and, forward and backward, 1.13, a GRU at 96 (13,824) 1.00 and 1.05, an LSTM at 80 (12,800) 0.88 and
//     0.82. With B = 4 an LSTM at 48 (18,432) 0.95 and 1.28, at 64 (32,768) 0.95 and 1.07, at 96 (73,728) 0.74 and 0.93, a
//     GRU at 48 (13,824) 1.25 and 1.33, at 96 (55,296) 1.00 and 0.99.
constexpr double kSharedFlops = 0.4e6, kSplitTerms = 1.2e6, kStepTerms = 12500;

int threads_that_pay(int gates, const Dims& d, int count, int asked, bool backward) {
  if (asked > 0) return asked;
  const int most = most_threads(asked);
  if (most <= 1) return most;
  const double step_terms = double(gates) * double(d.H) * double(d.H) * double(d.B);
  const double terms =
      double(count) * double(d.T) * (step_terms + double(gates * d.H) * double(d.I) * double(d.B));
  if (terms * (backward ? 4.0 : 2.0) < kSharedFlops) return 1;
  const double rows = double(d.B);
  const double step = kStepTerms * (d.T == 1 ? 1.0 : backward ? rows : 0.75 + 0.25 * rows);
  int n = most;
  while (n > 1 && n > count) {
    const int each = n / count;  // members per job
    if (d.B >= 4 * each ? terms >= kSplitTerms : (d.T > 1 ? step_terms : terms) >= each * step)
      break;
    --n;
  }
  return n;
}

// Bytes from which threads share a copy. Forward and backward with all states and gates read, on two threads, took of the time
// with one that copies (AVX-512, Emerald Rapids, medians of pairs that spread by 5 to 15 %): (128, 8, 64, 64), h of 256 KiB, LSTM
// 0.97, GRU 0.95, RNN 0.93; (128, 64, 128, 256) 0.96, 0.98 and 0.93. Smaller ones were not measured.
constexpr Index kSharedCopyBytes = 256 << 10;

using Clock = std::chrono::steady_clock;

// The team that runs all jobs: side by side where there are threads for them, each by its own part of the team.
template <class Args>
struct Region {
  const Args* jobs;
  int count;
  void (*run)(const Args&, void*, const Member&);
  char* scratch;
  size_t scratch_per_job;
  TeamBarrier* barriers;     // one for each part of the team, and behind them one for all
  Clock::time_point* began;  // of each member

  static void wait(void* barrier, int id, int n) {
    static_cast<TeamBarrier*>(barrier)->wait(id, n);
  }
  static void body(void* context, int id, int n) {
    const auto& region = *static_cast<Region*>(context);
    region.began[id] = Clock::now();
    const int parts = n < region.count ? n : region.count;
    const int each =
        n / parts;  // members of a part; what is left over when it is not even stays idle
    const int part = id / each;
    if (part < parts) {
      const Member member{id % each, each, region.barriers + part, wait};
      for (int j = part; j < region.count; j += parts)
        region.run(region.jobs[j], region.scratch + size_t(j) * region.scratch_per_job, member);
    }
    // OpenMP waits here as well, but by default it spins long, on a core that the last member may need.
    region.barriers[region.count].wait(id, n);
  }
};

template <class Args>
void run_jobs(const Args* jobs, int count, int threads, size_t (*scratch_size)(const Args&, int),
              void (*run)(const Args&, void*, const Member&)) {
  size_t per_job = 0;
  for (int j = 0; j < count; ++j) {
    const size_t bytes = scratch_size(jobs[j], threads);
    if (bytes > per_job) per_job = bytes;
  }
  per_job = (per_job + 127) / 128 * 128;
  const Scratch scratch(per_job * size_t(count));
  if (threads <= 1) {
    for (int j = 0; j < count; ++j) run(jobs[j], scratch.get(), Member{0, 1, nullptr, nullptr});
    return;
  }
  std::vector<TeamBarrier> barriers;
  barriers.reserve(size_t(count) + 1);
  for (int j = 0; j <= count; ++j) barriers.emplace_back(threads);
  std::vector<Clock::time_point> began(size_t(threads), Clock::now());
  Region<Args> region{jobs,    count,           run,         static_cast<char*>(scratch.get()),
                      per_job, barriers.data(), began.data()};
  run_team(threads, Region<Args>::body, &region);
  // A member that was asleep may come late, and is waited for, which says nothing of a crowd.
  const Clock::time_point all_there = *std::max_element(began.begin(), began.end());
  const std::chrono::nanoseconds late = all_there - began[0], time = Clock::now() - all_there;
  int64_t waited = -int64_t(threads - 1) * int64_t(late.count());
  for (const TeamBarrier& barrier : barriers) waited += barrier.waited();
  note_call(threads, time.count(), waited);
}

}  // namespace

template <class Real>
void run_forward(CellId cell, const ForwardArgs<Real>* jobs, int count, int threads) {
  const auto& k = kernels<Real>().cells[int(cell)];
  const int n = threads_that_pay(kFacts[int(cell)].gates, jobs[0].dims, count, threads, false);
  run_jobs(jobs, count, n, k.forward_scratch, k.forward);
}

template <class Real>
void run_backward(CellId cell, const BackwardArgs<Real>* jobs, int count, int threads) {
  const auto& k = kernels<Real>().cells[int(cell)];
  const int n = threads_that_pay(kFacts[int(cell)].gates, jobs[0].dims, count, threads, true);
  run_jobs(jobs, count, n, k.backward_scratch, k.backward);
}

namespace {
// The same of the layer of an output, (N, K, M), by its terms, a weight that is read counting as five. Two threads over one took at
// (1, 256, 256) 1.04, backward 1.15, at (128, 64, 64), whose rows are shared, 1.35 and 0.97, at (1, 512, 512) 0.60 and 0.57.
constexpr double kLinearTerms = 0.6e6, kTermsOfWeight = 5;

template <class Real>
int linear_threads(const LinearArgs<Real>& a, int asked) {
  if (asked > 0) return asked;
  const double terms = (double(a.N) + kTermsOfWeight) * double(a.K) * double(a.M);
  return terms < kLinearTerms ? 1 : most_threads(asked);
}

// And of what stands between layers, in elements: a mask of 8,192 took 1.07, of 16,384 0.90, of 65,536 0.67, a sum alone of 32,768
// 1.33, of 65,536 1.01.
constexpr double kMasked = 2e4, kAdded = 1e5;
}  // namespace

template <class Real>
void run_linear_forward(const LinearArgs<Real>& args, int threads) {
  const auto& k = kernels<Real>();
  run_jobs(&args, 1, linear_threads(args, threads), k.linear_forward_scratch, k.linear_forward);
}
template <class Real>
void run_linear_backward(const LinearArgs<Real>& args, int threads) {
  const auto& k = kernels<Real>();
  run_jobs(&args, 1, linear_threads(args, threads), k.linear_backward_scratch, k.linear_backward);
}

template <class Real>
void run_masked_rows(const MaskedRows<Real>& args, int threads) {
  const auto& k = kernels<Real>();
  const bool few = double(args.rows) * double(args.n) < (args.p > 0 ? kMasked : kAdded);
  const int n = threads > 0 ? threads : few ? 1 : most_threads(threads);
  run_jobs(&args, 1, n, k.masked_rows_scratch, k.masked_rows);
}

template <class Real>
void run_unpack_rows(const UnpackRows<Real>& args) {
  const Index bytes = args.rows * args.slots * args.H * Index(sizeof(Real));
  const int n = bytes < kSharedCopyBytes ? 1 : most_threads(0);
  run_jobs<UnpackRows<Real>>(
      &args, 1, n, [](const UnpackRows<Real>&, int) { return size_t(0); },
      kernels<Real>().unpack_rows);
}

template <class Real>
Index tape_cell_size(CellId cell, Index places, Index H) {
  return places * kFacts[int(cell)].tape * padded_units(H, kernels<Real>().lanes);
}
template <class Real>
Index tape_state_size(Index rows, Index H) {
  return rows * padded_units(H, kernels<Real>().lanes);
}
template <class Real>
Index tape_mask_size(Index rows, Index H) {
  return rows * mask_notes<Real>(H, kernels<Real>().lanes);
}

#define RNNFAST_INSTANTIATE(Real)                                                \
  template void run_forward<Real>(CellId, const ForwardArgs<Real>*, int, int);   \
  template void run_backward<Real>(CellId, const BackwardArgs<Real>*, int, int); \
  template void run_linear_forward<Real>(const LinearArgs<Real>&, int);          \
  template void run_linear_backward<Real>(const LinearArgs<Real>&, int);         \
  template void run_masked_rows<Real>(const MaskedRows<Real>&, int);             \
  template void run_unpack_rows<Real>(const UnpackRows<Real>&);                  \
  template Index tape_cell_size<Real>(CellId, Index, Index);                     \
  template Index tape_state_size<Real>(Index, Index);                            \
  template Index tape_mask_size<Real>(Index, Index);
RNNFAST_INSTANTIATE(float)
RNNFAST_INSTANTIATE(double)

}  // namespace rnnfast
