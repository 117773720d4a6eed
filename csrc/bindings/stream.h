// rnnfast._core.Stream; contract in rnnfast/_core.pyi.
#pragma once
#include "call.h"

namespace rnnfast {

// The type itself, made by hand: pybind11 would pack the arguments of every step into a tuple first.
py::object make_stream_type();

}  // namespace rnnfast
