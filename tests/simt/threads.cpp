// An OS thread for each thread of a block, for ThreadSanitizer: what two threads touch with no barrier between them is
// reported with both places. Shuffles and votes order nothing, as in CUDA: collectives.cpp is compiled without the
// sanitizer and its locks are not seen.
#include <pthread.h>
#include <sanitizer/tsan_interface.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "block.h"

namespace simt {
namespace {

// OS threads at a time. Blocks that run one after the other on the same threads are in order, so races between them are
// not seen; those between the others are.
constexpr unsigned kMost = 1024;

// What arrays of fixed size have room for in CUDA.
constexpr size_t kShared = 48 << 10;

// The threads of one block at a time: blocks number, number + slots, ...
class Slot {
 public:
  Slot(Grid& grid, unsigned number, unsigned slots, unsigned n)
      : grid_(grid), number_(number), slots_(slots), threads_(n), warps_((n + kWarp - 1) / kWarp) {
    pthread_barrier_init(&start_, nullptr, n);
    pthread_barrier_init(&end_, nullptr, n);
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() {
    pthread_barrier_destroy(&start_);
    pthread_barrier_destroy(&end_);
  }

  // What OS thread `id` of the slot does.
  void run(unsigned id) {
    gridDim = grid_.dim;
    blockDim = grid_.block_dim;
    const dim3 d = grid_.dim;
    for (unsigned b = number_; b < d.x * d.y * d.z; b += slots_) {
      if (id == 0) begin({b % d.x, b / d.x % d.y, b / d.x / d.y});
      pthread_barrier_wait(&start_);
      here = &threads_[id];
      try {
        grid_.body(grid_.arguments);
        leave(threads_[id]);
      } catch (const Abandoned&) {
      }
      pthread_barrier_wait(&end_);
      if (id == 0) tear_down(block_);
    }
  }

 private:
  void begin(uint3 index) {
    set_up(block_, grid_, index, threads_.data(), warps_.data());
    // All at once and before the block begins: memory that one of its threads allocated, ThreadSanitizer would take for
    // written by that one.
    arrays_.assign(kShared + 128, kNan);
    block_.runner = arrays_.data();
  }

  Grid& grid_;
  unsigned number_, slots_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<unsigned char> arrays_;
  Block block_;
  pthread_barrier_t start_, end_;  // two, as block.h says of places
};

}  // namespace

void before_barrier(const void* place) { __tsan_release(const_cast<void*>(place)); }
void after_barrier(const void* place) { __tsan_acquire(const_cast<void*>(place)); }

void run(Grid& grid) {
  const unsigned blocks = grid.dim.x * grid.dim.y * grid.dim.z;
  const unsigned n = grid.block_dim.x * grid.block_dim.y * grid.block_dim.z;
  const unsigned count = grid.together ? blocks : std::min(blocks, std::max(1u, kMost / n));
  std::vector<std::unique_ptr<Slot>> slots;
  for (unsigned s = 0; s < count; ++s) slots.push_back(std::make_unique<Slot>(grid, s, count, n));
  std::vector<std::thread> team;
  for (auto& slot : slots)
    for (unsigned id = 0; id < n; ++id) team.emplace_back(&Slot::run, slot.get(), id);
  for (std::thread& t : team) t.join();
}

}  // namespace simt
