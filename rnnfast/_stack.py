"""The stack of layers behind `rnnfast.RNN`, `LSTM` and `GRU`: sizes and options, no parameters.

Both a layer and its prepared form run on one. Letters as everywhere: L layers, D directions, S
states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import ndarray

from . import _backend, _call, _values
from ._call import Call, Settings
from ._forms import BATCH_FIRST, FLAT, TIME_FIRST, UNBATCHED, Form, States
from ._indexed import IndexedRows
from ._scan_options import ScanOptions
from ._shapes import Checker, is_index_array
from .cells import CELLS, CellSpec
from .cuda._arrays import DeviceArray, concatenate, dense, host, lies_on_gpu
from .errors import ArgumentError, DTypeError, TapeError

__all__ = ["LayerTape", "Stack"]

_compiled = _backend.compiled
_ran = _backend.ran
_INT64 = np.dtype(np.int64)

_FIXED = slice(ScanOptions._fields.index("recurrent_dropout"), ScanOptions._fields.index("burn_in"))
"""The fields that a layer's settings fix."""
_PLAIN, _PLAIN_LEARNED = Call(), Call(learned=True)
"""The calls of the quick road, from a state given or zero, and from the learned one."""


class LayerTape:
    """What a layer's forward pass keeps for its backward pass; never overwritten.

    It borrows x, y and the parameters: backward raises if one that it reads has changed since.
    """

    __slots__ = ("_call", "_engine", "_kept", "_stack")

    def __init__(self, stack: Stack, engine: Any, kept: list[Any], call: Call) -> None:
        self._stack, self._engine, self._kept, self._call = stack, engine, kept, call

    @property
    def cell(self) -> str:
        """Registry name of the cell."""
        return self._stack.name

    @property
    def T(self) -> int:
        """Steps; those of the longest row for flat input."""
        return self._kept[0].T

    @property
    def B(self) -> int:
        """Batch; 1 for unbatched input."""
        return self._kept[0].B

    @property
    def seed(self) -> int | None:
        """The seed of the random masks, None where none were drawn."""
        return None if self._call.draws is None else self._call.draws.seed

    def states(self) -> States:
        """Return the states and gates at every step, of all layers and directions.

        Returns
        -------
        States
            ``h, c, gates`` with (D*L, T, B, ...) each, (D*L, B, T, ...) under `batch_first`; made
            at each call, and the caller's own.

        Raises
        ------
        TapeError
            If the y of a layer has changed since.
        """
        leave = self._call.form.leave
        try:
            layers = [tape.states() for tape in self._kept]
        except RuntimeError as error:
            text = str(error).removeprefix(f"rnnfast.{self.cell}: ")
            raise TapeError(f"{self._stack.who}.forward: {text}") from error
        sequences = [leave(layers_joined(parts), 1) for parts in zip(*layers, strict=True)]
        gates = layers_joined([tape.gates() for tape in self._kept])
        return States(
            **dict(zip(self._stack.spec.states, sequences, strict=True)), gates=leave(gates, 1)
        )

    def __repr__(self) -> str:
        return f"<rnnfast tape of {self._stack.who} (T={self.T}, B={self.B})>"


def layers_joined(parts):
    """Arrays of layers, made for this call, as one; that of a single layer as it is."""
    return parts[0] if len(parts) == 1 else concatenate(parts)


class Stack:
    """Sizes and options of a layer, and its forward and backward pass.

    Sizes are fixed at construction; `configure` sets the options that are not.
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
        dtype: np.dtype,
        device: str,
    ) -> None:
        self.who, self.name, self.I, self.H, self.L, self.D = who, name, I, H, L, D
        self.batch_first, self.dtype, self.device = batch_first, dtype, device
        self.settled = _backend.settled(device, name, dtype.name, I, H, L)
        """The device of calls on NumPy arrays, with "auto" looked up."""
        self._single = self.spec.S == 1
        self.configure(Settings(), 0.0, False)

    def configure(self, settings: Settings, dropout: float, residual: bool) -> None:
        """Set the options of the scan, and those between layers."""
        self.settings, self.dropout, self.residual = settings, dropout, residual
        # One layer, time first, is what the compiled module takes as it is.
        alone = self.L == 1 and not self.batch_first
        self._core = _compiled.get(self.settled) if alone else None
        self._quick = self._core if settings == Settings() else None
        self._fixed = {
            (training, keep): ScanOptions(**_call.scan_fields(settings, training, keep))[_FIXED]
            for training in (False, True)
            for keep in (False, True)
        }
        self.random = settings.random or (dropout > 0 and self.L > 1)
        """Whether masks are drawn while training."""

    @property
    def spec(self) -> CellSpec:
        """The registry row of the cell."""
        return CELLS[self.name]

    # Forward -------------------------------------------------------------------------------------

    def forward(self, rows, initial, x, state, keep_tape=False):
        """Run all layers, without an option of this call.

        Parameters
        ----------
        rows : list (L) of D tuples (W, R, bW, bR), or of prepared forms
        initial : tuple of (D*L, H), or None
            Learned initial states.
        x, state
            As the user gave them.
        keep_tape : bool

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
                    learned = state is None and initial is not None
                    kept = LayerTape(self, core, [kept], _PLAIN_LEARNED if learned else _PLAIN)
                return y, (state_n[0] if self._single else state_n), kept
        return self.forward_with({}, rows, initial, x, state, keep_tape)

    def _are_indices(self, x: ndarray) -> bool:
        """Whether x is (T, B) of int64 in range; else the checker looks closer."""
        return (
            x.ndim == 2
            and x.dtype == _INT64
            and x.size > 0
            and np.maximum.reduce(x.view(np.uint64), axis=None) < self.I
        )

    def forward_with(
        self, given: Mapping[str, Any], rows, initial, x, state, keep_tape=False, training=False
    ):
        """Run all layers, with the options of this call, which `given` has as the user wrote them.

        Parameters and results are those of `forward`.
        """
        result = self._forward_quick(given, rows, initial, x, state, keep_tape, training)
        if result is not None:
            return result
        engine = _backend.resolve(self.device if lies_on_gpu(x) else self.settled, self.who, x)
        check = self._checker(engine=engine)
        x = check.entered("x", x)
        if isinstance(x, DeviceArray):
            rows = engine.parameters(self.who, rows, x)
        flat = _call.enter_flat(check, given)
        x, form, indices = self._enter(check, x, flat)
        start = self._states(check, "{}0", state, form)
        options, call = self._options(check, given, form, flat, initial, training, keep_tape)
        if indices:
            used = _call.used_steps(check, options)
            x = check.in_range("x", x, self.I, "input_size", used)
        if start is None and initial is not None:
            repeated = _repeat(initial, check["B"])
            start, call = tuple(map(check.there, repeated)), call._replace(learned=True)
        y, kept, finals = x, [], []
        for k, row in enumerate(rows):
            read, out = y, None
            p, add = self._after(call, k, read)
            last = k == self.L - 1 and form is BATCH_FIRST and p == 0 and add is None
            if last and isinstance(x, ndarray):
                out = np.empty((check["B"], check["T"], self.D * self.H), self.dtype).swapaxes(0, 1)
            scan = self._scan(options, k)
            result = engine.forward(
                self.name, read, row, self._slice(start, k), out, keep_tape, None, *scan
            )
            y, state_n, tape = self.agreed(result)
            finals.append(state_n)
            kept.append(tape)
            if p > 0 or add is not None:
                y = self._between(engine, call, k, y, add, p)
        _ran.engine = engine
        y = form.leave(y)
        if form is BATCH_FIRST:
            y = dense(y)
        state = self._unbatch(self._join(finals), form)
        check.leave()
        return y, state, LayerTape(self, engine, kept, call) if keep_tape else None

    def _forward_quick(self, given, rows, initial, x, state, keep_tape, training):
        """Hand the options to the compiled module as they are; None where that is not the way.

        It checks them without a word, so that what it refuses comes back here as None too.
        """
        core, get = self._core, given.get
        flat, replacement = get("cu_seqlens"), get("reset_state")
        if core is None or type(x) is not ndarray or x.ndim != (3 if flat is None else 2):
            return None
        pad, reset_to = get("pad_output", "zero"), get("reset_to", "zero")
        burn_in, tbptt = get("burn_in", 0), get("tbptt")
        if (
            not (type(pad) is str and pad in ("zero", "hold"))
            or not (type(reset_to) is str and reset_to in ("zero", "learned"))
            or type(burn_in) is not int
            or not (tbptt is None or (type(tbptt) is int and tbptt > 0))
            or (replacement is not None and get("reset") is None)
        ):
            return None
        if flat is None:
            B = x.shape[1]
        elif type(flat) is ndarray and flat.ndim == 1 and len(flat) > 0 and pad == "zero":
            B = len(flat) - 1
            flat = flat.copy()  # backward needs it as it is now
        else:
            return None
        draws, random = None, (0, 0, 0, None)
        if training and self.random:
            row_ids = get("row_ids")
            if row_ids is not None:
                if (
                    type(row_ids) is not ndarray
                    or row_ids.shape != (B,)
                    or row_ids.dtype != np.uint32
                ):
                    return None
                row_ids = row_ids.copy()  # backward draws the masks again
            draws = _call.check_draws(f"{self.who}.forward", given, row_ids)
            random = (draws.seed, 0, draws.t0, draws.row_ids)
        learned, replaced = state is None and initial is not None, None
        if reset_to == "learned":
            if initial is None or replacement is not None or get("reset") is None:
                return None
            replaced = "learned"
        repeated = _repeat(initial, B) if learned or replaced else None
        if replaced:
            replacement = tuple(p[:, None] for p in repeated)
        elif replacement is not None:
            replaced = "given"
            if self._single:
                replacement = (replacement,)
        options = (
            *(get("lengths"), get("mask"), flat, get("reset"), replacement, pad == "hold"),
            *self._fixed[training, keep_tape],
            *(burn_in, tbptt or 0, *random, False),
        )
        if learned:
            start = repeated
        elif state is not None and self._single:
            start = (state,)
        else:
            start = state
        result = core.forward(self.name, x, rows[0], start, None, keep_tape, None, options)
        if result is None:
            return None
        _ran.engine = core
        y, state_n, kept = result
        if keep_tape:
            form = TIME_FIRST if flat is None else FLAT
            call = Call(form, learned, replaced, 0.0, self.residual, draws, flat)
            kept = LayerTape(self, core, [kept], call)
        return y, (state_n[0] if self._single else state_n), kept

    def _enter(self, check: Checker, x, flat: ndarray | None):
        """Check x, its range excepted, and bring it to (T, B, I) or (T, B), flat (N, I) or (N,)."""
        indices = is_index_array(x)
        if flat is not None:
            form = FLAT
        elif isinstance(x, (ndarray, DeviceArray)) and x.ndim == (1 if indices else 2):
            form = UNBATCHED
        else:
            form = BATCH_FIRST if self.batch_first else TIME_FIRST
        spec = form.steps + ("" if indices else " I")
        x = check.indices("x", x, spec) if indices else check.sequence("x", x, spec)
        if form is UNBATCHED:
            check.bind("x", B=1)
        return form.enter(x), form, indices

    def _options(
        self,
        check: Checker,
        given: Mapping[str, Any],
        form: Form,
        flat: ndarray | None,
        initial: tuple[ndarray, ...] | None,
        training: bool,
        keep_tape: bool,
    ) -> tuple[dict[str, Any], Call]:
        """Fields of `ScanOptions` for all layers together, and what the tape keeps of the call."""
        fields = _call.check_steps(check, form, given, flat)
        fields["reset_state"], replaced = self._replacement(check, form, given, initial)
        if fields["reset_state"] is None:
            del fields["reset_state"]
        speaker = f"{self.who}.forward"
        fields |= _call.check_time(speaker, given, "bidirectional=True" if self.D == 2 else None)
        fields |= _call.scan_fields(self.settings, training, keep_tape)
        draws = None
        if training and self.random:
            draws = _call.check_draws(speaker, given, _call.check_row_ids(check, given))
            if self.settings.random:
                fields |= draws._asdict()
        dropout = self.dropout if training and self.L > 1 else 0.0
        return fields, Call(form, False, replaced, dropout, self.residual, draws, flat)

    def _replacement(self, check: Checker, form: Form, given: Mapping[str, Any], initial):
        """Check what a reset puts in place of the state: (D*L, T or 1, B, H) each, and its name."""
        name = _values.choice(
            self.who, "reset_to", given.get("reset_to", "zero"), "zero", "learned"
        )
        state = _call.check_replacement(check, form, given, self.spec.states, "D*L")
        if name == "zero":
            return state, None if state is None else "given"
        if state is not None:
            raise ArgumentError(
                f'{self.who}: reset_to is "learned" and reset_state is given, expected one: each '
                "says what a reset puts in place of the state."
            )
        if initial is None:
            raise ArgumentError(
                f'{self.who}: reset_to is "learned", but the layer has no learned state; expected '
                '"zero", or a layer with initial_state="learned".'
            )
        if given.get("reset") is None:
            return None, None
        return tuple(check.there(p[:, None]) for p in _repeat(initial, check["B"])), "learned"

    def _scan(self, options: dict[str, Any], k: int) -> tuple[ScanOptions, ...]:
        """Give layer k its options as the last argument of a back end; none for a plain call."""
        if not options:
            return ()
        mine = ScanOptions(**options)
        return (mine._replace(layer=k, reset_state=self._slice(mine.reset_state, k)),)

    def _after(self, call: Call, k: int, read):
        """Tell what comes after layer k: the probability of a zero, and what is added."""
        p = call.dropout if k < self.L - 1 else 0.0
        return p, (read if call.residual and k > 0 else None)

    def _between(self, engine, call: Call, k: int, x, add, p: float):
        """Apply the mask after layer k, to its output or to the gradient of it, and add."""
        seed, t0, row_ids = call.draws or (0, 0, None)
        ends = call.cu_seqlens
        result = engine.between_layers(x, add, self.H, p, seed, k, t0, row_ids, ends, None)
        return self.agreed(result)

    def _checker(
        self, who: str | None = None, engine: Any = None, **sizes: tuple[int, str]
    ) -> Checker:
        return _backend.checker(engine)(
            who or self.who,
            (self.dtype, "the layer"),
            I=(self.I, "input_size"),
            H=(self.H, "hidden_size"),
            D=(self.D, "bidirectional"),
            L=(self.L, "num_layers"),
            G=(self.spec.G, "the cell"),
            **sizes,
        )

    def _states(self, check: Checker, pattern: str, state, form: Form):
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
                array = check.block(pattern.format(letter), array, f"D*L {form.rows} {width}")
                array = dense(array[:, None]) if form is UNBATCHED else array
            blocks.append(array)
        return tuple(blocks)

    def _slice(self, state, k: int):
        """Take the part of layer k of what has D*L in front."""
        if state is None:
            return None
        part = slice(k * self.D, (k + 1) * self.D)
        return tuple(None if s is None else s[part] for s in state)

    def _join(self, parts):
        """Per-layer states (D, B, H) as the user's (D*L, B, H): an array, or a tuple of S."""
        joined = tuple(concatenate(entries) for entries in zip(*parts, strict=True))
        return joined[0] if self._single else joined

    def _unbatch(self, state, form: Form):
        if form is not UNBATCHED:
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

    def backward(self, tape: LayerTape, dy, dstate, need_dx: bool, dstates=None):
        """Run all layers back.

        Returns
        -------
        dx : array in the form of x, or None
        dstate0 : tuple of S arrays (D*L, B, H)
        dstate : the same in the user's form
        grads : list (L) of D tuples (dW, dR, dbW, dbR)
        dreset : tuple of S arrays (D*L, T or 1, B, H) or None, or None
        """
        inner = self._quick_dstates(dstates)
        quick = self._core is not None and tape._engine is self._core
        quick = quick and tape._call.form in (TIME_FIRST, FLAT)
        if quick and inner is not None and (dy is None or type(dy) is ndarray):
            last = (dstate,) if self._single and dstate is not None else dstate
            result = self._back(self._core, tape, 0, dy, last, need_dx, *inner)
            if result is not None:
                _ran.engine = self._core
                dx, grads, first, dreset = result
                return dx, first, (first[0] if self._single else first), [grads], dreset
        return self._backward_checked(f"{self.who}.backward", tape, dy, dstate, need_dx, dstates)

    def _quick_dstates(self, dstates) -> tuple[Any, ...] | None:
        """Gradients into states as the compiled module takes them; None where it may not."""
        if dstates is None:
            return ()
        if type(dstates) is not States or (self._single and dstates.c is not None):
            return None
        sequences = (dstates.h,) if self._single else (dstates.h, dstates.c)
        nothing = all(array is None for array in sequences)
        return (None if nothing else sequences), dstates.gates

    def _back(self, engine, tape: LayerTape, k: int, dy, dstate, need_dx: bool, *inner):
        """One layer on a back end, which raises RuntimeError if a borrowed array has changed."""
        try:
            return engine.backward(tape._kept[k], dy, dstate, need_dx, None, *inner)
        except RuntimeError as error:
            place = f" layer {k}:" if self.L > 1 else ""
            text = str(error).removeprefix(f"rnnfast.{self.name}: ")
            raise TapeError(f"{self.who}.backward:{place} {text}") from error

    def _backward_checked(self, who: str, tape: LayerTape, dy, dstate, need_dx: bool, dstates):
        engine, call = tape._engine, tape._call
        form = call.form
        check = self._checker(who, engine, T=(tape.T, "the tape"), B=(tape.B, "the tape"))
        check.beside(tape._kept[0])
        if call.cu_seqlens is not None:
            check.bind("the tape", N=int(call.cu_seqlens[-1]))
        if dy is not None:
            dy = form.enter(check.sequence("dy", dy, f"{form.steps} D*H"))
        last = self._states(check, "d{}_n", dstate, form)
        into = _call.check_dstates(check, form, dstates, self.spec, "D*L")
        dx, all_grads, firsts, resets = dy, [None] * self.L, [None] * self.L, [None] * self.L
        for k in reversed(range(self.L)):
            dout = dx
            p, add = self._after(call, k, dout)
            if p > 0 and dout is not None:
                dx = self._between(engine, call, k, dout, None, p)
            inner = self._inner(into, k)
            needed = need_dx or k > 0
            result = self._back(engine, tape, k, dx, self._slice(last, k), needed, *inner)
            dx, all_grads[k], firsts[k], resets[k] = self.agreed(result)
            if add is not None:
                dx = self._between(engine, call, k, dx, add, 0.0)
        _ran.engine = engine
        check.leave()
        first = self._join(firsts)
        stacked = (first,) if self._single else first
        if dx is not None:
            dx = form.leave(dx)
        return dx, stacked, self._unbatch(first, form), all_grads, self._join_resets(resets)

    def _inner(self, into: tuple[Any, ...], k: int) -> tuple[Any, ...]:
        """Take the gradients into the states and gates of layer k, nothing where there are none."""
        if not into:
            return ()
        sequences, gates = into
        return self._slice(sequences, k), None if gates is None else self._slice((gates,), k)[0]

    def _join_resets(self, resets):
        """Per-layer gradients of replacements as (D*L, T or 1, B, H) each."""
        if resets[0] is None:
            return None
        return tuple(
            None if entries[0] is None else concatenate(entries)
            for entries in zip(*resets, strict=True)
        )

    def reset_gradient(self, tape: LayerTape, dreset):
        """Bring the gradient of `reset_state` into the form of the argument, None without one."""
        call = tape._call
        if call.replaced != "given":
            return None
        gradients = tuple(None if d is None else call.form.leave(d, 1) for d in dreset)
        return gradients[0] if self._single else gradients

    def named(self, names, grads, first, dreset, tape: LayerTape, initial) -> dict[str, Any]:
        """Gradients of all parameters by PyTorch's names, where the parameters lie: on the host."""
        gradients: dict[str, Any] = {}
        for layer_names, layer_grads in zip(names, grads, strict=True):
            for row_names, row in zip(layer_names, layer_grads, strict=True):
                for name, gradient in zip(row_names, row, strict=True):
                    if type(gradient) is tuple:
                        shape = (self.spec.G * self.H, self.I)
                        indices, rows = gradient
                        gradient = IndexedRows(indices, rows, shape)
                    if name is not None:
                        gradients[name] = host(gradient)
        if initial is not None:
            call = tape._call
            for s, letter in enumerate(self.spec.states):
                # A state that was given took the place of the learned one.
                total = host(first[s]).sum(1) if call.learned else np.zeros_like(initial[s])
                if call.replaced == "learned":
                    total = total + host(dreset[s]).sum((1, 2))
                gradients[f"{letter}_0"] = total
        return gradients


def _repeat(initial: tuple[ndarray, ...], B: int) -> tuple[ndarray, ...]:
    """Learned states (D*L, H) as one row each of a batch, (D*L, B, H)."""
    return tuple(p[:, None].repeat(B, 1) for p in initial)
