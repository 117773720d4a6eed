// GRU with the reset gate applied after the recurrent product, the form that PyTorch, cuDNN and Keras
// (reset_after=True) compute. Cho et al. 2014, arXiv:1406.1078, put the reset gate before it.
//
//   r  = sigmoid(gx_r + gh_r)
//   z  = sigmoid(gx_z + gh_z)
//   n  = tanh(gx_n + r * gh_n)
//   h' = n + z * (h - n)
//
// gx = W x + bW and gh = R h + bR arrive already summed; what is left is elementwise.
#pragma once
#include "../math/activations.h"

namespace rnnfast {

struct Gru {
  static constexpr const char* name = "gru";
  enum Gate { r, z, n, G };  // block order in W, R, bW, bR, gx, gh
  enum State { h, S };
  enum Tape { tape_r, tape_z, tape_n, tape_ghn, K };
  enum Param { P };
  static constexpr const char *gate_letters = "r z n", *state_letters = "h",
                              *tape_letters = "r z n ghn";
  RNNFAST_HD static constexpr bool reads_state(int state) { return state == h; }
  static constexpr bool one_gate_gradient = false;  // the reset gate stands between dgx_n and dgh_n

  template <class V, class Gates>
  RNNFAST_HD static void forward(const Gates& gx, const Gates& gh, const V*, V (&s)[S],
                                 V (&tape)[K]) {
    const V rt = sigmoid(gx[r] + gh[r]);
    const V zt = sigmoid(gx[z] + gh[z]);
    const V nt = tanh_(fma(rt, gh[n], gx[n]));
    s[h] = fma(zt, s[h] - nt, nt);
    tape[tape_r] = rt;
    tape[tape_z] = zt;
    tape[tape_n] = nt;
    tape[tape_ghn] = gh[n];  // kept: dr needs it, and backward never repeats R h
  }

  // In: ds[h] = dL/dh'; dgates, or false: what else depends on the activated gates.
  // Out: ds[h] = the elementwise path to dL/dh; the scan adds R^T dgh.
  template <class V, class Slots, class GateGradients>
  RNNFAST_HD static void backward(const Slots& tape, const V*, const V (&s_prev)[S], V (&ds)[S],
                                  const GateGradients& dgates, V (&dgx)[G], V (&dgh)[G]) {
    const V rt = tape[tape_r], zt = tape[tape_z], nt = tape[tape_n];
    V dn = ds[h] * (V(1) - zt), dz = ds[h] * (s_prev[h] - nt);
    if (dgates) {
      dn = dn + dgates[n];
      dz = dz + dgates[z];
    }
    dgx[n] = dn * (V(1) - nt * nt);
    dgh[n] = dgx[n] * rt;
    V dr = dgx[n] * tape[tape_ghn];
    if (dgates) dr = dr + dgates[r];
    dgx[r] = dgh[r] = dr * (rt * (V(1) - rt));
    dgx[z] = dgh[z] = dz * (zt * (V(1) - zt));
    ds[h] = ds[h] * zt;
  }
};

}  // namespace rnnfast
