// NumPy arrays as plain views, at a few nanoseconds each: py::array_t would cost ten times that and convert silently.
// A view that does not fit is no error here: the caller returns None and rnnfast/_shapes.py says in words what is
// wrong, or copies what needs copying.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <new>

#include "../api.h"
#include "../cpu/arena.h"

namespace rnnfast {

namespace py = pybind11;

// NumPy's type numbers.
constexpr int kBool = 0, kUint32 = 6, kFloat = 11, kDouble = 12;

struct View {
  void* data = nullptr;
  int nd = 0, type = 0, flags = 0;
  const Py_intptr_t *shape = nullptr, *strides = nullptr;

  explicit operator bool() const { return data != nullptr; }
  bool contiguous() const { return flags & 0x1; }
  bool writeable() const { return flags & 0x400; }
  Index stride(int axis, Index itemsize) const { return Index(strides[axis]) / itemsize; }
};

// An ndarray proper, in native byte order and aligned. type_num as NumPy numbers it.
inline bool view_of(py::handle h, View& v) {
  auto& api = py::detail::npy_api::get();
  if (Py_TYPE(h.ptr()) != reinterpret_cast<PyTypeObject*>(api.PyArray_Type_)) return false;
  const auto* a = py::detail::array_proxy(h.ptr());
  const auto* d = py::detail::array_descriptor_proxy(a->descr);
  if (d->byteorder == '>' || !(a->flags & 0x100)) return false;
  static char nothing;  // an empty array may have no memory at all
  v.data = a->data ? a->data : &nothing;
  v.nd = a->nd;
  v.type = d->type_num;
  v.flags = a->flags;
  v.shape = a->dimensions;
  v.strides = a->strides;
  return true;
}

template <class Real>
constexpr int type_number() {
  return sizeof(Real) == 4 ? kFloat : kDouble;
}

// A C-contiguous array of this shape, or null pointer for None. False where it is neither.
template <class Real>
bool optional_array(py::handle h, std::initializer_list<Index> shape, const Real*& out) {
  out = nullptr;
  if (h.is_none()) return true;
  View v;
  if (!view_of(h, v) || v.type != type_number<Real>() || !v.contiguous() ||
      v.nd != int(shape.size()))
    return false;
  int axis = 0;
  for (Index n : shape)
    if (v.shape[axis++] != n) return false;
  out = static_cast<const Real*>(v.data);
  return true;
}
template <class Real>
bool required_array(py::handle h, std::initializer_list<Index> shape, const Real*& out) {
  return optional_array(h, shape, out) && out;
}

// A (T, B, n) array with inner stride 1.
template <class Real>
bool sequence(const View& v, Sequence<Real>& out) {
  constexpr Index size = sizeof(Real);
  if (v.nd != 3) return false;
  if (v.shape[0] == 0 || v.shape[1] == 0 ||
      v.shape[2] == 0) {  // NumPy gives empty arrays any strides
    out = {static_cast<Real*>(v.data), 0, 0};
    return true;
  }
  if (v.shape[2] > 1 && v.strides[2] != size) return false;
  if (v.strides[0] % size || v.strides[1] % size) return false;
  out = {static_cast<Real*>(v.data), v.stride(0, size), v.stride(1, size)};
  return true;
}

// A flat (N, n) array of sequences one behind the other; `start` has the first row of each.
template <class Real>
bool flat_sequence(const View& v, const Index* start, Sequence<Real>& out) {
  constexpr Index size = sizeof(Real);
  if (v.nd != 2) return false;
  out = {static_cast<Real*>(v.data), 0, 0, start};
  if (v.shape[0] == 0 || v.shape[1] == 0) return true;
  if ((v.shape[1] > 1 && v.strides[1] != size) || v.strides[0] % size) return false;
  out.time = out.batch = v.stride(0, size);
  return true;
}

// The directions of a layer lie side by side in the last axis; the second one runs from the last step to the first.
template <class Real>
Sequence<Real> direction(Sequence<Real> s, Index T, Index offset, bool reverse) {
  if (!s.base) return s;
  s.base += offset;
  if (reverse && T > 0) {
    s.base += (T - 1) * s.time;
    s.time = -s.time;
  }
  return s;
}

template <class Real>
py::array_t<Real> empty(std::initializer_list<Index> shape) {
  return py::array_t<Real>(std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

// An array that a training step makes anew each time: a large one takes the memory of the one before it.
template <class Real>
py::array_t<Real> lasting(std::initializer_list<Index> shape) {
  size_t bytes = sizeof(Real);
  for (Index n : shape) bytes *= size_t(n);
  if (bytes < kWaits) return empty<Real>(shape);
  AlignedBlock block = allocate_aligned(bytes);
  auto* const data = static_cast<Real*>(block.get());
  auto* const owner = new AlignedBlock(std::move(block));
  const py::capsule base(owner, [](void* p) { delete static_cast<AlignedBlock*>(p); });
  return py::array_t<Real>(std::vector<py::ssize_t>(shape.begin(), shape.end()), data, base);
}

// Memory that the system hands out as zero, not written here. numpy.zeros would do the same, but finding it takes a
// microsecond at least.
template <class Real>
py::array_t<Real> zeros(std::initializer_list<Index> shape) {
  size_t n = 1;
  for (Index k : shape) n *= size_t(k);
  void* const data = std::calloc(n + !n, sizeof(Real));
  if (!data) throw std::bad_alloc();
  const py::capsule base(data, std::free);
  return py::array_t<Real>(std::vector<py::ssize_t>(shape.begin(), shape.end()),
                           static_cast<Real*>(data), base);
}

}  // namespace rnnfast
