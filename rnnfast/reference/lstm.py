"""One step of the LSTM, the specification of `lstm`.

    i = sigmoid(gx_i + gh_i)     f = sigmoid(gx_f + gh_f)
    g = tanh   (gx_g + gh_g)     o = sigmoid(gx_o + gh_o)
    c' = f * c + i * g           h' = o * tanh(c')             gx = W x + bW,  gh = R h + bR

With a cell clip v > 0, c' is held within [-v, v] before h' is made of it (Sak, Senior and Beaufays
2014); the gradient passes where |f * c + i * g| <= v.

Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000; no
peepholes. `xp` is the array namespace: NumPy, or PyTorch, where the forward pass is differentiable.
"""

from __future__ import annotations

from ._math import sigmoid


def forward(xp, gx, gh, states, cell_clip=0.0):
    """Return the new states (h', c') and the tape slots (i, f, g, o); gx, gh: (B, 4, H)."""
    _, c_prev = states
    a = gx + gh
    i, f, g, o = sigmoid(xp, a[:, 0]), sigmoid(xp, a[:, 1]), xp.tanh(a[:, 2]), sigmoid(xp, a[:, 3])
    c = f * c_prev + i * g
    if cell_clip:
        c = xp.clip(c, -cell_clip, cell_clip)
    h = o * xp.tanh(c)
    return (h, c), (i, f, g, o)


def backward(xp, tape, states_prev, dstates, cell_clip=0.0, dgates=None):
    """Return dgx, dgh (B, 4, H) and what reaches the old states past the gates: (0, dc).

    dgates (B, 4, H) flows into the activated i, f, g and o.
    """
    i, f, g, o = tape
    _, c_prev = states_prev
    dh, dc = dstates
    c = f * c_prev + i * g
    tanh_c = xp.tanh(xp.clip(c, -cell_clip, cell_clip) if cell_clip else c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    if cell_clip:
        dc = xp.where(abs(c) > cell_clip, xp.zeros_like(dc), dc)
    di = dc * g * i * (1 - i)
    df = dc * c_prev * f * (1 - f)
    dg = dc * i * (1 - g * g)
    do = dh * tanh_c * o * (1 - o)
    da = xp.stack([di, df, dg, do], 1)
    if dgates is not None:
        slopes = xp.stack([i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)], 1)
        da = da + dgates * slopes
    return da, da, (xp.zeros_like(dh), dc * f)
