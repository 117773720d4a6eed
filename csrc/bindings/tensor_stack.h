// rnnfast._core.TensorStack; contract in rnnfast/_core.pyi.
#pragma once
#include "call.h"

namespace rnnfast {

// The type itself, made by hand: pybind11 would take as long for the arguments as they take to be checked.
py::object make_tensor_stack_type();

py::object tensor_stack(py::handle tensor, py::handle cell, py::handle names, py::handle known,
                        py::handle rows);

}  // namespace rnnfast
