// Lengths, masks and resets of one scan as the one form that kernels read (Schedule in api.h): which rows run at
// which step, and where the state that enters each of them lives. Plain integers, built once per call.
#pragma once
#include <vector>

#include "api.h"

namespace rnnfast {

// What the caller gives, in the sequence's own time. Without `start` the place of (t, b) in an array of the caller's
// is t * B + b; flat ragged input has it at start[b] + t.
struct ScheduleInput {
  Index T, B;
  const Index* lengths;  // (B,); null: T
  const uint8_t* mask;   // null: every step is used
  const uint8_t* reset;  // null: none
  const Index* start;    // (B,); null: not flat
  bool reverse;          // scan from the last step to the first
  // Of each state: a reset at (t, b) takes row (t, b) of its replacement, else row b.
  bool replacement_per_step[kMaxStates];
  bool replaces;  // there is a replacement; else a reset puts zeros in place

  Index at(Index t, Index b) const { return start ? start[b] + t : t * B + b; }
  Index length(Index b) const { return lengths ? lengths[b] : T; }
  bool used(Index t, Index b) const { return t < length(b) && (!mask || mask[at(t, b)]); }
  // A reset on the border between steps t-1 and t.
  bool resets(Index t, Index b) const { return reset && t < length(b) && reset[at(t, b)]; }
};

class ScheduleTable {
 public:
  ScheduleTable() = default;
  explicit ScheduleTable(const ScheduleInput& in);
  // The tables as kernels read them; valid as long as this object stays where it is.
  Schedule view() const;
  Index places() const { return first_.empty() ? 0 : first_.back(); }

 private:
  std::vector<Index> first_, lengths_, load_, resets_, reset_source_[kMaxStates];
  std::vector<int32_t> row_, reset_row_;
  std::vector<Source> source_, last_;
  Index replacements_ = 0;
};

}  // namespace rnnfast
