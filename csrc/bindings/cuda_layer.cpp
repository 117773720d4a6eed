#include "cuda_layer.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "../cuda/device.h"
#include "../cuda/engine.h"
#include "../cuda/masks.h"

namespace rnnfast::cuda {
namespace {

// What a call says, by name; what is absent is null, zero or false.
class Call {
 public:
  explicit Call(const py::dict& dict) : dict_(dict) {}

  template <class T>
  T get(const char* name, T absent = T()) const {
    const py::handle value = PyDict_GetItemString(dict_.ptr(), name);
    return value ? value.cast<T>() : absent;
  }
  template <class T>
  T* pointer(const char* name) const {
    return reinterpret_cast<T*>(get<uintptr_t>(name));
  }
  // Of the s-th state.
  template <class T>
  T* pointer(const char* name, int s) const {
    const py::handle value = PyDict_GetItemString(dict_.ptr(), name);
    if (!value) return nullptr;
    return reinterpret_cast<T*>(value.cast<py::tuple>()[size_t(s)].cast<uintptr_t>());
  }
  double number(const char* name, int s) const { return of_state<double>(name, s); }
  bool flag(const char* name, int s) const { return of_state<bool>(name, s); }
  // (pointer, time stride, batch stride) in the sequence's own time, as the scan goes through it.
  template <class T>
  Sequence<T> sequence(const char* name, const Steps& steps) const {
    return scanned<T>(PyDict_GetItemString(dict_.ptr(), name), steps);
  }
  template <class T>
  Sequence<T> sequence(const char* name, int s, const Steps& steps) const {
    const py::handle value = PyDict_GetItemString(dict_.ptr(), name);
    if (!value) return {nullptr, 0, 0};
    const auto of = value.cast<py::tuple>();
    return scanned<T>(of[size_t(s)], steps);
  }

 private:
  const py::dict& dict_;

  template <class T>
  T of_state(const char* name, int s) const {
    const py::handle value = PyDict_GetItemString(dict_.ptr(), name);
    return value ? value.cast<py::tuple>()[size_t(s)].cast<T>() : T();
  }
  template <class T>
  static Sequence<T> scanned(py::handle value, const Steps& steps) {
    if (!value || value.is_none()) return {nullptr, 0, 0};
    const auto of = value.cast<py::tuple>();
    Sequence<T> s{reinterpret_cast<T*>(of[0].cast<uintptr_t>()), of[1].cast<Index>(),
                  of[2].cast<Index>(), steps.start};
    if (steps.reverse && s.base && steps.T > 0) {
      s.base += (steps.T - 1) * s.time;
      s.time = -s.time;
    }
    return s;
  }
};

CellId cell_of(const Call& call) {
  const auto name = call.get<std::string>("cell");
#define RNNFAST_IS(id, Type) \
  if (name == #id) return CellId::id;
  RNNFAST_FOR_EACH_CELL(RNNFAST_IS)
#undef RNNFAST_IS
  throw py::value_error("no cell of the name " + name);
}

struct States {
  int count, params;
};
States states_of(CellId cell) {
  switch (cell) {
#define RNNFAST_STATES(id, Type) \
  case CellId::id:               \
    return {Type::S, Type::P};
    RNNFAST_FOR_EACH_CELL(RNNFAST_STATES)
#undef RNNFAST_STATES
    default:
      return {0, 0};
  }
}

Dims dims_of(const Call& call) {
  return {call.get<Index>("T"), call.get<Index>("B"), call.get<Index>("I"), call.get<Index>("H")};
}

Steps steps_of(const Call& call, const Dims& d) {
  Steps s{};
  s.T = d.T;
  s.B = d.B;
  s.reverse = call.get<bool>("reverse");
  s.hold = call.get<bool>("hold");
  s.lengths = call.pointer<const Index>("lengths");
  s.start = call.pointer<const Index>("start");
  s.mask = call.pointer<const uint8_t>("mask");
  s.reset = call.pointer<const uint8_t>("reset");
  return s;
}

template <class Acc>
Extras<Acc> extras_of(const Call& call, const Steps& steps, const States& states) {
  Extras<Acc> e{};
  const auto t0 = call.get<uint32_t>("t0");
  // Masks count in the sequence's own time.
  e.random = {call.get<uint64_t>("seed"),       call.get<uint32_t>("layer"),
              uint32_t(steps.reverse),          steps.reverse ? t0 + uint32_t(steps.T) - 1 : t0,
              steps.reverse ? uint32_t(-1) : 1, call.pointer<const uint32_t>("row_ids")};
  const auto dropout = call.get<double>("recurrent_dropout");
  e.drops = dropout > 0;
  e.drops_per_step = call.get<bool>("per_step");
  e.drop_threshold = mask_threshold(dropout);
  e.drop_factor = kept_factor<Acc>(dropout);
  e.zoneout_draws = call.get<bool>("training");
  for (int s = 0; s < states.count; ++s) {
    const double p = call.number("zoneout", s);
    e.zoneout[s] = Acc(p);
    // A probability that is too small for Acc still draws.
    if (p > 0 && !(e.zoneout[s] > 0)) e.zoneout[s] = std::numeric_limits<Acc>::min();
    e.zoneout_threshold[s] = mask_threshold(p);
  }
  const auto cell_clip = call.get<double>("cell_clip");
  e.has_params = states.params > 0 && cell_clip > 0;
  e.params[0] = e.has_params ? Acc(cell_clip) : std::numeric_limits<Acc>::infinity();
  const auto clip = call.get<double>("gradient_clip");
  if (clip > 0) e.gradient_clip = std::max(Acc(clip), std::numeric_limits<Acc>::min());
  e.burn_in = call.get<Index>("burn_in");
  e.tbptt = call.get<Index>("tbptt");
  return e;
}

// What forward and backward read alike.
template <class Store, class Args>
void read_common(Args& a, const Call& call, const States& states) {
  a.dims = dims_of(call);
  a.steps = steps_of(call, a.dims);
  a.x = call.sequence<const Store>("x", a.steps);
  a.index = call.sequence<const Index>("index", a.steps);
  const char* const names[kWeights] = {"W", "R", "bW", "bR"};
  for (int w = 0; w < kWeights; ++w) a.weights.at[w] = call.pointer<const Store>(names[w]);
  for (int s = 0; s < states.count; ++s) a.state0[s] = call.pointer<const Store>("state0", s);
  using Acc = AccumulateIn<Store>;
  a.tape = {call.pointer<Store>("tape_cell"), call.pointer<Acc>("tape_c"),
            call.pointer<Store>("tape_entered"), call.pointer<Acc>("tape_entered_c"),
            call.pointer<Acc>("tape_operand")};
  a.extras = extras_of<Acc>(call, a.steps, states);
}

template <class Store>
ForwardArgs<Store> forward_args(const Call& call, CellId cell) {
  const States states = states_of(cell);
  ForwardArgs<Store> a{};
  read_common<Store>(a, call, states);
  a.y = call.sequence<Store>("y", a.steps);
  for (int s = 0; s < states.count; ++s) {
    a.state_n[s] = call.pointer<Store>("state_n", s);
    a.replacement[s] = {call.pointer<const Store>("replacement", s),
                        call.flag("replacement_per_step", s)};
  }
  return a;
}

template <class Store>
BackwardArgs<Store> backward_args(const Call& call, CellId cell) {
  using Acc = AccumulateIn<Store>;
  const States states = states_of(cell);
  BackwardArgs<Store> a{};
  read_common<Store>(a, call, states);
  a.y = call.sequence<const Store>("y", a.steps);
  a.dy = call.sequence<const Store>("dy", a.steps);
  a.dgates = call.sequence<const Store>("dgates", a.steps);
  a.dx = call.sequence<Store>("dx", a.steps);
  a.add_to_dx = call.get<bool>("add_to_dx");
  for (int s = 0; s < states.count; ++s) {
    a.dstate_n[s] = call.pointer<const Store>("dstate_n", s);
    a.dstates[s] = call.sequence<const Store>("dstates", s, a.steps);
    a.dstate0[s] = call.pointer<Store>("dstate0", s);
    a.dreplacement[s] = {call.pointer<Acc>("dreplacement", s),
                         call.flag("replacement_per_step", s)};
  }
  const char* const names[kWeights] = {"dW", "dR", "dbW", "dbR"};
  for (int w = 0; w < kWeights; ++w) a.dweights[w] = call.pointer<Store>(names[w]);
  return a;
}

Limits limits_of(const Call& call) {
  // Asked once for each device: the answer takes a millisecond.
  static std::mutex lock;
  static std::vector<size_t> shared;
  const std::lock_guard<std::mutex> guard(lock);
  const auto device = call.get<size_t>("device");
  if (device >= shared.size()) {
    shared.clear();
    for (const Device& d : devices()) shared.push_back(d.shared);
  }
  return {shared.at(device), call.get<size_t>("chunk_bytes", kChunkBytes)};
}

template <class F>
auto with_storage(const Call& call, F&& f) {
  const auto storage = call.get<std::string>("storage");
  if (storage == "f32") return f(float());
  if (storage == "f64") return f(double());
  if (storage == "bf16") return f(bf16());
  if (storage == "f16") return f(f16());
  throw py::value_error("no storage type of the name " + storage);
}

bool is_tf32(const Call& call) {
  const bool asked = call.get<bool>("tf32");
  const auto storage = call.get<std::string>("storage");
  if (asked && storage != "f32")
    throw py::value_error("tf32 is a way to multiply f32, not " + storage);
  return asked;
}

// Which walk this pass takes: K0 where R fits, unless the call names one.
bool is_resident(const Call& call, CellId cell, bool backward, const Limits& limits) {
  const bool fits = with_storage(call, [&](auto store) {
    return layer_kernels<decltype(store)>(cell, is_tf32(call))
        .fits(dims_of(call), limits, backward);
  });
  const auto asked = call.get<std::string>("family", "");
  if (asked == "steps") return false;
  if (asked != "" && asked != "k0") throw py::value_error("no family of the name " + asked);
  if (asked == "k0" && !fits) throw py::value_error("R does not fit one multiprocessor");
  return fits;
}

}  // namespace

size_t layer_scratch(const py::dict& dict, bool backward) {
  const Call call(dict);
  const CellId cell = cell_of(call);
  const Limits limits = limits_of(call);
  const bool resident = is_resident(call, cell, backward, limits);
  return with_storage(call, [&](auto store) {
    using Store = decltype(store);
    const auto& kernels = layer_kernels<Store>(cell, is_tf32(call));
    return backward ? kernels.backward_scratch(backward_args<Store>(call, cell), limits, resident)
                    : kernels.forward_scratch(forward_args<Store>(call, cell), limits, resident);
  });
}

std::string layer_run(const py::dict& dict, bool backward, uintptr_t scratch, uintptr_t stream) {
  const Call call(dict);
  const CellId cell = cell_of(call);
  const int device = call.get<int>("device");
  const Limits limits = limits_of(call);
  const bool resident = is_resident(call, cell, backward, limits);
  std::string id = call.get<std::string>("cell") + (backward ? ".backward." : ".forward.") +
                   (is_tf32(call) ? "tf32" : call.get<std::string>("storage")) + ".cuda." +
                   (resident ? "k0" : "steps");
  const OnDevice here(device);
  auto* const room = reinterpret_cast<void*>(scratch);
  auto* const on = reinterpret_cast<cudaStream_t>(stream);
  with_storage(call, [&](auto store) {
    using Store = decltype(store);
    const auto& kernels = layer_kernels<Store>(cell, is_tf32(call));
    if (backward) {
      const auto args = backward_args<Store>(call, cell);
      const py::gil_scoped_release release;
      kernels.backward(id.c_str(), args, room, limits, resident, on);
    } else {
      const auto args = forward_args<Store>(call, cell);
      const py::gil_scoped_release release;
      kernels.forward(id.c_str(), args, room, limits, resident, on);
    }
    return 0;
  });
  return id;
}

void layer_weight_drop(const py::dict& dict, Index rows, uintptr_t in, uintptr_t out,
                       uintptr_t stream) {
  const Call call(dict);
  const OnDevice here(call.get<int>("device"));
  const auto n = call.get<Index>("H");
  with_storage(call, [&](auto store) {
    using Store = decltype(store);
    MaskedRows<Store> drop{};
    drop.T = 1;
    drop.B = rows;
    drop.n = n;
    drop.in = {reinterpret_cast<const Store*>(in), 0, n};
    drop.out = {reinterpret_cast<Store*>(out), 0, n};
    drop.purpose = Purpose::weight_drop;
    drop.p = call.get<double>("weight_drop");
    drop.random = {call.get<uint64_t>("seed"),
                   call.get<uint32_t>("layer"),
                   uint32_t(call.get<bool>("reverse")),
                   0,
                   0,
                   nullptr};
    masked_rows(drop, reinterpret_cast<cudaStream_t>(stream));
    return 0;
  });
}

void layer_between(const py::dict& dict, uintptr_t stream) {
  const Call call(dict);
  const OnDevice here(call.get<int>("device"));
  const Steps straight = steps_of(call, dims_of(call));
  with_storage(call, [&](auto store) {
    using Store = decltype(store);
    MaskedRows<Store> rows{};
    rows.T = straight.T;
    rows.B = straight.B;
    rows.n = call.get<Index>("H");
    rows.in = call.sequence<const Store>("in", straight);
    rows.add = call.sequence<const Store>("add", straight);
    rows.out = call.sequence<Store>("out", straight);
    rows.purpose = Purpose::between_layers;
    rows.p = call.get<double>("dropout");
    rows.random = {call.get<uint64_t>("seed"),
                   call.get<uint32_t>("layer"),
                   call.get<uint32_t>("direction"),
                   call.get<uint32_t>("t0"),
                   1,
                   call.pointer<const uint32_t>("row_ids")};
    masked_rows(rows, reinterpret_cast<cudaStream_t>(stream));
    return 0;
  });
}

}  // namespace rnnfast::cuda
