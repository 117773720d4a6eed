// An OS thread for each thread of a block, for ThreadSanitizer: what two threads touch with no barrier between them is
// reported with both places. Shuffles and votes order nothing, as in CUDA: collectives.cpp is compiled without the
// sanitizer and its locks are not seen.
#include <sanitizer/tsan_interface.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "block.h"

namespace simt {
namespace {

// OS threads at a time; a larger grid runs in waves, and races between waves are not seen.
constexpr unsigned kMost = 1024;

// What arrays of fixed size have room for in CUDA.
constexpr size_t kShared = 48 << 10;

struct Running {
  std::vector<unsigned char> arrays;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Block block;
};

void body(Thread& t) {
  here = &t;
  gridDim = t.owner->grid->dim;
  blockDim = t.owner->grid->block_dim;
  try {
    t.owner->grid->body(t.owner->grid->arguments);
    leave(t);
  } catch (const Abandoned&) {
  }
}

}  // namespace

void before_barrier(const void* which) { __tsan_release(const_cast<void*>(which)); }
void after_barrier(const void* which) { __tsan_acquire(const_cast<void*>(which)); }

void run(Grid& grid) {
  const unsigned blocks = grid.dim.x * grid.dim.y * grid.dim.z;
  const unsigned n = grid.block_dim.x * grid.block_dim.y * grid.block_dim.z;
  const unsigned wave = grid.together ? blocks : std::max(1u, kMost / n);
  for (unsigned first = 0; first < blocks; first += wave) {
    std::vector<std::unique_ptr<Running>> running;
    for (unsigned b = first; b < std::min(blocks, first + wave); ++b) {
      auto r = std::make_unique<Running>();
      r->threads.resize(n);
      r->warps.resize((n + kWarp - 1) / kWarp);
      set_up(r->block, grid,
             {b % grid.dim.x, b / grid.dim.x % grid.dim.y, b / grid.dim.x / grid.dim.y},
             r->threads.data(), r->warps.data());
      // All at once: memory that one of the threads allocates, ThreadSanitizer takes for written by it.
      r->arrays.assign(kShared + 128, kNan);
      r->block.runner = r->arrays.data();
      running.push_back(std::move(r));
    }
    std::vector<std::thread> team;
    for (auto& r : running)
      for (Thread& t : r->threads) team.emplace_back(body, std::ref(t));
    for (std::thread& t : team) t.join();
    for (auto& r : running) tear_down(r->block);
  }
}

}  // namespace simt
