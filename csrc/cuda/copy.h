// What brings arrays of others into the form that kernels read: numbers that lie anyhow made dense, and lengths bounded.
#pragma once
#include <cuda_runtime.h>

#include "../api.h"

namespace rnnfast::cuda {

// Replacements have four axes; slices of a stack of them no more.
constexpr int kMaxAxes = 5;

// An array of `axes` axes to another place. Strides are of any sign, in elements.
struct StridedCopy {
  int axes;
  Index shape[kMaxAxes], from_stride[kMaxAxes], to_stride[kMaxAxes];
  const void* from;
  void* to;
  size_t itemsize;  // 1, 2, 4 or 8
};
void strided_copy(const StridedCopy& args, cudaStream_t stream);

// to[i] = from[i], but at least 0 and at most `most`, n of them: lengths that nobody on the host may look at.
void bounded_copy(const Index* from, Index* to, Index n, Index most, cudaStream_t stream);

}  // namespace rnnfast::cuda
