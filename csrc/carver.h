// Sizes and places of scratch by one walk: with a null base it measures, else it hands out.
#pragma once
#include "api.h"

namespace rnnfast {

struct Carver {
  char* base;
  size_t used = 0;
  template <class T>
  RNNFAST_HD T* take(Index count) {
    const size_t at = used;
    // Members of a team never share a pair of cache lines.
    used += (size_t(count) * sizeof(T) + 127) / 128 * 128;
    return base ? reinterpret_cast<T*>(base + at) : nullptr;
  }
};

}  // namespace rnnfast
