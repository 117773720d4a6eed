// An array in the memory of a device, as Python holds it.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "../cuda/memory.h"

namespace rnnfast::cuda {

namespace py = pybind11;

// C-contiguous. The 16-bit formats that NumPy has no name for are uint16.
struct DeviceArray {
  py::dtype dtype;
  std::vector<py::ssize_t> shape;
  DeviceBlock block;

  // Room for an array, on the device of the stream.
  DeviceArray(py::dtype dtype, std::vector<py::ssize_t> shape, const Stream& stream);
  py::ssize_t size() const;  // elements
};

// A copy of a NumPy array. The GIL is released while it waits.
std::unique_ptr<DeviceArray> to_device(const py::array& array, int device);
py::array to_numpy(const DeviceArray& array);

// The same on a stream, in order with it. put() does not wait for the device: memory that is not pinned has been read
// when the call that copies it returns. fetch() waits; the memory is C-contiguous.
std::unique_ptr<DeviceArray> put(const py::array& array, const Stream& stream);
py::array fetch(uintptr_t pointer, const std::vector<py::ssize_t>& shape, const py::dtype& dtype,
                const Stream& stream);

// The device that memory lies on.
int device_of(uintptr_t pointer);

py::object make_device_array_type(py::module_& m);

// For tests: csrc/cuda/masks.h and convert.h on arrays. A storage type is "f32", "f64", "bf16" or "f16".
std::unique_ptr<DeviceArray> masked_rows_of(const std::string& storage, const DeviceArray& in,
                                            const DeviceArray* add, bool batch_first, double p,
                                            unsigned purpose, uint64_t seed, uint32_t layer,
                                            uint32_t direction, uint32_t first_step, uint32_t step,
                                            const DeviceArray* row_id);
std::unique_ptr<DeviceArray> convert_of(const std::string& from, const std::string& to,
                                        const DeviceArray& array);

}  // namespace rnnfast::cuda
