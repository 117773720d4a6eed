#include "convert.h"
#include "launch.h"
#include "numbers.h"

namespace rnnfast::cuda {
namespace {

constexpr int kThreads = 256;

template <class From, class To>
struct Parameters {
  const From* from;
  To* to;
  Index n;
};

template <class From, class To>
RNNFAST_GLOBAL(kThreads, 1)
convert_kernel(Parameters<From, To> p) {
  const Index all = Index(gridDim.x) * kThreads;
  for (Index i = Index(blockIdx.x) * kThreads + threadIdx.x; i < p.n; i += all)
    store(p.to[i], load(p.from[i]));
}

constexpr const char* id(const float*, const bf16*) { return "convert.f32.bf16"; }
constexpr const char* id(const float*, const f16*) { return "convert.f32.f16"; }
constexpr const char* id(const bf16*, const float*) { return "convert.bf16.f32"; }
constexpr const char* id(const f16*, const float*) { return "convert.f16.f32"; }

}  // namespace

template <class From, class To>
void convert(const From* from, To* to, Index n, cudaStream_t stream) {
  if (n == 0) return;
  // More than any device runs at a time; the loop takes the rest.
  const Index blocks = (n + kThreads - 1) / kThreads, most = 4096;
  launch(id(from, to), convert_kernel<From, To>, unsigned(blocks < most ? blocks : most), kThreads,
         0, stream, Parameters<From, To>{from, to, n});
}

template void convert(const float*, bf16*, Index, cudaStream_t);
template void convert(const float*, f16*, Index, cudaStream_t);
template void convert(const bf16*, float*, Index, cudaStream_t);
template void convert(const f16*, float*, Index, cudaStream_t);

}  // namespace rnnfast::cuda
