"""What `Embedding` and `Linear` share: parameters by PyTorch's names, checked, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _values
from .._parameters import Parameters
from ..errors import ArgumentError, DTypeError


class Layer:
    """A layer with parameters and no time axis of its own.

    Attributes
    ----------
    parameters : mapping of str to array
        Writes into the arrays are seen by the next call.
    """

    parameters: Parameters

    def _start(self, dtype: Any, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep float64 `arrays`, rounded to `dtype`: both types start from the same values."""
        who = f"rnnfast.training.{type(self).__name__}"
        element = _values.element(who, dtype)
        shapes = {name: array.shape for name, array in arrays.items()}
        rounded = {name: array.astype(element) for name, array in arrays.items()}
        self.parameters = Parameters(who, element, shapes, [], rounded)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters by name."""
        return {name: array.copy() for name, array in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy values into the parameters.

        Raises
        ------
        ArgumentError, ShapeError, DTypeError
            Name what is missing, unexpected or does not fit; nothing is written then.
        """
        self.parameters.load(state)


def check_sizes(who: str, **sizes: int) -> None:
    """Raise unless every size is a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            raise DTypeError(f"{who}: {name} is of type {type(size).__qualname__}, expected int.")
        if size < 1:
            raise ArgumentError(f"{who}: {name} is {size}, expected at least 1.")
