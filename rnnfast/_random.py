"""Random masks that depend on what they mask, not on when they are drawn.

Philox-4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3")
is a function of a counter and a key. With the seed as the key and (purpose, layer, direction, step,
row, unit) as the counter, a mask is the same however the sequence is cut into chunks or the batch
is put together, and backward draws it again instead of keeping it.

A row of n units takes Q = ceil(n / 4) counters; unit u = j*Q + q is word j of counter q, so that
neighbours come from neighbouring counters, which a vector draws at once. The compiled kernels draw
the same words.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "BETWEEN_LAYERS",
    "RECURRENT_DROPOUT",
    "WEIGHT_DROP",
    "ZONEOUT",
    "between_layers",
    "number",
    "philox4x32",
    "recurrent_dropout",
    "weight_drop",
    "words",
    "zoneout",
]

# Purposes of a mask: each has numbers of its own.
BETWEEN_LAYERS = 1
RECURRENT_DROPOUT = 2
ZONEOUT = (3, 4)
"""Per state, h and c."""
WEIGHT_DROP = 5

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)


def philox4x32(counter, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds of Philox-4x32.

    Parameters
    ----------
    counter : four integer arrays that broadcast together, each value below 2**32
    key : (int, int)
        Low and high 32 bits.

    Returns
    -------
    (..., 4) uint32
        Four random words per counter.
    """
    c0, c1, c2, c3 = (np.asarray(c).astype(np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLIER[0] * c0, _MULTIPLIER[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _HIGH) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HIGH) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), -1).astype(np.uint32)


def words(seed: int, purpose: int, layer: int, direction: int, steps, rows, n: int) -> np.ndarray:
    """One random word per unit of each row: (..., n) uint32.

    Parameters
    ----------
    seed : int
        64 bits.
    steps, rows : integer arrays that broadcast together to (...), each value below 2**32
    n : int
        Units of a row.
    """
    Q = (n + 3) // 4
    place = (purpose << 24) | (layer << 8) | direction
    steps, rows = np.broadcast_arrays(steps, rows)
    counter = (np.arange(Q), rows[..., None], steps[..., None], np.uint64(place))
    drawn = philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    return drawn.swapaxes(-1, -2).reshape(*steps.shape, 4 * Q)[..., :n]


def number(step, t0: int) -> np.ndarray:
    """Return the numbers of steps counted from t0, as counters hold them: uint64, below 2**32."""
    return (np.asarray(step).astype(np.uint64) + np.uint64(t0)) & _LOW


def _below(drawn: np.ndarray, p: float) -> np.ndarray:
    return drawn < np.uint64(round(p * 2**32))


def _factors(drawn: np.ndarray, p: float, dtype: np.dtype) -> np.ndarray:
    """Dropout of words: 0 with probability p, else 1 / (1 - p), which is rounded once."""
    if p >= 1:
        return np.zeros(drawn.shape, dtype)
    return np.where(_below(drawn, p), dtype.type(0), dtype.type(1 / (1 - p)))


def between_layers(
    p: float, seed: int, layer: int, steps, rows, H: int, D: int, dtype: np.dtype
) -> np.ndarray:
    """Return the factors (..., D*H) on the output of a layer; steps and rows as in `words`."""
    drawn = [words(seed, BETWEEN_LAYERS, layer, d, steps, rows, H) for d in range(D)]
    return _factors(np.concatenate(drawn, -1), p, dtype)


def recurrent_dropout(
    p: float, seed: int, layer: int, direction: int, steps, rows, H: int, dtype: np.dtype
) -> np.ndarray:
    """Return the factors (..., H) on the operand of R; one mask per sequence has step 0."""
    return _factors(words(seed, RECURRENT_DROPOUT, layer, direction, steps, rows, H), p, dtype)


def zoneout(
    p: float, seed: int, layer: int, direction: int, state: int, steps, rows, H: int, dtype
) -> np.ndarray:
    """Return z (..., H) of the state of that number: 1 where it keeps its old value, else 0."""
    drawn = words(seed, ZONEOUT[state], layer, direction, steps, rows, H)
    return _below(drawn, p).astype(dtype)


def weight_drop(
    p: float, seed: int, layer: int, direction: int, GH: int, H: int, dtype: np.dtype
) -> np.ndarray:
    """Return the factors (G*H, H) on R, whose rows are numbered as its gate rows."""
    return _factors(words(seed, WEIGHT_DROP, layer, direction, 0, np.arange(GH), H), p, dtype)
