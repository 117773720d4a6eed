"""Pictures, drawn by matplotlib, which is imported when the first one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy import ndarray

from ..errors import ArgumentError, DTypeError, ShapeError

__all__ = ["draw_lines", "heat_map"]


def heat_map(
    values: ndarray,
    labels: Sequence[str] | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    ax: Any = None,
) -> Any:
    """Draw values over steps and units as colours.

    Parameters
    ----------
    values : (T, H)
        Real numbers.
    labels : sequence of str, optional
        One for each step, such as the characters of a text; default the numbers of the steps.
    low, high : float, optional
        The ends of the colours; default the extremes of `values`. From one colour to another
        through white where they are opposite, else from light to dark.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DTypeError, ShapeError
        If `values` is no array of real numbers (T, H).
    ArgumentError
        If there is not one label for each step.
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    who = "rnnfast.inspect.heat_map"
    if not isinstance(values, ndarray) or values.dtype.kind not in "fiub":
        came = values.dtype if isinstance(values, ndarray) else f"of type {type(values).__name__}"
        raise DTypeError(f"{who}: values is {came}, expected an array of real numbers.")
    if values.ndim != 2:
        raise ShapeError(f"{who}: values has shape {values.shape}, expected (T, H).")
    if labels is not None and len(labels) != len(values):
        raise ArgumentError(
            f"{who}: labels has {len(labels)} entries, expected {len(values)}, one for each step "
            "of values."
        )
    ax = _axes(ax)
    balanced = low is not None and high is not None and low == -high
    image = ax.imshow(
        values.T,
        aspect="auto",
        interpolation="nearest",
        cmap="RdBu_r" if balanced else "Greys",
        vmin=low,
        vmax=high,
    )
    ax.figure.colorbar(image, ax=ax)
    ax.set(xlabel="step t", ylabel="unit")
    if labels is not None:
        ax.set_xticks(range(len(labels)), labels)
        ax.set_xlabel("")
    return ax


def draw_lines(values: ndarray, ax: Any) -> Any:
    """Draw one line over the steps per layer and direction, (D*L, T)."""
    ax = _axes(ax)
    for place, line in enumerate(values):
        ax.plot(line, label=f"layer {place}")
    if len(values) > 1:
        ax.legend(frameon=False)
    return ax


def _axes(ax: Any) -> Any:
    """Return the axes to draw on, those of a new figure where there are none."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "rnnfast.inspect: a picture needs matplotlib, which is not installed. Install it "
            'with: pip install "rnnfast[inspect]"',
            name="matplotlib",
        ) from error
    return pyplot.subplots(layout="constrained")[1]
