// A fiber for each thread of a block, in an order drawn from a seed; an OS thread for each block that runs at the time.
// A fiber runs until it waits, so a value read before the barrier that it needs is read too early in most orders.
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "block.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ADDRESS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ADDRESS 1
#endif
#endif
#if defined(SIMT_ADDRESS)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Save the callee's registers and the stack pointer in *save, and go on where `load` was saved. No system call, as
// swapcontext makes.
#if defined(__x86_64__)
asm(R"(.pushsection .text
.hidden simt_switch
.globl simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
.popsection)");
#elif defined(__aarch64__)
asm(R"(.pushsection .text
.hidden simt_switch
.globl simt_switch
.type simt_switch,%function
simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size simt_switch,.-simt_switch
.popsection)");
#else
#include <ucontext.h>
#define SIMT_UCONTEXT 1
#endif

namespace simt {
namespace {

// Under AddressSanitizer frames are several times as large.
#if defined(SIMT_ADDRESS)
constexpr size_t kStack = 256 << 10;
#else
constexpr size_t kStack = 64 << 10;
#endif

#if defined(SIMT_UCONTEXT)
using Context = ucontext_t;
void go(Context& from, Context& to) { swapcontext(&from, &to); }
void prepare(Context& c, char* stack, void (*entry)()) {
  getcontext(&c);
  c.uc_stack.ss_sp = stack;
  c.uc_stack.ss_size = kStack;
  c.uc_link = nullptr;
  makecontext(&c, entry, 0);
}
#else
extern "C" void simt_switch(void** save, void* load);
using Context = void*;
void go(Context& from, Context& to) { simt_switch(&from, to); }
// As simt_switch leaves a stack, with `entry` as the place to go on.
void prepare(Context& c, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStack);
#if defined(__x86_64__)
  top[-1] = nullptr;  // where entry would return to
  top[-2] = reinterpret_cast<void*>(entry);
  for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
  c = top - 8;
#else
  for (int i = 1; i <= 20; ++i) top[-i] = nullptr;
  top[-9] = reinterpret_cast<void*>(entry);  // x30
  c = top - 20;
#endif
}
#endif

// Stacks one above the other, each behind a page that may not be touched: who runs off the end is stopped there.
class Stacks {
 public:
  explicit Stacks(unsigned n) : n_(n), page_(size_t(sysconf(_SC_PAGESIZE))) {
    void* memory = mmap(nullptr, n_ * (page_ + kStack), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      std::perror("simt: no memory for stacks");
      std::abort();
    }
    base_ = static_cast<char*>(memory);
    for (unsigned i = 0; i < n_; ++i) mprotect(base_ + i * (page_ + kStack), page_, PROT_NONE);
  }
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { munmap(base_, n_ * (page_ + kStack)); }
  unsigned count() const { return n_; }
  char* at(unsigned i) const { return base_ + i * (page_ + kStack) + page_; }

 private:
  unsigned n_;
  size_t page_;
  char* base_;
};

// Stacks stay for the next launch: making and touching them takes far longer than most kernels here.
class KeptStacks {
 public:
  static std::unique_ptr<Stacks> take(unsigned n) {
    {
      const std::lock_guard<std::mutex> guard(lock());
      for (auto& kept : all())
        if (kept && kept->count() >= n) return std::move(kept);
    }
    return std::make_unique<Stacks>(n);
  }
  // In the place of the smallest, which goes.
  static void give(std::unique_ptr<Stacks> stacks) {
    const std::lock_guard<std::mutex> guard(lock());
    for (auto& kept : all())
      if (stacks && (!kept || kept->count() < stacks->count())) std::swap(kept, stacks);
  }

 private:
  static std::mutex& lock() {
    static std::mutex mutex;
    return mutex;
  }
  static std::vector<std::unique_ptr<Stacks>>& all() {
    static std::vector<std::unique_ptr<Stacks>> stacks(4);
    return stacks;
  }
};

uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// How long all threads of a block may do nothing but spin.
double patience() {
  const char* given = std::getenv("SIMT_PATIENCE");
  return given ? std::atof(given) : 20.0;
}

// Runs blocks one after the other, in the OS thread that made it.
class Runner {
 public:
  explicit Runner(Grid& grid)
      : grid_(grid),
        n_(grid.block_dim.x * grid.block_dim.y * grid.block_dim.z),
        stacks_(KeptStacks::take(n_)),
        threads_(n_),
        warps_((n_ + kWarp - 1) / kWarp),
        fibers_(n_) {
    gridDim = grid.dim;
    blockDim = grid.block_dim;
  }

  ~Runner() { KeptStacks::give(std::move(stacks_)); }

  void run(uint3 index) {
    set_up(block_, grid_, index, threads_.data(), warps_.data());
    block_.runner = this;
    const uint64_t number =
        index.x + uint64_t(grid_.dim.x) * (index.y + uint64_t(grid_.dim.y) * index.z);
    random_ = mix(mix(grid_.seed) + number);
    ready_.clear();
    for (unsigned i = 0; i < n_; ++i) {
      threads_[i].context = &fibers_[i];
#if defined(SIMT_ADDRESS)
      // The last fiber here never returned from its first function.
      __asan_unpoison_memory_region(stacks_->at(i) + kStack - 4096, 4096);
#endif
      prepare(fibers_[i].context, stacks_->at(i), entry);
      ready_.push_back(i);
    }
    running_ = n_;
    quiet_ = 0;
    while (running_) {
      if (ready_.empty()) {
        char text[768];
        describe_waiting(block_, text, sizeof text);
        note_fault(block_, text);
        continue;
      }
      const size_t pick = draw(ready_.size());
      const unsigned id = ready_[pick];
      ready_[pick] = ready_.back();
      ready_.pop_back();
      resume(id);
    }
    for (const FixedArray& a : block_.arrays) std::free(a.memory);
    tear_down(block_);
  }

  void suspend(Thread& t) {
    Fiber& fiber = *static_cast<Fiber*>(t.context);
#if defined(SIMT_ADDRESS)
    __sanitizer_start_switch_fiber(t.exited ? nullptr : &fiber.fake, main_bottom_, main_size_);
#endif
    go(fiber.context, main_);
#if defined(SIMT_ADDRESS)
    __sanitizer_finish_switch_fiber(fiber.fake, &main_bottom_, &main_size_);
#endif
  }

  // Another thread may now go on.
  void make_ready(const Thread& t) {
    quiet_ = 0;
    ready_.push_back(t.id);
  }

  // Nothing but spinning: other blocks may be what it waits for, so others get the core, but not for ever.
  void spin(Thread& t) {
    if (++quiet_ == 1) quiet_since_ = now();
    if (quiet_ % (n_ + 1) == 0) sched_yield();
    if (quiet_ % 4096 == 0 && now() - quiet_since_ > patience()) {
      char text[128];
      std::snprintf(text, sizeof text, "%u threads did nothing but spin for %g s", running_,
                    patience());
      note_fault(block_, text);
    }
    if (block_.faulty || __atomic_load_n(&grid_.faults, __ATOMIC_RELAXED)) throw Abandoned{};
    ready_.push_back(t.id);
    suspend(t);
    if (block_.faulty) throw Abandoned{};
  }

  void finished() {
    --running_;
    quiet_ = 0;
  }

 private:
  struct Fiber {
    Context context;
    void* fake;  // AddressSanitizer's
  };

  static void entry() {
    Thread& t = self();
    Runner& runner = *static_cast<Runner*>(t.owner->runner);
#if defined(SIMT_ADDRESS)
    __sanitizer_finish_switch_fiber(nullptr, &runner.main_bottom_, &runner.main_size_);
#endif
    try {
      runner.grid_.body(runner.grid_.arguments);
      leave(t);
    } catch (const Abandoned&) {
      t.exited = true;
    }
    runner.finished();
    runner.suspend(t);  // for good
  }

  void resume(unsigned id) {
    here = &threads_[id];
#if defined(SIMT_ADDRESS)
    void* fake;
    __sanitizer_start_switch_fiber(&fake, stacks_->at(id), kStack);
#endif
    go(main_, fibers_[id].context);
#if defined(SIMT_ADDRESS)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    here = nullptr;
  }

  size_t draw(size_t n) {
    random_ += 0x9e3779b97f4a7c15u;
    return size_t((mix(random_) >> 32) * n >> 32);
  }

  Grid& grid_;
  unsigned n_;
  std::unique_ptr<Stacks> stacks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Fiber> fibers_;
  std::vector<unsigned> ready_;
  Block block_;
  Context main_;
  [[maybe_unused]] const void* main_bottom_ = nullptr;  // under AddressSanitizer
  [[maybe_unused]] size_t main_size_ = 0;
  uint64_t random_ = 0;
  unsigned running_ = 0;
  uint64_t quiet_ = 0;  // spins since anything else happened
  double quiet_since_ = 0;
};

Runner& runner_of(const Thread& t) { return *static_cast<Runner*>(t.owner->runner); }

}  // namespace

// A block is in the hands of one OS thread.
void lock(Block&) {}
void unlock(Block&) {}
void before_barrier(const void*) {}
void after_barrier(const void*) {}

void wait(Thread& t) {
  while (t.waiting) runner_of(t).suspend(t);
  if (t.owner->faulty) throw Abandoned{};
}

void wake(Thread& t) {
  t.waiting = false;
  if (here != &t) runner_of(t).make_ready(t);
}

// A block of memory of its own, of exactly this size, so that AddressSanitizer sees its ends.
void* new_shared_array(Block&, size_t bytes, size_t alignment) {
  void* memory;
  if (posix_memalign(&memory, alignment, bytes)) std::abort();
  memset(memory, kNan, bytes);
  return memory;
}

void spin() { runner_of(self()).spin(self()); }

void run(Grid& grid) {
  const unsigned blocks = grid.dim.x * grid.dim.y * grid.dim.z;
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const unsigned workers = grid.together ? blocks : std::min(blocks, cores);
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  uint64_t random = mix(grid.seed);
  for (unsigned i = blocks; i > 1; --i) {
    random = mix(random + i);
    std::swap(order[i - 1], order[random % i]);
  }
  unsigned next = 0;
  const auto work = [&] {
    Runner runner(grid);
    for (unsigned i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < blocks;) {
      const unsigned b = order[i];
      runner.run({b % grid.dim.x, b / grid.dim.x % grid.dim.y, b / grid.dim.x / grid.dim.y});
    }
  };
  if (workers == 1) return work();
  std::vector<std::thread> team;
  for (unsigned w = 0; w < workers; ++w) team.emplace_back(work);
  for (std::thread& t : team) t.join();
}

}  // namespace simt
