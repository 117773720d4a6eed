// The incoming-state table: for each place (a used step t of row b), where the state that enters lives, as
//   operand   the row that R multiplies, and that dR's sum uses;
//   state(s)  the row that the cell's elementwise part reads.
// They are one row unless recurrent dropout changes what R sees but not what z*h keeps. A reset, a mask or an
// initial state only changes where a row points; neither is y shifted by one.
#pragma once
#include "stage.h"

namespace rnnfast {
namespace {

// The order of places: by step, then by row.
struct Walk {
  Index T, B;
  const Schedule& schedule;

  RNNFAST_INLINE Index first(Index t) const { return schedule.first ? schedule.first[t] : t * B; }
  RNNFAST_INLINE Index places() const { return first(T); }

  // The places of step t whose rows lie in a range.
  RNNFAST_INLINE Range at(Index t, Range rows) const {
    if (!schedule.first) return {t * B + rows.begin, t * B + rows.end};
    return {lower_bound(t, rows.begin), lower_bound(t, rows.end)};
  }
  // Whether row b is used at step t.
  RNNFAST_INLINE bool uses(Index t, Index b) const {
    if (!schedule.first) return true;
    const Index place = lower_bound(t, b);
    return place < schedule.first[t + 1] && schedule.row[place] == b;
  }
  // f(p, b, source) for places of step t: the row, and where the state that enters is. Two loops, since in the plain
  // one the source is the same for all rows.
  template <class F>
  RNNFAST_INLINE void each(Index t, Range places, F&& f) const {
    if (schedule.first) {
      for (Index p = places.begin; p < places.end; ++p)
        f(p, Index(schedule.row[p]), schedule.source[p]);
    } else if (t == 0) {
      for (Index p = places.begin; p < places.end; ++p) f(p, p, Source{kInitialState, 0});
    } else {
      for (Index p = places.begin; p < places.end; ++p) f(p, p - t * B, Source{t - 1, p - B});
    }
  }
  RNNFAST_INLINE Source last(Index b) const {
    if (schedule.first) return schedule.last[b];
    return T == 0 ? Source{kInitialState, 0} : Source{T - 1, (T - 1) * B + b};
  }

  // Resets on the border before step t, of rows in a range: numbers of resets.
  RNNFAST_INLINE Range resets(Index t, Range rows) const {
    if (!schedule.resets) return {0, 0};
    Index begin = schedule.resets[t], end = schedule.resets[t + 1];
    while (begin < end && schedule.reset_row[begin] < rows.begin) ++begin;
    while (begin < end && schedule.reset_row[end - 1] >= rows.end) --end;
    return {begin, end};
  }

  // A member's share of the rows: equal parts of the work, not of the batch.
  RNNFAST_INLINE Range share_rows(const Member& m) const {
    if (!schedule.first) return share(B, m);
    return {row_at(m.id, m.n), row_at(m.id + 1, m.n)};
  }

  // Steps of a chunk of the time-parallel products: `limit` places at most, at least one step. It must depend
  // on neither the threads nor T, or bits would.
  RNNFAST_INLINE Index chunk_end(Index t0, Index limit) const {
    if (!schedule.first) return min_of(T, t0 + max_of(1, limit / max_of(1, B)));
    Index t1 = t0 + 1;
    while (t1 < T && schedule.first[t1 + 1] - schedule.first[t0] <= limit) ++t1;
    return t1;
  }
  // The most places that a chunk can have.
  RNNFAST_INLINE Index chunk_places(Index limit) const {
    return min_of(max_of(limit, B), places());
  }

 private:
  RNNFAST_INLINE Index lower_bound(Index t, Index b) const {
    Index begin = schedule.first[t], end = schedule.first[t + 1];
    if (b <= 0) return begin;
    if (b >= B) return end;
    while (begin < end) {
      const Index middle = (begin + end) / 2;
      if (schedule.row[middle] < b) begin = middle + 1;
      else end = middle;
    }
    return begin;
  }
  RNNFAST_INLINE Index row_at(Index id, Index n) const {
    if (id == 0) return 0;
    if (id == n) return B;
    const Index target = schedule.load[B] * id / n;
    Index b = 0;
    while (b < B && schedule.load[b] < target) ++b;
    // The nearer border. Of the 8 lengths in benchmarks/options.py it gives a member of two 54 % of the work, the one
    // above would give it 59 %.
    return b > 0 && target - schedule.load[b - 1] < schedule.load[b] - target ? b - 1 : b;
  }
};

struct History {
  const Real* h0;  // (B, H), or one row of zeros with ld_h0 = 0
  Index ld_h0;
  Sequence<const Real> y;  // h of every step
  const Real* c;  // states after the first: packed rows, the initial states first, then by place
  bool in_place;  // nothing is kept: c has one row for each b
  const Real* replaced;  // (replacements, S, units)
  Index B, units;
  int S;

  RNNFAST_INLINE const Real* operand(Source from, Index b) const {
    if (from.step >= 0) return y.row(from.step, b);
    return from.step == kInitialState ? h0 + b * ld_h0 : replaced + from.place * S * units;
  }
  RNNFAST_INLINE const Real* state(int s, Source from, Index b) const {
    if (s == 0) return operand(from, b);
    if (from.step == kReplacedState) return replaced + (from.place * S + s) * units;
    return c + (from.step == kInitialState || in_place ? b : B + from.place) * units;
  }
};

// (B, n) rows with padding lanes zero, into packed rows.
RNNFAST_INLINE void copy_padded(const Real* from, Index H, Real* to) {
  const Index padded = unit_vectors(H) * kLanes;
  if (from) memcpy(to, from, size_t(H) * sizeof(Real));
  else memset(to, 0, size_t(H) * sizeof(Real));
  memset(to + H, 0, size_t(padded - H) * sizeof(Real));
}

}  // namespace
}  // namespace rnnfast
