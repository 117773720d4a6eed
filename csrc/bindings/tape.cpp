// The states and gates that a tape keeps, in the caller's form.
#include "borrowed.h"
#include "gaps.h"
#include "jobs.h"

namespace rnnfast {
namespace {

// One packed row's first slots, each H elements of the caller's behind the other. The width of a vector is known to the
// compiler, which so copies it with a few moves and not by a call.
template <class Real, int bytes>
void unpack_row(const Real* from, int kept_slots, int slots, Index H, Real* out) {
  constexpr Index lanes = bytes / Index(sizeof(Real));
  const Index whole = H / lanes * lanes, rest = H - whole;
  for (int k = 0; k < slots; ++k, from += lanes, out += H) {
    const Real* vector = from;
    for (Index unit = 0; unit < whole; unit += lanes, vector += lanes * kept_slots)
      std::memcpy(out + unit, vector, bytes);
    if (rest) std::memcpy(out + whole, vector, size_t(rest) * sizeof(Real));
  }
}

template <class Real>
auto unpack_row_of(size_t vector_bytes) {
  return vector_bytes == 64   ? unpack_row<Real, 64>
         : vector_bytes == 32 ? unpack_row<Real, 32>
                              : unpack_row<Real, 16>;
}

// f(begin, end) for parts of n pieces of a copy, by as many threads as pay.
template <class F>
void copy_together(Index n, Index bytes, const F& f) {
  run_copy({n, bytes, &f, [](const void* self, Index begin, Index end) {
              (*static_cast<const F*>(self))(begin, end);
            }});
}

// Slots of packed rows, as the caller's (D, T, B, slots, H), flat (D, N, slots, H); zero at unused places.
template <class Real>
py::array_t<Real> unpack(const PyTape& tape, bool gates) {
  const CellInfo& info = kCells[int(tape.cell)];
  const Dims& d = tape.dims;
  const CallOptions& o = tape.options();
  const int slots = gates ? info.G : 1, kept_slots = gates ? info.K : 1;
  const Index lanes = kernels<Real>().lanes, units = padded_units(d.H, int(lanes));
  const Index rows = o.flat ? o.start.back() : d.T * d.B, n = slots * d.H;
  const auto copy = unpack_row_of<Real>(size_t(lanes) * sizeof(Real));
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
    copy_together(d.T, rows * n * Index(sizeof(Real)), [&](Index first, Index last) {
      for (Index t = first; t < last; ++t) {
        const Index begin = s.first ? s.first[t] : t * d.B,
                    end = s.first ? s.first[t + 1] : begin + d.B;
        for (Index p = begin; p < end; ++p)
          copy(base + p * units * kept_slots, kept_slots, slots, d.H,
               to.row(t, s.first ? s.row[p] : p - begin));
      }
    });
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
      const bool shared = s.replacements == 1 && !(o.replaces[0] || o.replaces[1]);
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
  Sequence<const Real> y;
  view_of(tape.y, v);
  steps(v, o, d, tape.D * d.H, y);
  const Index rows = o.flat ? o.start.back() : d.T * d.B;
  auto h = o.flat ? lasting<Real>({tape.D, rows, d.H}) : lasting<Real>({tape.D, d.T, d.B, d.H});
  Real* to = h.mutable_data();
  for (int dir = 0; dir < tape.D; ++dir, to += rows * d.H)
    copy_together(rows, rows * d.H * Index(sizeof(Real)), [&](Index first, Index last) {
      for (Index i = first; i < last; ++i) {
        const Real* from = o.flat ? y.base + i * y.batch : y.row(i / d.B, i % d.B);
        std::memcpy(to + i * d.H, from + dir * d.H, size_t(d.H) * sizeof(Real));
      }
    });
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
