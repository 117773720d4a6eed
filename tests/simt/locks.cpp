// Waiting for threads.cpp, compiled without ThreadSanitizer as collectives.cpp is: a lock that it saw would order
// memory which CUDA does not order, and hide races.
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "block.h"

namespace simt {

namespace {

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// How long a thread may wait for others.
double patience() {
  const char* given = getenv("SIMT_PATIENCE");
  return given ? atof(given) : 60.0;
}

}  // namespace

void lock(Block& block) {
  while (__atomic_exchange_n(&block.locked, 1, __ATOMIC_ACQUIRE)) sched_yield();
}

void unlock(Block& block) { __atomic_store_n(&block.locked, 0, __ATOMIC_RELEASE); }

void wake(Thread& t) { t.waiting = false; }

void wait(Thread& t) {
  Block& block = *t.owner;
  const double since = now();
  while (t.waiting && !block.faulty) {
    if (now() - since > patience()) {
      char text[768];
      describe_waiting(block, text, sizeof text);
      note_fault(block, text);
    }
    unlock(block);
    sched_yield();
    lock(block);
  }
  if (block.faulty) {
    unlock(block);
    throw Abandoned{};
  }
}

// Taken from what threads.cpp made: `runner` is where the free part begins.
void* new_shared_array(Block& block, size_t bytes, size_t alignment) {
  const uintptr_t at =
      (reinterpret_cast<uintptr_t>(block.runner) + alignment - 1) & ~(alignment - 1);
  block.runner = reinterpret_cast<void*>(at + bytes);
  return reinterpret_cast<void*>(at);
}

void spin() {
  if (__atomic_load_n(&self().owner->grid->faults, __ATOMIC_RELAXED)) throw Abandoned{};
  sched_yield();
}

}  // namespace simt
