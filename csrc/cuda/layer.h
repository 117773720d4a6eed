// One layer in one direction, as launches on a stream: which family of kernels walks the steps, in chunks of steps, with
// the time-parallel products before (forward) or after (backward) each.
#pragma once
#include "../carver.h"
#include "arithmetic.h"
#include "engine.h"
#include "gradients.h"
#include "resident.h"
#include "stepwise.h"

namespace rnnfast::cuda {

inline Index chunk_steps(const Dims& d, int G, size_t size, const Limits& limits) {
  const size_t step = size_t(d.B) * size_t(G) * size_t(d.H) * size;
  const Index steps = step > 0 ? Index(limits.chunk_bytes / step) : d.T;
  return steps < 1 ? 1 : steps < d.T ? steps : d.T;
}

// Layouts of a block of resident.h.
struct ResidentChoice {
  ResidentLayout layout;
  int kept;  // 0: R does not fit
};

// The layout for `outputs` sums of `terms` terms for each of `groups`, by an estimate of a step in cycles of a
// multiprocessor: 128 fused multiply-adds, or 128 bytes of shared memory, in each. Not measured yet on a GPU.
// It looks at nothing that depends on the batch: the order of sums follows from it.
template <class Store>
ResidentChoice resident_choice(Index H, Index terms, int units, int outputs, const Limits& limits) {
  using Acc = AccumulateIn<Store>;
  ResidentChoice best{{}, 0};
  double least = 0;
  for (const int kept : {kFewKept<Acc>, kManyKept<Acc>}) {
    for (int slices = 32; slices >= units; slices /= 2) {
      ResidentLayout l{};
      const Index vectors = (terms + 4 * slices - 1) / (4 * slices);
      Index groups = (H + units - 1) / units;
      const Index even = slices < 32 ? 32 / slices : 1;  // groups of a warp
      groups = (groups + even - 1) / even * even;
      if (groups * slices > resident_threads<Acc>(kept)) continue;
      l.slices = slices;
      l.vectors = int(vectors);
      l.groups = int(groups);
      l.operand = 4 * slices * l.vectors;
      const Index far = vectors > kept ? vectors - kept : 0;
      const size_t held = size_t(far) * size_t(outputs) * size_t(l.threads()) * 4 * sizeof(Store);
      l.shared = 2 * size_t(l.operand) * sizeof(Acc) + held;
      if (l.shared > limits.shared) continue;
      double meeting = 0;
      for (int d = 1; d < slices; d += d) meeting += outputs;
      const double warps = l.threads() / 32.0;
      const double cycles = double(l.threads()) * double(vectors) * 4 * outputs / 128 +
                            double(held) / 128 + warps * (double(vectors) + meeting) / 2 +
                            double(vectors) * outputs * 4;  // what one thread does in a row
      if (best.kept == 0 || cycles < least) {
        least = cycles;
        best = {l, kept};
      }
    }
  }
  return best;
}

// `Math` is of arithmetic.h.
template <class Cell, class Store, class Math>
struct Layer {
  using Acc = AccumulateIn<Store>;
  static constexpr int G = Cell::G, S = Cell::S;
  static ResidentChoice forward_choice(const Dims& d, const Limits& limits) {
    constexpr int U = forward_units<Cell>;
    return resident_choice<Store>(d.H, d.H, U, U * G, limits);
  }
  static ResidentChoice backward_choice(const Dims& d, const Limits& limits) {
    constexpr int U = backward_units<Cell>;
    return resident_choice<Store>(d.H, G * d.H, U, U, limits);
  }

  struct ForwardScratch {
    Index chunk;
    Acc *gx, *state, *operand[2];
    const Store** rows;
    ForwardScratch(Carver& carver, const ForwardArgs<Store>& a, bool resident, const Limits& limits)
        : chunk(chunk_steps(a.dims, G, sizeof(Acc), limits)), operand{nullptr, nullptr} {
      const Dims& d = a.dims;
      gx = carver.take<Acc>(chunk * d.B * G * d.H);
      rows = carver.take<const Store*>(chunk * d.B);
      state = carver.take<Acc>(S * d.B * d.H);
      if (!resident)
        for (Acc*& o : operand) o = carver.take<Acc>(d.B * d.H);
    }
  };

  static size_t forward_scratch(const ForwardArgs<Store>& a, const Limits& limits, bool resident) {
    Carver measure{nullptr};
    ForwardScratch(measure, a, resident, limits);
    return measure.used;
  }

  static void forward(const char* id, const ForwardArgs<Store>& a, void* scratch,
                      const Limits& limits, bool resident, cudaStream_t stream) {
    const Dims& d = a.dims;
    if (d.B == 0 || d.H == 0) return;
    const ResidentChoice choice = forward_choice(d, limits);
    Carver carver{static_cast<char*>(scratch)};
    const ForwardScratch own(carver, a, resident, limits);
    StepForward<Store> step{a, {own.state, {own.operand[0], own.operand[1]}}, 0, nullptr};
    if (!resident)
      launch(id, step_start<Cell, Store>, row_grid(d.B * d.H), dim3(kRowThreads), 0, stream, step);
    for (Index t0 = 0; t0 < d.T; t0 += own.chunk) {
      const Index t1 = t0 + own.chunk < d.T ? t0 + own.chunk : d.T;
      project(id, a, own, t0, t1, stream);
      if (resident) {
        walk(id, ResidentForward<Store>{a, choice.layout, t0, t1, own.gx, own.state}, choice.kept,
             stream);
        continue;
      }
      for (Index t = t0; t < t1; ++t) {
        step.t = t;
        step.gx = own.gx + (t - t0) * d.B * G * d.H;
        run_step(id, step, stream);
      }
    }
    if (resident && d.T == 0)
      walk(id, ResidentForward<Store>{a, choice.layout, 0, 0, own.gx, own.state}, choice.kept,
           stream);
  }

  struct BackwardScratch {
    Index chunk, places;
    Acc *dgh, *dgx, *after, *between, *partial, *dW, *dR, *dbW, *dbR;
    const Store** x;
    const void** operand;
    Store** dx;
    BackwardScratch(Carver& carver, const BackwardArgs<Store>& a, bool resident,
                    const Limits& limits)
        : chunk(chunk_steps(a.dims, G, sizeof(Acc), limits)), places(chunk * a.dims.B) {
      const Dims& d = a.dims;
      const Index GH = G * d.H;
      dgh = carver.take<Acc>(places * GH);
      dgx = Cell::one_gate_gradient ? dgh : carver.take<Acc>(places * GH);
      after = resident ? nullptr : carver.take<Acc>(d.B * GH);
      between = carver.take<Acc>((resident ? 1 : 2) * S * d.B * d.H);
      const Index columns = (places + kColumnSegment - 1) / kColumnSegment * GH;
      Index most = segments_of(places, tiles(GH, d.H)).count * GH * d.H;
      const Index of_W = segments_of(places, tiles(GH, d.I)).count * GH * d.I;
      if (of_W > most) most = of_W;
      if (columns > most) most = columns;
      partial = carver.take<Acc>(most);
      dW = carver.take<Acc>(GH * d.I);
      dR = carver.take<Acc>(GH * d.H);
      dbW = carver.take<Acc>(GH);
      dbR = carver.take<Acc>(GH);
      x = carver.take<const Store*>(places);
      operand = carver.take<const void*>(places);
      dx = carver.take<Store*>(places);
    }
    static Index tiles(Index M, Index N) {
      return tiles_of(M, Math::kRows) * tiles_of(N, Math::kColumns);
    }
  };

  static size_t backward_scratch(const BackwardArgs<Store>& a, const Limits& limits,
                                 bool resident) {
    Carver measure{nullptr};
    BackwardScratch(measure, a, resident, limits);
    return measure.used;
  }

  static void backward(const char* id, const BackwardArgs<Store>& a, void* scratch,
                       const Limits& limits, bool resident, cudaStream_t stream) {
    const Dims& d = a.dims;
    const ResidentChoice choice = backward_choice(d, limits);
    Carver carver{static_cast<char*>(scratch)};
    const BackwardScratch own(carver, a, resident, limits);
    const Index stop = a.extras.burn_in < d.T ? a.extras.burn_in : d.T, GH = G * d.H;
    if (a.dx.base && !a.add_to_dx && stop > 0 && d.B > 0 && d.I > 0)
      launch(id, clear_rows<Store>, row_grid(stop * d.B * d.I), dim3(kRowThreads), 0, stream,
             ClearRows<Store>{a.dx, a.steps, 0, stop, d.I});
    bool first = true;
    StepBackward<Store> step{a, own.between, 0, true, nullptr, nullptr, nullptr};
    for (Index t1 = d.T; t1 > stop;) {
      const Index t0 = t1 - own.chunk > stop ? t1 - own.chunk : stop;
      if (resident) {
        walk(id,
             ResidentBackward<Store>{a, choice.layout, t0, t1, first, t0 == stop, own.dgx, own.dgh,
                                     own.between},
             choice.kept, stream);
      } else {
        for (Index t = t1 - 1; t >= t0; --t) {
          const Index at = (t - t0) * d.B * GH;
          step.t = t;
          step.dgh = own.dgh + at;
          step.dgx = own.dgx + at;
          // The first step of a chunk is in the way of the next one's: it is kept beyond it.
          step.dgh_after = t + 1 < t1 ? own.dgh + at + d.B * GH : own.after;
          run_step(id, step, stream);
          step.first = false;
        }
        check(cudaMemcpyAsync(own.after, own.dgh, size_t(d.B * GH) * sizeof(Acc),
                              cudaMemcpyDeviceToDevice, stream),
              "cudaMemcpyAsync", id);
      }
      gradients(id, a, own, t0, t1, first, t0 == stop, stream);
      first = false;
      t1 = t0;
    }
    if (resident) {
      if (first)
        walk(id,
             ResidentBackward<Store>{a, choice.layout, stop, stop, true, true, own.dgx, own.dgh,
                                     own.between},
             choice.kept, stream);
    } else {
      step.t = stop - 1;
      step.dgh_after = own.after;
      run_step(id, step, stream);
    }
    if (first) gradients(id, a, own, stop, stop, true, true, stream);
  }

 private:
  // gx of steps [t0, t1), with bW.
  static void project(const char* id, const ForwardArgs<Store>& a, const ForwardScratch& own,
                      Index t0, Index t1, cudaStream_t stream) {
    const Dims& d = a.dims;
    const Index n = (t1 - t0) * d.B, GH = G * d.H;
    if (a.index.base) {
      launch(id, gather_columns<Store>, row_grid(n * GH), dim3(kRowThreads), 0, stream,
             GatherColumns<Store>{a.index, a.steps, a.weights, t0, n, GH, d.I, own.gx});
      return;
    }
    launch(id, sequence_rows<const Store>, row_grid(n), dim3(kRowThreads), 0, stream,
           SequenceRows<const Store>{a.x, a.steps, t0, n, false, own.rows});
    launch_product<Math>(id, Rows<Store, kTogether>{own.rows},
                         Matrix<Store, kTogether>{a.weights[Weight::W], d.I}, n, GH, d.I,
                         d.I > 0 ? d.I : 1, StoreGates<Store>{own.gx, a.weights[Weight::bW], GH},
                         stream);
  }

  static void gradients(const char* id, const BackwardArgs<Store>& a, const BackwardScratch& own,
                        Index t0, Index t1, bool first, bool last, cudaStream_t stream) {
    const Dims& d = a.dims;
    const Index n = (t1 - t0) * d.B, GH = G * d.H;
    const auto out = [&](Weight w) { return last ? a.dweights[int(w)] : nullptr; };
    const auto add = [&](Acc* total, Index count, Index segments, Store* to) {
      if (count > 0)
        launch(id, add_segments<Store>, row_grid(count), dim3(kRowThreads), 0, stream,
               AddSegments<Store>{total, own.partial, count, n > 0 ? segments : 0, first, to});
    };
    const Matrix<Acc, kTogether> dgx_rows{own.dgx, GH};
    const Matrix<Acc, kApart> dgx{own.dgx, GH}, dgh{own.dgh, GH};
    if (a.dx.base && n > 0) {
      launch(id, sequence_rows<Store>, row_grid(n), dim3(kRowThreads), 0, stream,
             SequenceRows<Store>{a.dx, a.steps, t0, n, true, own.dx});
      launch_product<Math>(id, dgx_rows, Matrix<Store, kApart>{a.weights[Weight::W], d.I}, n, d.I,
                           GH, GH, StoreRows<Store>{own.dx, a.add_to_dx}, stream);
    }
    if (a.index.base) {
      if (d.I > 0)
        launch(id, indexed_sums<Store>, row_grid(d.I * kRowThreads), dim3(kRowThreads), 0, stream,
               IndexedSums<Store>{a.index, a.steps, own.dgx, t0, n, GH, d.I, first, own.dW,
                                  out(Weight::W)});
    } else {
      const Segments s = segments_of(n, BackwardScratch::tiles(GH, d.I));
      if (n > 0) {
        launch(id, sequence_rows<const Store>, row_grid(n), dim3(kRowThreads), 0, stream,
               SequenceRows<const Store>{a.x, a.steps, t0, n, false, own.x});
        launch_product<Math>(id, dgx, Rows<Store, kApart>{own.x}, GH, d.I, n, s.length,
                             StorePartial<Acc>{own.partial, GH, d.I}, stream);
      }
      add(own.dW, GH * d.I, s.count, out(Weight::W));
    }
    const Segments s = segments_of(n, BackwardScratch::tiles(GH, d.H));
    if (n > 0) {
      launch(id, operand_rows<Store>, row_grid(n), dim3(kRowThreads), 0, stream,
             OperandRows<Store>{a.y, a.tape, a.state0[0], a.steps, t0, n, d.H, own.operand});
      const StorePartial<Acc> to{own.partial, GH, d.H};
      if (a.tape.operand)
        launch_product<Math>(id, dgh,
                             Rows<Acc, kApart>{reinterpret_cast<const Acc* const*>(own.operand)},
                             GH, d.H, n, s.length, to, stream);
      else
        launch_product<Math>(
            id, dgh, Rows<Store, kApart>{reinterpret_cast<const Store* const*>(own.operand)}, GH,
            d.H, n, s.length, to, stream);
    }
    add(own.dR, GH * d.H, s.count, out(Weight::R));
    const auto bias = [&](const Acc* from, Acc* total, Weight w) {
      if (!a.dweights[int(w)]) return;
      const Index segments = (n + kColumnSegment - 1) / kColumnSegment;
      if (n > 0)
        launch(id, column_sums<Acc>,
               dim3(unsigned((GH + kColumnThreads - 1) / kColumnThreads), unsigned(segments)),
               dim3(kColumnThreads * kColumnParts), kColumnThreads * kColumnParts * sizeof(Acc),
               stream, ColumnSums<Acc>{from, n, GH, own.partial});
      add(total, GH, segments, out(w));
    };
    bias(own.dgx, own.dbW, Weight::bW);
    bias(own.dgh, own.dbR, Weight::bR);
  }

  template <class Walk>
  static void walk(const char* id, const Walk& p, int kept, cudaStream_t stream) {
    if (p.scan.dims.B == 0) return;
    const auto start = [&](auto* kernel) {
      launch(id, kernel, dim3(unsigned(p.scan.dims.B)), dim3(p.layout.threads()), p.layout.shared,
             stream, p);
    };
    kept == kFewKept<Acc> ? start(kernel<kFewKept<Acc>>(p)) : start(kernel<kManyKept<Acc>>(p));
  }
  template <int kept>
  static auto kernel(const ResidentForward<Store>&) {
    return resident_forward<Cell, Store, kept>;
  }
  template <int kept>
  static auto kernel(const ResidentBackward<Store>&) {
    return resident_backward<Cell, Store, kept>;
  }

  // Units of a tile of a step forward, which has all their gates: 48 or 64 columns.
  static constexpr int kStepUnits = G >= 3 ? 16 : 64;
  template <int rows>
  using ForwardTile =
      typename Math::template Tile<rows, kStepUnits * G, Matrix<Acc, kTogether>, GateRows<Store>>;
  template <int rows, int units>
  using BackwardTile =
      typename Math::template Tile<rows, units, Matrix<Acc, kTogether>, Matrix<Store, kApart>>;

  static void run_step(const char* id, const StepForward<Store>& p, cudaStream_t stream) {
    using Few = ForwardTile<Math::kFewRows>;
    using Many = ForwardTile<Math::kManyRows>;
    if (p.scan.dims.B > Math::kFewRows)
      run_tiles<Many, kStepUnits>(id, step_forward<Cell, Store, Many, kStepUnits>, p, stream);
    else run_tiles<Few, kStepUnits>(id, step_forward<Cell, Store, Few, kStepUnits>, p, stream);
  }
  static void run_step(const char* id, const StepBackward<Store>& p, cudaStream_t stream) {
    using Few = BackwardTile<Math::kFewRows, Math::kFewColumns>;
    using Many = BackwardTile<Math::kManyRows, Math::kManyColumns>;
    if (p.scan.dims.B > Math::kFewRows)
      run_tiles<Many, Many::columns>(id, step_backward<Cell, Store, Many>, p, stream);
    else run_tiles<Few, Few::columns>(id, step_backward<Cell, Store, Few>, p, stream);
  }
  // A block for each tile of rows and units.
  template <class Tile, int units, class Step>
  static void run_tiles(const char* id, void (*kernel)(Step), const Step& p, cudaStream_t stream) {
    const Dims& d = p.scan.dims;
    if (d.B == 0 || d.H == 0) return;
    launch(id, kernel, dim3(unsigned(tiles_of(d.B, Tile::rows)), unsigned(tiles_of(d.H, units))),
           dim3(kTileThreads), Tile::shared, stream, p);
  }
};

}  // namespace rnnfast::cuda
