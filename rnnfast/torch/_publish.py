"""How the classes of `rnnfast.torch` are called in their users' sight."""

from __future__ import annotations

from types import FunctionType
from typing import Any

__all__ = ["publish"]


def publish(kind: Any) -> None:
    """Give a class the module it is imported from, and its `forward` a name with the class's.

    Python names the function where arguments are missing or too many, and PyTorch's own is
    "LSTM.forward()". The code is the same, so that a call costs no more.
    """
    kind.__module__ = "rnnfast.torch"
    of_all: Any = kind.forward
    own = FunctionType(
        *(of_all.__code__, of_all.__globals__, of_all.__name__),
        *(of_all.__defaults__, of_all.__closure__),
    )
    own.__qualname__ = f"{kind.__qualname__}.forward"
    own.__doc__, own.__annotations__ = of_all.__doc__, of_all.__annotations__
    kind.forward = own
