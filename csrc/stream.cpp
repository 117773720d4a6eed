#include "stream.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

namespace rnnfast {

template <class Real>
Stream<Real>::Stream(StreamPlan<Real> plan) : plan_(std::move(plan)) {
  const auto& kernel = kernels<Real>().cells[int(plan_.cell)];
  const Index L = Index(plan_.layers.size()), B = plan_.B, H = plan_.H;
  for (int s = 0; s < plan_.states; ++s) {
    initial_[s].assign(size_t(L * H), Real(0));
    if (plan_.initial[s]) std::copy_n(plan_.initial[s], L * H, initial_[s].begin());
    plan_.initial[s] = nullptr;
    state_[s].resize(size_t(L * B * H));
  }
  for (Index k = 0; k < L; ++k) {
    const Dims d{1, B, k == 0 ? plan_.I : H, H};
    packed_.push_back(allocate_aligned(kernel.packed_size(d)));
    auto* packed = static_cast<Real*>(packed_.back().get());
    kernel.prepare(d, plan_.layers[size_t(k)], packed);
    ForwardArgs<Real> args{};
    args.dims = d;
    args.packed = packed;
    for (int s = 0; s < plan_.states; ++s) {
      // The scan reads the incoming state before it writes the final one.
      args.state_n[s] = state_[s].data() + k * B * H;
      args.state0[s] = args.state_n[s];
      args.options.zoneout[s] = plan_.zoneout[s];
    }
    args.options.has_params = plan_.cell_clip > 0;
    args.options.params[0] =
        plan_.cell_clip > 0 ? Real(plan_.cell_clip) : std::numeric_limits<Real>::infinity();
    args_.push_back(args);
  }
  plan_.layers.clear();
  reset(nullptr);
  reserve(1);
}

template <class Real>
void Stream<Real>::reset(const unsigned char* rows) {
  const Index B = plan_.B, H = plan_.H;
  for (int s = 0; s < plan_.states; ++s)
    for (Index k = 0; k < L(); ++k)
      for (Index b = 0; b < B; ++b)
        if (!rows || rows[b])
          std::copy_n(initial_[s].begin() + k * H, H, state_[s].begin() + (k * B + b) * H);
}

// Room for pieces of T steps: grows, and is kept.
template <class Real>
void Stream<Real>::reserve(Index T) {
  if (T <= reserved_) return;
  const auto& table = kernels<Real>();
  const Index n = T * plan_.B;
  slots_.resize(size_t(n));
  std::iota(slots_.begin(), slots_.end(), 0);
  size_t bytes = 0;
  for (auto args : args_)  // a copy, of this size
    for (const bool indexed : {false, true}) {
      args.dims.T = T;
      args.index = {indexed, {slots_.data(), plan_.B, 1}, nullptr, n};
      bytes = std::max(bytes, table.cells[int(plan_.cell)].forward_scratch(args, 1));
    }
  if (L() > 1)
    for (auto& block : between_) block = allocate_aligned(size_t(n * plan_.H) * sizeof(Real));
  if (plan_.residual && L() > 1) {
    in_.resize(size_t(n));
    add_.resize(size_t(n));
    out_.resize(size_t(n));
    MaskedRows<Real> sums{};
    sums.rows = n;
    sums.n = plan_.H;
    bytes = std::max(bytes, table.masked_rows_scratch(sums, 1));
  }
  scratch_ = allocate_aligned(bytes);
  reserved_ = T;
}

template <class Real>
void Stream<Real>::run(Sequence<const Real> x, Index T, Sequence<Real> y) {
  const Index piece = std::min(T, piece_steps());
  reserve(piece);
  args_[0].index.used = false;
  for (Index t = 0; t < T; t += piece) {
    args_[0].x = {x.row(t, 0), x.time, x.batch};
    run_piece(std::min(piece, T - t), {y.row(t, 0), y.time, y.batch});
  }
}

template <class Real>
bool Stream<Real>::run_indexed(Sequence<const int64_t> x, Index T, Sequence<Real> y) {
  // A copy: what is checked is what is read, whoever writes into x meanwhile.
  const Index B = plan_.B;
  if (Index(indices_.size()) < T * B) indices_.resize(size_t(T * B));
  for (Index t = 0; t < T; ++t)
    for (Index b = 0; b < B; ++b) {
      const int64_t index = *x.row(t, b);
      if (index < 0 || index >= plan_.I) return false;
      indices_[size_t(t * B + b)] = index;
    }
  const Index piece = std::min(T, piece_steps());
  reserve(piece);
  for (Index t = 0; t < T; t += piece) {
    const Index n = std::min(piece, T - t);
    // Forward needs them neither ascending nor distinct: a row of the table for each entry.
    args_[0].index = {true, {slots_.data(), B, 1}, indices_.data() + t * B, n * B};
    run_piece(n, {y.row(t, 0), y.time, y.batch});
  }
  return true;
}

// All layers over T steps, from the input that stands in the first one's arguments.
template <class Real>
void Stream<Real>::run_piece(Index T, Sequence<Real> y) {
  const auto& table = kernels<Real>();
  const auto forward = table.cells[int(plan_.cell)].forward;
  const Index B = plan_.B, H = plan_.H;
  const Member alone{0, 1, nullptr, nullptr};
  for (Index k = 0; k < L(); ++k) {
    ForwardArgs<Real>& args = args_[size_t(k)];
    args.dims.T = T;
    args.y = k + 1 < L() ? Sequence<Real>{static_cast<Real*>(between_[k & 1].get()), B * H, H} : y;
    if (k > 0) {
      const Sequence<Real>& read = args_[size_t(k) - 1].y;
      args.x = {read.base, read.time, read.batch};
    }
    if (plan_.threads == 1) forward(args, scratch_.get(), alone);
    else run_forward(plan_.cell, &args, 1, plan_.threads);
    args.turned ^= T & 1;
    if (!plan_.residual || k == 0) continue;
    // In place: the scan has read its own y for the last time.
    for (Index t = 0, r = 0; t < T; ++t)
      for (Index b = 0; b < B; ++b, ++r) {
        out_[size_t(r)] = args.y.row(t, b);
        in_[size_t(r)] = out_[size_t(r)];
        add_[size_t(r)] = args.x.row(t, b);
      }
    MaskedRows<Real> sums{};
    sums.rows = T * B;
    sums.n = H;
    sums.in = in_.data();
    sums.add = add_.data();
    sums.out = out_.data();
    table.masked_rows(sums, scratch_.get(), alone);
  }
}

template class Stream<float>;
template class Stream<double>;

}  // namespace rnnfast
