#include "team.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "openmp_runtime.h"
#include "thread_pool.h"
#include "wait.h"

namespace rnnfast {
namespace {

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

// What runs a team: the OpenMP runtime of this process, else (null) the pool.
const OpenMP* openmp() {
  static const int watching = pthread_atfork(nullptr, nullptr, in_child);
  (void)watching;
  return forked.load(std::memory_order_relaxed) ? nullptr : openmp_runtime();
}

ThreadPool& the_pool() {
  ThreadPool* p = pool.load();
  if (p) return *p;
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (!pool.load()) pool = new ThreadPool();
  return *pool.load();
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

// What a program says to all that compute beside it: an OpenMP runtime reads it so, and the pool as well. A list is one
// number for each level of nested teams. What is no number the runtimes pass over with a warning of their own.
int threads_from_openmp_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (!text) return 0;
  char* end = nullptr;
  errno = 0;
  const long n = std::strtol(text, &end, 10);
  const bool is_number = !errno && end != text && (*end == '\0' || *end == ',');
  return is_number && n >= 1 && n <= 1024 ? int(n) : 0;
}

std::atomic<int> chosen_threads{0};

// A call in the team of the OpenMP runtime, which wakes its threads on any core (see wait.h): the caller lets them run
// where they may have been asleep, and they leave its core. After pauses of 50 ms this made calls of 2.5 ms ones of 1.5.
struct JoinedCall {
  TeamBody body;
  void* context;
  bool after_pause;
  int callers_cpu;

  static void run(void* call, int id, int n) {
    const auto& [body, context, after_pause, callers_cpu] = *static_cast<const JoinedCall*>(call);
    if (id == 0) {
      if (after_pause) let_others_run();
    } else if (room_for(n)) {
      leave_cpu_of(callers_cpu);
    }
    body(context, id, n);
  }
};

void run_joined(const OpenMP& openmp, int asked, TeamBody body, void* context) {
  using Clock = std::chrono::steady_clock;
  static std::atomic<Clock::time_point> ended{Clock::time_point{}};
  JoinedCall call{body, context, Clock::now() - ended.load() > kSpin, current_cpu()};
  openmp.run(asked, JoinedCall::run, &call);
  ended = Clock::now();
}

}  // namespace

int available_cores() {
  static const int cores = [] {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    const unsigned n = std::thread::hardware_concurrency();
    return n ? int(n) : 1;
  }();
  return cores;
}

int team_threads() {
  if (const int n = chosen_threads.load(std::memory_order_relaxed)) return n;
  static const int from_environment = threads_from_environment();
  if (from_environment) return from_environment;
  static const int asked = threads_from_openmp_environment();
  const int cores = available_cores();
  const OpenMP* omp = openmp();
  const int n = omp ? omp->max_threads() : asked ? asked : cores;
  return n < cores ? n : cores;
}

void set_team_threads(int n) { chosen_threads = n; }

const char* team_backend() { return openmp() ? "openmp" : "threads"; }

void run_team(int asked, TeamBody body, void* context) {
  if (asked > 1) {
    if (const OpenMP* omp = openmp()) return run_joined(*omp, asked, body, context);
    if (the_pool().try_run(asked, body, context)) return;
  }
  body(context, 0, 1);
}

}  // namespace rnnfast
