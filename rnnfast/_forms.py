"""The forms that x comes in, and what runs along its axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy import ndarray

__all__ = ["BATCH_FIRST", "FLAT", "TIME_FIRST", "UNBATCHED", "Form", "States"]


@dataclass(frozen=True)
class Form:
    """Where the steps and rows of a call lie in the caller's arrays.

    Back ends take (T, B, ...), or (N, ...) with `cu_seqlens`.

    Attributes
    ----------
    steps : str
        The axes of a step, in letters: what x, y, a mask, ... begin with.
    rows : str
        The axis of a state's rows, "" where there is a single one.
    once : str
        The axes of a replacement that is the same at all steps.
    """

    steps: str
    rows: str
    once: str

    def enter(self, array: ndarray, axis: int = 0) -> ndarray:
        """Bring an array whose steps begin at `axis` into the form of the back ends."""
        if self is BATCH_FIRST:
            return array.swapaxes(axis, axis + 1)
        return array[_at(axis + 1, None)] if self is UNBATCHED else array

    def leave(self, array: ndarray, axis: int = 0) -> ndarray:
        """Bring an array of a back end into the caller's form."""
        if self is BATCH_FIRST:
            return array.swapaxes(axis, axis + 1)
        return array[_at(axis + 1, 0)] if self is UNBATCHED else array


def _at(axis: int, key: int | None) -> Any:
    """Return the index that has `key` at an axis and all of those before."""
    return (*(slice(None),) * axis, key)


TIME_FIRST = Form("T B", "B", "1 B")
BATCH_FIRST = Form("B T", "B", "B 1")
UNBATCHED = Form("T", "", "1")
FLAT = Form("N", "B", "1 B")


class States(NamedTuple):
    """States and gates of a call at every step, or the gradients with respect to them.

    What a back-propagating call gets as `dstates` may have None anywhere, which is zero. Under
    ``batch_first`` (D*L, B, T, ...), unbatched (D*L, T, ...), flat (D*L, N, ...); from a function
    without D*L.

    Attributes
    ----------
    h : (D*L, T, B, H)
        The state h that leaves each step, of every layer and direction: before dropout between
        layers, and before the sum of a residual connection. At unused steps 0, or what is held
        (`pad_output`).
    c : (D*L, T, B, H), or None for a cell without it
        The cell state, alike.
    gates : (D*L, T, B, G, H)
        The gates after their activation, in the cell's order: LSTM i, f, g, o; GRU r, z, n; for
        the plain cell the candidate h. 0 at unused steps, where gradients are ignored.
    """

    h: ndarray | None = None
    c: ndarray | None = None
    gates: ndarray | None = None
