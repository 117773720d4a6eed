"""One step of the plain (Elman) cell, the specification of `rnn_tanh` and `rnn_relu`.

    h' = phi(gx_h + gh_h)        phi = tanh or relu;  gx = W x + bW,  gh = R h + bR

Elman 1990, "Finding Structure in Time". `xp` is the array namespace: NumPy, or PyTorch, where the
forward pass is differentiable because it writes nothing in place.
"""

from __future__ import annotations


def forward(xp, gx, gh, states, nonlinearity):
    """Return the new states (h',) and the tape slots (h',); gx, gh: (B, 1, H), states: h (B, H)."""
    a = gx[:, 0] + gh[:, 0]
    # The comparison is this way round so that NaN passes through.
    h = xp.tanh(a) if nonlinearity == "tanh" else xp.where(a <= 0, xp.zeros_like(a), a)
    return (h,), (h,)


def backward(xp, tape, states_prev, dstates, nonlinearity, dgates=None):
    """Return dgx, dgh (B, 1, H) and what reaches the old states past the gates: nothing.

    dgates (B, 1, H) flows into the candidate, which is the activated gate.
    """
    (h,) = tape
    (dh,) = dstates
    if dgates is not None:
        dh = dh + dgates[:, 0]
    da = dh * (1 - h * h) if nonlinearity == "tanh" else xp.where(h <= 0, xp.zeros_like(dh), dh)
    dg = da[:, None]
    return dg, dg, (xp.zeros_like(dh),)
