"""Bytes of the fuzzer as choices, and the changes that make a good call a bad one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

__all__ = [
    "Choices",
    "alter_in_place",
    "arrays_in",
    "let_go_of",
    "mutate",
    "mutate_arguments",
]


class Choices:
    """The input of one run, byte by byte; 0 behind its end, which is always the tame choice."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def next(self, n: int) -> int:
        """Return a number in 0 ... n-1."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1] % n

    def one_of(self, values: Any) -> Any:
        return values[self.next(len(values))]


class _Raises:
    """Answers every question that Python may ask of a number, flag or array with an exception."""

    def _no(self, *_: Any) -> Any:
        raise ZeroDivisionError("asked")

    __float__ = __int__ = __index__ = __bool__ = __len__ = __array__ = __iter__ = __eq__ = _no
    __hash__ = None  # type: ignore[assignment]


class _Shrinks(float):
    """A number that lets go of memory when it is looked at."""

    arrays: tuple[np.ndarray, ...] = ()

    def __float__(self) -> float:
        for array in self.arrays:
            _resized(array)
        return 0.5


class _ShrinksIndex(int):
    def __index__(self) -> int:
        for array in _Shrinks.arrays:
            _resized(array)
        return 1

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.__index__())


class _Lazy:
    """No float, but may be made one, at a price."""

    def __float__(self) -> float:
        return float(_Shrinks().__float__())

    def __index__(self) -> int:
        return _ShrinksIndex().__index__()


def _resized(array: np.ndarray) -> None:
    try:
        array.resize((array.size // 2,), refcheck=False)
    except ValueError:  # it does not own its memory
        return


class _Subclass(np.ndarray):
    pass


VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: False,
    lambda: 0,
    lambda: 1,
    lambda: -1,
    lambda: 2,
    lambda: 7,
    lambda: 2**31,
    lambda: 2**32 - 1,
    lambda: 2**32,
    lambda: 2**62,
    lambda: 2**63,
    lambda: 2**64 - 1,
    lambda: 2**64,
    lambda: -(2**63),
    lambda: 10**400,
    lambda: 0.0,
    lambda: 0.5,
    lambda: 1.0,
    lambda: -0.0,
    lambda: 1.0000001,
    lambda: 1e-320,
    lambda: 1e-40,
    lambda: 1e39,
    lambda: 1.75e308,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: -float("inf"),
    lambda: 1j,
    lambda: "",
    lambda: "tanh",
    lambda: "zero",
    lambda: "hold",
    lambda: "numpy",
    lambda: "step",
    lambda: "learned",
    lambda: "gru",
    lambda: "\ud800",
    lambda: b"lstm",
    lambda: (),
    lambda: [],
    lambda: {},
    lambda: (None,),
    lambda: (0.25,),
    lambda: (0.25, 0.5),
    lambda: (None, None),
    lambda: [0.25, 0.25],
    lambda: object(),
    lambda: int,
    lambda: np.float32(0.5),
    lambda: np.float64(0.25),
    lambda: np.longdouble("1e4000"),
    lambda: np.float16(1),
    lambda: np.int64(3),
    lambda: np.uint8(1),
    lambda: np.uint64(2**64 - 1),
    lambda: np.bool_(True),
    lambda: np.datetime64("2000-01-01"),
    lambda: np.timedelta64(1),
    lambda: np.zeros(()),
    lambda: np.zeros((), np.int64),
    lambda: np.zeros(0),
    lambda: np.zeros(0, np.int64),
    lambda: np.zeros((0, 0, 0), np.float32),
    lambda: np.zeros((1,) * 8),
    lambda: np.array([None, 1], object),
    lambda: np.array(["a"]),
    lambda: np.zeros(3, [("a", "f4"), ("b", "i8")]),
    lambda: np.zeros(3, "M8[s]"),
    lambda: np.ma.masked_all((2, 2, 2)),
    lambda: memoryview(b"abcd"),
    lambda: _Raises(),
    lambda: _Shrinks(0.5),
    lambda: _ShrinksIndex(1),
    lambda: _Lazy(),
]


# Arrays ------------------------------------------------------------------------------------------

_DTYPES = [
    *("f4", "f8", "f2", "g", "c8", "i8", "i4", "u4", "u8", "i1", "?", "O", "S4", "M8[s]", "V4"),
    *(">f4", ">f8", ">i8", "m8[s]", "f4,f4"),
]


def _axis(a: np.ndarray, b: Choices) -> int:
    return b.next(a.ndim) if a.ndim else 0


def _index(a: np.ndarray, b: Choices, what: slice) -> np.ndarray:
    axis = _axis(a, b)
    return a[(slice(None),) * axis + (what,)] if a.ndim else a


def _strides(a: np.ndarray, b: Choices, factor: int) -> np.ndarray:
    """Overlapping: an axis that goes slower than it says, or stays."""
    if not a.ndim:
        return a
    axis = _axis(a, b)
    strides = list(a.strides)
    strides[axis] = strides[axis] // 2 // a.itemsize * a.itemsize if factor else 0
    return as_strided(a, a.shape, strides)


def _unaligned(a: np.ndarray, b: Choices) -> np.ndarray:
    if a.dtype.hasobject:
        return a
    memory = np.empty(a.nbytes + 8, np.uint8)
    out = np.frombuffer(memory.data, a.dtype, a.size, offset=1).reshape(a.shape)
    out[...] = a
    return out


def _read_only(a: np.ndarray, b: Choices) -> np.ndarray:
    a = a.copy()
    a.setflags(write=False)
    return a


def _put(a: np.ndarray, b: Choices) -> np.ndarray:
    """One odd value in the array."""
    a = a.copy()
    values: list[Any] = [-1, 0, 1, 5, 2**31, 2**63 - 1, -(2**63), 2**62]
    if a.dtype.kind in "fc":
        values = [float("nan"), float("inf"), 1e30, -1e300, 1e-310, 0.0]
    if a.size and a.dtype.kind in "fciub":
        value = b.one_of(values)
        with np.errstate(all="ignore"):
            a.reshape(-1)[b.next(256) % a.size] = np.array(value).astype(a.dtype)
    return a


def _reinterpreted(a: np.ndarray, b: Choices) -> np.ndarray:
    dtype = np.dtype(b.one_of(["i4", "i8", "f4", "f8", "u1", ">f4", ">f8", ">i8"]))
    same = a.dtype.itemsize == dtype.itemsize and not a.dtype.hasobject
    return a.view(dtype) if same else a


def _converted(a: np.ndarray, b: Choices) -> np.ndarray:
    with np.errstate(all="ignore"):
        try:
            return a.astype(b.one_of(_DTYPES))
        except (ValueError, TypeError, RuntimeError):  # of strings, and dates that do not fit one
            return a


CHANGES: list[Callable[[np.ndarray, Choices], Any]] = [
    _converted,
    _reinterpreted,
    _put,
    _unaligned,
    _read_only,
    lambda a, b: a.astype(a.dtype.newbyteorder()),
    lambda a, b: _index(a, b, slice(None, None, -1)),
    lambda a, b: _index(a, b, slice(1, None)),
    lambda a, b: _index(a, b, slice(None, -1)),
    lambda a, b: _index(a, b, slice(None, None, 2)),
    lambda a, b: _index(a, b, slice(0, 0)),
    lambda a, b: np.repeat(a, 2, _axis(a, b)) if a.ndim else a,
    lambda a, b: np.repeat(a, 2, _axis(a, b))[..., ::2] if a.ndim else a,
    lambda a, b: a.T,
    lambda a, b: np.asfortranarray(a),
    lambda a, b: a.swapaxes(0, _axis(a, b)) if a.ndim else a,
    lambda a, b: np.expand_dims(a, b.next(a.ndim + 1)),
    lambda a, b: a.reshape(-1),
    lambda a, b: a[0] if a.ndim and len(a) else a,
    lambda a, b: np.broadcast_to(a, (b.next(5), *a.shape)),
    lambda a, b: np.broadcast_to(_index(a, b, slice(0, 1)), a.shape) if a.size else a,
    lambda a, b: _strides(a, b, 0),
    lambda a, b: _strides(a, b, 1),
    lambda a, b: a.view(_Subclass),
    lambda a, b: np.matrix(a) if a.ndim == 2 else a.view(_Subclass),
    lambda a, b: np.ma.masked_array(a),
    lambda a, b: a.tolist() if a.size < 1000 else a,
    lambda a, b: np.zeros_like(a),
    lambda a, b: np.full_like(a, 1),
    lambda a, b: a[::-1] if a.ndim else a,
    lambda a, b: np.concatenate([a, a]) if a.ndim else a,
    lambda a, b: memoryview(a) if a.dtype.kind in "fiub" else a,
]


# Calls -------------------------------------------------------------------------------------------


def _container(tree: Any, b: Choices) -> Any:
    """A tuple or dict of another length or kind."""
    if isinstance(tree, dict):
        out = dict(tree)
        if b.next(2) and out:
            del out[b.one_of(sorted(out))]
        else:
            out[b.one_of(["nonsense", "lengths", "mask", "seed", "threads", "state"])] = b.one_of(
                VALUES
            )()
        return out
    items = list(tree)
    return b.one_of(
        [
            lambda: tuple(items[:-1]),
            lambda: (*items, b.one_of(VALUES)()),
            lambda: tuple(items[::-1]),
            lambda: items,
            lambda: (),
            lambda: tuple(items) * 2,
        ]
    )()


def mutate(tree: Any, b: Choices) -> Any:
    """Put something else in one place of nested tuples, lists, dicts and arrays."""
    inner = isinstance(tree, (tuple, list, dict)) and len(tree) > 0
    if inner and b.next(8) < 7:
        key = b.one_of(sorted(tree)) if isinstance(tree, dict) else b.next(len(tree))
        changed = mutate(tree[key], b)
        if isinstance(tree, dict):
            return {**tree, key: changed}
        items = [*tree[:key], changed, *tree[key + 1 :]]
        if hasattr(tree, "_make"):
            return tree._make(items)
        return tuple(items) if isinstance(tree, tuple) else items
    if inner and b.next(2):
        return _container(tree, b)
    if isinstance(tree, np.ndarray) and b.next(4) < 3:
        return b.one_of(CHANGES)(tree, b)
    return b.one_of(VALUES)()


def mutate_arguments(args: tuple[Any, ...], b: Choices) -> tuple[Any, ...]:
    """Put something else into one argument; their number stays."""
    k = b.next(len(args))
    return (*args[:k], mutate(args[k], b), *args[k + 1 :])


def arrays_in(tree: Any) -> list[np.ndarray]:
    """All arrays in nested tuples, lists and dicts."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        return [array for entry in tree for array in arrays_in(entry)]
    return [tree] if isinstance(tree, np.ndarray) else []


def let_go_of(arrays: list[np.ndarray]) -> None:
    """Tell the numbers above which arrays they may shrink."""
    _Shrinks.arrays = tuple(arrays)


def alter_in_place(array: np.ndarray, b: Choices, *, views: bool = False) -> None:
    """Change an array that others hold: its values, or what it says about itself.

    Its memory is let alone where others may have views of it: NumPy would not keep it for them.
    """

    def values() -> None:
        array.reshape(-1)[:1] = 1

    def shape(new: Any) -> None:
        array.shape = new

    def strides(new: Any) -> None:
        array.strides = new

    def dtype(new: str) -> None:
        array.dtype = np.dtype(new)

    changes: list[Callable[[], None]] = [
        values,
        lambda: shape(array.shape[::-1]),
        lambda: shape((array.size,)),
        lambda: shape((1, *array.shape)),
        lambda: shape((*array.shape, 1)),
        lambda: shape(()),
        lambda: strides(tuple(0 for _ in array.shape)),
        lambda: strides(tuple(-s for s in array.strides)),
        lambda: dtype("i4"),
        lambda: dtype("u1"),
        lambda: dtype("i8"),
        lambda: dtype(array.dtype.newbyteorder().str),
        lambda: array.setflags(write=False),
    ]
    memory: list[Callable[[], None]] = [
        lambda: array.resize((0,), refcheck=False),
        lambda: array.resize((1, 1, 1), refcheck=False),
        lambda: array.resize((max(array.size, 1) * 64,), refcheck=False),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            b.one_of(changes if views else changes + memory)()
        except (ValueError, TypeError, AttributeError, IndexError):
            return  # NumPy does not allow this one
