// What stands between two layers of a stack: dropout, and the residual connection.
#include "jobs.h"

namespace rnnfast {
namespace {

template <class Real>
py::object between_impl(const View& x, py::handle add, Index H, double p, const MaskKey& random,
                        const uint32_t* row_ids, Index B, const CallOptions& o, int threads) {
  const Index width = x.shape[x.nd - 1], D = width / H;
  const Dims d{o.flat ? 0 : x.shape[0], B, width, H};
  Sequence<const Real> in, sum{nullptr, 0, 0};
  if (!steps(x, o, d, width, in)) return py::none();
  if (!add.is_none()) {
    View v;
    if (!view_of(add, v) || !steps(v, o, d, width, sum)) return py::none();
  }
  auto array = empty_steps<Real>(o, d, width);
  const Sequence<Real> out = dense_steps(o, d, width, array.mutable_data());
  const Index rows = o.flat ? o.start.back() : d.T * B;
  std::vector<const Real*> from, plus;
  std::vector<Real*> to;
  std::vector<uint32_t> ids, step;
  const auto push = [&](Index t, Index b) {
    from.push_back(in.row(t, b));
    if (sum.base) plus.push_back(sum.row(t, b));
    to.push_back(out.row(t, b));
    ids.push_back(row_ids ? row_ids[b] : uint32_t(b));
    step.push_back(random.first_step + uint32_t(t));
  };
  from.reserve(size_t(rows));
  to.reserve(size_t(rows));
  if (o.flat) {
    for (Index b = 0; b < B; ++b)
      for (Index t = 0; t < o.start[size_t(b) + 1] - o.start[size_t(b)]; ++t) push(t, b);
  } else {
    for (Index t = 0; t < d.T; ++t)
      for (Index b = 0; b < B; ++b) push(t, b);
  }
  for (Index dir = 0; dir < D; ++dir) {
    MaskedRows<Real> args{};
    args.rows = rows;
    args.n = H;
    args.in = from.data();
    args.add = plus.empty() ? nullptr : plus.data();
    args.out = to.data();
    args.row_id = ids.data();
    args.step = step.data();
    args.purpose = Purpose::between_layers;
    args.p = p;
    args.random = random;
    args.random.direction = uint32_t(dir);
    run_masked_rows(args, threads);
    for (Index r = 0; r < rows; ++r) {
      from[size_t(r)] += H;
      to[size_t(r)] += H;
      if (args.add) plus[size_t(r)] += H;
    }
  }
  return std::move(array);
}

}  // namespace

py::object between_layers(py::handle x, py::handle add, py::handle H_given, py::handle p_given,
                          py::handle seed, py::handle layer, py::handle t0, py::handle row_ids,
                          py::handle cu_seqlens, py::handle threads_given) {
  View v;
  int threads;
  double p;
  uint64_t H_whole, seed_whole, layer_whole, t0_whole;
  if (!view_of(x, v) || v.nd < 2 || !parse_threads(threads_given, threads) ||
      !parse_real(p_given, 0, 1, p) || !parse_whole(H_given, kMostWhole, H_whole) ||
      !parse_whole(seed, ~uint64_t(0), seed_whole) || !parse_whole(layer, 0xffff, layer_whole) ||
      !parse_whole(t0, 0xffffffffu, t0_whole))
    return py::none();
  const auto H = Index(H_whole);
  if (H < 1 || v.shape[v.nd - 1] % H) return py::none();
  CallOptions o;
  Index B = v.nd == 3 ? v.shape[1] : 0;
  if (!cu_seqlens.is_none()) {
    View cu;
    if (!view_of(cu_seqlens, cu) || !cu.contiguous() || cu.nd != 1 || cu.shape[0] < 1 ||
        !py::isinstance<py::array_t<int64_t>>(cu_seqlens))
      return py::none();
    const auto* start = static_cast<const int64_t*>(cu.data);
    o.flat = true;
    o.start.assign(start, start + cu.shape[0]);
    B = cu.shape[0] - 1;
    if (start[0] != 0 || start[B] != v.shape[0]) return py::none();
    for (Index b = 0; b < B; ++b)
      if (start[b + 1] < start[b]) return py::none();
  }
  const uint32_t* ids = nullptr;
  View id_view;
  if (!row_ids.is_none()) {
    if (!view_of(row_ids, id_view) || id_view.type != kUint32 || !id_view.contiguous() ||
        id_view.nd != 1 || id_view.shape[0] != B)
      return py::none();
    ids = static_cast<const uint32_t*>(id_view.data);
  }
  const MaskKey random{seed_whole, uint32_t(layer_whole), 0, uint32_t(t0_whole), 1, nullptr};
  if (v.type == kFloat) return between_impl<float>(v, add, H, p, random, ids, B, o, threads);
  if (v.type == kDouble) return between_impl<double>(v, add, H, p, random, ids, B, o, threads);
  return py::none();
}

}  // namespace rnnfast
