"""The gradient that reaches each step and layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy import ndarray

from .. import _call
from .._forms import States
from ..errors import ArgumentError
from ..layers import Recurrent
from ._draw import draw_lines
from ._run import Run, RunOptions, Scan

__all__ = ["GradientFlow", "gradient_flow"]


@dataclass(frozen=True)
class GradientFlow:
    """Gradients of a loss with respect to the states that leave each step.

    Attributes
    ----------
    h : (D*L, T, B, H)
        dL/dh_t, through every later step and every higher layer. Layers and directions in the order
        of h_n; (D*L, B, T, H) under `batch_first`, (D*L, T, H) unbatched, as in `rnnfast.States`.
    c : (D*L, T, B, H), or None for a cell without it
        dL/dc_t with h_t held: what the next step sends back to c_t.
    norms : (D*L, T)
        2-norm of h, and of h and c together where there is a c, over rows and units.
    """

    h: ndarray
    c: ndarray | None
    norms: ndarray

    def plot(self, ax: Any = None) -> Any:
        """Draw `norms` over the steps, on a logarithmic axis, one line per layer and direction.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        ax = draw_lines(self.norms, ax)
        # A norm of zero has no place on the axis, and no line is drawn there.
        ax.set(yscale="log", xlabel="step t", ylabel="norm of the gradient reaching t")
        return ax


def gradient_flow(
    layer: Recurrent,
    x: ndarray,
    state: Any = None,
    *,
    dy: ndarray | None = None,
    dstate: Any = None,
    dstates: States | None = None,
    **options: Unpack[RunOptions],
) -> GradientFlow:
    """Follow a gradient back through every step and layer.

    What vanishes or explodes is seen here: each step multiplies the gradient by the transposed
    Jacobian of that step (`jacobians`).

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    x : (T, B, I), or (T, B) of an integer dtype
        In any form that a call of the layer takes, except flat.
    state : in the form of the layer's state, optional
        Zero, or the learned state, if omitted.
    dy : in the shape of y, optional
        Gradient of the loss with respect to y, zero if omitted.
    dstate : in the form of the state, optional
        Gradient with respect to the final state, zero if omitted.
    dstates : rnnfast.States, optional
        Gradients with respect to the states and gates of each step, zero where None.
    **options
        `lengths`, `mask`, `reset`, `reset_to`, `reset_state` of a plain call, see
        `rnnfast.options.LayerCallOptions`.

    Returns
    -------
    GradientFlow
        Exact: each step is run back by the layer's own back end, under the layer's
        `clip_state_gradient` if it has one.

    Raises
    ------
    ArgumentError
        If no gradient comes in: `dy`, `dstate` and `dstates` are all None.
    ShapeError, DTypeError, IndexRangeError, ArgumentError
        As in a call of the layer and in its backward pass.

    References
    ----------
    Bengio, Simard and Frasconi 1994, "Learning long-term dependencies with gradient descent is
    difficult"; Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
    """
    run = Run("gradient_flow", layer, x, state, options)
    if dy is None and dstate is None and dstates is None:
        raise ArgumentError(
            f"{run.who}: dy, dstate and dstates are all None, expected the gradient of a loss in "
            "at least one of them."
        )
    stack, form = run.stack, run.form
    check = stack._checker(run.who, T=(run.T, "x"), B=(run.B, "x"))
    if dy is not None:
        dy = form.enter(check.sequence("dy", dy, f"{form.steps} D*H"))
    last = stack._states(check, "d{}_n", dstate, form)
    into = _call.check_dstates(check, form, dstates, stack.spec, "D*L")
    sequences, dgates = into or (None, None)

    shape = (stack.D * stack.L, run.T, run.B, stack.H)
    flows = tuple(np.zeros(shape, stack.dtype) for _ in stack.spec.states)
    dread = np.zeros((run.T, run.B, stack.D * stack.H), stack.dtype) if dy is None else dy
    for k in reversed(range(stack.L)):
        dx = dread if stack.residual and k > 0 else None
        for scan in run.scans[k * stack.D : (k + 1) * stack.D]:
            place = k * stack.D + scan.direction
            units = slice(scan.direction * stack.H, (scan.direction + 1) * stack.H)
            incoming = [dread[..., units], *(None,) * (stack.spec.S - 1)]
            if sequences is not None:
                more = [None if a is None else a[place] for a in sequences]
                incoming = [_sum(a, b) for a, b in zip(incoming, more, strict=True)]
            final = [None if a is None else a[place] for a in last or incoming[:0]]
            gates = None if dgates is None else dgates[place]
            here = tuple(flow[place] for flow in flows)
            dx = _sum(dx, _back(run, scan, incoming, final, gates, here))
        if dx is not None:
            dread = dx
    square = sum(np.square(flow, dtype=np.float64).sum((2, 3)) for flow in flows)
    named = dict(zip(stack.spec.states, map(run.leave, flows), strict=True))
    return GradientFlow(named["h"], named.get("c"), np.sqrt(square))


def _back(run: Run, scan: Scan, incoming, final, dgates, flows) -> ndarray | None:
    """Run one scan back, step by step.

    Parameters
    ----------
    incoming : S arrays (T, B, H) or None
        Gradients that come to the states from outside the scan.
    final : S arrays (B, H), or None each, or nothing
        Gradients of the final states.
    dgates : (T, B, G, H) or None
    flows : S arrays (T, B, H)
        Written: the whole gradient of each state.

    Returns
    -------
    dx : (T, B, I), or None for the first layer, below which there is no state
    """
    dx = np.zeros_like(scan.x) if scan.layer > 0 else None
    zeros = np.zeros((run.B, run.stack.H), run.stack.dtype)
    arriving = [zeros if d is None else d for d in final or (None,) * run.stack.spec.S]
    for t in reversed(scan.order):
        here, now = run.used[t][:, None], slice(t, t + 1)
        for s, outside in enumerate(incoming):
            if outside is not None:
                # At an unused step the output is padding, and what comes to it is dropped.
                arriving[s] = arriving[s] + np.where(here, outside[t], zeros)
            flows[s][t] = arriving[s]
        entered = tuple(state[t] for state in scan.entered)
        tape = run.step(scan, scan.x[now], entered, run.options(run.used[now], clip=True))
        into = () if dgates is None else (None, np.ascontiguousarray(dgates[None, now]))
        dstate = tuple(np.ascontiguousarray(d)[None] for d in arriving)
        result = run.engine.backward(tape, None, dstate, dx is not None, None, *into)
        dx_t, _, sent, _ = run.stack.agreed(result)
        if dx is not None:
            dx[t] = dx_t[0]
        arriving = [np.where(scan.cut[t][:, None], zeros, d[0]) for d in sent]
    return dx


def _sum(a: ndarray | None, b: ndarray | None) -> ndarray | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
