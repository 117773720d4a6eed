"""Losses: each returns the mean loss and its gradient, ready to be sent backward."""

from __future__ import annotations

import math

import numpy as np

from .._shapes import Checker, check_index_range, is_index_array
from ..errors import ArgumentError, DTypeError, ShapeError


def softmax_cross_entropy(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Cross-entropy of a softmax over the last axis, averaged over all positions.

        loss = mean(log(sum_v exp(logits_v)) - logits_target)        dlogits = (softmax(logits) -
        onehot(target)) / n

    Parameters
    ----------
    logits : (..., V) float32 or float64
        Unnormalised log-probabilities; not modified.
    targets : (...) int
        The right class of each position, in ``[0, V)``.
    weights : (...) float32 or float64, optional
        How much each position counts in the mean, at least 0; all the same if omitted.

    Returns
    -------
    loss : float
        In nats; divide by ``log(2)`` for bits. Summed in float64. Zero where there is no position,
        or all weights are zero.
    dlogits : (..., V)
        The gradient of `loss`, in the dtype of `logits`.

    Raises
    ------
    ShapeError
        If `targets` or `weights` has not the leading shape of `logits`.
    ArgumentError
        If a weight is negative or not finite.
    DTypeError
        If `logits` or `weights` is not float32 or float64, or `targets` is no integer array.
    IndexRangeError
        If a target lies outside ``[0, V)``.

    Notes
    -----
    The largest logit is subtracted before the exponential, so no finite input overflows (Goodfellow
    et al. 2016, section 4.1).
    """
    who = "rnnfast.training.softmax_cross_entropy"
    Checker(who).real("logits", logits)
    if not is_index_array(targets):
        kind = (
            targets.dtype
            if isinstance(targets, np.ndarray)
            else f"of type {type(targets).__name__}"
        )
        raise DTypeError(f"{who}: targets is {kind}, expected an integer array of classes.")
    if logits.ndim < 1 or targets.shape != logits.shape[:-1]:
        raise ShapeError(
            f"{who}: targets has shape {targets.shape}, expected {logits.shape[:-1]}, "
            f"the leading axes of logits {logits.shape}."
        )
    classes = logits.shape[-1]
    rows = check_index_range(who, "targets", targets, classes, "logits").reshape(-1)
    count = rows.size
    if count == 0:
        return 0.0, np.zeros_like(logits)
    flat = logits.reshape(count, classes)
    shifted = flat - flat.max(axis=1, keepdims=True)
    positions = np.arange(count)
    right = shifted[positions, rows].astype(np.float64)
    probabilities = np.exp(shifted, out=shifted)
    sums = probabilities.sum(axis=1, keepdims=True)
    losses = np.log(sums[:, 0], dtype=np.float64) - right
    if weights is not None:
        shares = _shares(who, weights, logits.shape[:-1], "logits").reshape(-1)
        probabilities /= sums
        probabilities[positions, rows] -= 1
        probabilities *= shares[:, None]
        return float((losses * shares).sum()), probabilities.reshape(logits.shape)
    loss = float(losses.sum() / count)
    probabilities /= sums * count
    probabilities[positions, rows] -= logits.dtype.type(1.0 / count)
    return loss, probabilities.reshape(logits.shape)


def squared_error(
    y: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Squared error, averaged over all elements.

        loss = mean((y - target)^2)        dy = 2 (y - target) / n

    Parameters
    ----------
    y : any shape, float32 or float64
        Predictions; not modified.
    targets : the shape and dtype of `y`
        What they should have been.
    weights : the leading axes of `y`, one or more, float32 or float64, optional
        How much the elements there count in the mean, at least 0; all the same if omitted.

    Returns
    -------
    loss : float
        Summed in float64. Zero for empty arrays, and where all weights are zero.
    dy : the shape and dtype of `y`
        The gradient of `loss`.

    Raises
    ------
    ShapeError, DTypeError
        If `targets` has not the shape and dtype of `y`, `y` is not float32 or float64, or `weights`
        has not the leading shape of `y`.
    ArgumentError
        If a weight is negative or not finite.
    """
    who = "rnnfast.training.squared_error"
    check = Checker(who)
    check.real("y", y)
    check.real("targets", targets)
    if targets.shape != y.shape:
        # Broadcasting here would average over the wrong pairs without a word.
        raise ShapeError(
            f"{who}: targets has shape {targets.shape}, expected {y.shape}, the shape of y."
        )
    if y.size == 0:
        return 0.0, np.zeros_like(y)
    difference = y - targets
    if weights is not None:
        leading = y.shape[: max(1, getattr(weights, "ndim", 1))]
        shares = _shares(who, weights, leading, "y") * (math.prod(leading) / y.size)
        shares = shares.reshape(*leading, *(1,) * (y.ndim - len(leading)))
        loss = float((np.square(difference, dtype=np.float64) * shares).sum())
        difference *= 2 * shares
        return loss, difference
    loss = float(np.square(difference, dtype=np.float64).sum() / y.size)
    difference *= 2.0 / y.size
    return loss, difference


def _shares(who: str, weights: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Return what each weight is of their sum, in float64; zeros where that is zero."""
    Checker(who).real("weights", weights)
    if weights.shape != shape:
        raise ShapeError(
            f"{who}: weights has shape {weights.shape}, expected {shape}, "
            f"the leading axes of {source}."
        )
    shares = weights.astype(np.float64)
    total = shares.sum()
    if not (math.isfinite(total) and (shares >= 0).all()):
        raise ArgumentError(f"{who}: weights holds a negative or not finite number.")
    return shares / total if total > 0 else shares
