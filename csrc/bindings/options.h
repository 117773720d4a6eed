// The options of one call (rnnfast/_scan_options.py), read and checked, and made into what kernels take.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "../schedule.h"
#include "arrays.h"
#include "cell_info.h"

namespace rnnfast {

struct CallOptions {
  bool given = false;          // false: a plain call, and nothing below matters
  bool flat = false;           // cu_seqlens: x is (N, I)
  std::vector<Index> start;    // (B+1,) first row of each sequence, and N
  std::vector<Index> lengths;  // (B,), empty: T
  bool scheduled = false;      // some step of some row is unused, reset, or flat
  ScheduleTable schedule[2];   // by direction
  // What a reset puts in place of each state.
  struct Replacement {
    bool given = false;
    bool per_step = false;  // an array with a row for each place, else one for each sequence
    Index rows = 0;         // of one direction
    Index steps = 0;        // second axis, where the array is not flat
  };
  Replacement replacement[kMaxStates];
  std::vector<uint32_t> row_ids;  // (B,), empty: b
  bool hold = false, per_step = false, draws = false, reverse = false;
  double dropout = 0, zoneout[kMaxStates] = {}, weight_drop = 0;
  double cell_clip = 0, gradient_clip = 0;
  Index burn_in = 0, tbptt = 0;
  uint64_t seed = 0;
  uint32_t layer = 0, t0 = 0;

  bool reversed(int dir) const { return dir == 1 || reverse; }
  MaskKey random(Index T, int dir) const;
  // Whether scan step t of row b is a place of the caller's arrays: a flat one has none behind a sequence's end.
  bool inside(int dir, Index T, Index t, Index b) const {
    return !flat || (reversed(dir) ? T - 1 - t : t) < lengths[size_t(b)];
  }
  bool replaces() const { return replacement[0].given || replacement[1].given; }
  const Index* starts() const { return flat ? start.data() : nullptr; }
  // Whether dx and the pads of y need filling: some places of the caller's arrays are not written by kernels.
  bool leaves_gaps() const { return scheduled || burn_in > 0; }
};

// The options of a call without any.
inline const CallOptions kPlainCall;

// A float or an int in a range. Other numbers would have to be asked, which runs Python in the middle of a call, where
// arrays that were looked at already could change. False where it is neither.
bool parse_real(py::handle h, double least, double most, double& out);
bool parse_whole(py::handle h, uint64_t most, uint64_t& out);
constexpr uint64_t kMostWhole = uint64_t(1) << 62;  // of sizes and counts of steps

// Reads a ScanOptions tuple. x_rows are the axes before the features: (T, B), or (N,) where flat; sets T and B in d.
// False where anything is not as contracted.
bool parse_options(py::handle h, const CellInfo& cell, int D, const View& x, bool dense, Dims& d,
                   CallOptions& out);

// The replacement arrays of ScanOptions, (D, rows, H) each or null.
template <class Real>
bool parse_replacement(py::handle h, int S, int D, Index H, const Dims& d, const CallOptions& o,
                       const Real* (&out)[kMaxStates]);

// What a job of one direction takes.
template <class Real>
Options<Real> options_of(const CallOptions& o, const CellInfo& cell, Index T, int dir) {
  Options<Real> out{};
  out.params[0] = o.cell_clip > 0 ? Real(o.cell_clip) : std::numeric_limits<Real>::infinity();
  if (!o.given) return out;
  if (o.scheduled) out.schedule = o.schedule[dir].view();
  out.random = o.random(T, dir);
  out.dropout = o.dropout;
  out.dropout_per_step = o.per_step;
  for (int s = 0; s < kMaxStates; ++s) out.zoneout[s] = o.zoneout[s];
  out.zoneout_draws = o.draws;
  out.has_params = cell.P > 0 && o.cell_clip > 0;
  // A bound that is too small for Real still is one, and 0 would be none; kernels take denormals for zero.
  if (o.gradient_clip > 0)
    out.gradient_clip = std::max(Real(o.gradient_clip), std::numeric_limits<Real>::min());
  out.burn_in = o.burn_in;
  out.tbptt = o.tbptt;
  return out;
}

}  // namespace rnnfast
