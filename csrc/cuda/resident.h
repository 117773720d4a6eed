// K0: one block walks all steps of one batch row with R in its registers and shared memory. Nothing but the block's
// own barrier stands between two steps, and R is read from memory once for the whole sequence.
//
// A group of `slices` neighbouring threads of a warp computes the same `outputs`: thread s of a group sums the terms
// k = (j * slices + s) * 4 + c for j in [0, vectors), c in [0, 4), so that the group reads consecutive vectors of the
// operand, and the slices meet in a butterfly of shuffles. The first `kept` vectors of weights are registers, the others
// shared memory. The order of a sum depends on cell, dtype and H alone.
#pragma once
#include "product.h"
#include "unit.h"

namespace rnnfast::cuda {

// How a block is laid out; resident_choice() in layer.h decides.
struct ResidentLayout {
  int slices;   // threads that share a sum: a power of two, at most a warp
  int vectors;  // of four terms, for each thread
  int groups;   // of threads
  int operand;  // elements of one operand row: slices * vectors * 4
  size_t shared;
  RNNFAST_HD int threads() const { return groups * slices; }
};

// Vectors of weights for each sum that a thread keeps in registers, and the threads that a block has then, so that all fit
// the 65,536 registers of a multiprocessor: few vectors and 512 threads (of 128 registers), which hide latency where R is
// small; or many and 256 threads (of 255). The compiler keeps to it, and CI fails where it spills.
template <class Acc>
constexpr int kFewKept = 8 / int(sizeof(Acc));
template <class Acc>
constexpr int kManyKept = 32 / int(sizeof(Acc));
template <class Acc>
constexpr int resident_threads(int kept) {
  return kept == kFewKept<Acc> ? 512 : 256;
}

template <class Acc>
struct alignas(4 * sizeof(Acc)) Vec4 {
  Acc at[4];
};
template <class Store>
struct alignas(4 * sizeof(Store)) Held4 {
  Store at[4];
};

// The part of R that a thread holds: `outputs` sums of `vectors` * 4 terms.
template <class Store, int outputs, int kept>
struct HeldWeights {
  using Acc = AccumulateIn<Store>;
  Acc near[outputs][kept][4];
  Held4<Store>* far;  // [output][vector - kept][thread]
  int vectors, slices, threads;

  // Term k of output o is line(o)[k * stride] for k < terms; a null line is of zeros.
  template <class Line>
  RNNFAST_DEVICE void take(const ResidentLayout& l, Held4<Store>* shared, int slice, int terms,
                           Index stride, Line line) {
    far = shared;
    vectors = l.vectors;
    slices = l.slices;
    threads = l.threads();
    RNNFAST_UNROLL
    for (int o = 0; o < outputs; ++o) {
      const Store* const from = line(o);
      const int end = from ? terms : 0;
      RNNFAST_UNROLL
      for (int j = 0; j < kept; ++j) {
        RNNFAST_UNROLL
        for (int c = 0; c < 4; ++c) {
          const int k = (j * slices + slice) * 4 + c;
          near[o][j][c] = k < end ? load(from[k * stride]) : Acc(0);
        }
      }
      RNNFAST_NO_UNROLL
      for (int j = kept; j < vectors; ++j)
        for (int c = 0; c < 4; ++c) {
          const int k = (j * slices + slice) * 4 + c;
          far[(o * (vectors - kept) + j - kept) * threads + int(threadIdx.x)].at[c] =
              k < end ? from[k * stride] : Store{};
        }
    }
  }
  // This slice's part of the sums. `operand` is aligned to a vector and has zeros behind its last element.
  RNNFAST_DEVICE void multiply(const Acc* operand, int slice, Acc (&sums)[outputs]) const {
    const auto* vec = reinterpret_cast<const Vec4<Acc>*>(operand) + slice;
    RNNFAST_UNROLL
    for (int o = 0; o < outputs; ++o) sums[o] = Acc(0);
    RNNFAST_UNROLL
    for (int j = 0; j < kept; ++j) {
      if (j < vectors) {
        const Vec4<Acc> h = vec[j * slices];
        RNNFAST_UNROLL
        for (int o = 0; o < outputs; ++o) {
          RNNFAST_UNROLL
          for (int c = 0; c < 4; ++c) sums[o] = fma(h.at[c], near[o][j][c], sums[o]);
        }
      }
    }
    RNNFAST_NO_UNROLL
    for (int j0 = kept; j0 < vectors; j0 += kSumBlock / 4) {
      Acc part[outputs];
      RNNFAST_UNROLL
      for (int o = 0; o < outputs; ++o) part[o] = Acc(0);
      RNNFAST_NO_UNROLL
      for (int j = j0; j < vectors && j < j0 + kSumBlock / 4; ++j) {
        const Vec4<Acc> h = vec[j * slices];
        RNNFAST_UNROLL
        for (int o = 0; o < outputs; ++o) {
          const Held4<Store> w =
              far[(o * (vectors - kept) + j - kept) * threads + int(threadIdx.x)];
          RNNFAST_UNROLL
          for (int c = 0; c < 4; ++c) part[o] = fma(h.at[c], load(w.at[c]), part[o]);
        }
      }
      RNNFAST_UNROLL
      for (int o = 0; o < outputs; ++o) sums[o] = sums[o] + part[o];
    }
  }
};

// Adds up what the slices of a group hold; all of them get the sum.
template <class Acc, int outputs>
RNNFAST_DEVICE void meet(Acc (&sums)[outputs], int slices) {
  for (int d = 1; d < slices; d += d) {
    RNNFAST_UNROLL
    for (int o = 0; o < outputs; ++o) sums[o] = sums[o] + __shfl_xor_sync(0xffffffffu, sums[o], d);
  }
}

// Steps [t0, t1) of the scan. gx has bW in it, (t1 - t0, B, G*H); carry is (S, B, H): in from the steps before, out.
template <class Store>
struct ResidentForward {
  ForwardArgs<Store> scan;
  ResidentLayout layout;
  Index t0, t1;
  const AccumulateIn<Store>* gx;
  AccumulateIn<Store>* carry;
};

// Units of a group. Forward has three or four sums for each vector of the operand that it loads. Backward would spill
// registers with more than two units of an RNN.
template <class Cell>
constexpr int forward_units = Cell::G >= 3 ? 1 : 4;
template <class Cell>
constexpr int backward_units = 2;

template <class Cell, class Store, int kept>
RNNFAST_GLOBAL((resident_threads<AccumulateIn<Store>>(kept)), 1)
resident_forward(ResidentForward<Store> p) {
  using Acc = AccumulateIn<Store>;
  constexpr int G = Cell::G, S = Cell::S, U = forward_units<Cell>;
  const ForwardArgs<Store>& a = p.scan;
  const ResidentLayout l = p.layout;
  const Index H = a.dims.H, B = a.dims.B;
  const int group = int(threadIdx.x) / l.slices, slice = int(threadIdx.x) % l.slices;
  RNNFAST_SHARED(Acc, operands);  // [2][l.operand], of even and odd steps, then weights
  HeldWeights<Store, U * G, kept> R;
  const Store* weights = a.weights[Weight::R];
  R.take(l, reinterpret_cast<Held4<Store>*>(operands + 2 * l.operand), slice, int(H), 1,
         [&](int o) {
           const Index unit = Index(group) * U + o / G;
           return unit < H ? weights + ((o % G) * H + unit) * H : nullptr;
         });
  for (int i = int(threadIdx.x); i < 2 * l.operand; i += l.threads()) operands[i] = Acc(0);
  __syncthreads();

  // Thread s of a group runs the cell of its unit s.
  UnitForward<Cell, Store> unit;
  unit.b = blockIdx.x;
  unit.u = Index(group) * U + slice;
  const bool mine = slice < U && unit.u < H;
  Acc bR[G], operand = Acc(0);
  RNNFAST_UNROLL
  for (int g = 0; g < G; ++g) {
    const Store* bias = a.weights[Weight::bR];
    bR[g] = mine && bias ? load(bias[g * H + unit.u]) : Acc(0);
  }
  const auto publish = [&](Index t) {
    unit.enter(a, t);
    operand = unit.operand(a, t);
    operands[int(t & 1) * l.operand + int(unit.u)] = operand;
  };
  if (mine) {
    if (p.t0 == 0) unit.start(a);
    else
      for (int s = 0; s < S; ++s) unit.state[s] = p.carry[(s * B + unit.b) * H + unit.u];
    if (p.t0 < p.t1) publish(p.t0);
  }
  __syncthreads();

  for (Index t = p.t0; t < p.t1; ++t) {
    if (a.steps.used(t, unit.b)) {  // the same for all threads of the block
      Acc gx[G], gh[G] = {}, sums[U * G];
      const Acc* from = p.gx + ((t - p.t0) * B + unit.b) * G * H + unit.u;
      RNNFAST_UNROLL
      for (int g = 0; g < G; ++g) gx[g] = mine ? from[g * H] : Acc(0);
      R.multiply(operands + int(t & 1) * l.operand, slice, sums);
      meet(sums, l.slices);
      RNNFAST_UNROLL
      for (int o = 0; o < U * G; ++o)
        if (slice == o / G) gh[o % G] = sums[o] + bR[o % G];
      if (mine) unit.run(a, t, gx, gh, operand);
    } else if (mine) {
      unit.hold(a, t);
    }
    if (mine && t + 1 < p.t1) publish(t + 1);
    // The only barrier of a step: who writes the buffer of the next one has passed this, and all have read the one
    // before.
    __syncthreads();
  }
  if (mine) {
    for (int s = 0; s < S; ++s) p.carry[(s * B + unit.b) * H + unit.u] = unit.state[s];
    if (p.t1 == a.dims.T) unit.finish(a);
  }
}

// Steps t1-1 ... t0 of the scan. dgx and dgh are (t1 - t0, B, G*H), dgx null where it equals dgh.
template <class Store>
struct ResidentBackward {
  BackwardArgs<Store> scan;
  ResidentLayout layout;
  Index t0, t1;
  bool first, last;  // of the calls for one scan
  AccumulateIn<Store>*dgx, *dgh, *carry;
};

template <class Cell, class Store, int kept>
RNNFAST_GLOBAL((resident_threads<AccumulateIn<Store>>(kept)), 1)
resident_backward(ResidentBackward<Store> p) {
  using Acc = AccumulateIn<Store>;
  constexpr int G = Cell::G, S = Cell::S, U = backward_units<Cell>;
  const BackwardArgs<Store>& a = p.scan;
  const ResidentLayout l = p.layout;
  const Index H = a.dims.H, B = a.dims.B;
  const int group = int(threadIdx.x) / l.slices, slice = int(threadIdx.x) % l.slices;
  RNNFAST_SHARED(Acc, operands);  // [2][l.operand]: dgh with the gates side by side, then weights
  HeldWeights<Store, U, kept> R;
  const Store* weights = a.weights[Weight::R];
  R.take(l, reinterpret_cast<Held4<Store>*>(operands + 2 * l.operand), slice, int(G * H), H,
         [&](int o) {
           const Index unit = Index(group) * U + o;
           return unit < H ? weights + unit : nullptr;
         });
  for (int i = int(threadIdx.x); i < 2 * l.operand; i += l.threads()) operands[i] = Acc(0);
  __syncthreads();

  UnitBackward<Cell, Store> unit;
  unit.b = blockIdx.x;
  unit.u = Index(group) * U + slice;
  const bool mine = slice < U && unit.u < H;
  if (mine) {
    if (p.first) unit.start(a);
    else
      for (int s = 0; s < S; ++s) unit.ds[s] = p.carry[(s * B + unit.b) * H + unit.u];
  }
  for (Index t = p.t1 - 1; t >= p.t0; --t) {
    Acc* const row = operands + int(t & 1) * l.operand;
    if (mine) {
      Acc dgx[G], dgh[G];
      unit.run(a, t, dgx, dgh);
      RNNFAST_UNROLL
      for (int g = 0; g < G; ++g) {
        const Index at = (((t - p.t0) * B + unit.b) * G + g) * H + unit.u;
        p.dgh[at] = dgh[g];
        if (!Cell::one_gate_gradient) p.dgx[at] = dgx[g];
        row[g * int(H) + int(unit.u)] = dgh[g];
      }
    }
    __syncthreads();  // the only one of a step, as in forward
    Acc product = Acc(0);
    if (a.steps.used(t, unit.b)) {
      Acc sums[U];
      R.multiply(row, slice, sums);
      meet(sums, l.slices);
      RNNFAST_UNROLL
      for (int o = 0; o < U; ++o)
        if (slice == o) product = sums[o];
    }
    if (mine) unit.send(a, t, product);
  }
  if (mine) {
    for (int s = 0; s < S; ++s) p.carry[(s * B + unit.b) * H + unit.u] = unit.ds[s];
    if (p.last) unit.finish(a);
  }
}

}  // namespace rnnfast::cuda
