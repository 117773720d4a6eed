#include "kernels.h"

namespace rnnfast::cuda {

template <>
const LayerKernels<bf16>& layer_kernels<bf16>(CellId cell, bool) {
  return find_kernels<bf16, Tensor<true>>(cell);
}

}  // namespace rnnfast::cuda
