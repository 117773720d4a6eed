// DLPack: arrays on a device handed from one library to another, by a capsule that holds a struct whose layout is
// agreed upon. Version 0, the one that every library reads.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

namespace rnnfast::cuda {

namespace py = pybind11;

// A capsule of the memory at `pointer`; `owner` is kept alive by whoever takes it. Strides in elements.
py::capsule to_dlpack(py::object owner, uintptr_t pointer, const std::vector<int64_t>& shape,
                      const std::vector<int64_t>& strides, const py::dtype& dtype, int device);

// Take what is in a capsule: (owner, pointer, shape, strides, dtype).
py::tuple from_dlpack(const py::capsule& capsule);

}  // namespace rnnfast::cuda
