"""Time series: what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .. import _values
from ..errors import ArgumentError, ShapeError
from ..training import squared_error
from . import _inputs
from ._base import SequenceModel
from ._networks import Examples, Head, Reader, seeds
from ._ragged import Ragged


@dataclass(kw_only=True, repr=False, eq=False)
class Forecaster(SequenceModel):
    """Forecast time series, one or many steps ahead, of one or several variables.

    From the last `window` values the network tells by how much each of the next `horizon` values
    will differ from the last one; zero is the naive forecast, from which it sets out. It learns
    from every window of the series there is, on the squared error.

    X is a series (T,), or several: an array (N, T) of one variable each, (N, T, F) of F variables,
    or a list of (T_k,) or (T_k, F). One series of several variables is ``[series]``. There is no y,
    for the series is its own.

    Parameters
    ----------
    horizon : int, default 1
        Steps that are forecast at once. Farther ones are made by reading the forecast as if it had
        come true.
    window : int, default 24
        Values that a forecast is made from. Choose it longer than the longest cycle.
    **others
        Those of `SequenceModel`, without those of tokens. `early_stopping` holds out the last
        windows of every series, which lie behind those that train.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.models import Forecaster
    >>> wave = np.sin(np.arange(120) / 3)
    >>> model = Forecaster(horizon=3, max_epochs=60, random_state=0).fit(wave[:90])
    >>> bool(np.abs(model.predict(wave[:90]) - wave[90:93]).max() < 0.1)
    True
    """

    horizon: int = 1
    window: int = 24

    _structure: ClassVar[tuple[str, ...]] = (*SequenceModel._structure, "horizon")
    _inputs_known: ClassVar[tuple[str, ...]] = ("numbers",)
    _fitted: ClassVar[tuple[str, ...]] = ("_y_scale",)

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        """Learn from series.

        Parameters
        ----------
        X : series
            See the class; each longer than `horizon`. One shorter than ``window + horizon`` gives a
            single, shorter window.
        y : None
            Not used; there for the tools of scikit-learn.
        sample_weight : (N,) float, optional
            How much each series counts in the loss.

        Returns
        -------
        self

        Raises
        ------
        ArgumentError, ShapeError, DTypeError
            Name the parameter or array, what came and what was expected.
        FloatingPointError
            If the training diverges.
        """
        return super().fit(X, y, sample_weight)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _values.at_least(self._who, "horizon", self.horizon, 1)
        _values.at_least(self._who, "window", self.window, 1)

    def _examples(self, X: Any, y: Any, sample_weight: Any, learn: bool) -> Examples:
        if y is not None:
            raise ArgumentError(f"{self._who}: y is given, expected None: X is its own target.")
        series = self._read_rows(_several(X), learn)
        weights = _inputs.row_weights(self._who, sample_weight, len(series))
        windows, targets, owner = self._windows(series)
        if learn:
            # One unit for all steps ahead, so that near ones do not weigh more than they vary.
            changes = targets.reshape(-1, self.n_features_in_)
            self._y_scale = np.sqrt(np.square(changes, dtype=np.float64).mean(0))
            self._y_scale[self._y_scale == 0] = 1.0
        scaled = (targets / self._y_scale).reshape(len(targets), -1)
        return Examples(windows, scaled.astype(self._dtype), weights[owner], owner)

    def _windows(self, series: Ragged) -> tuple[Ragged, np.ndarray, np.ndarray]:
        """Cut series into all windows and the changes that follow each.

        Returns
        -------
        windows : Ragged of n rows
        changes : (n, horizon, F)
            Against the last value of the window.
        owner : (n,) int
            The series that each came from.
        """
        horizon = self._made["horizon"]
        parts, changes, owner = [], [], []
        for k, row in enumerate(series):
            if len(row) <= horizon:
                raise ShapeError(
                    f"{self._who}: X[{k}] has {len(row)} steps, expected more than {horizon}; "
                    f"horizon={horizon}."
                )
            window = min(self.window, len(row) - horizon)
            for start in range(len(row) - horizon - window + 1):
                end = start + window
                parts.append(row[start:end])
                changes.append(row[end : end + horizon] - row[end - 1])
                owner.append(k)
        return Ragged.of(parts, series.values[:0]), np.stack(changes), np.array(owner)

    def _hold_out(self, examples: Examples) -> tuple[Examples, Examples]:
        """Hold out the last windows of each series: to draw them at random would show the future.

        Windows that overlap theirs stay, but none of their targets.
        """
        horizon = self._made["horizon"]
        train, validation = [], []
        for owned in np.split(
            np.arange(len(examples.x)), np.flatnonzero(np.diff(examples.owner)) + 1
        ):
            count = max(1, round(self.validation_fraction * len(owned)))
            before = len(owned) - count - (horizon - 1)
            if before < 1:
                train.append(owned)  # too short to be divided
            else:
                train.append(owned[:before])
                validation.append(owned[-count:])
        if not validation:
            raise ShapeError(
                f"{self._who}: all series are too short to hold out their ends under "
                f"early_stopping=True; expected one of more than window + 2 * horizon = "
                f"{self.window + 2 * horizon} steps."
            )
        return examples.take(np.concatenate(train)), examples.take(np.concatenate(validation))

    def _make(self, seed: int) -> Reader:
        horizon = self._made["horizon"]
        first, second = seeds(seed, 2)
        encoder = self._encoder(first)
        head = Head(encoder.width, horizon * self.n_features_in_, self._shape(), second)
        for array in head.linear.parameters.values():
            array[...] = 0  # the naive forecast
        return Reader(encoder, head, squared_error, each_step=False)

    def predict(self, X: Any, steps: int | None = None) -> np.ndarray:
        """Forecast what follows each series.

        Parameters
        ----------
        X : series
            In any of the forms of `fit`; at least one step each, of which the last `window` are
            read.
        steps : int, optional
            How far to forecast; `horizon` if omitted.

        Returns
        -------
        (steps,), (N, steps) or (N, steps, F) float64
            As X: for one series, several of one variable, or several of F.
        """
        check_is_fitted(self)
        horizon = self._made["horizon"]
        steps = horizon if steps is None else _values.at_least(self._who, "steps", steps, 1)
        X = _inputs.unframed(X)
        series = list(self._read_rows(_several(X)))
        if not all(len(row) for row in series):
            raise ShapeError(f"{self._who}: X has a series of no step, expected at least one.")
        N, F = len(series), self.n_features_in_
        ahead = np.empty((N, 0, F), self._dtype)
        while ahead.shape[1] < steps:
            ends = [
                np.concatenate([row[-self.window :], more])[-self.window :]
                for row, more in zip(series, ahead, strict=True)
            ]
            changes = self._outputs(Ragged.of(ends, series[0][:0])).reshape(N, horizon, F)
            last = np.stack([end[-1] for end in ends])[:, None]
            ahead = np.concatenate([ahead, (last + changes * self._y_scale).astype(self._dtype)], 1)
        result = ahead[:, :steps] * self._x_scale + self._x_mean
        if _is_one(X):
            return result[0, :, 0]
        return result[..., 0] if np.ndim(X[0]) == 1 else result

    def score(self, X: Any, y: None = None, sample_weight: Any = None) -> float:
        """Return how much better than the naive forecast all windows of X are forecast.

        ``1 - error / naive error``, squared and in units of each variable's standard deviation: 1
        is perfect, 0 no better than repeating the last value.
        """
        check_is_fitted(self)
        horizon = self._made["horizon"]
        examples = self._examples(X, y, sample_weight, learn=False)
        left = np.square(self._outputs(examples.x) - examples.y, dtype=np.float64)
        naive = np.square(examples.y, dtype=np.float64)
        weights = examples.weights
        # Equal units for all variables, instead of those that they are trained in.
        units = np.tile(np.square(self._y_scale), horizon)
        return float(1 - (weights @ left @ units) / (weights @ naive @ units))


def _is_one(X: Any) -> bool:
    """Whether X is a single series of one variable."""
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and np.ndim(X[0]) == 0 and not isinstance(X[0], str)
    return np.ndim(X) == 1 and np.asarray(X).dtype.kind in "biuf"


def _several(X: Any) -> Any:
    return np.asarray(X)[None] if _is_one(X) else X
