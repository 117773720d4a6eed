"""Initial values of a layer's parameters, written in place; the same seed gives the same values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from . import _values
from .cells import CELLS
from .errors import ArgumentError

if TYPE_CHECKING:
    from .layers import Recurrent

__all__ = ["chrono", "forget_bias", "orthogonal", "orthogonal_recurrent", "uniform"]


def uniform(layer: Recurrent, seed: int | None = None) -> None:
    """Draw weights and biases from U(-1/sqrt(H), 1/sqrt(H)), PyTorch's default; learned states: 0.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    seed : int, optional
        Drawn from the operating system if omitted.

    Raises
    ------
    DTypeError, ArgumentError
        If `seed` is not an integer of 0 or more.
    """
    rng = _values.generator("rnnfast.initializers.uniform", seed)
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

    Raises
    ------
    DTypeError, ArgumentError
        If `seed` is not an integer of 0 or more.
    """
    rng = _values.generator("rnnfast.initializers.orthogonal_recurrent", seed)
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


def chrono(layer: Recurrent, longest: int, seed: int | None = None) -> None:
    """Set the biases of the gates so that the layer remembers for up to `longest` steps at first.

    A gate that keeps a share sigmoid(b) of the state in each step keeps it for about 1 + exp(b)
    steps. So b = log(u) with u from U(1, longest - 1), one draw for each unit: for the LSTM b goes
    to f and -b to i, for the GRU b goes to z.

    Parameters
    ----------
    layer : LSTM or GRU
    longest : int
        Steps over which something is to be remembered, at least 2.
    seed : int, optional
        Drawn from the operating system if omitted.

    Raises
    ------
    DTypeError, ArgumentError
        If the layer has no such gates or no bias, `longest` is not an integer of 2 or more, or
        `seed` not one of 0 or more.

    Notes
    -----
    The values go into `bias_ih`; these blocks of `bias_hh` become 0.

    References
    ----------
    Tallec and Ollivier 2018, "Can recurrent neural networks warp time?", arXiv:1804.11188; there
    for the LSTM and for units with a single gate, which is 1 - z of the GRU.
    """
    who = "rnnfast.initializers.chrono"
    gates, H = CELLS[layer.cell].gates, layer.hidden_size
    signs = {"f": 1.0, "i": -1.0} if "f" in gates else {"z": 1.0}
    if not signs.keys() <= set(gates) or not layer.bias:
        lacks = "bias" if signs.keys() <= set(gates) else "gate that keeps the state"
        raise ArgumentError(f"{who}: {layer!r} has no {lacks}.")
    longest = _values.at_least(who, "longest", longest, 2)
    rng = _values.generator(who, seed)
    for name, array in layer.parameters.items():
        if name.startswith("bias_ih"):
            keep = np.log(rng.uniform(1, longest - 1, H))
        for letter, sign in signs.items():
            block = slice(gates.index(letter) * H, (gates.index(letter) + 1) * H)
            if name.startswith("bias_ih"):
                array[block] = sign * keep
            elif name.startswith("bias_hh"):
                array[block] = 0
