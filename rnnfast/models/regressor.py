"""Many to one: numbers for each sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from ..errors import ShapeError
from ..training import squared_error
from . import _inputs
from ._base import SequenceModel, _moments
from ._networks import Examples, Head, Reader, seeds


@dataclass(kw_only=True, repr=False, eq=False)
class SequenceRegressor(RegressorMixin, SequenceModel):
    """Tell a number, or several, of a sequence.

    A linear function of what the recurrent layer has come to at the end of the sequence (of both
    ends, under `bidirectional`), trained on the squared error. y is one number per sequence, (N,),
    or several, (N, M).

    Parameters
    ----------
    **parameters
        Those of `SequenceModel`.
    """

    _fitted: ClassVar[tuple[str, ...]] = ("_y_mean", "_y_scale", "_y_shape")

    def _examples(self, X: Any, y: Any, sample_weight: Any, learn: bool) -> Examples:
        _inputs.targets_given(self._who, y, "numbers for each sequence")
        x = self._read_rows(X, learn)
        y = check_array(y, dtype=np.float64, ensure_2d=False, estimator=self._who, input_name="y")
        _inputs.same_number(self._who, len(x), len(y))
        weights = _inputs.row_weights(self._who, sample_weight, len(x))
        table = y.reshape(len(y), -1)
        if learn:
            self._y_shape = list(y.shape[1:])
            self._y_mean, self._y_scale = _moments(table, self.standardize)
        elif list(y.shape[1:]) != self._y_shape:
            raise ShapeError(
                f"{self._who}: y has shape {y.shape}, expected (N, *{tuple(self._y_shape)}) from "
                "the first fit."
            )
        return Examples(x, ((table - self._y_mean) / self._y_scale).astype(self._dtype), weights)

    def _make(self, seed: int) -> Reader:
        first, second = seeds(seed, 2)
        encoder = self._encoder(first)
        head = Head(encoder.width, len(self._y_mean), self._shape(), second)
        return Reader(encoder, head, squared_error, each_step=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X: Any) -> np.ndarray:
        """Return the numbers of each sequence, float64: (N,) or (N, M) as y was."""
        check_is_fitted(self)
        table = self._outputs(self._read_rows(X)) * self._y_scale + self._y_mean
        return table.reshape(len(table), *self._y_shape)
