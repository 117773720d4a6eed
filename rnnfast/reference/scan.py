"""The loop over time around a cell, one direction: the specification of the scan.

Shapes: x (T, B, I) or integer indices (T, B); W (G*H, I), R (G*H, H), bW, bR (G*H,) or None; each
state (B, H); y (T, B, H). `cell` is a module of this package (`rnn`, `lstm`, `gru`), `options` its
keyword arguments. `plan` says what each step does beside running the cell; all of it is in scan
order.

One step: the state that enters is what the step before left, or its replacement at a cut; the
operand of R is its h, times the dropout factor; zoneout mixes what entered with what the cell made;
an unused step leaves what entered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .plan import PLAIN

__all__ = ["Kept", "backward", "forward", "live", "operand"]


class Kept(NamedTuple):
    """The tape of one direction: slots (T, B, H), states (T+1, B, H) from the initial one on.

    A state is the one that a step left, before a cut replaces it; slots are 0 at unused steps.
    """

    slots: tuple[Any, ...]
    states: tuple[Any, ...]


def forward(cell, options, x, W, R, bW, bR, states, xp=np, keep=True, plan=PLAIN):
    """Run the cell over the sequence.

    Works on NumPy arrays and, with ``xp=torch``, on tensors, where every step is differentiable.
    The arrays of the plan may then be NumPy's, but replacements must be tensors.

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
    used = None if plan.used is None else xp.asarray(plan.used)
    dropout = None if plan.dropout is None else xp.asarray(plan.dropout)
    if plan.weight is not None:
        R = R * xp.asarray(plan.weight)
    if used is not None:
        # Never read, not multiplied by zero: there may be NaN, or an index out of range.
        x = _where(xp, used if x.ndim == 2 else used[:, :, None], x, None)
    # An index picks its column: the same bits as the product with a one-hot row, whose other terms
    # are zero.
    gx = W.T[x] if x.ndim == 2 else x @ W.T
    if bW is not None:
        gx = gx + bW
    gx = gx.reshape(T, B, GH // H, H)
    history, slots = [states], []
    for t in range(T):
        entered = _enter(xp, plan, states, t)
        h = entered[0] if dropout is None else dropout[min(t, len(dropout) - 1)] * entered[0]
        gh = h @ R.T
        if bR is not None:
            gh = gh + bR
        states, slot = cell.forward(xp, gx[t], gh.reshape(B, GH // H, H), entered, **options)
        if plan.zoneout is not None:
            mixed = zip(_zoneout(xp, plan, t), entered, states, strict=True)
            states = tuple(new if z is None else z * old + (1 - z) * new for z, old, new in mixed)
        if used is not None:
            here = used[t][:, None]
            pairs = zip(states, entered, strict=True)
            states = tuple(_where(xp, here, new, old) for new, old in pairs)
            slot = tuple(_where(xp, here, value, None) for value in slot)
        history.append(states)
        slots.append(slot)
    sequences = tuple(xp.stack(list(steps)) for steps in zip(*history, strict=True))
    kept = None
    if keep:
        stacked = tuple(xp.stack(list(steps)) for steps in zip(*slots, strict=True))
        kept = Kept(stacked, sequences)
    y = sequences[0][1:]
    if used is not None and not plan.hold:
        y = _where(xp, used[:, :, None], y, None)
    return y, states, kept


def backward(cell, options, kept, x, W, R, dy, dstates, plan=PLAIN, dsequences=None, dgates=None):
    """Run the cell back through time, NumPy only.

    Parameters
    ----------
    dy : (T, B, H)
        Gradient with respect to y.
    dstates : tuple of (B, H)
        Gradients with respect to the final states.
    dsequences : tuple of (T, B, H) or None, optional
        Gradients with respect to the states that the steps leave.
    dgates : (T, B, G, H), optional
        Gradient with respect to the activated gates.

    Returns
    -------
    dgx, dgh : (T, B, G*H)
        Gradients of the two gate inputs, from which those of x and the parameters follow.
    dstates : tuple of (B, H)
        Gradients of the initial states.
    dreplacement : tuple of (T, B, H), or None
        Gradients of what replaced the state at a cut, None where the plan has no cuts.
    """
    T, B = x.shape[:2]
    GH, H = R.shape
    if plan.weight is not None:
        R = R * plan.weight
    dgx = np.zeros((T, B, GH // H, H), R.dtype)
    dgh = np.zeros_like(dgx)
    dreplacement = None
    if plan.cut is not None:
        dreplacement = tuple(np.zeros((T, B, H), R.dtype) for _ in dstates)
    outputs = (None,) * len(dstates) if dsequences is None else dsequences
    outputs = [dy if outputs[0] is None else dy + outputs[0], *outputs[1:]]
    if plan.used is not None and not plan.hold:
        everywhere = plan.used[:, :, None]
        outputs = [None if a is None else _where(np, everywhere, a, None) for a in outputs]
    for t in reversed(range(plan.burn_in, T)):
        entered = _enter(np, plan, tuple(sequence[t] for sequence in kept.states), t)
        slots = tuple(slot[t] for slot in kept.slots)
        dleft = tuple(
            d if output is None else d + output[t]
            for d, output in zip(dstates, outputs, strict=True)
        )
        zones = (None,) * len(dleft) if plan.zoneout is None else _zoneout(np, plan, t)
        dmade = tuple(d if z is None else (1 - z) * d for z, d in zip(zones, dleft, strict=True))
        given = {} if dgates is None else {"dgates": dgates[t]}
        dgx_t, dgh_t, past = cell.backward(np, slots, entered, dmade, **given, **options)
        product = dgh_t.reshape(B, GH) @ R
        if plan.dropout is not None:
            product = plan.dropout[min(t, len(plan.dropout) - 1)] * product
        # What the step sends back to the states that entered it.
        sent = (past[0] + product, *past[1:])
        parts = zip(zones, sent, dleft, strict=True)
        sent = tuple(d if z is None else d + z * kept_on for z, d, kept_on in parts)
        if plan.gradient_clip:
            sent = tuple(np.clip(d, -plan.gradient_clip, plan.gradient_clip) for d in sent)
        if plan.used is not None:
            here = plan.used[t][:, None]
            dgx_t, dgh_t = (_where(np, here[:, None], d, None) for d in (dgx_t, dgh_t))
            sent = tuple(_where(np, here, d, held) for d, held in zip(sent, dleft, strict=True))
        dgx[t], dgh[t] = dgx_t, dgh_t
        if plan.cut is not None:
            here = plan.cut[t][:, None]
            for gradient, d in zip(dreplacement, sent, strict=True):
                gradient[t] = _where(np, here, d, None)
            sent = tuple(_where(np, here, None, d) for d in sent)
        if plan.tbptt and t % plan.tbptt == 0 and t > 0:
            runs = np.ones((B, 1), bool) if plan.ends is None else (t < plan.ends)[:, None]
            sent = tuple(_where(np, runs, None, d) for d in sent)
        dstates = sent
    if plan.burn_in:
        dstates = tuple(np.zeros_like(d) for d in dstates)
    return dgx.reshape(T, B, GH), dgh.reshape(T, B, GH), tuple(dstates), dreplacement


def live(plan, T, B):
    """Where a step gives gradients to x and the parameters: (T, B) bool, or None for everywhere."""
    if plan.used is None and not plan.burn_in:
        return None
    steps = np.ones((T, B), bool) if plan.used is None else plan.used.copy()
    steps[: plan.burn_in] = False
    return steps


def operand(kept, plan):
    """Return what R was multiplied with, (T, B, H); zero where a step gives no gradients."""
    before = kept.states[0][:-1]
    T, B = before.shape[:2]
    if plan.cut is not None and T > 0:
        entered = (_enter(np, plan, tuple(s[t] for s in kept.states), t) for t in range(T))
        before = np.stack([h for h, *_ in entered])
    if plan.dropout is not None:
        before = plan.dropout * before
    steps = live(plan, T, B)
    return before if steps is None else _where(np, steps[:, :, None], before, None)


def _where(xp, condition, a, b):
    """Select; None is zero."""
    a = xp.zeros_like(b) if a is None else a
    return xp.where(condition, a, xp.zeros_like(a) if b is None else b)


def _enter(xp, plan, states, t):
    """Return the states that enter step t, given those that the step before it left."""
    if plan.cut is None:
        return states
    here = xp.asarray(plan.cut[t])[:, None]
    replacement = (None,) * len(states) if plan.replacement is None else plan.replacement
    rows = (None if a is None else a[min(t, len(a) - 1)] for a in replacement)
    return tuple(_where(xp, here, row, s) for row, s in zip(rows, states, strict=True))


def _zoneout(xp, plan, t):
    """Return z of each state at step t: (B, H), a number, or None."""
    return tuple(xp.asarray(z[t]) if np.ndim(z) else z for z in plan.zoneout)
