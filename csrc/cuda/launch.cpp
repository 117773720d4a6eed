#include <map>
#include <mutex>
#include <utility>

#include "error.h"

namespace rnnfast::cuda {

void allow_shared(const char* id, const void* kernel, size_t bytes) {
  if (bytes <= 48 * 1024) return;
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> allowed;
  int device;
  check(cudaGetDevice(&device), "cudaGetDevice", id);
  const std::lock_guard<std::mutex> lock(mutex);
  size_t& most = allowed[{device, kernel}];
  if (bytes <= most) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "cudaFuncSetAttribute", id);
  most = bytes;
}

}  // namespace rnnfast::cuda
