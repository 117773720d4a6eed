"""What users give, checked and brought into rows."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_array

from ..errors import ArgumentError, DTypeError, ShapeError
from ._ragged import Ragged
from .vocabulary import TOKENIZERS


def number_rows(who: str, X: Any, name: str = "X") -> Ragged:
    """Check sequences of numbers.

    Parameters
    ----------
    who : str
        Who speaks in messages.
    X : (N, T, F) or (N, T) array, or sequence of (T_k, F) or (T_k,) arrays
        Without an axis of features there is one.

    Returns
    -------
    Ragged
        With float values (M, F), finite.
    """
    if getattr(X, "ndim", 0) == 1:
        X = unframed(X)
    if is_list(X):
        if len(X) == 0:
            raise ArgumentError(
                f"{who}: Found array with 0 sample(s) (shape=(0,)): {name} is empty, expected at "
                "least one sequence."
            )
        return _joined(who, [_row(who, f"{name}[{k}]", row) for k, row in enumerate(X)], name)
    array = check_array(
        X, dtype=(np.float64, np.float32), allow_nd=True, estimator=who, input_name=name
    )
    if array.ndim > 3:
        raise ShapeError(
            f"{who}: {name} has shape {array.shape}, expected (N, T, F), or (N, T) for sequences "
            "of one feature."
        )
    N, T = array.shape[:2]
    features = array.shape[2] if array.ndim == 3 else 1
    return Ragged(
        np.ascontiguousarray(array).reshape(N * T, features), np.arange(N + 1, dtype=np.int64) * T
    )


def unframed(X: Any) -> Any:
    """Return a table or column of pandas as the array it holds, anything else as it is."""
    return X.to_numpy() if hasattr(X, "to_numpy") else X


def is_list(X: Any) -> bool:
    """Whether X is a sequence of sequences, and not one array of equal ones."""
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.ndim == 1 and len(X) > 0 and np.ndim(X[0]) > 0
    return isinstance(X, (list, tuple))


def _row(who: str, name: str, row: Any) -> np.ndarray:
    if isinstance(row, str):
        raise DTypeError(
            f'{who}: {name} is a text, expected numbers (T, F); input="tokens" reads texts.'
        )
    array = np.asarray(row)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ShapeError(
            f"{who}: {name} has shape {array.shape}, expected (T, F), or (T,) for one feature. "
            "Reshape your data: a single sequence is [sequence], or sequence[None]."
        )
    return check_array(
        array,
        dtype=(np.float64, np.float32),
        ensure_min_samples=0,
        ensure_min_features=0,
        estimator=who,
        input_name=name,
    )


def _joined(who: str, rows: list[np.ndarray], name: str) -> Ragged:
    features = rows[0].shape[1]
    for k, row in enumerate(rows):
        if row.shape[1] != features:
            raise ShapeError(
                f"{who}: {name}[{k}] has {row.shape[1]} features, expected {features}; "
                f"F={features} from {name}[0]."
            )
    if features == 0:
        raise ShapeError(f"{who}: {name}[0] has shape {rows[0].shape}, expected (T, F) with F > 0.")
    return Ragged.of(rows, rows[0][:0])


def token_rows(who: str, X: Any, tokenizer: str, name: str = "X") -> list[Sequence[Hashable]]:
    """Check sequences of tokens: texts are cut by `tokenizer`, anything else is tokens already.

    Parameters
    ----------
    who : str
        Who speaks in messages.
    X : sequence of str, or of sequences of str or int; or (N, T) integer array
    tokenizer : {"words", "characters"}
    """
    if isinstance(X, str) or not isinstance(X, Collection):
        raise DTypeError(
            f"{who}: {name} is of type {type(X).__qualname__}, expected a sequence of texts, or of "
            f"sequences of tokens. A single text is [text]."
        )
    if isinstance(X, np.ndarray) and X.dtype.kind not in "iuUO":
        raise DTypeError(f"{who}: {name} is {X.dtype}, expected tokens: texts or integers.")
    cut = TOKENIZERS[tokenizer].cut
    rows: list[Sequence[Hashable]] = []
    for k, row in enumerate(X):
        if isinstance(row, str):
            rows.append(cut(row))
        elif isinstance(row, Iterable) and getattr(row, "ndim", 1) == 1:
            rows.append(list(row))
        else:
            raise DTypeError(
                f"{who}: {name}[{k}] is of type {type(row).__qualname__}, expected a text or a "
                "sequence of tokens."
            )
    if not rows:
        raise ArgumentError(f"{who}: {name} is empty, expected at least one sequence.")
    return rows


def targets_given(who: str, y: Any, what: str) -> None:
    """Refuse a y of None; in the words that scikit-learn's checks look for."""
    if y is None:
        raise ArgumentError(f"{who} requires y to be passed, but the target y is None: {what}.")


def same_number(who: str, x_rows: int, y_rows: int) -> None:
    """Raise unless X and y have as many rows."""
    if x_rows != y_rows:
        raise ShapeError(
            f"{who}: Found input variables with inconsistent numbers of samples: X has {x_rows} "
            f"rows and y has {y_rows}."
        )


def row_weights(who: str, weights: Any, rows: int) -> np.ndarray:
    """Check sample weights, (N,) float64; 1 each if omitted."""
    if weights is None:
        return np.ones(rows)
    if isinstance(weights, (int, float)):
        return np.full(rows, float(weights))
    array = check_array(
        weights, dtype=np.float64, ensure_2d=False, estimator=who, input_name="sample_weight"
    )
    if array.shape != (rows,):
        raise ShapeError(
            f"{who}: sample_weight has shape {array.shape}, expected ({rows},); N={rows} from X."
        )
    if (array < 0).any() or not array.any():
        raise ArgumentError(
            f"{who}: sample_weight holds a negative number, or zeros only; expected numbers of at "
            "least 0, one of them above."
        )
    return array
