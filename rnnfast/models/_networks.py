"""What the models are made of: rows in, a recurrent layer, a linear head, a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy import ndarray

from .. import GRU, LSTM, RNN, IndexedRows, initializers
from ..cells import CELLS
from ..layers import LayerTape, Recurrent, State
from ..training import Embedding, Linear
from ._ragged import Ragged
from .vocabulary import PADDING, UNKNOWN

Gradients = dict[str, "ndarray | IndexedRows"]
Loss = Callable[[ndarray, ndarray, "ndarray | None"], tuple[float, ndarray]]

_LAYERS: Mapping[str, type] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


class Examples(NamedTuple):
    """What a network learns from: N rows of everything."""

    x: Any
    """Ragged, or an array (N, ...)."""
    y: Any
    """Ragged, or an array (N, ...)."""
    weights: Any
    """(N,) float, how much each row counts; or Ragged, how much each step of y."""
    owner: Any = None
    """(N,) int, which of the user's sequences each row was cut from; None where each is one."""

    def take(self, rows: ndarray) -> Examples:
        """Return these rows, by number."""
        return Examples(*(None if part is None else part[rows] for part in self))


class Network(Protocol):
    """What the training loop asks for."""

    parts: dict[str, Any]
    """Its layers, by the prefix of their parameters."""
    parameters: dict[str, ndarray]

    def loss(self, batch: Examples) -> tuple[float, float]:
        """Return the mean loss, and the weight it stands for."""
        ...

    def gradients(self, batch: Examples, seed: int) -> tuple[float, float, Gradients]:
        """Return the same while training (`seed`: of the dropout masks), and the gradients."""
        ...


@dataclass(frozen=True)
class Shape:
    """The settings of a recurrent layer."""

    cell: str
    hidden_size: int
    num_layers: int
    bidirectional: bool
    residual: bool
    dropout: float
    dtype: Any
    device: str


def seeds(seed: int, n: int) -> list[int]:
    """Return n independent seeds."""
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(n)]


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with `prefix` and a dot before every name."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def named(parts: Mapping[str, Any]) -> dict[str, ndarray]:
    """Return the parameters of layers by prefix: all arrays by name."""
    arrays: dict[str, ndarray] = {}
    for prefix, layer in parts.items():
        arrays |= prefixed(prefix, layer.parameters)
    return arrays


def load(parts: Mapping[str, Any], arrays: Mapping[str, ndarray]) -> None:
    """Copy `arrays` into layers by prefix; names and shapes must fit."""
    for prefix, layer in parts.items():
        start = f"{prefix}."
        layer.load_state_dict(
            {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
        )


class Encoder:
    """An optional embedding and a recurrent layer, over rows without padding.

    Parameters
    ----------
    shape : Shape
    input_size : int
        Features of x, or the size of the vocabulary where x holds indices.
    indices : bool
        Whether x holds indices: one-hot then, or looked up in an embedding.
    embedding_size : int or None
        Length of the embedding's vectors, for indices; None for one-hot.
    seed : int
        Of the initial values.
    """

    def __init__(
        self, shape: Shape, input_size: int, indices: bool, embedding_size: int | None, seed: int
    ) -> None:
        first, second, third, fourth = seeds(seed, 4)
        self.embedding = None
        if indices and embedding_size is not None:
            self.embedding = Embedding(input_size, embedding_size, dtype=shape.dtype, seed=first)
            table = self.embedding.parameters["weight"]
            table[[PADDING, UNKNOWN]] = 0
            input_size = embedding_size
        spec = CELLS[shape.cell]
        self.layer: Recurrent = _LAYERS[spec.function](
            input_size,
            shape.hidden_size,
            shape.num_layers,
            bidirectional=shape.bidirectional,
            residual=shape.residual,
            dropout=shape.dropout if shape.num_layers > 1 else 0.0,
            dtype=shape.dtype,
            device=shape.device,
            seed=second,
            **spec.options,
        )
        initializers.orthogonal_recurrent(self.layer, third)
        if shape.cell == "lstm":
            initializers.forget_bias(self.layer)
        if indices and self.embedding is None:
            # An index picks one column, where a dense input adds up many: under the default
            # U(-1/sqrt(H), 1/sqrt(H)) a token would hardly be heard. This is an embedding N(0, 1).
            rng = np.random.default_rng(fourth)
            for name, array in self.layer.parameters.items():
                if name in ("weight_ih_l0", "weight_ih_l0_reverse"):
                    array[...] = rng.standard_normal(array.shape)
                    # What training has not met says nothing, instead of something at random.
                    array[:, [PADDING, UNKNOWN]] = 0
        self.parts: dict[str, Any] = {"layer": self.layer}
        if self.embedding is not None:
            self.parts["embedding"] = self.embedding
        self.width = shape.hidden_size * (2 if shape.bidirectional else 1)

    def __call__(self, x: Ragged, state: State | None = None) -> tuple[ndarray, State]:
        """Return y (M, D*H) and the final state, as an evaluation."""
        values = x.values if self.embedding is None else self.embedding(x.values)
        return self.layer(values, state, cu_seqlens=x.offsets)

    def forward(
        self, x: Ragged, state: State | None, seed: int
    ) -> tuple[ndarray, tuple[LayerTape, Any]]:
        """Return y (M, D*H), and keep a tape."""
        values, looked_up = x.values, None
        if self.embedding is not None:
            values, looked_up = self.embedding.forward(values)
        y, _, tape = self.layer.forward(
            values, state, training=True, seed=seed, cu_seqlens=x.offsets
        )
        return y, (tape, looked_up)

    def backward(self, tape: tuple[LayerTape, Any], dy: ndarray) -> tuple[Gradients, State]:
        """Return the gradients of the parameters and of the initial state."""
        layer_tape, looked_up = tape
        back = self.layer.backward(layer_tape, dy, need_dx=self.embedding is not None)
        gradients: Gradients = prefixed("layer", back.parameters)
        if self.embedding is not None:
            table = self.embedding.backward(looked_up, back.x)  # type: ignore[arg-type]
            gradients |= prefixed("embedding", table.parameters)
        return gradients, back.state


class Last:
    """What a whole row has come to: the last y of the forward direction, the first of the reverse.

    A row without a step has come to nothing: zero.
    """

    def __init__(self, encoder: Encoder, x: Ragged) -> None:
        H = encoder.layer.hidden_size
        used = np.flatnonzero(x.lengths)
        self._shape = (len(x), encoder.width)
        self._places = [(x.offsets[1:][used] - 1, used, slice(0, H))]
        if encoder.layer.bidirectional:
            self._places.append((x.offsets[:-1][used], used, slice(H, 2 * H)))

    def gather(self, y: ndarray) -> ndarray:
        """(M, D*H) to (N, D*H)."""
        features = np.zeros(self._shape, y.dtype)
        for places, rows, columns in self._places:
            features[rows, columns] = y[places, columns]
        return features

    def scatter(self, dfeatures: ndarray, y: ndarray) -> ndarray:
        """Send a gradient (N, D*H) back to where it was gathered: (M, D*H), as y."""
        dy = np.zeros_like(y)
        for places, rows, columns in self._places:
            dy[places, columns] = dfeatures[rows, columns]
        return dy


class Head:
    """A linear layer behind dropout."""

    def __init__(self, width: int, outputs: int, shape: Shape, seed: int) -> None:
        self.dropout = shape.dropout
        self.linear = Linear(width, outputs, dtype=shape.dtype, device=shape.device, seed=seed)
        self.parts = {"head": self.linear}

    def __call__(self, features: ndarray) -> ndarray:
        """(..., K) to (..., outputs)."""
        return self.linear(features)

    def forward(self, features: ndarray, seed: int) -> tuple[ndarray, tuple[Any, ndarray | None]]:
        """Apply while training, and keep a tape."""
        keep = None
        if self.dropout > 0:
            drawn = np.random.default_rng(seed).random(features.shape, np.float32)
            keep = (drawn >= self.dropout) * features.dtype.type(1 / (1 - self.dropout))
            features = features * keep
        outputs, tape = self.linear.forward(features)
        return outputs, (tape, keep)

    def backward(
        self, tape: tuple[Any, ndarray | None], doutputs: ndarray
    ) -> tuple[Gradients, ndarray]:
        """Return the gradients of the parameters and of the features."""
        linear_tape, keep = tape
        back = self.linear.backward(linear_tape, doutputs)
        dfeatures: ndarray = back.x  # type: ignore[assignment]
        if keep is not None:
            dfeatures *= keep
        return prefixed("head", back.parameters), dfeatures


class Reader:
    """Reads rows, and says something of each row or of each of its steps.

    Parameters
    ----------
    encoder : Encoder
    head : Head
    loss : function
        Of outputs, targets and weights.
    each_step : bool
        Whether targets are rows with an entry for each step, or one entry for each row.
    """

    def __init__(self, encoder: Encoder, head: Head, loss: Loss, each_step: bool) -> None:
        self.encoder, self.head, self._loss, self.each_step = encoder, head, loss, each_step
        self.parts = {**encoder.parts, **head.parts}
        self.parameters = named(self.parts)

    def outputs(self, x: Ragged) -> ndarray:
        """(N, outputs), for each step (M, outputs)."""
        y, _ = self.encoder(x)
        return self.head(y if self.each_step else Last(self.encoder, x).gather(y))

    def loss(self, batch: Examples) -> tuple[float, float]:
        """Return the mean loss, and the weight it stands for."""
        targets, weights = self._targets(batch)
        loss, _ = self._loss(self.outputs(batch.x), targets, weights)
        return loss, float(weights.sum())

    def gradients(self, batch: Examples, seed: int) -> tuple[float, float, Gradients]:
        """Return loss, its weight and gradients while training."""
        of_layer, of_head = seeds(seed, 2)
        y, tape = self.encoder.forward(batch.x, None, of_layer)
        last = None if self.each_step else Last(self.encoder, batch.x)
        outputs, head_tape = self.head.forward(y if last is None else last.gather(y), of_head)
        targets, weights = self._targets(batch)
        loss, doutputs = self._loss(outputs, targets, weights)
        gradients, dfeatures = self.head.backward(head_tape, doutputs)
        dy = dfeatures if last is None else last.scatter(dfeatures, y)
        of_encoder, _ = self.encoder.backward(tape, dy)
        return loss, float(weights.sum()), {**gradients, **of_encoder}

    def _targets(self, batch: Examples) -> tuple[ndarray, ndarray]:
        """Targets and weights, entry by entry of the outputs."""
        if self.each_step:
            return batch.y.values, batch.weights.values
        return batch.y, batch.weights
