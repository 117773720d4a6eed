"""The checks of options that are no arrays: numbers, switches and names, each refused in words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import ArgumentError, DTypeError

__all__ = [
    "at_least",
    "below",
    "bound",
    "choice",
    "element",
    "generator",
    "probability",
    "switch",
    "whole",
]


def whole(who: str, name: str, value: Any) -> int:
    """Return an integer as an int; a bool is none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise DTypeError(f"{who}: {name} is of type {type(value).__qualname__}, expected int.")
    return int(value)


def at_least(who: str, name: str, value: Any, least: int) -> int:
    """Return an integer that is `least` or more."""
    if whole(who, name, value) < least:
        raise ArgumentError(f"{who}: {name} is {value}, expected at least {least}.")
    return int(value)


def below(who: str, name: str, value: Any, bits: int) -> int:
    """Return an integer in 0 ... 2**bits - 1."""
    if not 0 <= whole(who, name, value) < 2**bits:
        raise ArgumentError(f"{who}: {name} is {value}, expected 0 <= {name} < 2**{bits}.")
    return int(value)


def element(who: str, dtype: Any) -> np.dtype:
    """Return float32 or float64 as an element type, however it is written."""
    try:
        found = None if dtype is None else np.dtype(dtype)  # NumPy takes None for float64
    except (TypeError, ValueError) as error:
        raise DTypeError(f"{who}: dtype is {dtype!r}, expected float32 or float64.") from error
    if found is None or found not in (np.float32, np.float64):
        raise DTypeError(f"{who}: dtype is {found}, expected float32 or float64.")
    return found


def generator(who: str, seed: Any) -> np.random.Generator:
    """Return the random numbers of a seed, 0 or more; None draws it from the operating system."""
    return np.random.default_rng(None if seed is None else at_least(who, "seed", seed, 0))


def _number(who: str, name: str, value: Any, expected: str = "a number") -> float:
    number = isinstance(value, (int, float, np.integer, np.floating))
    if not number or isinstance(value, bool):
        raise DTypeError(
            f"{who}: {name} is of type {type(value).__qualname__}, expected {expected}."
        )
    try:
        return float(value)
    except OverflowError:  # an int beyond all floats
        return math.inf if value > 0 else -math.inf


def probability(who: str, name: str, p: Any) -> float:
    """Return a number in 0 ... 1."""
    value = _number(who, name, p)
    if not 0 <= value <= 1:
        raise ArgumentError(f"{who}: {name} is {p}, expected 0 <= {name} <= 1.")
    return value


def bound(who: str, name: str, value: Any) -> float | None:
    """Return a finite number above 0, or None, which is no bound."""
    if value is None:
        return None
    number = _number(who, name, value, "a number or None")
    if not (math.isfinite(number) and number > 0):
        raise ArgumentError(
            f"{who}: {name} is {value}, expected a finite number above 0, or None for no bound."
        )
    return number


def switch(who: str, name: str, value: Any) -> bool:
    """Return a bool, NumPy's too; a number is none."""
    if not isinstance(value, (bool, np.bool_)):
        raise DTypeError(f"{who}: {name} is of type {type(value).__qualname__}, expected bool.")
    return bool(value)


def choice(who: str, name: str, value: Any, *names: str) -> str:
    """Return one of a few names."""
    if not (isinstance(value, str) and value in names):
        expected = " or ".join(f'"{entry}"' for entry in names)
        raise ArgumentError(f"{who}: {name} is {value!r}, expected {expected}.")
    return value
