"""The checks of a call on arrays in the memory of a GPU, whose numbers nobody waits for."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _backend
from .._shapes import Checker
from ..errors import ArgumentError, DeviceError, DTypeError
from ._arrays import DeviceArray, concatenate, dense, host, lies_on_gpu, take
from ._place import Place

__all__ = ["DeviceChecker"]


class DeviceChecker(Checker):
    """Shapes and types as of `Checker`; all arrays must lie on the device of the first one.

    The call's work is put on the stream of the first array. It waits for those of the others, and
    they, after the call, for it: so each may be changed or given back on its own stream at once.
    """

    def __init__(self, who: str, dtype: tuple[np.dtype, str] | None = None, **sizes) -> None:
        super().__init__(who, dtype, **sizes)
        self._first: DeviceArray | None = None
        self._source = "x"
        self._streams: set[int] = set()

    # Where arrays lie ----------------------------------------------------------------------------

    def entered(self, name: str, array: Any) -> DeviceArray:
        """Return an array as it lies on the device, ready on the call's stream."""
        if not lies_on_gpu(array):
            raise DTypeError(
                f"{self.who}: {name} is of type {type(array).__qualname__} in the host's memory, "
                f"but {self._source} lies on a GPU; expected all arrays of a call in one place."
            )
        module, _ = _backend.cuda_module()
        taken = take(module, self.who, name, array)
        if self._first is None:
            why = _backend.cuda_module_on(taken.device)[1]
            if why is not None:
                raise DeviceError(f"{self.who}: {name} lies on GPU {taken.device}, but {why}.")
            self._first, self._source = taken, name
            return taken
        first = self._first
        if taken.device != first.device:
            raise ArgumentError(
                f"{self.who}: {name} lies on GPU {taken.device}, but {self._source} on GPU "
                f"{first.device}; expected all arrays of a call in one place."
            )
        if taken.stream != first.stream and taken.stream not in self._streams:
            self._streams.add(taken.stream)
            module.Stream.borrow(first.device, first.stream).wait_for(taken.stream)
        where = taken.shape, taken.strides, taken.dtype, first.device, first.stream
        return DeviceArray(module, taken._owner, taken.pointer, *where)

    def beside(self, array: Any) -> None:
        """Fix device and stream by those of a tape."""
        self._first, self._source = array.y, "the tape"

    def there(self, array: np.ndarray) -> DeviceArray | None:
        """Copy an array of the library's own to the device."""
        assert self._first is not None
        return Place.beside(self._first, array.dtype).put(array)

    def leave(self) -> None:
        """Let the streams of the other arrays wait for what has been put on the call's."""
        for stream in self._streams:
            assert self._first is not None
            first = self._first
            first._module.Stream.borrow(first.device, stream).wait_for(first.stream)

    def _array(self, name: str, array: Any) -> Any:
        return self.entered(name, array)

    # The kinds of array a call takes -------------------------------------------------------------

    def sequence(self, name: str, array: Any, spec: str) -> Any:
        """Check a sequence, of which only the last axis must be dense; else it is copied."""
        array = self.real(name, array)
        self.shape(name, array, spec)
        return array if _rows_dense(array) else concatenate([array])

    def indices(self, name: str, array: Any, spec: str) -> Any:
        """Check an index input, its range excepted."""
        array = self.entered(name, array)
        self.no_features(name, array, spec)
        self._int64(name, array)
        self.shape(name, array, spec)
        return array

    def whole(self, name: str, array: Any, spec: str) -> np.ndarray:
        """Check an array of integers that the host reads, their range excepted."""
        if lies_on_gpu(array):
            raise DTypeError(
                f"{self.who}: {name} lies on a GPU, expected a NumPy array: the host reads it."
            )
        # As any array of the host's.
        return Checker(self.who, None, **self._sizes).whole(name, array, spec)

    def counts(self, name: str, array: Any, spec: str, most: int, source: str) -> Any:
        """Check int64 numbers that nobody looks at: what is outside 0 ... `most` counts as that."""
        array = self.entered(name, array)
        self._int64(name, array)
        self.shape(name, array, spec)
        array = dense(array)
        made = Place.beside(array, array.dtype).empty(array.shape)
        stream = array._module.Stream.borrow(array.device, array.stream)
        array._module.bounded(array.pointer, made.pointer, array.size, most, stream)
        return made

    def in_range(self, name: str, array: Any, I: int, source: str, used: np.ndarray | None) -> Any:
        """Check the range of an index input where it is used, for which the host waits."""
        # Outside of W a kernel would read anything.
        super().in_range(name, host(array), I, source, used)
        return dense(array)

    def kept(self, array: Any) -> Any:
        """Return a copy of an option's array, which the caller may change after the call."""
        return concatenate([array])

    def out(self, array: Any, spec: str, apart_from: dict[str, Any]) -> Any:
        """Check an output array, and that it lies apart from the arrays named."""
        array = self.real("out", array)
        self.shape("out", array, spec)
        if not _rows_dense(array):
            raise ArgumentError(
                f"{self.who}: out has strides {array.strides}, expected elements of the last axis "
                "side by side: a call on a GPU writes into out as it lies."
            )
        first, end = _extent(array)
        for name, other in apart_from.items():
            if lies_on_gpu(other):
                low, high = _extent(self.entered(name, other))
                if first < high and low < end:
                    raise ArgumentError(
                        f"{self.who}: out overlaps {name}, expected memory of its own."
                    )
        return array

    def _int64(self, name: str, array: Any) -> None:
        if array.dtype != np.int64:
            raise DTypeError(
                f"{self.who}: {name} is {array.dtype}, expected int64: nothing is converted on a "
                f"GPU. Use {name}.astype(np.int64)."
            )


def _rows_dense(array: DeviceArray) -> bool:
    return array.shape[-1] <= 1 or array.strides[-1] == 1


def _extent(array: DeviceArray) -> tuple[int, int]:
    """Return the first byte of an array and the first behind it; nothing where it is empty."""
    if array.size == 0:
        return 0, 0
    reach = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    size = array.dtype.itemsize
    low = array.pointer + sum(min(r, 0) for r in reach) * size
    return low, array.pointer + (sum(max(r, 0) for r in reach) + 1) * size
