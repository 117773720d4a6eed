// A block of threads as the shim holds it, and what one of fibers.cpp and threads.cpp does for collectives.cpp.
//
// Everything here may be touched by several threads at once under the block's lock, which ThreadSanitizer does not see:
// collectives.cpp is compiled without it. So no containers, whose code other units share.
#pragma once
#include "simt.h"

namespace simt {

struct Block;

// Shared memory and cudaMalloc hold this before anything is written: NaN in every floating-point type.
constexpr int kNan = 0xff;

enum class Meet { barrier, sync_warp, shuffle, vote, mma };

// What a lane gives to mma.sync.
struct Fragments {
  const char* what;
  uint32_t a[4], b[2];
  float c[4];
};

struct Call {
  Meet kind;
  Site site;
  unsigned mask;  // of a warp's
};

struct Thread : Coordinates {
  Block* owner;
  bool exited, waiting;
  Call call;
  unsigned source;   // a lane
  unsigned meeting;  // of its warp
  unsigned char given[16], got[16];
  Fragments fragments;
  void* context;  // of whoever runs it
};

// Each meeting that orders memory has a place of its own for ThreadSanitizer: a thread that is slow to leave one would
// else be put in order with what others did on their way to the next.
struct Warp {
  static constexpr unsigned kMeetings = 64;
  unsigned waiting, exited;  // lanes; those beyond the end of the block count as exited
  unsigned meetings;         // so far
  char place[kMeetings];
};

struct FixedArray {
  const void* key;
  void* memory;
};

struct Grid {
  dim3 dim, block_dim;
  size_t shared_bytes;
  bool together;  // blocks wait for each other
  unsigned seed;
  void (*body)(const void* arguments);
  const void* arguments;
  int faults;        // of its blocks
  char fault[1024];  // the first
};

struct Block {
  static constexpr int kArrays = 16;
  Grid* grid;
  Thread* threads;
  Warp* warps;
  unsigned n, live, at_barrier, first_at_barrier, barriers;
  char place[2];  // of every other barrier
  void* dynamic;
  FixedArray arrays[kArrays];
  bool faulty;
  int locked;
  void* runner;  // of whoever runs it
};

// What leaves a kernel from wherever its thread stands.
struct Abandoned {};

inline Thread& self() { return static_cast<Thread&>(*here); }

// Of fibers.cpp or threads.cpp. wait() gives up the lock until `waiting` is false; throws Abandoned in a block that has
// a fault. The lock is held around everything in collectives.cpp.
void lock(Block& block);
void unlock(Block& block);
void wait(Thread& thread);
void wake(Thread& thread);
// Filled with kNan; freed by its maker when the block has ended.
void* new_shared_array(Block& block, size_t bytes, size_t alignment);
// A barrier orders memory, and ThreadSanitizer is to know: whoever meets at this place.
void before_barrier(const void* place);
void after_barrier(const void* place);

// Of tensor.cpp: c of all lanes, from what they gave.
void multiply(Thread* lanes);

// Run every block of a grid to its end.
void run(Grid& grid);

// Of collectives.cpp.
void set_up(Block& block, Grid& grid, uint3 index, Thread* threads, Warp* warps);
void tear_down(Block& block);
void leave(Thread& thread);  // it returned from the kernel
void note_fault(Block& block, const char* text);
void describe_waiting(const Block& block, char* text, size_t size);

}  // namespace simt
