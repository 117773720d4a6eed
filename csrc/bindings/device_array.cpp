#include "device_array.h"

#include "../cuda/device.h"

namespace rnnfast::cuda {
namespace {

py::ssize_t count(const std::vector<py::ssize_t>& shape) {
  py::ssize_t n = 1;
  for (auto size : shape) n *= size;
  return n;
}

py::tuple as_tuple(const std::vector<py::ssize_t>& shape) {
  py::tuple out(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) out[i] = shape[i];
  return out;
}

// Throws unless the array can lie on a device as it is.
void require_plain(const py::array& array) {
  if (!(array.flags() & py::array::c_style))
    throw py::value_error(
        "DeviceArray: the array is not C-contiguous; use numpy.ascontiguousarray");
  const char kind = array.dtype().kind();
  if (std::string("biuf").find(kind) == std::string::npos || array.dtype().byteorder() == '>')
    throw py::type_error("DeviceArray: dtype is " + py::str(array.dtype()).cast<std::string>() +
                         ", expected bool, integer or floating point in native byte order");
}

}  // namespace

DeviceArray::DeviceArray(py::dtype dtype_given, std::vector<py::ssize_t> shape_given,
                         const Stream& stream)
    : dtype(std::move(dtype_given)),
      shape(std::move(shape_given)),
      block(size_t(count(shape) * dtype.itemsize()), stream) {}

py::ssize_t DeviceArray::size() const { return count(shape); }

std::unique_ptr<DeviceArray> put(const py::array& array, const Stream& stream) {
  require_plain(array);
  auto out = std::make_unique<DeviceArray>(
      array.dtype(), std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()), stream);
  const void* from = array.data();
  const py::gil_scoped_release release;
  const OnDevice here(stream.device());
  if (out->block.bytes())
    check(cudaMemcpyAsync(out->block.get(), from, out->block.bytes(), cudaMemcpyHostToDevice,
                          stream.get()),
          "cudaMemcpyAsync");
  return out;
}

py::array fetch(uintptr_t pointer, const std::vector<py::ssize_t>& shape, const py::dtype& dtype,
                const Stream& stream) {
  py::array out(dtype, shape);
  void* to = out.mutable_data();
  const auto bytes = size_t(out.nbytes());
  const py::gil_scoped_release release;
  const OnDevice here(stream.device());
  if (bytes)
    check(cudaMemcpyAsync(to, reinterpret_cast<const void*>(pointer), bytes, cudaMemcpyDeviceToHost,
                          stream.get()),
          "cudaMemcpyAsync");
  stream.synchronize();
  return out;
}

std::unique_ptr<DeviceArray> to_device(const py::array& array, int device) {
  require_plain(array);
  const Stream stream(device);
  auto out = put(array, stream);
  const py::gil_scoped_release release;
  stream.synchronize();
  return out;
}

py::array to_numpy(const DeviceArray& a) {
  const Stream stream(a.block.device());
  return fetch(reinterpret_cast<uintptr_t>(a.block.get()), a.shape, a.dtype, stream);
}

int device_of(uintptr_t pointer) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, reinterpret_cast<const void*>(pointer)),
        "cudaPointerGetAttributes");
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
    throw py::value_error("the memory is not a GPU's");
  return attributes.device;
}

py::object make_device_array_type(py::module_& m) {
  // Of this module alone: tests load the real one and its twin side by side.
  return py::class_<DeviceArray>(m, "DeviceArray", py::module_local())
      .def(py::init(&to_device), py::arg("array"), py::arg("device") = 0)
      .def("numpy", to_numpy)
      .def_property_readonly("shape", [](const DeviceArray& a) { return as_tuple(a.shape); })
      .def_property_readonly("dtype", [](const DeviceArray& a) { return a.dtype; })
      .def_property_readonly("device", [](const DeviceArray& a) { return a.block.device(); })
      .def_property_readonly("pointer", [](const DeviceArray& a) {
        return reinterpret_cast<uintptr_t>(a.block.get());
      });
}

}  // namespace rnnfast::cuda
