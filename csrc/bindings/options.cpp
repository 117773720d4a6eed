#include "options.h"

namespace rnnfast {
namespace {

// Positions in ScanOptions (rnnfast/_scan_options.py).
enum Field {
  kLengths,
  kMask,
  kCuSeqlens,
  kReset,
  kResetState,
  kHold,
  kRecurrentDropout,
  kPerStep,
  kZoneout,
  kTraining,
  kWeightDrop,
  kCellClip,
  kGradientClip,
  kBurnIn,
  kTbptt,
  kSeed,
  kLayer,
  kT0,
  kRowIds,
  kReverse,
  kFields
};

PyObject* field(py::handle h, Field f) { return PyTuple_GET_ITEM(h.ptr(), f); }

// An array of one type and shape, C-contiguous; data stays null for None. False where it is neither.
bool plain_array(py::handle h, int type, std::initializer_list<Index> shape, const void*& data) {
  data = nullptr;
  if (h.is_none()) return true;
  View v;
  if (!view_of(h, v) || v.type != type || !v.contiguous() || v.nd != int(shape.size()))
    return false;
  int axis = 0;
  for (Index n : shape)
    if (v.shape[axis++] != n) return false;
  data = v.data;
  return true;
}

bool int64_array(py::handle h, Index count, const int64_t*& data) {
  data = nullptr;
  if (h.is_none()) return true;
  View v;
  if (!view_of(h, v) || !py::isinstance<py::array_t<int64_t>>(h) || !v.contiguous() || v.nd != 1 ||
      (count >= 0 && v.shape[0] != count))
    return false;
  data = static_cast<const int64_t*>(v.data);
  return true;
}

bool flag(py::handle h, bool& out) {
  out = h.ptr() == Py_True;
  return out || h.ptr() == Py_False;
}

bool parse_lengths(py::handle h, const View& x, Dims& d, CallOptions& out) {
  const int64_t *cu = nullptr, *lengths = nullptr;
  if (!int64_array(field(h, kCuSeqlens), -1, cu)) return false;
  if (cu) {
    View v;
    view_of(field(h, kCuSeqlens), v);
    const Index B = v.shape[0] - 1, N = x.shape[0];
    if (B < 0 || cu[0] != 0 || cu[B] != N) return false;
    d.B = B;
    d.T = 0;
    out.flat = true;
    out.start.assign(cu, cu + B + 1);
    for (Index b = 0; b < B; ++b) {
      const Index n = cu[b + 1] - cu[b];
      if (n < 0) return false;
      out.lengths.push_back(n);
      if (n > d.T) d.T = n;
    }
    if (field(h, kLengths) != Py_None) return false;
    return true;
  }
  if (!int64_array(field(h, kLengths), d.B, lengths)) return false;
  if (lengths) {
    for (Index b = 0; b < d.B; ++b)
      if (lengths[b] < 0 || lengths[b] > d.T) return false;
    out.lengths.assign(lengths, lengths + d.B);
  }
  return true;
}

}  // namespace

bool parse_real(py::handle h, double least, double most, double& out) {
  if (PyFloat_Check(h.ptr())) {
    out = PyFloat_AS_DOUBLE(h.ptr());
  } else if (PyLong_Check(h.ptr())) {
    out = PyLong_AsDouble(h.ptr());
    if (PyErr_Occurred()) {
      PyErr_Clear();
      return false;
    }
  } else {
    return false;
  }
  return out >= least && out <= most;
}

bool parse_whole(py::handle h, uint64_t most, uint64_t& out) {
  if (!PyLong_Check(h.ptr())) return false;
  out = PyLong_AsUnsignedLongLong(h.ptr());
  if (PyErr_Occurred()) {
    PyErr_Clear();
    return false;
  }
  return out <= most;
}

MaskKey CallOptions::random(Index T, int dir) const {
  const bool back = reversed(dir);
  // The last step comes first in a reversed scan.
  const uint32_t first = back ? t0 + uint32_t(T) - 1 : t0;
  return {seed,
          layer,
          back ? 1u : 0u,
          first,
          back ? uint32_t(-1) : 1u,
          row_ids.empty() ? nullptr : row_ids.data()};
}

bool parse_options(py::handle h, const CellInfo& cell, int D, const View& x, bool dense, Dims& d,
                   CallOptions& out) {
  if (!PyTuple_Check(h.ptr()) || PyTuple_GET_SIZE(h.ptr()) != kFields) return false;
  out.given = true;
  const bool flat = field(h, kCuSeqlens) != Py_None;
  if (x.nd != (flat ? 1 : 2) + (dense ? 1 : 0)) return false;
  if (!flat) {
    d.T = x.shape[0];
    d.B = x.shape[1];
  }
  if (!parse_lengths(h, x, d, out)) return false;

  const void *mask, *reset, *row_ids;
  const auto shaped = [&](Field f, const void*& data) {
    return flat ? plain_array(field(h, f), kBool, {x.shape[0]}, data)
                : plain_array(field(h, f), kBool, {d.T, d.B}, data);
  };
  if (!shaped(kMask, mask) || !shaped(kReset, reset)) return false;
  {
    if (!plain_array(field(h, kRowIds), kUint32, {d.B}, row_ids)) return false;
    if (row_ids) {
      const auto* ids = static_cast<const uint32_t*>(row_ids);
      out.row_ids.assign(ids, ids + d.B);
    }
  }
  uint64_t burn_in, tbptt, layer, t0;
  constexpr double kLargest = std::numeric_limits<double>::max();
  if (!flag(field(h, kHold), out.hold) || !flag(field(h, kPerStep), out.per_step) ||
      !flag(field(h, kTraining), out.draws) || !flag(field(h, kReverse), out.reverse) ||
      !parse_real(field(h, kRecurrentDropout), 0, 1, out.dropout) ||
      !parse_real(field(h, kWeightDrop), 0, 1, out.weight_drop) ||
      !parse_real(field(h, kCellClip), 0, kLargest, out.cell_clip) ||
      !parse_real(field(h, kGradientClip), 0, kLargest, out.gradient_clip) ||
      !parse_whole(field(h, kBurnIn), kMostWhole, burn_in) ||
      !parse_whole(field(h, kTbptt), kMostWhole, tbptt) ||
      !parse_whole(field(h, kSeed), ~uint64_t(0), out.seed) ||
      !parse_whole(field(h, kLayer), 0xffff, layer) || !parse_whole(field(h, kT0), 0xffffffffu, t0))
    return false;
  if (out.cell_clip > 0 && cell.P == 0) return false;
  if ((burn_in || tbptt) && (D > 1 || out.reverse)) return false;
  if (out.reverse && D > 1) return false;
  out.burn_in = Index(burn_in);
  out.tbptt = Index(tbptt);
  out.layer = uint32_t(layer);
  out.t0 = uint32_t(t0);
  py::handle zoneout = field(h, kZoneout);
  if (!zoneout.is_none()) {
    if (!PyTuple_Check(zoneout.ptr()) || PyTuple_GET_SIZE(zoneout.ptr()) != cell.S) return false;
    for (int s = 0; s < cell.S; ++s)
      if (!parse_real(PyTuple_GET_ITEM(zoneout.ptr(), s), 0, 1, out.zoneout[s])) return false;
  }

  py::handle state = field(h, kResetState);
  if (!state.is_none()) {
    if (!PyTuple_Check(state.ptr()) || PyTuple_GET_SIZE(state.ptr()) != cell.S) return false;
    for (int s = 0; s < cell.S; ++s) {
      py::handle entry = PyTuple_GET_ITEM(state.ptr(), s);
      if (entry.is_none()) continue;
      View v;
      if (!view_of(entry, v)) return false;
      const bool all_steps = flat ? v.nd == 3 : (v.nd == 4 && v.shape[1] != 1) || d.T == 1;
      CallOptions::Replacement& r = out.replacement[s];
      r.given = true;
      r.per_step = all_steps;
      r.rows = all_steps ? (flat ? x.shape[0] : d.T * d.B) : d.B;
      r.steps = v.nd == 4 ? v.shape[1] : 0;
    }
  }

  bool shortened = false;
  for (Index n : out.lengths) shortened |= n != d.T;
  out.scheduled = flat || shortened || mask || reset;
  if (out.scheduled) {
    ScheduleInput in{};
    in.T = d.T;
    in.B = d.B;
    in.lengths = out.lengths.empty() ? nullptr : out.lengths.data();
    in.mask = static_cast<const uint8_t*>(mask);
    in.reset = static_cast<const uint8_t*>(reset);
    in.start = out.starts();
    for (int s = 0; s < kMaxStates; ++s) in.replacement_per_step[s] = out.replacement[s].per_step;
    in.replaces = out.replaces();
    for (int dir = 0; dir < D; ++dir) {
      in.reverse = out.reversed(dir);
      out.schedule[dir] = ScheduleTable(in);
    }
  }
  return true;
}

template <class Real>
bool parse_replacement(py::handle h, int S, int D, Index H, const Dims& d, const CallOptions& o,
                       const Real* (&out)[kMaxStates]) {
  for (auto& p : out) p = nullptr;
  py::handle state = field(h, kResetState);
  if (state.is_none()) return true;
  for (int s = 0; s < S; ++s) {
    py::handle entry = PyTuple_GET_ITEM(state.ptr(), s);
    if (entry.is_none()) continue;
    View v;
    view_of(entry, v);
    const bool flat_steps = o.flat && v.nd == 3;
    const bool fits =
        flat_steps ? required_array<Real>(entry, {D, o.start.back(), H}, out[s])
                   : v.nd == 4 && required_array<Real>(entry, {D, v.shape[1], d.B, H}, out[s]) &&
                         v.shape[1] * d.B == o.replacement[s].rows;
    if (!fits) return false;
  }
  return true;
}
template bool parse_replacement(py::handle, int, int, Index, const Dims&, const CallOptions&,
                                const float* (&)[kMaxStates]);
template bool parse_replacement(py::handle, int, int, Index, const Dims&, const CallOptions&,
                                const double* (&)[kMaxStates]);

}  // namespace rnnfast
