"""Random masks that depend on what they mask, not on when they are drawn.

Philox-4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3")
is a function of a counter and a key. With the seed as the key and (purpose, layer, direction, step,
row, unit) as the counter, a mask is the same however the sequence is cut into chunks or the batch
is put together, and backward draws it again instead of keeping it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["BETWEEN_LAYERS", "Masks", "philox4x32"]

BETWEEN_LAYERS = 1
"""Purpose of the masks between layers; other purposes get other numbers, and so other masks."""

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


@dataclass(frozen=True)
class Masks:
    """The dropout masks of one call.

    Attributes
    ----------
    p : float
        Probability of a zero; what stays is scaled by 1 / (1 - p).
    seed : int
        64 bits.
    t0 : int
        Number of the first step, so that chunks of a sequence continue each other's masks.
    row_ids : (B,) integer array, optional
        Number of each batch row, 0 ... B-1 if omitted.
    """

    p: float
    seed: int
    t0: int = 0
    row_ids: np.ndarray | None = None

    def between_layers(
        self, layer: int, T: int, B: int, H: int, D: int, dtype: np.dtype
    ) -> np.ndarray:
        """Return the factors (T, B, D*H) on the output of a layer: 0 or 1 / (1 - p)."""
        if self.p >= 1:
            return np.zeros((T, B, D * H), dtype)
        parts = [self._words(BETWEEN_LAYERS, layer, d, T, B, H) for d in range(D)]
        kept = np.concatenate(parts, -1) >= np.uint64(round(self.p * 2**32))
        return kept.astype(dtype) * dtype.type(1 / (1 - self.p))

    def _words(
        self, purpose: int, layer: int, direction: int, T: int, B: int, H: int
    ) -> np.ndarray:
        """One random word per (step, row, unit): (T, B, H) uint32; four units share a counter."""
        steps = (np.arange(T, dtype=np.uint64) + np.uint64(self.t0)) & _LOW
        rows = np.arange(B) if self.row_ids is None else self.row_ids
        place = (purpose << 24) | (layer << 8) | direction
        counter = (
            np.arange((H + 3) // 4),
            np.asarray(rows)[:, None],
            steps[:, None, None],
            np.uint64(place),
        )
        words = philox4x32(counter, (self.seed & 0xFFFFFFFF, (self.seed >> 32) & 0xFFFFFFFF))
        return words.reshape(T, B, -1)[:, :, :H]
