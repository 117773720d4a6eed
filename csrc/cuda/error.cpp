#include "error.h"

namespace rnnfast::cuda {

void fail(cudaError_t code, const char* call, const char* id) {
  cudaGetLastError();
  const std::string text = (id ? std::string(id) + ": " : std::string()) + call +
                           " failed: " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) +
                           ")";
  if (code == cudaErrorMemoryAllocation) throw OutOfMemory(text);
  throw CudaError(text);
}

}  // namespace rnnfast::cuda
