"""A character-level language model: an rnnfast layer on indices, a linear output, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import GRU, LSTM, RNN, IndexedRows, initializers
from ..errors import ArgumentError
from ..training import Linear, softmax_cross_entropy

_MAKERS = {
    "rnn": lambda *sizes, **options: RNN(*sizes, nonlinearity="tanh", **options),
    "relu-rnn": lambda *sizes, **options: RNN(*sizes, nonlinearity="relu", **options),
    "lstm": LSTM,
    "gru": GRU,
}
CELLS = tuple(_MAKERS)
"""What ``--cell`` may be."""


class CharacterModel:
    """Predicts the next character from all those before it.

    Parameters
    ----------
    size : int
        V, of the vocabulary.
    cell : {"rnn", "relu-rnn", "lstm", "gru"}
    hidden, layers : int
        H and L.
    dropout : float
        Between layers and before the output (Zaremba et al. 2014, arXiv:1409.2329).
    seed : int
        Of the initial values.
    device : str
        As the layers'.

    Attributes
    ----------
    parameters : dict
        All arrays, under PyTorch's names: ``rnn.weight_ih_l0``, ..., ``output.weight``,
        ``output.bias``.
    """

    def __init__(
        self,
        size: int,
        cell: str = "lstm",
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.0,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if cell not in _MAKERS:
            raise ArgumentError(f"rnnfast: cell is {cell!r}, expected one of {', '.join(CELLS)}.")
        if not 0 <= dropout < 1:
            raise ArgumentError(f"rnnfast: dropout is {dropout}, expected 0 <= dropout < 1.")
        self.dropout = dropout
        between = dropout if layers > 1 else 0.0
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(4)]
        self.rnn = _MAKERS[cell](
            size, hidden, layers, dropout=between, seed=seeds[0], device=device
        )
        self.output = Linear(hidden, size, seed=seeds[1], device=device)
        initializers.orthogonal_recurrent(self.rnn, seeds[2])
        if cell == "lstm":
            initializers.forget_bias(self.rnn)
        # An index input picks one column, where a dense one adds H of them: under the default
        # U(-1/sqrt(H), 1/sqrt(H)) a character would hardly be heard. This is the embedding N(0, 1)
        # that others begin with.
        columns = self.rnn.parameters["weight_ih_l0"]
        columns[...] = np.random.default_rng(seeds[3]).standard_normal(columns.shape)
        self.parameters: dict[str, np.ndarray] = {
            **{f"rnn.{name}": array for name, array in self.rnn.parameters.items()},
            **{f"output.{name}": array for name, array in self.output.parameters.items()},
        }

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take parameters under the names of `parameters` from a dictionary that may hold more."""
        for part, layer in (("rnn.", self.rnn), ("output.", self.output)):
            own = {k.removeprefix(part): a for k, a in arrays.items() if k.startswith(part)}
            layer.load_state_dict(own)

    def gradients(
        self, x: np.ndarray, targets: np.ndarray, state: Any, seed: tuple[int, int]
    ) -> tuple[float, dict[str, np.ndarray | IndexedRows], Any]:
        """One window of truncated back-propagation through time.

        Parameters
        ----------
        x, targets : (T, B) int
            Characters, and those after them.
        state : of the layer, or None
            Carried from the window before; no gradient flows into it.
        seed : (int, int)
            Of the dropout masks: the run's seed and the step.

        Returns
        -------
        loss : float
            Mean cross-entropy in nats.
        gradients : dict by the names of `parameters`
        state : of the layer
            For the next window.
        """
        masks = np.random.SeedSequence(seed)
        y, state, tape = self.rnn.forward(
            x, state, training=True, seed=int(masks.generate_state(1)[0])
        )
        keep = self._output_mask(y, masks)
        logits, output_tape = self.output.forward(y if keep is None else y * keep)
        loss, dlogits = softmax_cross_entropy(logits, targets)
        of_output = self.output.backward(output_tape, dlogits)
        dy = of_output.x
        if keep is not None:
            dy *= keep
        of_rnn = self.rnn.backward(tape, dy, need_dx=False)
        gradients = {
            **{f"rnn.{name}": array for name, array in of_rnn.parameters.items()},
            **{f"output.{name}": array for name, array in of_output.parameters.items()},
        }
        return loss, gradients, state

    def _output_mask(self, y: np.ndarray, seed: np.random.SeedSequence) -> np.ndarray | None:
        if self.dropout == 0:
            return None
        kept = (
            np.random.Generator(np.random.SFC64(seed)).random(y.shape, np.float32) >= self.dropout
        )
        return kept * y.dtype.type(1 / (1 - self.dropout))

    def bits_per_character(
        self,
        tokens: np.ndarray,
        start: int,
        stop: int | None = None,
        rows: int = 32,
        warm: int = 64,
    ) -> float:
        """Return the mean of -log2 P over ``tokens[start:stop]``, each character predicted once.

        The text is cut into `rows` pieces that run side by side. Each begins `warm` characters
        early with a zero state, so that its first counted character is predicted from a warm one.
        """
        stop = len(tokens) if stop is None else stop
        warm = min(warm, start - 1)
        piece = -(-(stop - start) // rows)
        places = start - warm + np.arange(piece + warm)[:, None] + np.arange(rows) * piece
        counted = (places < stop) & (np.arange(piece + warm) >= warm)[:, None]
        places = np.minimum(places, stop - 1)
        run, state, nats = self.rnn.prepare(), None, 0.0
        for first in range(0, len(places), 256):  # in chunks: all logits at once would be large
            part = slice(first, first + 256)
            y, state = run(tokens[places[part] - 1], state)
            nats += float(_losses(self.output(y), tokens[places[part]])[counted[part]].sum())
        return nats / (stop - start) / math.log(2)

    def generate(
        self, prompt: np.ndarray, temperature: float, rng: np.random.Generator, never: int
    ) -> Iterator[int]:
        """Draw characters without end, one by one, after those of `prompt`.

        Parameters
        ----------
        prompt : (N,) int
            At least one character.
        temperature : float
            Divides the logits: below 1 bolder, 0 always the likeliest.
        rng : numpy.random.Generator
        never : int
            An index that is never drawn.
        """
        run, state, x = self.rnn.prepare(), None, prompt[:, None]
        while True:
            y, state = run(x, state)
            logits = self.output(y[-1])[0].astype(np.float64)
            logits[never] = -np.inf
            if temperature == 0:
                token = int(logits.argmax())
            else:
                weights = np.exp((logits - logits.max()) / temperature)
                edges = np.cumsum(weights)
                token = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
            yield token
            x = np.array([[token]])


def _losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of every position in nats, in the shape of `targets`."""
    with np.errstate(over="ignore", invalid="ignore"):  # a model that has diverged reports NaN
        shifted = logits - logits.max(axis=-1, keepdims=True)
        right = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
        return np.log(np.exp(shifted).sum(axis=-1, dtype=np.float64)) - right
