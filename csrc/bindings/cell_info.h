// The list of cells as the bindings need it.
#pragma once
#include "../api.h"

namespace rnnfast {

struct CellInfo {
  const char *name, *gates, *states, *tape;
  int G, S, K, P;
};
constexpr CellInfo kCells[] = {
#define RNNFAST_INFO(id, Type) \
  {Type::name,                 \
   Type::gate_letters,         \
   Type::state_letters,        \
   Type::tape_letters,         \
   Type::G,                    \
   Type::S,                    \
   Type::K,                    \
   Type::P},
    RNNFAST_FOR_EACH_CELL(RNNFAST_INFO)
#undef RNNFAST_INFO
};

}  // namespace rnnfast
