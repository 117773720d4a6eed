// How a member of a team waits: it spins a little and then sleeps, so that on a busy machine a thread that lost its core
// finds one, and an idle process burns none.
#pragma once
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
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

// A thread that is woken may be put on the core of the one that woke it, with another one idle, and the two take turns
// where they should meet: on a virtual machine with two cores a call of 1.4 ms took 4.6 after a pause of 5 ms, with 140
// changes of threads. To forbid the thread this core for a moment moves it; for that it must have run there. With more
// members than cores there is none to move to: backward of an LSTM (128, 8, 64, 64), both directions, by four members on two
// cores took 4.4 ms with it and 2.0 to 2.2 without, that of (5, 1, 9, 9) 2.3 ms and 0.1 to 1.1 (Zen 4).
int current_cpu();
void leave_cpu_of(int waker);  // the core that it was on; negative: unknown

// At the begin of a call, of the one whose threads were asleep: those on this core run now, and leave it, and not when I
// next sleep. They came 40 us after the begin where they had come up to 1200 after, and forward of an LSTM (128, 8, 64, 64)
// took 1.2 ms for up to 5.5. Not at a barrier: on a busy machine each would give away a time slice, and calls of three
// members on two cores with 300 barriers took five times as long.
inline void let_others_run() { sched_yield(); }

// A number that threads wait for to change. Who changes it calls wake() after, which costs a load where nobody sleeps.
// On a line of its own: waiting for it slows nobody's other work.
class alignas(128) Signal {
 public:
  std::atomic<uint32_t> value{0};

  // Whether anybody slept. Sequentially consistent, with the count of sleepers: either I see a sleeper, or it sees what I
  // wrote before.
  bool wake() {
    if (sleepers_.load() == 0) return false;
    waker_.store(current_cpu(), std::memory_order_relaxed);
#if defined(__linux__)
    syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
    return true;
  }

  // Sleeps until the value is none that `waits` holds for. room: for all members of the team.
  template <class Waits>
  void sleep_while(bool room, Waits&& waits) {
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
    if (room) leave_cpu_of(waker_.load(std::memory_order_relaxed));
  }

 private:
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<int> waker_{-1};  // the core of the last one that woke somebody
};

// Longer than a sleeping thread takes to wake, about 40 microseconds and now and then some hundreds on a virtual machine.
// With a shorter one a member that had slept may come so late that the next one sleeps, and so on at every barrier. After
// pauses of 3 ms, calls of about a millisecond on two threads used 1.8 cores with 100 microseconds, 2.0 with 300 and with
// these, which also outlast what a program does between two calls.
constexpr std::chrono::microseconds kSpin(1000);
// Of more members than cores some wait for the very core that would spin. Three members on two cores, LSTM (100, 1, 256,
// 256) forward plus backward: 8.2 ms with 2 microseconds, 7.9 with 20, 9.6 with 100, 40 with 1000; one member 8.2. So do
// those that wait for the next call, or for the end of this one: with 1000 there, backward of an LSTM (17, 2, 5, 18), both
// directions, took three members on two cores 1.2 ms, with 20 0.14 (Zen 4).
constexpr std::chrono::microseconds kSpinWithoutRoom(20);
// Whether each of so many members can have a core.
bool room_for(int members);
// Members of equal work should meet sooner; more says that one has lost its core. With 5, 20, 50 and 200 microseconds
// calls took the same, within the noise, with the machine idle and beside a busy process.
constexpr std::chrono::microseconds kLongWait(50);

// Returns when `waits` does not hold for the signal's value any more; what was written before it changed is seen. room:
// for all members of the team. Returned are the nanoseconds of a long wait, else 0.
template <class Waits>
int64_t wait_while(Signal& signal, bool room, Waits&& waits) {
  const auto over = [&] { return !waits(signal.value.load(std::memory_order_acquire)); };
  if (over()) return 0;
  const auto spin = room ? kSpin : kSpinWithoutRoom;
  const auto begin = std::chrono::steady_clock::now();
  std::chrono::nanoseconds waited(0);
  do {
    for (int i = 0; i < 32; ++i) {  // between two looks at the clock
      pause_thread();
      if (over()) return waited < kLongWait ? 0 : waited.count();
    }
    waited = std::chrono::steady_clock::now() - begin;
  } while (waited < spin);
  signal.sleep_while(room, waits);
  return std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace rnnfast
