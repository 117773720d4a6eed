"""The rows of the suite, as data: cell x (T, B, I, H, L) x pass x dtype x threads x option."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from ..cells import CELLS
from ..errors import ArgumentError

__all__ = [
    "DROPOUT",
    "GRID",
    "INFERENCE",
    "OPTIONS",
    "RESET_SHARE",
    "TRAINING",
    "Row",
    "select",
]

INFERENCE, TRAINING = "inference", "forward+backward"
PASSES = (INFERENCE, TRAINING)
DTYPES = ("float32", "float64")
THREADS = (1, 2)

# What an option row does, beside the plain call.
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "reset": "3 % of all steps begin a new sequence",
        "lengths": "rows of 1 to T steps, uniform, in any order",
        "states": "c of every step returned, with a gradient into it",
        "recurrent_dropout": "one mask per sequence on the operand of R",
    }
)
RESET_SHARE = 0.03
DROPOUT = 0.25


@dataclass(frozen=True)
class Row:
    """One row: what is computed, and on how many threads.

    Attributes
    ----------
    cell : str
        Name in `rnnfast.CELLS`.
    T, B, I, H, L : int
        Steps, batch, input, hidden units, layers.
    passed : {"inference", "forward+backward"}
    dtype : {"float32", "float64"}
    threads : int
    option : str
        One of `OPTIONS`, or "" for the plain call.
    """

    cell: str
    T: int
    B: int
    I: int
    H: int
    L: int = 1
    passed: str = INFERENCE
    dtype: str = "float32"
    threads: int = 1
    option: str = ""

    @property
    def id(self) -> str:
        """Name of the row, ``lstm+reset.forward+backward.f32.128x8x64x64.t2``."""
        cell = f"{self.cell}+{self.option}" if self.option else self.cell
        return f"{cell}.{self.passed}.f{self.dtype[5:]}.{self.shape}.t{self.threads}"

    @property
    def shape(self) -> str:
        """T, B, I and H, and L where it is not 1, with an x between them."""
        sizes = (self.T, self.B, self.I, self.H, *((self.L,) if self.L > 1 else ()))
        return "x".join(map(str, sizes))

    @property
    def backward(self) -> bool:
        """Whether there is a backward pass."""
        return self.passed == TRAINING

    @property
    def problem(self) -> tuple[Any, ...]:
        """What fixes the arrays: all but pass and threads."""
        return self.cell, self.T, self.B, self.I, self.H, self.L, self.dtype, self.option

    def fields(self) -> dict[str, Any]:
        """Return the attributes by name, as JSON takes them."""
        return asdict(self)


# What users have: single steps, one sequence at a time, small batches up to large ones.
SHAPES: tuple[tuple[int, ...], ...] = (
    (1, 1, 64, 64),
    (1, 1, 256, 256),
    (1, 1, 1024, 1024),
    (100, 1, 64, 64),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (10, 32, 1, 64),
    (50, 32, 64, 128),
    (128, 64, 128, 256),
    (128, 64, 512, 512),
    (64, 128, 1024, 1024),
    (2000, 1, 32, 64),
    (2000, 16, 64, 128),
    (512, 8, 32, 32),
    (128, 8, 64, 64),
    (64, 64, 96, 256, 2),
)
GRID_CELLS = ("lstm", "gru", "rnn_tanh")
# One per cell, of a size for which the check in long double takes seconds.
FLOAT64 = (
    ("lstm", (50, 32, 64, 128)),
    ("gru", (128, 8, 64, 64)),
    ("rnn_tanh", (100, 1, 256, 256)),
)
OPTION_SHAPES = ((128, 8, 64, 64), (128, 64, 128, 256))
OPTION_CELLS = {
    "reset": GRID_CELLS,
    "lengths": GRID_CELLS,
    "states": ("lstm",),
    "recurrent_dropout": GRID_CELLS,
}


def _rows() -> Iterable[Row]:
    # Pass and threads vary fastest: they share arrays and the reference's results.
    for shape, cell, passed, threads in itertools.product(SHAPES, GRID_CELLS, PASSES, THREADS):
        T, B, I, H, L = (*shape, 1)[:5]
        yield Row(cell, T, B, I, H, L, passed, threads=threads)
    for (cell, shape), passed, threads in itertools.product(FLOAT64, PASSES, THREADS):
        yield Row(cell, *shape, 1, passed, "float64", threads)
    for option, cells in OPTION_CELLS.items():
        # A mask is drawn in training only.
        passes = (TRAINING,) if option == "recurrent_dropout" else PASSES
        for shape, cell, passed, threads in itertools.product(
            OPTION_SHAPES, cells, passes, THREADS
        ):
            yield Row(cell, *shape, 1, passed, threads=threads, option=option)


GRID: tuple[Row, ...] = tuple(_rows())
"""All rows, those of one problem side by side."""


def select(
    rows: Iterable[str] = (),
    cells: Iterable[str] = (),
    passes: Iterable[str] = (),
    dtypes: Iterable[str] = (),
    threads: Iterable[int] = (),
) -> list[Row]:
    """Return the rows of the grid that fit all that is given; nothing given fits every row.

    Parameters
    ----------
    rows : iterable of str
        Patterns of row ids, ``"lstm.*.t1"``; one of them must fit.
    cells, passes, dtypes : iterable of str
        Patterns of these attributes.
    threads : iterable of int

    Raises
    ------
    ArgumentError
        If no row of the grid fits one of the patterns, or none fits all; says what there is.
    """
    kinds = {
        "rows": (tuple(rows), lambda row: row.id),
        "cell": (tuple(cells), lambda row: row.cell),
        "pass": (tuple(passes), lambda row: row.passed),
        "dtype": (tuple(dtypes), lambda row: row.dtype),
        "threads": (tuple(map(str, threads)), lambda row: str(row.threads)),
    }
    chosen = list(GRID)
    for name, (patterns, of) in kinds.items():
        values = {of(row) for row in GRID}
        for pattern in patterns:
            if not fnmatch.filter(values, pattern):
                known = sorted(values) if name != "rows" else [GRID[0].id, "...", GRID[-1].id]
                raise ArgumentError(
                    f"rnnfast bench: {name} is {pattern!r}, which fits no row; there are "
                    f"{', '.join(known)}."
                )
        if patterns:
            chosen = [
                row for row in chosen if any(fnmatch.fnmatchcase(of(row), p) for p in patterns)
            ]
    if not chosen:
        raise ArgumentError(
            "rnnfast bench: no row fits all of "
            + ", ".join(f"{name} {' '.join(p)}" for name, (p, _) in kinds.items() if p)
            + "."
        )
    return chosen


def _known_cells() -> None:
    unknown = {row.cell for row in GRID} - set(CELLS)
    if unknown:
        raise RuntimeError(f"the grid has cells that are not in the registry: {unknown}")


_known_cells()
