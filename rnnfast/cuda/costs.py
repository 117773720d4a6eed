"""Where a GPU pays for arrays of NumPy's, what is copied there and back included.

``device="auto"`` asks `pays` where a GPU is present. The answer follows from the cell, the dtype
and the sizes of the layer, never from the steps or rows of a call, for it decides the bits.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TABLE", "Paid", "pays"]


class Paid(NamedTuple):
    """A layer that was measured to take less time on a GPU; larger ones do then, too."""

    cell: str
    dtype: str
    I: int
    H: int
    L: int


TABLE: tuple[Paid, ...] = ()
"""Empty: no GPU has been measured, so "auto" stays on the CPU. `benchmarks/gpu/pays.py` measures
the rows on the machine where it runs, and prints them as they stand here."""


def pays(cell: str, dtype: str, I: int, H: int, L: int) -> bool:
    """Whether a layer at least as small in I, H and L was faster on a GPU."""
    return any(
        (row.cell, row.dtype) == (cell, dtype) and row.I <= I and row.H <= H and row.L <= L
        for row in TABLE
    )
