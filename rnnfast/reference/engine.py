"""The NumPy back end: the contract of the compiled module, computed by the reference.

One call is one layer, D directions; the second runs reversed in time. Array shapes stand in
`_core.pyi`. Like a kernel it trusts its arguments: `rnnfast._shapes` has checked them.
"""

from __future__ import annotations

import importlib
import threading
import zlib
from typing import Any

import numpy as np

from ..cells import CELLS
from . import scan

__all__ = ["Prepared", "Tape", "backward", "forward", "last_kernel", "prepare"]

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


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data) if array.size else 0


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


class Tape(_Sizes):
    """Memory kept from one forward call; borrows x, y, W, R and h0, as the compiled tape does."""

    def __init__(self, cell: str, x, y, params, state, kept) -> None:
        self._measure(cell, params)
        self.T, self.B = x.shape[:2]
        self.x, self.params, self.kept = (x.copy() if x.ndim == 2 else x), params, kept
        self._borrowed = [("y", y)] if x.ndim == 2 else [("x", x), ("y", y)]
        for row, suffix in zip(params, ("", " of the reverse direction"), strict=False):
            self._borrowed += [("W" + suffix, row[0]), ("R" + suffix, row[1])]
        if state is not None and state[0] is not None:
            self._borrowed.append(("h0", state[0]))
        self._checksums = [_checksum(array) for _, array in self._borrowed]

    def verify(self) -> None:
        """Raise RuntimeError naming the first borrowed array that changed since forward."""
        for (name, array), checksum in zip(self._borrowed, self._checksums, strict=True):
            if _checksum(array) != checksum:
                raise RuntimeError(
                    f"rnnfast.{self.cell}: {name} has changed since the forward pass whose tape "
                    "this is; backward needs it as it was. Change it after backward, or give "
                    "forward a copy."
                )


def prepare(cell: str, params) -> Prepared:
    """Return a frozen copy of the parameters, usable as `params` in `forward` without a tape."""
    return Prepared(cell, params)


def forward(cell, x, params, state, out, keep_tape, threads):
    """Run one layer; returns y (T, B, D*H), the final states (D, B, H) each, and the tape or None.

    `threads` is part of the contract; NumPy's own BLAS decides how many it uses.
    """
    if isinstance(params, Prepared):
        params = params.params
    module, options = _cell(cell)
    S = CELLS[cell].S
    T, B = x.shape[:2]
    H, dtype = params[0][1].shape[1], params[0][1].dtype
    y = np.empty((T, B, len(params) * H), dtype) if out is None else out
    state_n = tuple(np.empty((len(params), B, H), dtype) for _ in range(S))
    kept = []
    initial = (None,) * S if state is None else state
    # Kernels do not warn about infinities and NaN that the input brought along.
    with np.errstate(all="ignore"):
        for d, row in enumerate(params):
            start = tuple(np.zeros((B, H), dtype) if s is None else s[d] for s in initial)
            steps = x[::-1] if d else x
            y_d, last, kept_d = scan.forward(module, options, steps, *row, start, keep=keep_tape)
            y[:, :, d * H : (d + 1) * H] = y_d[::-1] if d else y_d
            for final, value in zip(state_n, last, strict=True):
                final[d] = value
            kept.append(kept_d)
    tape = Tape(cell, x, y, params, state, kept) if keep_tape else None
    _note(cell, "forward", dtype)
    return y, state_n, tape


def backward(tape, dy, dstate, need_dx, threads):
    """Run one layer back; returns dx or None, the gradients per direction, and dstate0."""
    tape.verify()
    module, options = _cell(tape.cell)
    T, B, H, dtype = tape.T, tape.B, tape.H, tape.dtype
    S = CELLS[tape.cell].S
    dstate = (None,) * S if dstate is None else dstate
    dstate0 = tuple(np.empty((tape.D, B, H), dtype) for _ in range(S))
    indices = tape.x.ndim == 2
    dx = np.zeros((T, B, tape.I), dtype) if need_dx and not indices else None
    grads = []
    with np.errstate(all="ignore"):
        for d, (W, R, bW, bR) in enumerate(tape.params):
            back = slice(None, None, -1) if d else slice(None)
            x = tape.x[back]
            dy_d = np.zeros((T, B, H), dtype) if dy is None else dy[back, :, d * H : (d + 1) * H]
            last = tuple(np.zeros((B, H), dtype) if s is None else s[d] for s in dstate)
            dgx, dgh, first = scan.backward(module, options, tape.kept[d], x, W, R, dy_d, last)
            for gradient, value in zip(dstate0, first, strict=True):
                gradient[d] = value
            rows_x, rows_h = dgx.reshape(T * B, len(R)), dgh.reshape(T * B, len(R))
            h_prev = tape.kept[d].states[0][:-1].reshape(T * B, H)
            flat = x.reshape(T * B) if indices else x.reshape(T * B, tape.I)
            dW = _gather(flat, rows_x) if indices else rows_x.T @ flat
            if dx is not None:
                dx[back] += dgx @ W
            dbW = None if bW is None else rows_x.sum(0)
            dbR = None if bR is None else rows_h.sum(0)
            grads.append((dW, rows_h.T @ h_prev, dbW, dbR))
    _note(tape.cell, "backward", dtype)
    return dx, tuple(grads), dstate0


def _gather(indices, rows):
    """Sum the rows that share an index: (distinct indices (n,), sums (n, N))."""
    distinct, place = np.unique(indices, return_inverse=True)
    sums = np.zeros((len(distinct), rows.shape[1]), rows.dtype)
    np.add.at(sums, place.reshape(-1), rows)
    return distinct, sums
