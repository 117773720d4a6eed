// One layer in one direction on arrays that lie on a device already. A call is a dict of pointers, strides and options,
// made by rnnfast/cuda/_layer.py, which has checked them: nothing here allocates, waits, or looks at an array.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "../api.h"

namespace rnnfast::cuda {

namespace py = pybind11;

// Bytes of scratch that a pass of this call takes.
size_t layer_scratch(const py::dict& call, bool backward);
// Put a pass on a stream of the call's device; returns the kernels' id.
std::string layer_run(const py::dict& call, bool backward, uintptr_t scratch, uintptr_t stream);
// R, or dR, of a call with the mask of weight drop, put on a stream: `rows` of H numbers. `out` may be `in`.
void layer_weight_drop(const py::dict& call, Index rows, uintptr_t in, uintptr_t out,
                       uintptr_t stream);
// What stands between two layers, one direction: `in` with a mask (where `dropout` > 0), plus `add` where given, to
// `out`; all of them (pointer, time stride, batch stride) of sequences (T, B, H).
void layer_between(const py::dict& call, uintptr_t stream);

}  // namespace rnnfast::cuda
