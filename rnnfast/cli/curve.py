"""The loss curve as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def draw(
    path: Path,
    losses: Sequence[float],
    validation: Sequence[tuple[int, float]],
    ngram: float,
    order: int,
) -> None:
    """Write the PNG, whole or not at all.

    Parameters
    ----------
    path : Path
    losses : sequence of float
        Bits per character of every training step.
    validation : sequence of (int, float)
        Steps done, and bits per character.
    ngram, order : float, int
        Bits per character of the best n-gram model, and its order.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="0.8", linewidth=0.8, label="training, each step")
    window = max(1, min(50, len(losses) // 10))
    if len(losses) >= window:
        smooth = np.convolve(losses, np.full(window, 1 / window), "valid")
        axes.plot(steps[window - 1 :], smooth, color="C0", label=f"training, mean of {window}")
    if validation:
        axes.plot(
            *zip(*validation, strict=True), "o-", color="C3", markersize=4, label="validation"
        )
    axes.axhline(ngram, color="0.3", linestyle="--", label=f"best n-gram model (order {order})")
    axes.set(xlabel="step", ylabel="bits per character")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, dpi=120, format="png")
    os.replace(temporary, path)
