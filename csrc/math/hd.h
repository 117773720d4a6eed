// RNNFAST_HD marks a function that is compiled for the CPU and, under a CUDA compiler, for the GPU.
// It is always inlined: an out-of-line copy could be shared between units built for different
// instruction sets, and the linker would be free to keep the one that this CPU cannot run.
#pragma once
#if defined(__CUDACC__)
#define RNNFAST_HD __host__ __device__ __forceinline__
#else
#define RNNFAST_HD inline __attribute__((always_inline))
#endif
