// Places of the caller's arrays that no step uses: what y holds there, and where gradients that come in there go.
// Kernels neither read nor write them.
#pragma once
#include <algorithm>
#include <cstring>

#include "options.h"

namespace rnnfast {

// f(t, b, held, since) for every unused place of one direction in scan order: the state that the row holds there, and
// the last border or step that it has come over. Behind the end of a sequence a flat array has no places.
template <class F>
void each_gap(const CallOptions& o, int dir, const Dims& d, F&& f) {
  const Schedule s = o.schedule[dir].view();
  std::vector<Source> held(size_t(d.B), Source{kInitialState, 0});
  std::vector<Index> since(size_t(d.B), 0);
  Index full = -1;  // the last step, if all rows used it: what they hold is not written down then
  for (Index t = 0; t < d.T; ++t) {
    if (s.first[t + 1] - s.first[t] == d.B) {
      full = t;
      continue;
    }
    if (full >= 0) {
      std::fill(held.begin(), held.end(), Source{full, 0});  // the row finds its place
      std::fill(since.begin(), since.end(), full);
      full = -1;
    }
    if (s.resets)
      for (Index k = s.resets[t]; k < s.resets[t + 1]; ++k) {
        held[size_t(s.reset_row[k])] = Source{kReplacedState, k};
        since[size_t(s.reset_row[k])] = t;
      }
    Index p = s.first[t];
    for (Index b = 0; b < d.B; ++b) {
      if (p < s.first[t + 1] && s.row[p] == b) {
        held[size_t(b)] = Source{t, p++};
        since[size_t(b)] = t;
      } else if (o.inside(dir, d.T, t, b)) {
        f(t, b, held[size_t(b)], since[size_t(b)]);
      }
    }
  }
}

// One state of one direction, wherever it may lie: rows of H.
template <class Real>
struct StateRows {
  Sequence<Real> steps;  // by scan step
  Real* initial;         // (B, H); null: none
  Real* replacement;     // (rows, H); null: none
  const Index* reset_source;
  Index H;
  Real* row(Source at, Index b) const {
    if (at.step >= 0) return steps.row(at.step, b);
    if (at.step == kInitialState) return initial ? initial + b * H : nullptr;
    return replacement ? replacement + reset_source[at.place] * H : nullptr;
  }
};

// Unused places of `rows.steps` become zero, or the held state.
template <class Real>
void fill_gaps(const CallOptions& o, int dir, const Dims& d, const StateRows<Real>& rows) {
  each_gap(o, dir, d, [&](Index t, Index b, Source held, Index) {
    const Real* from = o.hold ? rows.row(held, b) : nullptr;
    Real* to = rows.steps.row(t, b);
    const size_t bytes = size_t(rows.H) * sizeof(Real);
    if (from) std::memcpy(to, from, bytes);
    else std::memset(to, 0, bytes);
  });
}

// Zero where backward writes nothing: unused places, and steps that only belong to the forward pass.
template <class Real>
void clear_gaps(const CallOptions& o, int dir, const Dims& d, const Sequence<Real>& rows, Index n) {
  const size_t bytes = size_t(n) * sizeof(Real);
  for (Index t = 0; t < d.T && t < o.burn_in; ++t)
    for (Index b = 0; b < d.B; ++b)
      if (o.inside(dir, d.T, t, b)) std::memset(rows.row(t, b), 0, bytes);
  if (o.scheduled)
    each_gap(o, dir, d,
             [&](Index t, Index b, Source, Index) { std::memset(rows.row(t, b), 0, bytes); });
}

// What comes in at unused places is added to the gradient of the state that was held there, unless the gradient is
// cut in between.
template <class Real>
void fold_gaps(const CallOptions& o, int dir, const Dims& d, const StateRows<Real>& rows) {
  each_gap(o, dir, d, [&](Index t, Index b, Source held, Index since) {
    if (since < o.burn_in) return;
    // The last border that a row is cut at is the one before its last step.
    const Index last = o.lengths.empty() ? t : std::min(t, o.lengths[size_t(b)] - 1);
    if (o.tbptt > 0 && last > since && last / o.tbptt != since / o.tbptt) return;
    const Real* from = rows.steps.row(t, b);
    if (Real* to = rows.row(held, b))
      for (Index j = 0; j < rows.H; ++j) to[j] += from[j];
  });
}

}  // namespace rnnfast
