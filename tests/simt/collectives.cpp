// What threads of a block do together: barriers, shuffles, votes, shared memory.
#include <stdio.h>
#include <stdlib.h>

#include "block.h"

__thread dim3 gridDim, blockDim;

namespace simt {

__thread Coordinates* here = nullptr;

namespace {

const char* name(Meet kind) {
  switch (kind) {
    case Meet::barrier:
      return "__syncthreads";
    case Meet::sync_warp:
      return "__syncwarp";
    case Meet::shuffle:
      return "a shuffle";
    case Meet::vote:
      return "a vote";
    case Meet::mma:
      return "mma.sync";
  }
  return "";
}

// Never a call of memcpy, which ThreadSanitizer would see.
void copy(void* to, const void* from, size_t bytes) {
  if (bytes == 4) __builtin_memcpy(to, from, 4);
  else if (bytes == 8) __builtin_memcpy(to, from, 8);
  else __builtin_memcpy(to, from, 16);
}

bool same_site(const Site& a, const Site& b) {
  return a.line == b.line && strcmp(a.file, b.file) == 0;
}

// Both leave the kernel; the lock is held.
[[noreturn]] void abandon(Block& block) {
  unlock(block);
  throw Abandoned{};
}
[[noreturn]] void fault_locked(Block& block, const char* text) {
  note_fault(block, text);
  abandon(block);
}

[[noreturn]] void fault_between(const Thread& a, const Thread& b, const char* what) {
  char text[512];
  snprintf(text, sizeof text, "%s: thread %u at %s (%s:%d), thread %u at %s (%s:%d)", what, a.id,
           name(a.call.kind), a.call.site.file, a.call.site.line, b.id, name(b.call.kind),
           b.call.site.file, b.call.site.line);
  fault_locked(*a.owner, text);
}

void release_barrier(Block& block) {
  block.at_barrier = 0;
  ++block.barriers;
  for (unsigned i = 0; i < block.n; ++i) {
    Thread& t = block.threads[i];
    if (!t.exited && t.waiting && t.call.kind == Meet::barrier) wake(t);
  }
}

// Whether all that the call of this thread waits for are there; then they go on, each with its result.
bool complete(Thread& t) {
  Block& block = *t.owner;
  const unsigned first = t.id / kWarp * kWarp;
  Warp& warp = block.warps[t.id / kWarp];
  const unsigned wanted = t.call.kind == Meet::sync_warp ? t.call.mask & ~warp.exited : t.call.mask;
  if ((warp.waiting & wanted) != wanted) return false;
  unsigned ballot = 0;
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(wanted >> l & 1)) continue;
    const Thread& other = block.threads[first + l];
    // It waits for others first, and may come here afterwards.
    if (other.call.mask != t.call.mask) return false;
    if (other.call.kind != t.call.kind || !same_site(other.call.site, t.call.site))
      fault_between(t, other, "threads of a warp meet at different places");
    ballot |= unsigned(other.given[0] != 0) << l;
  }
  if (t.call.kind == Meet::mma) multiply(block.threads + first);
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(wanted >> l & 1)) continue;
    Thread& other = block.threads[first + l];
    if (t.call.kind == Meet::shuffle)
      copy(other.got, block.threads[first + other.source].given, sizeof other.got);
    if (t.call.kind == Meet::vote) copy(other.got, &ballot, sizeof ballot);
    warp.waiting &= ~(1u << l);
    wake(other);
  }
  return true;
}

void meet_in_warp(Thread& t, const Call& call) {
  Block& block = *t.owner;
  Warp& warp = block.warps[t.id / kWarp];
  if (block.faulty) abandon(block);
  char text[256];
  const unsigned l = t.id % kWarp;
  if (!(call.mask >> l & 1)) {
    snprintf(text, sizeof text, "lane %u of thread %u is not in its own mask %08x (%s:%d)", l, t.id,
             call.mask, call.site.file, call.site.line);
    fault_locked(block, text);
  }
  if (call.kind != Meet::sync_warp && (call.mask & warp.exited)) {
    snprintf(text, sizeof text, "%s names absent lanes: thread %u, mask %08x, absent %08x (%s:%d)",
             name(call.kind), t.id, call.mask, call.mask & warp.exited, call.site.file,
             call.site.line);
    fault_locked(block, text);
  }
  if (call.kind == Meet::shuffle && !(call.mask >> t.source & 1)) {
    snprintf(text, sizeof text, "thread %u reads lane %u, which is not in mask %08x (%s:%d)", t.id,
             t.source, call.mask, call.site.file, call.site.line);
    fault_locked(block, text);
  }
  t.call = call;
  t.waiting = true;
  warp.waiting |= 1u << l;
  if (!complete(t)) wait(t);
}

// Of the __syncwarp that others of this mask wait at, or of a new one.
const char* meeting_place(Thread& t, unsigned mask) {
  const unsigned first = t.id / kWarp * kWarp;
  Warp& warp = t.owner->warps[t.id / kWarp];
  t.meeting = warp.meetings;
  bool others = false;
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(warp.waiting >> l & 1)) continue;
    const Thread& other = t.owner->threads[first + l];
    if (other.call.kind != Meet::sync_warp || other.call.mask != mask) continue;
    t.meeting = other.meeting;
    others = true;
  }
  if (!others) ++warp.meetings;
  return &warp.place[t.meeting % Warp::kMeetings];
}

}  // namespace

void note_fault(Block& block, const char* text) {
  Grid& grid = *block.grid;
  block.faulty = true;
  if (__atomic_fetch_add(&grid.faults, 1, __ATOMIC_RELAXED) == 0) {
    const uint3 at = block.threads[0].block;
    snprintf(grid.fault, sizeof grid.fault, "simt: block (%u, %u, %u): %s", at.x, at.y, at.z, text);
  }
  for (unsigned i = 0; i < block.n; ++i)
    if (!block.threads[i].exited && block.threads[i].waiting) wake(block.threads[i]);
}

void fault(const char* text) {
  lock(*self().owner);
  fault_locked(*self().owner, text);
}

void sync_block(Site site) {
  Thread& t = self();
  Block& block = *t.owner;
  lock(block);
  if (block.faulty) abandon(block);
  const void* place = &block.place[block.barriers % 2];
  before_barrier(place);
  t.call = {Meet::barrier, site, 0};
  t.waiting = true;
  if (block.at_barrier++ == 0) block.first_at_barrier = t.id;
  const Thread& first = block.threads[block.first_at_barrier];
  if (!same_site(first.call.site, site)) fault_between(first, t, "divergent barrier");
  if (block.at_barrier == block.live) release_barrier(block);
  else wait(t);
  unlock(block);
  after_barrier(place);
}

void sync_warp(unsigned mask, Site site) {
  Thread& t = self();
  lock(*t.owner);
  const char* place = meeting_place(t, mask);
  before_barrier(place);
  meet_in_warp(t, {Meet::sync_warp, site, mask});
  unlock(*t.owner);
  after_barrier(place);
}

void shuffle(unsigned mask, unsigned source, const void* given, void* got, size_t bytes,
             Site site) {
  Thread& t = self();
  lock(*t.owner);
  t.source = source;
  copy(t.given, given, bytes);
  meet_in_warp(t, {Meet::shuffle, site, mask});
  copy(got, t.got, bytes);
  unlock(*t.owner);
}

unsigned vote(unsigned mask, bool value, Vote kind, Site site) {
  Thread& t = self();
  lock(*t.owner);
  t.given[0] = value;
  meet_in_warp(t, {Meet::vote, site, mask});
  unsigned ballot;
  copy(&ballot, t.got, sizeof ballot);
  unlock(*t.owner);
  if (kind == Vote::ballot) return ballot;
  return kind == Vote::any ? ballot != 0 : ballot == mask;
}

void mma(const char* what, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         Site site) {
  Thread& t = self();
  lock(*t.owner);
  Fragments& mine = t.fragments;
  mine.what = what;
  copy(mine.a, a, sizeof a);
  copy(mine.b, b, sizeof b);
  copy(mine.c, c, sizeof c);
  meet_in_warp(t, {Meet::mma, site, ~0u});
  copy(c, mine.c, sizeof c);
  unlock(*t.owner);
}

void leave(Thread& t) {
  Block& block = *t.owner;
  lock(block);
  Warp& warp = block.warps[t.id / kWarp];
  const unsigned l = t.id % kWarp;
  t.exited = true;
  warp.exited |= 1u << l;
  --block.live;
  if (!block.faulty) {
    if (block.at_barrier && block.at_barrier == block.live) release_barrier(block);
    for (unsigned other = 0; other < kWarp; ++other) {
      if (!(warp.waiting >> other & 1)) continue;
      Thread& waiting = block.threads[t.id - l + other];
      if (!(waiting.call.mask >> l & 1)) continue;
      if (waiting.call.kind == Meet::sync_warp) {
        complete(waiting);
      } else {
        char text[256];
        snprintf(text, sizeof text,
                 "%s names absent lanes: thread %u left, thread %u waits for it (%s:%d)",
                 name(waiting.call.kind), t.id, waiting.id, waiting.call.site.file,
                 waiting.call.site.line);
        note_fault(block, text);
        break;
      }
    }
  }
  unlock(block);
}

void* dynamic_shared() { return self().owner->dynamic; }

void* fixed_shared(const void* key, size_t bytes, size_t alignment) {
  Block& block = *self().owner;
  lock(block);
  FixedArray* at = block.arrays;
  while (at < block.arrays + Block::kArrays && at->key && at->key != key) ++at;
  if (at == block.arrays + Block::kArrays)
    fault_locked(block, "more shared arrays than the shim has room for");
  if (!at->key) {
    at->key = key;
    at->memory = new_shared_array(block, bytes, alignment);
  }
  void* memory = at->memory;
  unlock(block);
  return memory;
}

void set_up(Block& block, Grid& grid, uint3 index, Thread* threads, Warp* warps) {
  block = {};
  block.grid = &grid;
  block.threads = threads;
  block.warps = warps;
  const dim3 d = grid.block_dim;
  block.n = block.live = d.x * d.y * d.z;
  // A block of memory of its own, of exactly this size, so that AddressSanitizer sees its ends.
  if (posix_memalign(&block.dynamic, 128, grid.shared_bytes)) abort();
  memset(block.dynamic, kNan, grid.shared_bytes);
  for (unsigned i = 0; i < block.n; ++i) {
    threads[i] = {};
    threads[i].thread = {i % d.x, i / d.x % d.y, i / (d.x * d.y)};
    threads[i].block = index;
    threads[i].id = i;
    threads[i].owner = &block;
  }
  for (unsigned w = 0; w * kWarp < block.n; ++w) {
    const unsigned lanes = block.n - w * kWarp;
    warps[w] = {};
    warps[w].exited = lanes < kWarp ? ~0u << lanes : 0u;
  }
}

void tear_down(Block& block) { free(block.dynamic); }

void describe_waiting(const Block& block, char* text, size_t size) {
  size_t used = size_t(snprintf(text, size, "deadlock: %u threads live", block.live));
  // One line for each place, with how many wait there.
  for (unsigned i = 0; i < block.n; ++i) {
    const Thread& t = block.threads[i];
    if (t.exited || !t.waiting) continue;
    unsigned here = 0, before = 0;
    for (unsigned k = 0; k < block.n; ++k) {
      const Thread& other = block.threads[k];
      const bool same = !other.exited && other.waiting && other.call.kind == t.call.kind &&
                        same_site(other.call.site, t.call.site);
      here += same;
      before += same && k < i;
    }
    if (!before && used < size)
      used += size_t(snprintf(text + used, size - used, ", %u wait at %s (%s:%d)", here,
                              name(t.call.kind), t.call.site.file, t.call.site.line));
  }
}

}  // namespace simt
