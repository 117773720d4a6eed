"""The arrays of a row, the same for all who compute it, and the files by which they travel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import _random, weights
from .._parameters import layout
from ..cells import CELLS
from .grid import DROPOUT, RESET_SHARE, Row

__all__ = ["Problem"]

SEED = 0


class Problem:
    """The arrays that all rows of one problem share.

    Attributes
    ----------
    row : Row
        One of them; pass and threads make no difference.
    parameters : dict of str to array
        PyTorch's names, U(-1/sqrt(H), 1/sqrt(H)).
    arrays : dict of str to array
        ``x`` (T, B, I) and ``dy`` (T, B, H) normal; ``h0``, for the LSTM ``c0``, (L, B, H). By the
        row's option ``reset`` (T, B) bool, ``lengths`` (B,), ``dc`` (1, T, B, H), or ``mask``
        (B, H), the factors on the operand of R that rnnfast draws from the seed `SEED`.
    used : int
        How many of the T*B steps are used.
    """

    def __init__(self, row: Row) -> None:
        self.row = row
        spec, dtype = CELLS[row.cell], np.dtype(row.dtype)
        rng = np.random.default_rng([SEED, row.T, row.B, row.I, row.H, row.L])

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(dtype)

        bound = row.H**-0.5
        shapes, _ = layout(spec, row.I, row.H, row.L, 1, True, False)
        self.parameters = {
            name: rng.uniform(-bound, bound, shape).astype(dtype) for name, shape in shapes.items()
        }
        self.arrays = {"x": normal(row.T, row.B, row.I), "dy": normal(row.T, row.B, row.H)}
        for state in spec.states:
            self.arrays[f"{state}0"] = normal(row.L, row.B, row.H)
        self.used = row.T * row.B
        if row.option == "reset":
            self.arrays["reset"] = rng.random((row.T, row.B)) < RESET_SHARE
        elif row.option == "lengths":
            self.arrays["lengths"] = rng.integers(1, row.T + 1, row.B)
            self.used = int(self.arrays["lengths"].sum())
        elif row.option == "states":
            self.arrays["dc"] = normal(1, row.T, row.B, row.H)
        elif row.option == "recurrent_dropout":
            rows, first = np.arange(row.B), np.zeros(1, np.uint64)
            self.arrays["mask"] = _random.recurrent_dropout(
                DROPOUT, SEED, 0, 0, first, rows, row.H, dtype
            )

    def write(self, folder: Path, system: str) -> Path:
        """Write arrays and weights, these as a system keeps them, for a process to read.

        Returns
        -------
        Path
            A file of NumPy's; weights have the prefix ``w:``, then their path: ``w:0/W``.
        """
        path = folder / f"{system}.npz"
        exported = weights.export(self.parameters, system, cell=self.row.cell)
        named = {f"w:{where}": array for where, array in _flat(exported)}
        everything: dict[str, Any] = {**self.arrays, **named}
        np.savez(path, **everything)
        return path

    def read(self, path: Path, system: str) -> dict[str, np.ndarray]:
        """Read what a process returned; gradients of weights under ``d`` and our own names.

        A system that keeps one bias per gate has no gradient of the other one, which is left out.

        Raises
        ------
        KeyError, ValueError, TypeError
            If gradients are not there, or not in the form of the weights.
        """
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        flat = {name[2:]: found.pop(name) for name in list(found) if name.startswith("d:")}
        if flat:
            exported = weights.export(self.parameters, system, cell=self.row.cell)
            gradients = {name: np.zeros_like(array) for name, array in self.parameters.items()}
            settings = weights.settings(self.parameters, system, cell=self.row.cell)
            arrays = _filled(exported, flat)
            weights.load(gradients, system, arrays, cell=self.row.cell, **settings)
            for name, gradient in gradients.items():
                one_bias = system != "pytorch" and name.startswith("bias_hh")
                if not (one_bias and not gradient.any()):
                    found["d" + name] = gradient
        return found


def _flat(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays in lists and dicts, with the way to each."""
    if isinstance(tree, np.ndarray):
        yield "/".join(path), tree
        return
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    for key, part in items:
        yield from _flat(part, (*path, str(key)))


def _filled(tree: Any, flat: Mapping[str, np.ndarray], path: tuple[str, ...] = ()) -> Any:
    """Return the same lists and dicts with other arrays in them."""
    if isinstance(tree, np.ndarray):
        return flat["/".join(path)]
    if isinstance(tree, Mapping):
        return {key: _filled(part, flat, (*path, str(key))) for key, part in tree.items()}
    return [_filled(part, flat, (*path, str(k))) for k, part in enumerate(tree)]
