// rnnfast._cuda: the CUDA back end; the contract stands in rnnfast/_cuda.pyi. Loaded on first use, and without a driver
// too: it then says why nothing runs.
#include <pybind11/stl.h>

#include "../cuda/device.h"
#include "../cuda/memory.h"
#include "device_array.h"

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
  m.attr("DeviceArray") = make_device_array_type(m);
  m.def("_masked_rows", masked_rows_of);
  m.def("_convert", convert_of);
  m.def("_have_code", have_code);
  m.def("_last_error", [] { return int(cudaGetLastError()); });
}

}  // namespace rnnfast::cuda
