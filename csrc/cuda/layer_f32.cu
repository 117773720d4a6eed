#include "kernels.h"

namespace rnnfast::cuda {

template <>
const LayerKernels<float>& layer_kernels<float>(CellId cell, bool tf32) {
  return tf32 ? find_kernels<float, Tensor<false>>(cell) : find_kernels<float, Ieee>(cell);
}

}  // namespace rnnfast::cuda
