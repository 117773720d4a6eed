"""What gates and states do over a series or a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy import ndarray

from .._forms import Form
from ..cells import CELLS
from ..errors import ArgumentError
from ..layers import Recurrent
from ._draw import heat_map
from ._run import Run, RunOptions

__all__ = ["Activations", "Saturation", "activations", "saturation"]


@dataclass(frozen=True)
class Activations:
    """Gates and states of a run, by letter.

    Attributes
    ----------
    cell : str
        Registry name of the cell.
    values : dict of str to (D*L, T, B, H)
        LSTM i f g o h c, GRU r z n h, RNN h. Gates are activated; states are those that leave each
        step, held at unused steps, where gates are 0. Layers and directions in the order of h_n;
        (D*L, B, T, H) under `batch_first`, (D*L, T, H) unbatched. ``record["f"]`` for short.
    """

    cell: str
    values: dict[str, ndarray]
    _form: Form = field(repr=False)

    def __getitem__(self, letter: str) -> ndarray:
        if letter not in self.values:
            known = ", ".join(self.values)
            raise KeyError(f"rnnfast.inspect: no gate or state {letter!r}; there are {known}.")
        return self.values[letter]

    def plot(
        self,
        letter: str,
        *,
        layer: int = 0,
        row: int = 0,
        labels: Sequence[str] | None = None,
        ax: Any = None,
    ) -> Any:
        """Draw a gate or state as a heat map, units over steps.

        Parameters
        ----------
        letter : str
            A key of `values`.
        layer : int
            Place on their first axis, layer * D + direction.
        row : int
            Row of the batch.
        labels : sequence of str, optional
            One for each step, such as the characters of a text; default the numbers of the steps.
        ax : matplotlib.axes.Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        values = self._form.enter(self[letter], 1)[layer, :, row]
        spec = CELLS[self.cell]
        low, high = -1.0, 1.0  # h = o * tanh(c), or a mean of values of tanh
        if letter in spec.gates:
            low, high = spec.ranges[spec.gates.index(letter)]
        if letter == "c" or high == np.inf:
            high = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
            low = -high if letter == "c" else 0.0
        ax = heat_map(values, labels, low=low, high=high, ax=ax)
        ax.set_title(f"{letter}, layer {layer}")
        return ax


def activations(
    layer: Recurrent, x: ndarray, state: Any = None, **options: Unpack[RunOptions]
) -> Activations:
    """Record every gate and state of a run.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    x : (T, B, I), or (T, B) of an integer dtype
        In any form that a call of the layer takes, except flat.
    state : in the form of the layer's state, optional
        Zero, or the learned state, if omitted.
    **options
        `lengths`, `mask`, `reset`, `reset_to`, `reset_state` of a plain call, see
        `rnnfast.options.LayerCallOptions`.

    Returns
    -------
    Activations

    Raises
    ------
    ShapeError, DTypeError, IndexRangeError, ArgumentError
        As in a call of the layer.

    References
    ----------
    Karpathy, Johnson and Fei-Fei 2015, "Visualizing and understanding recurrent networks",
    arXiv:1506.02078.
    """
    run = Run("activations", layer, x, state, options)
    spec = run.stack.spec
    values = {letter: run.gates[..., g, :] for g, letter in enumerate(spec.gates)}
    values.update(zip(spec.states, run.left, strict=True))
    return Activations(layer.cell, {name: run.leave(a) for name, a in values.items()}, run.form)


class Saturation(NamedTuple):
    """Shares of the steps at which a gate is near an end of its range, (D*L, G, H) each.

    Gates in the cell's order; NaN where no step is used.

    Attributes
    ----------
    low : (D*L, G, H)
        Closed: near 0 for a sigmoid, near -1 for tanh; exactly 0 for relu.
    high : (D*L, G, H)
        Open: near 1; 0 for relu, which has no upper end.
    """

    low: ndarray
    high: ndarray


def saturation(
    layer: Recurrent,
    x: ndarray,
    state: Any = None,
    *,
    margin: float = 0.1,
    **options: Unpack[RunOptions],
) -> Saturation:
    """Measure how often each unit of each gate is saturated, over all used steps and rows.

    A saturated gate passes almost no gradient to its weights; a forget gate saturated at 1 is what
    remembers.

    Parameters
    ----------
    layer, x, state, **options
        As in `activations`.
    margin : float
        What counts as near, as a share of the range; above 0 and below 0.5. Default 0.1: a sigmoid
        below 0.1 or above 0.9, as in the paper below, tanh below -0.8 or above 0.8. Both have 0.36
        of their steepest slope there: tanh(a) = 2 sigmoid(2a) - 1.

    Returns
    -------
    Saturation

    Raises
    ------
    ArgumentError
        If `margin` is not above 0 and below 0.5.
    ShapeError, DTypeError, IndexRangeError, ArgumentError
        As in a call of the layer.

    References
    ----------
    Karpathy, Johnson and Fei-Fei 2015, arXiv:1506.02078.
    """
    run = Run("saturation", layer, x, state, options)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 < margin < 0.5:
        raise ArgumentError(f"{run.who}: margin is {margin!r}, expected 0 < margin < 0.5.")
    shares = []
    gates = run.gates[:, run.used]  # (D*L, steps, G, H)
    for g, (low, high) in enumerate(run.stack.spec.ranges):
        width = high - low if high < np.inf else 0.0
        values = gates[:, :, g]
        below, above = values <= low + margin * width, values >= high - margin * width
        shares.append([_share(below), _share(above)])
    lows, highs = (np.stack(parts, 1) for parts in zip(*shares, strict=True))
    return Saturation(lows, highs)


def _share(flags: ndarray) -> ndarray:
    """Return the share of True on axis 1, NaN where it is empty."""
    if flags.shape[1] == 0:
        return np.full((flags.shape[0], flags.shape[2]), np.nan)
    return flags.mean(1)
