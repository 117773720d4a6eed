// The part of CUDA's runtime that rnnfast uses, on a device that is not there: memory is the host's, streams are done as
// soon as they are given work, kernels run in simt.h's threads before a launch returns.
//
//   SIMT_DEVICE      none: a driver and no device. no-driver. old-driver. old: a device older than any code here
//   SIMT_CAPABILITY  as 9.0, the default; SIMT_DEVICES, SIMT_MULTIPROCESSORS, SIMT_MEMORY (bytes): numbers
//   SIMT_FAIL        as cudaMemcpyAsync=700: every call of that function fails with that code
//   SIMT_CAPTURING   1: as if a graph were captured: what waits for the device, or needs the host's memory, fails
//   SIMT_SEED        the order of threads; SIMT_PATIENCE seconds before threads that only wait are a deadlock
//
// Read at each call, so that a test may change them.
#pragma once
#include "simt.h"

// Numbers and words are CUDA's.
#define SIMT_ERRORS(X)                                                                            \
  X(Success, 0, "no error")                                                                       \
  X(ErrorInvalidValue, 1, "invalid argument")                                                     \
  X(ErrorMemoryAllocation, 2, "out of memory")                                                    \
  X(ErrorInvalidConfiguration, 9, "invalid configuration argument")                               \
  X(ErrorInsufficientDriver, 35, "CUDA driver version is insufficient for CUDA runtime version")  \
  X(ErrorNoDevice, 100, "no CUDA-capable device is detected")                                     \
  X(ErrorInvalidDevice, 101, "invalid device ordinal")                                            \
  X(ErrorNoKernelImageForDevice, 209, "no kernel image is available for execution on the device") \
  X(ErrorInvalidResourceHandle, 400, "invalid resource handle")                                   \
  X(ErrorIllegalAddress, 700, "an illegal memory access was encountered")                         \
  X(ErrorLaunchFailure, 719, "unspecified launch failure")                                        \
  X(ErrorCooperativeLaunchTooLarge, 720, "too many blocks in cooperative launch")                 \
  X(ErrorStreamCaptureUnsupported, 900, "operation not permitted when stream is capturing")
enum cudaError_t {
#define X(name, number, text) cuda##name = number,
  SIMT_ERRORS(X)
#undef X
};

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaMemPool_t = struct CUmemPoolHandle_st*;
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;
enum cudaMemoryType {
  cudaMemoryTypeUnregistered,
  cudaMemoryTypeHost,
  cudaMemoryTypeDevice,
  cudaMemoryTypeManaged
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaDeviceAttr { cudaDevAttrMemoryPoolsSupported = 115 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };

struct cudaMemLocation {
  cudaMemLocationType type;
  int id;
};
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  cudaMemLocation location;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount, l2CacheSize, warpSize;
  size_t sharedMemPerBlock, sharedMemPerBlockOptin, totalGlobalMem;
};

const char* cudaGetErrorString(cudaError_t code);
const char* cudaGetErrorName(cudaError_t code);
cudaError_t cudaGetLastError();
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes);
cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream);
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);

enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative = 2 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  union {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace simt {
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*body)(const void*),
                   const void* arguments);
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  // Each thread of the grid has the parameters by value.
  const auto call = [&, kernel](Parameters... values) {
    const auto body = [&] { kernel(values...); };
    using Body = decltype(body);
    return simt::launch(
        *config, reinterpret_cast<const void*>(kernel),
        [](const void* b) { (*static_cast<Body*>(b))(); }, &body);
  };
  return call(static_cast<Arguments&&>(arguments)...);
}
