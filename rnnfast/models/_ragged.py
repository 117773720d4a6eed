"""Rows of different lengths in one array, one after the other, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """N rows: row k is ``values[offsets[k] : offsets[k + 1]]``.

    Attributes
    ----------
    values : (M, ...)
        The steps of all rows.
    offsets : (N+1,) int64
        From 0 to M, ascending: what the layers take as `cu_seqlens`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], empty: np.ndarray) -> Ragged:
        """Join arrays (T_k, ...); `empty` (0, ...) gives the shape and type where there is none."""
        return cls(np.concatenate([empty, *rows]), offsets([len(row) for row in rows]))

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: steps of each row."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.values[start:stop]

    def __getitem__(self, rows: np.ndarray) -> Ragged:
        """Take rows by number, in any order."""
        lengths = self.lengths[rows]
        taken = offsets(lengths)
        places = np.arange(taken[-1]) + np.repeat(self.offsets[rows] - taken[:-1], lengths)
        return Ragged(self.values[places], taken)

    def with_values(self, values: np.ndarray) -> Ragged:
        """Return rows of the same lengths with other values (M, ...)."""
        return Ragged(values, self.offsets)


def offsets(lengths: Any) -> np.ndarray:
    """Return where rows of these lengths (N,) begin and end: (N+1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
