"""Arrays in the memory of a GPU: ours, and those of other libraries that say where theirs lie.

Nothing here looks at numbers or waits for the device, `DeviceArray.numpy` excepted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError

__all__ = ["DeviceArray", "concatenate", "dense", "host", "lies_on_gpu", "take"]

LEGACY = 1
"""CUDA's default stream, as both protocols number it."""
_DLPACK_CUDA, _DLPACK_MANAGED = 2, 13
_NOT_SYNCHRONIZED = -1
"""What a consumer says through DLPack who orders streams himself."""


class DeviceArray:
    """An array in the memory of a GPU, as calls on arrays of a GPU return it.

    Other libraries take it without a copy, ``cupy.asarray(y)`` or ``torch.from_dlpack(y)``: it has
    `__cuda_array_interface__` (version 3) and `__dlpack__`, and tells them the stream whose work
    must be done before they read. That stream must live as long as the array.
    """

    __slots__ = ("_module", "_owner", "device", "dtype", "pointer", "shape", "stream", "strides")

    def __init__(
        self,
        module: Any,
        owner: Any,
        pointer: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: np.dtype,
        device: int,
        stream: int,
    ) -> None:
        self._module, self._owner = module, owner
        self.pointer, self.dtype = pointer, dtype
        self.shape, self.strides = tuple(shape), tuple(strides)  # strides in elements
        self.device, self.stream = device, stream

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<rnnfast array {self.shape} {self.dtype} on GPU {self.device}>"

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one after the other, the last axis innermost."""
        return self.size == 0 or all(
            stride == expected
            for stride, expected, size in zip(
                self.strides, strides_of(self.shape), self.shape, strict=True
            )
            if size > 1
        )

    def numpy(self) -> np.ndarray:
        """Return a copy in the host's memory, for which it waits."""
        there = dense(self)
        stream = self._module.Stream.borrow(self.device, self.stream)
        return self._module.fetch(there.pointer, there.shape, there.dtype, stream)

    # Views ---------------------------------------------------------------------------------------

    def _view(self, offset: int, shape: Sequence[int], strides: Sequence[int]) -> DeviceArray:
        pointer = self.pointer + offset * self.dtype.itemsize
        where = self.dtype, self.device, self.stream
        return DeviceArray(self._module, self._owner, pointer, shape, strides, *where)

    def __getitem__(self, key: Any) -> DeviceArray:
        """Return a view by integers, slices and None, as NumPy does."""
        keys = key if isinstance(key, tuple) else (key,)
        offset, shape, strides, axis = 0, [], [], 0
        for k in (*keys, *(slice(None),) * (self.ndim - sum(k is not None for k in keys))):
            if k is None:
                shape.append(1)
                strides.append(0)
                continue
            size, stride = self.shape[axis], self.strides[axis]
            if isinstance(k, slice):
                start, stop, step = k.indices(size)
                count = len(range(start, stop, step))
                offset += start * stride if count else 0
                shape.append(count)
                strides.append(step * stride)
            else:
                if not -size <= k < size:
                    raise IndexError(f"index {k} is outside an axis of {size}")
                offset += k % size * stride
            axis += 1
        return self._view(offset, shape, strides)

    def swapaxes(self, a: int, b: int) -> DeviceArray:
        """Return a view with two axes exchanged."""
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return self._view(0, [self.shape[k] for k in order], [self.strides[k] for k in order])

    def reshape(self, *shape: int) -> DeviceArray:
        """Return a view of contiguous elements in another shape."""
        if not self.contiguous:
            raise ValueError("the elements do not lie one after the other")
        return self._view(0, shape, strides_of(shape))

    # What other libraries read -------------------------------------------------------------------

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        itemsize = self.dtype.itemsize
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None if self.contiguous else tuple(s * itemsize for s in self.strides),
            "stream": self.stream,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if dl_device not in (None, self.__dlpack_device__()) or copy:
            raise BufferError("rnnfast hands out the array as it lies, without a copy")
        if stream != _NOT_SYNCHRONIZED:
            theirs = LEGACY if stream is None else stream
            self._module.Stream.borrow(self.device, theirs).wait_for(self.stream)
        return self._module.to_dlpack(
            self._owner, self.pointer, self.shape, self.strides, self.dtype, self.device
        )


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a C-contiguous array."""
    strides, n = [], 1
    for size in reversed(shape):
        strides.append(n)
        n *= max(size, 1)
    return tuple(reversed(strides))


def lies_on_gpu(array: Any) -> bool:
    """Whether an object says that its numbers lie in the memory of a GPU."""
    if isinstance(array, np.ndarray) or array is None:
        return False
    if isinstance(array, DeviceArray) or hasattr(array, "__cuda_array_interface__"):
        return True
    device = getattr(array, "__dlpack_device__", None)
    return device is not None and device()[0] in (_DLPACK_CUDA, _DLPACK_MANAGED)


def take(module: Any, who: str, name: str, array: Any) -> DeviceArray:
    """Return the memory of an object that `lies_on_gpu`, without a copy.

    Its stream is that on which its numbers are ready. Where an object says none, nothing on the
    device stands in the way, by the protocols, and it is CUDA's default stream.
    """
    if isinstance(array, DeviceArray):
        return array
    interface = getattr(array, "__cuda_array_interface__", None)
    # Before version 3 it said nothing of streams; DLPack always does.
    if interface is not None and (interface["version"] >= 3 or not hasattr(array, "__dlpack__")):
        if interface.get("mask") is not None:
            raise DTypeError(f"{who}: {name} is a masked array, and its mask would be ignored.")
        shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
        pointer, strides = interface["data"][0], interface.get("strides")
        steps = strides_of(shape)
        if strides is not None:
            if any(s % dtype.itemsize for s in strides):
                raise DTypeError(
                    f"{who}: {name} has strides {tuple(strides)} in bytes, expected multiples of "
                    f"its {dtype.itemsize} bytes."
                )
            steps = tuple(s // dtype.itemsize for s in strides)
        device = module.device_of(pointer) if pointer else 0
        stream = interface.get("stream") or LEGACY
        return DeviceArray(module, array, pointer, shape, steps, dtype, device, stream)
    device = array.__dlpack_device__()[1]
    try:
        owner, pointer, shape, steps, dtype = module.from_dlpack(array.__dlpack__(stream=LEGACY))
    except TypeError as error:
        raise DTypeError(f"{who}: {name} is {error}, expected float32 or float64.") from error
    return DeviceArray(module, owner, pointer, shape, steps, dtype, device, LEGACY)


# Arrays of the host or of a device, alike ----------------------------------------------------


def host(array: Any) -> Any:
    """Return an array of NumPy's: itself, or a copy of one on a GPU, for which it waits."""
    return array.numpy() if isinstance(array, DeviceArray) else array


def dense(array: Any) -> Any:
    """Return an array C-contiguous where it lies, a copy only where it was not."""
    if not isinstance(array, DeviceArray):
        return np.require(array, requirements=["C", "A", "E"])
    return array if array.contiguous else concatenate([array])


def concatenate(parts: Sequence[Any]) -> Any:
    """Join arrays along the first axis: a new one where they lie."""
    first = parts[0]
    if not isinstance(first, DeviceArray):
        return np.concatenate(parts)
    module, shape = first._module, (sum(len(part) for part in parts), *first.shape[1:])
    stream = module.Stream.borrow(first.device, first.stream)
    owner = module.empty(shape, first.dtype, stream)
    where = strides_of(shape), first.dtype, first.device, first.stream
    joined = DeviceArray(module, owner, owner.pointer, shape, *where)
    at = 0
    for part in parts:
        to = joined[at : at + len(part)]
        places = part.pointer, part.strides, to.pointer, to.strides
        module.copy(first.dtype.itemsize, part.shape, *places, stream)
        at += len(part)
    return joined
