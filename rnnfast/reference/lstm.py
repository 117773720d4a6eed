"""One step of the LSTM, the specification of `lstm`.

    i = sigmoid(gx_i + gh_i)     f = sigmoid(gx_f + gh_f)
    g = tanh   (gx_g + gh_g)     o = sigmoid(gx_o + gh_o)
    c' = f * c + i * g           h' = o * tanh(c')             gx = W x + bW,  gh = R h + bR

Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000; no
peepholes. `xp` is the array namespace: NumPy, or PyTorch, where the forward pass is differentiable.
"""

from __future__ import annotations

from ._math import sigmoid


def forward(xp, gx, gh, states):
    """Return the new states (h', c') and the tape slots (i, f, g, o); gx, gh: (B, 4, H)."""
    _, c_prev = states
    a = gx + gh
    i, f, g, o = sigmoid(xp, a[:, 0]), sigmoid(xp, a[:, 1]), xp.tanh(a[:, 2]), sigmoid(xp, a[:, 3])
    c = f * c_prev + i * g
    h = o * xp.tanh(c)
    return (h, c), (i, f, g, o)


def backward(xp, tape, states_prev, dstates):
    """Return dgx, dgh (B, 4, H) and what reaches the old states past the gates: (0, dc)."""
    i, f, g, o = tape
    _, c_prev = states_prev
    dh, dc = dstates
    tanh_c = xp.tanh(f * c_prev + i * g)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    di = dc * g * i * (1 - i)
    df = dc * c_prev * f * (1 - f)
    dg = dc * i * (1 - g * g)
    do = dh * tanh_c * o * (1 - o)
    dgates = xp.stack([di, df, dg, do], 1)
    return dgates, dgates, (xp.zeros_like(dh), dc * f)
