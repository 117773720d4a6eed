"""Lyapunov exponents of the recurrence along a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray

from .. import _values
from ..errors import ArgumentError
from ..layers import Recurrent
from ._draw import draw_lines
from ._jacobians import jacobians_of
from ._run import Run, Scan

__all__ = ["LyapunovExponents", "lyapunov_exponents"]

# Numbers in the Jacobians that are held at once: 32 MiB of float64. Long trajectories are what
# these exponents need, and their Jacobians together would fill any memory.
_HELD = 2**22


@dataclass(frozen=True)
class LyapunovExponents:
    """Mean growth rates of small differences between states, per step.

    Attributes
    ----------
    exponents : (D*L, B, n)
        The n largest, in descending order up to what has not converged. In nats per step: a
        difference grows as exp(exponent * t). -inf where a direction is lost in a single step.
    local : (D*L, T-skip, B, n)
        The growth at each step, of which `exponents` are the means; in the order of the scan.
    """

    exponents: ndarray
    local: ndarray

    def plot(self, ax: Any = None, *, row: int = 0) -> Any:
        """Draw how the largest exponent of each layer settles: its mean over the steps so far.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; default a new figure.
        row : int
            Row of the batch.

        Returns
        -------
        matplotlib.axes.Axes
        """
        largest = self.local[:, :, row, 0]
        means = np.cumsum(largest, 1) / np.arange(1, largest.shape[1] + 1)
        ax = draw_lines(means, ax)
        ax.axhline(0, color="0.7", linewidth=0.8)
        ax.set(xlabel="steps", ylabel="largest Lyapunov exponent so far")
        return ax


def lyapunov_exponents(
    layer: Recurrent,
    x: ndarray,
    state: Any = None,
    *,
    count: int | None = None,
    skip: int = 0,
) -> LyapunovExponents:
    """Measure how fast small differences between states grow or shrink, by the QR method.

    All exponents below 0: the layer forgets its initial state, and gradients vanish at that rate;
    one above 0: chaos, and gradients explode. A memory of many steps needs exponents near 0.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    x : (T, B, I), or (T, B) of an integer dtype
        The series that drives the layer, zeros for the layer by itself. In any form that a call of
        the layer takes, except flat; the longer the better: the error falls as 1 / T or slower.
    state : in the form of the layer's state, optional
        Zero, or the learned state, if omitted.
    count : int, optional
        n, how many exponents, the largest first; default all, S*H, one per number in the state.
        Fewer take less time in QR, the Jacobians as much.
    skip : int
        Steps at the start that are not counted, default 0: until the trajectory has come to its
        attractor, and the directions to theirs.

    Returns
    -------
    LyapunovExponents
        Of each layer and direction. Those of a stack as a whole are all of them together: a layer's
        state does not depend on the layers above, so that the Jacobian of the stack is block
        triangular.

    Raises
    ------
    ArgumentError
        If `count` is not in 1 ... S*H, or `skip` leaves no step.
    ShapeError, DTypeError, IndexRangeError
        As in a call of the layer.

    Notes
    -----
    Orthonormal directions Q are carried along by the Jacobians, J_t Q_{t-1} = Q_t R_t, and
    orthonormalised at each step; the exponents are the means of log |diag R_t|. The QR
    factorisations run in float64; Jacobians and trajectory are in the dtype of the layer.

    References
    ----------
    Benettin, Galgani, Giorgilli and Strelcyn 1980, "Lyapunov characteristic exponents for smooth
    dynamical systems"; Eckmann and Ruelle 1985, "Ergodic theory of chaos and strange attractors";
    for recurrent networks Vogt et al. 2020, arXiv:2006.14123, and Engelken, Wolf and Abbott 2020,
    arXiv:2006.02427.
    """
    run = Run("lyapunov_exponents", layer, x, state, {})
    size = run.stack.spec.S * run.stack.H
    n = size if count is None else _values.at_least(run.who, "count", count, 1)
    if n > size:
        raise ArgumentError(
            f"{run.who}: count is {n}, expected at most {size}, the numbers in the state of a row."
        )
    skip = _values.at_least(run.who, "skip", skip, 0)
    if skip >= run.T:
        raise ArgumentError(
            f"{run.who}: skip is {skip}, expected less than {run.T}; T={run.T} from x."
        )
    local = np.stack([_growth(run, scan, n)[skip:] for scan in run.scans])
    return LyapunovExponents(local.mean(1), local)


def _growth(run: Run, scan: Scan, n: int) -> ndarray:
    """Return log |diag R| of each step in the order of the scan, (T, B, n)."""
    size = run.stack.spec.S * run.stack.H
    local = np.empty((run.T, run.B, n))
    Q = np.broadcast_to(np.eye(size, n), (run.B, size, n))
    length = max(1, _HELD // max(1, run.B * size * size))
    order = scan.order
    for start in range(0, run.T, length):
        part = order[start : start + length]
        first = min(part)
        J = jacobians_of(run, scan, slice(first, max(part) + 1))
        for k, t in enumerate(part):
            Q, R = np.linalg.qr(J[t - first].astype(np.float64) @ Q)
            with np.errstate(divide="ignore"):  # a direction that is lost: log 0 = -inf
                local[start + k] = np.log(np.abs(np.diagonal(R, axis1=-2, axis2=-1)))
    return local
