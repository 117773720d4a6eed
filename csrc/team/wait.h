// How a member of a team waits: it spins a little and then sleeps, so that on a busy machine a thread that lost its core
// finds one, and an idle process burns none.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#else
#include <sched.h>
#endif

namespace rnnfast {

// Tells the CPU that this thread is spinning.
inline void pause_thread() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// A number that threads wait for to change. Who changes it calls wake() after, which costs a load where nobody sleeps.
// On a line of its own: waiting for it slows nobody's other work.
class alignas(128) Signal {
 public:
  std::atomic<uint32_t> value{0};

  // Sequentially consistent, with the count of sleepers: either I see a sleeper, or it sees what I wrote before.
  void wake() {
    if (sleepers_.load() == 0) return;
#if defined(__linux__)
    syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
  }

  // Sleeps until the value is none that `waits` holds for.
  template <class Waits>
  void sleep_while(Waits&& waits) {
    ++sleepers_;
    for (uint32_t seen; waits(seen = value.load());) {
#if defined(__linux__)
      // Returns at once where the value is not `seen` any more, and may wake for no reason.
      syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
      sched_yield();
#endif
    }
    --sleepers_;
  }

 private:
  std::atomic<uint32_t> sleepers_{0};
};

// What a thread has learned about waiting. Where another process has a core, the member that is waited for may be gone
// for a time slice, and to spin is to keep it from this core too. After some waits in a row that ended in sleep, only
// one in many spins. When members spun and then yielded, two threads beside a busy process took 1.7 to 4 times as long
// as one; now 1.0 to 1.3, of RNN 1.2 to 2.2 (benchmarks/busy.py).
class Patience {
 public:
  // Returns when `waits` does not hold for the signal's value any more; what was written before it changed is seen.
  // Returned are the nanoseconds of a wait that came to sleep, else 0.
  template <class Waits>
  uint64_t wait_while(Signal& signal, Waits&& waits) {
    if (!waits(signal.value.load(std::memory_order_acquire))) return 0;
    const auto begin = std::chrono::steady_clock::now();
    if (sleeps_ < kSleepsInARow || sleeps_ % kSpinAgain == 0)
      for (int i = 0; i < kSpins; ++i) {
        pause_thread();
        if (waits(signal.value.load(std::memory_order_acquire))) continue;
        sleeps_ = 0;
        return 0;
      }
    ++sleeps_;
    signal.sleep_while(waits);
    return uint64_t(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
  }

 private:
  // A pause takes 40 cycles on some CPUs and 140 on others: this is some 15 to 100 microseconds, longer than members of
  // equal work have to wait for each other, and than a program in Python takes from one call to the next.
  static constexpr int kSpins = 2000;
  static constexpr uint32_t kSleepsInARow = 4, kSpinAgain = 64;
  uint32_t sleeps_ = 0;
};

}  // namespace rnnfast
