"""Many to one: a class for each sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ..errors import ArgumentError
from ..training import softmax_cross_entropy
from . import _inputs, _labels
from ._base import SequenceModel
from ._networks import Examples, Head, Reader, seeds


@dataclass(kw_only=True, repr=False, eq=False)
class SequenceClassifier(ClassifierMixin, SequenceModel):
    """Tell the class of a sequence: sentiment, speaker, digit.

    A softmax over what the recurrent layer has come to at the end of the sequence (of both ends,
    under `bidirectional`), trained on cross-entropy. y is one label per sequence, (N,).

    Parameters
    ----------
    class_weight : dict, "balanced" or None, default None
        How much each class counts in the loss, by label; "balanced" for all classes alike, however
        often they occur. It multiplies `sample_weight`.
    **others
        Those of `SequenceModel`.

    Attributes
    ----------
    classes_ : (C,) array
        The labels, sorted.

    Examples
    --------
    >>> from rnnfast.models import SequenceClassifier
    >>> model = SequenceClassifier(input="tokens", max_epochs=20, random_state=0)
    >>> model.fit(["a fine day", "a fine film", "a bad film"], ["good", "good", "bad"]).predict(
    ...     ["a bad day"]
    ... )
    array(['bad'], dtype='<U4')
    """

    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None

    _fitted: ClassVar[tuple[str, ...]] = ("classes_",)

    def partial_fit(  # type: ignore[override]
        self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Go through the data once, from the parameters there are.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : (C,) array, optional
            All labels that will come; read by the first call. Those in y if omitted.
        """
        if isinstance(self.class_weight, str):
            raise ArgumentError(
                f'{self._who}: class_weight is "balanced" in partial_fit, which does not see how '
                "often each class will come; expected a dict or None."
            )
        again = self.__sklearn_is_fitted__()
        return self._learn(X, y, sample_weight, again, 1, False, classes=classes)

    def _examples(
        self, X: Any, y: Any, sample_weight: Any, learn: bool, classes: Any = None
    ) -> Examples:
        _inputs.targets_given(self._who, y, "one label for each sequence")
        x = self._read_rows(X, learn)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        _inputs.same_number(self._who, len(x), len(y))
        weights = _inputs.row_weights(self._who, sample_weight, len(x))
        if learn:
            self.classes_ = np.unique(y if classes is None else classes)
        places = _labels.encode(self._who, y, self.classes_)
        weights *= _labels.weights(self._who, self.class_weight, self.classes_, places)[places]
        return Examples(x, places, weights)

    def _make(self, seed: int) -> Reader:
        first, second = seeds(seed, 2)
        encoder = self._encoder(first)
        head = Head(encoder.width, len(self.classes_), self._shape(), second)
        return Reader(encoder, head, softmax_cross_entropy, each_step=False)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (N, C) float64, in the order of `classes_`."""
        check_is_fitted(self)
        return _labels.softmax(self._outputs(self._read_rows(X)))

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest label of each sequence, (N,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]
