"""Keeping gradients within bounds before an optimiser sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from .._indexed import IndexedRows
from ..errors import ArgumentError

Gradients = Mapping[str, "np.ndarray | IndexedRows"]


def clip_by_value(gradients: Gradients, limit: float) -> None:
    """Clip every element to ``[-limit, limit]``, in place.

    Parameters
    ----------
    gradients : mapping of name to array or IndexedRows
        Changed in place. NaN stays NaN.
    limit : float
        Positive.

    Raises
    ------
    ArgumentError
        If `limit` is not positive.

    References
    ----------
    Mikolov 2012, "Statistical language models based on neural networks", section 3.2.2.
    """
    _check_limit("clip_by_value", "limit", limit)
    for array in _arrays(gradients):
        np.clip(array, -limit, limit, out=array)


def clip_by_global_norm(gradients: Gradients, max_norm: float) -> float:
    """Scale all gradients together, in place, so that their joint 2-norm is at most `max_norm`.

    Parameters
    ----------
    gradients : mapping of name to array or IndexedRows
        Changed in place, and only if the norm exceeds `max_norm`. The indices that an `IndexedRows`
        leaves out count as zeros.
    max_norm : float
        Positive; infinity only measures.

    Returns
    -------
    norm : float
        The joint norm before clipping, summed in float64 without BLAS: the same bits on any number
        of threads. Where it is not finite (a NaN or an infinity among the gradients) nothing is
        scaled: look at it before taking the step.

    Raises
    ------
    ArgumentError
        If `max_norm` is not positive.

    References
    ----------
    Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
    """
    _check_limit("clip_by_global_norm", "max_norm", max_norm)
    squares = sum(float(np.square(array, dtype=np.float64).sum()) for array in _arrays(gradients))
    norm = math.sqrt(squares)
    if math.isfinite(norm) and norm > max_norm:
        for array in _arrays(gradients):
            array *= max_norm / norm
    return norm


def _arrays(gradients: Gradients) -> Iterator[np.ndarray]:
    for gradient in gradients.values():
        yield gradient.rows if isinstance(gradient, IndexedRows) else gradient


def _check_limit(function: str, name: str, value: float) -> None:
    if not value > 0:
        raise ArgumentError(
            f"rnnfast.training.{function}: {name} is {value}, expected a positive number."
        )
