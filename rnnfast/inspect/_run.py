"""A run of a layer, taken apart into its scans and their steps.

Letters: T steps, B batch, I input, H hidden, L layers, D directions, S states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy import ndarray

from .. import _backend, _call
from .._scan_options import ScanOptions
from .._shapes import is_index_array
from ..errors import DTypeError
from ..layers import Recurrent

__all__ = ["Run", "RunOptions", "Scan"]


class RunOptions(TypedDict, total=False):
    """Which steps are used, and where the state starts anew: see `rnnfast.options`."""

    lengths: ndarray | None
    mask: ndarray | None
    reset: ndarray | None
    reset_to: Literal["zero", "learned"]
    reset_state: ndarray | tuple[ndarray | None, ...] | None


class Scan(NamedTuple):
    """One layer in one direction, with what each of its steps starts from."""

    layer: int
    direction: int
    params: tuple[ndarray | None, ...]
    """W, R, bW, bR."""
    x: ndarray
    """(T, B, I), or (T, B) indices: what the layer reads."""
    entered: tuple[ndarray, ...]
    """S arrays (T, B, H): the states that enter each step, after a reset."""
    cut: ndarray
    """(T, B) bool: whether a reset replaced the state that enters the step."""

    @property
    def order(self) -> range:
        """The steps in the order of the scan."""
        T = len(self.x)
        return range(T) if self.direction == 0 else range(T - 1, -1, -1)


class Run:
    """A forward pass of a layer over (T, B, ...), whatever the form of x.

    A single step runs as a call of its own on the layer's back end, from the state that enters it:
    the same bits, and a tape of that step alone.
    """

    def __init__(
        self,
        function: str,
        layer: Recurrent,
        x: ndarray,
        state: Any,
        options: Mapping[str, Any],
    ) -> None:
        self.who = f"rnnfast.inspect.{function}"
        if not isinstance(layer, Recurrent):
            kind = type(layer)
            raise DTypeError(
                f"{self.who}: layer is of type {kind.__module__}.{kind.__qualname__}, expected "
                "rnnfast.RNN, LSTM or GRU."
            )
        _call.check_names(self.who, options, RunOptions)
        self.layer, self.stack = layer, layer._stack
        self.engine = _backend.resolve(layer.device, self.who)
        # Held, so that the state that enters a step is the one that the step before it left.
        _, _, tape = layer.forward(x, state, pad_output="hold", **options)
        self.form, self.T, self.B = tape._call.form, tape.T, tape.B
        seen = tape.states()
        enter = self.form.enter
        arrays = [getattr(seen, letter) for letter in self.stack.spec.states]
        self.left = tuple(enter(array, 1) for array in arrays)
        """S arrays (D*L, T, B, H): the states that each step left."""
        assert seen.gates is not None
        self.gates = enter(seen.gates, 1)
        """(D*L, T, B, G, H)."""
        self.used = self._used(options)
        """(T, B) bool."""
        dtype = np.int64 if is_index_array(x) else x.dtype
        self.scans = self._scans(enter(x).astype(dtype, copy=False), state, options)

    def _used(self, options: Mapping[str, Any]) -> ndarray:
        used = np.ones((self.T, self.B), bool)
        if options.get("mask") is not None:
            used &= self.form.enter(options["mask"])
        return used & self._within(options)

    def _within(self, options: Mapping[str, Any]) -> ndarray:
        """Whether a step comes before the end of its row, (T, B)."""
        lengths = options.get("lengths")
        if lengths is None:
            return np.ones((self.T, self.B), bool)
        return np.arange(self.T)[:, None] < lengths

    def _scans(self, x: ndarray, state: Any, options: Mapping[str, Any]) -> list[Scan]:
        L, D = self.stack.L, self.stack.D
        initial = self._initial(state)
        reset = options.get("reset")
        if reset is None:
            cut = np.zeros((self.T, self.B), bool)
        else:
            cut = self.form.enter(reset) & self._within(options)
        replacement = self._replacement(options)
        scans = []
        for k in range(L):
            for d in range(D):
                place = k * D + d
                entered = []
                for left, first, new in zip(self.left, initial, replacement, strict=True):
                    before = _shifted(left[place], first[place][None], d)
                    here = _at_entry(cut, d)[:, :, None]
                    entered.append(np.where(here, _at_entry(new[place], d), before))
                params = self.layer.parameters.rows[k][d]
                read = np.require(x, requirements=["C", "A", "E"])
                scans.append(Scan(k, d, params, read, tuple(entered), _at_entry(cut, d)))
            y = np.concatenate(list(self.left[0][k * D : k * D + D]), -1)
            x = y + x if self.stack.residual and k > 0 else y
        return scans

    def _initial(self, state: Any) -> tuple[ndarray, ...]:
        """Return the states that the scans start from, S arrays (D*L, B, H)."""
        shape = (self.stack.D * self.stack.L, self.B, self.stack.H)
        learned = self.layer.parameters.initial
        if state is None and learned is not None:
            return tuple(np.broadcast_to(p[:, None], shape) for p in learned)
        return self._each(state, shape)

    def _replacement(self, options: Mapping[str, Any]) -> tuple[ndarray, ...]:
        """Return what resets put in place, S arrays (D*L, T, B, H), by the border before t."""
        shape = (self.stack.D * self.stack.L, self.T, self.B, self.stack.H)
        learned = self.layer.parameters.initial
        if options.get("reset_to") == "learned" and learned is not None:
            return tuple(np.broadcast_to(p[:, None, None], shape) for p in learned)
        given = options.get("reset_state")
        if given is None:
            return self._each(None, shape)
        rows = (given,) if isinstance(given, ndarray) else given
        entered = tuple(None if a is None else self.form.enter(a, 1) for a in rows)
        return self._each(entered, shape)

    def _each(self, state: Any, shape: tuple[int, ...]) -> tuple[ndarray, ...]:
        """One array of a shape per state, zero where it is None."""
        S = self.stack.spec.S
        if state is None or isinstance(state, ndarray):
            state = (state,) * S
        zero = np.zeros(1, self.stack.dtype)
        fits = (zero if a is None else a if a.ndim == len(shape) else a[:, None] for a in state)
        return tuple(np.broadcast_to(array, shape) for array in fits)

    def options(self, used: ndarray, clip: bool) -> ScanOptions:
        """Return the settings of the layer for steps of which `used` tells (T', B').

        Parameters
        ----------
        clip : bool
            Whether the layer's bound of the gradient that flows back is in force.
        """
        fields = _call.scan_fields(self.stack.settings, training=False, keep_tape=clip)
        return ScanOptions(mask=np.ascontiguousarray(used), **fields)

    def step(self, scan: Scan, x: ndarray, entered: tuple[ndarray, ...], options: ScanOptions):
        """Run one step, and return its tape.

        Parameters
        ----------
        x : (1, B', I) or (1, B')
        entered : S arrays (B', H)
        """
        start = tuple(np.ascontiguousarray(state)[None] for state in entered)
        arguments = (self.stack.name, x, (scan.params,), start, None, True, None, options)
        _, _, tape = self.stack.agreed(self.engine.forward(*arguments))
        return tape

    def leave(self, array: ndarray) -> ndarray:
        """Bring (D*L, T, B, ...) into the form of the caller's x."""
        return self.form.leave(array, 1)


def _shifted(left: ndarray, first: ndarray, direction: int) -> ndarray:
    """Return what each step finds, given what each leaves: (T, B, H), `first` being (1, B, H)."""
    if direction == 0:
        return np.concatenate([first, left[:-1]])[: len(left)]
    return np.concatenate([left[1:], first])[: len(left)]


def _at_entry(borders: ndarray, direction: int) -> ndarray:
    """Bring an array over borders, [t] between t-1 and t, to the steps entered through them."""
    if direction == 0:
        return borders
    return np.concatenate([borders[1:], np.zeros_like(borders[:1])])
