// LSTM with forget gate and no peepholes: Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins
// 2000 for the forget gate. The form that PyTorch and cuDNN compute.
//
//   i = sigmoid(gx_i + gh_i)     f = sigmoid(gx_f + gh_f)
//   g = tanh   (gx_g + gh_g)     o = sigmoid(gx_o + gh_o)
//   c' = f * c + i * g           h' = o * tanh(c')
//
// gx = W x + bW and gh = R h + bR arrive already summed; what is left is elementwise.
#pragma once
#include "../math/activations.h"

namespace rnnfast {

struct Lstm {
  static constexpr const char* name = "lstm";
  enum Gate { i, f, g, o, G };  // block order in W, R, bW, bR, gx, gh
  enum State { h, c, S };
  enum Tape { tape_i, tape_f, tape_g, tape_o, K };
  enum Param { cell_clip, P };  // c stays within +-cell_clip (Sak et al. 2014)
  static constexpr const char *gate_letters = "i f g o", *state_letters = "h c",
                              *tape_letters = "i f g o";
  RNNFAST_HD static constexpr bool reads_state(int state) { return state == c; }
  static constexpr bool one_gate_gradient = true;  // dgx == dgh

  template <class V, class Gates>
  RNNFAST_HD static void forward(const Gates& gx, const Gates& gh, const V* params, V (&s)[S],
                                 V (&tape)[K]) {
    const V it = sigmoid(gx[i] + gh[i]);
    const V ft = sigmoid(gx[f] + gh[f]);
    const V gt = tanh_(gx[g] + gh[g]);
    const V ot = sigmoid(gx[o] + gh[o]);
    s[c] = fma(ft, s[c], it * gt);
    if (params) s[c] = clamp(s[c], params[cell_clip]);
    s[h] = ot * tanh_(s[c]);
    tape[tape_i] = it;
    tape[tape_f] = ft;
    tape[tape_g] = gt;
    tape[tape_o] = ot;
  }

  // In: ds = dL/dh', dL/dc'; dgates, or false: what else depends on the activated gates.
  // Out: ds[c] = dL/dc, ds[h] = what reaches the old h past the gates: nothing.
  template <class V, class Slots, class GateGradients>
  RNNFAST_HD static void backward(const Slots& tape, const V* params, const V (&s_prev)[S],
                                  V (&ds)[S], const GateGradients& dgates, V (&dgx)[G],
                                  V (&dgh)[G]) {
    const V it = tape[tape_i], ft = tape[tape_f], gt = tape[tape_g], ot = tape[tape_o];
    const V ct = fma(ft, s_prev[c], it * gt);  // with its tanh cheaper to compute than to keep
    const V tc = tanh_(params ? clamp(ct, params[cell_clip]) : ct);
    V dc = fma(ds[h] * ot, V(1) - tc * tc, ds[c]);
    if (params) dc = if_within(ct, params[cell_clip], dc);
    V di = dc * gt, df = dc * s_prev[c], dg = dc * it, dout = ds[h] * tc;
    if (dgates) {
      di = di + dgates[i];
      df = df + dgates[f];
      dg = dg + dgates[g];
      dout = dout + dgates[o];
    }
    dgx[i] = dgh[i] = di * (it * (V(1) - it));
    dgx[f] = dgh[f] = df * (ft * (V(1) - ft));
    dgx[g] = dgh[g] = dg * (V(1) - gt * gt);
    dgx[o] = dgh[o] = dout * (ot * (V(1) - ot));
    ds[c] = dc * ft;
    ds[h] = V(0);
  }
};

}  // namespace rnnfast
