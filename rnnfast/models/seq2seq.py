"""Many to many of unequal length: from one sequence to another."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _values
from . import _inputs
from ._networks import seeds
from ._target import WritingModel
from ._writing import Translator, Writer
from .vocabulary import TOKENIZERS, Vocabulary


@dataclass(kw_only=True, repr=False, eq=False)
class Seq2Seq(WritingModel):
    """Turn a sequence into another: a translation, a spelling, a caption.

    An encoder reads the whole of X, in both directions unless told otherwise; a decoder sets out
    from what it has come to and writes y token by token, until it writes the end. It is trained
    with the right tokens as its past (teacher forcing), on cross-entropy. y is a list of texts, or
    of sequences of tokens.

    Parameters
    ----------
    input, tokenizer, vocabulary, vocabulary_size
        Apply to X.
    target_tokenizer : {"words", "characters"} or None, default None
        What cuts a text of y into tokens; None for `tokenizer`. All tokens of y are learned.
    cell, hidden_size, num_layers, residual, dropout, embedding_size
        Apply to encoder and decoder alike.
    bidirectional : bool, default True
        Whether the encoder reads from the end too.
    **others
        Those of `WritingModel`.

    Attributes
    ----------
    vocabulary_, target_vocabulary_ : Vocabulary
        Of X, under ``input="tokens"``, and of y.

    Examples
    --------
    >>> from rnnfast.models import Seq2Seq
    >>> model = Seq2Seq(input="tokens", target_tokenizer="characters", random_state=0)
    >>> model.fit(["three", "one plus one", "one"], ["iii", "ii", "i"]).predict(["one", "three"])
    ['i', 'iii']
    """

    bidirectional: bool = True
    target_tokenizer: str | None = None

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _values.choice(self._who, "target_tokenizer", self._target_tokenizer, *TOKENIZERS)

    @property
    def _target_tokenizer(self) -> str:
        return self.tokenizer if self.target_tokenizer is None else self.target_tokenizer

    def _note_target(self, X: Any, rows: list[Any]) -> Vocabulary:
        return Vocabulary.learn(rows)

    def _conditions(self, X: Any, learn: bool = False) -> tuple[Any, list[np.ndarray]]:
        x = self._read_rows(X, learn)
        return x, [np.empty(0, np.int64)] * len(x)

    def _make(self, seed: int) -> Translator:
        first, second = seeds(seed, 2)
        encoder = self._encoder(first)
        writer = Writer.of(
            dataclasses.replace(self._shape(), bidirectional=False),
            len(self.target_vocabulary_),
            self._made["embedding_size"],
            encoder.width,
            False,
            second,
        )
        return Translator(encoder, writer)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of sequences that `predict` writes exactly."""
        tokenizer = self._target_tokenizer
        expected = _inputs.token_rows(self._who, y, tokenizer, "y")
        written = _inputs.token_rows(self._who, self.predict(X), tokenizer, "y")
        _inputs.same_number(self._who, len(written), len(expected))
        right = [list(a) == list(b) for a, b in zip(written, expected, strict=True)]
        weights = _inputs.row_weights(self._who, sample_weight, len(right))
        return float(np.average(right, weights=weights))
