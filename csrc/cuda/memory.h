// Device memory and streams for arrays that come from NumPy or other libraries; PyTorch brings its own. CUDA's stream-ordered allocator
// keeps what is given back, up to a bound, so that a call does not wait for the driver.
#pragma once
#include <cstddef>
#include <utility>

#include "error.h"

namespace rnnfast::cuda {

// A stream that nobody else uses while this lives. Made when first needed, kept for the next call.
class Stream {
 public:
  explicit Stream(int device);
  // The caller's own, which it keeps as long as this and what is made on it lives.
  Stream(int device, cudaStream_t borrowed) : device_(device), stream_(borrowed), ours_(false) {}
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  int device() const { return device_; }
  // Wait until all its work is done.
  void synchronize() const;
  // What is put on it from now on waits for what is on the other one; the host does not.
  void wait_for(cudaStream_t other) const;

 private:
  int device_;
  cudaStream_t stream_;
  bool ours_ = true;
};

// Memory of one device. What is put on the stream that it was made on, before and after, is in order with it, and so is
// its release: work on another stream must have ended before.
class DeviceBlock {
 public:
  DeviceBlock() = default;
  DeviceBlock(size_t bytes, const Stream& stream);
  ~DeviceBlock();
  DeviceBlock(DeviceBlock&& other) noexcept { swap(other); }
  DeviceBlock& operator=(DeviceBlock&& other) noexcept {
    swap(other);
    return *this;
  }

  void* get() const { return memory_; }
  size_t bytes() const { return bytes_; }
  int device() const { return device_; }

 private:
  void* memory_ = nullptr;  // null where bytes is 0
  size_t bytes_ = 0;
  int device_ = 0;
  cudaStream_t stream_ = nullptr;

  void swap(DeviceBlock& other) {
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    std::swap(stream_, other.stream_);
  }
};

// Give the memory that is kept on a device back to it.
void release_memory(int device);

}  // namespace rnnfast::cuda
