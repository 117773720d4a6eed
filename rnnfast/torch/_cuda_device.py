"""The GPU that a tensor lies on, and what a pass of `rnnfast.cuda` needs to know of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _backend
from ..cuda._layer import Device

__all__ = ["Memory", "device_of", "kind_of", "lies_on", "put", "why_not"]

_STORAGE = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
}


def lies_on(t: Any) -> bool:
    """Whether a tensor is where the CUDA module would run it."""
    return isinstance(t, Tensor) and t.is_cuda


def _place(t: Tensor) -> tuple[int, int]:
    """Return the number of the device that a tensor lies on, and its current stream."""
    return t.device.index, torch.cuda.current_stream(t.device).cuda_stream


def kind_of(t: Any) -> str:
    """Return PyTorch's word for the device of a call's input, "cpu" for all that is no GPU."""
    return "cuda" if isinstance(t, Tensor) and t.is_cuda else "cpu"


def why_not(t: Tensor) -> str | None:
    """Why the CUDA module does not run on the device of this tensor; or None."""
    return _backend.cuda_module_on(_place(t)[0])[1]


def device_of(t: Tensor) -> Device:
    """Return where a pass on this tensor runs."""
    number, stream = _place(t)
    module, _ = _backend.cuda_module_on(number)
    return Device(module, number, stream, _STORAGE[t.dtype], t.dtype is torch.float32 and _tf32())


def _tf32() -> bool:
    """Whether PyTorch lets recurrent layers of float32 multiply in tf32; by default it does."""
    cudnn = torch.backends.cudnn
    rnn = getattr(cudnn, "rnn", None)
    # The older switch may not be read where the newer one, of PyTorch 2.9, was set.
    return cudnn.allow_tf32 if rnn is None else rnn.fp32_precision == "tf32"


def put(array: np.ndarray, beside: Tensor) -> Tensor:
    """Copy an array to the device of a tensor, without waiting for it."""
    made = torch.from_numpy(array)
    # Only from pinned memory does a copy not wait for what the stream has still to do.
    return made.pin_memory().to(beside.device, non_blocking=True) if beside.is_cuda else made


class Memory:
    """Tensors beside another one, from PyTorch's allocator; see `rnnfast.cuda._layer.Memory`."""

    def __init__(self, like: Tensor) -> None:
        self._device, self._dtype = like.device, like.dtype
        self._wide = torch.promote_types(like.dtype, torch.float32)

    def empty(self, shape: tuple[int, ...], wide: bool = False) -> Tensor:
        """Make room for a tensor."""
        dtype = self._wide if wide else self._dtype
        return torch.empty(shape, dtype=dtype, device=self._device)

    def zeros(self, shape: tuple[int, ...], wide: bool = False) -> Tensor:
        """Make a tensor of zeros."""
        dtype = self._wide if wide else self._dtype
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def scratch(self, size: int) -> Tensor:
        """Make room for so many bytes; given out again, it is used later on the stream."""
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def pointer(self, array: Tensor) -> int:
        """Return where a tensor lies."""
        return array.data_ptr()
