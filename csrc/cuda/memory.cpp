#include "memory.h"

#include <map>
#include <mutex>
#include <vector>

#include "device.h"

namespace rnnfast::cuda {
namespace {

// Of a device's memory, how much may stay with us between calls; the rest is other programs'.
constexpr size_t kKeptFraction = 8;

// Never destroyed: when a program ends, CUDA may be gone before us.
struct Kept {
  std::mutex mutex;
  std::map<int, cudaMemPool_t> pools;
  std::map<int, std::vector<cudaStream_t>> streams;
};
Kept& kept() {
  static Kept* const all = new Kept;
  return *all;
}

cudaMemPool_t pool_of(int device) {
  const std::lock_guard<std::mutex> lock(kept().mutex);
  const auto at = kept().pools.find(device);
  if (at != kept().pools.end()) return at->second;
  int supported = 0;
  check(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device),
        "cudaDeviceGetAttribute");
  if (!supported)
    throw CudaError("device " + std::to_string(device) +
                    " has no memory pools (cudaMallocAsync), which arrays need that are not "
                    "PyTorch's");
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, device};
  cudaMemPool_t pool;
  check(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
  cudaDeviceProp device_properties;
  check(cudaGetDeviceProperties(&device_properties, device), "cudaGetDeviceProperties");
  unsigned long long bound = device_properties.totalGlobalMem / kKeptFraction;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &bound),
        "cudaMemPoolSetAttribute");
  return kept().pools[device] = pool;
}

}  // namespace

Stream::Stream(int device) : device_(device) {
  {
    const std::lock_guard<std::mutex> lock(kept().mutex);
    auto& free = kept().streams[device];
    if (!free.empty()) {
      stream_ = free.back();
      free.pop_back();
      return;
    }
  }
  const OnDevice here(device);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

Stream::~Stream() {
  if (!ours_) return;
  const std::lock_guard<std::mutex> lock(kept().mutex);
  kept().streams[device_].push_back(stream_);
}

void Stream::synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

void Stream::wait_for(cudaStream_t other) const {
  if (other == stream_) return;
  const OnDevice here(device_);
  cudaEvent_t done;
  check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  const cudaError_t recorded = cudaEventRecord(done, other);
  const cudaError_t waits = recorded ? recorded : cudaStreamWaitEvent(stream_, done, 0);
  // An event that is waited for lives until that is over.
  const cudaError_t destroyed = cudaEventDestroy(done);
  check(recorded, "cudaEventRecord");
  check(waits, "cudaStreamWaitEvent");
  check(destroyed, "cudaEventDestroy");
}

DeviceBlock::DeviceBlock(size_t bytes, const Stream& stream)
    : bytes_(bytes), device_(stream.device()), stream_(stream.get()) {
  if (bytes == 0) return;
  const OnDevice here(device_);
  const std::string call = "cudaMallocFromPoolAsync of " + std::to_string(bytes) +
                           " bytes on device " + std::to_string(device_);
  check(cudaMallocFromPoolAsync(&memory_, bytes, pool_of(device_), stream_), call.c_str());
}

DeviceBlock::~DeviceBlock() {
  // What fails here failed before and was reported; at the end of a program CUDA may be gone.
  if (memory_ && cudaFreeAsync(memory_, stream_) != cudaSuccess) cudaGetLastError();
}

void release_memory(int device) {
  check(cudaMemPoolTrimTo(pool_of(device), 0), "cudaMemPoolTrimTo");
}

}  // namespace rnnfast::cuda
