// What the ladder leads to: the library's own kernel (csrc/cpu/scan_forward.h), called as its engine calls it, weights
// as plain arrays. It does the same as rung 6 or 7, for any cell, any H, options and a tape, and sums in blocks.
#pragma once
#include "7_two_threads.h"

namespace rnnfast {
namespace {

template <int threads>
void library(const Problem<Real>& p) {
  struct Shared {
    ForwardArgs<Real> args{};
    void* scratch;
    TeamBarrier barrier{threads};
  } shared;
  ForwardArgs<Real>& a = shared.args;
  a.dims = {p.T, p.B, p.I, p.H};
  a.x = {p.x, p.B * p.I, p.I};
  a.y = {p.y, p.B * p.H, p.H};
  a.weights = {{p.W, p.R, p.b, nullptr}};
  a.state0[Lstm::h] = p.h0;
  a.state0[Lstm::c] = a.state_n[Lstm::c] = p.c;
  a.state_n[Lstm::h] = room(of_h, p.B * p.H);
  Carver measure{nullptr};
  ForwardScratch<Lstm>(measure, a, threads);
  shared.scratch = room(of_library, Index(measure.used / sizeof(Real)));
  run_team(
      threads,
      [](void* context, int id, int n) {
        auto& [args, scratch, barrier] = *static_cast<Shared*>(context);
        const auto wait = [](void* team, int id, int n) {
          static_cast<TeamBarrier*>(team)->wait(id, n);
        };
        forward_scan<Lstm>(args, scratch, Member{id, n, &barrier, wait});
      },
      &shared);
}

}  // namespace
}  // namespace rnnfast
