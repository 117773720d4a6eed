"""Many to many of equal length: a label for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..errors import ArgumentError, ShapeError
from ..training import softmax_cross_entropy
from . import _inputs, _labels
from ._base import SequenceModel
from ._networks import Examples, Head, Reader, seeds
from ._ragged import Ragged


@dataclass(kw_only=True, repr=False, eq=False)
class SequenceTagger(SequenceModel):
    """Label every step of a sequence: names in a sentence, states of a machine.

    A softmax at each step over what the recurrent layer knows there, trained on cross-entropy. It
    reads in both directions unless told otherwise, so that a label may depend on what comes later;
    with ``bidirectional=False`` it depends on the steps so far alone.

    y is a list with one sequence of labels for each sequence of X, of its length; or an array
    (N, T).

    Parameters
    ----------
    class_weight : dict, "balanced" or None, default None
        How much the steps of each class count in the loss, by label. It multiplies
        `sample_weight`.
    **others
        Those of `SequenceModel`; `bidirectional` is True by default.

    Attributes
    ----------
    classes_ : (C,) array
        The labels, sorted.

    Examples
    --------
    >>> from rnnfast.models import SequenceTagger
    >>> model = SequenceTagger(input="tokens", tokenizer="characters", random_state=0)
    >>> model = model.fit(["aAb", "Aab", "bBA"], ["lUl", "Ull", "lUU"])
    >>> [tags.tolist() for tags in model.predict(["Bab"])]
    [['U', 'l', 'l']]
    """

    bidirectional: bool = True
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None

    _fitted: ClassVar[tuple[str, ...]] = ("classes_",)

    def _examples(self, X: Any, y: Any, sample_weight: Any, learn: bool) -> Examples:
        _inputs.targets_given(self._who, y, "a label for each step of each sequence")
        x = self._read_rows(X, learn)
        tags = self._tags(y, x)
        weights = _inputs.row_weights(self._who, sample_weight, len(x))
        if learn:
            self.classes_ = np.unique(tags)
        places = _labels.encode(self._who, tags, self.classes_)
        of_class = _labels.weights(self._who, self.class_weight, self.classes_, places)
        steps = np.repeat(weights, x.lengths) * of_class[places]
        return Examples(x, x.with_values(places), x.with_values(steps))

    def _tags(self, y: Any, x: Ragged) -> np.ndarray:
        """Check y and return all labels, (M,), those of x's steps."""
        y = _inputs.unframed(y)
        _inputs.same_number(self._who, len(x), len(y))
        rows = [np.asarray(list(row)) for row in y]
        for k, (row, length) in enumerate(zip(rows, x.lengths, strict=True)):
            if row.shape != (length,):
                raise ShapeError(
                    f"{self._who}: y[{k}] has shape {row.shape}, expected ({length},); "
                    f"T={length} from X[{k}]."
                )
        used = [row for row in rows if len(row)]
        if not used:
            raise ArgumentError(f"{self._who}: X has no step, expected at least one to learn from.")
        return np.concatenate(used)

    def _make(self, seed: int) -> Reader:
        first, second = seeds(seed, 2)
        encoder = self._encoder(first)
        head = Head(encoder.width, len(self.classes_), self._shape(), second)
        return Reader(encoder, head, softmax_cross_entropy, each_step=True)

    def predict_proba(self, X: Any) -> list[np.ndarray] | np.ndarray:
        """Return the probability of each class at each step.

        Returns
        -------
        list of (T_k, C) float64, or (N, T, C) where X is an array of numbers
            In the order of `classes_`.
        """
        check_is_fitted(self)
        x = self._read_rows(X)
        return _like(X, x.with_values(_labels.softmax(self._outputs(x))))

    def predict(self, X: Any) -> list[np.ndarray] | np.ndarray:
        """Return the likeliest label of each step: list of (T_k,), or (N, T) where X is an array.

        Each step is decided alone.
        """
        check_is_fitted(self)
        x = self._read_rows(X)
        return _like(X, x.with_values(self.classes_[self._outputs(x).argmax(axis=1)]))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of all steps whose label is right, those of a row weighing alike."""
        check_is_fitted(self)
        x = self._read_rows(X)
        right = self.classes_[self._outputs(x).argmax(axis=1)] == self._tags(y, x)
        weights = _inputs.row_weights(self._who, sample_weight, len(x))
        return float(np.average(right, weights=np.repeat(weights, x.lengths)))


def _like(X: Any, rows: Ragged) -> list[np.ndarray] | np.ndarray:
    """Return rows as an array where X was one, else as a list."""
    if isinstance(X, Sequence) or np.ndim(X) < 2:
        return list(rows)
    return rows.values.reshape(len(rows), -1, *rows.values.shape[1:])
