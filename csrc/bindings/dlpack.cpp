#include "dlpack.h"

#include <memory>
#include <string>
#include <utility>

namespace rnnfast::cuda {
namespace {

using namespace dlpack;

// Whoever takes a capsule gives it the other name.
constexpr const char *kName = "dltensor", *kUsedName = "used_dltensor";

// What a capsule of ours points at.
struct Exported {
  DLManagedTensor managed;
  py::object owner;
  std::vector<int64_t> shape, strides;
};
void release_exported(DLManagedTensor* managed) {
  const py::gil_scoped_acquire gil;
  delete static_cast<Exported*>(managed->context);
}

void release(DLManagedTensor* managed) {
  if (managed->deleter) managed->deleter(managed);
}

py::dtype dtype_of(const DLTensor& t) {
  const char* kind = nullptr;
  switch (t.type_code) {
    case kInt:
      kind = "i";
      break;
    case kUInt:
      kind = "u";
      break;
    case kFloating:
      kind = "f";
      break;
    case kBoolean:
      kind = "b";
      break;
    default:
      break;
  }
  if (!kind || t.type_lanes != 1 || t.type_bits % 8)
    throw py::type_error("a DLPack type of code " + std::to_string(t.type_code) + ", " +
                         std::to_string(t.type_bits) + " bits and " + std::to_string(t.type_lanes) +
                         " lanes");
  return py::dtype(kind + std::to_string(t.type_bits / 8));
}

}  // namespace

py::capsule to_dlpack(py::object owner, uintptr_t pointer, const std::vector<int64_t>& shape,
                      const std::vector<int64_t>& strides, const py::dtype& dtype, int device) {
  auto made = std::make_unique<Exported>();
  made->owner = std::move(owner);
  made->shape = shape;
  made->strides = strides;
  DLTensor& t = made->managed.tensor;
  t.data = reinterpret_cast<void*>(pointer);
  t.device_type = kCuda;
  t.device_id = device;
  t.ndim = int32_t(shape.size());
  const char kind = dtype.kind();
  t.type_code = kind == 'i' ? kInt : kind == 'u' ? kUInt : kind == 'b' ? kBoolean : kFloating;
  t.type_bits = uint8_t(dtype.itemsize() * 8);
  t.type_lanes = 1;
  t.shape = made->shape.data();
  t.strides = made->strides.data();
  t.byte_offset = 0;
  made->managed.context = made.get();
  made->managed.deleter = release_exported;
  PyObject* capsule = PyCapsule_New(&made->managed, kName, [](PyObject* self) {
    // Nobody took it.
    if (PyCapsule_IsValid(self, kName))
      release(static_cast<DLManagedTensor*>(PyCapsule_GetPointer(self, kName)));
  });
  if (!capsule) throw py::error_already_set();
  made.release();
  return py::reinterpret_steal<py::capsule>(capsule);
}

py::tuple from_dlpack(const py::capsule& capsule) {
  auto* const managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kName));
  if (!managed) throw py::error_already_set();
  const DLTensor& t = managed->tensor;
  const py::dtype dtype = dtype_of(t);
  py::tuple shape(size_t(t.ndim)), strides(size_t(t.ndim));
  int64_t dense = 1;
  for (int32_t axis = t.ndim - 1; axis >= 0; --axis) {
    shape[size_t(axis)] = t.shape[axis];
    strides[size_t(axis)] = t.strides ? t.strides[axis] : dense;
    dense *= t.shape[axis];
  }
  const auto pointer = reinterpret_cast<uintptr_t>(t.data) + uintptr_t(t.byte_offset);
  // From here on it is ours to release.
  const py::capsule owner(managed, [](void* of) { release(static_cast<DLManagedTensor*>(of)); });
  if (PyCapsule_SetName(capsule.ptr(), kUsedName)) throw py::error_already_set();
  return py::make_tuple(owner, pointer, shape, strides, dtype);
}

}  // namespace rnnfast::cuda
