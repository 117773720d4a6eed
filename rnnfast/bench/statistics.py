"""Medians and their bounds, by resampling: times of turns have no distribution worth naming."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["CONFIDENCE", "Estimate", "ratio_of_pairs", "ratio_of_samples"]

CONFIDENCE = 0.95
# Resamplings: the quantiles at 2.5 and 97.5 % then rest on 25 of them each.
SAMPLES = 1000


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
    drawn = np.random.default_rng(0).choice(ratios, (SAMPLES, len(ratios)))
    return _estimate(float(np.median(ratios)), np.median(drawn, axis=1))


def ratio_of_samples(top: ArrayLike, bottom: ArrayLike) -> Estimate:
    """Return median(top) / median(bottom) of times that were not taken together."""
    rng = np.random.default_rng(0)
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    medians = [np.median(rng.choice(a, (SAMPLES, len(a))), axis=1) for a in (top, bottom)]
    return _estimate(float(np.median(top) / np.median(bottom)), medians[0] / medians[1])


def _estimate(ratio: float, drawn: np.ndarray) -> Estimate:
    low, high = np.quantile(drawn, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Estimate(ratio, float(low), float(high))
