#include "thread_pool.h"

#include "pause.h"

namespace rnnfast {

namespace {
// A worker waits for the next call by spinning this often (15 to 50 microseconds) before it sleeps: calls that follow
// each other closely find it awake, an idle process does not burn its cores.
constexpr int kSpins = 1000;
}  // namespace

void ThreadPool::work(int id, uint32_t seen) {
  for (;;) {
    for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins) {
      if (spins < kSpins) {
        pause_thread();
        continue;
      }
      std::unique_lock<std::mutex> lock(sleep_);
      ++sleepers_;
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      --sleepers_;
    }
    ++seen;
    if (id < members_) body_(context_, id, members_);
    left_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

bool ThreadPool::try_run(int n, TeamBody body, void* context) {
  std::unique_lock<std::mutex> use(use_, std::try_to_lock);
  if (!use.owns_lock()) return false;
  // Every worker takes part in every generation, if only to say that it saw it: body_ may not change before that.
  while (int(threads_.size()) < n - 1) {
    const int id = int(threads_.size()) + 1;
    threads_.emplace_back([this, id, seen = generation_.load()] { work(id, seen); });
  }
  body_ = body;
  context_ = context;
  members_ = n;
  left_.store(int(threads_.size()), std::memory_order_release);
  {
    std::lock_guard<std::mutex> lock(sleep_);
    generation_.fetch_add(1, std::memory_order_acq_rel);
  }
  if (sleepers_.load()) wake_.notify_all();
  body(context, 0, n);
  for (int spins = 0; left_.load(std::memory_order_acquire) > 0; ++spins)
    spins < kSpins ? pause_thread() : std::this_thread::yield();
  return true;
}

}  // namespace rnnfast
