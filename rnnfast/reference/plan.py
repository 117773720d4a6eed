"""What the options of a call mean for each step of one direction.

A `Plan` is read by `scan.py` and knows nothing of directions, lengths or flat input: those are
resolved here into arrays over (T, B), in scan order. Scan order is t = 0 ... T-1, for the reverse
direction T-1 ... 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _random
from .._scan_options import ScanOptions

__all__ = ["PLAIN", "Flat", "Plan", "make", "of_flags"]


class Plan(NamedTuple):
    """The steps of one direction; a field at its default is that part of a plain call."""

    reverse: bool = False  # whether scan order is T-1 ... 0; the arrays are in it already
    used: Any = None  # (T, B) bool, None is all: where the cell runs; elsewhere the state is held
    hold: bool = False  # whether y of an unused step is the held state instead of zero
    cut: Any = None  # (T, B) bool, None is nowhere: the state entering this step is replaced ...
    replacement: tuple[Any, ...] | None = None  # ... per state by (T or 1, B, H); None is zero
    dropout: Any = None  # (T or 1, B, H): factor on the operand of R
    zoneout: tuple[Any, ...] | None = None  # per state z: (T, B, H), or a number, None is 0
    weight: Any = None  # (G*H, H): factor on R
    gradient_clip: float = 0.0  # 0 is none
    burn_in: int = 0  # steps at the start without gradient
    tbptt: int = 0  # the gradient is cut before every step that this divides; 0 is nowhere
    ends: Any = None  # (B,) lengths, None is T: a row that has ended is cut no more


PLAIN = Plan()


class Flat:
    """Where the N steps of a ragged batch are in the padded arrays (T, B, ...)."""

    def __init__(self, cu_seqlens: np.ndarray) -> None:
        self.lengths = np.diff(cu_seqlens)
        self.T, self.B = int(max(self.lengths, default=0)), len(self.lengths)
        self.row = np.repeat(np.arange(self.B), self.lengths)
        self.step = np.arange(len(self.row)) - cu_seqlens[self.row]

    def pad(self, array: np.ndarray) -> np.ndarray:
        """(N, ...) to (T, B, ...), zero elsewhere."""
        padded = np.zeros((self.T, self.B, *array.shape[1:]), array.dtype)
        padded[self.step, self.row] = array
        return padded

    def unpad(self, array: np.ndarray) -> np.ndarray:
        """(T, B, ...) to (N, ...)."""
        return array[self.step, self.row]


def make(
    options: ScanOptions, flat: Flat | None, d: int, T: int, B: int, G: int, H: int, dtype: np.dtype
) -> Plan:
    """Return the plan of entry d of the parameters; masks are drawn here."""
    reverse = options.reverse or d == 1
    time = np.arange(T)[:, None]
    lengths = options.lengths if flat is None else flat.lengths
    inside = None if lengths is None else time < lengths
    used = _both(inside, _padded(flat, options.mask))
    cut = _padded(flat, options.reset)
    if cut is not None and inside is not None:
        cut = cut & inside
    replacement = None
    if options.reset_state is not None:
        replacement = tuple(
            None if a is None else _replacing(flat, a[d], reverse) for a in options.reset_state
        )
    dropout, zoneout, weight = _masks(options, int(reverse), T, B, G, H, dtype)
    return Plan(
        reverse=reverse,
        used=_in_order(used, reverse),
        hold=options.hold,
        cut=None if cut is None else _entering(cut, reverse),
        replacement=replacement,
        dropout=_in_order(dropout, reverse),
        zoneout=None if zoneout is None else tuple(_in_order(z, reverse) for z in zoneout),
        weight=weight,
        gradient_clip=options.gradient_clip,
        burn_in=options.burn_in,
        tbptt=options.tbptt,
        ends=lengths,
    )


def of_flags(
    gradient: np.ndarray, like: np.ndarray, flat: Flat | None, reverse: bool
) -> np.ndarray:
    """Gradients (T, B, H) in scan order of what replaced the state, in the form of reset_state."""
    if reverse:
        # The first step in scan order has no flag, and reset[0] no step.
        gradient = gradient[::-1]
        gradient = np.concatenate([np.zeros_like(gradient[:1]), gradient[:-1]])
    if flat is not None and like.ndim == 2:
        return flat.unpad(gradient)
    return gradient.sum(0, keepdims=True) if len(like) == 1 else gradient


def _padded(flat: Flat | None, array: np.ndarray | None) -> np.ndarray | None:
    return array if flat is None or array is None else flat.pad(array)


def _both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None:
        return b if a is None else a
    return a & b


def _in_order(array: Any, reverse: bool) -> Any:
    """Bring an array over steps to scan order; None and numbers have none."""
    # A copy, for PyTorch takes no negative strides.
    return array[::-1].copy() if reverse and np.ndim(array) else array


def _entering(array: np.ndarray, reverse: bool) -> np.ndarray:
    """Bring an array over borders, [t] between t-1 and t, to the steps entered through them."""
    if not reverse:
        return array
    # The reverse direction enters step t-1 through the border t, and the last step through none.
    return _in_order(np.concatenate([array[1:], np.zeros_like(array[:1])]), reverse)


def _replacing(flat: Flat | None, array: np.ndarray, reverse: bool) -> np.ndarray:
    if flat is not None and array.ndim == 2:
        array = flat.pad(array)
    elif len(array) == 1:
        return array
    return _entering(array, reverse)


def _masks(options: ScanOptions, d: int, T: int, B: int, G: int, H: int, dtype: np.dtype):
    """Factors of recurrent dropout, z of each state, and factors of R, in time order."""
    of = (options.seed, options.layer, d)
    steps = _random.number(np.arange(T)[:, None], options.t0)
    rows = np.arange(B) if options.row_ids is None else options.row_ids
    dropout = zoneout = weight = None
    if options.recurrent_dropout > 0:
        when = steps if options.per_step else np.zeros((1, 1), np.uint64)
        dropout = _random.recurrent_dropout(options.recurrent_dropout, *of, when, rows, H, dtype)
    if options.zoneout is not None and options.training:
        zoneout = tuple(
            _random.zoneout(p, *of, state, steps, rows, H, dtype) if p > 0 else None
            for state, p in enumerate(options.zoneout)
        )
    elif options.zoneout is not None:
        zoneout = tuple(dtype.type(p) if p > 0 else None for p in options.zoneout)
    if options.weight_drop > 0:
        weight = _random.weight_drop(options.weight_drop, *of, G * H, H, dtype)
    return dropout, zoneout, weight
