#include "launch.h"
#include "masks.h"
#include "numbers.h"

namespace rnnfast::cuda {
namespace {

constexpr int kQuads = 32, kRows = 8;  // threads of a block along a row, and rows

template <class Store>
struct Parameters {
  MaskedRows<Store> rows;
  uint64_t threshold;
  AccumulateIn<Store> kept;
};

// A thread has four units of a row: one counter.
template <class Store>
RNNFAST_GLOBAL(kQuads* kRows, 1)
masked_rows_kernel(Parameters<Store> p) {
  using Real = AccumulateIn<Store>;
  const MaskedRows<Store>& a = p.rows;
  const uint32_t Q = quads(a.n);
  for (Index r = Index(blockIdx.x) * kRows + threadIdx.y; r < a.T * a.B;
       r += Index(gridDim.x) * kRows) {
    const Index t = r / a.B, b = r % a.B;
    const Store* in = a.in.row(t, b);
    const Store* add = a.add.base ? a.add.row(t, b) : nullptr;
    Store* out = a.out.row(t, b);
    const uint32_t row = a.random.row_of(b), step = a.random.step_of(t);
    for (uint32_t q = threadIdx.x; q < Q; q += kQuads) {
      const Words words = a.p > 0 ? mask_words(a.random, a.purpose, 0, row, step, q) : Words{};
      for (int j = 0; j < 4; ++j) {
        const Index unit = Index(j) * Q + q;
        if (unit >= a.n) break;
        Real v = load(in[unit]);
        if (a.p > 0) v *= words.at[j] >= p.threshold ? p.kept : Real(0);
        if (add) v += load(add[unit]);
        store(out[unit], v);
      }
    }
  }
}

constexpr const char* id(const MaskedRows<float>&) { return "masked_rows.f32"; }
constexpr const char* id(const MaskedRows<double>&) { return "masked_rows.f64"; }
constexpr const char* id(const MaskedRows<bf16>&) { return "masked_rows.bf16"; }
constexpr const char* id(const MaskedRows<f16>&) { return "masked_rows.f16"; }

}  // namespace

template <class Store>
void masked_rows(const MaskedRows<Store>& a, cudaStream_t stream) {
  const Index rows = a.T * a.B;
  if (rows == 0 || a.n == 0) return;
  // More blocks than any device runs at a time; the loop over rows takes the rest.
  const Index blocks = (rows + kRows - 1) / kRows, most = 4096;
  launch(id(a), masked_rows_kernel<Store>, unsigned(blocks < most ? blocks : most),
         dim3(kQuads, kRows), 0, stream,
         Parameters<Store>{a, mask_threshold(a.p), kept_factor<AccumulateIn<Store>>(a.p)});
}

template void masked_rows(const MaskedRows<float>&, cudaStream_t);
template void masked_rows(const MaskedRows<double>&, cudaStream_t);
template void masked_rows(const MaskedRows<bf16>&, cudaStream_t);
template void masked_rows(const MaskedRows<f16>&, cudaStream_t);

}  // namespace rnnfast::cuda
