// The one unit compiled per instruction set and dtype (RNNFAST_ISA, RNNFAST_REAL, RNNFAST_VECTOR_BYTES). It
// exports a single table; everything else is local to the unit. It includes no C++ standard header: an inline
// function shared with the baseline would leave the linker to choose which CPU's code both of them run.
#include "checksum.h"
#include "linear.h"
#include "peaks.h"
#include "scan_backward.h"
#include "unpack.h"

#define RNNFAST_JOIN_(a, b, c) a##b##_##c
#define RNNFAST_JOIN(a, b, c) RNNFAST_JOIN_(a, b, c)
#define RNNFAST_STRING_(a) #a
#define RNNFAST_STRING(a) RNNFAST_STRING_(a)

namespace rnnfast {
namespace {

// Denormals are flushed while a kernel runs: states that decay toward zero would cost a hundred cycles an
// operation on some CPUs. The caller's mode returns when the kernel does.
struct FlushDenormals {
#if defined(__x86_64__)
  unsigned saved = __builtin_ia32_stmxcsr();
  FlushDenormals() { __builtin_ia32_ldmxcsr(saved | 0x8040); }  // flush to zero, denormals are zero
  ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved); }
#elif defined(__aarch64__)
  uint64_t saved;
  FlushDenormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" ::"r"(saved | (uint64_t(1) << 24)));
  }
  ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" ::"r"(saved)); }
#endif
};

template <class Cell>
size_t packed_size(const Dims& d) {
  Carver measure{nullptr};
  PackedLayer<Cell>(measure, d, true, true);
  return measure.used;
}

template <class Cell>
void prepare(const Dims& d, const Weights<Real>& weights, Real* packed) {
  Carver carver{reinterpret_cast<char*>(packed)};
  const PackedLayer<Cell> layer(carver, d, true, true);
  const int U = units_per_panel<Cell>(d.H);
  const RowPanels W{weights[Weight::W], d.H, d.I, Cell::G, U},
      R{weights[Weight::R], d.H, d.H, Cell::G, U};
  const size_t row = size_t(R.count()) * size_t(R.nv()) * kLanes * sizeof(Real);
  memset(layer.bW, 0, row);
  memset(layer.bR, 0, row);
  for (Index p = 0; p < R.count(); ++p) {
    W.pack(p, layer.W + p * W.size());
    R.pack(p, layer.R + p * R.size());
  }
  pack_gate_row(weights[Weight::bW], 1, d.H, Cell::G, layer.bW);
  pack_gate_row(weights[Weight::bR], 1, d.H, Cell::G, layer.bR);
}

// A runtime may give fewer threads than asked for, and the choices below it differ: room for the worst.
template <class Scratch, class Args, class... More>
size_t largest_scratch(const Args& a, int n, More... more) {
  size_t most = 0;
  for (int i = 1; i <= n; ++i) {
    Carver measure{nullptr};
    Scratch(measure, a, i, more...);
    if (measure.used > most) most = measure.used;
  }
  return most;
}

template <class Cell>
size_t forward_scratch(const ForwardArgs<Real>& a, int n) {
  return largest_scratch<ForwardScratch<Cell>>(a, n);
}
template <class Cell>
void forward(const ForwardArgs<Real>& a, void* scratch, const Member& m) {
  FlushDenormals flush;
  forward_scan<Cell>(a, scratch, m);
}
template <class Cell>
size_t backward_scratch(const BackwardArgs<Real>& a, int n) {
  return largest_scratch<BackwardScratch<Cell>>(a, n);
}
template <class Cell>
void backward(const BackwardArgs<Real>& a, void* scratch, const Member& m) {
  FlushDenormals flush;
  backward_scan<Cell>(a, scratch, m);
}

template <bool is_backward>
size_t linear_scratch(const LinearArgs<Real>& a, int n) {
  return largest_scratch<LinearScratch>(a, n, is_backward);
}
template <bool is_backward>
void linear(const LinearArgs<Real>& a, void* scratch, const Member& m) {
  FlushDenormals flush;
  if (is_backward) linear_backward(a, scratch, m);
  else linear_forward(a, scratch, m);
}

// Rows times the masks that belong to them, and a sum: what stands between layers, and weight drop.
struct MaskedRowsScratch {
  Parts parts;
  struct PerMember {
    Real* note;
    Wide* masks;
  };
  MaskedRowsScratch(Carver& carver, const MaskedRows<Real>& a, int n) {
    parts.add(carver, n, [&](Carver& own) { member(own, a); });
  }
  static PerMember member(Carver& own, const MaskedRows<Real>& a) {
    Real* note = own.take<Real>(mask_notes<Real>(a.n, kLanes));
    return {note, own.take<Wide>(MaskSource::scratch_size(a.n))};
  }
};
size_t masked_rows_scratch(const MaskedRows<Real>& a, int n) {
  Carver carver{nullptr};
  MaskedRowsScratch(carver, a, n);
  return carver.used;
}
void masked_rows(const MaskedRows<Real>& a, void* scratch, const Member& m) {
  FlushDenormals flush;
  Carver carver{static_cast<char*>(scratch)};
  const MaskedRowsScratch shared(carver, a, m.n);
  Carver own = shared.parts.of(scratch, m.id);
  const auto [note, masks] = MaskedRowsScratch::member(own, a);
  const MaskSource mask(a.random, a.purpose, 0, a.p, a.n, masks);
  const Real scale = dropout_scale(a.p);
  const Range mine = share(a.rows, m);
  for (Index r = mine.begin; r < mine.end; ++r) {
    if (a.p > 0) mask.note(a.row_id[r], a.step ? a.step[r] : 0, a.n, note);
    const Real *in = a.in[r], *add = a.add ? a.add[r] : nullptr;
    Real* out = a.out[r];
    for (Index j = 0; j < a.n; j += kLanes) {
      const int lanes = int(min_of(kLanes, a.n - j));
      Raw v = raw_load(in + j, lanes);
      if (a.p > 0) v = drop(v, noted(note, j / kLanes), scale);
      if (add) v += raw_load(add + j, lanes);
      raw_store(out + j, v, lanes);
    }
  }
}

void activation(int which, const Real* in, Real* out, Index n) {
  FlushDenormals flush;
  for (Index i = 0; i < n; i += kLanes) {
    const int lanes = int(min_of(kLanes, n - i));
    const Vec x = raw_load(in + i, lanes);
    raw_store(out + i, (which == 0 ? sigmoid(x) : which == 1 ? tanh_(x) : relu(x)).v, lanes);
  }
}

uint64_t weight_checksum(const Real* W, Index H, Index K, int G) {
  uint64_t sum = 0;
  WeightSum{&sum}.add_all(W, H, K, G, Member{0, 1, nullptr, nullptr});
  return sum;
}

}  // namespace

extern "C" __attribute__((visibility("hidden"))) const KernelTable<Real> RNNFAST_JOIN(
    rnnfast_kernels_, RNNFAST_ISA, RNNFAST_DTYPE) = {
    RNNFAST_STRING(RNNFAST_ISA),
    kLanes,
    {
#define RNNFAST_CELL_KERNELS(id, Type)                                          \
  {#id,           packed_size<Type>,      prepare<Type>, forward_scratch<Type>, \
   forward<Type>, backward_scratch<Type>, backward<Type>},
        RNNFAST_FOR_EACH_CELL(RNNFAST_CELL_KERNELS)
#undef RNNFAST_CELL_KERNELS
    },
    linear_scratch<false>,
    linear<false>,
    linear_scratch<true>,
    linear<true>,
    masked_rows_scratch,
    masked_rows,
    unpack_rows,
    activation,
    checksum,
    weight_checksum,
    kFlopsPerRound,
    multiply_add,
    kFlopsPerTile,
    tile_product,
    kReadBytes,
    read_memory,
};

}  // namespace rnnfast
