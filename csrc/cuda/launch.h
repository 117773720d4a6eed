// What kernels are written against, beside CUDA's own words: launches, and the few things that a kernel compiled
// for the CPU (tests/simt) needs spelled otherwise. A .cu file includes this and <cuda_runtime.h>, no other header of
// CUDA or of the standard library's.
//
//   RNNFAST_GLOBAL(threads, blocks) name(Parameters p)   a kernel; its parameters are structs, by value
//   RNNFAST_DEVICE                   a function for kernels alone, inlined
//   RNNFAST_UNROLL, RNNFAST_NO_UNROLL   before a loop
//   RNNFAST_SHARED(T, name)          T* name, the dynamic shared memory of the block
//   RNNFAST_SHARED_ARRAY(T, name)    T name, T an array type: shared memory of a fixed size
//   RNNFAST_SPIN()                   in the body of every loop that waits for another thread
//   launch(id, kernel, grid, block, shared_bytes, stream, parameters...)
#pragma once
#include <cuda_runtime.h>

#include "error.h"

#define RNNFAST_GLOBAL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

#if defined(__CUDACC__)
#define RNNFAST_DEVICE __device__ __forceinline__
// 128 bytes suit every copy engine. All kernels of a unit share the one symbol.
extern __shared__ __align__(128) unsigned char rnnfast_dynamic_shared[];
#define RNNFAST_SHARED(T, name) T* const name = reinterpret_cast<T*>(rnnfast_dynamic_shared)
#define RNNFAST_SHARED_ARRAY(T, name) \
  using name##_shared = T;            \
  __shared__ name##_shared name
#define RNNFAST_SPIN() ((void)0)
#else
#define RNNFAST_DEVICE inline __attribute__((always_inline))
#define RNNFAST_SHARED(T, name) T* const name = static_cast<T*>(simt::dynamic_shared())
// The type of the lambda tells one array from another.
#define RNNFAST_SHARED_ARRAY(T, name) auto& name = simt::shared_array<T>([] {})
#define RNNFAST_SPIN() simt::spin()
#endif

// Only where code for the device is made: the host's compiler warns of words that it does not know.
#if defined(__CUDA_ARCH__)
#define RNNFAST_UNROLL _Pragma("unroll")
#define RNNFAST_NO_UNROLL _Pragma("unroll 1")
#else
#define RNNFAST_UNROLL
#define RNNFAST_NO_UNROLL
#endif

namespace rnnfast::cuda {

// More than 48 KiB of dynamic shared memory is given only to kernels that asked for it, on each device.
void allow_shared(const char* id, const void* kernel, size_t bytes);

// Start a kernel, and throw CudaError with its id where it does not start. Waits for nothing, so it may be captured
// in a graph; what goes wrong inside the kernel is reported by a later call.
template <class... Parameters, class... Arguments>
void launch(const char* id, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
  allow_shared(id, reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch", id);
}

}  // namespace rnnfast::cuda
