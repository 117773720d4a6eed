"""What products of float32 multiply: all of it, or tf32 where that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["tf32", "tf32_asked"]

_tf32: ContextVar[bool] = ContextVar("rnnfast.cuda.tf32", default=False)


@contextmanager
def tf32() -> Iterator[None]:
    """Let the products of float32 layers on a GPU round what they multiply to tf32.

    Within the block, in this thread or task: ``with rnnfast.cuda.tf32(): y, h = layer(x)``. A
    backward pass takes what its forward pass took. Of nothing but float32 on a GPU, and there of
    products that are not in a K0 kernel; `docs/cuda.md` has the table. `rnnfast.torch` asks PyTorch
    instead, ``torch.backends.cudnn.rnn.fp32_precision``.
    """
    before = _tf32.set(True)
    try:
        yield
    finally:
        _tf32.reset(before)


def tf32_asked() -> bool:
    """Whether this is within a block of `tf32`."""
    return _tf32.get()
