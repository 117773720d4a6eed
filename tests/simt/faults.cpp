// Small kernels for test_simt.py, right ones and each with one fault. `faults NAME` runs one and says "right", "wrong"
// or what was reported.
#include <cuda_runtime.h>

#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "../../csrc/cuda/launch.h"
#include "../../csrc/cuda/tensor.h"

using namespace rnnfast::cuda;

namespace {

constexpr int kThreads = 96, kBlocks = 5;

struct Parameters {
  int* out;
  int n;
};

// Each thread gives its number to another, by way of shared memory.
template <bool barrier>
RNNFAST_GLOBAL(kThreads, 1)
exchange(Parameters p) {
  RNNFAST_SHARED(int, numbers);
  const int t = int(threadIdx.x);
  numbers[t] = t;
  if (barrier) __syncthreads();
  p.out[blockIdx.x * kThreads + t] = numbers[kThreads - 1 - t];
}

// The same twice through one array: the second barrier keeps a fast thread from writing what a slow one still reads.
template <bool barrier>
RNNFAST_GLOBAL(kThreads, 1)
exchange_twice(Parameters p) {
  RNNFAST_SHARED_ARRAY(int[kThreads], numbers);
  const int t = int(threadIdx.x);
  int mine = t;
  for (int i = 0; i < 3; ++i) {
    numbers[t] = mine;
    __syncthreads();
    mine = numbers[kThreads - 1 - t];
    if (barrier) __syncthreads();
  }
  p.out[blockIdx.x * kThreads + t] = mine;
}

// Within a warp there is an order only where __syncwarp makes one.
template <bool barrier>
RNNFAST_GLOBAL(kThreads, 1)
exchange_in_warp(Parameters p) {
  RNNFAST_SHARED(int, numbers);
  const int t = int(threadIdx.x), first = t / 32 * 32;
  numbers[t] = t;
  if (barrier) __syncwarp();
  const int other = numbers[first + 31 - (t - first)];
  p.out[blockIdx.x * kThreads + t] = other + kThreads - 1 - 2 * first - 31;
}

// A sum over a warp: 31 * 32 / 2 in every lane, if every distance is taken.
template <int last>
RNNFAST_GLOBAL(kThreads, 1)
sum_of_warp(Parameters p) {
  const int t = int(threadIdx.x);
  int sum = t % 32;
  for (int d = 16; d >= last; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
  p.out[blockIdx.x * kThreads + t] = sum == 496 ? kThreads - 1 - t : -1;
}

// Small whole numbers, which every type has, and no two neighbours alike.
int left(int row, int k) { return (3 * row + 5 * k) % 11 - 5; }
int right(int k, int column) { return (7 * k + 2 * column) % 13 - 6; }

// The product of two matrices that a warp holds as fragments, of which `terms` are in a register.
template <class Number, class Register>
bool multiplies(Register hold) {
  const int l = int(threadIdx.x) % 32, g = l / 4, q = l % 4;
  constexpr int terms = sizeof(Number) == 2 ? 2 : 1;
  uint32_t a[4], b[2];
  for (int r = 0; r < 4; ++r) {
    a[r] = 0;
    for (int i = 0; i < terms; ++i)
      a[r] |= hold(left(g + r % 2 * 8, (r / 2 * 4 + q) * terms + i)) << 16 * i;
  }
  for (int r = 0; r < 2; ++r) {
    b[r] = 0;
    for (int i = 0; i < terms; ++i) b[r] |= hold(right((r * 4 + q) * terms + i, g)) << 16 * i;
  }
  float c[4] = {1, 2, 3, 4};
  multiply(c, a, b, Number{});
  bool good = true;
  for (int r = 0; r < 4; ++r) {
    int sum = r + 1;
    for (int k = 0; k < 8 * terms; ++k) sum += left(g + r / 2 * 8, k) * right(k, 2 * q + r % 2);
    good &= c[r] == float(sum);
  }
  return good;
}
template <class Number>
uint32_t stored(int x) {
  Number number;
  store(number, float(x));
  return number.bits;
}
RNNFAST_GLOBAL(kThreads, 1) tensor_cores(Parameters p) {
  const int t = int(threadIdx.x);
  bool good = multiplies<float>([](int x) { return to_tf32(float(x)); });
  good &= multiplies<bf16>(stored<bf16>);
  good &= multiplies<f16>(stored<f16>);
  // 10 bits behind the point, ties away from zero.
  good &= to_tf32(1 + 0x1p-11f) == to_tf32(1 + 0x1p-10f) && to_tf32(1 + 0x1p-12f) == to_tf32(1);
  good &= to_tf32(-1 - 0x1p-11f) == to_tf32(-1 - 0x1p-10f);
  p.out[blockIdx.x * kThreads + t] = good ? kThreads - 1 - t : -1;
}

// A warp multiplies together or not at all.
RNNFAST_GLOBAL(kThreads, 1) half_a_product(Parameters p) {
  const int t = int(threadIdx.x);
  if (t % 32 < 16) multiplies<bf16>(stored<bf16>);
  p.out[blockIdx.x * kThreads + t] = kThreads - 1 - t;
}

// Half warps shuffle by themselves, each with its own mask; then votes.
RNNFAST_GLOBAL(kThreads, 1) half_warps(Parameters p) {
  const int t = int(threadIdx.x), l = t % 32;
  const unsigned mask = l < 16 ? 0xffffu : 0xffff0000u;
  bool good = __shfl_down_sync(mask, l, 3, 16) == (l % 16 + 3 < 16 ? l + 3 : l);
  good &= __shfl_up_sync(mask, double(l), 1u, 16) == double(l % 16 ? l - 1 : l);
  if (l < 16) good &= __shfl_sync(mask, l, 5) == 5;
  __syncwarp();
  good &= __ballot_sync(~0u, l % 2) == 0xaaaaaaaau;
  good &= __any_sync(~0u, l == 7) && !__all_sync(~0u, l == 7);
  p.out[blockIdx.x * kThreads + t] = good ? kThreads - 1 - t : -1;
}

// Threads without work may leave; those that stay have the barrier to themselves.
RNNFAST_GLOBAL(kThreads, 1) leave_early(Parameters p) {
  RNNFAST_SHARED(int, numbers);
  const int t = int(threadIdx.x);
  int* const out = p.out + blockIdx.x * kThreads;
  if (t >= 40) {
    out[t] = kThreads - 1 - t;
    return;
  }
  numbers[t] = t;
  __syncthreads();
  out[t] = numbers[39 - t] + kThreads - 40;
  __syncwarp();
}

// A step of four at a time; `tail`: what is left.
template <bool tail>
RNNFAST_GLOBAL(kThreads, 1)
by_fours(Parameters p) {
  const int all = kThreads * kBlocks, i = 4 * int(blockIdx.x * kThreads + threadIdx.x);
  const int whole = tail ? all : all / 28 * 28;
  for (int k = i; k < i + 4 && k < whole; ++k) p.out[k] = kThreads - 1 - k % kThreads;
}

// Blocks that wait for each other.
RNNFAST_GLOBAL(kThreads, 1) grid_barrier(Parameters p) {
  const int t = int(threadIdx.x);
  int* arrived = p.out + kThreads * kBlocks;
  if (t == 0) {
    atomicAdd(arrived, 1);
    while (atomicAdd(arrived, 0) != int(gridDim.x) - 1)
      RNNFAST_SPIN();  // the memory begins with -1
  }
  __syncthreads();
  p.out[blockIdx.x * kThreads + t] = kThreads - 1 - t;
}

RNNFAST_GLOBAL(kThreads, 1) spin_for_ever(Parameters p) {
  if (threadIdx.x == 0)
    while (atomicAdd(p.out, 0) != 7) RNNFAST_SPIN();
}

RNNFAST_GLOBAL(kThreads, 1) divergent_barrier(Parameters) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

RNNFAST_GLOBAL(kThreads, 1) deadlock(Parameters) {
  if (threadIdx.x < 32 || threadIdx.x % 32 < 16) __syncthreads();
  else __syncwarp();
}

RNNFAST_GLOBAL(kThreads, 1) absent_lane(Parameters p) {
  if (threadIdx.x == 5) return;
  p.out[threadIdx.x] = __shfl_xor_sync(~0u, int(threadIdx.x), 1);
}

RNNFAST_GLOBAL(kThreads, 1) lane_outside_mask(Parameters p) {
  if (threadIdx.x < 16) p.out[threadIdx.x] = __shfl_sync(0xffffu, int(threadIdx.x), 20);
}

RNNFAST_GLOBAL(kThreads, 1) caller_outside_mask(Parameters p) {
  p.out[threadIdx.x] = __shfl_sync(0xffffu, int(threadIdx.x), 0);
}

RNNFAST_GLOBAL(kThreads, 1) different_shuffles(Parameters p) {
  if (threadIdx.x % 2) p.out[threadIdx.x] = __shfl_sync(~0u, int(threadIdx.x), 0);
  else p.out[threadIdx.x] = __shfl_sync(~0u, int(threadIdx.x), 1);
}

RNNFAST_GLOBAL(kThreads, 1) global_overrun(Parameters p) { p.out[p.n + threadIdx.x] = 1; }

RNNFAST_GLOBAL(kThreads, 1) dynamic_shared_overrun(Parameters p) {
  RNNFAST_SHARED(int, numbers);
  p.out[threadIdx.x] = numbers[threadIdx.x + 1];
}

RNNFAST_GLOBAL(kThreads, 1) shared_array_overrun(Parameters p) {
  RNNFAST_SHARED_ARRAY(int[8], numbers);
  int* const at = numbers;
  p.out[threadIdx.x] = at[threadIdx.x / 8];
}

// Two threads write one place; one of them reads it. Only ThreadSanitizer has a word for it.
RNNFAST_GLOBAL(kThreads, 1) race(Parameters p) {
  if (threadIdx.x < 2) p.out[0] = kThreads;
}
RNNFAST_GLOBAL(kThreads, 1) race_between_blocks(Parameters p) {
  if (threadIdx.x == 0) p.out[0] = kThreads;
}
// A shuffle brings lanes together but orders no memory.
RNNFAST_GLOBAL(kThreads, 1) shuffle_for_a_barrier(Parameters p) {
  RNNFAST_SHARED(int, numbers);
  const int t = int(threadIdx.x);
  numbers[t] = t;
  const int zero = __shfl_sync(~0u, 0, 0);
  p.out[t] = numbers[t ^ 1] + zero;
}

struct Run {
  int blocks = kBlocks, threads = kThreads;
  size_t shared = kThreads * sizeof(int);
  bool together = false;
};

using Kernel = void (*)(Parameters);
struct Case {
  Kernel kernel;
  Run run = {};
};

const std::map<std::string, Case> kCases = {
    {"exchange", {exchange<true>}},
    {"exchange_twice", {exchange_twice<true>}},
    {"exchange_in_warp", {exchange_in_warp<true>}},
    {"sum_of_warp", {sum_of_warp<1>}},
    {"half_warps", {half_warps}},
    {"leave_early", {leave_early}},
    {"tensor_cores", {tensor_cores}},
    {"by_fours", {by_fours<true>}},
    {"much_shared_memory", {exchange<true>, {kBlocks, kThreads, 200 << 10, false}}},
    {"grid_barrier", {grid_barrier, {kBlocks, kThreads, 0, true}}},
    {"missing_barrier", {exchange<false>}},
    {"missing_second_barrier", {exchange_twice<false>}},
    {"missing_warp_barrier", {exchange_in_warp<false>}},
    {"missing_lane", {sum_of_warp<2>}},
    {"dropped_tail", {by_fours<false>}},
    {"divergent_barrier", {divergent_barrier}},
    {"deadlock", {deadlock}},
    {"spin_for_ever", {spin_for_ever}},
    {"absent_lane", {absent_lane}},
    {"half_a_product", {half_a_product}},
    {"lane_outside_mask", {lane_outside_mask}},
    {"caller_outside_mask", {caller_outside_mask}},
    {"different_shuffles", {different_shuffles}},
    {"global_overrun", {global_overrun}},
    {"dynamic_shared_overrun", {dynamic_shared_overrun}},
    {"shared_array_overrun", {shared_array_overrun}},
    {"race", {race}},
    {"race_between_blocks", {race_between_blocks}},
    {"shuffle_for_a_barrier", {shuffle_for_a_barrier}},
    {"too_many_threads", {exchange<true>, {1, 1025}}},
    {"no_blocks", {exchange<true>, {0, kThreads}}},
    {"too_much_shared_memory", {exchange<true>, {1, kThreads, 228 << 10, false}}},
    {"too_many_blocks_together", {grid_barrier, {10000, kThreads, 0, true}}},
};

void start(const std::string& name, const Case& c, Parameters p) {
  const dim3 grid(unsigned(c.run.blocks)), block(unsigned(c.run.threads));
  if (!c.run.together) return launch(name.c_str(), c.kernel, grid, block, c.run.shared, nullptr, p);
  cudaLaunchAttribute together{cudaLaunchAttributeCooperative, {1}};
  const cudaLaunchConfig_t config{grid, block, c.run.shared, nullptr, &together, 1};
  check(cudaLaunchKernelEx(&config, c.kernel, p), "launch", name.c_str());
}

}  // namespace

int main(int count, char** names) {
  const auto at = count == 2 ? kCases.find(names[1]) : kCases.end();
  if (at == kCases.end()) {
    std::puts("faults NAME");
    return 2;
  }
  // One more than the results, for grid_barrier.
  const int n = kThreads * kBlocks + 1;
  void* out;
  check(cudaMalloc(&out, size_t(n) * sizeof(int)), "cudaMalloc");
  bool right = true;
  try {
    start(at->first, at->second, {static_cast<int*>(out), n});
    for (int i = 0; i < n - 1; ++i)
      right &= static_cast<int*>(out)[i] == kThreads - 1 - i % kThreads;
    std::puts(right ? "right" : "wrong");
  } catch (const CudaError& error) {
    std::puts(error.what());
  }
  check(cudaFree(out), "cudaFree");
  return 0;
}
