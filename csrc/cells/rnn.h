// The plain (Elman) recurrent cell, with tanh or relu. Elman 1990, "Finding Structure in Time"; as in
// torch.nn.RNN the output is the hidden state itself, and gx and gh carry a bias each.
//
//   h' = phi(gx_h + gh_h)
//
// gx = W x + bW and gh = R h + bR arrive already summed over the input and the hidden units; what is
// left is elementwise. One call is one hidden unit of one batch row, or a vector of units.
#pragma once
#include "../math/activations.h"

namespace rnnfast {

struct Rnn {
  enum Gate { gate_h, G };  // the one block of W, R, bW, bR, gx, gh
  enum State { h, S };
  enum Tape { tape_h, K };  // h', from which both derivatives follow
  enum Param { P };         // per-unit parameters besides W, R and the biases: none
  static constexpr const char *gate_letters = "h", *state_letters = "h", *tape_letters = "h";
  RNNFAST_HD static constexpr bool reads_state(int) {
    return false;
  }  // the elementwise part never sees the old h
  static constexpr bool one_gate_gradient = true;  // dgx == dgh
};

struct RnnTanh : Rnn {
  static constexpr const char* name = "rnn_tanh";

  template <class V, class Gates>
  RNNFAST_HD static void forward(const Gates& gx, const Gates& gh, const V*, V (&s)[S],
                                 V (&tape)[K]) {
    s[h] = tape[tape_h] = tanh_(gx[gate_h] + gh[gate_h]);
  }

  // In: ds[h] = dL/dh'; dgates, or false: what else depends on the activated gate.
  // Out: ds[h] = what flows to the old h past the gates (nothing here).
  template <class V, class Slots, class GateGradients>
  RNNFAST_HD static void backward(const Slots& tape, const V*, const V (&)[S], V (&ds)[S],
                                  const GateGradients& dgates, V (&dgx)[G], V (&dgh)[G]) {
    const V ht = tape[tape_h], dh = dgates ? ds[h] + dgates[gate_h] : ds[h];
    dgx[gate_h] = dgh[gate_h] = dh * (V(1) - ht * ht);
    ds[h] = V(0);
  }
};

struct RnnRelu : Rnn {
  static constexpr const char* name = "rnn_relu";

  template <class V, class Gates>
  RNNFAST_HD static void forward(const Gates& gx, const Gates& gh, const V*, V (&s)[S],
                                 V (&tape)[K]) {
    s[h] = tape[tape_h] = relu(gx[gate_h] + gh[gate_h]);
  }

  template <class V, class Slots, class GateGradients>
  RNNFAST_HD static void backward(const Slots& tape, const V*, const V (&)[S], V (&ds)[S],
                                  const GateGradients& dgates, V (&dgx)[G], V (&dgh)[G]) {
    const V dh = dgates ? ds[h] + dgates[gate_h] : ds[h];
    dgx[gate_h] = dgh[gate_h] = unless_negative(tape[tape_h], dh);
    ds[h] = V(0);
  }
};

}  // namespace rnnfast
