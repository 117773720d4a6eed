// rnnfast._core: NumPy arrays in, NumPy arrays out; the contract stands in rnnfast/_core.pyi. Every entrance checks
// sizes and types again (a pointer must be safe whoever calls) and answers None to what it does not take.
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "../cpu/engine.h"
#include "../team/team.h"
#include "tape.h"

namespace rnnfast {
namespace {

struct CellInfo {
  const char *name, *gates, *states, *tape;
  int G, S;
};
constexpr CellInfo kCells[] = {
#define RNNFAST_INFO(id, Type) \
  {Type::name, Type::gate_letters, Type::state_letters, Type::tape_letters, Type::G, Type::S},
    RNNFAST_FOR_EACH_CELL(RNNFAST_INFO)
#undef RNNFAST_INFO
};

bool find_cell(py::handle name, CellId& cell) {
  if (!PyUnicode_Check(name.ptr())) return false;
  for (int i = 0; i < int(CellId::count); ++i)
    if (PyUnicode_CompareWithASCIIString(name.ptr(), kCells[i].name) == 0) {
      cell = CellId(i);
      return true;
    }
  return false;
}

// The id of the last kernel of this thread: cell (or linear), pass, dtype; the instruction set is added when asked for.
struct LastKernel {
  const char *cell = nullptr, *pass = nullptr, *dtype = nullptr;
};
thread_local LastKernel last;

template <class Real>
void note_kernel(const char* cell, const char* pass) {
  last = {cell, pass, sizeof(Real) == 4 ? "f32" : "f64"};
}

bool parse_threads(py::handle h, int& threads) {
  threads = 0;
  if (h.is_none()) return true;
  if (!PyLong_Check(h.ptr())) return false;
  const long n = PyLong_AsLong(h.ptr());
  if (n == -1 && PyErr_Occurred()) PyErr_Clear();
  if (n < 1 || n > 1024) return false;
  threads = int(n);
  return true;
}

// Releasing the interpreter lock costs 70 ns: calls below about 3 microseconds keep it.
class MaybeRelease {
 public:
  explicit MaybeRelease(double flops) {
    if (flops > 1e5) release_.emplace();
  }

 private:
  std::optional<py::gil_scoped_release> release_;
};

double flops_of(CellId cell, const Dims& d, int D) {
  return 2.0 * D * double(d.T) * double(d.B) * kCells[int(cell)].G * double(d.H) *
         double(d.I + d.H);
}

template <class Real>
uint64_t checksum_of(const View& v) {
  const auto& sum = kernels<Real>().checksum;
  Index n = 1;
  for (int i = 0; i < v.nd; ++i) n *= v.shape[i];
  if (n == 0) return 0;
  if (v.contiguous()) return sum(v.data, size_t(n) * sizeof(Real), 0);
  // Only (T, B, n) sequences come here: row by row.
  uint64_t hash = 0;
  for (Index t = 0; t < v.shape[0]; ++t)
    for (Index b = 0; b < v.shape[1]; ++b)
      hash = sum(static_cast<char*>(v.data) + t * v.strides[0] + b * v.strides[1],
                 size_t(v.shape[2]) * sizeof(Real), hash);
  return hash;
}

template <class Real>
bool parse_weights(py::handle row, int G, Index I, Index H, Weights<Real>& out) {
  if (!PyTuple_Check(row.ptr()) || PyTuple_GET_SIZE(row.ptr()) != kWeights) return false;
  PyObject* t = row.ptr();
  return required_array<Real>(PyTuple_GET_ITEM(t, 0), {G * H, I}, out.at[0]) &&
         required_array<Real>(PyTuple_GET_ITEM(t, 1), {G * H, H}, out.at[1]) &&
         optional_array<Real>(PyTuple_GET_ITEM(t, 2), {G * H}, out.at[2]) &&
         optional_array<Real>(PyTuple_GET_ITEM(t, 3), {G * H}, out.at[3]);
}

// I and H as the first direction's W and R give them.
bool sizes_of(py::handle params, int G, int& type, Index& I, Index& H) {
  if (!PyTuple_Check(params.ptr())) return false;
  const auto D = PyTuple_GET_SIZE(params.ptr());
  if (D < 1 || D > 2) return false;
  PyObject* row = PyTuple_GET_ITEM(params.ptr(), 0);
  View W, R;
  if (!PyTuple_Check(row) || PyTuple_GET_SIZE(row) != kWeights) return false;
  if (!view_of(PyTuple_GET_ITEM(row, 0), W) || !view_of(PyTuple_GET_ITEM(row, 1), R)) return false;
  if (W.nd != 2 || R.nd != 2 || R.shape[0] != G * R.shape[1]) return false;
  if (W.type != kFloat && W.type != kDouble) return false;
  type = W.type;
  I = W.shape[1];
  H = R.shape[1];
  return H > 0;
}

// The initial (or final) states' gradients: None, or S entries of (D, B, H) or None.
template <class Real>
bool parse_states(py::handle h, int S, Index D, const Dims& d, const Real* (&out)[kMaxStates]) {
  for (auto& p : out) p = nullptr;
  if (h.is_none()) return true;
  if (!PyTuple_Check(h.ptr()) || PyTuple_GET_SIZE(h.ptr()) != S) return false;
  for (int s = 0; s < S; ++s)
    if (!optional_array<Real>(PyTuple_GET_ITEM(h.ptr(), s), {D, d.B, d.H}, out[s])) return false;
  return true;
}

IndexTable make_index_table(const int64_t* x, Index n, Index I) {
  IndexTable table;
  table.slot.resize(size_t(n));
  std::vector<int32_t> of(size_t(I), -1);
  for (Index i = 0; i < n; ++i) {
    if (x[i] < 0 || x[i] >= I) throw py::index_error("rnnfast: an index is outside [0, I)");
    of[size_t(x[i])] = 0;
  }
  for (Index k = 0; k < I; ++k)
    if (of[size_t(k)] == 0) {
      of[size_t(k)] = int32_t(table.distinct.size());
      table.distinct.push_back(k);
    }
  for (Index i = 0; i < n; ++i) table.slot[size_t(i)] = of[size_t(x[i])];
  return table;
}

IndexInput index_input(const IndexTable& table, Index T, Index B, bool reverse) {
  IndexInput in{true, table.slot.data(), B, 1, table.distinct.data(), Index(table.distinct.size())};
  if (reverse && T > 0) {
    in.slot += (T - 1) * B;
    in.time = -B;
  }
  return in;
}

constexpr const char* kWeightNames[kWeights] = {"W", "R", "bW", "bR"};

template <class Real>
py::object forward_impl(CellId cell, const View& x, py::handle x_object, py::handle params,
                        const PyPrepared* prepared, Index I, Index H, py::handle state,
                        py::handle out, bool keep_tape, int threads) {
  const CellInfo& info = kCells[int(cell)];
  const int D = prepared ? int(prepared->directions.size()) : int(PyTuple_GET_SIZE(params.ptr()));
  const bool dense = x.nd == 3;
  const Dims d{x.shape[0], x.shape[1], I, H};
  Sequence<const Real> xs{nullptr, 0, 0};
  if (dense && (x.type != type_number<Real>() || x.shape[2] != I || !sequence(x, xs)))
    return py::none();

  ForwardArgs<Real> jobs[2] = {};
  for (int dir = 0; dir < D; ++dir) {
    if (prepared)
      jobs[dir].packed = static_cast<const Real*>(prepared->directions[size_t(dir)].get());
    else if (!parse_weights(PyTuple_GET_ITEM(params.ptr(), dir), info.G, I, H, jobs[dir].weights))
      return py::none();
  }
  const Real* state0[kMaxStates];
  if (!parse_states(state, info.S, D, d, state0)) return py::none();

  View y_view;
  py::object y;
  if (out.is_none()) {
    y = empty<Real>({d.T, d.B, D * H});
    view_of(y, y_view);
  } else {
    if (!view_of(out, y_view) || y_view.type != type_number<Real>() || !y_view.writeable() ||
        y_view.nd != 3 || y_view.shape[0] != d.T || y_view.shape[1] != d.B ||
        y_view.shape[2] != D * H)
      return py::none();
    y = py::reinterpret_borrow<py::object>(out);
  }
  Sequence<Real> ys;
  if (!sequence(y_view, ys)) return py::none();

  py::tuple states{size_t(info.S)};
  Real* state_n[kMaxStates] = {};
  for (int s = 0; s < info.S; ++s) {
    auto array = empty<Real>({D, d.B, H});
    state_n[s] = array.mutable_data();
    states[size_t(s)] = std::move(array);
  }

  std::unique_ptr<PyTape> tape;
  IndexTable inference_index;
  IndexTable* index = &inference_index;
  if (keep_tape) {
    tape = std::make_unique<PyTape>();
    tape->cell = cell;
    tape->type = type_number<Real>();
    tape->dims = d;
    tape->D = D;
    tape->dense_x = dense;
    index = &tape->index;
  }
  if (!dense) *index = make_index_table(static_cast<const int64_t*>(x.data), d.T * d.B, I);

  for (int dir = 0; dir < D; ++dir) {
    ForwardArgs<Real>& job = jobs[dir];
    const bool reverse = dir == 1;
    job.dims = d;
    job.x = direction(xs, d.T, 0, reverse);
    if (!dense) job.index = index_input(*index, d.T, d.B, reverse);
    job.y = direction(ys, d.T, dir * H, reverse);
    for (int s = 0; s < info.S; ++s) {
      job.state0[s] = state0[s] ? state0[s] + dir * d.B * H : nullptr;
      job.state_n[s] = state_n[s] + dir * d.B * H;
    }
    if (tape) {
      PyTape::Direction kept;
      kept.cell = allocate_aligned(size_t(tape_cell_size<Real>(cell, d)) * sizeof(Real));
      if (info.S > 1)
        kept.states = allocate_aligned(size_t(tape_state_size<Real>(d)) * sizeof(Real));
      kept.has_bW = job.weights[Weight::bW] != nullptr;
      kept.has_bR = job.weights[Weight::bR] != nullptr;
      job.tape.cell = static_cast<Real*>(kept.cell.get());
      job.tape.states[1] = static_cast<Real*>(kept.states.get());
      tape->directions.push_back(std::move(kept));
    }
  }
  {
    const MaybeRelease release(flops_of(cell, d, D));
    run_forward(cell, jobs, D, threads);
  }
  if (tape) {
    tape->x = py::reinterpret_borrow<py::object>(x_object);
    tape->y = y;
    tape->params = py::reinterpret_borrow<py::object>(params);
    tape->state = py::reinterpret_borrow<py::object>(state);
    const auto borrow = [&](std::string name, py::handle array) {
      if (!array.is_none())
        tape->borrowed.push_back({std::move(name), py::reinterpret_borrow<py::object>(array), 0});
    };
    if (dense) borrow("x", x_object);
    borrow("y", y);
    for (int dir = 0; dir < D; ++dir)
      for (int w = 0; w < 2; ++w)  // the biases are not read again
        borrow(std::string(kWeightNames[w]) + (dir ? " of the reverse direction" : ""),
               PyTuple_GET_ITEM(PyTuple_GET_ITEM(params.ptr(), dir), w));
    if (!state.is_none())
      borrow("h0", PyTuple_GET_ITEM(state.ptr(), 0));  // c0 has a copy on the tape
    for (auto& b : tape->borrowed) {
      View v;
      view_of(b.array, v);
      b.checksum = checksum_of<Real>(v);
    }
  }
  note_kernel<Real>(info.name, "forward");
  return py::make_tuple(std::move(y), std::move(states),
                        tape ? py::cast(std::move(tape)) : py::none());
}

py::object forward(py::handle cell_name, py::handle x, py::handle params, py::handle state,
                   py::handle out, py::handle keep_tape, py::handle threads_given) {
  CellId cell;
  View v;
  int threads, type = 0;
  Index I = 0, H = 0;
  if (!find_cell(cell_name, cell) || !view_of(x, v) || !parse_threads(threads_given, threads))
    return py::none();
  const bool keep = keep_tape.ptr() == Py_True;
  const PyPrepared* prepared = nullptr;
  if (py::isinstance<PyPrepared>(params)) {
    prepared = params.cast<const PyPrepared*>();
    if (keep || prepared->cell != cell) return py::none();
    type = prepared->type;
    I = prepared->I;
    H = prepared->H;
  } else if (!sizes_of(params, kCells[int(cell)].G, type, I, H)) {
    return py::none();
  }
  const bool index =
      v.nd == 2 && v.contiguous() && v.shape && py::isinstance<py::array_t<int64_t>>(x);
  if (v.nd != 3 && !index) return py::none();
  if (type == kFloat)
    return forward_impl<float>(cell, v, x, params, prepared, I, H, state, out, keep, threads);
  return forward_impl<double>(cell, v, x, params, prepared, I, H, state, out, keep, threads);
}

template <class Real>
py::object backward_impl(const PyTape& tape, py::handle dy, py::handle dstate, bool need_dx,
                         int threads) {
  const CellInfo& info = kCells[int(tape.cell)];
  const Dims& d = tape.dims;
  Sequence<const Real> dys{nullptr, 0, 0};
  if (!dy.is_none()) {
    View v;
    if (!view_of(dy, v) || v.type != type_number<Real>() || v.nd != 3 || v.shape[0] != d.T ||
        v.shape[1] != d.B || v.shape[2] != tape.D * d.H || !sequence(v, dys))
      return py::none();
  }
  const Real* dstate_n[kMaxStates];
  if (!parse_states(dstate, info.S, tape.D, d, dstate_n)) return py::none();

  for (const auto& b : tape.borrowed) {
    View v;
    view_of(b.array, v);
    if (checksum_of<Real>(v) != b.checksum)
      throw std::runtime_error(
          "rnnfast." + std::string(info.name) + ": " + b.name +
          " has changed since the forward pass whose tape this is; backward needs it as it was. "
          "Change it after backward, or give forward a copy.");
  }

  BackwardArgs<Real> jobs[2] = {};
  View x, y;
  Sequence<const Real> xs{nullptr, 0, 0}, ys;
  view_of(tape.x, x);
  view_of(tape.y, y);
  if (tape.dense_x) sequence(x, xs);
  sequence(y, ys);
  const Real* state0[kMaxStates];
  parse_states(tape.state, info.S, tape.D, d, state0);

  py::object dx = py::none();
  Sequence<Real> dxs[2] = {};
  // The two directions both flow into dx: the second one writes beside it and is added afterwards.
  py::array_t<Real> second;
  if (need_dx && tape.dense_x) {
    auto array = empty<Real>({d.T, d.B, d.I});
    dxs[0] = {array.mutable_data(), d.B * d.I, d.I};
    dx = std::move(array);
    if (tape.D == 2) {
      second = empty<Real>({d.T, d.B, d.I});
      dxs[1] = {second.mutable_data(), d.B * d.I, d.I};
    }
  }
  py::tuple dstates{size_t(info.S)};
  Real* dstate0[kMaxStates] = {};
  for (int s = 0; s < info.S; ++s) {
    auto array = empty<Real>({tape.D, d.B, d.H});
    dstate0[s] = array.mutable_data();
    dstates[size_t(s)] = std::move(array);
  }
  py::tuple grads{size_t(tape.D)};
  const Index GH = info.G * d.H;
  for (int dir = 0; dir < tape.D; ++dir) {
    BackwardArgs<Real>& job = jobs[dir];
    const bool reverse = dir == 1;
    job.dims = d;
    job.x = direction(xs, d.T, 0, reverse);
    if (!tape.dense_x) job.index = index_input(tape.index, d.T, d.B, reverse);
    parse_weights(PyTuple_GET_ITEM(tape.params.ptr(), dir), info.G, d.I, d.H, job.weights);
    job.y = direction(ys, d.T, dir * d.H, reverse);
    job.dy = direction(dys, d.T, dir * d.H, reverse);
    job.dx = direction(dxs[dir], d.T, 0, reverse);
    for (int s = 0; s < info.S; ++s) {
      job.state0[s] = state0[s] ? state0[s] + dir * d.B * d.H : nullptr;
      job.dstate_n[s] = dstate_n[s] ? dstate_n[s] + dir * d.B * d.H : nullptr;
      job.dstate0[s] = dstate0[s] + dir * d.B * d.H;
    }
    const auto& kept = tape.directions[size_t(dir)];
    job.tape.cell = static_cast<Real*>(kept.cell.get());
    job.tape.states[1] = static_cast<Real*>(kept.states.get());

    py::object dW;
    if (tape.dense_x) {
      auto array = empty<Real>({GH, d.I});
      job.dweights[int(Weight::W)] = array.mutable_data();
      dW = std::move(array);
    } else {
      const auto n = Index(tape.index.distinct.size());
      auto rows = empty<Real>({n, GH});
      auto indices = empty<int64_t>({n});
      for (Index i = 0; i < n; ++i) indices.mutable_data()[i] = tape.index.distinct[size_t(i)];
      job.dweights[int(Weight::W)] = rows.mutable_data();
      dW = py::make_tuple(std::move(indices), std::move(rows));
    }
    auto dR = empty<Real>({GH, d.H});
    job.dweights[int(Weight::R)] = dR.mutable_data();
    py::object biases[2] = {py::none(), py::none()};
    const bool has[2] = {kept.has_bW, kept.has_bR};
    for (int i = 0; i < 2; ++i) {
      if (!has[i]) continue;
      auto array = empty<Real>({GH});
      job.dweights[int(Weight::bW) + i] = array.mutable_data();
      biases[i] = std::move(array);
    }
    grads[size_t(dir)] = py::make_tuple(std::move(dW), std::move(dR), biases[0], biases[1]);
  }
  {
    const MaybeRelease release(2 * flops_of(tape.cell, d, tape.D));
    run_backward(tape.cell, jobs, tape.D, threads);
    if (dxs[1].base) {
      const Index n = d.T * d.B * d.I;
      for (Index i = 0; i < n; ++i) dxs[0].base[i] += dxs[1].base[i];
    }
  }
  note_kernel<Real>(info.name, "backward");
  return py::make_tuple(std::move(dx), std::move(grads), std::move(dstates));
}

py::object backward(const PyTape& tape, py::handle dy, py::handle dstate, py::handle need_dx,
                    py::handle threads_given) {
  int threads;
  if (!parse_threads(threads_given, threads)) return py::none();
  const bool need = need_dx.ptr() == Py_True;
  if (tape.type == kFloat) return backward_impl<float>(tape, dy, dstate, need, threads);
  return backward_impl<double>(tape, dy, dstate, need, threads);
}

template <class Real>
py::object prepare_impl(CellId cell, py::handle params, Index I, Index H) {
  auto prepared = std::make_unique<PyPrepared>();
  prepared->cell = cell;
  prepared->type = type_number<Real>();
  prepared->I = I;
  prepared->H = H;
  const auto& kernel = kernels<Real>().cells[int(cell)];
  const Dims d{1, 1, I, H};
  for (Index dir = 0; dir < PyTuple_GET_SIZE(params.ptr()); ++dir) {
    Weights<Real> weights;
    if (!parse_weights(PyTuple_GET_ITEM(params.ptr(), dir), kCells[int(cell)].G, I, H, weights))
      return py::none();
    AlignedBlock block = allocate_aligned(kernel.packed_size(d));
    kernel.prepare(d, weights, static_cast<Real*>(block.get()));
    prepared->directions.push_back(std::move(block));
  }
  return py::cast(std::move(prepared));
}

py::object prepare(py::handle cell_name, py::handle params) {
  CellId cell;
  int type;
  Index I, H;
  if (!find_cell(cell_name, cell) || !sizes_of(params, kCells[int(cell)].G, type, I, H))
    return py::none();
  return type == kFloat ? prepare_impl<float>(cell, params, I, H)
                        : prepare_impl<double>(cell, params, I, H);
}

// (N, K), (M, K), (M,) or (N, M): sizes as x and W give them.
template <class Real>
bool linear_args(const View& x, const View& W, LinearArgs<Real>& a) {
  if (x.nd != 2 || W.nd != 2 || x.type != type_number<Real>() || W.type != x.type ||
      !x.contiguous() || !W.contiguous() || x.shape[1] != W.shape[1])
    return false;
  a.N = x.shape[0];
  a.K = x.shape[1];
  a.M = W.shape[0];
  a.x = static_cast<const Real*>(x.data);
  a.W = static_cast<const Real*>(W.data);
  return true;
}

template <class Real>
py::object linear_forward_impl(const View& x, const View& W, py::handle b, int threads) {
  LinearArgs<Real> a{};
  if (!linear_args(x, W, a) || !optional_array(b, {a.M}, a.b)) return py::none();
  auto y = empty<Real>({a.N, a.M});
  a.y = y.mutable_data();
  {
    const MaybeRelease release(2.0 * double(a.N) * double(a.K) * double(a.M));
    run_linear_forward(a, threads);
  }
  note_kernel<Real>("linear", "forward");
  return std::move(y);
}

py::object linear_forward(py::handle x, py::handle W, py::handle b, py::handle threads_given) {
  View xv, Wv;
  int threads;
  if (!view_of(x, xv) || !view_of(W, Wv) || !parse_threads(threads_given, threads))
    return py::none();
  if (xv.type == kFloat) return linear_forward_impl<float>(xv, Wv, b, threads);
  if (xv.type == kDouble) return linear_forward_impl<double>(xv, Wv, b, threads);
  return py::none();
}

template <class Real>
py::object linear_backward_impl(const View& x, const View& W, py::handle dy, bool need_dx,
                                bool need_db, int threads) {
  LinearArgs<Real> a{};
  if (!linear_args(x, W, a) || !required_array(dy, {a.N, a.M}, a.dy)) return py::none();
  auto dW = empty<Real>({a.M, a.K});
  a.dW = dW.mutable_data();
  py::object dx = py::none(), db = py::none();
  if (need_dx) {
    auto array = empty<Real>({a.N, a.K});
    a.dx = array.mutable_data();
    dx = std::move(array);
  }
  if (need_db) {
    auto array = empty<Real>({a.M});
    a.db = array.mutable_data();
    db = std::move(array);
  }
  {
    const MaybeRelease release(4.0 * double(a.N) * double(a.K) * double(a.M));
    run_linear_backward(a, threads);
  }
  note_kernel<Real>("linear", "backward");
  return py::make_tuple(std::move(dx), std::move(dW), std::move(db));
}

py::object linear_backward(py::handle x, py::handle W, py::handle dy, bool need_dx, bool need_db,
                           py::handle threads_given) {
  View xv, Wv;
  int threads;
  if (!view_of(x, xv) || !view_of(W, Wv) || !parse_threads(threads_given, threads))
    return py::none();
  if (xv.type == kFloat) return linear_backward_impl<float>(xv, Wv, dy, need_dx, need_db, threads);
  if (xv.type == kDouble)
    return linear_backward_impl<double>(xv, Wv, dy, need_dx, need_db, threads);
  return py::none();
}

// For tests: an activation of one instruction set, elementwise.
template <class Real>
py::object activation(const std::string& isa, int which, const py::array_t<Real>& x) {
  const KernelTable<Real>* table = kernels_of<Real>(isa);
  if (!table || which < 0 || which > 2)
    throw py::value_error("no such instruction set or activation");
  py::array_t<Real> out(x.size());
  table->activation(which, x.data(), out.mutable_data(), x.size());
  return std::move(out);
}

std::vector<std::string> words(const char* text) {
  std::vector<std::string> out;
  std::string word;
  for (; *text; ++text)
    if (*text == ' ') out.push_back(std::exchange(word, {}));
    else word += *text;
  out.push_back(word);
  return out;
}

py::list cells() {
  py::list rows;
  for (const CellInfo& c : kCells) {
    py::dict row;
    row["name"] = c.name;
    row["gates"] = words(c.gates);
    row["states"] = words(c.states);
    row["tape"] = words(c.tape);
    rows.append(row);
  }
  return rows;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] =
#if defined(__clang__)
      "clang " __clang_version__;
#else
      "gcc " __VERSION__;
#endif
  info["isas"] = available_isas();
  info["team"] = team_backend();
  info["openmp"] = std::string(team_backend()) == "openmp";
  info["cuda"] = false;
  return info;
}

std::string last_kernel() {
  if (!last.cell) return "";
  return std::string(last.cell) + "." + last.pass + "." + last.dtype + "." + chosen_isa();
}

py::dtype dtype_of(int type) {
  return type == kFloat ? py::dtype::of<float>() : py::dtype::of<double>();
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  chosen_isa();  // an instruction set asked for by name is there, or the import fails and says so
  m.doc() = "rnnfast's compiled kernels; see rnnfast/_core.pyi";
  py::class_<PyTape>(m, "Tape")
      .def_property_readonly("cell", [](const PyTape& t) { return kCells[int(t.cell)].name; })
      .def_property_readonly("dtype", [](const PyTape& t) { return dtype_of(t.type); })
      .def_property_readonly("T", [](const PyTape& t) { return t.dims.T; })
      .def_property_readonly("B", [](const PyTape& t) { return t.dims.B; })
      .def_property_readonly("I", [](const PyTape& t) { return t.dims.I; })
      .def_property_readonly("H", [](const PyTape& t) { return t.dims.H; })
      .def_property_readonly("D", [](const PyTape& t) { return t.D; });
  py::class_<PyPrepared>(m, "Prepared")
      .def_property_readonly("cell", [](const PyPrepared& p) { return kCells[int(p.cell)].name; })
      .def_property_readonly("dtype", [](const PyPrepared& p) { return dtype_of(p.type); })
      .def_property_readonly("I", [](const PyPrepared& p) { return p.I; })
      .def_property_readonly("H", [](const PyPrepared& p) { return p.H; })
      .def_property_readonly("D", [](const PyPrepared& p) { return p.directions.size(); });
  m.def("forward", forward);
  m.def("backward", backward);
  m.def("prepare", prepare);
  m.def("linear_forward", linear_forward);
  m.def("linear_backward", linear_backward);
  m.def("set_num_threads", [](int n) {
    if (n < 1 || n > 1024) throw py::value_error("rnnfast.set_num_threads: n is outside [1, 1024]");
    set_team_threads(n);
  });
  m.def("get_num_threads", team_threads);
  m.def("last_kernel", last_kernel);
  m.def("isa", chosen_isa);
  m.def("isas", available_isas);
  m.def("cells", cells);
  m.def("build_info", build_info);
  m.def("_activation_f32", activation<float>);
  m.def("_activation_f64", activation<double>);
}

}  // namespace rnnfast
