#include "team.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "pause.h"
#include "thread_pool.h"

namespace rnnfast {
namespace {

struct OpenMP {
  int (*max_threads)() = nullptr;
  void (*run)(int, TeamBody, void*) = nullptr;
};

// librnnfast_openmp.so lies beside the module that this code is part of.
OpenMP load_openmp() {
  OpenMP openmp;
  Dl_info self;
  if (!dladdr(reinterpret_cast<void*>(&load_openmp), &self) || !self.dli_fname) return openmp;
  std::string path = self.dli_fname;
  const size_t slash = path.rfind('/');
  path = (slash == std::string::npos ? "./" : path.substr(0, slash + 1)) + "librnnfast_openmp.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return openmp;  // not built, or no OpenMP runtime here: the pool serves
  openmp.max_threads = reinterpret_cast<int (*)()>(dlsym(library, "rnnfast_openmp_max_threads"));
  openmp.run =
      reinterpret_cast<void (*)(int, TeamBody, void*)>(dlsym(library, "rnnfast_openmp_run"));
  if (!openmp.max_threads || !openmp.run) openmp = {};
  return openmp;
}

// Threads do not survive fork: an OpenMP runtime that was used before would wait for them for ever in the child. The
// child takes a fresh pool instead. Never freed: worker threads may outlive static destructors.
std::atomic<bool> forked{false};
std::atomic<ThreadPool*> pool{nullptr};
std::mutex pool_mutex;

void in_child() {
  forked = true;
  pool = nullptr;                  // the parent's object stays, its threads are gone
  new (&pool_mutex) std::mutex();  // another thread of the parent may have held it
}

const OpenMP& openmp() {
  static const OpenMP loaded = [] {
    pthread_atfork(nullptr, nullptr, in_child);
    return load_openmp();
  }();
  return loaded;
}

ThreadPool& the_pool() {
  ThreadPool* p = pool.load();
  if (p) return *p;
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (!pool.load()) pool = new ThreadPool();
  return *pool.load();
}

// Cores this process may run on: its affinity, which containers and taskset narrow.
int available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n ? int(n) : 1;
}

int threads_from_environment() {
  const char* text = std::getenv("RNNFAST_NUM_THREADS");
  if (!text || !*text) return 0;
  char* end = nullptr;
  errno = 0;
  const long n = std::strtol(text, &end, 10);
  if (errno || *end || n < 1 || n > 1024)
    throw std::invalid_argument(
        "rnnfast: RNNFAST_NUM_THREADS is '" + std::string(text) +
        "', expected a whole number from 1 to 1024. Unset it to use the machine's.");
  return int(n);
}

std::atomic<int> chosen_threads{0};

// How often a member looks before it sleeps. A pause takes 40 cycles on some CPUs and 140 on others: this is some 15 to
// 100 microseconds, longer than members of equal work have to wait for each other.
constexpr int kSpins = 2000;
// Where another process has a core, the member that is waited for may be gone for a time slice, and to spin is to keep
// it from this core too. After some waits in a row that ended in sleep, only one in many spins. When members spun and
// then yielded, two threads beside a busy process took 1.7 to 4 times as long as one; now 1.0 to 1.3, of RNN 1.2 to 2.2
// (benchmarks/busy.py under OMP_WAIT_POLICY=PASSIVE; by default OpenMP's own waits spin).
constexpr int kSleepsInARow = 4, kSpinAgain = 64;
thread_local int sleeps = 0;

// Sleep unless `flag` has changed from `seen`; may wake for no reason.
void sleep_on(std::atomic<uint32_t>& flag, uint32_t seen) {
#if defined(__linux__)
  syscall(SYS_futex, &flag, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
  (void)flag, (void)seen;
  sched_yield();
#endif
}
void wake_all(std::atomic<uint32_t>& flag) {
#if defined(__linux__)
  syscall(SYS_futex, &flag, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  (void)flag;
#endif
}

}  // namespace

int team_threads() {
  if (const int n = chosen_threads.load(std::memory_order_relaxed)) return n;
  static const int from_environment = threads_from_environment();
  if (from_environment) return from_environment;
  static const int cores = available_cores();
  const OpenMP& omp = openmp();
  if (!omp.run || forked.load(std::memory_order_relaxed)) return cores;
  const int n = omp.max_threads();
  return n < cores ? n : cores;
}

void set_team_threads(int n) { chosen_threads = n; }

const char* team_backend() {
  if (openmp().run && !forked.load()) return "openmp";
  return "threads";
}

void run_team(int asked, TeamBody body, void* context) {
  if (asked > 1) {
    const OpenMP& omp = openmp();
    if (omp.run && !forked.load(std::memory_order_relaxed)) return omp.run(asked, body, context);
    if (the_pool().try_run(asked, body, context)) return;
  }
  body(context, 0, 1);
}

TeamBarrier::TeamBarrier(int most) : flags_(new Flag[size_t(most) + 1]) {}

void TeamBarrier::wait(int id, int n) {
  std::atomic<uint32_t>&sleepers = flags_[0].value, &my_flag = flags_[1 + id].value;
  const uint32_t mine = my_flag.load(std::memory_order_relaxed) + 1;
  const auto behind = [mine](uint32_t value) { return int32_t(value - mine) < 0; };
  // Sequentially consistent, with the count of sleepers: either I see a sleeper, or it sees my flag.
  my_flag.store(mine);
  if (sleepers.load()) wake_all(my_flag);
  for (int other = 0; other < n; ++other) {
    std::atomic<uint32_t>& flag = flags_[1 + other].value;
    if (!behind(flag.load(std::memory_order_acquire))) continue;
    if (sleeps < kSleepsInARow || sleeps % kSpinAgain == 0) {
      int i = 0;
      do pause_thread();
      while (behind(flag.load(std::memory_order_acquire)) && ++i < kSpins);
      if (i < kSpins) {
        sleeps = 0;
        continue;
      }
    }
    ++sleeps;
    ++sleepers;
    for (uint32_t seen; behind(seen = flag.load());) sleep_on(flag, seen);
    --sleepers;
  }
}

}  // namespace rnnfast
