// Micro-latencies of one Hopper GPU (H100, H200): what a step of a recurrent layer must pay to one block, to a cluster of
// blocks and to the whole chip. They decide where one kind of persistent kernel ends and the next begins.
//
//     nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -o probe probe.cu
//     ./probe [GROUP]...   groups: launch peak latency step grid handoff gather cluster; all if none is named
//
// Each line of the output is one measurement in JSON: "value" in "unit" is the median of kRepeats runs after one that does
// not count. Lines that count cycles (of the multiprocessor that block 0 ran on) have the same in "ns", by the global timer.
// All-gathers count a whole step: publish, wait, read, and the block's barrier. A line has "error" in place of "value" where
// the device cannot do what was to be measured, where a wait timed out, or where the values that came out were wrong.
//
// No wait is without a bound, and no block waits for one that may not have started: where blocks wait for blocks, the launch
// is cooperative or a cluster.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int kRepeats = 5;
constexpr int kPolls = 1 << 17;              // of memory by one thread of a kernel: 40 ms at least
constexpr long long kDeadline = 50'000'000;  // cycles in a kernel that waits for its cluster
constexpr size_t kWholeSm =
    120 * 1024;  // shared memory of which two blocks do not fit one multiprocessor

// ---- What kernels share -------------------------------------------------------------------------------------------------

struct Sample {
  long long cycles, ns;
  int timed_out, wrong;
  float sink;  // takes results, so that the work for them is not left out
};

__device__ __forceinline__ long long global_ns() {
  long long ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

struct Stopwatch {
  long long ns, cycles;
  __device__ Stopwatch() { ns = global_ns(), cycles = clock64(); }
  __device__ void stop(Sample* out) const {
    const long long c = clock64() - cycles, n = global_ns() - ns;
    if (blockIdx.x == 0 && threadIdx.x == 0) out->cycles = c, out->ns = n;
  }
};

// The address of something in shared memory as PTX has it in a register of 32 bits; the same in another block of the cluster.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ uint32_t in_block(uint32_t address, uint32_t rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

// ---- launch, peak -------------------------------------------------------------------------------------------------------

__global__ void empty() {}

// Eight chains hide the four cycles of an FFMA with one warp to a scheduler, and there are eight.
__global__ void __launch_bounds__(1024) ffma_peak(int steps, float a, float b, Sample* out) {
  float x[8];
  for (int i = 0; i < 8; ++i) x[i] = float(threadIdx.x + i);
  a += x[0] * 0.f, b += x[0] * 0.f;  // so that they are registers, not constants
  __syncthreads();
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 0; s < steps; s += 16) {
#pragma unroll
    for (int u = 0; u < 16; ++u) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = fmaf(x[i], a, b);
    }
  }
  __syncthreads();
  watch.stop(out);
  float sum = 0;
  for (int i = 0; i < 8; ++i) sum += x[i];
  if (sum == 12345.f) out->sink = sum;
}

__global__ void copy_vectors(const float4* from, float4* to, size_t count) {
  const size_t stride = size_t(gridDim.x) * blockDim.x;
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    to[i] = from[i];
}

// ---- latency: chains, each link of which needs the one before -----------------------------------------------------------

#define CHAIN(name, ...)                                  \
  struct name {                                           \
    static __device__ float link(float x) { __VA_ARGS__ } \
  }
CHAIN(Sync, __syncthreads(); return x;);
CHAIN(Ffma, return fmaf(x, x, x););
// A shuffle that undoes the one before would be folded, and rcp too: so both have an addition.
CHAIN(Shuffle, return __shfl_xor_sync(~0u, x, 1) + 1.f;);
CHAIN(Tanhf, return tanhf(x););               // of arguments so small that it takes its polynomial
CHAIN(TanhfPlusOne, return tanhf(x + 1.f););  // of about 1.96: by the exponential
CHAIN(Expf, return expf(-x););
CHAIN(Ex2, asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x)); return x * -.5f;);
CHAIN(Rcp, asm volatile("rcp.approx.ftz.f32 %0, %0;" : "+f"(x)); return x + 1.f;);
CHAIN(TanhApprox, asm volatile("tanh.approx.f32 %0, %0;" : "+f"(x)); return x;);
CHAIN(FastSigmoid, return __fdividef(1.f, 1.f + __expf(-x)););
CHAIN(FastTanh, return 1.f - __fdividef(2.f, 1.f + __expf(x + x)););

template <class Chain>
__global__ void __launch_bounds__(1024) chain(int steps, float seed, Sample* out) {
  float x = seed + float(threadIdx.x) * 1e-4f;  // what all lanes have alike is not shuffled
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 0; s < steps; s += 16) {
#pragma unroll
    for (int u = 0; u < 16; ++u) x = Chain::link(x);
  }
  watch.stop(out);
  if (threadIdx.x == 0) out->sink = x;
}

// Nodes `stride` bytes apart, each with the address of another; the ring of all is a full period of a congruential generator.
__global__ void lay_ring(char* ring, unsigned nodes, size_t stride) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned next = (i * 1664525u + 1013904223u) & (nodes - 1);
  *reinterpret_cast<char**>(ring + i * stride) = ring + next * stride;
}

enum class From { kShared, kSharedVector, kPeer, kL1, kL2, kRelaxed };

// Loads, each of the address that the one before found: in a ring, or in a word of shared memory that holds its own address
// and is read by all lanes, the last block's of the cluster where it is a peer's.
template <From from>
__global__ void chase(int untimed, int steps, uint64_t* cursor, Sample* out) {
  __shared__ __align__(16) uint64_t word[2];
  const auto cluster = cooperative_groups::this_cluster();
  uint64_t at = *cursor, unused = 0;
  if (from == From::kShared || from == From::kSharedVector) at = shared_address(word);
  if (from == From::kPeer) at = in_block(shared_address(word), cluster.num_blocks() - 1);
  word[0] = word[1] = at;
  cluster.sync();
  const auto link = [&] {
    if (from == From::kShared) asm volatile("ld.shared.b64 %0, [%0];" : "+l"(at)::"memory");
    if (from == From::kPeer) asm volatile("ld.shared::cluster.b64 %0, [%0];" : "+l"(at)::"memory");
    if (from == From::kSharedVector)
      asm volatile("ld.volatile.shared.v2.b64 {%0, %1}, [%0];" : "+l"(at), "=l"(unused)::"memory");
    if (from == From::kL1) asm volatile("ld.global.ca.b64 %0, [%0];" : "+l"(at)::"memory");
    if (from == From::kL2) asm volatile("ld.global.cg.b64 %0, [%0];" : "+l"(at)::"memory");
    if (from == From::kRelaxed)
      asm volatile("ld.relaxed.gpu.global.b64 %0, [%0];" : "+l"(at)::"memory");
  };
#pragma unroll 1
  for (int s = 0; s < untimed; ++s) link();
  const Stopwatch watch;
#pragma unroll 8
  for (int s = 0; s < steps; ++s) link();
  *static_cast<volatile uint64_t*>(cursor) = at + (unused & 1);  // waits for the last load
  watch.stop(out);
  cluster.sync();  // a block's shared memory lasts as long as the block
}

// ---- step: a step of an RNN in one block --------------------------------------------------------------------------------

// Four threads share four sums of 4 * `terms` terms: barrier, `terms` floats of the operand for each thread, 4 * `terms` FFMA,
// two steps of shuffles, activation, store. Weights that registers have no room for are the first ones once more, so that
// the arithmetic is counted but no load of them. scatter: each shuffle halves the sums that a thread still adds up.
template <int threads, int terms, bool scatter, bool fast>
__global__ void __launch_bounds__(threads, 1) step(int steps, const float* weights, Sample* out) {
  constexpr int room = threads == 256 ? 48 : 20, held = terms < room ? terms : room;
  __shared__ float4 operand[2][threads > terms * 4 ? threads / 4 : terms];
  const int t = int(threadIdx.x), slice = t % 4;
  float w[4][held];
  for (int o = 0; o < 4; ++o)
    for (int k = 0; k < held; ++k) w[o][k] = weights[(o * held + k) * threads + t];
  float y = float(t) / threads;
  reinterpret_cast<float*>(operand[0])[t] = y;
  __syncthreads();  // the weights are asked for before the watch starts
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 0; s < steps; ++s) {
    __syncthreads();
    const float4* const from = operand[s & 1] + slice;
    float sums[4] = {};
#pragma unroll
    for (int j = 0; j < terms / 4; ++j) {
      const float4 h = from[j * 4];
#pragma unroll
      for (int o = 0; o < 4; ++o) {
        sums[o] = fmaf(h.x, w[o][(j * 4 + 0) % held], sums[o]);
        sums[o] = fmaf(h.y, w[o][(j * 4 + 1) % held], sums[o]);
        sums[o] = fmaf(h.z, w[o][(j * 4 + 2) % held], sums[o]);
        sums[o] = fmaf(h.w, w[o][(j * 4 + 3) % held], sums[o]);
      }
    }
    const bool high = slice & 2, odd = slice & 1;
    float sum;
    if (scatter) {
      float a = high ? sums[2] : sums[0], b = high ? sums[3] : sums[1];
      a += __shfl_xor_sync(~0u, high ? sums[0] : sums[2], 2);
      b += __shfl_xor_sync(~0u, high ? sums[1] : sums[3], 2);
      sum = (odd ? b : a) + __shfl_xor_sync(~0u, odd ? a : b, 1);
    } else {
#pragma unroll
      for (int d = 1; d < 4; d += d)
#pragma unroll
        for (int o = 0; o < 4; ++o) sums[o] += __shfl_xor_sync(~0u, sums[o], d);
      sum = high ? (odd ? sums[3] : sums[2]) : (odd ? sums[1] : sums[0]);
    }
    y = fast ? FastTanh::link(sum) : tanhf(sum);
    reinterpret_cast<float*>(operand[(s + 1) & 1])[t] = y;
  }
  watch.stop(out);
  if (y == 12345.f) out->sink = y;
}

// ---- grid: barriers of the whole grid -----------------------------------------------------------------------------------

__global__ void __launch_bounds__(1024) grid_sync(int steps, Sample* out) {
  const auto grid = cooperative_groups::this_grid();
  grid.sync();
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 0; s < steps; ++s) grid.sync();
  watch.stop(out);
}

// The counter only grows, so a barrier needs no sense and no reset. Without `ordered` it orders nothing: what the fences cost
// is the difference.
template <bool ordered>
__global__ void counter_barrier(int steps, unsigned* counter, Sample* out) {
  int polls = kPolls;
  const auto barrier = [&](unsigned target) {
    __syncthreads();
    if (threadIdx.x == 0) {
      if (ordered)
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      else asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      unsigned seen;
      do {
        if (ordered)
          asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                       : "=r"(seen)
                       : "l"(counter)
                       : "memory");
        else
          asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                       : "=r"(seen)
                       : "l"(counter)
                       : "memory");
      } while (seen < target && --polls > 0);
    }
    __syncthreads();
  };
  barrier(gridDim.x);
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 2; s < steps + 2; ++s) barrier(unsigned(s) * gridDim.x);
  watch.stop(out);
  if (polls <= 0) out->timed_out = 1;
}

// ---- handoff, gather: data that validate themselves, through L2 ---------------------------------------------------------

// A line of 16 bytes, three floats and a tag, goes as one .b128: PTX gives a vector of four no order among its words, but
// one access of 128 bits is seen whole, so that the tag answers for the floats without a fence.
__device__ __forceinline__ void publish(uint4* at, float value, unsigned tag) {
  asm volatile(
      "{\n .reg .b64 lo, hi;\n .reg .b128 line;\n mov.b64 lo, {%1, %1};\n mov.b64 hi, {%1, %2};\n"
      " mov.b128 line, {lo, hi};\n st.relaxed.gpu.global.b128 [%0], line;\n}" ::"l"(at),
      "r"(__float_as_uint(value)), "r"(tag)
      : "memory");
}
__device__ __forceinline__ uint4 look(const uint4* at) {
  uint4 v;
  asm volatile(
      "{\n .reg .b64 lo, hi;\n .reg .b128 line;\n ld.relaxed.gpu.global.b128 line, [%4];\n"
      " mov.b128 {lo, hi}, line;\n mov.b64 {%0, %1}, lo;\n mov.b64 {%2, %3}, hi;\n}"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(at)
      : "memory");
  return v;
}

// Blocks 0 and `partner` add one to what the other sent and send it back. Each direction has its own page of `pages`.
__global__ void ping_pong(int steps, int partner, char* pages, Sample* out) {
  if (threadIdx.x != 0 || (blockIdx.x != 0 && int(blockIdx.x) != partner)) return;
  const bool first = blockIdx.x == 0;
  uint4* const ping = reinterpret_cast<uint4*>(pages + size_t(partner) * 8192);
  uint4 *const to = ping + (first ? 0 : 256), *const from = ping + (first ? 256 : 0);
  int polls = kPolls;
  uint4 got{};
  const auto receive = [&](unsigned tag) {
    do got = look(from);
    while (got.w != tag && --polls > 0);
  };
  const auto trip = [&](unsigned tag) {
    if (!first) receive(tag);
    publish(to, __uint_as_float(got.x) + 1.f, tag);
    if (first) receive(tag);
  };
  trip(1);
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 0; s < steps; ++s) trip(unsigned(s) + 2);
  watch.stop(out);
  if (first && __uint_as_float(got.x) != 2.f * float(steps + 1)) out->wrong = 1;
  if (polls <= 0) out->timed_out = 1;
}

// All blocks publish their part of `lines` and gather all of them into shared memory. Two buffers are enough: a block
// overwrites the lines of step s at s + 2, when it holds those of s + 1 of every block, which published them after its
// own barrier, behind the last of its reads of step s. The same holds for the copies in shared memory.
template <int batch>  // lines that a thread asks for at a time
__global__ void __launch_bounds__(256) gather(int steps, int lines, uint4* buffers, Sample* out) {
  extern __shared__ uint4 gathered[];
  const int t = int(threadIdx.x), threads = int(blockDim.x);
  const int begin = lines * int(blockIdx.x) / int(gridDim.x);
  const int end = lines * (int(blockIdx.x) + 1) / int(gridDim.x);
  const int other = (t + lines / 2) % lines;  // a line that, mostly, another thread gathers
  int polls = kPolls;
  float value = 0;
  const auto exchange = [&](unsigned tag) {
    uint4* const buffer = buffers + (tag & 1) * unsigned(lines);
    uint4* const copy = gathered + (tag & 1) * unsigned(lines);
    for (int i = begin + t; i < end; i += threads) publish(buffer + i, value + 1.f, tag);
    for (int first = t; first < lines; first += batch * threads) {
      uint4 got[batch];
      bool missing;
#pragma unroll
      for (int j = 0; j < batch; ++j) got[j].w = first + j * threads < lines ? tag - 1 : tag;
      do {
        missing = false;
#pragma unroll
        for (int j = 0; j < batch; ++j)
          if (got[j].w != tag) got[j] = look(buffer + first + j * threads);
#pragma unroll
        for (int j = 0; j < batch; ++j) missing |= got[j].w != tag;
      } while (missing && --polls > 0);
#pragma unroll
      for (int j = 0; j < batch; ++j)
        if (first + j * threads < lines) copy[first + j * threads] = got[j];
    }
    __syncthreads();
    value = __uint_as_float(copy[other].x);
  };
  exchange(1);
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 0; s < steps; ++s) exchange(unsigned(s) + 2);
  watch.stop(out);
  const unsigned last = unsigned(steps) + 1;
  for (int i = t; i < lines; i += threads)
    if (__uint_as_float(gathered[(last & 1) * unsigned(lines) + i].x) != float(last))
      out->wrong = 1;
  if (polls <= 0) out->timed_out = 1;
}

// ---- cluster: through distributed shared memory -------------------------------------------------------------------------

template <bool relaxed>
__device__ __forceinline__ void cluster_barrier() {
  __syncwarp();  // .aligned: the whole warp is here
  if (relaxed) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  else asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

template <bool relaxed>
__global__ void __launch_bounds__(256) cluster_sync(int steps, Sample* out) {
  cluster_barrier<false>();
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 0; s < steps; ++s) cluster_barrier<relaxed>();
  watch.stop(out);
}

__device__ __forceinline__ void arm(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
               "r"(bytes)
               : "memory");
}
// Acquiring for the cluster, as PTX would have it, costs an invalidation of L1 after each wait; for the block it costs
// nothing, and is what CUTLASS does.
template <bool wide>
__device__ __forceinline__ bool complete(uint32_t barrier, unsigned parity) {
  unsigned done;
  if (!wide)
    asm volatile(
        "{\n .reg .pred p;\n mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  else
    asm volatile(
        "{\n .reg .pred p;\n mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], "
        "%2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  return done != 0;
}

// Four floats to a peer; with the news of their bytes to its mbarrier, or without.
__device__ __forceinline__ void push_async(uint32_t to, float v, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %1, %1, %1}, "
      "[%2];" ::"r"(to),
      "f"(v), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void push_store(uint32_t to, float v) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %1, %1, %1};" ::"r"(to), "f"(v) : "memory");
}

// st.async of 16 bytes each, with waits that acquire for the cluster or for the block; or ordinary stores and a barrier of
// the cluster.
enum class Push { kAsync, kAsyncBlock, kStore };

// Every block sends its part of `bytes` to all blocks of its cluster, itself among them, and reads what came. Step s uses
// buffer and mbarrier s & 1. A phase of an mbarrier is armed two steps ahead, before the block sends step s + 1: no peer
// sends step s + 2 before it has that, so no byte finds its phase unarmed or the phase before it open, and no buffer is
// overwritten that a thread still reads. `bytes` is a power of two, the cluster's size too.
template <Push push>
__global__ void __launch_bounds__(256) exchange(int steps, int bytes, Sample* out) {
  extern __shared__ __align__(128) unsigned char buffers[];  // [2][bytes]
  __shared__ __align__(8) uint64_t ready[2];
  const auto cluster = cooperative_groups::this_cluster();
  const int t = int(threadIdx.x), threads = int(blockDim.x);
  const int rank = int(cluster.block_rank()), size = int(cluster.num_blocks());
  const int part = bytes / 16 / size, shift = __ffs(part) - 1;  // vectors
  const uint32_t barriers = shared_address(ready), data = shared_address(buffers);
  if (push != Push::kStore && t == 0) {
    for (uint32_t b = 0; b < 2; ++b)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers + 8 * b) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    for (uint32_t b = 0; b < 2; ++b) arm(barriers + 8 * b, bytes);
  }
  __syncthreads();
  cluster_barrier<false>();  // all blocks run and have their mbarriers

  const long long deadline = clock64() + kDeadline;
  bool late = false;  // then this thread neither sends nor waits any more
  float value = 0;
  const Stopwatch watch;
#pragma unroll 1
  for (int s = 0; s < steps; ++s) {
    const uint32_t b = uint32_t(s) & 1, buffer = data + b * uint32_t(bytes);
    const uint32_t mine = buffer + uint32_t(rank * part) * 16, barrier = barriers + 8 * b;
    for (int i = t; i < part * size && !late; i += threads) {
      // Blocks begin with different peers, lest all send to the same one at once.
      const uint32_t peer = uint32_t(((i >> shift) + rank) & (size - 1));
      const uint32_t to = in_block(mine + uint32_t(i & (part - 1)) * 16, peer);
      if (push != Push::kStore) push_async(to, value + 1.f, in_block(barrier, peer));
      else push_store(to, value + 1.f);
    }
    if (push == Push::kStore) cluster_barrier<false>();
    else
      while (!late && !complete<push == Push::kAsync>(barrier, unsigned(s >> 1) & 1))
        late = clock64() > deadline;
    asm volatile("ld.shared::cta.f32 %0, [%1];"
                 : "=f"(value)
                 : "r"(buffer + (uint32_t(t * 16) & uint32_t(bytes - 1)))
                 : "memory");
    if (push != Push::kStore) {
      if (t == 0 && s + 2 < steps) arm(barrier, bytes);
      __syncthreads();
    }
  }
  watch.stop(out);
  const unsigned char* const last = buffers + size_t((steps - 1) & 1) * size_t(bytes);
  for (int i = t * 16; i < bytes; i += threads * 16)
    if (*reinterpret_cast<const float*>(last + i) != float(steps)) out->wrong = 1;
  if (late) {
    out->timed_out = 1;
    __nanosleep(100'000);  // what was sent and not waited for comes to rest
  }
  cluster_barrier<false>();  // no block leaves while a peer may still write to it
}

// ---- The host's side ----------------------------------------------------------------------------------------------------

void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  (void)cudaGetLastError();
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(code));
}
#define CHECK(call) check(call, #call)

template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : bytes_(count * sizeof(T)) {
    CHECK(cudaMalloc(&at_, bytes_));
    zero();
  }
  ~Buffer() { (void)cudaFree(at_); }
  Buffer(const Buffer&) = delete;
  void operator=(const Buffer&) = delete;
  void zero() { CHECK(cudaMemset(at_, 0, bytes_)); }
  T* get() const { return static_cast<T*>(at_); }
  size_t bytes() const { return bytes_; }

 private:
  void* at_ = nullptr;
  size_t bytes_;
};

// The text of a format, with ' for the " of JSON.
template <class... A>
std::string form(const char* format, A... args) {
  char text[512];
  std::snprintf(text, sizeof text, format, args...);
  std::string quoted = text;
  std::replace(quoted.begin(), quoted.end(), '\'', '"');
  return quoted;
}

// Prints a line with what `result` returns. A context that a kernel broke is given up, and the next measurement begins with
// a new one; so what a measurement needs it makes for itself.
template <class Result>
void attempt(const std::string& measure, const Result& result) {
  std::string fields;
  try {
    fields = result();
  } catch (const std::exception& e) {
    std::string what = e.what();
    for (char& c : what) c = c == '"' || c == '\'' || c == '\\' ? '`' : c;
    fields = form("'error': '%.400s'", what.c_str());
    if (cudaDeviceSynchronize() != cudaSuccess) (void)cudaDeviceReset();
    (void)cudaGetLastError();
  }
  std::printf("{\"measure\": %s, %s}\n", measure.c_str(), fields.c_str());
  std::fflush(stdout);
}

std::string value(double v, const char* unit) {
  return form("'value': %.6g, 'unit': '%s'", v, unit);
}

struct Shape {
  int blocks, threads;
  size_t shared = 0;
  int cluster = 0;  // 0: a cooperative launch
};

struct Config : cudaLaunchConfig_t {
  cudaLaunchAttribute attribute{};
  template <class Kernel>
  Config(Kernel* kernel, const Shape& s) : cudaLaunchConfig_t{} {
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(s.shared)));
    if (s.cluster > 8)
      CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    gridDim = dim3(unsigned(s.blocks)), blockDim = dim3(unsigned(s.threads));
    dynamicSmemBytes = s.shared;
    stream = cudaStreamPerThread;
    attrs = &attribute, numAttrs = 1;
    attribute.id = s.cluster ? cudaLaunchAttributeClusterDimension : cudaLaunchAttributeCooperative;
    if (s.cluster) attribute.val.clusterDim = {unsigned(s.cluster), 1, 1};
    else attribute.val.cooperative = 1;
  }
  Config(const Config&) = delete;
};

template <class... P, class... A>
void launch(void (*kernel)(P...), const Shape& shape, A... args) {
  const Config config(kernel, shape);
  CHECK(cudaLaunchKernelEx(&config, kernel, P(args)...));
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct Timing {
  double cycles, ns;
  std::string text() const { return value(cycles, "cycles") + form(", 'ns': %.6g", ns); }
};

// The time of one of `operations` in the kernel that run(Sample*) launches.
template <class Run>
Timing timed(double operations, const Run& run) {
  Buffer<Sample> sample(1);
  std::vector<double> cycles, ns;
  for (int r = 0; r <= kRepeats; ++r) {
    sample.zero();
    run(sample.get());
    Sample got{};
    CHECK(cudaMemcpy(&got, sample.get(), sizeof got, cudaMemcpyDeviceToHost));
    if (got.timed_out) throw std::runtime_error("timed out");
    if (got.wrong) throw std::runtime_error("wrong values came out");
    if (r == 0) continue;
    cycles.push_back(double(got.cycles) / operations);
    ns.push_back(double(got.ns) / operations);
  }
  return {median(cycles), median(ns)};
}
template <class Run>
void attempt_timed(const std::string& measure, double operations, const Run& run) {
  attempt(measure, [&] { return timed(operations, run).text(); });
}

// Microseconds on the device of what `run` puts on the stream.
template <class Run>
double evented(const Run& run) {
  cudaEvent_t from, to;
  CHECK(cudaEventCreate(&from));
  CHECK(cudaEventCreate(&to));
  std::vector<double> all;
  for (int r = 0; r <= kRepeats; ++r) {
    CHECK(cudaEventRecord(from, cudaStreamPerThread));
    run();
    CHECK(cudaEventRecord(to, cudaStreamPerThread));
    CHECK(cudaEventSynchronize(to));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, from, to));
    if (r) all.push_back(ms * 1e3);
  }
  return median(all);
}

int sms = 0;  // multiprocessors of the device

// ---- The groups ---------------------------------------------------------------------------------------------------------

void measure_launch() {
  for (const bool graphed : {false, true})
    for (const int blocks : {1, sms}) {
      const char* const how = graphed ? "graph" : "stream";
      attempt(form("'launch_%s', 'blocks': %d, 'threads': 256", how, blocks), [&] {
        const int kernels = 1000;
        const auto each = [&] {
          for (int i = 0; i < kernels; ++i)
            empty<<<unsigned(blocks), 256, 0, cudaStreamPerThread>>>();
          CHECK(cudaGetLastError());
        };
        if (!graphed) return value(evented(each) / kernels, "us");
        cudaGraph_t graph;
        cudaGraphExec_t replay;
        CHECK(cudaStreamBeginCapture(cudaStreamPerThread, cudaStreamCaptureModeThreadLocal));
        each();
        CHECK(cudaStreamEndCapture(cudaStreamPerThread, &graph));
        CHECK(cudaGraphInstantiate(&replay, graph, 0));
        const auto whole = [&] { CHECK(cudaGraphLaunch(replay, cudaStreamPerThread)); };
        return value(evented(whole) / kernels, "us");
      });
    }
}

void measure_peak() {
  const int steps = 16384;
  attempt("\"ffma_one_sm\"", [&] {
    const auto run = [&](Sample* out) { launch(ffma_peak, {1, 1024}, steps, .5f, 1.f, out); };
    const Timing t = timed(steps, run);
    return value(1024 * 8 / t.cycles, "ffma/cycle") + form(", 'mhz': %.6g", t.cycles / t.ns * 1e3);
  });
  attempt("\"ffma_chip\"", [&] {
    Buffer<Sample> out(1);
    const auto run = [&] { launch(ffma_peak, {2 * sms, 1024}, 8 * steps, .5f, 1.f, out.get()); };
    return value(2. * 8 * steps * 8 * 2 * sms * 1024 / evented(run) * 1e-6, "tflop/s");
  });
  attempt("\"hbm_copy\"", [&] {
    Buffer<float4> from(size_t(1) << 26), to(size_t(1) << 26);  // 1 GiB each: far more than L2
    const double count = double(from.bytes());
    const auto run = [&] {
      launch(copy_vectors, {4 * sms, 512}, from.get(), to.get(), from.bytes() / sizeof(float4));
    };
    return value(2 * count / evented(run) * 1e-3, "gb/s");
  });
}

template <class Chain>
void measure_chain(const char* name, float seed, int threads = 32) {
  const int steps = 32768;
  attempt_timed(form("'%s', 'threads': %d", name, threads), steps,
                [&](Sample* out) { launch(chain<Chain>, {1, threads, 0, 1}, steps, seed, out); });
}

// Of a ring of nodes, or without any.
template <From from>
void measure_load(const char* name, unsigned nodes, size_t stride, int untimed = 0,
                  int blocks = 1) {
  attempt(form("'load_%s', 'bytes': %zu", name, nodes * stride), [&] {
    const int steps = 8192;
    Buffer<char> ring(nodes * stride + 1);
    Buffer<uint64_t> cursor(1);
    const auto start = reinterpret_cast<uint64_t>(ring.get());
    CHECK(cudaMemcpy(cursor.get(), &start, sizeof start, cudaMemcpyHostToDevice));
    if (nodes) launch(lay_ring, {int(nodes) / 256, 256}, ring.get(), nodes, stride);
    if (ring.bytes() > size_t(1) << 28) Buffer<char> evict(size_t(1) << 29);  // its zeros fill L2
    // Each run goes on where the one before ended, so that no node of the large ring comes twice.
    const auto run = [&](Sample* out) {
      launch(chase<from>, {blocks, nodes ? 1 : 32, 0, blocks}, untimed, steps, cursor.get(), out);
    };
    return timed(steps, run).text();
  });
}

void measure_latency() {
  for (const int threads : {32, 64, 128, 256, 512, 1024})
    measure_chain<Sync>("syncthreads", 0, threads);
  measure_chain<Ffma>("ffma", -.5f);
  measure_chain<Shuffle>("shfl_xor_and_add", 1);
  measure_chain<Tanhf>("tanhf_small", .3f);
  measure_chain<TanhfPlusOne>("tanhf_large_and_add", .9f);
  measure_chain<Expf>("expf", .5f);
  measure_chain<Ex2>("ex2_approx_and_mul", .5f);
  measure_chain<Rcp>("rcp_approx_and_add", .7f);
  measure_chain<TanhApprox>("tanh_approx", .5f);
  measure_chain<FastSigmoid>("fast_sigmoid", .5f);
  measure_chain<FastTanh>("fast_tanh", .5f);
  measure_load<From::kShared>("shared_8_bytes", 0, 0);
  measure_load<From::kSharedVector>("shared_16_bytes", 0, 0);
  measure_load<From::kPeer>("peer_shared_8_bytes", 0, 0, 0, 2);
  measure_load<From::kL1>("l1", 256, 64, 256);
  measure_load<From::kL2>("l2", 8192, 512, 8192);
  measure_load<From::kRelaxed>("l2_relaxed_gpu", 8192, 512, 8192);
  measure_load<From::kL2>("hbm", 65536, 8192);
}

template <int threads, int terms, bool scatter, bool fast>
void measure_one_step() {
  const std::string measure =
      form("'step', 'threads': %d, 'ffma_per_thread': %d, 'shuffles': %d, 'tanh': '%s'", threads,
           terms * 4, scatter ? 3 : 8, fast ? "fast" : "tanhf");
  attempt(measure, [&] {
    const int steps = 2000;
    std::vector<float> host(size_t(threads) * 4 * terms);
    for (size_t i = 0; i < host.size(); ++i) host[i] = float(int(i * 7919 % 1009) - 504) * 1e-4f;
    Buffer<float> weights(host.size());
    CHECK(cudaMemcpy(weights.get(), host.data(), weights.bytes(), cudaMemcpyHostToDevice));
    const auto run = [&](Sample* out) {
      launch(step<threads, terms, scatter, fast>, {1, threads}, steps, weights.get(), out);
    };
    return timed(steps, run).text();
  });
}

void measure_step() {
  measure_one_step<256, 16, true, true>();
  measure_one_step<256, 32, true, true>();
  measure_one_step<256, 32, true, false>();
  measure_one_step<256, 32, false, true>();
  measure_one_step<256, 48, true, true>();
  measure_one_step<256, 64, true, true>();
  measure_one_step<512, 16, true, true>();
  measure_one_step<512, 16, false, false>();
  measure_one_step<512, 64, true, true>();
}

void measure_grid() {
  const int steps = 1000;
  for (const int threads : {32, 64, 128, 256, 512, 1024})
    attempt_timed(form("'grid_sync', 'blocks': %d, 'threads': %d", sms, threads), steps,
                  [&](Sample* out) { launch(grid_sync, {sms, threads, kWholeSm}, steps, out); });
  for (const bool ordered : {true, false})
    for (const int blocks : {8, 16, 33, 66, 132}) {
      const char* const name = ordered ? "counter_barrier" : "counter_barrier_relaxed";
      attempt_timed(form("'%s', 'blocks': %d, 'threads': 256", name, blocks), steps,
                    [&](Sample* out) {
                      Buffer<unsigned> counter(1);
                      const auto kernel = ordered ? counter_barrier<true> : counter_barrier<false>;
                      launch(kernel, {blocks, 256, kWholeSm}, steps, counter.get(), out);
                    });
    }
}

void measure_handoff() {
  attempt("\"handoff_one_way\", \"bytes\": 16", [&] {
    const int steps = 500, partners = 16;
    Buffer<char> pages(size_t(sms) * 8192);
    std::vector<double> cycles, ns;
    for (int i = 0; i < partners; ++i) {
      const int partner = 1 + i * (sms - 2) / (partners - 1);
      const Timing t = timed(2 * steps, [&](Sample* out) {
        pages.zero();
        launch(ping_pong, {sms, 32, kWholeSm}, steps, partner, pages.get(), out);
      });
      cycles.push_back(t.cycles);
      ns.push_back(t.ns);
    }
    const auto ends = std::minmax_element(cycles.begin(), cycles.end());
    return Timing{median(cycles), median(ns)}.text() +
           form(", 'partners': %d, 'least': %.6g, 'most': %.6g", partners, *ends.first,
                *ends.second);
  });
}

void measure_gather() {
  const int steps = 1000;
  for (const int blocks : {2, 4, 8, 16, 32, 64, 132})
    for (const int kib : {1, 4, 16}) {
      const int lines = std::max(kib * 64, blocks);  // at least one for each block
      attempt(form("'l2_all_gather', 'blocks': %d, 'bytes': %d", blocks, lines * 16), [&] {
        Buffer<uint4> buffers(size_t(lines) * 2);
        const auto kernel = lines > 256 ? gather<4> : gather<1>;
        const auto run = [&](Sample* out) {
          buffers.zero();
          launch(kernel, {blocks, 256, kWholeSm}, steps, lines, buffers.get(), out);
        };
        return timed(steps, run).text();
      });
    }
}

int resident_clusters(int size, size_t shared) {
  int clusters = 0;
  const Config config(exchange<Push::kAsync>, {size, 256, shared, size});
  CHECK(cudaOccupancyMaxActiveClusters(&clusters, exchange<Push::kAsync>, &config));
  return clusters;
}

void measure_exchange(const char* way, void (*kernel)(int, int, Sample*), int size, bool full,
                      int bytes) {
  const char* const chip = full ? "full" : "idle";
  attempt(form("'cluster_all_gather', 'by': '%s', 'chip': '%s', 'cluster': %d, 'bytes': %d", way,
               chip, size, bytes),
          [&] {
            const int steps = 500, clusters = full ? resident_clusters(size, kWholeSm) : 1;
            const auto run = [&](Sample* out) {
              launch(kernel, {size * clusters, 256, kWholeSm, size}, steps, bytes, out);
            };
            return timed(steps, run).text() + form(", 'clusters': %d", clusters);
          });
}

void measure_cluster() {
  for (const int size : {2, 4, 8, 16}) {
    const int shared = 200 * 1024, steps = 1000;
    attempt(form("'resident_clusters', 'cluster': %d, 'shared': %d", size, shared),
            [&] { return value(resident_clusters(size, shared), "clusters"); });
    for (const bool relaxed : {false, true})
      attempt_timed(form("'cluster_barrier', 'relaxed': %d, 'cluster': %d", relaxed, size), steps,
                    [&](Sample* out) {
                      launch(relaxed ? cluster_sync<true> : cluster_sync<false>,
                             {size, 256, kWholeSm, size}, steps, out);
                    });
    for (const bool full : {false, true})
      for (int bytes = 1024; bytes <= 32768; bytes *= 2) {
        measure_exchange("st.async", exchange<Push::kAsync>, size, full, bytes);
        measure_exchange("st.async, acquire.cta", exchange<Push::kAsyncBlock>, size, full, bytes);
        measure_exchange("stores, barrier", exchange<Push::kStore>, size, full, bytes);
      }
  }
}

std::string describe() {
  cudaDeviceProp p{};
  int driver = 0, runtime = 0, khz = 0;
  CHECK(cudaGetDeviceProperties(&p, 0));
  CHECK(cudaDriverGetVersion(&driver));
  CHECK(cudaRuntimeGetVersion(&runtime));
  CHECK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
  sms = p.multiProcessorCount;
  // A fifth of a second of work, for the clock to rise.
  Buffer<Sample> out(1);
  for (int i = 0; i < 200; ++i) launch(ffma_peak, {2 * sms, 1024}, 16384, .5f, 1.f, out.get());
  CHECK(cudaDeviceSynchronize());
  return value(sms, "multiprocessors") + form(
                                             ", 'name': '%s', 'capability': '%d.%d', 'mhz': %d, "
                                             "'l2_bytes': %d, 'memory_bytes': %zu, "
                                             "'driver': %d, 'runtime': %d",
                                             p.name, p.major, p.minor, khz / 1000, p.l2CacheSize,
                                             p.totalGlobalMem, driver, runtime);
}

}  // namespace

int main(int argc, char** argv) {
  const struct {
    const char* name;
    void (*measure)();
  } groups[] = {{"peak", measure_peak},       {"launch", measure_launch},
                {"latency", measure_latency}, {"step", measure_step},
                {"grid", measure_grid},       {"handoff", measure_handoff},
                {"gather", measure_gather},   {"cluster", measure_cluster}};
  attempt("\"device\"", describe);
  if (!sms) return 1;
  for (const auto& group : groups) {
    const auto named = [&](const char* arg) { return std::strcmp(arg, group.name) == 0; };
    if (argc == 1 || std::any_of(argv + 1, argv + argc, named)) group.measure();
  }
}
