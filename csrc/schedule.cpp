#include "schedule.h"

namespace rnnfast {

ScheduleTable::ScheduleTable(const ScheduleInput& in) {
  const Index T = in.T, B = in.B;
  first_.reserve(size_t(T) + 1);
  first_.push_back(0);
  load_.assign(size_t(B) + 1, 0);
  last_.assign(size_t(B), Source{kInitialState, 0});
  if (in.lengths) lengths_.assign(in.lengths, in.lengths + B);
  if (in.reset) resets_.push_back(0);
  for (Index t = 0; t < T; ++t) {
    const Index time = in.reverse ? T - 1 - t : t;
    // Scanned backwards, step `time` is entered over the border between it and time + 1; there is none after the last.
    const Index border = in.reverse ? time + 1 : time;
    for (Index b = 0; b < B; ++b) {
      if (in.reset && border < T && in.resets(border, b)) {
        const Index number = in.replaces ? Index(reset_row_.size()) : 0;
        last_[size_t(b)] = Source{kReplacedState, number};
        reset_row_.push_back(int32_t(b));
        for (int s = 0; s < kMaxStates; ++s)
          reset_source_[s].push_back(in.replacement_per_step[s] ? in.at(border, b) : b);
      }
      if (!in.used(time, b)) continue;
      source_.push_back(last_[size_t(b)]);
      last_[size_t(b)] = Source{t, Index(row_.size())};
      row_.push_back(int32_t(b));
      ++load_[size_t(b) + 1];
    }
    first_.push_back(Index(row_.size()));
    if (in.reset) resets_.push_back(Index(reset_row_.size()));
  }
  for (Index b = 0; b < B; ++b) load_[size_t(b) + 1] += load_[size_t(b)];
  if (in.reset) replacements_ = in.replaces ? Index(reset_row_.size()) : 1;
}

Schedule ScheduleTable::view() const {
  if (first_.empty()) return Schedule{};
  Schedule s{};
  s.first = first_.data();
  s.row = row_.data();
  s.source = source_.data();
  s.last = last_.data();
  s.lengths = lengths_.empty() ? nullptr : lengths_.data();
  s.load = load_.data();
  s.resets = resets_.empty() ? nullptr : resets_.data();
  s.reset_row = reset_row_.data();
  for (int k = 0; k < kMaxStates; ++k) s.reset_source[k] = reset_source_[k].data();
  s.replacements = replacements_;
  return s;
}

}  // namespace rnnfast
