// A stack of layers on a module's weights, from tensors to tensors, and all that has to be asked before: around one step of
// a small layer a question asked from Python, or an array made of a tensor, takes as long as the step.
#include "tensor_stack.h"

#include "jobs.h"
#include "tensors.h"

namespace rnnfast {
namespace {

// What is known of the parameters of a module.
struct Stack {
  Tensors tensors;
  CellId cell;
  int type;                     // NumPy type number
  PyTypeObject* prepared_type;  // as long as the module
  Index L, D, I, H;
  py::tuple rows;  // of each layer, arrays on the memory of the parameters; keeps it
  std::vector<AnyWeights> weights;  // L*D, the same
  struct Parameter {
    py::object name, known;  // known: None where the module has none by this name
    void* data;
    int ndim;
    Index shape[2];
  };
  std::vector<Parameter> parameters;

  explicit Stack(Tensors of) : tensors(std::move(of)) {}
  Index input_of(Index k) const { return k == 0 ? I : D * H; }
  const CellInfo& info() const { return kCells[int(cell)]; }

  // Whether a module has the same parameters as ever, in the same memory. Of which storage that is makes no difference:
  // it is the parameter's now.
  bool still_in(PyObject* given) const;
};

bool lies_at(const Stack::Parameter& p, int type, const TensorView& v) {
  return v.data == p.data && (p.ndim == 1 ? lies_dense(v, type, {p.shape[0]})
                                          : lies_dense(v, type, {p.shape[0], p.shape[1]}));
}

bool Stack::still_in(PyObject* given) const {
  if (!PyDict_Check(given)) return false;
  TensorView v;
  for (const Parameter& p : parameters) {
    PyObject* found = PyDict_GetItemWithError(given, p.name.ptr());
    if (!found) {
      PyErr_Clear();
      found = Py_None;
    }
    if (found != p.known.ptr()) return false;
    if (found == Py_None) continue;
    if (!tensors.look(found, v) || !lies_at(p, type, v)) return false;
  }
  return true;
}

// What `cast` would find, at a tenth of a microsecond.
const PyPrepared& prepared_at(PyObject* packed, Index k) {
  auto* const entry = reinterpret_cast<py::detail::instance*>(PyTuple_GET_ITEM(packed, k));
  return *static_cast<const PyPrepared*>(entry->get_value_and_holder().value_ptr());
}

// Whether these are packed copies of all layers, of the weights as they are now.
bool packed_from(const Stack& s, PyObject* packed) {
  if (!PyTuple_Check(packed) || PyTuple_GET_SIZE(packed) != s.L) return false;
  for (Index k = 0; k < s.L; ++k) {
    if (Py_TYPE(PyTuple_GET_ITEM(packed, k)) != s.prepared_type) return false;
    const PyPrepared& p = prepared_at(packed, k);
    const Index I = s.input_of(k);
    if (p.cell != s.cell || p.type != s.type || p.H != s.H || p.I != I ||
        Index(p.directions.size()) != s.D ||
        p.checksum !=
            checksum_of(s.type, &s.weights[size_t(k * s.D)], size_t(s.D), s.info().G, I, s.H))
      return false;
  }
  return true;
}

py::object pair(const py::object& a, const py::object& b) {
  PyObject* const tuple = PyTuple_Pack(2, a.ptr(), b.ptr());
  if (!tuple) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(tuple);
}

struct Arguments {
  Index T, B;
  bool batch_first;
  const void *x, *state0[kMaxStates];
  int threads;
};

// packed: null where the weights are read as they lie.
template <class Real>
py::object forward(const Stack& s, PyObject* packed, const Arguments& a) {
  const Index T = a.T, B = a.B, L = s.L, D = s.D, H = s.H, S = s.info().S;
  // Time is outermost in memory under `batch_first` too, as in PyTorch.
  TensorMemory y_memory = tensor_memory(size_t(T * B * D * H) * sizeof(Real));
  auto* const y = static_cast<Real*>(data_of(y_memory));
  TensorMemory state_memory[kMaxStates];
  Real* state_n[kMaxStates] = {};
  for (Index i = 0; i < S; ++i) {
    state_memory[i] = tensor_memory(size_t(L * D * B * H) * sizeof(Real));
    state_n[i] = static_cast<Real*>(data_of(state_memory[i]));
  }
  double flops = 0;
  for (Index k = 0; k < L; ++k) flops += flops_of(s.cell, {T, B, s.input_of(k), H}, int(D));
  {
    const MaybeRelease release(flops);
    AlignedBlock blocks[2];  // y of one layer, x of the next
    const auto* const x = static_cast<const Real*>(a.x);
    Sequence<const Real> in = a.batch_first ? Sequence<const Real>{x, s.I, T * s.I}
                                            : Sequence<const Real>{x, B * s.I, s.I};
    for (Index k = 0; k < L; ++k) {
      Real* to = y;
      if (k < L - 1) {
        AlignedBlock& block = blocks[k % 2];
        if (!block) block = allocate_aligned(size_t(T * B * D * H) * sizeof(Real));
        to = static_cast<Real*>(block.get());
      }
      const Sequence<Real> out{to, B * D * H, D * H};
      ForwardArgs<Real> jobs[2];
      for (Index dir = 0; dir < D; ++dir) {
        ForwardArgs<Real>& job = jobs[dir] = {};
        job.dims = {T, B, s.input_of(k), H};
        job.x = direction(in, T, 0, dir == 1);
        job.y = direction(out, T, dir * H, dir == 1);
        if (packed) {
          const AlignedBlock& of = prepared_at(packed, k).directions[size_t(dir)];
          job.packed = static_cast<const Real*>(of.get());
        } else {
          for (int w = 0; w < kWeights; ++w)
            job.weights.at[w] = static_cast<const Real*>(s.weights[size_t(k * D + dir)].at[w]);
        }
        for (Index i = 0; i < S; ++i) {
          const Index row = (k * D + dir) * B * H;
          const auto* const state0 = static_cast<const Real*>(a.state0[i]);
          job.state0[i] = state0 ? state0 + row : nullptr;
          job.state_n[i] = state_n[i] + row;
        }
      }
      run_forward(s.cell, jobs, int(D), a.threads);
      in = {out.base, out.time, out.batch};
    }
  }
  note_kernel(s.info().name, "forward", type_number<Real>());
  const Index n = D * H;
  const py::object first =
      a.batch_first ? s.tensors.make(std::move(y_memory), s.type, {B, T, n}, {n, B * n, 1})
                    : s.tensors.make(std::move(y_memory), s.type, {T, B, n}, {B * n, n, 1});
  py::object last[kMaxStates];
  bool made = bool(first);
  for (Index i = 0; made && i < S; ++i) {
    last[i] = s.tensors.make(std::move(state_memory[i]), s.type, {L * D, B, H}, {B * H, H, 1});
    made = bool(last[i]);
  }
  if (!made) return py::none();
  return pair(first, S == 1 ? last[0] : pair(last[0], last[1]));
}

py::object run_impl(const Stack& s, PyObject* const* args) {
  PyObject *packed = args[0], *const parameters = args[1], *const x = args[2], *hx = args[3];
  Arguments a{};
  const int batch_first = PyObject_IsTrue(args[4]);
  if (batch_first < 0) throw py::error_already_set();
  a.batch_first = batch_first != 0;
  const bool grad = args[5] != Py_False;
  const Index S = s.info().S;

  PyObject* given[1 + kMaxStates] = {x};
  Index n = 1;
  if (hx != Py_None && S == 1) {
    given[n++] = hx;
  } else if (hx != Py_None) {
    if (!PyTuple_CheckExact(hx) || PyTuple_GET_SIZE(hx) != S) return py::none();
    for (Index i = 0; i < S; ++i) given[n++] = PyTuple_GET_ITEM(hx, i);
  }
  // These ask Python, so before anything is looked at that Python could change.
  bool wanted = false;
  for (Index i = 0; i < n; ++i) {
    if (!s.tensors.plain(given[i]) || s.tensors.negated(given[i])) return py::none();
    wanted = wanted || (grad && s.tensors.needs_grad(given[i]));
  }
  for (const auto& p : s.parameters)
    if (grad && !wanted && !p.known.is_none()) wanted = s.tensors.needs_grad(p.known);

  if (!s.still_in(parameters)) return py::none();
  TensorView v;
  if (!s.tensors.look(x, v) || v.ndim != 3) return py::none();
  a.T = v.shape[a.batch_first];
  a.B = v.shape[!a.batch_first];
  // PyTorch refuses a sequence without steps.
  if (a.T < 1 || a.B < 1 || !lies_dense(v, s.type, {v.shape[0], v.shape[1], s.I}))
    return py::none();
  a.x = v.data;
  for (Index i = 1; i < n; ++i) {
    if (!s.tensors.look(given[i], v) || !lies_dense(v, s.type, {s.L * s.D, a.B, s.H}))
      return py::none();
    a.state0[i - 1] = v.data;
  }
  if (wanted) return py::bool_(true);
  if (!PyLong_Check(args[6]) || !parse_threads(args[6], a.threads)) return py::none();
  a.threads = -a.threads;  // as many as pay, at most so many
  // As in rnnfast/torch/_weights.py, which says why.
  if (a.T * a.B == 1) packed = nullptr;
  if (packed && !packed_from(s, packed)) return py::bool_(false);
  return s.type == kFloat ? forward<float>(s, packed, a) : forward<double>(s, packed, a);
}

struct PyTensorStack {
  PyObject_HEAD Stack* stack;
};

PyObject* run(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  if (count != 7) {
    PyErr_SetString(PyExc_TypeError, "rnnfast._core.TensorStack.run: expected 7 arguments.");
    return nullptr;
  }
  return guarded([&] {
    return run_impl(*reinterpret_cast<PyTensorStack*>(self)->stack, args).release().ptr();
  });
}

void destroy(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<PyTensorStack*>(self)->stack;
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef methods[] = {{"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run)),
                          METH_FASTCALL, nullptr},
                         {}};
PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(destroy)}, {Py_tp_methods, methods}, {0, nullptr}};
PyType_Spec spec = {"rnnfast._core.TensorStack", int(sizeof(PyTensorStack)), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
PyTypeObject* stack_type = nullptr;  // as long as the process

}  // namespace

py::object tensor_stack(py::handle tensor, py::handle cell, py::handle names, py::handle known,
                        py::handle rows) {
  Tensors tensors(tensor);
  if (!tensors) return py::none();
  auto s = std::make_unique<Stack>(std::move(tensors));
  PyObject *const n = names.ptr(), *const of = known.ptr();
  if (!find_cell(cell, s->cell) || !PyTuple_Check(n) || !PyTuple_Check(of) ||
      PyTuple_GET_SIZE(of) != PyTuple_GET_SIZE(n) || !PyTuple_Check(rows.ptr()) ||
      PyTuple_GET_SIZE(rows.ptr()) < 1)
    return py::none();
  s->rows = py::reinterpret_borrow<py::tuple>(rows);
  s->L = PyTuple_GET_SIZE(rows.ptr());
  const py::handle first = PyTuple_GET_ITEM(rows.ptr(), 0);
  if (!sizes_of(first, s->info().G, s->type, s->I, s->H)) return py::none();
  s->D = PyTuple_GET_SIZE(first.ptr());
  for (Index k = 0; k < s->L; ++k) {
    PyObject* const row = PyTuple_GET_ITEM(rows.ptr(), k);
    if (!PyTuple_Check(row) || PyTuple_GET_SIZE(row) != s->D) return py::none();
    for (Index dir = 0; dir < s->D; ++dir) {
      const py::handle params = PyTuple_GET_ITEM(row, dir);
      const int G = s->info().G;
      const Index I = s->input_of(k), H = s->H;
      AnyWeights weights;
      if (!(s->type == kFloat ? parse_any_weights<float>(params, G, I, H, weights)
                              : parse_any_weights<double>(params, G, I, H, weights)))
        return py::none();
      s->weights.push_back(weights);
    }
  }
  s->prepared_type = reinterpret_cast<PyTypeObject*>(py::type::of<PyPrepared>().ptr());
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(n); ++i) {
    Stack::Parameter p{};
    p.name = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(n, i));
    p.known = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(of, i));
    if (!p.known.is_none()) {
      TensorView v;
      if (!s->tensors.look(p.known, v) || v.ndim < 1 || v.ndim > 2) return py::none();
      p.data = v.data;
      p.ndim = v.ndim;
      std::copy_n(v.shape, v.ndim, p.shape);
    }
    s->parameters.push_back(std::move(p));
  }
  PyObject* const made = stack_type->tp_alloc(stack_type, 0);
  if (!made) throw py::error_already_set();
  reinterpret_cast<PyTensorStack*>(made)->stack = s.release();
  return py::reinterpret_steal<py::object>(made);
}

py::object make_tensor_stack_type() {
  PyObject* const type = PyType_FromSpec(&spec);
  if (!type) throw py::error_already_set();
  stack_type = reinterpret_cast<PyTypeObject*>(py::handle(type).inc_ref().ptr());
  return py::reinterpret_steal<py::object>(type);
}

}  // namespace rnnfast
