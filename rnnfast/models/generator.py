"""One to many: a sequence from a class, a vector, or its own beginning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_array

from ..errors import ArgumentError, ShapeError
from . import _inputs, _labels
from ._target import WritingModel
from ._writing import Writer
from .vocabulary import Vocabulary


@dataclass(kw_only=True, repr=False, eq=False)
class SequenceGenerator(WritingModel):
    """Write a sequence: a tune of a style, a caption of a vector, a text that begins so.

    A recurrent layer reads what it has written so far, and a softmax tells what comes next; its
    first state is made of what is given. y is a list of texts, or of sequences of tokens.

    Parameters
    ----------
    input : {"classes", "vectors", "tokens"}, default "classes"
        What X holds, one entry for each sequence of y. "classes": labels (N,). "vectors": (N, F)
        numbers. "tokens": how the sequence begins, none, one or several tokens; y is how it goes
        on. A language model has empty beginnings: ``[""] * len(y)``.
    tokenizer, vocabulary, vocabulary_size, embedding_size
        Apply to y, and to X where it holds tokens: they share a vocabulary.
    **others
        Those of `WritingModel`.

    Attributes
    ----------
    target_vocabulary_ : Vocabulary
    classes_ : (C,) array
        Under ``input="classes"``.

    Examples
    --------
    >>> from rnnfast.models import SequenceGenerator
    >>> model = SequenceGenerator(tokenizer="characters", random_state=0)
    >>> model.fit(["up", "down"], ["abcd", "dcba"]).predict(["down", "up"])
    ['dcba', 'abcd']
    """

    input: str = "classes"

    _inputs_known: ClassVar[tuple[str, ...]] = ("classes", "vectors", "tokens")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.bidirectional:
            raise ArgumentError(
                f"{self._who}: bidirectional is True, expected False: what comes later is not "
                "written yet."
            )

    def _of_x(self) -> tuple[str, ...]:
        vectors = ("n_features_in_", "_x_mean", "_x_scale")
        return {"classes": ("classes_",), "vectors": vectors, "tokens": ()}[self._made["input"]]

    def _note_target(self, X: Any, rows: list[Any]) -> Vocabulary:
        if self._made["input"] == "tokens":
            rows = [*_inputs.token_rows(self._who, X, self.tokenizer), *rows]
        return self._learn_vocabulary(rows)

    def _conditions(self, X: Any, learn: bool = False) -> tuple[Any, list[np.ndarray]]:
        nothing = np.empty(0, np.int64)
        if self._made["input"] == "tokens":
            rows = _inputs.token_rows(self._who, X, self.tokenizer)
            prompts = [self.target_vocabulary_.encode(row) for row in rows]
            return np.empty((len(rows), 0)), prompts
        if self._made["input"] == "classes":
            labels = np.asarray(X)
            if labels.ndim != 1:
                raise ShapeError(
                    f"{self._who}: X has shape {labels.shape}, expected (N,): a label for each "
                    "sequence."
                )
            if learn:
                self.classes_ = np.unique(labels)
            x = _labels.encode(self._who, labels, self.classes_, "X")
            return x, [nothing] * len(x)
        table = check_array(X, dtype=np.float64, estimator=self._who, input_name="X")
        x = self._scaled(table, learn)
        return x, [nothing] * len(x)

    def _make(self, seed: int) -> Writer:
        features = None
        if self._made["input"] != "tokens":
            classes = self._made["input"] == "classes"
            features = len(self.classes_) if classes else self.n_features_in_
        return Writer.of(
            self._shape(),
            len(self.target_vocabulary_),
            self._made["embedding_size"],
            features,
            self._made["input"] == "classes",
            seed,
        )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean log-probability of a token, ends included; higher is better.

        ``exp(-score)`` is the perplexity.
        """
        sums, counts = self._log_proba(X, y)
        weights = _inputs.row_weights(self._who, sample_weight, len(sums))
        return float(weights @ sums / (weights @ counts))
