"""The NumPy back end: the contract of the compiled module, computed by the reference.

One call is one layer, D directions; the second runs reversed in time. Array shapes stand in
`_core.pyi`. Like a kernel it trusts its arguments: `rnnfast._shapes` has checked them.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import zlib
from typing import Any

import numpy as np

from .. import _random
from .._scan_options import ScanOptions
from ..cells import CELLS
from . import plan, scan

__all__ = [
    "Prepared",
    "Stream",
    "Tape",
    "backward",
    "between_layers",
    "forward",
    "last_kernel",
    "prepare",
]

_thread = threading.local()


def _cell(name: str) -> tuple[Any, dict[str, str]]:
    """Return the reference module of a cell and the options that choose it there."""
    spec = CELLS[name]
    return importlib.import_module(f"{__package__}.{spec.function}"), dict(spec.options)


def _note(cell: str, passing: str, dtype: np.dtype) -> None:
    _thread.kernel = f"{cell}.{passing}.f{dtype.itemsize * 8}.numpy"


def last_kernel() -> str:
    """Id of the last kernel that ran in this thread, "" before the first."""
    return getattr(_thread, "kernel", "")


def _seen(array: np.ndarray) -> tuple[Any, ...]:
    """Return what tells a changed array; NumPy lets even its shape change in place."""
    checksum = zlib.crc32(np.ascontiguousarray(array).data) if array.size else 0
    return array.shape, array.dtype, checksum


def _all_seen(params) -> list[Any]:
    return [None if p is None else _seen(p) for row in params for p in row]


class _Sizes:
    """What the compiled tape and prepared form tell about themselves."""

    cell: str
    dtype: np.dtype
    I: int
    H: int
    D: int

    def _measure(self, cell: str, params) -> None:
        W, R = params[0][:2]
        self.cell, self.dtype = cell, R.dtype
        self.I, self.H, self.D = W.shape[1], R.shape[1], len(params)


class Prepared(_Sizes):
    """Frozen copies of the parameters of one layer."""

    def __init__(self, cell: str, params) -> None:
        self._measure(cell, params)
        self.params = tuple(tuple(None if p is None else p.copy() for p in row) for row in params)

    def made_from(self, params) -> bool:
        """Whether these parameters hold, to the bit, what was copied."""
        return _all_seen(self.params) == _all_seen(params)


class Tape(_Sizes):
    """Memory kept from one forward call; borrows x, y, W, R and h0, as the compiled tape does."""

    def __init__(
        self, cell: str, x, y, params, state, kept, cell_options, options, flat, plans
    ) -> None:
        self._measure(cell, params)
        self.T, self.B = x.shape[:2] if flat is None else (flat.T, flat.B)
        indices = x.dtype.kind in "iu"
        self.x, self.params, self.kept = (x.copy() if indices else x), params, kept
        self.cell_options, self.flat, self.plans = cell_options, flat, plans
        self.reset_state = None if options is None else options.reset_state
        self._borrowed = [("y", y)] if indices else [("x", x), ("y", y)]
        for row, suffix in zip(params, ("", " of the reverse direction"), strict=False):
            self._borrowed += [("W" + suffix, row[0]), ("R" + suffix, row[1])]
        if state is not None and state[0] is not None:
            self._borrowed.append(("h0", state[0]))
        self._seen = [_seen(array) for _, array in self._borrowed]

    def states(self) -> tuple[np.ndarray, ...]:
        """Return the states that each step left, (D, T, B, H) each, flat (D, N, H)."""
        sequences = []
        for k in range(CELLS[self.cell].S):
            parts = []
            for kept, steps in zip(self.kept, self.plans, strict=True):
                values = kept.states[k][1:]
                if steps.used is not None and not steps.hold:
                    values = np.where(steps.used[:, :, None], values, np.zeros_like(values))
                parts.append(values)
            sequences.append(self._in_time(parts))
        return tuple(sequences)

    def gates(self) -> np.ndarray:
        """Return the activated gates, (D, T, B, G, H), flat (D, N, G, H)."""
        G = CELLS[self.cell].G
        if self.T == 0:
            return np.empty((self.D, *_lead(self.flat, 0, self.B), G, self.H), self.dtype)
        return self._in_time([np.stack(kept.slots[:G], 2) for kept in self.kept])

    def _in_time(self, parts) -> np.ndarray:
        """Stack what the directions have in scan order."""
        pairs = zip(parts, self.plans, strict=True)
        parts = [part[_in_scan_order(steps)] for part, steps in pairs]
        return np.stack(parts if self.flat is None else [self.flat.unpad(part) for part in parts])

    def verify(self) -> None:
        """Raise RuntimeError naming the first borrowed array that changed since forward."""
        for (name, array), seen in zip(self._borrowed, self._seen, strict=True):
            if _seen(array) != seen:
                raise RuntimeError(
                    f"rnnfast.{self.cell}: {name} has changed since the forward pass whose tape "
                    "this is; backward needs it as it was. Change it after backward, or give "
                    "forward a copy."
                )


def prepare(cell: str, params) -> Prepared:
    """Return a frozen copy of the parameters, usable as `params` in `forward` without a tape."""
    return Prepared(cell, params)


def forward(cell, x, params, state, out, keep_tape, threads, options=None):
    """Run one layer; returns y (T, B, D*H), the final states (D, B, H) each, and the tape or None.

    `options` are `ScanOptions`, or None for a plain call. With `cu_seqlens` there, x is (N, I) and
    y (N, D*H). `threads` is part of the contract; NumPy's own BLAS decides how many it uses.
    """
    if isinstance(params, Prepared):
        params = params.params
    module, cell_options = _cell(cell)
    S, G = CELLS[cell].S, CELLS[cell].G
    H, dtype = params[0][1].shape[1], params[0][1].dtype
    flat = None
    if options is not None:
        options = _copied(options)
        if options.cell_clip:
            cell_options["cell_clip"] = options.cell_clip
        if options.cu_seqlens is not None:
            flat = plan.Flat(options.cu_seqlens)
    padded = x if flat is None else flat.pad(x)
    T, B = padded.shape[:2]
    y = np.empty((*_lead(flat, T, B), len(params) * H), dtype) if out is None else out
    state_n = tuple(np.empty((len(params), B, H), dtype) for _ in range(S))
    plans, kept = [], []
    initial = (None,) * S if state is None else state
    # Kernels do not warn about infinities and NaN that the input brought along.
    with np.errstate(all="ignore"):
        for d, row in enumerate(params):
            steps = plan.PLAIN._replace(reverse=d == 1)
            if options is not None:
                steps = plan.make(options, flat, d, T, B, G, H, dtype)
            start = tuple(np.zeros((B, H), dtype) if s is None else s[d] for s in initial)
            back = _in_scan_order(steps)
            y_d, last, kept_d = scan.forward(
                module, cell_options, padded[back], *row, start, keep=keep_tape, plan=steps
            )
            y_d = y_d[back]
            y[..., d * H : (d + 1) * H] = y_d if flat is None else flat.unpad(y_d)
            for final, value in zip(state_n, last, strict=True):
                final[d] = value
            plans.append(steps)
            kept.append(kept_d)
    tape = None
    if keep_tape:
        tape = Tape(cell, x, y, params, state, kept, cell_options, options, flat, plans)
    _note(cell, "forward", dtype)
    return y, state_n, tape


def backward(tape, dy, dstate, need_dx, threads, dstates=None, dgates=None, need_dstate0=True):
    """Run one layer back.

    Returns
    -------
    dx : array in the form of x, or None
    grads : tuple (D) of (dW, dR, dbW, dbR)
    dstate0 : tuple of S arrays (D, B, H), or of S times None
    dreset : tuple of S arrays in the form of the option `reset_state`, or None
    """
    tape.verify()
    module, _ = _cell(tape.cell)
    T, B, H, dtype, flat = tape.T, tape.B, tape.H, tape.dtype, tape.flat
    S, G = CELLS[tape.cell].S, CELLS[tape.cell].G
    pad = (lambda array: array) if flat is None else flat.pad
    dstate = (None,) * S if dstate is None else dstate
    dstates = (None,) * S if dstates is None else dstates
    dstate0 = tuple(np.empty((tape.D, B, H), dtype) for _ in range(S))
    indices = tape.x.dtype.kind in "iu"
    x_padded = pad(tape.x)
    dx = np.zeros((T, B, tape.I), dtype) if need_dx and not indices else None
    dreset = None
    if tape.reset_state is not None:
        dreset = tuple(None if a is None else np.zeros_like(a) for a in tape.reset_state)
    grads = []
    with np.errstate(all="ignore"):
        for d, (W, R, bW, bR) in enumerate(tape.params):
            steps = tape.plans[d]
            back = _in_scan_order(steps)
            x = x_padded[back]
            dy_d = np.zeros((T, B, H), dtype)
            if dy is not None:
                dy_d = pad(dy[..., d * H : (d + 1) * H])[back]
            last = tuple(np.zeros((B, H), dtype) if s is None else s[d] for s in dstate)
            dgx, dgh, first, dreplacement = scan.backward(
                module,
                tape.cell_options,
                tape.kept[d],
                x,
                W,
                R,
                dy_d,
                last,
                steps,
                tuple(None if s is None else pad(s[d])[back] for s in dstates),
                None if dgates is None else pad(dgates[d])[back],
            )
            for gradient, value in zip(dstate0, first, strict=True):
                gradient[d] = value
            if dreset is not None and dreplacement is not None:
                for gradient, value in zip(dreset, dreplacement, strict=True):
                    if gradient is not None:
                        gradient[d] = plan.of_flags(value, gradient[d], flat, steps.reverse)
            rows_x, rows_h = dgx.reshape(T * B, G * H), dgh.reshape(T * B, G * H)
            live = scan.live(steps, T, B)
            if indices:
                picked = slice(None) if live is None else live.reshape(T * B)
                dW = _gather(x.reshape(T * B)[picked], rows_x[picked])
            else:
                if live is not None:
                    x = np.where(live[:, :, None], x, np.zeros_like(x))
                dW = rows_x.T @ x.reshape(T * B, tape.I)
            if dx is not None:
                dx_d = dgx @ W
                if live is not None:
                    dx_d = np.where(live[:, :, None], dx_d, np.zeros_like(dx_d))
                dx[back] += dx_d
            dR = rows_h.T @ scan.operand(tape.kept[d], steps).reshape(T * B, H)
            if steps.weight is not None:
                dR = dR * steps.weight
            dbW = None if bW is None else rows_x.sum(0)
            dbR = None if bR is None else rows_h.sum(0)
            grads.append((dW, dR, dbW, dbR))
    if dx is not None and flat is not None:
        dx = flat.unpad(dx)
    _note(tape.cell, "backward", dtype)
    return dx, tuple(grads), dstate0 if need_dstate0 else (None,) * S, dreset


def between_layers(x, add, H, p, seed, layer, t0, row_ids, cu_seqlens, threads):
    """Return x times a dropout mask, plus `add` if it is given: (T, B, D*H) or flat (N, D*H)."""
    y = x
    if p > 0:
        if cu_seqlens is None:
            T, B = x.shape[:2]
            row, step = np.arange(B), np.arange(T)[:, None]
        else:
            flat = plan.Flat(cu_seqlens)
            row, step = flat.row, flat.step
        numbers = row if row_ids is None else row_ids[row]
        D = x.shape[-1] // H
        y = x * _random.between_layers(
            p, seed, layer, _random.number(step, t0), numbers, H, D, x.dtype
        )
    return y if add is None else y + add


class Stream:
    """Layers that run a step, or a few, at a time: what the compiled class of this name does.

    `rnnfast.Stream` joins it with the checks.
    """

    _lock: threading.Lock | None = None
    _t = 0

    def _open(
        self, cell, layers, batch_size, batch_first, residual, zoneout, cell_clip, initial, threads
    ):
        if self._lock is not None:
            return None
        self._cell, self._layers = cell, [Prepared(cell, (row,)) for row in layers]
        self._axes, self._residual, self._threads = (batch_size, batch_first), residual, threads
        B, L, H = batch_size or 1, len(layers), self._layers[0].H
        self._options = None
        if zoneout is not None or cell_clip:
            self._options = ScanOptions(zoneout=zoneout, cell_clip=cell_clip)
        start = (0.0,) * CELLS[cell].S if initial is None else [p[:, None] for p in initial]
        shape, dtype = (L, B, H), self._layers[0].dtype
        self._initial = [np.broadcast_to(np.array(p, dtype), shape).copy() for p in start]
        self._states = [p.copy() for p in self._initial]
        self._lock = threading.Lock()
        return True

    @property
    def t(self):
        """Steps so far."""
        return self._t

    def _take(self, name, x, out):
        """Run a step or a chunk; returns y, `out` if it was given."""
        with self._alone(name):
            batch_size, batch_first = self._axes
            axes = [0] if name == "step" else []
            if batch_size is None:
                axes.append(1)
            swaps = name == "run" and batch_first and batch_size is not None
            read = x.swapaxes(0, 1) if swaps else np.expand_dims(x, axes)
            for k, layer in enumerate(self._layers):
                start = tuple(s[k : k + 1] for s in self._states)
                y, last, _ = forward(
                    self._cell, read, layer, start, None, False, self._threads, self._options
                )
                for states, state in zip(self._states, last, strict=True):
                    states[k] = state[0]
                read = y + read if self._residual and k > 0 else y
            self._t += len(read)
        y = np.squeeze(read.swapaxes(0, 1) if swaps else read, tuple(axes))
        if out is None:
            return np.ascontiguousarray(y)
        out[...] = y
        return out

    def _restart(self, rows):
        """Go back to the initial state, all rows (None) or those flagged."""
        with self._alone("reset"):
            for states, initial in zip(self._states, self._initial, strict=True):
                chosen = slice(None) if rows is None else rows
                states[:, chosen] = initial[:, chosen]
            if rows is None:
                self._t = 0
        return True

    def _read(self):
        """Return copies of the states, (L, B, H) each."""
        with self._alone("state"):
            return tuple(states.copy() for states in self._states)

    def _write(self, states):
        """Set the states, None is zero."""
        with self._alone("state"):
            for mine, state in zip(self._states, states, strict=True):
                mine[...] = 0 if state is None else state
        return True

    @contextlib.contextmanager
    def _alone(self, name):
        if self._lock is None:
            raise RuntimeError(
                f"rnnfast.Stream.{name}: the stream was never made; a subclass must call "
                "super().__init__(layer)."
            )
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                f"rnnfast.Stream.{name}: another thread is using this stream, expected one at a "
                "time: it carries one state. Use a stream for each thread, or a lock."
            )
        try:
            yield
        finally:
            self._lock.release()


def _in_scan_order(steps):
    """Slice that brings time to scan order, and back."""
    return slice(None, None, -1) if steps.reverse else slice(None)


def _lead(flat, T, B):
    return (T, B) if flat is None else (len(flat.row),)


def _copied(options):
    """Copy the arrays of options, which the caller may change while a tape lives."""

    def copied(value):
        if isinstance(value, tuple):
            return tuple(copied(entry) for entry in value)
        return value.copy() if isinstance(value, np.ndarray) else value

    return type(options)(*map(copied, options))


def _gather(indices, rows):
    """Sum the rows that share an index: (distinct indices (n,), sums (n, N))."""
    distinct, place = np.unique(indices, return_inverse=True)
    sums = np.zeros((len(distinct), rows.shape[1]), rows.dtype)
    np.add.at(sums, place.reshape(-1), rows)
    return distinct, sums
