"""The exceptions and warnings of rnnfast.

Each derives from the built-in that fits, so `except ValueError` works as usual. A message says who
speaks, which array or option, what came, what was expected and which argument fixed the
expectation.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "DTypeError",
    "DeviceError",
    "FallbackWarning",
    "IndexRangeError",
    "ShapeError",
    "TapeError",
]


class ShapeError(ValueError):
    """An array's shape does not fit the other arrays or the layer's sizes."""


class ArgumentError(ValueError):
    """An option or output that cannot be used: a bad value, `out` read-only or overlapping."""


class DTypeError(TypeError):
    """Not a NumPy array, or an element type or byte order that the kernels do not compute in."""


class IndexRangeError(IndexError):
    """An index input holds a value outside 0 ... I-1."""


class TapeError(RuntimeError):
    """A tape cannot be used: it came from another call, or an array that it borrows has changed."""


class DeviceError(RuntimeError):
    """A back end was asked for by name and cannot run here, or its device failed while it ran."""


class FallbackWarning(UserWarning):
    """The compiled module is absent and NumPy runs in its place; said once per process.

    Also, by `rnnfast.torch`, that `accelerate` or `restore` leaves a layer as it is.
    """
