// Does the shared cell header cost anything against the same cell written by hand in the tile's epilogue?
//
//   g++ -std=c++17 -O2 -ffp-contract=off -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma
//       -mprefer-vector-width=512 -DRNNFAST_REAL=float -DRNNFAST_ISA=avx512 -DRNNFAST_DTYPE=f32
//       -DRNNFAST_VECTOR_BYTES=64 benchmarks/cell_in_tile.cpp -o cell_in_tile && ./cell_in_tile
//
// (for AVX2: -mavx2 -mfma and 32 bytes). Both sides run the LSTM on a tile of gate sums in turns, the order swapped
// every round; printed are the medians and the median of the ratios pair by pair. Their outputs are compared first.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "../csrc/cpu/scan_forward.h"

namespace rnnfast {
namespace {

constexpr Index kRowsOfTile = max_rows<4>(), kUnits = 1, kH = kUnits * kLanes;

// The same arithmetic on raw vectors, nothing shared but the product of the tile: exp, sigmoid, tanh and the cell.
struct ByHand {
  const Real* const* gx;
  const Real* const* c_prev;
  Real *y, *c, *tape;
  Index y_batch, c_batch, tape_batch;

  static RNNFAST_INLINE void exp_by_hand(Raw x, Raw& p, Raw& scale) {
    const Raw z = raw_fma(x, raw_set(1.44269504089f), raw_set(12582912.0f));
    const Raw n = z - raw_set(12582912.0f);
    const Raw r = raw_fma(n, raw_set(2.12194440e-4f), raw_fma(n, raw_set(-0.693359375f), x));
    Raw q = raw_fma(raw_set(0.00138825f), r, raw_set(0.00836655f));
    q = raw_fma(q, r, raw_set(0.0416672f));
    q = raw_fma(q, r, raw_set(0.16666543f));
    q = raw_fma(q, r, raw_set(0.49999998f));
    p = raw_fma(q * r, r, r);
    scale = (Raw)(((RawBits)z << 23) + 0x3f800000);
  }
  static RNNFAST_INLINE Raw sigmoid_by_hand(Raw x) {
    Raw a = -x, p, scale;
    const Raw low = raw_set(-87.0f), high = raw_set(87.0f);
    a = low > a ? low : a;
    a = high < a ? high : a;
    exp_by_hand(a, p, scale);
    return raw_set(1.0f) / (raw_set(1.0f) + raw_fma(scale, p, scale));
  }
  static RNNFAST_INLINE Raw tanh_by_hand(Raw x) {
    const RawBits sign = (RawBits)raw_set(-0.0f);
    Raw a = (Raw)((RawBits)x & ~sign), p, scale;
    a = a + a;
    const Raw high = raw_set(20.0f);
    a = high < a ? high : a;
    exp_by_hand(a, p, scale);
    const Raw e = raw_fma(scale, p, scale - raw_set(1.0f));
    const Raw t = e / (e + raw_set(2.0f));
    return (Raw)(((RawBits)t & ~sign) | ((RawBits)x & sign));
  }

  RNNFAST_NOINLINE void operator()(Index, Index row, int rows, const Real* gh) const {
    for (Index r = row; r < row + rows; ++r, gh += 4 * kLanes) {
      const Real* x = gx[r];
      const Raw i = sigmoid_by_hand(raw_load(x) + raw_load(gh));
      const Raw f = sigmoid_by_hand(raw_load(x + kLanes) + raw_load(gh + kLanes));
      const Raw g = tanh_by_hand(raw_load(x + 2 * kLanes) + raw_load(gh + 2 * kLanes));
      const Raw o = sigmoid_by_hand(raw_load(x + 3 * kLanes) + raw_load(gh + 3 * kLanes));
      const Raw ct = raw_fma(f, raw_load(c_prev[r]), i * g);
      raw_store(c + r * c_batch, ct);
      raw_store(y + r * y_batch, o * tanh_by_hand(ct));
      Real* t = tape + r * tape_batch;
      raw_store(t, i);
      raw_store(t + kLanes, f);
      raw_store(t + 2 * kLanes, g);
      raw_store(t + 3 * kLanes, o);
    }
  }
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int main_() {
  constexpr Index R = kRowsOfTile, K = 64;
  // Both sides use the same aligned arrays: with arrays of their own, the one whose stores lie unluckily beside the
  // other's loads is a third slower, whichever of the two it is.
  alignas(64) static Real gx[R * 4 * kLanes], c0[R * kLanes], h[R * K], w[K * 4 * kLanes];
  struct Results {
    alignas(64) Real y[R * kLanes], c[R * kLanes], tape[R * 4 * kLanes];
  };
  static Results results, other;
  unsigned seed = 1;
  const auto draw = [&] {
    return Real((seed = seed * 1664525u + 1013904223u) >> 8) / Real(1 << 23) - Real(1);
  };
  for (Real& e : gx) e = draw();
  for (Real& e : c0) e = draw();
  for (Real& e : h) e = draw();
  for (Real& e : w) e = draw();
  std::vector<const Real*> gx_rows, c_rows, h_rows;
  for (Index r = 0; r < R; ++r) {
    gx_rows.push_back(&gx[r * 4 * kLanes]);
    c_rows.push_back(&c0[r * kLanes]);
    h_rows.push_back(&h[r * K]);
  }
  CellForward<Lstm, true> shared{};
  shared.H = kH;
  shared.U = 1;
  shared.gx = gx_rows.data();
  shared.state[0] = shared.state[1] = c_rows.data();
  shared.y = results.y;
  shared.c = results.c;
  shared.tape = results.tape;
  shared.y_batch = shared.c_batch = kLanes;
  shared.tape_batch = 4 * kLanes;
  const ByHand hand{gx_rows.data(), c_rows.data(), results.y, results.c,
                    results.tape,   kLanes,        kLanes,    4 * kLanes};

  // Whole tiles (K = 64 terms of the product, then the cell), and the cell alone.
  for (const Index terms : {Index(0), K}) {
    alignas(64) Real out[kTileSize];
    const auto run = [&](auto& epilogue) {
      for (int i = 0; i < 2000; ++i) {
        tile<kRowsOfTile, 4>(h_rows.data(), 0, w, terms, nullptr, 0, out);
        epilogue(0, 0, int(R), out);
      }
    };
    run(shared);
    other = results;
    results = {};
    run(hand);
    if (memcmp(&results, &other, sizeof results) != 0) {
      std::puts("the two do not agree");
      return 1;
    }
    std::vector<double> a, b, ratio;
    for (int round = 0; round < 300; ++round) {
      double t[2];
      for (int k = 0; k < 2; ++k) {
        const int side = (round + k) & 1;
        const double start = now();
        side ? run(hand) : run(shared);
        t[side] = (now() - start) / 2000 * 1e9;
      }
      a.push_back(t[0]);
      b.push_back(t[1]);
      ratio.push_back(t[0] / t[1]);
    }
    const auto median = [](std::vector<double> v) {
      std::nth_element(v.begin(), v.begin() + long(v.size() / 2), v.end());
      return v[v.size() / 2];
    };
    std::printf(
        "%s  %d rows x 4 gates x %d lanes, K=%2d: shared header %.1f ns, by hand %.1f ns, ratio "
        "%.3f\n",
        RNNFAST_VECTOR_BYTES == 64 ? "avx512" : "avx2  ", int(R), kLanes, int(terms), median(a),
        median(b), median(ratio));
  }
  return 0;
}

}  // namespace
}  // namespace rnnfast

int main() { return rnnfast::main_(); }
