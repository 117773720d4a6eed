"""The one checker of arrays: binds letters to sizes once and says in words what does not fit.

It runs only where the quick road has failed: the compiled module refuses in a few nanoseconds what
is not as its contract says, and this module then names the array at fault, or copies what needs
copying.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .cuda._arrays import DeviceArray, dense, lies_on_gpu
from .errors import ArgumentError, DTypeError, IndexRangeError, ShapeError

__all__ = ["Checker", "check_index_range", "check_threads", "is_index_array"]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
# The recurrent width is the hidden size as long as there is no projection; it keeps its letter in
# messages.
_ALIAS = {"P": "H"}


class Checker:
    """Letters bound to sizes, and the element type, each with the argument that fixed it.

    Parameters
    ----------
    who : str
        The public name that speaks: ``"rnnfast.gru"``.
    dtype : (numpy.dtype, str), optional
        Element type fixed beforehand, and by what; else the first array fixes it.
    **sizes : (int, str)
        Letters fixed beforehand, and by what: ``G=(3, "the cell")``.
    """

    def __init__(self, who: str, dtype: tuple[np.dtype, str] | None = None, **sizes) -> None:
        self.who = who
        self._dtype = dtype
        self._sizes: dict[str, tuple[int, str]] = dict(sizes)

    def __getitem__(self, letter: str) -> int:
        return self._sizes[_ALIAS.get(letter, letter)][0]

    def source(self, letter: str) -> str:
        """Return the argument that fixed a letter."""
        return self._sizes[_ALIAS.get(letter, letter)][1]

    def bind(self, source: str, **sizes: int) -> None:
        """Fix letters by an argument that says them otherwise than by its shape."""
        self._sizes.update({letter: (size, source) for letter, size in sizes.items()})

    @property
    def dtype(self) -> np.dtype:
        """The element type all arrays share."""
        if self._dtype is None:
            raise RuntimeError(f"{self.who}: no array has fixed the element type yet.")
        return self._dtype[0]

    # Shapes --------------------------------------------------------------------------------------

    def shape(self, name: str, array: np.ndarray, spec: str, other: str | None = None) -> None:
        """Match an array with a spec such as ``"T B I"``, ``"G*H P"``; unbound letters get bound.

        A second spec, in letters already bound, is as good: ``"1 B H"``.

        Raises
        ------
        ShapeError
            In the form: array, what came, what was expected, and which argument fixed each letter.
        """
        dims = spec.split()
        others = [] if other is None else other.split()
        if others and array.shape == tuple(self._size(dim) for dim in others):
            return
        if array.ndim == len(dims):
            for dim, size in zip(dims, array.shape, strict=True):
                letter = _ALIAS.get(dim, dim)
                if "*" not in dim and letter not in self._sizes:
                    self._sizes[letter] = (size, name)
        expected = tuple(self._size(dim) for dim in dims)
        if array.shape == expected:
            return
        text = f"{self.who}: {name} has shape {array.shape}, expected {_tuple(dims)}"
        if any(isinstance(size, int) for size in expected):
            text += f" = {_tuple(expected)}"
        if others:
            sizes = tuple(self._size(dim) for dim in others)
            text += f" or {_tuple(others)} = {_tuple(sizes)}"
        reasons = self._reasons(name, dims + [dim for dim in others if dim not in dims])
        raise ShapeError(f"{text}; {reasons}." if reasons else f"{text}.")

    def exactly(self, name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
        """Match an array with a shape that the layer's sizes fix."""
        if array.shape != expected:
            raise ShapeError(
                f"{self.who}: {name} has shape {array.shape}, expected {expected} from the layer."
            )

    def _size(self, dim: str) -> int | str:
        if dim.isdigit():
            return int(dim)
        size = 1
        for factor in dim.split("*"):
            letter = _ALIAS.get(factor, factor)
            if letter not in self._sizes:
                return dim
            size *= self._sizes[letter][0]
        return size

    def _reasons(self, name: str, dims: list[str]) -> str:
        """Say what fixed each letter; the array's own sizes matter only in a product."""
        reasons = {}
        for dim in dims:
            for factor in dim.split("*"):
                letter = _ALIAS.get(factor, factor)
                size, source = self._sizes.get(letter, (0, name))
                if source != name or ("*" in dim and letter in self._sizes):
                    reasons[letter] = (size, source)
        # What the caller chose comes first.
        entries = sorted(reasons.items(), key=lambda entry: entry[1][1] == "the cell")
        return ", ".join(f"{letter}={size} from {source}" for letter, (size, source) in entries)

    # Types ---------------------------------------------------------------------------------------

    def _array(self, name: str, array: Any) -> np.ndarray:
        if isinstance(array, np.ma.MaskedArray):
            raise DTypeError(
                f"{self.who}: {name} is a masked array, and its mask would be ignored. "
                f"Use {name}.filled(value)."
            )
        if lies_on_gpu(array):
            raise DTypeError(
                f"{self.who}: {name} lies on a GPU, and what decides where the call runs does not; "
                "expected all arrays of a call in one place."
            )
        if not isinstance(array, np.ndarray):
            kind = type(array)
            title = kind.__qualname__
            if kind.__module__ != "builtins":
                title = f"{kind.__module__}.{title}"
            raise DTypeError(
                f"{self.who}: {name} is of type {title}, expected a NumPy array. "
                f"Use np.asarray({name})."
            )
        return array

    def _native(self, name: str, array: np.ndarray) -> None:
        if not array.dtype.isnative:
            foreign = "big" if sys.byteorder == "little" else "little"
            raise DTypeError(
                f"{self.who}: {name} is {array.dtype.name} in {foreign}-endian byte order "
                f"({array.dtype.str}), expected this machine's {sys.byteorder}-endian order. "
                f'Use {name}.astype({name}.dtype.newbyteorder("=")).'
            )

    def real(self, name: str, array: Any) -> np.ndarray:
        """Check for a NumPy array of the call's element type, in this machine's byte order."""
        array = self._array(name, array)
        if array.dtype.newbyteorder("=") not in _FLOATS:
            remedy = f"{name}.astype(np.float32)"
            if self._dtype is not None:
                remedy = f'{name}.astype("{self._dtype[0]}")'
            raise DTypeError(
                f"{self.who}: {name} is {array.dtype}, expected float32 or float64. Use {remedy}."
            )
        self._native(name, array)
        if self._dtype is None:
            self._dtype = (array.dtype, name)
        dtype, source = self._dtype
        if array.dtype != dtype:
            same = f"{source}.dtype" if source.isidentifier() else f'"{dtype}"'
            raise DTypeError(
                f"{self.who}: {source} is {dtype} but {name} is {array.dtype}; all arrays must "
                f"share one dtype. Use {name}.astype({same})."
            )
        return array

    # Where arrays lie ----------------------------------------------------------------------------

    def entered(self, name: str, array: Any) -> Any:
        """Return an array as the checks read it."""
        return array

    def beside(self, array: Any) -> None:
        """Fix where the arrays of a call lie, by one that has been checked before."""

    def there(self, array: np.ndarray) -> Any:
        """Bring an array of the library's own to where those of the call lie."""
        return array

    def leave(self) -> None:
        """Say that the call has read its arrays."""

    # The kinds of array a call takes -------------------------------------------------------------

    def block(self, name: str, array: Any, spec: str, other: str | None = None) -> np.ndarray:
        """Check a parameter or a state; returns it C-contiguous, a copy only where it was not."""
        array = self.real(name, array)
        self.shape(name, array, spec, other)
        return dense(array)

    def sequence(self, name: str, array: Any, spec: str) -> np.ndarray:
        """Check a sequence, of which only the last axis must be dense; else it is copied."""
        array = self.real(name, array)
        self.shape(name, array, spec)
        return np.asarray(array) if _inner_dense(array) else np.array(array, order="C")

    def indices(self, name: str, array: Any, spec: str) -> np.ndarray:
        """Check an index input, its range excepted, as int64 and C-contiguous."""
        array = self._array(name, array)
        self._native(name, array)
        self.no_features(name, array, spec)
        self.shape(name, array, spec)
        return array

    def no_features(self, name: str, array: Any, spec: str) -> None:
        """Refuse integers with an axis of features: they were meant as numbers."""
        axes = spec.split()
        if array.ndim == len(axes) + 1:
            dtype = "W.dtype" if self._dtype is None else f'"{self._dtype[0]}"'
            raise DTypeError(
                f"{self.who}: {name} is {array.dtype} with shape {array.shape}; an integer dtype "
                f"means indices {_tuple(axes)}. For dense input use {name}.astype({dtype})."
            )

    def whole(self, name: str, array: Any, spec: str) -> np.ndarray:
        """Check an array of integers, their range excepted."""
        array = self._array(name, array)
        if array.dtype.kind not in "iu":
            raise DTypeError(
                f"{self.who}: {name} is {array.dtype}, expected integers. "
                f"Use {name}.astype(np.int64)."
            )
        self._native(name, array)
        self.shape(name, array, spec)
        return array

    def counts(self, name: str, array: Any, spec: str, most: int, source: str) -> np.ndarray:
        """Check integers of 0 ... `most`, as int64 and C-contiguous."""
        expected = f"0 <= length <= {most}; T={most} from {source}"
        array = self.within(name, array, spec, most, expected)
        return np.require(array, np.int64, requirements=["C", "A", "E"])

    def within(self, name: str, array: Any, spec: str, most: int, expected: str) -> np.ndarray:
        """Check a row of integers in 0 ... `most`, which `expected` says in words."""
        array = self.whole(name, array, spec)
        # Before any conversion, in which a huge unsigned value would turn negative.
        wrong = (array < 0) | (array > most)
        if wrong.any():
            b = int(wrong.argmax())
            raise ArgumentError(
                f"{self.who}: {name} holds {array[b]} at [{b}], expected {expected}."
            )
        return array

    def in_range(
        self, name: str, array: Any, I: int, source: str, used: np.ndarray | None
    ) -> np.ndarray:
        """Check the range of an index input where it is used, as int64 and C-contiguous."""
        return check_index_range(self.who, name, array, I, source, used)

    def kept(self, array: Any) -> np.ndarray:
        """Return an option's array C-contiguous, as a back end reads it."""
        return dense(array)

    def flags(self, name: str, array: Any, spec: str, meaning: str) -> np.ndarray:
        """Check an array of bool, `meaning` being what True says."""
        array = self._array(name, array)
        if array.dtype != np.bool_:
            raise DTypeError(
                f"{self.who}: {name} is {array.dtype}, expected bool, True {meaning}. "
                f"Use {name} != 0."
            )
        self.shape(name, array, spec)
        return array

    def out(self, array: Any, spec: str, apart_from: dict[str, Any]) -> np.ndarray:
        """Check an output array and that it shares no memory with the arrays named.

        Returns
        -------
        numpy.ndarray
            `array` itself where a kernel can write it, else a new dense array to be copied into it.
        """
        array = self.real("out", array)
        self.shape("out", array, spec)
        if not array.flags.writeable:
            raise ArgumentError(f"{self.who}: out is read-only, expected a writable array.")
        if array.size and any(  # NumPy gives empty arrays any strides
            stride == 0 and size > 1
            for stride, size in zip(array.strides, array.shape, strict=True)
        ):
            raise ArgumentError(
                f"{self.who}: out overlaps itself: an axis has stride 0. Use np.empty."
            )
        for name, other in apart_from.items():
            if isinstance(other, np.ndarray) and np.shares_memory(array, other):
                raise ArgumentError(
                    f"{self.who}: out overlaps {name}, expected memory of its own; {name} would be "
                    f"overwritten while it is read. Use np.empty_like."
                )
        usable = _inner_dense(array) and type(array) is np.ndarray
        return array if usable else np.empty(array.shape, array.dtype)

    def threads(self, threads: Any) -> int | None:
        """Check a number of threads; None leaves the choice to the back end."""
        return None if threads is None else check_threads(self.who, "threads", threads)


def check_threads(who: str, name: str, n: Any) -> int:
    """Return a number of threads as an int, 1 ... 1024.

    Raises
    ------
    DTypeError, ArgumentError
        If it is not an integer, or outside.
    """
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
        raise DTypeError(f"{who}: {name} is of type {type(n).__qualname__}, expected int.")
    if not 1 <= n <= 1024:
        raise ArgumentError(f"{who}: {name} is {n}, expected 1 ... 1024.")
    return int(n)


def check_index_range(
    who: str,
    name: str,
    indices: np.ndarray,
    I: int,
    source: str,
    used: np.ndarray | None = None,
    letter: str = "I",
) -> np.ndarray:
    """Return the indices as C-contiguous int64 if all lie in 0 ... I-1, those not used excepted.

    `letter` is what I is called in the message.

    Raises
    ------
    IndexRangeError
        Names the first value outside, its position, I and the argument that fixed I.
    """
    dense = np.require(indices, np.int64, requirements=["C", "A", "E"])
    # As unsigned a negative value is huge, so one pass finds both ends (and an uint64 that
    # wrapped).
    if dense.size and np.maximum.reduce(dense.view(np.uint64), axis=None) >= I:
        wrong = dense.view(np.uint64) >= I
        if used is not None:
            wrong &= used
            if not wrong.any():
                return dense
        place = tuple(int(k) for k in np.unravel_index(int(wrong.argmax()), wrong.shape))
        raise IndexRangeError(
            f"{who}: {name} holds the index {indices[place]} at {list(place)}, "
            f"expected 0 <= index < {I}; {letter}={I} from {source}."
        )
    return dense


def is_index_array(array: Any) -> bool:
    """Whether an input is read as indices: any integer dtype, bool excepted."""
    return isinstance(array, (np.ndarray, DeviceArray)) and array.dtype.kind in "iu"


def _inner_dense(array: np.ndarray) -> bool:
    return array.flags.aligned and (array.shape[-1] <= 1 or array.strides[-1] == array.itemsize)


def _tuple(entries: list[str] | tuple[int | str, ...]) -> str:
    inner = ", ".join(str(entry) for entry in entries)
    return f"({inner},)" if len(entries) == 1 else f"({inner})"
