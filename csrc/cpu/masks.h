// The masks of one member of a scan, row by row: recurrent dropout and zoneout, drawn when a step needs them. Those of
// a step are noted on the tape, which backward reads.
#pragma once
#include "random.h"
#include "stage.h"

namespace rnnfast {
namespace {

class MaskRows {
 public:
  static RNNFAST_INLINE bool drops(const Options<Real>& o) { return o.dropout > 0; }
  // (B, notes) shared by the team, for masks that are one per sequence; else null.
  static RNNFAST_INLINE Real* room_of_sequences(Carver& shared, const Options<Real>& o, Index B,
                                                Index H) {
    const bool some = drops(o) && !o.dropout_per_step;
    return some ? shared.take<Real>(B * mask_notes<Real>(H, kLanes)) : nullptr;
  }

  // of_sequence: that room. noted: of the tape, null without
  // one; `again`: they are there to be read.
  MaskRows(Carver& own, const Options<Real>& o, Index B, Index H, int S, Real* of_sequence,
           Real* noted, bool again)
      : key_(&o.random),
        H_(H),
        size_(mask_notes<Real>(H, kLanes)),
        of_step_(o.step_masks()),
        again_(again),
        noted_(noted),
        of_sequence_(of_sequence) {
    int number = 0;
    const auto use = [&](Purpose purpose, int which, double p, bool per_step) {
      Use u{};
      if (per_step) u.number = number++;
      if (per_step && again) return u;
      u.rows = per_step ? own.take<Real>(B * size_) : nullptr;
      // In scratch, for a plain call is over before these could be set up. With a null base nothing is written.
      u.source = own.take<MaskSource>(1);
      Wide* const scratch = own.take<Wide>(MaskSource::scratch_size(H));
      if (u.source) *u.source = MaskSource(o.random, purpose, which, p, H, scratch);
      return u;
    };
    if (drops(o)) dropout_ = use(Purpose::recurrent, 0, o.dropout, o.dropout_per_step);
    for (int s = 0; s < S; ++s)
      if (o.draws_zoneout(s)) zoneout_[s] = use(Purpose::zoneout, s, o.zoneout[s], true);
  }
  // Another member notes the same rows.
  void note_nothing() { noted_ = nullptr; }
  // The mask of one sequence, before the first step.
  void of_sequence(Index b) const {
    dropout_.source->note(key_->row_of(b), 0, H_, of_sequence_ + b * size_);
  }
  // The note of what row b drops at step t, whose place is p, of the operand it reads; r: its slot in the step.
  RNNFAST_INLINE const Real* dropout(Index r, Index p, Index t, Index b) const {
    return of_sequence_ ? of_sequence_ + b * size_ : of_step(dropout_, r, p, t, b);
  }
  // What stays becomes the new state.
  RNNFAST_INLINE const Real* zoneout(int s, Index r, Index p, Index t, Index b) const {
    return of_step(zoneout_[s], r, p, t, b);
  }

 private:
  struct Use {
    MaskSource* source;
    int number;  // among the masks that each step draws
    Real* rows;  // (B, notes) of a step that are not noted on a tape
  };
  const MaskKey* key_;
  Index H_, size_;  // units, elements of their note
  int of_step_;     // masks that each step draws
  bool again_;
  Real* noted_;  // (places, of_step, notes)
  Real* of_sequence_;
  Use dropout_, zoneout_[kMaxStates];

  RNNFAST_INLINE const Real* of_step(const Use& use, Index r, Index p, Index t, Index b) const {
    Real* const note = noted_ ? noted_ + (p * of_step_ + use.number) * size_ : use.rows + r * size_;
    if (!again_) use.source->note(key_->row_of(b), key_->step_of(t), H_, note);
    return note;
  }
};

// Zoneout of one state: what each unit has of its old value. Null and 0: nothing.
struct Zoneout {
  const Real* const* notes;  // of each row: what stays is new, the rest old
  Real expected;             // of every unit
  static RNNFAST_INLINE Zoneout of(const Options<Real>& o, int s, const Real* const* notes) {
    return {notes, o.zoneout_draws ? 0 : Real(o.zoneout[s])};
  }
  RNNFAST_INLINE explicit operator bool() const { return notes || expected > 0; }
  // The old and the new, put together.
  RNNFAST_INLINE Vec blend(Index row, Index unit, Vec old, Vec fresh) const {
    if (notes) return noted(notes[row], unit) ? fresh.v : old.v;
    const Vec z(raw_set(expected));
    return z * old + (Vec(1) - z) * fresh;
  }
};

// to = what stays of H elements of a row, scaled.
RNNFAST_INLINE void drop_row(const Real* from, const Real* note, Real scale, Index H, Real* to) {
  for (Index j = 0, v = 0; j < H; j += kLanes, ++v) {
    const int lanes = int(min_of(kLanes, H - j));
    raw_store(to + j, drop(raw_load(from + j, lanes), noted(note, v), scale), lanes);
  }
}

}  // namespace
}  // namespace rnnfast
