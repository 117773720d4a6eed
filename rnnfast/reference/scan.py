"""The loop over time around a cell, one direction: the specification of the scan.

Shapes: x (T, B, I) or integer indices (T, B); W (G*H, I), R (G*H, H), bW, bR (G*H,) or None; each
state (B, H); y (T, B, H). `cell` is a module of this package (`rnn`, `lstm`, `gru`), `options` its
keyword arguments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Kept", "backward", "forward"]


class Kept(NamedTuple):
    """The tape of one direction: slots (T, B, H), states (T+1, B, H) from the initial one on."""

    slots: tuple[Any, ...]
    states: tuple[Any, ...]


def forward(cell, options, x, W, R, bW, bR, states, xp=np, keep=True):
    """Run the cell over the sequence.

    Works on NumPy arrays and, with ``xp=torch``, on tensors, where every step is differentiable.

    Returns
    -------
    y : (T, B, H)
    states : tuple of (B, H)
        After the last step.
    kept : Kept or None
        None unless `keep`.
    """
    T, B = x.shape[:2]
    GH, H = R.shape
    # An index picks its column: the same bits as the product with a one-hot row, whose other terms
    # are zero.
    gx = W.T[x] if x.ndim == 2 else x @ W.T
    if bW is not None:
        gx = gx + bW
    gx = gx.reshape(T, B, GH // H, H)
    history, slots = [states], []
    for t in range(T):
        gh = states[0] @ R.T
        if bR is not None:
            gh = gh + bR
        states, slot = cell.forward(xp, gx[t], gh.reshape(B, GH // H, H), states, **options)
        history.append(states)
        slots.append(slot)
    sequences = tuple(xp.stack(list(steps)) for steps in zip(*history, strict=True))
    kept = None
    if keep:
        stacked = tuple(xp.stack(list(steps)) for steps in zip(*slots, strict=True))
        kept = Kept(stacked, sequences)
    return sequences[0][1:], states, kept


def backward(cell, options, kept, x, W, R, dy, dstates):
    """Run the cell back through time, NumPy only.

    Parameters
    ----------
    dy : (T, B, H)
        Gradient with respect to y.
    dstates : tuple of (B, H)
        Gradients with respect to the final states.

    Returns
    -------
    dgx, dgh : (T, B, G*H)
        Gradients of the two gate inputs, from which those of x and the parameters follow.
    dstates : tuple of (B, H)
        Gradients of the initial states.
    """
    T, B = x.shape[:2]
    GH, H = R.shape
    dgx = np.empty((T, B, GH // H, H), R.dtype)
    dgh = np.empty_like(dgx)
    for t in reversed(range(T)):
        states_prev = tuple(sequence[t] for sequence in kept.states)
        slots = tuple(slot[t] for slot in kept.slots)
        dh, *rest = dstates
        dgx[t], dgh[t], (dh, *rest) = cell.backward(
            np, slots, states_prev, (dh + dy[t], *rest), **options
        )
        dstates = (dh + dgh[t].reshape(B, GH) @ R, *rest)
    return dgx.reshape(T, B, GH), dgh.reshape(T, B, GH), tuple(dstates)
