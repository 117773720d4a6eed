// The table of one stored type: all kernels of all cells. layer_f32.cu and its neighbours are compiled apart, so that
// they compile side by side.
#pragma once
#include "engine.h"
#include "layer.h"

namespace rnnfast::cuda {
namespace {

template <class L>
bool fits(const Dims& d, const Limits& limits, bool backward) {
  return (backward ? L::backward_choice(d, limits) : L::forward_choice(d, limits)).kept > 0;
}

template <class L, class Store>
constexpr LayerKernels<Store> kernels_of() {
  return {L::forward_scratch, L::forward, L::backward_scratch, L::backward, fits<L>};
}

template <class Store, class Math>
const LayerKernels<Store>& find_kernels(CellId cell) {
  static const LayerKernels<Store> all[] = {
#define RNNFAST_KERNELS(id, Type) kernels_of<Layer<Type, Store, Math>, Store>(),
      RNNFAST_FOR_EACH_CELL(RNNFAST_KERNELS)
#undef RNNFAST_KERNELS
  };
  return all[int(cell)];
}

}  // namespace
}  // namespace rnnfast::cuda
