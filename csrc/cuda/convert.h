// The same numbers in another storage type.
#pragma once
#include <cuda_runtime.h>

#include "../api.h"

namespace rnnfast::cuda {

// to[i] = from[i], n of them. float to bf16 or f16, rounded once, and back.
template <class From, class To>
void convert(const From* from, To* to, Index n, cudaStream_t stream);

}  // namespace rnnfast::cuda
