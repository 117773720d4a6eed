"""Gradients of which only a few rows or columns are nonzero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["IndexedRows"]


@dataclass(frozen=True)
class IndexedRows:
    """The gradient of a weight matrix under index input: only the columns that were looked up.

    A vocabulary of 10,000 would otherwise cost a dense matrix per step. Optimisers accept it as it
    is.

    Attributes
    ----------
    indices : (n,) int64
        The distinct indices that occurred, ascending.
    rows : (n, N) float32 or float64
        ``rows[j]`` is the gradient of slice ``indices[j]`` of the matrix.
    shape : tuple of int
        Shape of the dense gradient.
    axis : int
        The axis that `indices` count along: 1 for W ``(G*H, I)``, 0 for an embedding table ``(V,
        E)``.
    """

    indices: np.ndarray
    rows: np.ndarray
    shape: tuple[int, int]
    axis: int = 1

    @property
    def dtype(self) -> np.dtype:
        """Element type of the gradient."""
        return self.rows.dtype

    def dense(self) -> np.ndarray:
        """Return the gradient as an ordinary array of `shape`, zero where nothing was looked up."""
        out = np.zeros(self.shape, self.rows.dtype)
        if self.axis == 0:
            out[self.indices] = self.rows
        else:
            out[:, self.indices] = self.rows.T
        return out
