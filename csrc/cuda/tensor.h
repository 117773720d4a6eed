// Tensor cores: c += a b for matrices of 16 rows, 8 columns and 16 or 8 terms, which a warp holds as PTX's fragments
// (mma.sync). With g = lane / 4 and q = lane % 4, a lane has of
//
//   c   (g, 2q), (g, 2q+1), (g+8, 2q), (g+8, 2q+1), as (row, column)
//   a   k = 2q, 2q+1 of (g, k), (g+8, k), (g, k+8), (g+8, k+8), two numbers of 16 bits in a register, the first one low;
//       of tf32 k = q of (g, k), (g+8, k), (g, k+4), (g+8, k+4)
//   b   k = 2q, 2q+1 of (k, g), (k+8, g), as (term, column); of tf32 k = q of (k, g), (k+4, g)
//
// Products are exact. What they are added up in is float32 whose last bits are cut, not rounded, so callers keep chains
// short. Where in its fragment a row or a column stands changes no bit of it.
#pragma once
#include "launch.h"
#include "numbers.h"

namespace rnnfast::cuda {

#if defined(__CUDACC__)
#define RNNFAST_MMA(shape_and_types)                                              \
  asm volatile("mma.sync.aligned." shape_and_types                                \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define RNNFAST_MMA(shape_and_types) simt::mma(shape_and_types, c, a, b, SIMT_HERE)
#endif

// What the registers of a and b hold is the last argument's type; float stands for tf32.
RNNFAST_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16) {
  RNNFAST_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
RNNFAST_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], f16) {
  RNNFAST_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
RNNFAST_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) {
  RNNFAST_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef RNNFAST_MMA

// The nearest number of tf32 (10 bits behind the point, float32's exponent), ties away from zero.
RNNFAST_DEVICE uint32_t to_tf32(float x) {
#if defined(__CUDACC__)
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  return simt::cvt_rna_tf32(x);
#endif
}

}  // namespace rnnfast::cuda
