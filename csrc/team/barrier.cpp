#include "barrier.h"

namespace rnnfast {
namespace {
thread_local Patience patience;
}

TeamBarrier::TeamBarrier(int most) : most_(most), parts_(new Part[size_t(most)]) {}

void TeamBarrier::wait(int id, int n) {
  Part& mine = parts_[id];
  const uint32_t now = mine.came.value.load(std::memory_order_relaxed) + 1;
  mine.came.value.store(now);
  mine.came.wake();
  for (int other = 0; other < n; ++other)
    mine.slept += patience.wait_while(parts_[other].came,
                                      [now](uint32_t came) { return int32_t(came - now) < 0; });
}

uint64_t TeamBarrier::slept() const {
  uint64_t sum = 0;
  for (int id = 0; id < most_; ++id) sum += parts_[id].slept;
  return sum;
}

}  // namespace rnnfast
