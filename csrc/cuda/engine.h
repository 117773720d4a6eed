// What callers use: the passes of one layer in one direction, by cell and stored type.
#pragma once
#include <cuda_runtime.h>

#include "args.h"

namespace rnnfast::cuda {

// What the choice of kernels looks at.
struct Limits {
  size_t shared;       // bytes of shared memory that a block may have
  size_t chunk_bytes;  // of gx, or of gate gradients, for one chunk of steps
};
// Large enough that launches and the loading of R are nothing beside the work (128 steps of B=128, H=256), small beside
// the memory of a GPU.
constexpr size_t kChunkBytes = size_t(64) << 20;

// Every pass is put on a stream and waited for by nobody here. `resident`: by the walk of resident.h, where fits() says
// that it can be, else by that of stepwise.h; `id` names the kernels in errors; scratch is memory of the device, of the
// size that *_scratch gives.
template <class Store>
struct LayerKernels {
  size_t (*forward_scratch)(const ForwardArgs<Store>&, const Limits&, bool resident);
  void (*forward)(const char* id, const ForwardArgs<Store>&, void* scratch, const Limits&,
                  bool resident, cudaStream_t);
  size_t (*backward_scratch)(const BackwardArgs<Store>&, const Limits&, bool resident);
  void (*backward)(const char* id, const BackwardArgs<Store>&, void* scratch, const Limits&,
                   bool resident, cudaStream_t);
  // Whether R fits one multiprocessor, in forward and in backward.
  bool (*fits)(const Dims&, const Limits&, bool backward);
};

// `tf32` is asked for with float alone: products that are not in K0 then round what they multiply to tf32.
template <class Store>
const LayerKernels<Store>& layer_kernels(CellId cell, bool tf32);
template <>
const LayerKernels<float>& layer_kernels<float>(CellId cell, bool tf32);
template <>
const LayerKernels<double>& layer_kernels<double>(CellId cell, bool tf32);
template <>
const LayerKernels<bf16>& layer_kernels<bf16>(CellId cell, bool tf32);
template <>
const LayerKernels<f16>& layer_kernels<f16>(CellId cell, bool tf32);

}  // namespace rnnfast::cuda
