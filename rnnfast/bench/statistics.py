"""Medians and their intervals, from ranks: times have no distribution worth naming."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["ROUNDS_NEEDED", "Estimate", "ratio_of_pairs", "ratio_of_samples"]

_ONE_IN = 20  # an interval of 95 % misses once in so many
ROUNDS_NEEDED = 6
"""Of fewer values not even the smallest and the largest hold the median between them with 95 %."""


class Estimate(NamedTuple):
    """A ratio of times and the ends of its 95 % interval."""

    ratio: float
    low: float
    high: float


def ratio_of_pairs(top: ArrayLike, bottom: ArrayLike) -> Estimate:
    """Return the median of top / bottom, pair by pair.

    Parameters
    ----------
    top, bottom : (rounds,)
        Times of the same rounds: what disturbs a round disturbs both.
    """
    ratios = np.asarray(top, float) / np.asarray(bottom, float)
    return Estimate(float(np.median(ratios)), *_interval(ratios))


def ratio_of_samples(top: ArrayLike, bottom: ArrayLike) -> Estimate:
    """Return median(top) / median(bottom) of times that were not taken together.

    The interval goes from the one's lower end over the other's upper one to the opposite: somewhat
    wider than need be.
    """
    above, below = np.asarray(top, float), np.asarray(bottom, float)
    (low, high), (least, most) = _interval(above), _interval(below)
    return Estimate(float(np.median(above) / np.median(below)), low / most, high / least)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Return two of the values that have the true median between them, in 95 % of all cases.

    The k-th smallest is above it as often as n tosses of a coin show fewer than k heads. That holds
    for any distribution and any n, where resampling ten values misses in one case of nine.
    """
    ordered = np.sort(values)
    k = _rank(len(values))
    return float(ordered[k - 1]), float(ordered[-k])


def _rank(n: int) -> int:
    """Return the largest k for which n tosses show fewer than k heads in at most 2.5 %; at least 1.

    In whole numbers, which do not overflow with thousands of rounds.
    """
    k, term, below = 1, 1, 1  # the ways to have k - 1 heads, and fewer than k
    while True:
        term = term * (n - k + 1) // k
        below += term
        if 2 * below * _ONE_IN > 2**n:
            return k
        k += 1
