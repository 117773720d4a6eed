"""The CUDA back end, where it was built. Loads without a driver, and then says why nothing runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

def devices() -> list[dict[str, Any]]: ...

"""Of each: number, name, capability (major, minor), multiprocessors; memory, shared_memory (of a
block) and l2 in bytes; runs: whether this build has code for it. Empty on any error of CUDA's."""

def why_none() -> str | None: ...  # why no device can run this build, or None where one can
def architectures() -> list[str]: ...  # that it was compiled for, as CMake names them
def runtime_version() -> int: ...  # 1000 * major + 10 * minor
def driver_version() -> int: ...  # the newest that the driver serves; 0 without a driver
def release_memory(device: int, /) -> None: ...  # what is kept for later calls

class DeviceArray:
    """Memory of a device with a C-contiguous array in it; `rnnfast.cuda.DeviceArray` is a view.

    What fails raises rnnfast.DeviceError, or MemoryError where the device has no room.
    """

    def __init__(self, array: np.ndarray, device: int = 0) -> None: ...  # C-contiguous; copied
    def numpy(self) -> np.ndarray: ...  # a copy
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def device(self) -> int: ...
    @property
    def pointer(self) -> int: ...

class Stream:
    """A stream that nobody else uses while this lives."""

    def __init__(self, device: int = 0) -> None: ...
    @staticmethod
    def borrow(device: int, pointer: int, /) -> Stream: ...  # another's, who must keep it
    def synchronize(self) -> None: ...
    def wait_for(self, other: int, /) -> None: ...  # on the device; the host does not wait
    @property
    def pointer(self) -> int: ...
    @property
    def device(self) -> int: ...

def empty(shape: Sequence[int], dtype: np.dtype, stream: Stream, /) -> DeviceArray: ...
def zeros(shape: Sequence[int], dtype: np.dtype, stream: Stream, /) -> DeviceArray: ...
def put(array: np.ndarray, stream: Stream, /) -> DeviceArray: ...  # C-contiguous; does not wait
def fetch(  # C-contiguous; waits
    pointer: int, shape: Sequence[int], dtype: np.dtype, stream: Stream, /
) -> np.ndarray: ...
def copy(  # strides in elements, of at most five axes
    itemsize: int,
    shape: Sequence[int],
    from_: int,
    from_strides: Sequence[int],
    to: int,
    to_strides: Sequence[int],
    stream: Stream,
    /,
) -> None: ...
def bounded(  # n int64, those outside of 0 ... most as the nearer of both
    from_: int, to: int, n: int, most: int, stream: Stream, /
) -> None: ...
def device_of(pointer: int, /) -> int: ...

# DLPack capsules, version 0; strides in elements.
def to_dlpack(
    owner: Any,
    pointer: int,
    shape: Sequence[int],
    strides: Sequence[int],
    dtype: np.dtype,
    device: int,
    /,
) -> Any: ...
def from_dlpack(  # owner, pointer, shape, strides, dtype; TypeError for a dtype NumPy has not
    capsule: Any, /
) -> tuple[Any, int, tuple[int, ...], tuple[int, ...], np.dtype]: ...

# One layer in one direction, on arrays that lie on a device: a dict of pointers, strides and
# options, which `rnnfast.cuda._layer` makes.
# Its "tf32", of storage "f32" alone: products outside of K0 round what they multiply to tf32, and
# the id says tf32 for f32.
def layer_scratch(call: dict[str, Any], backward: bool, /) -> int: ...  # bytes
def layer_run(  # puts a pass on a stream; returns the kernels' id
    call: dict[str, Any], backward: bool, scratch: int, stream: int, /
) -> str: ...
def layer_weight_drop(  # puts R, or dR, with the mask of weight drop on a stream
    call: dict[str, Any], rows: int, rows_in: int, rows_out: int, stream: int, /
) -> None: ...
def layer_between(  # puts the mask between two layers, of one direction, on a stream
    call: dict[str, Any], stream: int, /
) -> None: ...

# A storage type is "f32", "f64", or of 16 bits "bf16" or "f16".
def masked_rows(
    storage: str,
    rows: DeviceArray,  # (T, B, n), (B, T, n) if batch_first; or (B, n), a single step
    add: DeviceArray | None,
    batch_first: bool,
    p: float,
    purpose: int,
    seed: int,
    layer: int,
    direction: int,
    first_step: int,
    step: int,
    row_id: DeviceArray | None,  # (B,) uint32
    /,
) -> DeviceArray: ...

# For tests.
def _convert(from_: str, to: str, array: DeviceArray, /) -> DeviceArray: ...
def _last_error() -> int: ...  # what CUDA still remembers; it must be 0 after every failure
def _have_code(architectures: Sequence[str], major: int, minor: int, /) -> bool: ...
