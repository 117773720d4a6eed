// The states and gates that a tape keeps, in the caller's form.
#include "borrowed.h"
#include "gaps.h"
#include "jobs.h"

namespace rnnfast {
namespace {

template <class Real>
struct RowList {
  std::vector<const Real*> from;
  std::vector<Real*> to;
  explicit RowList(Index most) {
    from.reserve(size_t(most));
    to.reserve(size_t(most));
  }
  void add(const Real* source, Real* target) {
    from.push_back(source);
    to.push_back(target);
  }
  void unpack(Index H, int kept, int slots) const {
    run_unpack_rows<Real>({Index(to.size()), H, from.data(), to.data(), kept, slots});
  }
};

// Slots of packed rows, as the caller's (D, T, B, slots, H), flat (D, N, slots, H); zero at unused places.
template <class Real>
py::array_t<Real> unpack(const PyTape& tape, bool gates) {
  const CellInfo& info = kCells[int(tape.cell)];
  const Dims& d = tape.dims;
  const CallOptions& o = tape.options();
  const int slots = gates ? info.G : 1, kept_slots = gates ? info.K : 1;
  const Index lanes = kernels<Real>().lanes, units = padded_units(d.H, int(lanes));
  const Index rows = o.flat ? o.start.back() : d.T * d.B, n = slots * d.H;
  auto array = gates && o.flat ? lasting<Real>({tape.D, rows, slots, d.H})
               : gates         ? lasting<Real>({tape.D, d.T, d.B, slots, d.H})
               : o.flat        ? lasting<Real>({tape.D, rows, d.H})
                               : lasting<Real>({tape.D, d.T, d.B, d.H});
  if (o.scheduled) std::memset(array.mutable_data(), 0, size_t(tape.D * rows * n) * sizeof(Real));
  for (int dir = 0; dir < tape.D; ++dir) {
    const auto& kept = tape.directions[size_t(dir)];
    const Real* base = gates ? static_cast<const Real*>(kept.cell.get())
                             : static_cast<const Real*>(kept.states.get()) + d.B * units;
    const Sequence<Real> to = direction(dense_steps(o, d, n, array.mutable_data() + dir * rows * n),
                                        d.T, 0, o.reversed(dir));
    const Schedule s = o.scheduled ? o.schedule[dir].view() : Schedule{};
    RowList<Real> list(rows);
    for (Index t = 0; t < d.T; ++t) {
      const Index begin = s.first ? s.first[t] : t * d.B,
                  end = s.first ? s.first[t + 1] : begin + d.B;
      for (Index p = begin; p < end; ++p)
        list.add(base + p * units * kept_slots, to.row(t, s.first ? s.row[p] : p - begin));
    }
    list.unpack(d.H, kept_slots, slots);
    if (!gates && o.hold && o.scheduled) {
      // Unused places hold the state before: initial states and replacements have copies on the tape, padded.
      std::vector<Real> initial(size_t(d.B * d.H)), replaced(size_t(s.replacements * d.H));
      const Real* first = static_cast<const Real*>(kept.states.get());
      for (Index b = 0; b < d.B; ++b)
        std::memcpy(initial.data() + b * d.H, first + b * units, size_t(d.H) * sizeof(Real));
      std::vector<Index> number(size_t(s.replacements));
      for (Index k = 0; k < s.replacements; ++k) {
        number[size_t(k)] = k;
        std::memcpy(replaced.data() + k * d.H,
                    static_cast<const Real*>(kept.replaced.get()) + (k * info.S + 1) * units,
                    size_t(d.H) * sizeof(Real));
      }
      const bool shared = s.replacements == 1 && !o.replaces();
      const StateRows<Real> held{to, initial.data(), shared ? nullptr : replaced.data(),
                                 number.data(), d.H};
      fill_gaps(o, dir, d, held);
    }
  }
  return array;
}

template <class Real>
py::tuple states_impl(const PyTape& tape) {
  const CellInfo& info = kCells[int(tape.cell)];
  const Dims& d = tape.dims;
  const CallOptions& o = tape.options();
  verify<Real>(tape, "y");
  py::tuple out{size_t(info.S)};
  View v;
  Sequence<const Real> y{};
  view_of(tape.y, v);
  steps(v, o, d, tape.D * d.H, y);
  const Index rows = o.flat ? o.start.back() : d.T * d.B;
  auto h = o.flat ? lasting<Real>({tape.D, rows, d.H}) : lasting<Real>({tape.D, d.T, d.B, d.H});
  Real* to = h.mutable_data();
  for (int dir = 0; dir < tape.D; ++dir, to += rows * d.H) {
    RowList<Real> list(rows);
    for (Index i = 0; i < rows; ++i)
      list.add((o.flat ? y.base + i * y.batch : y.row(i / d.B, i % d.B)) + dir * d.H, to + i * d.H);
    list.unpack(d.H, 1, 1);
  }
  out[0] = std::move(h);
  if (info.S > 1) out[1] = unpack<Real>(tape, false);
  return out;
}

}  // namespace

py::tuple tape_states(const PyTape& tape) {
  return tape.type == kFloat ? states_impl<float>(tape) : states_impl<double>(tape);
}

py::object tape_gates(const PyTape& tape) {
  if (tape.type == kFloat) return unpack<float>(tape, true);
  return unpack<double>(tape, true);
}

}  // namespace rnnfast
