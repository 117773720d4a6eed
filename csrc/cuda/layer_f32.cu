#include "kernels.h"

namespace rnnfast::cuda {

template <>
const LayerKernels<float>& layer_kernels<float>(CellId cell) {
  return find_kernels<float>(cell);
}

}  // namespace rnnfast::cuda
