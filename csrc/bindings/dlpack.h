// DLPack: arrays handed from one library to another, by a struct whose layout is agreed upon. A capsule that holds it is
// version 0, the one that every library reads; the functions of an exchange are version 1.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

namespace rnnfast::dlpack {

// The agreed layout.
struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape, *strides;  // strides in elements; null: C-contiguous
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
struct DLVersion {
  uint32_t major, minor;
};
struct DLManagedTensorVersioned {
  DLVersion version;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor tensor;
};
// What a library offers for its own class of arrays: `__dlpack_c_exchange_api__` of the class, a capsule. Its functions
// return 0, or -1 with a Python error set.
struct DLExchange {
  DLVersion version;  // another `major` has another layout from here on
  void* older;
  void (*allocate)();                                          // not called here
  void (*share)();                                             // not called here
  int (*to_object)(DLManagedTensorVersioned*, void** object);  // takes the tensor over
  int (*look)(void* object, DLTensor* out);  // of the object, valid as long as nothing changes it
  void (*stream)();                          // not called here
};
constexpr uint32_t kMajor = 1;
constexpr const char* kExchangeName = "dlpack_exchange_api";

constexpr int32_t kCpu = 1, kCuda = 2;
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloating = 2, kBoolean = 6 };

}  // namespace rnnfast::dlpack

namespace rnnfast::cuda {

namespace py = pybind11;

// A capsule of the memory at `pointer`; `owner` is kept alive by whoever takes it. Strides in elements.
py::capsule to_dlpack(py::object owner, uintptr_t pointer, const std::vector<int64_t>& shape,
                      const std::vector<int64_t>& strides, const py::dtype& dtype, int device);

// Take what is in a capsule: (owner, pointer, shape, strides, dtype).
py::tuple from_dlpack(const py::capsule& capsule);

}  // namespace rnnfast::cuda
