"""One step of the GRU with the reset gate after the recurrent product, the specification of `gru`.

    r = sigmoid(gx_r + gh_r)     z = sigmoid(gx_z + gh_z)
    n = tanh(gx_n + r * gh_n)    h' = (1 - z) * n + z * h      gx = W x + bW,  gh = R h + bR

Cho et al. 2014, arXiv:1406.1078, in the form of PyTorch, cuDNN and Keras (`reset_after=True`); the
paper has the reset gate before the product. `xp` is the array namespace: NumPy, or PyTorch, where
the forward pass is differentiable.
"""

from __future__ import annotations

from ._math import sigmoid


def forward(xp, gx, gh, states):
    """Return the new states (h',) and the tape slots (r, z, n, gh_n); gx, gh: (B, 3, H)."""
    (h_prev,) = states
    gh_n = gh[:, 2]
    r, z = sigmoid(xp, gx[:, 0] + gh[:, 0]), sigmoid(xp, gx[:, 1] + gh[:, 1])
    n = xp.tanh(gx[:, 2] + r * gh_n)
    h = (1 - z) * n + z * h_prev
    return (h,), (r, z, n, gh_n)


def backward(xp, tape, states_prev, dstates, dgates=None):
    """Return dgx, dgh (B, 3, H) and what reaches the old state past the gates: (dh * z,).

    dgates (B, 3, H) flows into the activated r, z and n.
    """
    r, z, n, gh_n = tape
    (h_prev,) = states_prev
    (dh,) = dstates
    dgx_n = dh * (1 - z) * (1 - n * n)
    if dgates is not None:
        dgx_n = dgx_n + dgates[:, 2] * (1 - n * n)
    dgh_n = dgx_n * r
    dr = dgx_n * gh_n * r * (1 - r)
    dz = dh * (h_prev - n) * z * (1 - z)
    if dgates is not None:
        dr = dr + dgates[:, 0] * r * (1 - r)
        dz = dz + dgates[:, 1] * z * (1 - z)
    return xp.stack([dr, dz, dgx_n], 1), xp.stack([dr, dz, dgh_n], 1), (dh * z,)
