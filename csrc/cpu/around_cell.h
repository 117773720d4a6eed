// What options do around the cell in a backward step: before it to what arrives from the step after and from outside,
// behind it to what is sent on. In the plain call the former is the product with R^T and the elementwise path, whose sum
// the cell's backward takes, and the latter is what the cell leaves. All else is done by loops over the part of the product
// that is ready, in L1: as branches among the cell's arithmetic they cost its registers, taken or not. Backward of an LSTM
// at (128, 8, 64, 64) took longer than the plain one by, in microseconds, then and now: with recurrent dropout 56 and 20, a bound
// 55 and 14, zoneout 72 and 43, gradients into states 54 and 22. One loop that asks at each vector what there is to do
// took 62 with zoneout, 31 with gradients into states (AVX-512, Emerald Rapids, one thread).
#pragma once
#include "masks.h"

namespace rnnfast {
namespace {

// n elements of a packed row from d on: f(j, a vector of them), j elements behind d, is what becomes of it.
template <class F>
RNNFAST_INLINE void each_vector(Real* d, Index n, F&& f) {
  for (Index j = 0; j < n; j += kLanes) raw_store(d + j, f(j, Vec(raw_load(d + j))).v);
}

// The units of a finished part of a product (see Epilogue), padded: n from `first` on, `width` apart in its rows.
struct PartUnits {
  Index first, width, n;
  RNNFAST_INLINE PartUnits(Index H, int NV, Index panel, Index panels)
      : first(panel * NV * kLanes),
        width(panels * NV * kLanes),
        n(min_of(width, unit_vectors(H) * kLanes - first)) {}
};

// Tables have one entry per row of the step; rows said to be (H,) are as they were given, others packed.
struct AroundCell {
  Index H;
  int NV, S;
  Real* const*
      carry[kMaxStates];       // the elementwise paths, and where sums made here wait for the cell
  const Real* const* dropped;  // recurrent dropout: notes of what stayed of h; null: all
  Real scale;                  // of what stayed
  const Real* bound;           // on the sum of h, by row; null: none
  // Where the sums belong to states that a reset put in place, or to the initial ones, and not to this step: (H,) rows
  // that they go to, of a row all of them or none. Null: nowhere.
  Real* const* leaves[kMaxStates];
  bool adds;                               // to what is there
  const Real* const* dstates[kMaxStates];  // from outside, (H,) rows; null: zero
  const Real* const* dy;                   // the same, of h; null: the cell takes it
  Zoneout zoneout[kMaxStates];
  Real* kept[kMaxStates];  // rows for what passes the cell by zoneout; null: nothing
  Real sent_bound;  // on all states but h, which is bounded when it has been received; 0: none

  // Before the cell; with `leaves` of all rows all that a product is for, as its Epilogue. Where h has a sum, dh is zero
  // afterwards.
  RNNFAST_INLINE bool receives() const {
    return dropped || sums() || leaves[0] || dstates[1] || kept[1];
  }
  RNNFAST_NOINLINE void operator()(Index panel, Index panels, Index row, Index rows,
                                   Real* dh) const {
    const PartUnits units(H, NV, panel, panels);
    const Index first = units.first, n = units.n;
    for (Index r = row; r < row + rows; ++r, dh += units.width) {
      if (dropped)
        each_vector(dh, n, [&](Index j, Vec v) RNNFAST_INLINE_LAMBDA {
          return Vec(drop(v.v, noted(dropped[r], (first + j) / kLanes), scale));
        });
      const bool leaving = leaves[0] && leaves[0][r];
      if (leaving || sums()) {
        each_vector(carry[0][r] + first, n, [&](Index j, Vec v) RNNFAST_INLINE_LAMBDA {
          v = v + Vec(raw_load(dh + j));
          raw_store(dh + j, Raw{});
          return bound ? clamp(v, Vec(raw_set(bound[r]))) : v;
        });
      }
      for (int s = 0; s < S; ++s) {
        Real* const d = carry[s][r] + first;
        if (leaving) leave(d, n, leaves[s][r] + first, H - first);
        if (dstates[s]) add(d, n, dstates[s][r] + first, H - first);
        if (s == 0 && dy) add(d, n, dy[r] + first, H - first);
        if (kept[s]) pass_by(s, r, first, n);
      }
    }
  }

  // Behind the cell.
  RNNFAST_INLINE bool sends() const { return kept[0] || kept[1] || (S > 1 && sent_bound > 0); }
  RNNFAST_NOINLINE void send(Index panel, Index panels, Index row, Index rows) const {
    const PartUnits units(H, NV, panel, panels);
    for (Index r = row; r < row + rows; ++r)
      for (int s = 0; s < S; ++s) {
        Real* const d = carry[s][r] + units.first;
        if (kept[s])
          each_vector(d, units.n,
                      [past = past(s, r) + units.first](Index j, Vec v)
                          RNNFAST_INLINE_LAMBDA { return v + Vec(raw_load(past + j)); });
        if (s > 0 && sent_bound > 0)
          each_vector(d, units.n, [&](Index, Vec v) RNNFAST_INLINE_LAMBDA {
            return clamp(v, Vec(raw_set(sent_bound)));
          });
      }
  }

 private:
  // Whether each row has a sum of h.
  RNNFAST_INLINE bool sums() const { return bound || dstates[0] || dy || kept[0]; }
  RNNFAST_INLINE Real* past(int s, Index r) const { return kept[s] + r * unit_vectors(H) * kLanes; }
  static RNNFAST_INLINE int lanes(Index left) { return int(min_of(kLanes, left)); }
  static RNNFAST_INLINE void add(Real* d, Index n, const Real* from, Index left) {
    each_vector(d, n, [&](Index j, Vec v) RNNFAST_INLINE_LAMBDA {
      return v + Vec(raw_load(from + j, lanes(left - j)));
    });
  }
  RNNFAST_INLINE void leave(Real* d, Index n, Real* to, Index left) const {
    each_vector(d, n, [&](Index j, Vec v) RNNFAST_INLINE_LAMBDA {
      const int some = lanes(left - j);
      raw_store(to + j, (adds ? Vec(raw_load(to + j, some)) + v : v).v, some);
      return Vec(Raw{});
    });
  }
  RNNFAST_INLINE void pass_by(int s, Index r, Index first, Index n) const {
    Real* const to = past(s, r) + first;
    each_vector(carry[s][r] + first, n, [&](Index j, Vec v) RNNFAST_INLINE_LAMBDA {
      const Index unit = (first + j) / kLanes;
      raw_store(to + j, zoneout[s].blend(r, unit, v, Vec(Raw{})).v);
      return zoneout[s].blend(r, unit, Vec(Raw{}), v);
    });
  }
};

}  // namespace
}  // namespace rnnfast
