// What the entrances of the module share: cells by name, thread counts, the id of the last kernel.
#pragma once
#include <new>
#include <optional>

#include "../cpu/engine.h"
#include "tape.h"

namespace rnnfast {

bool find_cell(py::handle name, CellId& cell);

// n threads; -n as many as pay, at most n, for the tuple (n,); 0 as many as pay, for None. False for anything else.
bool parse_threads(py::handle h, int& threads);

// I and H as the first direction's W and R give them.
bool sizes_of(py::handle params, int G, int& type, Index& I, Index& H);

template <class Real>
bool parse_weights(py::handle row, int G, Index I, Index H, Weights<Real>& out) {
  if (!PyTuple_Check(row.ptr()) || PyTuple_GET_SIZE(row.ptr()) != kWeights) return false;
  PyObject* t = row.ptr();
  return required_array<Real>(PyTuple_GET_ITEM(t, 0), {G * H, I}, out.at[0]) &&
         required_array<Real>(PyTuple_GET_ITEM(t, 1), {G * H, H}, out.at[1]) &&
         optional_array<Real>(PyTuple_GET_ITEM(t, 2), {G * H}, out.at[2]) &&
         optional_array<Real>(PyTuple_GET_ITEM(t, 3), {G * H}, out.at[3]);
}

// The same for whoever only sums them up.
using AnyWeights = Weights<void>;
template <class Real>
bool parse_any_weights(py::handle row, int G, Index I, Index H, AnyWeights& out) {
  Weights<Real> weights;
  if (!parse_weights(row, G, I, H, weights)) return false;
  for (int w = 0; w < kWeights; ++w) out.at[w] = weights.at[w];
  return true;
}

// Of all parameters of a layer.
uint64_t checksum_of(int type, const AnyWeights* rows, size_t D, int G, Index I, Index H);

// For types made by hand: runs f, which returns a new reference, and makes Python errors of what it throws.
template <class F>
PyObject* guarded(F&& f) {
  try {
    return f();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// The last kernel of this thread: cell (or linear), pass, dtype; the instruction set is added when asked for.
void note_kernel(const char* cell, const char* pass, int type);
std::string last_kernel();

// Releasing the interpreter lock costs 70 ns: calls below about 3 microseconds keep it.
class MaybeRelease {
 public:
  explicit MaybeRelease(double flops) {
    if (flops > 1e5) release_.emplace();
  }

 private:
  std::optional<py::gil_scoped_release> release_;
};

// Whether these parameters hold, to the bit, what was packed.
bool prepared_from(const PyPrepared& p, py::handle params);

// The entrances that run a layer; contract in rnnfast/_core.pyi.
py::object forward(py::handle cell, py::handle x, py::handle params, py::handle state,
                   py::handle out, py::handle keep_tape, py::handle threads, py::handle options);
py::object backward(const PyTape& tape, py::handle dy, py::handle dstate, py::handle need_dx,
                    py::handle threads, py::handle dstates, py::handle dgates,
                    py::handle need_dstate0);
py::object between_layers(py::handle x, py::handle add, py::handle H, py::handle p, py::handle seed,
                          py::handle layer, py::handle t0, py::handle row_ids,
                          py::handle cu_seqlens, py::handle threads);
py::tuple tape_states(const PyTape& tape);
py::object tape_gates(const PyTape& tape);

}  // namespace rnnfast
