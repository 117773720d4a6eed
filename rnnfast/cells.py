"""The registry of cells in Python: one row per cell, and nothing about a cell anywhere else.

Weight conversion, tests, benchmarks and the command line walk `CELLS`. A test holds these rows
equal to `csrc/cells/cells.h`, which is the same table in C++.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["CELLS", "CellSpec", "find"]


@dataclass(frozen=True)
class CellSpec:
    """What is fixed about a cell.

    Attributes
    ----------
    name : str
        Registry name, the first part of every kernel id: ``"lstm"`` in ``lstm.forward.f32.avx2``.
    function : str
        The public function, the reference module and, with its capitals, the layer.
    gates : tuple of str
        Letters of the gate blocks, in the order of the rows of W, R, bW and bR.
    states : tuple of str
        Letters of the states carried from step to step; the first is the output.
    ranges : tuple of (float, float)
        The ends of each gate's activation, in the order of `gates`: (0, 1) for a sigmoid, (-1, 1)
        for tanh, (0, inf) for relu.
    tape : tuple of str
        What one step keeps for the backward pass, in the order of the slots.
    options : mapping
        Keyword arguments that choose this cell among those of its function.
    apart : tuple of str
        Gates in which R h + bR is not simply added to W x + bW (the GRU's n, where r stands
        between), so that bR cannot be summed into bW.
    orders : mapping of str to tuple of str
        The gate order of other systems, in our letters; `rnnfast.weights` has the rest of their
        conventions. A system that has no such layer, or computes another function, is not listed.
    parameters : tuple of str
        The parameters of one layer and direction.
    """

    name: str
    function: str
    gates: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    states: tuple[str, ...]
    tape: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    apart: tuple[str, ...] = ()
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    parameters: tuple[str, ...] = ("W", "R", "bW", "bR")

    @property
    def G(self) -> int:
        """Number of gate blocks."""
        return len(self.gates)

    @property
    def S(self) -> int:
        """Number of states."""
        return len(self.states)

    def permutation(self, system: str) -> tuple[int, ...]:
        """Blocks of ours in the order of `system`: ``theirs[k] = ours[permutation[k]]``.

        Raises
        ------
        KeyError
            If `system` has no row in `orders`; the message lists those that have.
        """
        if system not in self.orders:
            known = ", ".join(sorted(self.orders))
            raise KeyError(f"rnnfast: no gate order of {system!r} for {self.name}; known: {known}.")
        return tuple(self.gates.index(letter) for letter in self.orders[system])


def _orders(**rows: str) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({system: tuple(row.split()) for system, row in rows.items()})


# Read from the sources named; the candidate is called g (LSTM) and n (GRU) throughout, whatever its
# name there. Where a system stores each gate apart, the order is that of its source.
_RNN_ORDERS = _orders(
    pytorch="h",
    keras="h",
    onnx="h",
    cudnn="h",
    onednn="h",
    flax_linen="h",
    flax_nnx="h",
    tensorflow1="h",
    mlx="h",
)
_LSTM_ORDERS = _orders(
    pytorch="i f g o",  # torch/nn/modules/rnn.py
    mlx="i f g o",  # mlx/nn/layers/recurrent.py
    equinox="i f g o",  # equinox/nn/_rnn.py
    flax_linen="i f g o",  # flax/linen/recurrent.py, LSTMCell: each gate apart
    flax_nnx="i f g o",  # flax/nnx/nn/recurrent.py, OptimizedLSTMCell
    flax_nnx_split="i f g o",  # there, LSTMCell: each gate apart
    keras="i f g o",  # keras/src/layers/rnn/lstm.py, there i f c o
    cudnn="i f g o",  # linLayerID 0..3 and 4..7
    onednn="i f g o",  # doc/primitives/rnn.md, there i f c o
    onnx="i o f g",  # operator LSTM, W[iofc]
    haste="i g f o",  # frameworks/pytorch/lstm.py
    tensorflow1="i g f o",  # BasicLSTMCell, there i j f o
    haiku="i g f o",  # haiku/_src/recurrent.py
    cs231n="i f o g",  # assignment 3, rnn_layers.py
)
_GRU_ORDERS = _orders(
    pytorch="r z n",
    mlx="r z n",
    equinox="r z n",
    flax_linen="r z n",  # each gate apart
    flax_nnx="r z n",
    cudnn="r z n",
    keras="z r n",  # keras/src/layers/rnn/gru.py, reset_after=True, there z r h
    onnx="z r n",  # operator GRU with linear_before_reset=1, W[zrh]
    haste="z r n",  # there z r g
    onednn="z r n",  # linear-before-reset GRU, there u r o
)

_SIGMOID, _TANH, _RELU = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf)

_ROWS = (
    CellSpec(
        name="rnn_tanh",
        function="rnn",
        gates=("h",),
        ranges=(_TANH,),
        states=("h",),
        tape=("h",),
        options=MappingProxyType({"nonlinearity": "tanh"}),
        orders=MappingProxyType({**_RNN_ORDERS, "cs231n": ("h",)}),
    ),
    CellSpec(
        name="rnn_relu",
        function="rnn",
        gates=("h",),
        ranges=(_RELU,),
        states=("h",),
        tape=("h",),
        options=MappingProxyType({"nonlinearity": "relu"}),
        orders=MappingProxyType({**_RNN_ORDERS, "haiku": ("h",)}),
    ),
    CellSpec(
        name="lstm",
        function="lstm",
        gates=("i", "f", "g", "o"),
        ranges=(_SIGMOID, _SIGMOID, _TANH, _SIGMOID),
        states=("h", "c"),
        tape=("i", "f", "g", "o"),
        orders=_LSTM_ORDERS,
    ),
    CellSpec(
        name="gru",
        function="gru",
        gates=("r", "z", "n"),
        ranges=(_SIGMOID, _SIGMOID, _TANH),
        states=("h",),
        tape=("r", "z", "n", "ghn"),
        apart=("n",),
        orders=_GRU_ORDERS,
    ),
)

CELLS: Mapping[str, CellSpec] = MappingProxyType({row.name: row for row in _ROWS})
"""All cells by registry name."""


def find(function: str, **options: str) -> CellSpec:
    """Return the row of a public function and its options, ``find("rnn", nonlinearity="relu")``.

    Raises
    ------
    KeyError
        If no row fits.
    """
    for row in _ROWS:
        if row.function == function and dict(row.options) == options:
            return row
    raise KeyError(f"rnnfast: no cell {function!r} with options {options}.")
