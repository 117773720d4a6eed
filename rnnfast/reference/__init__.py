"""The specification in NumPy: every cell's equations, and twins of the public functions.

`rnn.py`, `lstm.py` and `gru.py` state one step of a cell, forward and backward; `scan.py` is the
loop over time with all that a step does beside its cell; `plan.py` makes that of the options of a
call. The functions here have the signatures of `rnnfast.rnn`, `lstm`, `gru` and their
`*_forward` and `*_backward`, and always run that specification, whatever is built. In float64 it is
what kernels are judged by; central differences prove its gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .. import ops
from ..errors import ArgumentError, TapeError
from . import engine
from . import gru as _gru_cell  # noqa: F401 - before the functions below take these names
from . import lstm as _lstm_cell  # noqa: F401
from . import rnn as _rnn_cell  # noqa: F401

__all__ = [
    "gru",
    "gru_backward",
    "gru_forward",
    "lstm",
    "lstm_backward",
    "lstm_forward",
    "rnn",
    "rnn_backward",
    "rnn_forward",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _on_numpy(function: Callable[_P, _T]) -> Callable[_P, _T]:
    @functools.wraps(function)
    def twin(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        device = kwargs.pop("device", "numpy")
        if device not in ("auto", "numpy"):
            raise ArgumentError(
                f"rnnfast.reference.{function.__name__}: device is {device!r}, "
                'expected "auto" or "numpy": the reference runs nowhere else.'
            )
        return function(*args, **kwargs, device="numpy")  # type: ignore[arg-type]

    twin.__module__ = __name__
    return twin


def _on_numpy_tape(function: Callable[_P, _T]) -> Callable[_P, _T]:
    @functools.wraps(function)
    def twin(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        tape = args[0] if args else kwargs.get("tape")
        if isinstance(tape, ops.Tape) and not isinstance(tape._kept, engine.Tape):
            raise TapeError(
                f"rnnfast.reference.{function.__name__}: tape came from the compiled module, "
                f"expected one of {function.__name__.replace('backward', 'forward')} there."
            )
        return function(*args, **kwargs)

    twin.__module__ = __name__
    return twin


rnn = _on_numpy(ops.rnn)
rnn_forward = _on_numpy(ops.rnn_forward)
rnn_backward = _on_numpy_tape(ops.rnn_backward)
lstm = _on_numpy(ops.lstm)
lstm_forward = _on_numpy(ops.lstm_forward)
lstm_backward = _on_numpy_tape(ops.lstm_backward)
gru = _on_numpy(ops.gru)
gru_forward = _on_numpy(ops.gru_forward)
gru_backward = _on_numpy_tape(ops.gru_backward)
