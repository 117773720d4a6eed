"""How tokens are chosen when a network writes: one by one, or by a beam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

from ..layers import State
from ._ragged import Ragged
from ._writing import Pen
from .vocabulary import END

Pick = Callable[[ndarray, ndarray, int], ndarray]
"""From log-probabilities (R, V), the numbers of their rows (R,) and the step to tokens (R,)."""


def one_by_one(
    pen: Pen, features: Any, begin: Ragged, max_length: int, pick: Pick
) -> list[ndarray]:
    """Write rows, each until ``<END>``, which is left out, or for `max_length` tokens."""
    written = np.full((len(begin), max_length), END)
    running = np.arange(len(begin))
    log_p, state = pen.begin(features, begin)
    for t in range(max_length):
        chosen = pick(log_p, running, t)
        written[running, t] = chosen
        going = np.flatnonzero(chosen != END)
        if t == max_length - 1 or not len(going):
            break
        running = running[going]
        log_p, state = pen.step(chosen[going], _rows(state, going))
    return [_until_end(row) for row in written]


def greedy(log_p: ndarray, rows: ndarray, t: int) -> ndarray:
    """Pick the likeliest."""
    return log_p.argmax(axis=1)


def sampler(temperature: float, top_k: int | None, uniforms: ndarray) -> Pick:
    """Pick at random.

    Parameters
    ----------
    temperature : float
        Divides the log-probabilities: below 1 bolder, above 1 wilder.
    top_k : int or None
        Only so many of the likeliest may be picked; those equal to the last of them too.
    uniforms : (N, max_length) float
        In [0, 1), by row and step: the randomness.
    """

    def pick(log_p: ndarray, rows: ndarray, t: int) -> ndarray:
        if top_k is not None and top_k < log_p.shape[1]:
            least = np.partition(log_p, -top_k, axis=1)[:, -top_k, None]
            log_p = np.where(log_p < least, -np.inf, log_p)
        p = np.exp((log_p - log_p.max(axis=1, keepdims=True)) / temperature)
        edges = np.cumsum(p, axis=1)
        return (edges <= uniforms[rows, t, None] * edges[:, -1:]).sum(axis=1)

    return pick


def beam(pen: Pen, features: Any, begin: Ragged, max_length: int, width: int) -> list[ndarray]:
    """Write the likeliest rows that a beam of `width` finds (Graves 2012, arXiv:1211.3711)."""
    N = len(begin)
    every = np.arange(N)[:, None]
    log_p, state = pen.begin(features, begin)
    V = log_p.shape[1]
    scores, done = np.zeros((N, 1)), np.zeros((N, 1), bool)
    written = np.empty((N, 1, 0), np.int64)
    for t in range(max_length):
        # What is done stays as it is, by writing <END> once more at no cost.
        further = log_p.reshape(N, -1, V).copy()
        further[done] = -np.inf
        further[done, END] = 0
        scores, places = _largest((scores[:, :, None] + further).reshape(N, -1), width)
        beams, chosen = places // V, places % V
        written = np.concatenate([written[every, beams], chosen[:, :, None]], axis=2)
        parents = (every * done.shape[1] + beams).reshape(-1)
        done = chosen == END
        # Scores only fall: once the best row is done no other overtakes it.
        if t == max_length - 1 or done[:, 0].all():
            break
        log_p, state = pen.step(chosen.reshape(-1), _rows(state, parents))
    return [_until_end(row) for row in written[:, 0]]


def _largest(values: ndarray, n: int) -> tuple[ndarray, ndarray]:
    """Return the n largest of each row (N, M), largest first, and their places."""
    n = min(n, values.shape[1])
    places = np.argpartition(-values, n - 1, axis=1)[:, :n]
    places.sort(axis=1)  # equal values in the order of their places
    found = np.take_along_axis(values, places, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(places, order, axis=1)


def _rows(state: State, rows: ndarray) -> State:
    """Take rows of a state (L, N, H), or of each of several."""
    if isinstance(state, tuple):
        return tuple(part[:, rows] for part in state)
    return state[:, rows]


def _until_end(row: ndarray) -> ndarray:
    ends = np.flatnonzero(row == END)
    return row[: ends[0]] if len(ends) else row
