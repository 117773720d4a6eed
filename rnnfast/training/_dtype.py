"""The element types that parameters may have."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DTypeError


def float_dtype(who: str, dtype: Any) -> np.dtype:
    """The NumPy dtype of a layer's parameters; DTypeError unless it is float32 or float64."""
    result = np.dtype(dtype)
    if result not in (np.float32, np.float64):
        raise DTypeError(f"{who}: dtype is {result}, expected float32 or float64.")
    return result
