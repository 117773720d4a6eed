"""Networks that write: from features, or from rows that another network reads, to tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from ..layers import State
from ..training import Embedding, Linear, softmax_cross_entropy
from ._networks import (
    Encoder,
    Examples,
    Gradients,
    Head,
    Last,
    Shape,
    named,
    prefixed,
    seeds,
)
from ._ragged import Ragged
from .vocabulary import BEGIN, PADDING, UNKNOWN

_NEVER = [PADDING, UNKNOWN, BEGIN]
"""Tokens that are read, perhaps, but never written."""


class Bridge:
    """Makes an initial state of features: ``tanh(linear(features))`` for every layer and state.

    Parameters
    ----------
    encoder : Encoder
        Whose state it is.
    width : int
        Length of the features, or how many classes there are.
    indices : bool
        Whether features are indices (N,) instead of vectors (N, width).
    """

    def __init__(self, encoder: Encoder, width: int, indices: bool, seed: int) -> None:
        layer = encoder.layer
        self._sizes = (layer._stack.spec.S, layer.num_layers, layer.hidden_size)
        total = int(np.prod(self._sizes))
        self.linear: Any
        if indices:
            self.linear = Embedding(width, total, dtype=layer.dtype, seed=seed)
        else:
            self.linear = Linear(width, total, dtype=layer.dtype, device=layer.device, seed=seed)
        self.parts = {"bridge": self.linear}

    def forward(self, features: ndarray) -> tuple[State, tuple[Any, ndarray]]:
        """Return the state of N rows, in the layer's form, and a tape."""
        flat, tape = self.linear.forward(features)
        flat = np.tanh(flat)
        states = flat.reshape(len(flat), *self._sizes).transpose(1, 2, 0, 3)
        parts = tuple(np.ascontiguousarray(state) for state in states)
        return parts[0] if len(parts) == 1 else parts, (tape, flat)

    def backward(
        self, tape: tuple[Any, ndarray], dstate: State
    ) -> tuple[Gradients, ndarray | None]:
        """Return the gradients of the parameters, and of the features where they are vectors."""
        linear_tape, flat = tape
        parts = np.stack(dstate if isinstance(dstate, tuple) else (dstate,))
        dflat = np.ascontiguousarray(parts.transpose(2, 0, 1, 3)).reshape(flat.shape)
        back = self.linear.backward(linear_tape, dflat * (1 - flat * flat))
        return prefixed("bridge", back.parameters), getattr(back, "x", None)


class Writer:
    """Writes rows of tokens: each token from those before it, the first from features.

    Batches have features as x, and as y whole rows of tokens, ``<BEGIN>`` and ``<END>`` included;
    weights are rows too, one entry less each, for every token that is to be predicted. While
    training it reads the right tokens, not those that it would have written: teacher forcing
    (Williams and Zipser 1989).

    Parameters
    ----------
    encoder : Encoder
        Reads the tokens written so far.
    head : Head
        Logits of the next one.
    bridge : Bridge or None
        Makes the initial state of features; None for a zero state and no features.
    """

    def __init__(self, encoder: Encoder, head: Head, bridge: Bridge | None) -> None:
        self.encoder, self.head, self.bridge = encoder, head, bridge
        self.parts = {**encoder.parts, **head.parts, **({} if bridge is None else bridge.parts)}
        self.parameters = named(self.parts)

    @classmethod
    def of(
        cls,
        shape: Shape,
        vocabulary_size: int,
        embedding_size: int | None,
        features: int | None,
        indices: bool,
        seed: int,
    ) -> Writer:
        """Make one of sizes; see `Encoder` and `Bridge`, `features` None being no bridge."""
        first, second, third = seeds(seed, 3)
        encoder = Encoder(shape, vocabulary_size, True, embedding_size, first)
        head = Head(encoder.width, vocabulary_size, shape, second)
        bridge = None if features is None else Bridge(encoder, features, indices, third)
        return cls(encoder, head, bridge)

    def start(self, features: Any) -> tuple[State | None, Any]:
        """Return the initial state, and a tape."""
        return (None, None) if self.bridge is None else self.bridge.forward(features)

    def outputs(self, features: Any, rows: Ragged) -> ndarray:
        """Return the logits of every next token, (M, V)."""
        inputs, _ = shifted(rows)
        y, _ = self.encoder(inputs, self.start(features)[0])
        return self.head(y)

    def loss(self, batch: Examples) -> tuple[float, float]:
        """Return the mean loss, and the weight it stands for."""
        logits = self.outputs(batch.x, batch.y)
        weights = batch.weights.values
        return softmax_cross_entropy(logits, shifted(batch.y)[1], weights)[0], float(weights.sum())

    def gradients(self, batch: Examples, seed: int) -> tuple[float, float, Gradients]:
        """Return loss, its weight and gradients while training."""
        return self.gradients_to_features(batch, seed)[:3]

    def gradients_to_features(
        self, batch: Examples, seed: int
    ) -> tuple[float, float, Gradients, Any]:
        """Return the same, and the gradient of the features."""
        of_layer, of_head = seeds(seed, 2)
        inputs, targets = shifted(batch.y)
        state, start_tape = self.start(batch.x)
        y, tape = self.encoder.forward(inputs, state, of_layer)
        logits, head_tape = self.head.forward(y, of_head)
        weights = batch.weights.values
        loss, dlogits = softmax_cross_entropy(logits, targets, weights)
        gradients, dy = self.head.backward(head_tape, dlogits)
        of_encoder, dstate = self.encoder.backward(tape, dy)
        gradients |= of_encoder
        dfeatures = None
        if self.bridge is not None:
            of_bridge, dfeatures = self.bridge.backward(start_tape, dstate)
            gradients |= of_bridge
        return loss, float(weights.sum()), gradients, dfeatures

    def features(self, x: Any) -> Any:
        """Return what the state is made of: x itself."""
        return x

    @property
    def writer(self) -> Writer:
        """What writes."""
        return self


class Translator:
    """An `Encoder` reads a row, a `Writer` writes what is to come of it.

    Sutskever, Vinyals and Le 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078.
    """

    def __init__(self, encoder: Encoder, writer: Writer) -> None:
        self.encoder, self.writer = encoder, writer
        self.parts = {**prefixed("encoder", encoder.parts), **prefixed("writer", writer.parts)}
        self.parameters = named(self.parts)

    def features(self, x: Ragged) -> ndarray:
        """Return what the state is made of: what each row has come to, (N, D*H)."""
        y, _ = self.encoder(x)
        return Last(self.encoder, x).gather(y)

    def outputs(self, x: Ragged, rows: Ragged) -> ndarray:
        """Return the logits of every next token, (M, V)."""
        return self.writer.outputs(self.features(x), rows)

    def loss(self, batch: Examples) -> tuple[float, float]:
        """Return the mean loss, and the weight it stands for."""
        return self.writer.loss(batch._replace(x=self.features(batch.x)))

    def gradients(self, batch: Examples, seed: int) -> tuple[float, float, Gradients]:
        """Return loss, its weight and gradients while training."""
        of_encoder, of_writer = seeds(seed, 2)
        y, tape = self.encoder.forward(batch.x, None, of_encoder)
        last = Last(self.encoder, batch.x)
        loss, weight, gradients, dfeatures = self.writer.gradients_to_features(
            batch._replace(x=last.gather(y)), of_writer
        )
        back, _ = self.encoder.backward(tape, last.scatter(dfeatures, y))
        return loss, weight, {**prefixed("writer", gradients), **prefixed("encoder", back)}


class Pen:
    """A `Writer` frozen to write token by token."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._layer = writer, writer.encoder.layer.prepare()

    def begin(self, features: Any, rows: Ragged) -> tuple[ndarray, State]:
        """Read rows of tokens, ``<BEGIN>`` at least; return what `step` returns."""
        state, _ = self._writer.start(features)
        y, state = self._layer(self._read(rows.values), state, cu_seqlens=rows.offsets)
        return self._next(np.ascontiguousarray(y[rows.offsets[1:] - 1])), state

    def step(self, tokens: ndarray, state: State) -> tuple[ndarray, State]:
        """Read one token of each row.

        Parameters
        ----------
        tokens : (N,) int64
        state : in the layer's form

        Returns
        -------
        log_probabilities : (N, V) float64
            Of the token after it; -inf for those that are never written.
        state : in the layer's form
        """
        y, state = self._layer(self._read(tokens[None]), state)
        return self._next(y[0]), state

    def _read(self, tokens: ndarray) -> ndarray:
        embedding = self._writer.encoder.embedding
        return tokens if embedding is None else embedding(tokens)

    def _next(self, y: ndarray) -> ndarray:
        result = log_softmax(self._writer.head(y))
        result[:, _NEVER] = -np.inf
        return result


def shifted(rows: Ragged) -> tuple[Ragged, ndarray]:
    """Return rows without their last entries, and (M,) without their first ones."""
    inputs = np.delete(rows.values, rows.offsets[1:] - 1)
    starts = rows.offsets - np.arange(len(rows.offsets))
    return Ragged(inputs, starts), np.delete(rows.values, rows.offsets[:-1])


def log_softmax(logits: ndarray) -> ndarray:
    """Return log-probabilities over the last axis, float64."""
    shifted_logits = logits.astype(np.float64)
    shifted_logits -= shifted_logits.max(axis=-1, keepdims=True)
    return shifted_logits - np.log(np.exp(shifted_logits).sum(axis=-1, keepdims=True))
