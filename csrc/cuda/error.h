// What a CUDA call that fails becomes: an exception that names the call, the kernel where there is one, and CUDA's text.
#pragma once
#include <cuda_runtime.h>

#include <new>
#include <stdexcept>
#include <string>

namespace rnnfast::cuda {

class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The device has no room; Python's MemoryError.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

// Throw one of the two, with CUDA's own record of the error cleared.
[[noreturn]] void fail(cudaError_t code, const char* call, const char* id);

// call: the runtime function; id: the kernel, as gru.forward.f32.k0, if the call was for one.
inline void check(cudaError_t code, const char* call, const char* id = nullptr) {
  if (code != cudaSuccess) fail(code, call, id);
}

}  // namespace rnnfast::cuda
