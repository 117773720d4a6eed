// Rows of a tape in the caller's form.
#pragma once
#include "stage.h"

namespace rnnfast {
namespace {

// Copies of so many bytes are written past the caches, which would read each line before it is written. All states and gates of
// (128, 64, 128, 256), 8 to 32 MiB each, took one thread 0.52 (LSTM), 0.57 (GRU) and 0.77 (RNN) of the time, of (128, 32, 64,
// 128), gates of 2 to 8 MiB, 0.87, 0.89 and, not written so, 1.16 (AVX-512, Emerald Rapids). From where on: as for the gates of a
// tape (scan_forward.h).
constexpr Index kStreamedCopy = Index(3) << 20;

void unpack_rows(const UnpackRows<Real>& a, void*, const Member& m) {
  const bool streams = a.rows * a.slots * a.H * Index(sizeof(Real)) >= kStreamedCopy;
  const Index step = kLanes * a.kept;
  const Range mine = share(a.rows, m);
  for (Index r = mine.begin; r < mine.end; ++r) {
    const Real* from = a.from[r];
    Real* to = a.to[r];
    for (int slot = 0; slot < a.slots; ++slot, from += kLanes, to += a.H) {
      const Real* vector = from;
      Index j = 0;
      if (streams && can_stream(to))
        for (; j + kLanes <= a.H; j += kLanes, vector += step) raw_stream(to + j, raw_load(vector));
      for (; j + kLanes <= a.H; j += kLanes, vector += step) raw_store(to + j, raw_load(vector));
      if (j < a.H) raw_store(to + j, raw_load(vector, int(a.H - j)), int(a.H - j));
    }
  }
  if (streams) stream_done();
}

}  // namespace
}  // namespace rnnfast
