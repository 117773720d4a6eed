// Scans with options: schedules (lengths, masks, resets), recurrent dropout, zoneout, clips, burn-in and truncation,
// and gradients into states and gates, against plain loops by the yardstick, and against themselves to the bit with
// other numbers of threads. What must not be read is NaN, and every output lies between guards.
#pragma once
#include <algorithm>

#include "../schedule.h"
#include "kernels.h"

namespace rnnfast {

// Which options a scan has.
struct Features {
  bool lengths, mask, reset, replaced,
      per_step;  // replaced: by given states; per_step: others each step
  bool dropout, dropout_per_step, zoneout, zoneout_draws, cell_clip, gradient_clip;
  Index burn_in, tbptt;
  bool into_states, into_gates;
};

// One scan's options in the form of the plain loops: everything spelled out for each step, (T, B) or (T, B, H).
template <class V>
struct Scan {
  std::vector<uint8_t> used, reset;
  std::vector<Index> lengths;                  // (B,)
  std::vector<V> replacement[kMaxStates];      // empty: zero
  std::vector<V> factor, zone[kMaxStates];     // empty: none
  std::vector<V> dstates[kMaxStates], dgates;  // empty: none; gates (T, B, G, H)
  double cell_clip, gradient_clip;             // 0: none
  Index burn_in, tbptt;
};

inline uint32_t random_word(const MaskKey& key, Purpose purpose, int which, uint32_t row,
                            uint32_t step, Index unit, Index n) {
  const Index Q = (n + 3) / 4;
  uint32_t c[4] = {uint32_t(unit % Q), row, step,
                   (uint32_t(purpose) + uint32_t(which)) << 24 | key.layer << 8 | key.direction};
  uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c[0], p1 = uint64_t(0xCD9E8D57u) * c[2];
    c[0] = uint32_t(p1 >> 32) ^ c[1] ^ k0;
    c[1] = uint32_t(p1);
    c[2] = uint32_t(p0 >> 32) ^ c[3] ^ k1;
    c[3] = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c[unit / Q];
}

template <class V>
struct OptionResult {
  Result<V> result;
  std::vector<V> dreplacement[kMaxStates];
};

// The scan, one row after the other. y and dx are zero where a step is not used.
template <class Cell, class V>
OptionResult<V> plain_options(const Problem<V>& p, const Scan<V>& o) {
  constexpr int G = Cell::G, S = Cell::S, K = Cell::K;
  const Index T = p.dims.T, B = p.dims.B, I = p.dims.I, H = p.dims.H;
  const V zero(0), one(1), gradient_clip = V(o.gradient_clip);
  const V clip[1] = {V(o.cell_clip)};
  const V* params = o.cell_clip > 0 ? clip : nullptr;
  const std::vector<V>&x = p.in[in_x], &W = p.in[in_W], &R = p.in[in_R];
  OptionResult<V> out;
  Result<V>& r = out.result;
  r.y.assign(size_t(T * B * H), zero);
  for (int k : {in_x, in_W, in_R, in_bW, in_bR}) r.grad[k].assign(p.in[k].size(), zero);
  for (int s = 0; s < S; ++s) {
    r.state_n[s].assign(size_t(B * H), zero);
    r.grad[in_h0 + s].assign(size_t(B * H), zero);
    out.dreplacement[s].assign(o.replacement[s].size(), zero);
  }
  const auto at = [](const std::vector<V>& a, Index i) { return a.empty() ? V(0) : a[size_t(i)]; };
  // Row of the replacement arrays: (T, B, H), or (B, H) for all steps.
  const auto replacing = [&](int s, Index t, Index b) {
    return (Index(o.replacement[s].size()) == B * H ? b : t * B + b) * H;
  };
  for (Index b = 0; b < B; ++b) {
    std::vector<V> entered[S], tape(size_t(T * H * K), zero), now[S];
    for (int s = 0; s < S; ++s) {
      entered[s].assign(size_t(T * H), zero);
      for (Index h = 0; h < H; ++h) now[s].push_back(at(p.in[in_h0 + s], b * H + h));
    }
    const auto operand = [&](Index t, Index k) {
      const V h = entered[0][size_t(t * H + k)];
      return o.factor.empty() ? h : o.factor[size_t((t * B + b) * H + k)] * h;
    };
    for (Index t = 0; t < T; ++t) {
      const Index place = t * B + b;
      if (o.reset[size_t(place)])
        for (int s = 0; s < S; ++s)
          for (Index h = 0; h < H; ++h)
            now[s][size_t(h)] = at(o.replacement[s], replacing(s, t, b) + h);
      if (!o.used[size_t(place)]) continue;
      for (int s = 0; s < S; ++s)
        std::copy(now[s].begin(), now[s].end(), entered[s].begin() + t * H);
      for (Index h = 0; h < H; ++h) {
        V gx[G], gh[G], s[S], kept[K];
        for (Index g = 0; g < G; ++g) {
          gx[g] = at(p.in[in_bW], g * H + h);
          gh[g] = at(p.in[in_bR], g * H + h);
          for (Index k = 0; k < I; ++k)
            gx[g] = gx[g] + W[size_t((g * H + h) * I + k)] * x[size_t(place * I + k)];
          for (Index k = 0; k < H; ++k)
            gh[g] = gh[g] + R[size_t((g * H + h) * H + k)] * operand(t, k);
        }
        for (int j = 0; j < S; ++j) s[j] = entered[j][size_t(t * H + h)];
        Cell::forward(gx, gh, params, s, kept);
        for (int j = 0; j < S; ++j) {
          const V z = at(o.zone[j], place * H + h);
          now[j][size_t(h)] = z * entered[j][size_t(t * H + h)] + (one - z) * s[j];
        }
        for (int j = 0; j < K; ++j) tape[size_t((t * H + h) * K + j)] = kept[j];
        r.y[size_t(place * H + h)] = now[0][size_t(h)];
      }
    }
    for (int s = 0; s < S; ++s)
      std::copy(now[s].begin(), now[s].end(), r.state_n[s].begin() + b * H);

    std::vector<V> ds[S];
    for (int s = 0; s < S; ++s)
      for (Index h = 0; h < H; ++h) ds[s].push_back(at(p.dstate_n[s], b * H + h));
    const auto drop = [&] {
      for (int s = 0; s < S; ++s) std::fill(ds[s].begin(), ds[s].end(), zero);
    };
    for (Index t = T - 1; t >= o.burn_in; --t) {
      const Index place = t * B + b;
      if (o.used[size_t(place)]) {
        std::vector<V> dgx(size_t(G * H)), dgh(size_t(G * H)), past[S];
        for (Index h = 0; h < H; ++h) {
          V kept[K], s[S], d[S], zoned[S], gates[G], x_gate[G], h_gate[G];
          for (int j = 0; j < K; ++j) kept[j] = tape[size_t((t * H + h) * K + j)];
          for (int j = 0; j < S; ++j) {
            s[j] = entered[j][size_t(t * H + h)];
            V left = ds[j][size_t(h)] + at(o.dstates[j], place * H + h);
            if (j == 0) left = left + at(p.dy, place * H + h);
            const V z = at(o.zone[j], place * H + h);
            zoned[j] = z * left;
            d[j] = (one - z) * left;
          }
          for (int g = 0; g < G; ++g) gates[g] = at(o.dgates, (place * G + g) * H + h);
          Cell::backward(kept, params, s, d, gates, x_gate, h_gate);
          for (int j = 0; j < S; ++j) past[j].push_back(d[j] + zoned[j]);
          for (int g = 0; g < G; ++g) {
            dgx[size_t(g * H + h)] = x_gate[g];
            dgh[size_t(g * H + h)] = h_gate[g];
          }
        }
        std::vector<V> product(size_t(H), zero);
        for (Index j = 0; j < G * H; ++j) {
          for (Index k = 0; k < I; ++k) {
            V &dx = r.grad[in_x][size_t(place * I + k)], &dW = r.grad[in_W][size_t(j * I + k)];
            dx = dx + W[size_t(j * I + k)] * dgx[size_t(j)];
            dW = dW + dgx[size_t(j)] * x[size_t(place * I + k)];
          }
          for (Index k = 0; k < H; ++k) {
            V& dR = r.grad[in_R][size_t(j * H + k)];
            product[size_t(k)] = product[size_t(k)] + R[size_t(j * H + k)] * dgh[size_t(j)];
            dR = dR + dgh[size_t(j)] * operand(t, k);
          }
          for (int k : {in_bW, in_bR})
            if (!r.grad[k].empty())
              r.grad[k][size_t(j)] = r.grad[k][size_t(j)] + (k == in_bW ? dgx : dgh)[size_t(j)];
        }
        for (Index h = 0; h < H; ++h) {
          V back = product[size_t(h)];
          if (!o.factor.empty()) back = o.factor[size_t(place * H + h)] * back;
          past[0][size_t(h)] = past[0][size_t(h)] + back;
        }
        for (int s = 0; s < S; ++s)
          for (Index h = 0; h < H; ++h)
            ds[s][size_t(h)] =
                o.gradient_clip > 0 ? clamp(past[s][size_t(h)], gradient_clip) : past[s][size_t(h)];
      }
      if (o.reset[size_t(place)]) {
        for (int s = 0; s < S; ++s)
          if (!o.replacement[s].empty())
            for (Index h = 0; h < H; ++h) {
              V& to = out.dreplacement[s][size_t(replacing(s, t, b) + h)];
              to = to + ds[s][size_t(h)];
            }
        drop();
      }
      if (o.tbptt > 0 && t > 0 && t % o.tbptt == 0 && t < o.lengths[size_t(b)]) drop();
    }
    if (o.burn_in > 0) drop();
    for (int s = 0; s < S; ++s)
      std::copy(ds[s].begin(), ds[s].end(), r.grad[in_h0 + s].begin() + b * H);
  }
  return out;
}

// An array that kernels write, between guards.
template <class Real>
class Guarded {
 public:
  Guarded(Index n, Real fill) : array_(size_t(n + 2 * kGuard), Real(-5)), n_(n) {
    std::fill(data(), data() + n, fill);
  }
  Real* data() { return array_.data() + kGuard; }
  std::vector<Real> values() const {
    return {array_.begin() + kGuard, array_.begin() + kGuard + n_};
  }
  bool intact() const {
    for (Index i = 0; i < kGuard; ++i)
      if (array_[size_t(i)] != Real(-5) || array_[array_.size() - size_t(i) - 1] != Real(-5))
        return false;
    return true;
  }

 private:
  static constexpr Index kGuard = 19;  // no multiple of a vector: rows are not aligned
  std::vector<Real> array_;
  Index n_;
};

template <class Real>
struct OptionRun {
  Problem<Real> problem;
  Scan<Real> scan;
  Options<Real> options;
};

template <class Cell, class Real>
OptionResult<Real> run_options(Report& report, const std::string& name, CellId id,
                               const OptionRun<Real>& run, int threads) {
  constexpr int G = Cell::G, S = Cell::S;
  const Problem<Real>& p = run.problem;
  const Scan<Real>& o = run.scan;
  const Dims d = p.dims;
  const Index places = std::count(o.used.begin(), o.used.end(), 1);
  const Real nan = std::numeric_limits<Real>::quiet_NaN();
  // What stands at unused places must not be read.
  const auto hollow = [&](std::vector<Real> a, Index n) {
    for (Index i = 0; i < Index(a.size()); ++i)
      if (!o.used[size_t(i / n)]) a[size_t(i)] = nan;
    return a;
  };
  const auto sequence = [&](const std::vector<Real>& a, Index n) {
    return Sequence<const Real>{or_null(a), d.B * n, n};
  };
  const std::vector<Real> x = hollow(p.in[in_x], d.I), dy = hollow(p.dy, d.H),
                          dgates = hollow(o.dgates, G * d.H);
  std::vector<Real> dstates[kMaxStates];
  std::vector<Guarded<Real>> outputs;
  outputs.reserve(32);
  const auto output = [&](Index n, Real fill) {
    outputs.emplace_back(n, fill);
    return outputs.back().data();
  };
  // By number in `outputs`.
  const auto values = [&](size_t number) { return outputs[number].values(); };

  ForwardArgs<Real> f{};
  f.dims = d;
  f.x = sequence(x, d.I);
  f.y = {output(d.T * d.B * d.H, nan), d.B * d.H, d.H};
  f.options = run.options;
  for (int w = 0; w < kWeights; ++w) f.weights.at[w] = or_null(p.in[in_W + w]);
  for (int s = 0; s < S; ++s) {
    f.state0[s] = or_null(p.in[in_h0 + s]);
    f.state_n[s] = output(d.B * d.H, nan);
  }
  const auto kept = [](Index n) { return allocate_aligned(size_t(n) * sizeof(Real)); };
  AlignedBlock cell = kept(tape_cell_size<Real>(id, places, d.H)),
               states = kept(tape_state_size<Real>(d.B + places, d.H)),
               replaced =
                   kept(tape_state_size<Real>(run.options.schedule.replacements * Cell::S, d.H)),
               masks = kept(tape_mask_size<Real>(run.options.step_masks() * places, d.H));
  f.tape.cell = static_cast<Real*>(cell.get());
  if (S > 1) f.tape.states[1] = static_cast<Real*>(states.get());
  f.tape.replaced = static_cast<Real*>(replaced.get());
  f.tape.masks = static_cast<Real*>(masks.get());
  run_forward(id, &f, 1, threads);

  OptionResult<Real> out;
  out.result.y = values(0);
  for (int s = 0; s < S; ++s) out.result.state_n[s] = values(size_t(1 + s));

  BackwardArgs<Real> a{};
  a.dims = d;
  a.x = f.x;
  a.weights = f.weights;
  a.y = constant(f.y);
  a.tape = f.tape;
  a.options = run.options;
  a.dy = sequence(dy, d.H);
  a.dgates = sequence(dgates, G * d.H);
  a.dx = {output(d.T * d.B * d.I, nan), d.B * d.I, d.I};
  for (int w = 0; w < kWeights; ++w)
    if (!p.in[in_W + w].empty()) a.dweights[w] = output(Index(p.in[in_W + w].size()), nan);
  for (int s = 0; s < S; ++s) {
    dstates[s] = hollow(o.dstates[s], d.H);
    a.dstates[s] = sequence(dstates[s], d.H);
    a.state0[s] = f.state0[s];
    a.dstate_n[s] = or_null(p.dstate_n[s]);
    a.dstate0[s] = output(d.B * d.H, nan);
    if (!o.replacement[s].empty())
      a.dreplacement[s] = output(Index(o.replacement[s].size()), Real(0));
  }
  run_backward(id, &a, 1, threads);
  size_t number = size_t(1 + S);
  out.result.grad[in_x] = values(number++);
  for (int w = 0; w < kWeights; ++w)
    if (a.dweights[w]) out.result.grad[in_W + w] = values(number++);
  for (int s = 0; s < S; ++s) {
    out.result.grad[in_h0 + s] = values(number++);
    if (a.dreplacement[s]) out.dreplacement[s] = values(number++);
  }

  bool intact = true, untouched = true;
  for (const auto& guarded : outputs) intact &= guarded.intact();
  report.check(intact, name + ": written beside an array");
  // Kernels leave unused places, and dx of a burn-in, as they are: callers fill them.
  const auto fill = [&](std::vector<Real>& array, Index n, Index first) {
    for (Index i = 0; i < Index(array.size()); ++i)
      if (i / n / d.B < first || !o.used[size_t(i / n)]) {
        untouched &= std::isnan(array[size_t(i)]);
        array[size_t(i)] = 0;
      }
  };
  fill(out.result.y, d.H, 0);
  fill(out.result.grad[in_x], d.I, o.burn_in);
  report.check(untouched, name + ": written at an unused step");
  return out;
}

template <class Cell, class Real>
void check_options(Report& report, CellId id, const Dims& d, const Features& has, uint64_t seed) {
  constexpr int S = Cell::S;
  if (has.cell_clip && Cell::P == 0) return;
  char number[32];
  snprintf(number, sizeof number, " options %llu", (unsigned long long)seed);
  const std::string name = describe<Real>(Cell::name, d) + number;
  Random random(seed);
  const auto below = [&](Index n) { return Index((random.next() + 1) / 2 * double(n)); };
  const Index steps = d.T * d.B;
  OptionRun<Real> run{
      map_problem<Real>(random_problem<Cell>(d, random), [](double v) { return Real(v); }), {}, {}};
  Scan<Real>& scan = run.scan;
  Options<Real>& o = run.options;

  // The schedule, as callers make it.
  std::vector<Index> lengths(size_t(d.B), d.T);
  std::vector<uint8_t> mask(size_t(steps), 1), reset(size_t(steps), 0);
  for (Index& n : lengths)
    if (has.lengths) n = below(d.T + 1);
  for (Index i = 0; i < steps; ++i) {
    if (has.mask) mask[size_t(i)] = random.next() < 0.4;
    if (has.reset) reset[size_t(i)] = random.next() < -0.4;
  }
  ScheduleInput in{};
  in.T = d.T;
  in.B = d.B;
  in.lengths = has.lengths ? lengths.data() : nullptr;
  in.mask = has.mask ? mask.data() : nullptr;
  in.reset = has.reset ? reset.data() : nullptr;
  in.replaces = has.replaced;
  // Where a cell has two states, the second has the other form now and then.
  bool per_step[kMaxStates];
  for (int s = 0; s < kMaxStates; ++s)
    in.replacement_per_step[s] = per_step[s] = has.per_step != (s > 0 && seed % 2);
  ScheduleTable table;
  if (has.lengths || has.mask || has.reset) {
    table = ScheduleTable(in);
    o.schedule = table.view();
  }
  scan.lengths = lengths;
  for (Index t = 0; t < d.T; ++t)
    for (Index b = 0; b < d.B; ++b) {
      scan.used.push_back(in.used(t, b));
      scan.reset.push_back(in.resets(t, b));
    }
  for (int s = 0; s < S; ++s)
    if (has.reset && has.replaced) {
      scan.replacement[s] = random.array<Real>((per_step[s] ? steps : d.B) * d.H, 0.5);
      o.replacement[s] = scan.replacement[s].data();
    }

  // The masks.
  const std::vector<uint32_t> row_id = [&] {
    std::vector<uint32_t> ids;
    for (Index b = 0; b < d.B; ++b) ids.push_back(uint32_t(below(Index(1) << 32)));
    return ids;
  }();
  o.random = {seed * 0x9e3779b97f4a7c15u, 3, 0, 0xfffffffdu, 1, row_id.data()};
  const double p = 0.3;
  const auto words = [&](Purpose purpose, int which, bool per_step, Real low, Real high) {
    std::vector<Real> out;
    for (Index t = 0; t < d.T; ++t)
      for (Index b = 0; b < d.B; ++b)
        for (Index h = 0; h < d.H; ++h) {
          const uint32_t step = per_step ? o.random.step_of(t) : 0;
          const uint32_t word =
              random_word(o.random, purpose, which, o.random.row_of(b), step, h, d.H);
          out.push_back(word < uint32_t(std::rint(p * 4294967296.0)) ? low : high);
        }
    return out;
  };
  if (has.dropout) {
    o.dropout = p;
    o.dropout_per_step = has.dropout_per_step;
    scan.factor = words(Purpose::recurrent, 0, has.dropout_per_step, Real(0), Real(1 / (1 - p)));
  }
  o.zoneout_draws = has.zoneout_draws;
  for (int s = 0; s < S; ++s)
    if (has.zoneout) {
      o.zoneout[s] = p;
      scan.zone[s] = has.zoneout_draws ? words(Purpose::zoneout, s, true, Real(1), Real(0))
                                       : std::vector<Real>(size_t(steps * d.H), Real(p));
    }
  o.has_params = has.cell_clip;
  scan.cell_clip = has.cell_clip ? 0.25 : 0;
  o.params[0] = has.cell_clip ? Real(0.25) : std::numeric_limits<Real>::infinity();
  scan.gradient_clip = has.gradient_clip ? 0.5 : 0;
  o.gradient_clip = Real(scan.gradient_clip);
  scan.burn_in = o.burn_in = has.burn_in;
  scan.tbptt = o.tbptt = has.tbptt;
  for (int s = 0; s < S; ++s)
    if (has.into_states) scan.dstates[s] = random.array<Real>(steps * d.H, 1);
  if (has.into_gates) scan.dgates = random.array<Real>(steps * Cell::G * d.H, 1);

  const auto one = run_options<Cell>(report, name, id, run, 1);
  for (int threads : {2, 3, 4}) {
    const auto more = run_options<Cell>(report, name, id, run, threads);
    const std::string with = name + " with " + std::to_string(threads) + " threads";
    check_bits(report, with, one.result, more.result);
    for (int s = 0; s < S; ++s)
      report.check(same_bits(one.dreplacement[s], more.dreplacement[s]),
                   with + ": other bits in the gradient of a replacement");
  }

  using Ref = Reference<Real>;
  const auto widen = [](Real v) { return Ref(v); };
  Scan<Ref> wide{};
  wide.used = scan.used;
  wide.reset = scan.reset;
  wide.lengths = scan.lengths;
  wide.cell_clip = scan.cell_clip;
  wide.gradient_clip = scan.gradient_clip;
  wide.burn_in = scan.burn_in;
  wide.tbptt = scan.tbptt;
  const auto widened = [&](const std::vector<Real>& from, std::vector<Ref>& to) {
    for (Real v : from) to.push_back(widen(v));
  };
  widened(scan.factor, wide.factor);
  widened(scan.dgates, wide.dgates);
  for (int s = 0; s < S; ++s) {
    widened(scan.replacement[s], wide.replacement[s]);
    widened(scan.zone[s], wide.zone[s]);
    widened(scan.dstates[s], wide.dstates[s]);
  }
  const auto loops = plain_options<Cell>(run.problem, scan);
  const auto ref = plain_options<Cell>(map_problem<Ref>(run.problem, widen), wide);
  const auto against = [&](const std::string& array, const std::vector<Real>& got,
                           const std::vector<Real>& plain, const std::vector<Ref>& exact) {
    std::vector<long double> error;
    largest_error(plain, exact, error);
    Grouping grouping{1, 0};
    if (array == "y") grouping = {d.T, 1};
    if (array == "dx") grouping = {d.T, -1};
    if (array == "dW" || array == "dR" || array == "dbW" || array == "dbR")
      grouping.groups = Cell::G;
    judge(report, name + " " + array, got, error, exact, grouping, d.I + d.H);
  };
  each_array([&](const std::string& array, const auto& got, const auto& plain,
                 const auto& exact) { against(array, got, plain, exact); },
             one.result, loops.result, ref.result);
  for (int s = 0; s < S; ++s)
    against("gradient of a replacement", one.dreplacement[s], loops.dreplacement[s],
            ref.dreplacement[s]);
}

template <class Real>
void check_all_options(Report& report) {
  uint64_t number = 1000;
  // Small and direct; rows and units split; several chunks of both passes.
  for (const Dims& d : {Dims{3, 5, 4, 17}, Dims{17, 13, 5, 9}, Dims{60, 11, 3, 8}})
    for (const Features& has : {
             Features{true, false, false, false, false, false, false, false, false, false, false, 0,
                      0, true, true},
             Features{false, true, true, false, false, false, false, false, false, false, false, 0,
                      0, false, false},
             Features{true, true, true, true, true, true, false, false, false, false, false, 0, 0,
                      true, false},
             Features{false, false, true, true, false, true, true, true, true, false, true, 0, 0,
                      false, true},
             Features{false, false, false, false, false, true, true, true, true, false, false, 0, 0,
                      true, false},
             Features{true, false, true, true, false, false, false, true, false, false, true, 2, 0,
                      true, false},
             Features{false, true, true, true, true, false, false, false, false, true, true, 0, 5,
                      false, true},
             Features{true, false, true, true, true, true, true, true, true, true, true, 1, 2, true,
                      true},
         }) {
      ++number;
#define RNNFAST_CHECK(id, Cell) check_options<Cell, Real>(report, CellId::id, d, has, number);
      RNNFAST_FOR_EACH_CELL(RNNFAST_CHECK)
#undef RNNFAST_CHECK
    }
}

}  // namespace rnnfast
