// PyTorch's tensors without PyTorch's libraries: by the functions that its class offers to whoever exchanges arrays with
// it. Around one step of a small layer the same questions, asked from Python, take longer than the step.
#pragma once
#include <array>
#include <memory>

#include "arrays.h"
#include "dlpack.h"

namespace rnnfast {

using TensorView = dlpack::DLTensor;

// Memory for a tensor to be made of, and in front of it what PyTorch is told of it: all in one block. 64-byte aligned,
// as PyTorch's own.
struct Made;
struct FreeMade {
  void operator()(Made* made) const;
};
using TensorMemory = std::unique_ptr<Made, FreeMade>;
TensorMemory tensor_memory(size_t bytes);  // throws std::bad_alloc
void* data_of(const TensorMemory& memory);

class Tensors {
 public:
  // Of torch.Tensor. Nothing can be asked where PyTorch offers no such functions (before 2.10), or other ones.
  explicit Tensors(py::handle type);
  explicit operator bool() const { return exchange_ != nullptr; }

  // A tensor proper, whose class has no say in what is done with it.
  bool plain(py::handle t) const { return Py_TYPE(t.ptr()) == type(); }
  // Whether its memory holds the negative of its numbers, of which a view tells nothing.
  bool negated(py::handle t) const;
  bool needs_grad(py::handle t) const;
  // Strided, in this process's memory. False for anything else.
  bool look(py::handle t, TensorView& v) const;

  // A new tensor on memory that it takes over. Strides in elements. Null where PyTorch refuses.
  py::object make(TensorMemory memory, int type, const std::array<Index, 3>& shape,
                  const std::array<Index, 3>& strides) const;

 private:
  PyTypeObject* type() const { return reinterpret_cast<PyTypeObject*>(type_.ptr()); }

  py::object type_, is_neg_, requires_grad_;
  const dlpack::DLExchange* exchange_ = nullptr;
};

// Whether a view is C-contiguous, of this dtype (NumPy's number of it) and shape.
bool lies_dense(const TensorView& v, int type, std::initializer_list<Index> shape);

}  // namespace rnnfast
