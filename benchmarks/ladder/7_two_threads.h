// Rung 7, two threads: one region for the whole sequence.
//
// Where each has enough rows they share the batch, and never wait for each other. With few rows they share the panels:
// each core then reads half of R, which its second-level cache may hold, and a barrier after each step hands h over.
#pragma once
#include "../../csrc/team/barrier.h"
#include "../../csrc/team/team.h"
#include "6_there_and_back.h"

namespace rnnfast {
namespace {

constexpr int kThreads = 2;

void two_threads(const Problem<Real>& p) {
  struct Shared {
    const Problem<Real>& p;
    Packed packed;
    Real* ahead;
    TeamBarrier barrier;
  };
  Shared shared{p, pack(p, {0, 0}), room_ahead(p, kThreads), TeamBarrier(kThreads)};
  run_team(
      kThreads,
      [](void* context, int id, int n) {
        auto& [p, packed, ahead, barrier] = *static_cast<Shared*>(context);
        const Member me{id, n, &barrier, nullptr};
        const Range all_rows{0, p.B}, all_panels{0, p.H / kLanes};
        const bool by_units = split_units(p.B, n);
        const Range rows = by_units ? all_rows : share(p.B, me), mine = share(all_panels.end, me);
        pack(p, mine);
        barrier.wait(id, n);
        run_steps(
            p, packed, rows, by_units ? mine : all_panels, ahead + id * size_ahead(p),
            [](Index t) { return t % 2 == 1; },
            [&, id = id, n = n] {
              if (by_units) barrier.wait(id, n);
            });
      },
      &shared);
}

}  // namespace
}  // namespace rnnfast
