#include "arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

namespace rnnfast {
namespace {

// Kept per thread between calls. The packed weights of an LSTM with H = I = 1024 in float32 take 32 MiB, forward and
// backward each: a model of that size still finds its scratch warm. With nothing kept, inference at (100, 1, 256, 256) took 1.11 of
// the time. What the bounds of this file are worth: docs/benchmarks.md, "Constants of the kernels".
constexpr size_t kKept = size_t(128) << 20;
constexpr size_t kHugePage = size_t(2) << 20;

struct Kept {
  AlignedBlock block;
  size_t bytes = 0;
};
thread_local Kept kept;

// Large blocks given back, for the next call that needs one: a training step frees a tape and asks for the same
// again, and the pages of a new one would have to be found and cleared. Until then the operating system may take
// them; what waits is bounded all the same, since it counts as ours as long as it does not.
class Waiting {
 public:
  AlignedBlock take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;  // another thread is here, or was when this process forked
    int best = -1;
    for (int i = 0; i < count_; ++i)
      if (blocks_[i].bytes >= bytes && blocks_[i].bytes - bytes <= bytes / 4 &&
          (best < 0 || blocks_[i].bytes < blocks_[best].bytes))
        best = i;
    if (best < 0) return nullptr;
    const Block block = remove(best);
    return AlignedBlock(block.p, FreeAligned{block.bytes});
  }
  // False: the caller's to free.
  bool give(void* p, size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || bytes > kMost) return false;
#if defined(MADV_FREE)
    madvise(p, bytes, MADV_FREE);
#endif
    // The ones that have waited longest go.
    while (count_ == kBlocks || total_ + bytes > kMost) std::free(remove(0).p);
    blocks_[count_++] = {p, bytes};
    total_ += bytes;
    return true;
  }

 private:
  // The gates of an LSTM at (64, 128, 1024, 1024), the largest of the benchmarks, take 128 MiB; a stack has several.
  static constexpr size_t kMost = size_t(512) << 20;
  static constexpr int kBlocks = 64;
  struct Block {
    void* p;
    size_t bytes;
  };
  std::mutex mutex_;
  Block blocks_[kBlocks];  // in the order in which they were given
  int count_ = 0;
  size_t total_ = 0;

  Block remove(int i) {
    const Block block = blocks_[i];
    std::copy(blocks_ + i + 1, blocks_ + count_, blocks_ + i);
    --count_;
    total_ -= block.bytes;
    return block;
  }
};

// Never destroyed: tapes may be freed after everything else.
Waiting& waiting() {
  static Waiting& all = *new Waiting;
  return all;
}

}  // namespace

AlignedBlock allocate_aligned(size_t bytes) {
  const bool large = bytes >= kWaits;
  const size_t alignment = large ? kHugePage : 128;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  if (bytes == 0) bytes = alignment;
  if (large)
    if (AlignedBlock again = waiting().take(bytes)) return again;
  void* p = std::aligned_alloc(alignment, bytes);
  if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (large) madvise(p, bytes, MADV_HUGEPAGE);  // advice: refusing it costs speed, nothing else
#endif
  return AlignedBlock(p, FreeAligned{bytes});
}

void FreeAligned::operator()(void* p) const {
  if (bytes < kWaits || !waiting().give(p, bytes)) std::free(p);
}

// The kept block is taken out while in use, so that a nested call (or a callback on the same thread) gets its own.
Scratch::Scratch(size_t bytes) : bytes_(bytes) {
  if (kept.block && kept.bytes >= bytes) {
    block_ = std::move(kept.block);
    bytes_ = kept.bytes;
    kept.bytes = 0;
  } else {
    kept.block.reset();
    kept.bytes = 0;
    block_ = allocate_aligned(bytes);
  }
}

Scratch::~Scratch() {
  if (bytes_ <= kKept && !kept.block) {
    kept.block = std::move(block_);
    kept.bytes = bytes_;
  }
}

}  // namespace rnnfast
