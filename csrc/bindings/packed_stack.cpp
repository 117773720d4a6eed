// A stack of layers forward, on weights packed before, from the addresses of a caller whose tensors are checked: around
// one step of a small layer, an array made of each tensor would take as long as the step.
#include "jobs.h"

namespace rnnfast {
namespace {

// An address or None, as a pointer. False for anything else.
template <class Real>
bool address(py::handle h, const Real*& out) {
  out = nullptr;
  if (h.is_none()) return true;
  if (!PyLong_Check(h.ptr())) return false;
  out = static_cast<const Real*>(PyLong_AsVoidPtr(h.ptr()));
  if (!PyErr_Occurred()) return true;
  PyErr_Clear();
  return false;
}

template <class Real>
py::object forward_impl(const std::vector<const PyPrepared*>& layers, py::handle x_given, Index T,
                        Index B, bool batch_first, py::handle states_given, int threads) {
  const CellId cell = layers[0]->cell;
  const CellInfo& info = kCells[int(cell)];
  const auto L = Index(layers.size()), D = Index(layers[0]->directions.size()), H = layers[0]->H;
  const Real *x, *state0[kMaxStates] = {};
  if (!address(x_given, x) || !x) return py::none();
  if (!states_given.is_none()) {
    PyObject* t = states_given.ptr();
    if (!PyTuple_Check(t) || PyTuple_GET_SIZE(t) != info.S) return py::none();
    for (int s = 0; s < info.S; ++s)
      if (!address(PyTuple_GET_ITEM(t, s), state0[s])) return py::none();
  }
  auto y = empty<Real>({T, B, D * H});
  py::tuple states{size_t(info.S)};
  Real* state_n[kMaxStates] = {};
  for (int s = 0; s < info.S; ++s) {
    auto array = empty<Real>({L * D, B, H});
    state_n[s] = array.mutable_data();
    states[size_t(s)] = std::move(array);
  }
  double flops = 0;
  for (const auto* p : layers) flops += flops_of(cell, {T, B, p->I, H}, int(D));
  {
    const MaybeRelease release(flops);
    AlignedBlock blocks[2];  // y of one layer, x of the next
    const Index I = layers[0]->I;
    Sequence<const Real> in =
        batch_first ? Sequence<const Real>{x, I, T * I} : Sequence<const Real>{x, B * I, I};
    for (Index k = 0; k < L; ++k) {
      Real* to = y.mutable_data();
      if (k < L - 1) {
        AlignedBlock& block = blocks[k % 2];
        if (!block) block = allocate_aligned(size_t(T * B * D * H) * sizeof(Real));
        to = static_cast<Real*>(block.get());
      }
      const Sequence<Real> out{to, B * D * H, D * H};
      ForwardArgs<Real> jobs[2] = {};
      for (Index dir = 0; dir < D; ++dir) {
        ForwardArgs<Real>& job = jobs[dir];
        job.dims = {T, B, layers[size_t(k)]->I, H};
        job.x = direction(in, T, 0, dir == 1);
        job.y = direction(out, T, dir * H, dir == 1);
        job.packed = static_cast<const Real*>(layers[size_t(k)]->directions[size_t(dir)].get());
        for (int s = 0; s < info.S; ++s) {
          const Index row = (k * D + dir) * B * H;
          job.state0[s] = state0[s] ? state0[s] + row : nullptr;
          job.state_n[s] = state_n[s] + row;
        }
      }
      run_forward(cell, jobs, int(D), threads);
      in = {out.base, out.time, out.batch};
    }
  }
  note_kernel(info.name, "forward", type_number<Real>());
  return py::make_tuple(std::move(y), std::move(states));
}

}  // namespace

py::object forward_packed(py::handle packed, py::handle rows, py::handle x, py::handle T_given,
                          py::handle B_given, py::handle batch_first, py::handle states,
                          py::handle threads_given) {
  int threads;
  PyObject *p = packed.ptr(), *r = rows.ptr();
  if (!PyTuple_Check(p) || !PyTuple_Check(r) || PyTuple_GET_SIZE(p) < 1 ||
      PyTuple_GET_SIZE(p) != PyTuple_GET_SIZE(r) || !PyLong_Check(T_given.ptr()) ||
      !PyLong_Check(B_given.ptr()) || !parse_threads(threads_given, threads))
    return py::none();
  std::vector<const PyPrepared*> layers;
  layers.reserve(size_t(PyTuple_GET_SIZE(p)));
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(p); ++k) {
    py::handle entry = PyTuple_GET_ITEM(p, k);
    if (!py::isinstance<PyPrepared>(entry)) return py::none();
    layers.push_back(entry.cast<const PyPrepared*>());
    const PyPrepared &first = *layers[0], &here = *layers.back();
    const bool follows = k == 0 || here.I == first.H * Index(first.directions.size());
    if (here.cell != first.cell || here.type != first.type || here.H != first.H || !follows ||
        here.directions.size() != first.directions.size() ||
        !prepared_from(here, PyTuple_GET_ITEM(r, k)))
      return py::none();
  }
  const Index T = PyLong_AsSsize_t(T_given.ptr()), B = PyLong_AsSsize_t(B_given.ptr());
  if (PyErr_Occurred()) PyErr_Clear();
  if (T < 1 || B < 1) return py::none();
  const bool swap = batch_first.ptr() == Py_True;
  return layers[0]->type == kFloat ? forward_impl<float>(layers, x, T, B, swap, states, threads)
                                   : forward_impl<double>(layers, x, T, B, swap, states, threads);
}

}  // namespace rnnfast
