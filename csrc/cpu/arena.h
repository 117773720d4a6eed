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

// 128-byte aligned, holding anything; from kWaits on aligned to and advised for huge pages. Throws std::bad_alloc.
AlignedBlock allocate_aligned(size_t bytes);

// From here on a block that is given back waits to be taken again, and lies in huge pages: the system may take back what
// waits, and small pages would each have to be told that they are in use again, for 0.4 us. Forward and backward with small
// pages below 4 MiB took 1.04 (LSTM at (128, 8, 64, 64)), 1.07 (GRU there), 1.09 (GRU at (50, 32, 64, 128)) and 1.5 (LSTM at (1, 1,
// 256, 256)) of the time (AVX-512, Emerald Rapids).
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
