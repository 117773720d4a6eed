"""The stack of layers behind `rnnfast.RNN`, `LSTM` and `GRU`: sizes and options, no parameters.

Both a layer and its prepared form run on one. Letters as everywhere: L layers, D directions, S
states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from . import _backend
from ._indexed import IndexedRows
from ._random import Masks
from ._shapes import Checker, check_index_range, is_index_array
from .cells import CELLS, CellSpec
from .errors import DTypeError, TapeError

__all__ = ["LayerTape", "Stack"]

_compiled = _backend.compiled
_ran = _backend.ran
_INT64 = np.dtype(np.int64)


class LayerTape:
    """What a layer's forward pass keeps for its backward pass; never overwritten.

    It borrows x, y and the parameters: backward raises if one of them has changed since.
    """

    __slots__ = ("_batched", "_kept", "_learned", "_masks", "_stack")

    def __init__(self, stack: Stack, kept: list[Any], learned: bool) -> None:
        self._stack, self._kept, self._learned = stack, kept, learned
        self._masks: Masks | None = None
        self._batched = True

    @property
    def cell(self) -> str:
        """Registry name of the cell."""
        return self._stack.name

    @property
    def T(self) -> int:
        """Steps."""
        return self._kept[0].T

    @property
    def B(self) -> int:
        """Batch; 1 for unbatched input."""
        return self._kept[0].B

    @property
    def seed(self) -> int | None:
        """The seed of the dropout masks, None where none were drawn."""
        return None if self._masks is None else self._masks.seed

    def __repr__(self) -> str:
        return f"<rnnfast tape of {self._stack.who} (T={self.T}, B={self.B})>"


class Stack:
    """Sizes and options of a layer, and its forward and backward pass.

    Attributes are fixed at construction, `dropout` excepted.
    """

    def __init__(
        self,
        who: str,
        name: str,
        I: int,
        H: int,
        L: int,
        D: int,
        batch_first: bool,
        dropout: float,
        dtype: np.dtype,
        device: str,
    ) -> None:
        self.who, self.name, self.I, self.H, self.L, self.D = who, name, I, H, L, D
        self.batch_first, self.dropout, self.dtype, self.device = (
            batch_first,
            dropout,
            dtype,
            device,
        )
        self._single = self.spec.S == 1
        core = _compiled.get(device)
        # One layer, time first, is what the kernel takes as it is.
        self._quick = core if L == 1 and not batch_first else None

    @property
    def spec(self) -> CellSpec:
        """The registry row of the cell."""
        return CELLS[self.name]

    # Forward -------------------------------------------------------------------------------------

    def forward(self, rows, initial, x, state, keep_tape=False, masks=None):
        """Run all layers.

        Parameters
        ----------
        rows : list (L) of D tuples (W, R, bW, bR), or of prepared forms
        initial : tuple of (D*L, H), or None
            Learned initial states.
        x, state
            As the user gave them.
        keep_tape : bool
        masks : Masks, optional
            Dropout between layers.

        Returns
        -------
        y, state, tape
            The tape is None unless asked for.
        """
        core = self._quick
        if core is not None and type(x) is ndarray and (x.ndim == 3 or self._are_indices(x)):
            if state is None:
                start = None if initial is None else _repeat(initial, x.shape[1])
            else:
                start = (state,) if self._single else state
            result = core.forward(self.name, x, rows[0], start, None, keep_tape, None)
            if result is not None:
                _ran.engine = core
                y, state_n, kept = result
                if keep_tape:
                    kept = LayerTape(self, [kept], state is None and initial is not None)
                return y, (state_n[0] if self._single else state_n), kept
        return self._forward_checked(rows, initial, x, state, keep_tape, masks)

    def _are_indices(self, x: ndarray) -> bool:
        """Whether x is (T, B) of int64 in range; else the checker looks closer."""
        return (
            x.ndim == 2
            and x.dtype == _INT64
            and x.size > 0
            and np.maximum.reduce(x.view(np.uint64), axis=None) < self.I
        )

    def _forward_checked(self, rows, initial, x, state, keep_tape, masks):
        engine = _backend.resolve(self.device, self.who)
        x, start, batched = self._enter(x, state)
        T, B = x.shape[:2]
        learned = start is None and initial is not None
        if learned:
            start = _repeat(initial, B)
        y, kept, finals = x, [], []
        for k, row in enumerate(rows):
            last, out = k == self.L - 1, None
            if last and self.batch_first and batched:
                out = np.empty((B, T, self.D * self.H), self.dtype).swapaxes(0, 1)
            part = self._slice(start, k)
            result = engine.forward(self.name, y, row, part, out, keep_tape, None)
            y, state_n, tape = self.agreed(result)
            finals.append(state_n)
            kept.append(tape)
            if masks is not None and not last:
                y = y * masks.between_layers(k, T, B, self.H, self.D, self.dtype)
        _ran.engine = engine
        state = self._join(finals)
        tape = None
        if keep_tape:
            tape = LayerTape(self, kept, learned)
            tape._masks, tape._batched = masks, batched
        return self._leave(y, batched), self._unbatch(state, batched), tape

    def _enter(self, x, state):
        """Check x and the state, and bring x to (T, B, I) or (T, B), states to (D*L, B, H)."""
        check = self._checker()
        indices = is_index_array(x)
        dims = "B T" if self.batch_first else "T B"
        full = 2 if indices else 3
        batched = not (isinstance(x, ndarray) and x.ndim == full - 1)
        spec = (dims if batched else "T") + ("" if indices else " I")
        x = check.indices("x", x, spec) if indices else check.sequence("x", x, spec)
        if not batched:
            x = x[:, None]
        elif self.batch_first:
            x = x.swapaxes(0, 1)
        if indices:
            x = check_index_range(self.who, "x", x, self.I, "input_size")
        return x, self._states(check, "{}0", state, batched), batched

    def _checker(self, who: str | None = None, **sizes: tuple[int, str]) -> Checker:
        return Checker(
            who or self.who,
            (self.dtype, "the layer"),
            I=(self.I, "input_size"),
            H=(self.H, "hidden_size"),
            D=(self.D, "bidirectional"),
            L=(self.L, "num_layers"),
            **sizes,
        )

    def _states(self, check: Checker, pattern: str, state, batched: bool):
        """Check a state in the user's form; returns a tuple of S arrays (D*L, B, H), or None."""
        if state is None:
            return None
        letters = self.spec.states
        if self._single:
            state = (state,)
        elif not isinstance(state, (tuple, list)) or len(state) != len(letters):
            came = f"of type {type(state).__qualname__}"
            if isinstance(state, (tuple, list)):
                came = f"a {type(state).__qualname__} of {len(state)}"
            raise DTypeError(f"{check.who}: the state is {came}, expected a tuple (h, c).")
        blocks = []
        for letter, array in zip(letters, state, strict=True):
            width = "P" if letter == "h" else "H"
            if array is not None:
                spec = f"D*L B {width}" if batched else f"D*L {width}"
                array = check.block(pattern.format(letter), array, spec)
                array = array if batched else np.ascontiguousarray(array[:, None])
            blocks.append(array)
        return tuple(blocks)

    def _slice(self, state, k: int):
        if state is None:
            return None
        part = slice(k * self.D, (k + 1) * self.D)
        return tuple(None if s is None else s[part] for s in state)

    def _join(self, parts):
        """Per-layer states (D, B, H) as the user's (D*L, B, H): an array, or a tuple of S."""
        joined = tuple(np.concatenate(entries) for entries in zip(*parts, strict=True))
        return joined[0] if self._single else joined

    def _leave(self, y, batched: bool):
        if not batched:
            return y[:, 0]
        return y.swapaxes(0, 1) if self.batch_first else y

    def _unbatch(self, state, batched: bool):
        if batched:
            return state
        return state[:, 0] if self._single else tuple(s[:, 0] for s in state)

    def agreed(self, result: Any) -> Any:
        """Return what a back end answered, which cannot be a refusal: the arguments are checked."""
        if result is None:
            raise RuntimeError(
                f"{self.who}: internal error: the kernel refused arguments that were checked."
            )
        return result

    # Backward ------------------------------------------------------------------------------------

    def backward(self, tape: LayerTape, dy, dstate, need_dx: bool):
        """Run all layers back.

        Returns
        -------
        dx : array in the form of x, or None
        dstate0 : tuple of S arrays (D*L, B, H)
        dstate : the same in the user's form
        grads : list (L) of D tuples (dW, dR, dbW, dbR)
        """
        if self._quick is not None and tape._batched and (dy is None or type(dy) is ndarray):
            last = (dstate,) if self._single and dstate is not None else dstate
            result = self._back(self._quick, tape, 0, dy, last, need_dx)
            if result is not None:
                _ran.engine = self._quick
                dx, grads, first = result
                return dx, first, (first[0] if self._single else first), [grads]
        return self._backward_checked(f"{self.who}.backward", tape, dy, dstate, need_dx)

    def _back(self, engine, tape: LayerTape, k: int, dy, dstate, need_dx: bool):
        """One layer on a back end, which raises RuntimeError if a borrowed array has changed."""
        try:
            return engine.backward(tape._kept[k], dy, dstate, need_dx, None)
        except RuntimeError as error:
            place = f" layer {k}:" if self.L > 1 else ""
            text = str(error).removeprefix(f"rnnfast.{self.name}: ")
            raise TapeError(f"{self.who}.backward:{place} {text}") from error

    def _backward_checked(self, who: str, tape: LayerTape, dy, dstate, need_dx: bool):
        engine = _backend.resolve(self.device, who)
        T, B, batched = tape.T, tape.B, tape._batched
        check = self._checker(who, T=(T, "the tape"), B=(B, "the tape"))
        if dy is not None:
            dims = ("B T" if self.batch_first else "T B") if batched else "T"
            dy = check.sequence("dy", dy, f"{dims} D*H")
            if not batched:
                dy = dy[:, None]
            elif self.batch_first:
                dy = dy.swapaxes(0, 1)
        last = self._states(check, "d{}_n", dstate, batched)
        dx, all_grads, firsts = dy, [None] * self.L, [None] * self.L
        for k in reversed(range(self.L)):
            result = self._back(engine, tape, k, dx, self._slice(last, k), need_dx or k > 0)
            dx, all_grads[k], firsts[k] = self.agreed(result)
            if k > 0 and tape._masks is not None:
                dx = dx * tape._masks.between_layers(k - 1, T, B, self.H, self.D, self.dtype)
        _ran.engine = engine
        first = self._join(firsts)
        stacked = (first,) if self._single else first
        if dx is not None:
            dx = self._leave(dx, batched)
        return dx, stacked, self._unbatch(first, batched), all_grads

    def named(self, names, grads, first, learned: bool, initial) -> dict[str, Any]:
        """Gradients of all parameters by PyTorch's names."""
        gradients: dict[str, Any] = {}
        for layer_names, layer_grads in zip(names, grads, strict=True):
            for row_names, row in zip(layer_names, layer_grads, strict=True):
                for name, gradient in zip(row_names, row, strict=True):
                    if type(gradient) is tuple:
                        shape = (self.spec.G * self.H, self.I)
                        indices, rows = gradient
                        gradient = IndexedRows(indices, rows, shape)
                    if name is not None:
                        gradients[name] = gradient
        if initial is not None:
            for letter, array, gradient in zip(self.spec.states, initial, first, strict=True):
                # A state that was given took the place of the learned one.
                gradients[f"{letter}_0"] = gradient.sum(1) if learned else np.zeros_like(array)
        return gradients


def _repeat(initial: tuple[ndarray, ...], B: int) -> tuple[ndarray, ...]:
    """Learned states (D*L, H) as one row each of a batch, (D*L, B, H)."""
    return tuple(np.repeat(p[:, None], B, 1) for p in initial)
