#include "kernels.h"

namespace rnnfast::cuda {

template <>
const LayerKernels<double>& layer_kernels<double>(CellId cell) {
  return find_kernels<double>(cell);
}

}  // namespace rnnfast::cuda
