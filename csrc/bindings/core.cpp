// rnnfast._core: NumPy arrays in, NumPy arrays out; the contract stands in rnnfast/_core.pyi. Every entrance checks
// sizes and types again (a pointer must be safe whoever calls) and answers None to what it does not take.
#include <pybind11/stl.h>

#include "../team/crowd.h"
#include "../team/team.h"
#include "call.h"
#include "stream.h"
#include "tensor_stack.h"

namespace rnnfast {
namespace {

struct LastKernel {
  const char *cell = nullptr, *pass = nullptr, *dtype = nullptr;
};
thread_local LastKernel last;

// Of all parameters of a layer; false where they are not of these sizes.
template <class Real>
bool checksum_of(py::handle params, int G, Index I, Index H, uint64_t& sum) {
  std::vector<AnyWeights> rows(size_t(PyTuple_GET_SIZE(params.ptr())));
  for (size_t dir = 0; dir < rows.size(); ++dir)
    if (!parse_any_weights<Real>(PyTuple_GET_ITEM(params.ptr(), Index(dir)), G, I, H, rows[dir]))
      return false;
  sum = checksum_of(type_number<Real>(), rows.data(), rows.size(), G, I, H);
  return true;
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
  if (!checksum_of<Real>(params, kCells[int(cell)].G, I, H, prepared->checksum)) return py::none();
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
  note_kernel("linear", "forward", type_number<Real>());
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
  note_kernel("linear", "backward", type_number<Real>());
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

// For `rnnfast bench`: flops done, so that the caller, who has the clock, knows the rate.
template <class Real, Real (*KernelTable<Real>::*work)(uint64_t), int KernelTable<Real>::* flops>
double measured(uint64_t rounds) {
  const py::gil_scoped_release release;
  const auto& table = kernels<Real>();
  const volatile Real kept = (table.*work)(rounds);
  (void)kept;
  return double(rounds) * (table.*flops);
}
template <class Real>
constexpr auto multiply_add =
    measured<Real, &KernelTable<Real>::multiply_add, &KernelTable<Real>::flops_per_round>;
template <class Real>
constexpr auto tile_product =
    measured<Real, &KernelTable<Real>::tile_product, &KernelTable<Real>::flops_per_tile>;

// Reads uint64 words, a whole number of blocks (512 bytes are one in every instruction set), so many times; returns
// the exclusive or of all words of all passes.
uint64_t read_memory(const py::array_t<uint64_t, py::array::c_style>& data, uint64_t passes) {
  const auto& table = kernels<float>();
  const size_t bytes = size_t(data.nbytes());
  if (bytes % table.read_block)
    throw py::value_error("data has " + std::to_string(bytes) + " bytes, expected a multiple of " +
                          std::to_string(table.read_block));
  const void* const from = data.data();
  const py::gil_scoped_release release;
  return table.read_memory(from, bytes, passes);
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
  info["cuda"] = RNNFAST_CUDA_BUILT;  // "yes", or "no" and why
  return info;
}

py::dtype dtype_of(int type) {
  return type == kFloat ? py::dtype::of<float>() : py::dtype::of<double>();
}

}  // namespace

bool find_cell(py::handle name, CellId& cell) {
  if (!PyUnicode_Check(name.ptr())) return false;
  for (int i = 0; i < int(CellId::count); ++i)
    if (PyUnicode_CompareWithASCIIString(name.ptr(), kCells[i].name) == 0) {
      cell = CellId(i);
      return true;
    }
  return false;
}

bool parse_threads(py::handle h, int& threads) {
  threads = 0;
  if (h.is_none()) return true;
  PyObject* number = h.ptr();
  const bool at_most = PyTuple_Check(number) && PyTuple_GET_SIZE(number) == 1;
  if (at_most) number = PyTuple_GET_ITEM(number, 0);
  if (!PyLong_Check(number)) return false;
  const long n = PyLong_AsLong(number);
  if (n == -1 && PyErr_Occurred()) PyErr_Clear();
  if (n < 1 || n > 1024) return false;
  threads = at_most ? -int(n) : int(n);
  return true;
}

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

uint64_t checksum_of(int type, const AnyWeights* rows, size_t D, int G, Index I, Index H) {
  const size_t sizes[kWeights] = {size_t(G * H * I), size_t(G * H * H), size_t(G * H),
                                  size_t(G * H)};
  const size_t itemsize = type == kFloat ? sizeof(float) : sizeof(double);
  const auto& sum_of = type == kFloat ? kernels<float>().checksum : kernels<double>().checksum;
  const MaybeRelease release(double(D) * double(sizes[0] + sizes[1]));
  uint64_t sum = 0;
  for (size_t dir = 0; dir < D; ++dir) {
    const AnyWeights& row = rows[dir];
    for (int w = 0; w < kWeights; ++w) {
      const size_t n = row.at[w] ? sizes[w] : 0;
      sum = sum_of(row.at[w] ? row.at[w] : row.at[0], n * itemsize, sum);
    }
  }
  return sum;
}

void note_kernel(const char* cell, const char* pass, int type) {
  last = {cell, pass, type == kFloat ? "f32" : "f64"};
}

std::string last_kernel() {
  if (!last.cell) return "";
  return std::string(last.cell) + "." + last.pass + "." + last.dtype + "." + chosen_isa();
}

bool prepared_from(const PyPrepared& p, py::handle params) {
  int type;
  Index I, H;
  const int G = kCells[int(p.cell)].G;
  if (!sizes_of(params, G, type, I, H) || type != p.type || I != p.I || H != p.H ||
      size_t(PyTuple_GET_SIZE(params.ptr())) != p.directions.size())
    return false;
  uint64_t sum;
  return (type == kFloat ? checksum_of<float>(params, G, I, H, sum)
                         : checksum_of<double>(params, G, I, H, sum)) &&
         sum == p.checksum;
}

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
      .def_property_readonly("D", [](const PyTape& t) { return t.D; })
      .def("states", tape_states)
      .def("gates", tape_gates);
  py::class_<PyPrepared>(m, "Prepared")
      .def_property_readonly("cell", [](const PyPrepared& p) { return kCells[int(p.cell)].name; })
      .def_property_readonly("dtype", [](const PyPrepared& p) { return dtype_of(p.type); })
      .def_property_readonly("I", [](const PyPrepared& p) { return p.I; })
      .def_property_readonly("H", [](const PyPrepared& p) { return p.H; })
      .def_property_readonly("D", [](const PyPrepared& p) { return p.directions.size(); })
      .def("made_from", prepared_from);
  m.attr("Stream") = make_stream_type();
  m.def("forward", forward, py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(),
        py::arg(), py::arg() = py::none());
  m.def("backward", backward, py::arg(), py::arg(), py::arg(), py::arg(), py::arg(),
        py::arg() = py::none(), py::arg() = py::none(), py::arg() = true);
  m.def("between_layers", between_layers);
  m.def("prepare", prepare);
  m.attr("TensorStack") = make_tensor_stack_type();
  m.def("tensor_stack", tensor_stack);
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
  m.def("_multiply_add_f32", multiply_add<float>);
  m.def("_multiply_add_f64", multiply_add<double>);
  m.def("_note_call", note_call);
  m.def("_members_in_crowd", members_in_crowd);
  m.def("_tile_product_f32", tile_product<float>);
  m.def("_tile_product_f64", tile_product<double>);
  m.def("_read_memory", read_memory, py::arg().noconvert(), py::arg());
}

}  // namespace rnnfast
