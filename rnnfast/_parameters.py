"""The parameters of a layer: arrays by PyTorch's names, and the tuples that kernels take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

import numpy as np

from ._shapes import Checker
from .cells import CellSpec
from .errors import ArgumentError

__all__ = ["Parameters", "layout"]

# PyTorch's name of each of W, R, bW, bR.
_STEMS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def layout(
    spec: CellSpec,
    I: int,
    H: int,
    L: int,
    D: int,
    bias: bool,
    learned: bool,
) -> tuple[dict[str, tuple[int, ...]], list[list[tuple[str | None, ...]]]]:
    """Name the parameters of a layer.

    Returns
    -------
    shapes : dict of str to tuple of int
        Shape by name, in PyTorch's order; the learned initial states last.
    names : list (L) of list (D) of tuple (4)
        The names of W, R, bW and bR, None where there is no bias.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    names: list[list[tuple[str | None, ...]]] = []
    for k in range(L):
        width = I if k == 0 else D * H
        names.append([])
        for d in range(D):
            suffix = f"_l{k}" + ("_reverse" if d else "")
            sizes = ((spec.G * H, width), (spec.G * H, H), (spec.G * H,), (spec.G * H,))
            present = 4 if bias else 2
            row = [stem + suffix for stem in _STEMS[:present]]
            shapes.update(zip(row, sizes[:present], strict=True))
            names[-1].append((*row, *(None,) * (4 - present)))
    if learned:
        shapes.update({f"{letter}_0": (D * L, H) for letter in spec.states})
    return shapes, names


class Parameters(MutableMapping[str, np.ndarray]):
    """Arrays by name, with a fixed set of names, shapes and one element type.

    An array put in is kept by reference: writes into it are seen by the next call, and two layers
    can share one.
    """

    def __init__(
        self,
        who: str,
        dtype: np.dtype,
        shapes: Mapping[str, tuple[int, ...]],
        names: list[list[tuple[str | None, ...]]],
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        self._who, self._dtype, self._shapes, self._names = who, dtype, dict(shapes), names
        self._arrays: dict[str, np.ndarray] = {}
        for name in self._shapes:
            self._arrays[name] = self._checked(name, arrays[name])
        self._bind()

    def _bind(self) -> None:
        get = self._arrays.get
        self.rows = [
            tuple(tuple(None if n is None else get(n) for n in names) for names in layer)
            for layer in self._names
        ]
        """Per layer, what kernels take: D tuples (W, R, bW, bR)."""
        learned = [self._arrays[n] for n in ("h_0", "c_0") if n in self._arrays]
        self.initial = tuple(learned) or None
        """The learned initial states (D*L, H), or None."""

    def _fitting(self, name: str, array: np.ndarray) -> None:
        """Raise unless the array has the shape and element type of this parameter."""
        check = Checker(self._who, (self._dtype, "the layer"))
        check.real(name, array)
        check.exactly(name, array, self._shapes[name])

    def _checked(self, name: str, array: np.ndarray) -> np.ndarray:
        self._fitting(name, array)
        if not (array.flags.c_contiguous and array.flags.aligned and type(array) is np.ndarray):
            raise ArgumentError(
                f"{self._who}: {name} is not a C-contiguous array, expected one: it is kept by "
                f"reference. Use np.ascontiguousarray({name})."
            )
        return array

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        if name not in self._shapes:
            known = ", ".join(self._shapes)
            raise KeyError(f"{self._who}: no parameter {name!r}; there are {known}.")
        self._arrays[name] = self._checked(name, array)
        self._bind()

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{self._who}: parameters are fixed; {name!r} cannot be removed.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}: {array.shape}" for name, array in self._arrays.items())
        return f"Parameters({inner})"

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Copy values in; all names and shapes must fit, or nothing is written."""
        missing = [name for name in self._shapes if name not in values]
        unexpected = [name for name in values if name not in self._shapes]
        if missing or unexpected:
            text = [f"missing {', '.join(missing)}"] if missing else []
            text += [f"unexpected {', '.join(map(str, unexpected))}"] if unexpected else []
            raise ArgumentError(
                f"{self._who}.load_state_dict: names do not fit: {'; '.join(text)}."
            )
        for name, value in values.items():
            self._fitting(name, value)
        for name, value in values.items():
            self._arrays[name][...] = value
