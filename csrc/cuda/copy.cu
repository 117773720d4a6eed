#include "copy.h"
#include "rows.h"

namespace rnnfast::cuda {
namespace {

template <class Word>
RNNFAST_GLOBAL(kRowThreads, 1)
strided_copy_kernel(StridedCopy p, Index n) {
  each_of(n, [&](Index i) {
    Index from = 0, to = 0, rest = i;
    for (int axis = p.axes - 1; axis >= 0; --axis) {
      const Index at = rest % p.shape[axis];
      rest /= p.shape[axis];
      from += at * p.from_stride[axis];
      to += at * p.to_stride[axis];
    }
    static_cast<Word*>(p.to)[to] = static_cast<const Word*>(p.from)[from];
  });
}

struct BoundedCopy {
  const Index* from;
  Index* to;
  Index n, most;
};
RNNFAST_GLOBAL(kRowThreads, 1)
bounded_copy_kernel(BoundedCopy p) {
  each_of(p.n, [&](Index i) {
    const Index v = p.from[i];
    p.to[i] = v < 0 ? 0 : v > p.most ? p.most : v;
  });
}

}  // namespace

void strided_copy(const StridedCopy& args, cudaStream_t stream) {
  Index n = 1;
  for (int axis = 0; axis < args.axes; ++axis) n *= args.shape[axis];
  if (n == 0) return;
  const auto start = [&](const char* id, auto* kernel) {
    launch(id, kernel, row_grid(n), dim3(kRowThreads), 0, stream, args, n);
  };
  switch (args.itemsize) {
    case 1:
      return start("copy.8", strided_copy_kernel<uint8_t>);
    case 2:
      return start("copy.16", strided_copy_kernel<uint16_t>);
    case 4:
      return start("copy.32", strided_copy_kernel<uint32_t>);
    default:
      return start("copy.64", strided_copy_kernel<uint64_t>);
  }
}

void bounded_copy(const Index* from, Index* to, Index n, Index most, cudaStream_t stream) {
  if (n == 0) return;
  launch("copy.bounded", bounded_copy_kernel, row_grid(n), dim3(kRowThreads), 0, stream,
         BoundedCopy{from, to, n, most});
}

}  // namespace rnnfast::cuda
