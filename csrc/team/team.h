// A team of threads that runs one body together: one region per call, never per step. Three back ends behind one
// interface: a pool of our own, whose threads sleep soon; the OpenMP runtime that another library has brought into the
// process, which is then shared; and the caller alone.
#pragma once

namespace rnnfast {

using TeamBody = void (*)(void* context, int id, int n);

// Runs body(context, id, n) for every id in [0, n), the caller among them. The runtime may give fewer members than
// asked for: n is what it gave. Safe to call from several threads at once, and in the child of a fork.
void run_team(int asked, TeamBody body, void* context);

// Threads used where a call does not say: set_threads, else RNNFAST_NUM_THREADS, else what OpenMP would use
// (OMP_NUM_THREADS, torch.set_num_threads), never more than this process may run on.
int team_threads();
void set_team_threads(int n);  // 0: back to the default

// Cores this process may run on: its affinity, which containers and taskset narrow.
int available_cores();

// "openmp" or "threads": what run_team uses for more than one member.
const char* team_backend();

}  // namespace rnnfast
