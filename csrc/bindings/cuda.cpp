// rnnfast._cuda: the CUDA back end; the contract stands in rnnfast/_cuda.pyi. Loaded on first use, and without a driver
// too: it then says why nothing runs.
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "../cuda/copy.h"
#include "../cuda/device.h"
#include "../cuda/memory.h"
#include "cuda_layer.h"
#include "device_array.h"
#include "dlpack.h"

namespace rnnfast::cuda {
namespace {

py::list device_list() {
  py::list out;
  for (const Device& d : devices()) {
    py::dict row;
    row["number"] = d.number;
    row["name"] = d.name;
    row["capability"] = py::make_tuple(d.major, d.minor);
    row["multiprocessors"] = d.multiprocessors;
    row["memory"] = d.memory;
    row["shared_memory"] = d.shared;
    row["l2"] = d.l2;
    row["runs"] = d.runs;
    out.append(row);
  }
  return out;
}

py::object why_none_or_none() {
  const std::string why = why_none();
  return why.empty() ? py::object(py::none()) : py::str(why);
}

// Room for an array, in order with a stream.
std::unique_ptr<DeviceArray> empty_array(const std::vector<py::ssize_t>& shape, py::dtype dtype,
                                         const Stream& stream) {
  return std::make_unique<DeviceArray>(std::move(dtype), shape, stream);
}
std::unique_ptr<DeviceArray> zero_array(const std::vector<py::ssize_t>& shape, py::dtype dtype,
                                        const Stream& stream) {
  auto array = empty_array(shape, std::move(dtype), stream);
  const OnDevice here(stream.device());
  if (const size_t bytes = array->block.bytes())
    check(cudaMemsetAsync(array->block.get(), 0, bytes, stream.get()), "cudaMemsetAsync");
  return array;
}

// Numbers that lie anyhow to a place where they lie otherwise; strides in elements.
void copy(size_t itemsize, const std::vector<Index>& shape, uintptr_t from,
          const std::vector<Index>& from_strides, uintptr_t to,
          const std::vector<Index>& to_strides, const Stream& stream) {
  if (shape.size() > size_t(kMaxAxes) || from_strides.size() != shape.size() ||
      to_strides.size() != shape.size())
    throw py::value_error("copy: at most " + std::to_string(kMaxAxes) +
                          " axes, and as many strides");
  StridedCopy args{};
  args.axes = int(shape.size());
  std::copy(shape.begin(), shape.end(), args.shape);
  std::copy(from_strides.begin(), from_strides.end(), args.from_stride);
  std::copy(to_strides.begin(), to_strides.end(), args.to_stride);
  args.from = reinterpret_cast<const void*>(from);
  args.to = reinterpret_cast<void*>(to);
  args.itemsize = itemsize;
  const OnDevice here(stream.device());
  strided_copy(args, stream.get());
}
void bounded(uintptr_t from, uintptr_t to, Index n, Index most, const Stream& stream) {
  const OnDevice here(stream.device());
  bounded_copy(reinterpret_cast<const Index*>(from), reinterpret_cast<Index*>(to), n, most,
               stream.get());
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "rnnfast's CUDA back end; see rnnfast/_cuda.pyi";
  py::register_exception_translator([](std::exception_ptr e) {
    try {
      if (e) std::rethrow_exception(e);
    } catch (const CudaError& error) {
      py::set_error(py::module_::import("rnnfast.errors").attr("DeviceError"), error.what());
    }
  });
  m.def("devices", device_list);
  m.def("why_none", why_none_or_none);
  m.def("architectures", architectures);
  m.def("runtime_version", runtime_version);
  m.def("driver_version", driver_version);
  m.def("release_memory", release_memory);
  // Local: tests load a second module of these types beside this one.
  py::class_<Stream>(m, "Stream", py::module_local())
      .def(py::init<int>(), py::arg("device") = 0)
      .def_property_readonly("pointer",
                             [](const Stream& s) { return reinterpret_cast<uintptr_t>(s.get()); })
      .def_property_readonly("device", &Stream::device)
      .def_static("borrow",
                  [](int device, uintptr_t pointer) {
                    return std::make_unique<Stream>(device,
                                                    reinterpret_cast<cudaStream_t>(pointer));
                  })
      .def("wait_for", [](const Stream& s,
                          uintptr_t other) { s.wait_for(reinterpret_cast<cudaStream_t>(other)); })
      .def("synchronize", &Stream::synchronize, py::call_guard<py::gil_scoped_release>());
  m.attr("DeviceArray") = make_device_array_type(m);
  m.def("empty", empty_array);
  m.def("zeros", zero_array);
  m.def("put", put);
  m.def("fetch", fetch);
  m.def("copy", copy);
  m.def("bounded", bounded);
  m.def("device_of", device_of);
  m.def("to_dlpack", to_dlpack);
  m.def("from_dlpack", from_dlpack);
  m.def("layer_scratch", layer_scratch);
  m.def("layer_run", layer_run);
  m.def("layer_weight_drop", layer_weight_drop);
  m.def("layer_between", layer_between);
  m.def("masked_rows", masked_rows_of);
  m.def("_convert", convert_of);
  m.def("_have_code", have_code);
  m.def("_last_error", [] { return int(cudaGetLastError()); });
}

}  // namespace rnnfast::cuda
