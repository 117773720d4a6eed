#include "kernels.h"

namespace rnnfast::cuda {

template <>
const LayerKernels<f16>& layer_kernels<f16>(CellId cell, bool) {
  return find_kernels<f16, Tensor<true>>(cell);
}

}  // namespace rnnfast::cuda
