"""Initial values of a layer's parameters, written in place; the same seed gives the same values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .cells import CELLS
from .errors import ArgumentError

if TYPE_CHECKING:
    from .layers import Recurrent

__all__ = ["forget_bias", "orthogonal", "orthogonal_recurrent", "uniform"]


def uniform(layer: Recurrent, seed: int | None = None) -> None:
    """Draw weights and biases from U(-1/sqrt(H), 1/sqrt(H)), PyTorch's default; learned states: 0.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    seed : int, optional
        Drawn from the operating system if omitted.
    """
    rng = np.random.default_rng(seed)
    bound = 1 / math.sqrt(layer.hidden_size)
    for name, array in layer.parameters.items():
        learned = name in ("h_0", "c_0")
        array[...] = 0 if learned else rng.uniform(-bound, bound, array.shape)


def orthogonal(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random matrix (rows, columns) with orthonormal rows or columns, whichever are fewer.

    References
    ----------
    Saxe, McClelland and Ganguli 2014, arXiv:1312.6120. Uniform over such matrices: the signs of the
    QR factors are fixed as in Mezzadri 2007, arXiv:math-ph/0609050.
    """
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return q if rows >= columns else q.T


def orthogonal_recurrent(layer: Recurrent, seed: int | None = None, gain: float = 1.0) -> None:
    """Make each gate's block (H, H) of the recurrent weights `gain` times an orthogonal matrix.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    seed : int, optional
        Drawn from the operating system if omitted.
    gain : float
        The spectral radius of each block.
    """
    rng = np.random.default_rng(seed)
    H = layer.hidden_size
    for name, array in layer.parameters.items():
        if name.startswith("weight_hh"):
            for start in range(0, len(array), H):
                array[start : start + H] = gain * orthogonal(H, H, rng)


def forget_bias(layer: Recurrent, value: float = 1.0) -> None:
    """Set the sum of both biases of every LSTM forget gate to `value`, so that it starts open.

    Parameters
    ----------
    layer : LSTM
    value : float
        Goes into `bias_ih`; the forget block of `bias_hh` becomes 0.

    Raises
    ------
    ArgumentError
        If the layer has no forget gate or no bias.

    References
    ----------
    Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015.
    """
    gates = CELLS[layer.cell].gates
    if "f" not in gates or not layer.bias:
        lacks = "bias" if "f" in gates else "forget gate"
        raise ArgumentError(f"rnnfast.initializers.forget_bias: {layer!r} has no {lacks}.")
    H, f = layer.hidden_size, gates.index("f")
    for name, array in layer.parameters.items():
        if name.startswith("bias"):
            array[f * H : (f + 1) * H] = value if name.startswith("bias_ih") else 0
