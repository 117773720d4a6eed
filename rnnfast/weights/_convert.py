"""From our parameters to another system's arrays and back, for any row of `SYSTEMS`.

In between everything has axes: weights (D, G, H, K) with K inputs, biases (D, G, H), gates in the
system's order, D directions, or 1 where each direction has arrays of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from .._parameters import layout
from .._shapes import Checker
from ..errors import ArgumentError, DTypeError, ShapeError
from ._systems import SYSTEMS, Array, Form, System

__all__ = ["Conversion"]

Path = tuple[str | int, ...]


class _Place(NamedTuple):
    """One array of the system: what it is, of which layer, direction and gate, and where it is."""

    array: Array
    k: int
    d: slice
    gate: int | None
    path: Path
    shape: tuple[int, ...]


class Conversion:
    """One layer and one system.

    Parameters
    ----------
    who : str
        The public name that speaks.
    system : str
        A name in `SYSTEMS`.
    form : Form
        The layer.
    """

    def __init__(self, who: str, system: str, form: Form) -> None:
        self.who, self.name, self.form = who, system, form
        self.system = _known(who, system)
        spec = form.spec
        if system not in spec.orders:
            absent = self.system.absent
            why = absent.get(spec.name) or absent[spec.function]
            raise ArgumentError(
                f"{who}: {spec.name} has no counterpart in {system!r}: {why}. Systems that have "
                f"it: {', '.join(name for name in SYSTEMS if name in spec.orders)}."
            )
        self.order = list(spec.permutation(system))
        self.letters = [spec.gates[g] for g in self.order]
        self.apart = [k for k, letter in enumerate(self.letters) if letter in spec.apart]
        self.arrays = self.system.layouts[spec.function]
        self.names = layout(spec, form.I, form.H, form.L, form.D, form.bias, False)[1]
        added = self.system.added
        self.added = {letter: added[letter] for letter in self.letters if letter in added}

    # Settings ------------------------------------------------------------------------------------

    def needed(self) -> dict[str, Any]:
        """Return the settings under which the system computes our function."""
        settings = self.system.settings(self.form)
        needed = {name: s.needed for name, s in settings.items() if s.needed is not None}
        for value in self.added.values():
            if self.system.adding:
                needed[self.system.adding] = value
        return needed

    def settle(self, given: Mapping[str, Any], defaults: bool) -> None:
        """Check settings; with `defaults`, what is not given is what the system takes by default.

        Raises
        ------
        ArgumentError
            If one is unknown, or means another function than ours.
        """
        settings = self.system.settings(self.form)
        given = {name: _plain(value) for name, value in given.items()}
        for name in self.system.ignored:
            given.pop(name, None)
        adding = self.system.adding
        if self.added and adding in given:
            value = given.pop(adding)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise DTypeError(
                    f"{self.who}: {adding} is of type {type(value).__qualname__}, expected a "
                    "number."
                )
            self.added = dict.fromkeys(self.added, float(value))
        for name in given:
            if name not in settings:
                known = ", ".join(self.needed()) or "none"
                raise ArgumentError(
                    f"{self.who}: unknown setting {name!r} of {self.name!r} for "
                    f"{self.form.spec.name}; known: {known}."
                )
        for name, setting in settings.items():
            if name not in given and not defaults:
                continue
            value = given.get(name, setting.default)
            if _folded(value) != _folded(setting.needed):
                said = "" if name in given else f", the default of {self.name!r},"
                raise ArgumentError(
                    f"{self.who}: {name} is {value!r}{said} but {self.form.spec.name} needs "
                    f"{name}={setting.needed!r}: {setting.why}."
                )

    # Places --------------------------------------------------------------------------------------

    def places(self, bias: bool) -> Iterator[_Place]:
        """List the system's arrays, in its order."""
        form, kind = self.form, self.system.arrangement
        arrays = [array for array in self.arrays if bias or array.weight]
        # A vector holds all weights first, then all biases.
        groups = (
            [[a for a in arrays if a.weight], [a for a in arrays if not a.weight]]
            if kind == "vector"
            else [arrays]
        )
        for group in groups:
            for k in range(form.L):
                whole = kind == "layers"
                for d in range(1 if whole else form.D):
                    directions = slice(0, form.D) if whole else slice(d, d + 1)
                    for index, array in enumerate(group):
                        shape = self._shape(array.shape, k)
                        for gate, name in self._named(array):
                            path: Path
                            if kind == "names":
                                path = (f"{name}_l{k}" + ("_reverse" if d else ""),)
                            elif kind == "lists":
                                path = (k, d * len(group) + index)
                            elif kind == "cells":
                                path = (k * form.D + d, *name.split("/"))
                            else:
                                path = (k, name) if whole else (k, d, name)
                            yield _Place(array, k, directions, gate, path, shape)

    def _named(self, array: Array) -> Iterator[tuple[int | None, str]]:
        if "{gate}" not in array.name:
            yield None, array.name
            return
        for g, letter in enumerate(self.letters):
            segments = array.name.format(gate=letter).split("/")
            yield g, "/".join(self.system.renamed.get(s, s) for s in segments)

    def _width(self, k: int) -> int:
        return self.form.I if k == 0 else self.form.D * self.form.H

    def _shape(self, text: str, k: int) -> tuple[int, ...]:
        form = self.form
        sizes = {"I": self._width(k), "H": form.H, "G": form.spec.G, "D": form.D}

        def size(axis: str) -> int:
            terms = (term.split("*") for term in axis.split("+"))
            return sum(math.prod(sizes.get(f) or int(f) for f in factors) for factors in terms)

        return tuple(size(axis) for axis in text.split())

    # Out -----------------------------------------------------------------------------------------

    def export(self, parameters: Mapping[str, ndarray]) -> Any:
        """Return the system's structure, in arrays of its own."""
        bias = self.form.bias or self.system.biased
        layers = [self._blocks(parameters, k) for k in range(self.form.L)]
        found = []
        for place in self.places(bias):
            pieces = [layers[place.k][part][place.d] for part in place.array.parts.split()]
            if place.gate is not None:
                pieces = [piece[:, place.gate : place.gate + 1] for piece in pieces]
            joined = np.concatenate(pieces, axis=3 if place.array.weight else 1)
            if place.array.weight and self.system.transposed:
                joined = joined.transpose(0, 3, 1, 2)
            # concatenate has copied, so that nothing here is a view of the layer's parameters.
            found.append((place.path, np.ascontiguousarray(joined).reshape(place.shape)))
        if self.system.arrangement == "vector":
            return np.concatenate([array.reshape(-1) for _, array in found])
        return _tree(found)

    def _blocks(self, parameters: Mapping[str, ndarray], k: int) -> dict[str, ndarray]:
        """Return the parts of a layer, both directions stacked, gates in the system's order."""
        form = self.form
        G, H = form.spec.G, form.H
        rows = [[parameters[n] for n in names if n is not None] for names in self.names[k]]
        if not form.bias:
            rows = [[*row, *np.zeros((2, G * H), form.dtype)] for row in rows]
        W, R, bW, bR = (
            np.stack([a.reshape(G, H, *a.shape[1:])[self.order] for a in arrays])
            for arrays in zip(*rows, strict=True)
        )
        blocks = {"W": W, "R": R, "bW": bW, "bR": bR}
        parts = self._parts
        if "b" in parts:
            if "bn" not in parts and np.any(bR[:, self.apart] != 0):
                letter = self.letters[self.apart[0]]
                raise ArgumentError(
                    f"{self.who}: bias_hh of gate {letter} in layer {k} is not 0, expected 0: the "
                    f"{form.spec.name} of {self.name!r} has no such bias, and it cannot be summed "
                    f"into bias_ih, since r stands between."
                )
            b = bW.copy()
            for g, letter in enumerate(self.letters):
                if g not in self.apart:
                    b[:, g] = _sum(bW[:, g], bR[:, g], self.added.get(letter, 0))
            blocks |= {"b": b, "bn": bR[:, self.apart]}
        return blocks

    @property
    def _parts(self) -> set[str]:
        return {part for array in self.arrays for part in array.parts.split()}

    # In ------------------------------------------------------------------------------------------

    def read(self, arrays: Any) -> dict[str, ndarray]:
        """Return our parameters by name.

        Raises
        ------
        ArgumentError, ShapeError, DTypeError
            If the arrays do not have the structure, a shape or the element type expected, or stand
            for a function that we do not compute.
        """
        form = self.form
        bias, found = self._found(arrays)
        G, H = form.spec.G, form.H
        sizes = {"bn": len(self.apart)}
        layers = []
        for k in range(form.L):
            W = np.zeros((form.D, G, H, self._width(k)), form.dtype)
            R = np.zeros((form.D, G, H, H), form.dtype)
            layers.append({"W": W, "R": R})
            for part in ("bW", "bR", "b"):
                layers[k][part] = np.zeros((form.D, G, H), form.dtype)
            layers[k]["bn"] = np.zeros((form.D, len(self.apart), H), form.dtype)
        for place, array in found:
            blocks, parts = layers[place.k], place.array.parts.split()
            gates = slice(None) if place.gate is None else slice(place.gate, place.gate + 1)
            D = place.d.stop - place.d.start
            axis, start = (3 if place.array.weight else 1), 0
            if not place.array.weight:
                array = array.reshape(D, -1, H)
            elif self.system.transposed:
                K = sum(blocks[part].shape[3] for part in parts)
                array = array.reshape(D, K, -1, H).transpose(0, 2, 3, 1)
            else:
                array = array.reshape(D, -1, H, array.shape[-1])
            for part in parts:
                size = blocks[part].shape[3] if axis == 3 else sizes.get(part, G)
                if place.gate is not None and axis == 1:
                    size = 1
                piece = array.take(range(start, start + size), axis)
                blocks[part][place.d, gates] = piece
                start += size
        values: dict[str, ndarray] = {}
        back = np.argsort(self.order)
        for k, blocks in enumerate(layers):
            if bias and "b" in self._parts:
                self._spread(blocks)
            if bias and not form.bias:
                self._nothing_lost(k, blocks)
            for d, names in enumerate(self.names[k]):
                for part, name in zip(("W", "R", "bW", "bR"), names, strict=True):
                    if name is not None:
                        block = blocks[part][d][back]
                        values[name] = block.reshape(G * H, *block.shape[2:])
        return values

    def _spread(self, blocks: dict[str, ndarray]) -> None:
        """Make two biases of one: all of it in bW, what is added at run time in bR."""
        blocks["bW"] = blocks["b"]
        for g, letter in enumerate(self.letters):
            blocks["bR"][:, g] = self.added.get(letter, 0)
        blocks["bR"][:, self.apart] = blocks["bn"]

    def _nothing_lost(self, k: int, blocks: dict[str, ndarray]) -> None:
        """Raise unless the biases are zero, which a layer without biases cannot keep."""
        bW, bR = blocks["bW"], blocks["bR"]
        total = _sum(bW, bR)
        total[:, self.apart] = np.abs(bW[:, self.apart]) + np.abs(bR[:, self.apart])
        if np.any(total != 0):
            raise ArgumentError(
                f"{self.who}: the biases of layer {k} are not 0, but the layer has bias=False. "
                "Make it with bias=True."
            )

    def _found(self, arrays: Any) -> tuple[bool, list[tuple[_Place, ndarray]]]:
        """Match the arrays with their places; says whether there are biases."""
        form, system = self.form, self.system
        check = Checker(self.who, (form.dtype, "the layer"))
        choices = [True] if system.biased else [form.bias, not form.bias]
        if system.arrangement == "vector":
            vector = check.real("arrays", arrays)
            lengths = {bias: sum(math.prod(p.shape) for p in self.places(bias)) for bias in choices}
            bias = next((b for b in choices if vector.shape == (lengths[b],)), None)
            if bias is None:
                raise ShapeError(
                    f"{self.who}: arrays has shape {vector.shape}, expected "
                    f"({lengths[form.bias]},): all weights and then all biases; {self._sizes()}."
                )
            places = list(self.places(bias))
            ends = np.cumsum([math.prod(place.shape) for place in places])
            cut = zip(places, np.split(vector, ends[:-1]), strict=True)
            leaves = {place.path: part.reshape(place.shape) for place, part in cut}
        else:
            leaves = dict(_leaves(arrays, ()))
            bias = next(
                (b for b in choices if {p.path for p in self.places(b)} == set(leaves)), None
            )
            if bias is None:
                self._wrong_structure(choices[0], leaves)
        if form.bias and not bias:
            raise ArgumentError(
                f"{self.who}: the arrays hold no biases, but the layer has bias=True. Make it with "
                "bias=False."
            )
        found = []
        for place in self.places(bool(bias)):
            label = f"arrays{_label(place.path)}"
            if system.arrangement == "lists":
                label += f" ({place.array.name})"
            array = check.real(label, leaves[place.path])
            if array.shape != place.shape:
                self._wrong_shape(label, place, array.shape)
            found.append((place, array))
        return bool(bias), found

    def _wrong_structure(self, bias: bool, leaves: Mapping[Path, Any]) -> None:
        expected = [place.path for place in self.places(bias)]
        missing = [path for path in expected if path not in leaves]
        unexpected = [path for path in leaves if path not in set(expected)]
        for path in unexpected:
            for name, why in self.system.foreign.items():
                if path and str(path[-1]).startswith(name):
                    raise ArgumentError(f"{self.who}: arrays{_label(path)} is of no use: {why}.")
        text = [f"missing {_listed(missing)}"] if missing else []
        text += [f"unexpected {_listed(unexpected)}"] if unexpected else []
        form = self.form
        kind = {
            "names": "a dict by PyTorch's names",
            "cells": f"a list of {form.L * form.D} dicts, one per layer and direction",
            "layers": f"a list of {form.L} dicts, one per layer",
            "lists": f"a list of {form.L} lists, one per layer",
        }[self.system.arrangement]
        raise ArgumentError(
            f"{self.who}: the arrays do not have the structure of {self.name!r}, {kind}: "
            f"{'; '.join(text)}; {self._sizes()}."
        )

    def _wrong_shape(self, label: str, place: _Place, came: tuple[int, ...]) -> None:
        for function, variant, why in self.system.variants:
            if (function, variant.name) == (self.form.spec.function, place.array.name) and (
                came == self._shape(variant.shape, place.k)
            ):
                raise ArgumentError(f"{self.who}: {label} has shape {came}: {why}.")
        axes = place.array.shape.split()
        spec = f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"
        if place.k and "I" in place.array.shape:
            spec += f" with I={self._width(place.k)}, the width of layer {place.k - 1}'s output,"
        raise ShapeError(
            f"{self.who}: {label} has shape {came}, expected {spec} = {place.shape}; "
            f"{self._sizes()}."
        )

    def _sizes(self) -> str:
        form = self.form
        return (
            f"I={form.I}, H={form.H}, {form.L} layers and {form.D} directions from the layer, "
            f"G={form.spec.G} from the cell {form.spec.name}"
        )


def _known(who: str, system: Any) -> System:
    if not isinstance(system, str) or system not in SYSTEMS:
        raise ArgumentError(
            f"{who}: unknown system {system!r}, expected one of {', '.join(SYSTEMS)}."
        )
    return SYSTEMS[system]


def _sum(a: ndarray, b: ndarray, less: float = 0) -> ndarray:
    """Return a + (b - less), and a itself where that is a + 0: a zero in a keeps its sign."""
    dtype = a.dtype
    if less:  # three terms, which a wider type sums before they are rounded
        wide = np.dtype(np.float64 if dtype == np.float32 else np.longdouble)
        # As `read` puts it into bias_hh.
        a, b = a.astype(wide), b.astype(wide) - wide.type(dtype.type(less))
    with np.errstate(over="ignore", invalid="ignore"):  # as a kernel adds them
        return np.where(b == 0, a, a + b).astype(dtype)


def _plain(value: Any) -> Any:
    """Return text for bytes, as in attributes of ONNX, and lists for tuples and arrays."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    # An array, which has no one truth when it is compared, as its numbers.
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _folded(value: Any) -> Any:
    """Return a setting as it is compared: names without regard to case."""
    if isinstance(value, list):
        return [_folded(entry) for entry in value]
    return value.casefold() if isinstance(value, str) else value


def _leaves(tree: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """List what is in dicts and lists, and empty ones too; None is no array (Equinox, MLX)."""
    branches: Any = ()
    if isinstance(tree, Mapping):
        branches = tree.items()
    elif isinstance(tree, Sequence) and not isinstance(tree, (str, bytes)):
        branches = list(enumerate(tree))
    for name, branch in branches:
        yield from _leaves(branch, (*path, name))
    if len(branches) == 0 and tree is not None:
        yield path, tree


def _tree(found: list[tuple[Path, ndarray]]) -> Any:
    """Build dicts and lists: the opposite of `_leaves`."""
    branches: dict[str | int, Any] = {}
    for path, array in found:
        if not path:
            return array
        branches.setdefault(path[0], []).append((path[1:], array))
    built = {name: _tree(branch) for name, branch in branches.items()}
    return list(built.values()) if all(isinstance(name, int) for name in built) else built


def _label(path: Path) -> str:
    return "".join(f"[{segment!r}]" for segment in path)


def _listed(paths: list[Path]) -> str:
    """Name up to six paths."""
    text = ", ".join(_label(path) or "arrays itself" for path in paths[:6])
    return text if len(paths) <= 6 else f"{text} and {len(paths) - 6} more"
