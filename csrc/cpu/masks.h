// The masks of one member of a scan, row by row: recurrent dropout and zoneout, drawn when a step needs them. Those of
// a step are noted on the tape, which backward reads.
#pragma once
#include "random.h"
#include "stage.h"

namespace rnnfast {
namespace {

// Rows are `units` long; padding lanes keep what they had.
class MaskRows {
 public:
  static RNNFAST_INLINE bool drops(const Options<Real>& o) { return o.dropout > 0; }

  // of_sequence: (B, units) factors shared by the team, for masks that are one per sequence. noted: of the tape,
  // null without one; `again`: they are there to be read.
  MaskRows(Carver& own, const Options<Real>& o, Index B, Index H, int S, Real* of_sequence,
           Real* noted, bool again)
      : key_(&o.random),
        H_(H),
        units_(unit_vectors(H) * kLanes),
        S_(S),
        of_step_(o.step_masks()),
        noted_(noted),
        again_(again) {
    per_step_ = o.dropout_per_step;
    draws_ = o.zoneout_draws;
    factor_ = drops(o) && per_step_ ? own.take<Real>(B * units_) : of_sequence;
    // In scratch, for a plain call is over before these could be set up. With a null base nothing is written.
    dropout_ = drops(o) ? own.take<MaskSource>(1) : nullptr;
    Wide* start = drops(o) ? own.take<Wide>(MaskSource::start_size(H)) : nullptr;
    if (dropout_) *dropout_ = dropout_mask(o.random, Purpose::recurrent, o.dropout, H, start);
    int number = drops(o) && per_step_;
    for (int s = 0; s < S; ++s) {
      p_[s] = o.zoneout[s];
      const bool some = p_[s] > 0;
      number_[s] = number;
      number += some && draws_;
      zone_[s] = some ? own.take<Real>((draws_ ? B : 1) * units_) : nullptr;
      zoneout_[s] = some && draws_ ? own.take<MaskSource>(1) : nullptr;
      start = some && draws_ ? own.take<Wide>(MaskSource::start_size(H)) : nullptr;
      if (zoneout_[s])
        *zoneout_[s] = MaskSource(o.random, Purpose::zoneout, s, p_[s], 0, 1, H, start);
    }
  }
  // Another member notes the same rows.
  void note_nothing() { noted_ = nullptr; }
  void prepare_expectation() const {
    for (int s = 0; s < S_; ++s)
      if (zone_[s] && !draws_)
        for (Index u = 0; u < units_; ++u) zone_[s][u] = Real(p_[s]);
  }
  // The factors of one sequence, before the first step.
  void of_sequence(Index b) const {
    Real* row = factor_ + b * units_;
    dropout_->row(key_->row_of(b), 0, H_, row);
    pad(row, 1);
  }
  // The factors on the operand that row b reads at step t, whose place is p; those of a step are kept as slot r.
  RNNFAST_INLINE const Real* operand_factor(Index r, Index p, Index t, Index b) const {
    if (!per_step_) return factor_ + b * units_;
    return of_step(*dropout_, 0, p, t, b, factor_ + r * units_, 1);
  }
  RNNFAST_INLINE const Real* zoneout(int s, Index r, Index p, Index t, Index b) const {
    return draws_ ? of_step(*zoneout_[s], number_[s], p, t, b, zone_[s] + r * units_, 0) : zone_[s];
  }

 private:
  const MaskKey* key_;
  Index H_, units_;
  int S_;
  int of_step_;             // masks that each step draws
  int number_[kMaxStates];  // zoneout's among them; recurrent dropout's is the first
  Real* noted_;             // (places, of_step, notes)
  bool again_, per_step_, draws_;
  Real* factor_;  // recurrent dropout: (B, units), shared and of the sequence, or own and of a step
  Real* zone_[kMaxStates];  // zoneout: (B, units) of a step, or one row of the expectation
  double p_[kMaxStates];
  MaskSource *dropout_, *zoneout_[kMaxStates];

  RNNFAST_INLINE const Real* of_step(const MaskSource& mask, int number, Index p, Index t, Index b,
                                     Real* row, Real padding) const {
    const Index vectors = units_ / kLanes,
                at = (p * of_step_ + number) * mask_notes<Real>(H_, kLanes);
    if (again_) {
      mask.row_of_note(noted_ + at, vectors, row);
    } else {
      mask.row(key_->row_of(b), key_->step_of(t), H_, row);
      if (noted_) mask.note(row, vectors, noted_ + at);
    }
    pad(row, padding);
    return row;
  }
  RNNFAST_INLINE void pad(Real* row, Real padding) const {
    for (Index u = H_; u < units_; ++u) row[u] = padding;
  }
};

// to = from * factor, H elements.
RNNFAST_INLINE void multiply_row(const Real* from, const Real* factor, Index H, Real* to) {
  Index j = 0;
  for (; j + kLanes <= H; j += kLanes) raw_store(to + j, raw_load(from + j) * raw_load(factor + j));
  for (; j < H; ++j) to[j] = from[j] * factor[j];
}

}  // namespace
}  // namespace rnnfast
