"""Plain arithmetic in tf32: float32 whose matrix products round what they multiply."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from option_problems import OptionProblem, run

from rnnfast.reference import engine
from rnnfast.reference.plan import Flat

__all__ = ["EPS", "run_in_tf32", "to_tf32"]

EPS = 2.0**-10
"""From 1 to the next number of tf32."""


def to_tf32(a: np.ndarray) -> np.ndarray:
    """Round to 10 bits behind the point, ties away from zero."""
    bits = a.view(np.uint32)
    rounded = ((bits + np.uint32(1 << 12)) & np.uint32(-1 << 13 & 0xFFFFFFFF)).view(np.float32)
    return np.where(np.isfinite(a), rounded, a)


class _Tf32(np.ndarray):
    """What comes out of an operation with one of these is one of these."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **more: Any) -> Any:
        plain = [np.asarray(a) if isinstance(a, _Tf32) else a for a in inputs]
        if ufunc is np.matmul:
            plain = [to_tf32(np.ascontiguousarray(a)) for a in plain]
        if "out" in more:
            more["out"] = tuple(np.asarray(a) for a in more["out"])
        return _marked(getattr(ufunc, method)(*plain, **more))

    def __array_function__(self, function: Any, types: Any, given: Any, more: Any) -> Any:
        return _marked(super().__array_function__(function, types, given, more))


def _marked(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return value.view(_Tf32)
    return value


def run_in_tf32(problem: OptionProblem) -> dict[str, Any]:
    """As `option_problems.run` of the reference, with products in tf32."""
    params = tuple(tuple(map(_marked, row)) for row in problem.params)
    pad = Flat.pad
    # Its array is a new one.
    with mock.patch.object(Flat, "pad", lambda flat, array: _marked(pad(flat, array))):
        results = run(engine, replace(problem, x=_marked(problem.x), params=params))
    return {k: None if v is None else np.asarray(v) for k, v in results.items()}
