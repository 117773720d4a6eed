#include "thread_pool.h"

#include <system_error>
#include <thread>

namespace rnnfast {
void ThreadPool::work(int id, Signal& calls) {
  bool room = true;
  for (uint32_t seen = 0;; ++seen) {
    wait_while(calls, room, [seen](uint32_t value) { return value == seen; });
    room = room_for(members_);
    body_(context_, id, members_);
    if (left_.value.fetch_sub(1) == 1) left_.wake();
  }
}

int ThreadPool::grow(int n) {
  while (int(calls_.size()) < n) {
    auto calls = std::make_unique<Signal>();
    const int id = int(calls_.size()) + 1;
    try {
      // Never joined: a worker sleeps until the process ends.
      std::thread([this, id, &calls = *calls] { work(id, calls); }).detach();
    } catch (const std::system_error&) {
      break;  // the system gives no more; fewer members do the same work
    }
    calls_.push_back(std::move(calls));
  }
  return int(calls_.size()) < n ? int(calls_.size()) : n;
}

bool ThreadPool::try_run(int n, TeamBody body, void* context) {
  const std::unique_lock<std::mutex> use(use_, std::try_to_lock);
  if (!use.owns_lock()) return false;
  const int workers = grow(n - 1);
  body_ = body;
  context_ = context;
  members_ = workers + 1;
  left_.value.store(uint32_t(workers));
  bool slept = false;
  for (int i = 0; i < workers; ++i) {
    calls_[size_t(i)]->value.fetch_add(1);
    slept |= calls_[size_t(i)]->wake();
  }
  if (slept) let_others_run();
  body(context, 0, members_);
  wait_while(left_, room_for(members_), [](uint32_t left) { return left > 0; });
  return true;
}

}  // namespace rnnfast
