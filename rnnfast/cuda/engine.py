"""NumPy arrays on a GPU: the contract of the compiled CPU module (``_core.pyi``).

Every call copies what it reads to the device and what it returns back, and waits. A tape stays on
the device, with copies of what it was made from: changing x or a parameter between forward and
backward changes nothing there. Like a kernel it trusts its arguments: `rnnfast._shapes` has checked
them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._scan_options import ScanOptions
from ..cells import CELLS
from ..reference.engine import between_layers
from . import _layer
from ._layer import last_kernel

__all__ = ["Prepared", "Tape", "backward", "between_layers", "forward", "last_kernel", "prepare"]


class _Memory:
    """Arrays on one device, in order with a stream that this has for itself."""

    def __init__(self, module: Any, dtype: np.dtype, number: int = 0) -> None:
        self._module, self._dtype, self._stream = module, dtype, module.Stream(number)
        self._scratch: Any = None
        storage = f"f{dtype.itemsize * 8}"
        self.device = _layer.Device(module, number, self._stream.pointer, storage)

    def empty(self, shape: tuple[int, ...], wide: bool = False) -> Any:
        return self._module.empty(shape, self._dtype, self._stream)

    def zeros(self, shape: tuple[int, ...], wide: bool = False) -> Any:
        return self._module.zeros(shape, self._dtype, self._stream)

    def scratch(self, size: int) -> Any:
        self._scratch = self._module.empty((size,), np.dtype(np.uint8), self._stream)
        return self._scratch

    def pointer(self, array: Any) -> int:
        return array.pointer

    def copy(self, array: np.ndarray | None) -> Any:
        """To the device."""
        if array is None:
            return None
        return self._module.DeviceArray(np.ascontiguousarray(array), self.device.number)

    def wait(self) -> None:
        """Wait until everything is done, which lets scratch go."""
        self._stream.synchronize()
        self._scratch = None


def _module() -> Any:
    from .. import _backend

    return _backend.cuda_module()[0]


class Prepared:
    """The parameters of one layer on the device."""

    def __init__(self, cell: str, params) -> None:
        W, R = params[0][:2]
        self.cell, self.dtype = cell, R.dtype
        self.I, self.H, self.D = W.shape[1], R.shape[1], len(params)
        memory = _Memory(_module(), R.dtype)
        self.params = tuple(tuple(map(memory.copy, row)) for row in params)

    def made_from(self, params) -> bool:
        """Whether these parameters hold, to the bit, what was copied."""
        return all(
            (mine is None) == (other is None)
            and (mine is None or mine.numpy().tobytes() == other.tobytes())
            for row, given in zip(self.params, params, strict=True)
            for mine, other in zip(row, given, strict=True)
        )


def prepare(cell: str, params) -> Prepared:
    """Return a copy of the parameters on the device, usable as `params` in `forward`."""
    return Prepared(cell, params)


class Tape:
    """What one forward call keeps, on the device."""

    def __init__(
        self, cell: str, rows: _layer.Rows, dtype, params, kept, options, directions, y, indices
    ) -> None:
        self.cell, self.dtype, self.D = cell, dtype, len(params)
        self.T, self.B, self.I, self.H = rows.T, rows.B, rows.I, rows.H
        self.rows, self.params, self.kept, self.options = rows, params, kept, options
        self.directions = directions  # the options of each, on the device
        self.y = y  # on the device
        self.indices: np.ndarray | None = indices  # None: x is dense

    def _lead(self) -> tuple[int, ...]:
        return (self.rows.places,) if self.rows.flat else (self.T, self.B)

    def states(self) -> tuple[np.ndarray, ...]:
        """Return the states that each step left, (D, T, B, H) each, flat (D, N, H)."""
        lead, D, H = self._lead(), self.D, self.H
        h = np.moveaxis(self.y.numpy().reshape(*lead, D, H), -2, 0)
        sequences = [np.ascontiguousarray(h)]
        if len(CELLS[self.cell].states) > 1:
            sequences.append(np.stack([k.c.numpy().reshape(*lead, H) for k in self.kept]))
        return tuple(sequences)

    def gates(self) -> np.ndarray:
        """Return the activated gates, (D, T, B, G, H), flat (D, N, G, H)."""
        spec = CELLS[self.cell]
        shape = (*self._lead(), len(spec.tape), self.H)
        slots = [k.cell.numpy().reshape(shape)[..., : spec.G, :] for k in self.kept]
        return np.ascontiguousarray(np.stack(slots))


def forward(cell, x, params, state, out, keep_tape, threads, options=None):
    """Run one layer; see `rnnfast.reference.engine.forward`."""
    spec = CELLS[cell]
    prepared = params if isinstance(params, Prepared) else None
    dtype = prepared.dtype if prepared else params[0][1].dtype
    memory = _Memory(_module(), dtype)
    on_device = (
        prepared.params if prepared else tuple(tuple(map(memory.copy, row)) for row in params)
    )
    I, H = (prepared.I, prepared.H) if prepared else (params[0][0].shape[1], params[0][1].shape[1])
    D = len(on_device)
    indices = x.dtype.kind in "iu"
    flat = options is not None and options.cu_seqlens is not None
    if flat:
        lengths = np.diff(options.cu_seqlens)
        T, B = int(lengths.max(initial=0)), len(lengths)
        rows = _layer.Rows(T, B, I, H, len(x), True)
    else:
        T, B = x.shape[:2]
        rows = _layer.Rows(T, B, I, H, T * B)
    x_device = memory.copy(x.astype(np.int64, copy=False) if indices else x)
    y_device = memory.empty((rows.places, D * H))
    x_at = rows.address(x_device.pointer, 1 if indices else I)
    directions = _directions(memory, options, D)
    states = [tuple(memory.empty((rows.B, H)) for _ in spec.states) for _ in range(D)]
    kept = []
    for d, weights in enumerate(on_device):
        pointer, *strides = rows.address(y_device.pointer, D * H)
        y_at = (pointer + d * H * dtype.itemsize, *strides)
        start = tuple(memory.copy(None if s is None else s[d]) for s in state or (None,) * spec.S)
        if options is not None and options.weight_drop:
            R = _layer.drop_weights(memory.device, memory, directions[d], weights[1])
            weights = (weights[0], R, *weights[2:])
        kept_d = _layer.forward(
            memory.device,
            memory,
            spec,
            rows,
            (x_device, x_at),
            weights,
            start,
            (y_device, y_at),
            state_n=states[d],
            indices=indices,
            options=directions[d],
            keep=keep_tape,
        )
        kept.append(kept_d)
        memory.wait()
    lead = (rows.places,) if flat else (T, B)
    y = y_device.numpy().reshape(*lead, D * H)
    if out is not None:
        out[...] = y
        y = out
    state_n = tuple(np.stack([last[s].numpy() for last in states]) for s in range(len(spec.states)))
    tape = None
    if keep_tape:
        copied = x.copy() if indices else None
        tape = Tape(cell, rows, dtype, on_device, kept, options, directions, y_device, copied)
    return y, state_n, tape


def backward(tape, dy, dstate, need_dx, threads, dstates=None, dgates=None):
    """Run one layer back; see `rnnfast.reference.engine.backward`."""
    spec, rows, D, H, dtype = CELLS[tape.cell], tape.rows, tape.D, tape.H, tape.dtype
    options, G, I = tape.options, CELLS[tape.cell].G, tape.I
    memory = _Memory(_module(), dtype)
    indices = tape.indices is not None
    with_dx = need_dx and not indices
    dy_device = memory.copy(dy)
    dx_device = memory.zeros((rows.places, I)) if with_dx else None
    grads, dstate0, dreset = [], [], []
    for d in range(D):
        incoming: dict[str, Any] = {}
        alive = []
        if dy is not None:
            pointer, *strides = rows.address(dy_device.pointer, D * H)
            incoming["dy"] = (pointer + d * H * dtype.itemsize, *strides)
        if dstate is not None:
            last = [memory.copy(None if s is None else s[d]) for s in dstate]
            incoming["dstate_n"] = tuple(0 if s is None else s.pointer for s in last)
            alive += last
        if dstates is not None:
            into = [memory.copy(None if s is None else s[d]) for s in dstates]
            incoming["dstates"] = tuple(
                None if s is None else rows.address(s.pointer, H) for s in into
            )
            alive += into
        if dgates is not None:
            into_gates = memory.copy(dgates[d])
            incoming["dgates"] = rows.address(into_gates.pointer, G * H)
            alive.append(into_gates)
        shapes = {"dW": (G * H, I), "dR": (G * H, H), "dbW": (G * H,), "dbR": (G * H,)}
        written = {
            name: memory.empty(shape)
            for (name, shape), weight in zip(shapes.items(), tape.params[d], strict=True)
            if weight is not None
        }
        first = [memory.empty((rows.B, H)) for _ in spec.states]
        results: dict[str, Any] = {name: array.pointer for name, array in written.items()}
        results["dstate0"] = tuple(s.pointer for s in first)
        if with_dx:
            results |= {"dx": rows.address(dx_device.pointer, I), "add_to_dx": d > 0}
        replaced = None
        if options is not None and options.reset_state is not None:
            replaced = [
                None if s is None else memory.zeros(s.shape[1:]) for s in options.reset_state
            ]
            results["dreplacement"] = tuple(0 if s is None else s.pointer for s in replaced)
        _layer.backward(memory.device, memory, tape.kept[d], incoming, results)
        memory.wait()
        if options is not None and options.weight_drop:
            dR = written["dR"]
            written["dR"] = _layer.drop_weights(memory.device, memory, tape.directions[d], dR)
            memory.wait()
        grads.append(_parameters(tape, written, options))
        dstate0.append([s.numpy() for s in first])
        dreset.append(replaced and [None if s is None else s.numpy() for s in replaced])
    dx = None
    if with_dx:
        dx = dx_device.numpy().reshape(*((rows.places,) if rows.flat else (rows.T, rows.B)), I)
    joined = None
    if dreset[0] is not None:
        joined = tuple(
            None if s is None else np.stack([row[k] for row in dreset])
            for k, s in enumerate(dreset[0])
        )
    return (
        dx,
        tuple(grads),
        tuple(np.stack([row[s] for row in dstate0]) for s in range(len(spec.states))),
        joined,
    )


def _parameters(tape: Tape, written: dict[str, Any], options: ScanOptions | None):
    values = {name: array.numpy() for name, array in written.items()}
    dW = values["dW"]
    if tape.indices is not None:
        distinct = np.unique(tape.indices[_used(tape.indices, options)])
        dW = (distinct, np.ascontiguousarray(dW[:, distinct].T))
    return dW, values["dR"], values.get("dbW"), values.get("dbR")


def _used(indices: np.ndarray, options: ScanOptions | None) -> np.ndarray:
    """Return where a step is used: of the shape of the indices."""
    used: np.ndarray = np.ones(indices.shape, np.bool_)
    if options is not None and options.mask is not None:
        used = used & options.mask
    if options is not None and options.lengths is not None:
        used = used & (np.arange(len(indices))[:, None] < options.lengths)
    return used


def _directions(memory: _Memory, options: ScanOptions | None, D: int) -> list[_layer.Options]:
    """Return the options of each direction, their arrays on the device."""
    if options is None:
        return [_layer.options_of(None, d) for d in range(D)]
    lengths, start = options.lengths, None
    replaced: Any = options.reset_state
    if options.cu_seqlens is not None:
        lengths, start = np.diff(options.cu_seqlens), memory.copy(options.cu_seqlens[:-1])
    if replaced is not None:
        replaced = tuple(
            None if s is None else [memory.copy(s[d]) for d in range(D)] for s in replaced
        )
    arrays: dict[str, Any] = {
        "lengths": memory.copy(lengths),
        "mask": memory.copy(options.mask),
        "reset": memory.copy(options.reset),
        "row_ids": memory.copy(options.row_ids),
        "reset_state": replaced,
    }
    there = options._replace(**arrays)
    return [_layer.options_of(there, d, start) for d in range(D)]
