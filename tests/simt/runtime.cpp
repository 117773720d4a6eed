// The device that is not there: cuda_runtime.h says what its environment variables do.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#include "block.h"
#include "cuda_runtime.h"

namespace {

constexpr int kRuntime = 13000, kOldDriver = 11080;
constexpr size_t kSharedWithoutAsking = 48 << 10;
// As compute capability 9.0 has them.
constexpr size_t kShared = 227 << 10, kThreads = 1024;

thread_local cudaError_t last = cudaSuccess;
thread_local int current = 0;
// What the last kernel that failed in this thread did wrong.
thread_local std::string last_fault;

struct Allocation {
  size_t bytes;
  int device;
};
std::mutex mutex;
std::unordered_map<void*, Allocation> allocations;
std::map<int, size_t> used;
std::map<const void*, size_t> shared_allowed;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}
size_t number(const char* name, size_t otherwise) {
  const std::string value = environment(name);
  return value.empty() ? otherwise : std::stoull(value);
}

cudaError_t note(cudaError_t code) {
  if (code != cudaSuccess) last = code;
  return code;
}

// Whether this call is to fail, and why.
cudaError_t refused(const char* function) {
  const std::string device = environment("SIMT_DEVICE"), fail = environment("SIMT_FAIL");
  if (device == "none") return cudaErrorNoDevice;
  if (device == "no-driver" || device == "old-driver") return cudaErrorInsufficientDriver;
  if (!environment("SIMT_CAPTURING").empty())
    for (const char* waits :
         {"cudaMalloc", "cudaFree", "cudaStreamSynchronize", "copy of the host's"})
      if (!strcmp(function, waits)) return cudaErrorStreamCaptureUnsupported;
  const size_t equals = fail.find('=');
  if (equals != std::string::npos && fail.substr(0, equals) == function)
    return cudaError_t(std::stoi(fail.substr(equals + 1)));
  return cudaSuccess;
}

int devices() { return int(number("SIMT_DEVICES", 1)); }

cudaError_t allocate(void** pointer, size_t bytes, int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (used[device] + bytes > number("SIMT_MEMORY", size_t(1) << 40))
    return cudaErrorMemoryAllocation;
  // Exactly as much as was asked for, so that AddressSanitizer sees its end; the alignment is CUDA's.
  if (posix_memalign(pointer, 256, bytes)) return cudaErrorMemoryAllocation;
  memset(*pointer, simt::kNan, bytes);
  allocations[*pointer] = {bytes, device};
  used[device] += bytes;
  return cudaSuccess;
}
cudaError_t release(void* pointer) {
  if (!pointer) return cudaSuccess;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto at = allocations.find(pointer);
  if (at == allocations.end()) return cudaErrorInvalidValue;
  used[at->second.device] -= at->second.bytes;
  allocations.erase(at);
  std::free(pointer);
  return cudaSuccess;
}

}  // namespace

#define REFUSE(function) \
  if (const cudaError_t code = refused(#function)) return note(code)

const char* cudaGetErrorString(cudaError_t code) {
  if (code == cudaErrorLaunchFailure && !last_fault.empty()) return last_fault.c_str();
  switch (code) {
#define X(name, number, text) \
  case cuda##name:            \
    return text;
    SIMT_ERRORS(X)
#undef X
  }
  return "unrecognized error code";
}
const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
#define X(name, number, text) \
  case cuda##name:            \
    return "cuda" #name;
    SIMT_ERRORS(X)
#undef X
  }
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() {
  const cudaError_t code = last;
  last = cudaSuccess;
  return code;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kRuntime;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  const std::string device = environment("SIMT_DEVICE");
  *version = device == "no-driver" ? 0 : device == "old-driver" ? kOldDriver : kRuntime;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  REFUSE(cudaGetDeviceCount);
  *count = devices();
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  REFUSE(cudaGetDevice);
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  REFUSE(cudaSetDevice);
  if (device < 0 || device >= devices()) return note(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  REFUSE(cudaGetDeviceProperties);
  if (device < 0 || device >= devices()) return note(cudaErrorInvalidDevice);
  *p = {};
  const bool old = environment("SIMT_DEVICE") == "old";
  std::string capability = environment("SIMT_CAPABILITY");
  if (capability.empty()) capability = old ? "6.1" : "9.0";
  std::snprintf(p->name, sizeof p->name, "simulated device %s", capability.c_str());
  p->major = std::stoi(capability);
  p->minor = std::stoi(capability.substr(capability.find('.') + 1));
  p->multiProcessorCount = int(number("SIMT_MULTIPROCESSORS", 4));
  p->l2CacheSize = 50 << 20;
  p->warpSize = warpSize;
  p->sharedMemPerBlock = kSharedWithoutAsking;
  p->sharedMemPerBlockOptin = kShared;
  p->totalGlobalMem = number("SIMT_MEMORY", size_t(8) << 30);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  REFUSE(cudaDeviceGetAttribute);
  if (device < 0 || device >= devices()) return note(cudaErrorInvalidDevice);
  *value = 1;
  return cudaSuccess;
}

// A stream is its device's number plus one, and its own number.
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static uintptr_t next = 0;
  REFUSE(cudaStreamCreateWithFlags);
  const uintptr_t number = __atomic_add_fetch(&next, 1, __ATOMIC_RELAXED);
  *stream = reinterpret_cast<cudaStream_t>(uintptr_t(current + 1) << 32 | number);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  REFUSE(cudaStreamSynchronize);
  return cudaSuccess;
}

// Streams are done as soon as they are given work, so an event has nothing to tell; it is memory, for
// AddressSanitizer to see one that nobody destroys.
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  REFUSE(cudaEventCreateWithFlags);
  *event = static_cast<cudaEvent_t>(std::malloc(1));
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  REFUSE(cudaEventRecord);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  REFUSE(cudaStreamWaitEvent);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  REFUSE(cudaEventDestroy);
  std::free(event);
  return cudaSuccess;
}
// Memory that was not allocated here is the host's, as on a device; what an allocation holds is found by its start and
// size.
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  REFUSE(cudaPointerGetAttributes);
  *attributes = {cudaMemoryTypeUnregistered, -2};
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [start, made] : allocations) {
    const auto* first = static_cast<const char*>(start);
    const auto* at = static_cast<const char*>(pointer);
    if (at >= first && at < first + made.bytes) *attributes = {cudaMemoryTypeDevice, made.device};
  }
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  REFUSE(cudaMalloc);
  return note(allocate(pointer, bytes, current));
}
cudaError_t cudaFree(void* pointer) {
  REFUSE(cudaFree);
  return note(release(pointer));
}
// A pool is its device's number plus one. It keeps nothing.
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  REFUSE(cudaMemPoolCreate);
  *pool = reinterpret_cast<cudaMemPool_t>(uintptr_t(properties->location.id + 1));
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  REFUSE(cudaMemPoolSetAttribute);
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  REFUSE(cudaMemPoolTrimTo);
  return cudaSuccess;
}
cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t) {
  REFUSE(cudaMallocFromPoolAsync);
  return note(allocate(pointer, bytes, int(reinterpret_cast<uintptr_t>(pool)) - 1));
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) {
  REFUSE(cudaFreeAsync);
  return note(release(pointer));
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  REFUSE(cudaMemcpyAsync);
  if (kind != cudaMemcpyDeviceToDevice)
    if (const cudaError_t code = refused("copy of the host's")) return note(code);
  memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  REFUSE(cudaMemsetAsync);
  memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  REFUSE(cudaFuncSetAttribute);
  if (value < 0 || size_t(value) > kShared) return note(cudaErrorInvalidValue);
  const std::lock_guard<std::mutex> lock(mutex);
  shared_allowed[kernel] = size_t(value);
  return cudaSuccess;
}

cudaError_t simt::launch(const cudaLaunchConfig_t& config, const void* kernel,
                         void (*body)(const void*), const void* arguments) {
  REFUSE(cudaLaunchKernelEx);
  // As CUDA, which starts kernels on the current device alone.
  const uintptr_t of = reinterpret_cast<uintptr_t>(config.stream) >> 32;
  if (of && int(of) - 1 != current) return note(cudaErrorInvalidResourceHandle);
  const dim3 g = config.gridDim, b = config.blockDim;
  const uint64_t threads = uint64_t(b.x) * b.y * b.z;
  if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535 || !threads ||
      threads > kThreads || b.z > 64)
    return note(cudaErrorInvalidConfiguration);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto allowed = shared_allowed.find(kernel);
    if (config.dynamicSmemBytes >
        (allowed == shared_allowed.end() ? kSharedWithoutAsking : allowed->second))
      return note(cudaErrorInvalidValue);
  }
  cudaDeviceProp properties;
  if (const cudaError_t code = cudaGetDeviceProperties(&properties, current)) return code;
  if (properties.major < 8) return note(cudaErrorNoKernelImageForDevice);
  Grid grid{};
  for (unsigned i = 0; i < config.numAttrs; ++i)
    if (config.attrs[i].id == cudaLaunchAttributeCooperative)
      grid.together = config.attrs[i].val.cooperative != 0;
  if (grid.together) {
    // As many blocks at a time as their shared memory and 2048 threads leave room for.
    const size_t room = kShared + (1 << 10), wanted = config.dynamicSmemBytes + (1 << 10);
    const size_t resident =
        std::min(room / wanted, size_t(2048 / threads)) * size_t(properties.multiProcessorCount);
    if (uint64_t(g.x) * g.y * g.z > resident) return note(cudaErrorCooperativeLaunchTooLarge);
  }
  grid.dim = g;
  grid.block_dim = b;
  grid.shared_bytes = config.dynamicSmemBytes;
  grid.seed = unsigned(number("SIMT_SEED", 1));
  grid.body = body;
  grid.arguments = arguments;
  run(grid);
  if (!grid.faults) return cudaSuccess;
  last_fault = grid.fault;
  return note(cudaErrorLaunchFailure);
}
