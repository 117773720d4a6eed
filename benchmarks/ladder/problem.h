// What every rung computes: T steps of an LSTM over a batch, from the plain arrays that a caller has.
//
//   a = W x_t + R h_(t-1) + b        i, f, o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)
//   c_t = f c_(t-1) + i g            h_t = o tanh(c_t)
//
// The vectors are the engine's (csrc/cpu/vec.h), of whatever instruction set this is compiled for, and so are the
// equations on them (csrc/cells/lstm.h): the rungs differ in what is done in which order, and in nothing else.
#pragma once
#if defined(__AVX512F__)
#define RNNFAST_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define RNNFAST_VECTOR_BYTES 32
#else
#define RNNFAST_VECTOR_BYTES 16
#endif
#define RNNFAST_REAL float

#include <vector>

#include "../../csrc/cpu/peaks.h"
#include "../../csrc/cpu/scan_forward.h"

namespace rnnfast {
namespace {

template <class Number>
struct Problem {
  Index T, B, I, H;  // H in whole vectors: what is left over at the end is the library's business
  const Number* x;   // (T, B, I)
  const Number *W, *R, *b;  // (4H, I), (4H, H), (4H,): blocks of gates i f g o
  const Number *h0, *c0;    // (B, H)
  Number* y;                // (T, B, H): h of every step
  Number* c;                // (B, H): c0 at first, c of the last step at the end

  const Number* h_before(Index t) const { return t ? y + (t - 1) * B * H : h0; }
};

// Memory that lasts from call to call, as the engine's does: fresh pages would cost each call more than its steps.
enum Room { of_W, of_R, of_b, of_h, of_sums, of_library, rooms };
Real* room(Room which, Index count) {
  static std::vector<Real> kept[rooms];
  std::vector<Real>& memory = kept[which];
  const size_t line = 64 / sizeof(Real);
  if (memory.size() < size_t(count) + line) memory.resize(size_t(count) + line);
  return memory.data() + (line - reinterpret_cast<uintptr_t>(memory.data()) / sizeof(Real) % line);
}

}  // namespace
}  // namespace rnnfast
