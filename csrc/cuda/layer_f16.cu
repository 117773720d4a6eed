#include "kernels.h"

namespace rnnfast::cuda {

template <>
const LayerKernels<f16>& layer_kernels<f16>(CellId cell) {
  return find_kernels<f16>(cell);
}

}  // namespace rnnfast::cuda
