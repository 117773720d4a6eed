#include "crowd.h"

#include <algorithm>
#include <atomic>
#include <chrono>

namespace rnnfast {
namespace {

// How long fewer members are kept before more are tried again: a single disturbance costs little, and of a crowd that
// stays one call in every 160 ms is spent on seeing that it is still there. Beside a busy process LSTM (100, 1, 256, 256)
// forward plus backward took 8.5, 8.0 and 8.2 ms with 40, 160 and 640 ms as the longest, 7.7 with 40 as the first, and 7.4
// with one member.
constexpr int64_t kFirstHold = 10'000'000, kLongestHold = 160'000'000;
// What teams have gained is kept up to here, and so much may be lost before fewer members are tried: two or three time
// slices of the system. LSTM (128, 8, 64, 64) forward plus backward with 0, 2.5, 10 and 40 ms: 4.4, 3.5, 3.5 and 3.2 ms while
// a call in some hundreds was held up, 2.8 all in quieter minutes, and beside a busy process 1.05, 1.10, 1.17 and
// 1.14 of one member's time.
constexpr int64_t kMostGained = 10'000'000;

int64_t now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Several callers may note at once: what they write is advice, each word of it whole.
std::atomic<int> most{1 << 20};
std::atomic<int64_t> until{0}, hold{0}, gained{0};

}  // namespace

int members_in_crowd(int n) {
  if (until.load(std::memory_order_relaxed) == 0) return n;
  if (now() < until.load(std::memory_order_relaxed))
    return std::min(n, most.load(std::memory_order_relaxed));
  return n;
}

void note_call(int n, int64_t nanoseconds, int64_t waited) {
  // While one member is kept from its core, the n - 1 others wait: that takes waited / (n - 1) of the time. In the
  // rest each did an n-th of the work.
  const int64_t alone = n * std::max<int64_t>(0, nanoseconds - waited / (n - 1));
  const int64_t balance =
      std::min(gained.load(std::memory_order_relaxed) + alone - nanoseconds, kMostGained);
  gained.store(std::max<int64_t>(0, balance), std::memory_order_relaxed);
  if (balance >= 0) return;
  // Longer where there was a crowd not long ago, though a call between may have found none.
  const int64_t was = until.load(std::memory_order_relaxed), t = now();
  const bool again = was != 0 && t < was + kLongestHold;
  const int64_t next =
      again ? std::min(2 * hold.load(std::memory_order_relaxed), kLongestHold) : kFirstHold;
  hold.store(next, std::memory_order_relaxed);
  // Half as many: a large team finds what it can have in a few tries. With two members, all that was measured, it is one.
  most.store(std::max(1, n / 2), std::memory_order_relaxed);
  until.store(t + next, std::memory_order_relaxed);
}

}  // namespace rnnfast
