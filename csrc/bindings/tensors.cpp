#include "tensors.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

namespace rnnfast {
namespace {

using namespace dlpack;

// Whether a question of PyTorch's is answered by "no" and nothing else.
bool said_no(PyObject* answer) {
  if (!answer) PyErr_Clear();
  Py_XDECREF(answer);
  return answer == Py_False;
}

}  // namespace

struct Made {
  DLManagedTensorVersioned managed;
  int64_t shape[3], strides[3];
  AlignedBlock block;  // null: the memory is behind this
};

// A small block is malloc's, which has an aligned one at several times the price: three of them would take 0.2
// microseconds more.
TensorMemory tensor_memory(size_t bytes) {
  constexpr size_t kAlign = 64;
  const bool apart = bytes >= kWaits;
  void* const p = std::malloc(sizeof(Made) + (apart ? 0 : kAlign + bytes));
  if (!p) throw std::bad_alloc();
  TensorMemory memory(new (p) Made{});
  void* data = memory.get() + 1;
  if (apart) {
    memory->block = allocate_aligned(bytes);
    data = memory->block.get();
  } else {
    size_t room = kAlign + bytes;
    data = std::align(kAlign, bytes, data, room);
  }
  memory->managed.tensor.data = data;
  return memory;
}

void FreeMade::operator()(Made* made) const {
  made->~Made();
  std::free(made);
}

void* data_of(const TensorMemory& memory) { return memory->managed.tensor.data; }

Tensors::Tensors(py::handle type) : type_(py::reinterpret_borrow<py::object>(type)) {
  if (!PyType_Check(type.ptr())) return;
  const py::object capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
  is_neg_ = py::getattr(type, "is_neg", py::none());
  requires_grad_ = py::reinterpret_steal<py::object>(PyUnicode_InternFromString("requires_grad"));
  if (!PyCapsule_IsValid(capsule.ptr(), kExchangeName)) return;
  const auto* found =
      static_cast<const DLExchange*>(PyCapsule_GetPointer(capsule.ptr(), kExchangeName));
  if (found->version.major == kMajor && found->look && found->to_object) exchange_ = found;
}

bool Tensors::negated(py::handle t) const {
  PyObject* const argument = t.ptr();
  return !said_no(PyObject_Vectorcall(is_neg_.ptr(), &argument, 1, nullptr));
}

bool Tensors::needs_grad(py::handle t) const {
  return !said_no(PyObject_GetAttr(t.ptr(), requires_grad_.ptr()));
}

bool Tensors::look(py::handle t, TensorView& v) const {
  if (exchange_->look(t.ptr(), &v) != 0) {
    PyErr_Clear();
    return false;
  }
  if (v.device_type != kCpu || !v.data) return false;
  v.data = static_cast<char*>(v.data) + v.byte_offset;
  return true;
}

py::object Tensors::make(TensorMemory memory, int type, const std::array<Index, 3>& shape,
                         const std::array<Index, 3>& strides) const {
  std::copy_n(shape.begin(), 3, memory->shape);
  std::copy_n(strides.begin(), 3, memory->strides);
  DLManagedTensorVersioned& m = memory->managed;
  m.version = {kMajor, 0};
  m.context = memory.get();
  m.deleter = [](DLManagedTensorVersioned* self) { FreeMade{}(static_cast<Made*>(self->context)); };
  DLTensor& t = m.tensor;
  t.device_type = kCpu;
  t.ndim = 3;
  t.type_code = kFloating;
  t.type_bits = type == kFloat ? 32 : 64;
  t.type_lanes = 1;
  t.shape = memory->shape;
  t.strides = memory->strides;
  void* object = nullptr;
  // Where it fails, nothing says whether the deleter was called: rather lose the memory than free it twice.
  if (exchange_->to_object(&memory.release()->managed, &object) != 0) {
    PyErr_Clear();
    return {};
  }
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

bool lies_dense(const TensorView& v, int type, std::initializer_list<Index> shape) {
  if (v.type_code != kFloating || v.type_bits != (type == kFloat ? 32 : 64) || v.type_lanes != 1 ||
      v.ndim != int(shape.size()))
    return false;
  Index dense = 1;
  for (int axis = v.ndim - 1; axis >= 0; --axis) {
    const Index n = shape.begin()[axis];
    if (v.shape[axis] != n || (n != 1 && v.strides && v.strides[axis] != dense)) return false;
    dense *= n;
  }
  return true;
}

}  // namespace rnnfast
