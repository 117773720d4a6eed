#include "barrier.h"

namespace rnnfast {

TeamBarrier::TeamBarrier(int most) : most_(most), parts_(new Part[size_t(most)]) {}

void TeamBarrier::wait(int id, int n) {
  Part& mine = parts_[id];
  const uint32_t now = mine.came.value.load(std::memory_order_relaxed) + 1;
  mine.came.value.store(now);
  mine.came.wake();
  const bool room = room_for(n);
  for (int other = 0; other < n; ++other)
    mine.waited += wait_while(parts_[other].came, room,
                              [now](uint32_t came) { return int32_t(came - now) < 0; });
}

int64_t TeamBarrier::waited() const {
  int64_t sum = 0;
  for (int id = 0; id < most_; ++id) sum += parts_[id].waited;
  return sum;
}

}  // namespace rnnfast
