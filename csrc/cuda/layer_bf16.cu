#include "kernels.h"

namespace rnnfast::cuda {

template <>
const LayerKernels<bf16>& layer_kernels<bf16>(CellId cell) {
  return find_kernels<bf16>(cell);
}

}  // namespace rnnfast::cuda
