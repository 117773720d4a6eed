// What the jobs of forward and backward are made of: the caller's sequences, states and indices as kernels read them.
#pragma once
#include "call.h"

namespace rnnfast {

inline double flops_of(CellId cell, const Dims& d, int D) {
  return 2.0 * D * double(d.T) * double(d.B) * kCells[int(cell)].G * double(d.H) *
         double(d.I + d.H);
}

// The initial (or final) states, or their gradients: None, or S entries of (D, B, H) or None.
template <class Real>
bool parse_states(py::handle h, int S, Index D, const Dims& d, const Real* (&out)[kMaxStates]) {
  for (auto& p : out) p = nullptr;
  if (h.is_none()) return true;
  if (!PyTuple_Check(h.ptr()) || PyTuple_GET_SIZE(h.ptr()) != S) return false;
  for (int s = 0; s < S; ++s)
    if (!optional_array<Real>(PyTuple_GET_ITEM(h.ptr(), s), {D, d.B, d.H}, out[s])) return false;
  return true;
}

// A sequence of n features: (T, B, n), or (N, n) where flat.
template <class Real>
bool steps(const View& v, const CallOptions& o, const Dims& d, Index n, Sequence<Real>& out) {
  if (v.type != type_number<std::remove_const_t<Real>>() || v.nd != (o.flat ? 2 : 3) ||
      v.shape[v.nd - 1] != n)
    return false;
  if (o.flat) return v.shape[0] == o.start.back() && flat_sequence(v, o.starts(), out);
  return v.shape[0] == d.T && v.shape[1] == d.B && sequence(v, out);
}

// The shape of an array of this call with n features.
template <class Real>
py::array_t<Real> empty_steps(const CallOptions& o, const Dims& d, Index n) {
  if (o.flat) return empty<Real>({o.start.back(), n});
  return empty<Real>({d.T, d.B, n});
}
template <class Real>
Sequence<Real> dense_steps(const CallOptions& o, const Dims& d, Index n, Real* base) {
  if (o.flat) return {base, n, n, o.starts()};
  return {base, d.B * n, n};
}

inline IndexInput index_input(const IndexTable& table, const CallOptions& o, const Dims& d,
                              bool reverse) {
  const Sequence<const int32_t> slot =
      o.flat ? Sequence<const int32_t>{table.slot.data(), 1, 1, o.starts()}
             : Sequence<const int32_t>{table.slot.data(), d.B, 1};
  return {true, direction(slot, d.T, 0, reverse), table.distinct.data(),
          Index(table.distinct.size())};
}

// R with weight drop, or dR from that of the dropped R; rows of H.
template <class Real>
void drop_weights(const CallOptions& o, const Dims& d, int dir, Index rows, const Real* from,
                  Real* to, int threads) {
  std::vector<const Real*> in(static_cast<size_t>(rows));
  std::vector<Real*> out(static_cast<size_t>(rows));
  std::vector<uint32_t> ids(static_cast<size_t>(rows));
  for (Index r = 0; r < rows; ++r) {
    in[size_t(r)] = from + r * d.H;
    out[size_t(r)] = to + r * d.H;
    ids[size_t(r)] = uint32_t(r);
  }
  MaskedRows<Real> args{};
  args.rows = rows;
  args.n = d.H;
  args.in = in.data();
  args.out = out.data();
  args.row_id = ids.data();
  args.purpose = Purpose::weight_drop;
  args.p = o.weight_drop;
  args.random = o.random(d.T, dir);
  run_masked_rows(args, threads);
}

}  // namespace rnnfast
