// A team of threads that runs one body together: one region per call, never per step. Three back ends behind one
// interface: OpenMP (in a library of its own, loaded when first needed, so that a machine without libgomp can still
// import; it is the runtime PyTorch brings, where PyTorch is loaded), a pool of std::thread, and the caller alone.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

#include "../api.h"

namespace rnnfast {

using TeamBody = void (*)(void* context, int id, int n);

// Runs body(context, id, n) for every id in [0, n), the caller among them. The runtime may give fewer members than
// asked for: n is what it gave. Safe to call from several threads at once, and in the child of a fork.
void run_team(int asked, TeamBody body, void* context);

// Threads used where a call does not say: set_threads, else RNNFAST_NUM_THREADS, else what OpenMP would use
// (OMP_NUM_THREADS, torch.set_num_threads), never more than this process may run on.
int team_threads();
void set_team_threads(int n);  // 0: back to the default

// "openmp" or "threads": what run_team uses for more than one member.
const char* team_backend();

// A barrier of up to n members: a flag each, on lines of their own. It spins a little and then sleeps, so that on a
// busy machine a member that lost its core finds one.
class TeamBarrier {
 public:
  explicit TeamBarrier(int most);  // room for so many members
  void wait(int id, int n);

 private:
  struct alignas(128) Flag {
    std::atomic<uint32_t> value{0};
  };
  std::unique_ptr<Flag[]> flags_;  // [0]: how many sleep; [1 + id]: how often a member has come
};

}  // namespace rnnfast
