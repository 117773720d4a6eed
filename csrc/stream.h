// A layer stack that runs a step, or a few, at a time: packed parameters of its own, the state that it carries, and
// all memory that a step needs, so that a step allocates nothing. The scan is that of every other call.
#pragma once
#include <vector>

#include "cpu/arena.h"
#include "cpu/engine.h"

namespace rnnfast {

// What a stream is made of. Arrays are read at construction only.
template <class Real>
struct StreamPlan {
  CellId cell;
  int states;  // S of the cell
  Index B, I, H;
  std::vector<Weights<Real>> layers;  // of each layer; from the second on its I is H
  const Real* initial[kMaxStates];    // (L, H) each; null: zero
  bool residual;                      // layers from the second on add what they read
  double zoneout[kMaxStates];         // its expectation
  double cell_clip;                   // 0: none
  int threads;                        // 0: as many as pay
};

template <class Real>
class Stream {
 public:
  explicit Stream(StreamPlan<Real> plan);  // throws std::bad_alloc

  Index L() const { return Index(args_.size()); }
  Index B() const { return plan_.B; }
  Index I() const { return plan_.I; }
  Index H() const { return plan_.H; }
  int states() const { return plan_.states; }

  // T steps of x (T, B, I) into y (T, B, H), which may not overlap.
  void run(Sequence<const Real> x, Index T, Sequence<Real> y);
  // The same for indices (T, B). False, and nothing has happened, where one lies outside 0 ... I-1.
  bool run_indexed(Sequence<const int64_t> x, Index T, Sequence<Real> y);

  // Back to the initial state: all rows, or those where `rows` (B,) is not 0.
  void reset(const unsigned char* rows);
  // State s of all layers, (L, B, H).
  Real* state(int s) { return state_[size_t(s)].data(); }

 private:
  // Layers pass on so many rows (steps times batch) at a time: what lies between them stays in cache, and memory does
  // not grow with the length of a run. The scan works through time in pieces of the same size.
  static constexpr Index kPieceRows = 192;

  Index piece_steps() const { return plan_.B >= kPieceRows ? 1 : kPieceRows / plan_.B; }
  void reserve(Index T);
  void run_piece(Index T, Sequence<Real> y);

  StreamPlan<Real> plan_;
  std::vector<AlignedBlock> packed_;       // by layer
  std::vector<ForwardArgs<Real>> args_;    // by layer; x, y and T change from call to call
  std::vector<Real> initial_[kMaxStates];  // (L, H)
  std::vector<Real> state_[kMaxStates];    // (L, B, H)
  std::vector<int64_t> indices_;           // (T, B) of this call
  std::vector<int32_t> slots_;         // 0, 1, 2, ...: each entry of a piece has a row of its own
  Index reserved_ = 0;                 // steps that what follows has room for
  AlignedBlock between_[2], scratch_;  // (T, B, H) each, and the scratch of one layer
  std::vector<const Real*> in_, add_;  // rows of a residual connection
  std::vector<Real*> out_;
};

}  // namespace rnnfast
