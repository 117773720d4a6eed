"""What models that write sequences share: their targets, and how they write."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .. import _values
from ..errors import ArgumentError
from . import _inputs
from ._base import SequenceModel
from ._decoding import Pick, beam, greedy, one_by_one, sampler
from ._networks import Examples
from ._ragged import Ragged
from ._writing import Pen, log_softmax, shifted
from .vocabulary import BEGIN, END, TOKENIZERS, Vocabulary


@dataclass(kw_only=True, repr=False, eq=False)
class WritingModel(SequenceModel):
    """The parameters of every model that writes.

    Parameters
    ----------
    strategy : {"greedy", "sample", "beam"}, default "greedy"
        How `predict` chooses tokens: the likeliest at each step; at random; or the likeliest
        sequence that a beam search finds.
    temperature : float, default 1.0
        Of "sample": below 1 bolder, above 1 wilder.
    top_k : int or None, default None
        Of "sample": only so many of the likeliest tokens are drawn; None for all.
    beam_width : int, default 5
        Of "beam": how many beginnings are followed at once.
    max_length : int or None, default None
        Where a sequence ends at the latest; None for the longest of the first fit.
    **others
        Those of `SequenceModel`.
    """

    strategy: str = "greedy"
    temperature: float = 1.0
    top_k: int | None = None
    beam_width: int = 5
    max_length: int | None = None

    _fitted: ClassVar[tuple[str, ...]] = ("target_vocabulary_", "_as_text", "_longest")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        who = self._who
        _values.choice(who, "strategy", self.strategy, "greedy", "sample", "beam")
        if _values.bound(who, "temperature", self.temperature) is None:
            raise ArgumentError(f"{who}: temperature is None, expected a number above 0.")
        _values.at_least(who, "beam_width", self.beam_width, 1)
        for name in ("top_k", "max_length"):
            if getattr(self, name) is not None:
                _values.at_least(who, name, getattr(self, name), 1)

    # What a model adds -------------------------------------------------------------------------

    @abstractmethod
    def _conditions(self, X: Any, learn: bool = False) -> tuple[Any, list[np.ndarray]]:
        """Check X; return what the network takes as x, and what is written before each y."""

    @property
    def _target_tokenizer(self) -> str:
        """What cuts a text of y into tokens."""
        return self.tokenizer

    @abstractmethod
    def _note_target(self, X: Any, rows: list[Any]) -> Vocabulary:
        """Make the vocabulary of y."""

    # y -----------------------------------------------------------------------------------------

    def _examples(self, X: Any, y: Any, sample_weight: Any, learn: bool) -> Examples:
        _inputs.targets_given(self._who, y, "a sequence of tokens for each entry of X")
        targets = _inputs.token_rows(self._who, y, self._target_tokenizer, "y")
        if learn:
            self._as_text = isinstance(next(iter(y)), str)
            self._longest = max(1, *(len(row) for row in targets))
            self.target_vocabulary_ = self._note_target(X, targets)
        x, before = self._conditions(X, learn)
        _inputs.same_number(self._who, len(before), len(targets))
        weights = _inputs.row_weights(self._who, sample_weight, len(targets))
        rows = [
            np.concatenate([[BEGIN], prompt, self.target_vocabulary_.encode(target), [END]])
            for prompt, target in zip(before, targets, strict=True)
        ]
        written = Ragged.of(rows, np.empty(0, np.int64))
        # What stands before y is read, and not to be learned.
        steps = [
            weight * (np.arange(len(row) - 1) >= len(prompt))
            for weight, row, prompt in zip(weights, rows, before, strict=True)
        ]
        return Examples(x, written, Ragged.of(steps, np.empty(0)))

    def log_proba(self, X: Any, y: Any) -> np.ndarray:
        """Return the log-probability of each sequence of y, its end included: (N,) float64."""
        sums, _ = self._log_proba(X, y)
        return sums

    def _log_proba(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return log-probabilities, and of how many tokens each."""
        check_is_fitted(self)
        examples = self._examples(X, y, None, learn=False)
        sums = []
        for rows in self._slices(len(examples.y)):
            batch = examples.take(rows)
            log_p = log_softmax(self.network_.outputs(batch.x, batch.y))
            targets = shifted(batch.y)[1]
            of_targets = log_p[np.arange(len(targets)), targets] * batch.weights.values
            sums.append(np.add.reduceat(of_targets, batch.weights.offsets[:-1]))
        counts = np.add.reduceat(examples.weights.values, examples.weights.offsets[:-1])
        return np.concatenate(sums), counts

    def predict(self, X: Any) -> list[Any]:
        """Write a sequence for each entry of X, by `strategy`.

        Returns
        -------
        list of str, or of lists of tokens
            As y was in the first fit. A text of words has a space between any two tokens.
        """
        check_is_fitted(self)
        self._check_parameters()
        x, before = self._conditions(X)
        N = len(before)
        begin = Ragged.of(
            [np.concatenate([[BEGIN], prompt]) for prompt in before], np.empty(0, np.int64)
        )
        length = self._longest if self.max_length is None else self.max_length
        uniforms = None
        if self.strategy == "sample":  # by row, so that a batch's size changes nothing
            seed = check_random_state(self.random_state).randint(2**31 - 1)
            uniforms = np.random.default_rng(seed).random((N, length))
        pen, written = Pen(self.network_.writer), []
        for rows in self._slices(N):
            features, starts = self.network_.features(x[rows]), begin[rows]
            if self.strategy == "beam":
                written += beam(pen, features, starts, length, self.beam_width)
                continue
            pick: Pick = greedy
            if uniforms is not None:
                pick = sampler(self.temperature, self.top_k, uniforms[rows])
            written += one_by_one(pen, features, starts, length, pick)
        return [self._text(row) for row in written]

    def _text(self, row: np.ndarray) -> Any:
        tokens = self.target_vocabulary_.decode(row)
        if not self._as_text:
            return tokens
        return TOKENIZERS[self._target_tokenizer].between.join(tokens)
