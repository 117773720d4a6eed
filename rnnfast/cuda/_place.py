"""Where one call on a GPU runs: a device, a stream, and memory in order with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _layer
from ._arrays import DeviceArray, strides_of
from ._precision import tf32_asked

__all__ = ["Place"]


class Place:
    """Makes arrays on one device, in order with one of its streams; see `_layer.Memory`.

    What it made may be let go at any time: its memory is given back in order with the stream.
    """

    def __init__(self, module: Any, stream: Any, dtype: np.dtype) -> None:
        self.module, self.stream, self.dtype = module, stream, dtype
        storage = f"f{dtype.itemsize * 8}"
        narrow = storage == "f32" and tf32_asked()
        self.device = _layer.Device(module, stream.device, stream.pointer, storage, narrow)

    @classmethod
    def own(cls, module: Any, dtype: np.dtype, device: int = 0) -> Place:
        """Return a place with a stream that nobody else uses meanwhile."""
        return cls(module, module.Stream(device), dtype)

    @classmethod
    def beside(cls, array: DeviceArray, dtype: np.dtype) -> Place:
        """Return the place of an array, on its stream."""
        module = array._module
        return cls(module, module.Stream.borrow(array.device, array.stream), dtype)

    def _array(self, block: Any) -> DeviceArray:
        shape, at = block.shape, (self.stream.device, self.stream.pointer)
        return DeviceArray(
            self.module, block, block.pointer, shape, strides_of(shape), block.dtype, *at
        )

    def empty(self, shape: tuple[int, ...], wide: bool = False) -> DeviceArray:
        """Make room for an array."""
        return self._array(self.module.empty(shape, self.dtype, self.stream))

    def zeros(self, shape: tuple[int, ...], wide: bool = False) -> DeviceArray:
        """Make an array of zeros."""
        return self._array(self.module.zeros(shape, self.dtype, self.stream))

    def put(self, array: np.ndarray | None) -> DeviceArray | None:
        """Copy an array of the host to the device."""
        if array is None:
            return None
        return self._array(self.module.put(np.ascontiguousarray(array), self.stream))

    def scratch(self, size: int) -> Any:
        """Make room for so many bytes."""
        return self.module.empty((size,), np.dtype(np.uint8), self.stream)

    def pointer(self, array: Any) -> int:
        """Return where an array lies."""
        return array.pointer
