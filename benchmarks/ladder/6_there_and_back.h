// Rung 6, there and back: odd steps take the panels in the other order.
//
// R is read again in every step. Where it is larger than a cache, reading it in the same order each time finds little of
// it there: what comes next is what was thrown out longest ago. Turned round, a step begins with the panels that the step
// before has just left.
#pragma once
#include "5_input_ahead.h"

namespace rnnfast {
namespace {

void there_and_back(const Problem<Real>& p) {
  const Range rows{0, p.B}, panels{0, p.H / kLanes};
  run_steps(
      p, pack(p, panels), rows, panels, room_ahead(p, 1), [](Index t) { return t % 2 == 1; },
      [] {});
}

}  // namespace
}  // namespace rnnfast
