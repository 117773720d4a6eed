// The arrays that a tape borrows until backward: noted in forward, compared before they are read again.
#pragma once
#include <algorithm>
#include <stdexcept>

#include "call.h"

namespace rnnfast {

template <class Real>
uint64_t checksum_of(const View& v) {
  const auto& sum = kernels<Real>().checksum;
  Index n = 1;
  for (int i = 0; i < v.nd; ++i) n *= v.shape[i];
  if (n == 0) return 0;
  if (v.contiguous()) return sum(v.data, size_t(n) * sizeof(Real), 0);
  // Only sequences come here: row by row.
  uint64_t hash = 0;
  const Index B = v.nd == 3 ? v.shape[1] : 1, last = v.shape[v.nd - 1];
  for (Index t = 0; t < v.shape[0]; ++t)
    for (Index b = 0; b < B; ++b)
      hash = sum(static_cast<char*>(v.data) + t * v.strides[0] + (v.nd == 3 ? b * v.strides[1] : 0),
                 size_t(last) * sizeof(Real), hash);
  return hash;
}

[[noreturn]] inline void changed(const CellInfo& info, const std::string& name) {
  throw std::runtime_error(
      "rnnfast." + std::string(info.name) + ": " + name +
      " has changed since the forward pass whose tape this is; backward needs it as it was. "
      "Change it after backward, or give forward a copy.");
}

template <class Real>
void note(PyTape::Borrowed& b) {
  View v;
  view_of(b.array, v);
  b.data = v.data;
  b.nd = v.nd;
  b.type = v.type;
  std::copy_n(v.shape, v.nd, b.shape);
  std::copy_n(v.strides, v.nd, b.strides);
  if (b.weight < 0) b.checksum = checksum_of<Real>(v);
}

// Checksums of W and R of both directions. A scan takes those of the weights that it reads; with weight drop it reads
// a copy of R. What no result depends on is not read, and has none.
template <class Real>
struct WeightSums {
  uint64_t at[2][2] = {};
  bool reads[2] = {true, true};
  const Real* dropped[2] = {};
  // R: as it was given, where the scan does not read it.
  template <class Args>
  void want(int dir, Args& job, const Real* R) {
    job.checksum[0] = reads[0] ? &at[dir][0] : nullptr;
    job.checksum[1] = reads[1] && !R ? &at[dir][1] : nullptr;
    dropped[dir] = reads[1] ? R : nullptr;
  }
  void add_dropped(const Dims& d, int G) {
    for (int dir = 0; dir < 2; ++dir)
      if (dropped[dir]) at[dir][1] = kernels<Real>().weight_checksum(dropped[dir], d.H, d.H, G);
  }
};

// All but the contents of W and R, which `verify_weights` compares when the scan has read them.
template <class Real>
void verify(const PyTape& tape, const char* only = nullptr) {
  for (const auto& b : tape.borrowed) {
    if (only && b.name != only) continue;
    View v;
    const bool same = view_of(b.array, v) && v.data == b.data && v.nd == b.nd && v.type == b.type &&
                      std::equal(b.shape, b.shape + b.nd, v.shape) &&
                      std::equal(b.strides, b.strides + b.nd, v.strides);
    if (!same || (b.weight < 0 && checksum_of<Real>(v) != b.checksum))
      changed(kCells[int(tape.cell)], b.name);
  }
}

template <class Real>
void verify_weights(const PyTape& tape, const WeightSums<Real>& sums) {
  for (const auto& b : tape.borrowed)
    if (b.weight >= 0 && sums.reads[b.weight] && sums.at[b.direction][b.weight] != b.checksum)
      changed(kCells[int(tape.cell)], b.name);
}

}  // namespace rnnfast
