// The masks of one member of a scan, row by row: recurrent dropout and zoneout, drawn when a step needs them.
#pragma once
#include "random.h"
#include "stage.h"

namespace rnnfast {
namespace {

// Rows are `units` long; padding lanes keep what they had.
class MaskRows {
 public:
  static RNNFAST_INLINE bool drops(const Options<Real>& o) { return o.dropout > 0; }

  // of_sequence: (B, units) factors shared by the team, for masks that are one per sequence.
  MaskRows(Carver& own, const Options<Real>& o, Index B, Index H, int S, Real* of_sequence)
      : key_(&o.random), H_(H), units_(unit_vectors(H) * kLanes), S_(S) {
    per_step_ = o.dropout_per_step;
    draws_ = o.zoneout_draws;
    factor_ = drops(o) && per_step_ ? own.take<Real>(B * units_) : of_sequence;
    // In scratch, for a plain call is over before these could be set up. With a null base nothing is written.
    dropout_ = drops(o) ? own.take<MaskSource>(1) : nullptr;
    if (dropout_) *dropout_ = dropout_mask(o.random, Purpose::recurrent, o.dropout);
    for (int s = 0; s < S; ++s) {
      p_[s] = o.zoneout[s];
      const bool some = p_[s] > 0;
      zone_[s] = some ? own.take<Real>((draws_ ? B : 1) * units_) : nullptr;
      zoneout_[s] = some && draws_ ? own.take<MaskSource>(1) : nullptr;
      if (zoneout_[s]) *zoneout_[s] = MaskSource(o.random, Purpose::zoneout, s, p_[s], 0, 1);
    }
  }
  void prepare_expectation() const {
    for (int s = 0; s < S_; ++s)
      if (zone_[s] && !draws_)
        for (Index u = 0; u < units_; ++u) zone_[s][u] = Real(p_[s]);
  }
  // The factors of one sequence, before the first step.
  void of_sequence(Index b) const { draw(*dropout_, b, 0, factor_ + b * units_, 1); }
  // The factors on the operand that row b reads at step t; those of a step are kept as slot r.
  RNNFAST_INLINE const Real* operand_factor(Index r, Index t, Index b) const {
    if (!per_step_) return factor_ + b * units_;
    draw(*dropout_, b, key_->step_of(t), factor_ + r * units_, 1);
    return factor_ + r * units_;
  }
  RNNFAST_INLINE const Real* zoneout(int s, Index r, Index t, Index b) const {
    if (draws_) draw(*zoneout_[s], b, key_->step_of(t), zone_[s] + r * units_, 0);
    return draws_ ? zone_[s] + r * units_ : zone_[s];
  }

 private:
  const MaskKey* key_;
  Index H_, units_;
  int S_;
  bool per_step_, draws_;
  Real* factor_;  // recurrent dropout: (B, units), shared and of the sequence, or own and of a step
  Real* zone_[kMaxStates];  // zoneout: (B, units) of a step, or one row of the expectation
  double p_[kMaxStates];
  MaskSource *dropout_, *zoneout_[kMaxStates];

  void draw(const MaskSource& mask, Index b, uint32_t step, Real* row, Real padding) const {
    mask.row(key_->row_of(b), step, H_, row);
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
