#include "kernels.h"

namespace rnnfast::cuda {

template <>
const LayerKernels<double>& layer_kernels<double>(CellId cell, bool) {
  return find_kernels<double, Ieee>(cell);
}

}  // namespace rnnfast::cuda
