#include "arena.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace rnnfast {
namespace {

// Kept per thread between calls. The packed weights of an LSTM with H = I = 1024 in float32 take 32 MiB, forward and
// backward each: a model of that size still finds its scratch warm.
constexpr size_t kKept = size_t(128) << 20;
constexpr size_t kHugePage = size_t(2) << 20;

struct Kept {
  AlignedBlock block;
  size_t bytes = 0;
};
thread_local Kept kept;

}  // namespace

void FreeAligned::operator()(void* p) const { std::free(p); }

AlignedBlock allocate_aligned(size_t bytes) {
  const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : 128;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, bytes ? bytes : alignment);
  if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (alignment == kHugePage)
    madvise(p, bytes, MADV_HUGEPAGE);  // advice: refusing it costs speed, nothing else
#endif
  return AlignedBlock(p);
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
