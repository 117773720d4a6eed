// rnnfast._core.Stream: `step` and `run` are called as they stand in Python, with no frame in between. What they do
// not take goes to the Python method `_checked`, which says in words what is wrong, or copies what needs copying and
// comes back by `_take`.
#include "stream.h"

#include <atomic>
#include <memory>
#include <new>

#include "../stream.h"

namespace rnnfast {
namespace {

constexpr int kLong = 7, kLongLong = 9;  // NumPy's type numbers of a 64-bit integer, here and there
static_assert(sizeof(long) == 8 && sizeof(long long) == 8, "index input is read as int64");

// What a stream is besides its kernels' side.
struct Held {
  int type;  // NumPy type number
  bool batched, batch_first;
  double flops;  // of one step
  std::unique_ptr<Stream<float>> f32;
  std::unique_ptr<Stream<double>> f64;
  std::atomic<Index> t{0};
  template <class Real>
  Stream<Real>& as() const {
    if constexpr (sizeof(Real) == 4) return *f32;
    else return *f64;
  }
};

struct PyStream {
  PyObject_HEAD Held* held;  // null until `_open`
  std::atomic<bool> busy;
};

PyStream* stream_of(PyObject* self) { return reinterpret_cast<PyStream*>(self); }

// One thread at a time: a stream carries one state, and steps from two threads would have no order. Whoever comes
// second gets an error and waits for nothing.
class Use {
 public:
  Use(PyStream* stream, const char* what) : stream_(stream) {
    if (!stream->held) {
      PyErr_Format(PyExc_RuntimeError,
                   "rnnfast.Stream.%s: the stream was never made; a subclass must call "
                   "super().__init__(layer).",
                   what);
    } else if (stream->busy.exchange(true, std::memory_order_acquire)) {
      PyErr_Format(PyExc_RuntimeError,
                   "rnnfast.Stream.%s: another thread is using this stream, expected one at a "
                   "time: it carries one state. Use a stream for each thread, or a lock.",
                   what);
    } else {
      taken_ = true;
    }
  }
  ~Use() {
    if (taken_) stream_->busy.store(false, std::memory_order_release);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  explicit operator bool() const { return taken_; }
  Held& held() const { return *stream_->held; }

 private:
  PyStream* stream_;
  bool taken_ = false;
};

PyObject* none() {
  Py_INCREF(Py_None);
  return Py_None;
}
PyObject* yes() {
  Py_INCREF(Py_True);
  return Py_True;
}

// Where the axes of an array of this call are; `batch` and `time` are -1 where there is none.
struct Axes {
  int nd, time, batch;
  Axes(const Held& s, bool whole) {
    const bool swapped = whole && s.batched && s.batch_first;
    nd = int(whole) + int(s.batched);
    time = whole ? int(swapped) : -1;
    batch = s.batched ? int(whole && !swapped) : -1;
  }
};

// The steps of an array with n features, or none (n = 0); finds T. False where it does not fit.
template <class E>
bool steps_of(const View& v, const Axes& axes, Index B, Index n, Index& T, Sequence<E>& out) {
  constexpr Index size = sizeof(E);
  if (v.nd != axes.nd + (n > 0)) return false;
  if (n > 0 && v.shape[axes.nd] != n) return false;
  if (axes.batch >= 0 && v.shape[axes.batch] != B) return false;
  T = axes.time >= 0 ? v.shape[axes.time] : 1;
  out = {static_cast<E*>(v.data), 0, 0};
  if (T == 0) return true;  // NumPy gives empty arrays any strides
  if (n > 1 && v.strides[axes.nd] != size) return false;
  if (axes.time >= 0) {
    if (v.strides[axes.time] % size) return false;
    out.time = v.stride(axes.time, size);
  }
  if (axes.batch >= 0) {
    if (v.strides[axes.batch] % size) return false;
    out.batch = v.stride(axes.batch, size);
  }
  return true;
}

// The bytes from the first element of an array to its last.
struct Extent {
  const char *begin, *end;
  explicit Extent(const View& v, Index itemsize) {
    begin = static_cast<const char*>(v.data);
    end = begin + itemsize;
    for (int i = 0; i < v.nd; ++i) {
      if (v.shape[i] == 0) {
        end = begin;
        return;
      }
      const Index reach = (v.shape[i] - 1) * v.strides[i];
      if (reach < 0) begin += reach;
      else end += reach;
    }
  }
  bool meets(const Extent& other) const { return begin < other.end && other.begin < end; }
};

// A new array for y, in the caller's form and C-contiguous.
PyObject* new_y(const Held& s, const Axes& axes, Index T, Index B, Index H) {
  auto& api = py::detail::npy_api::get();
  Py_intptr_t shape[3];
  if (axes.time >= 0) shape[axes.time] = T;
  if (axes.batch >= 0) shape[axes.batch] = B;
  shape[axes.nd] = H;
  PyObject* descr = api.PyArray_DescrFromType_(s.type);
  if (!descr) return nullptr;
  return api.PyArray_NewFromDescr_(reinterpret_cast<PyTypeObject*>(api.PyArray_Type_), descr,
                                   axes.nd + 1, shape, nullptr, nullptr, 0, nullptr);
}

// One step, or a whole chunk of them. None where the arguments are not as contracted.
template <class Real>
PyObject* take_impl(Held& s, PyObject* x, PyObject* out, bool whole) {
  Stream<Real>& stream = s.as<Real>();
  const Axes axes(s, whole);
  const Index B = stream.B(), I = stream.I(), H = stream.H();
  View xv;
  Sequence<const Real> dense{nullptr, 0, 0};
  Sequence<const int64_t> indices{nullptr, 0, 0};
  int64_t index;  // of an unbatched step, as a number
  Index T = 1;
  if (view_of(x, xv)) {
    if (xv.type == s.type) {
      if (!steps_of(xv, axes, B, I, T, dense)) return none();
    } else if (xv.type == kLong || xv.type == kLongLong) {
      if (!steps_of(xv, axes, B, 0, T, indices)) return none();
    } else {
      return none();
    }
  } else if (axes.nd == 0 && PyLong_CheckExact(x)) {
    index = PyLong_AsLongLong(x);
    if (index == -1 && PyErr_Occurred()) PyErr_Clear();  // too large: outside all the more
    indices.base = &index;
  } else {
    return none();
  }

  py::object y;
  View yv;
  Sequence<Real> to{nullptr, 0, 0};
  if (out == Py_None) {
    y = py::reinterpret_steal<py::object>(new_y(s, axes, T, B, H));
    if (!y) throw py::error_already_set();
    view_of(y, yv);
  } else {
    if (!view_of(out, yv) || yv.type != s.type || !yv.writeable()) return none();
    y = py::reinterpret_borrow<py::object>(out);
  }
  Index steps_of_y;
  if (!steps_of(yv, axes, B, H, steps_of_y, to) || steps_of_y != T) return none();
  if (out != Py_None && T > 0) {
    if ((T > 1 && to.time == 0) || (B > 1 && to.batch == 0)) return none();  // overlaps itself
    if (xv && Extent(yv, sizeof(Real)).meets(Extent(xv, dense.base ? sizeof(Real) : 8)))
      return none();
  }
  if (T > 0) {
    const MaybeRelease release(s.flops * double(T));
    if (dense.base) stream.run(dense, T, to);
    else if (!stream.run_indexed(indices, T, to)) T = -1;
  }
  if (T < 0) return none();
  s.t.store(s.t.load(std::memory_order_relaxed) + T, std::memory_order_relaxed);
  return y.release().ptr();
}

PyObject* take(PyObject* self, const char* name, PyObject* x, PyObject* out, bool whole) {
  return guarded([&]() -> PyObject* {
    const Use use(stream_of(self), name);
    if (!use) return nullptr;
    Held& s = use.held();
    return s.type == kFloat ? take_impl<float>(s, x, out, whole)
                            : take_impl<double>(s, x, out, whole);
  });
}

PyObject* call(PyObject* self, const char* name, bool whole, PyObject* const* args,
               Py_ssize_t count, PyObject* names) {
  PyObject *x = nullptr, *out = nullptr;
  const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  bool fits = count <= 2 && count + named <= 2;
  if (fits && count > 0) x = args[0];
  if (fits && count > 1) out = args[1];
  for (Py_ssize_t i = 0; fits && i < named; ++i) {
    PyObject* key = PyTuple_GET_ITEM(names, i);
    PyObject** to = PyUnicode_CompareWithASCIIString(key, "x") == 0     ? &x
                    : PyUnicode_CompareWithASCIIString(key, "out") == 0 ? &out
                                                                        : nullptr;
    fits = to && !*to;
    if (fits) *to = args[count + i];
  }
  if (!fits || !x) {
    PyErr_Format(PyExc_TypeError,
                 "rnnfast.Stream.%s: expected the arguments x and, if wanted, out.", name);
    return nullptr;
  }
  if (!out) out = Py_None;
  PyObject* y = take(self, name, x, out, whole);
  if (y != Py_None) return y;
  Py_DECREF(y);
  return PyObject_CallMethod(self, "_checked", "sOO", name, x, out);
}

PyObject* step(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return call(self, "step", false, args, count, names);
}
PyObject* run(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return call(self, "run", true, args, count, names);
}

// _take(name, x, out): as `step` or `run`, but None where they would ask `_checked`.
PyObject* take_method(PyObject* self, PyObject* args) {
  const char* name;
  PyObject *x, *out;
  if (!PyArg_ParseTuple(args, "sOO", &name, &x, &out)) return nullptr;
  return take(self, name, x, out, name[0] == 'r');
}

template <class Real>
bool open_impl(CellId cell, py::handle layers, py::handle initial, StreamPlan<Real> plan,
               std::unique_ptr<Stream<Real>>& out) {
  const CellInfo& info = kCells[int(cell)];
  const Index L = PyTuple_GET_SIZE(layers.ptr());
  for (Index k = 0; k < L; ++k) {
    Weights<Real> weights;
    if (!parse_weights(PyTuple_GET_ITEM(layers.ptr(), k), info.G, k == 0 ? plan.I : plan.H, plan.H,
                       weights))
      return false;
    plan.layers.push_back(weights);
  }
  for (auto& p : plan.initial) p = nullptr;
  if (!initial.is_none()) {
    if (!PyTuple_Check(initial.ptr()) || PyTuple_GET_SIZE(initial.ptr()) != info.S) return false;
    for (int s = 0; s < info.S; ++s)
      if (!required_array<Real>(PyTuple_GET_ITEM(initial.ptr(), s), {L, plan.H}, plan.initial[s]))
        return false;
  }
  out = std::make_unique<Stream<Real>>(std::move(plan));
  return true;
}

template <class Real>
StreamPlan<Real> plan_of(CellId cell, Index B, Index I, Index H, bool residual,
                         const double (&zoneout)[kMaxStates], double cell_clip, int threads) {
  StreamPlan<Real> plan{};
  plan.cell = cell;
  plan.states = kCells[int(cell)].S;
  plan.B = B;
  plan.I = I;
  plan.H = H;
  plan.residual = residual;
  for (int s = 0; s < kMaxStates; ++s) plan.zoneout[s] = zoneout[s];
  plan.cell_clip = cell_clip;
  plan.threads = threads;
  return plan;
}

PyObject* open(PyObject* self, PyObject* args) {
  PyObject *cell_name, *layers, *batch, *initial, *zoneout_given, *threads_given;
  int batch_first, residual;
  double cell_clip;
  if (!PyArg_ParseTuple(args, "OOOppOdOO", &cell_name, &layers, &batch, &batch_first, &residual,
                        &zoneout_given, &cell_clip, &initial, &threads_given))
    return nullptr;
  return guarded([&]() -> PyObject* {
    CellId cell;
    int threads = 0, type;
    Index I, H, B = 1;
    if (stream_of(self)->held || !find_cell(cell_name, cell) || !PyTuple_Check(layers) ||
        PyTuple_GET_SIZE(layers) < 1 || !parse_threads(threads_given, threads) ||
        !(cell_clip >= 0) || (cell_clip > 0 && kCells[int(cell)].P == 0))
      return none();
    const CellInfo& info = kCells[int(cell)];
    const auto first = py::make_tuple(py::handle(PyTuple_GET_ITEM(layers, 0)));
    if (!sizes_of(first, info.G, type, I, H) || I < 1) return none();
    if (batch != Py_None) {
      B = PyLong_AsLongLong(batch);
      if (B == -1 && PyErr_Occurred()) return nullptr;
      if (B < 1 || B > std::numeric_limits<int32_t>::max()) return none();
    }
    double zoneout[kMaxStates] = {};
    if (zoneout_given != Py_None) {
      if (!PyTuple_Check(zoneout_given) || PyTuple_GET_SIZE(zoneout_given) != info.S) return none();
      for (int s = 0; s < info.S; ++s) {
        zoneout[s] = PyFloat_AsDouble(PyTuple_GET_ITEM(zoneout_given, s));
        if (PyErr_Occurred()) return nullptr;
        if (!(zoneout[s] >= 0 && zoneout[s] <= 1)) return none();
      }
    }
    auto held = std::make_unique<Held>();
    held->type = type;
    held->batched = batch != Py_None;
    held->batch_first = batch_first != 0;
    const auto L = double(PyTuple_GET_SIZE(layers));
    held->flops = 2.0 * double(B) * info.G * double(H) * (double(I) + double(H) * (2 * L - 1));
    const bool fits =
        type == kFloat
            ? open_impl(cell, layers, initial,
                        plan_of<float>(cell, B, I, H, residual, zoneout, cell_clip, threads),
                        held->f32)
            : open_impl(cell, layers, initial,
                        plan_of<double>(cell, B, I, H, residual, zoneout, cell_clip, threads),
                        held->f64);
    if (!fits) return none();
    stream_of(self)->held = held.release();
    return yes();
  });
}

// _restart(rows): None, or bool (B,). True, or None where it does not fit.
PyObject* restart(PyObject* self, PyObject* rows) {
  return guarded([&]() -> PyObject* {
    const Use use(stream_of(self), "reset");
    if (!use) return nullptr;
    Held& s = use.held();
    const unsigned char* flags = nullptr;
    if (rows != Py_None) {
      View v;
      const Index B = s.type == kFloat ? s.f32->B() : s.f64->B();
      if (!s.batched || !view_of(rows, v) || v.type != kBool || v.nd != 1 || v.shape[0] != B ||
          !v.contiguous())
        return none();
      flags = static_cast<const unsigned char*>(v.data);
    }
    if (s.type == kFloat) s.f32->reset(flags);
    else s.f64->reset(flags);
    if (!flags) s.t.store(0, std::memory_order_relaxed);
    return yes();
  });
}

PyObject* reset(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  if (count + named > 1 ||
      (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "rows") != 0)) {
    PyErr_SetString(PyExc_TypeError,
                    "rnnfast.Stream.reset: expected the argument rows, or nothing.");
    return nullptr;
  }
  PyObject* rows = count + named ? args[0] : Py_None;
  PyObject* done = restart(self, rows);
  if (!done) return nullptr;
  Py_DECREF(done);
  // "O" alone would spread a tuple over the arguments.
  return done == Py_True ? none() : PyObject_CallMethod(self, "_checked_reset", "(O)", rows);
}

template <class Real>
PyObject* read_impl(Stream<Real>& stream) {
  py::tuple states{size_t(stream.states())};
  for (int s = 0; s < stream.states(); ++s) {
    auto array = empty<Real>({stream.L(), stream.B(), stream.H()});
    std::memcpy(array.mutable_data(), stream.state(s), size_t(array.nbytes()));
    states[size_t(s)] = std::move(array);
  }
  return states.release().ptr();
}

// _read(): S arrays (L, B, H), copies.
PyObject* read(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Use use(stream_of(self), "state");
    if (!use) return nullptr;
    Held& s = use.held();
    return s.type == kFloat ? read_impl(*s.f32) : read_impl(*s.f64);
  });
}

template <class Real>
PyObject* write_impl(Stream<Real>& stream, PyObject* given) {
  if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) != stream.states()) return none();
  const Real* from[kMaxStates] = {};
  for (int s = 0; s < stream.states(); ++s)
    if (!optional_array<Real>(PyTuple_GET_ITEM(given, s), {stream.L(), stream.B(), stream.H()},
                              from[s]))
      return none();
  const size_t bytes = size_t(stream.L() * stream.B() * stream.H()) * sizeof(Real);
  for (int s = 0; s < stream.states(); ++s) {
    if (from[s]) std::memcpy(stream.state(s), from[s], bytes);
    else std::memset(stream.state(s), 0, bytes);
  }
  return yes();
}

// _write(states): S arrays (L, B, H), None is zero. True, or None where they do not fit.
PyObject* write(PyObject* self, PyObject* given) {
  return guarded([&]() -> PyObject* {
    const Use use(stream_of(self), "state");
    if (!use) return nullptr;
    Held& s = use.held();
    return s.type == kFloat ? write_impl(*s.f32, given) : write_impl(*s.f64, given);
  });
}

PyObject* steps_so_far(PyObject* self, void*) {
  const Held* held = stream_of(self)->held;
  return PyLong_FromLongLong(held ? held->t.load(std::memory_order_relaxed) : 0);
}

PyObject* make(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* self = type->tp_alloc(type, 0);
  if (!self) return nullptr;
  stream_of(self)->held = nullptr;
  new (&stream_of(self)->busy) std::atomic<bool>(false);
  return self;
}

void destroy(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete stream_of(self)->held;
  type->tp_free(self);
  Py_DECREF(type);
}

template <class F>
PyCFunction as_method(F f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f));
}

PyMethodDef methods[] = {
    {"_open", open, METH_VARARGS, nullptr},
    {"step", as_method(step), METH_FASTCALL | METH_KEYWORDS,
     "step($self, x, out=None)\n--\n\nRun one step; see rnnfast.Stream.step."},
    {"run", as_method(run), METH_FASTCALL | METH_KEYWORDS,
     "run($self, x, out=None)\n--\n\nRun several steps; see rnnfast.Stream.run."},
    {"_take", take_method, METH_VARARGS, nullptr},
    {"reset", as_method(reset), METH_FASTCALL | METH_KEYWORDS,
     "reset($self, rows=None)\n--\n\nGo back to the initial state; see rnnfast.Stream.reset."},
    {"_restart", restart, METH_O, nullptr},
    {"_read", read, METH_NOARGS, nullptr},
    {"_write", write, METH_O, nullptr},
    {}};

PyGetSetDef properties[] = {{"t", steps_so_far, nullptr, "Steps so far.", nullptr}, {}};

PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(make)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
                       {Py_tp_methods, methods},
                       {Py_tp_getset, properties},
                       {0, nullptr}};

PyType_Spec spec = {"rnnfast._core.Stream", int(sizeof(PyStream)), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};

}  // namespace

py::object make_stream_type() {
  PyObject* type = PyType_FromSpec(&spec);
  if (!type) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(type);
}

}  // namespace rnnfast
