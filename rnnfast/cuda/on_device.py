"""Arrays that lie on a GPU already: the contract of the compiled CPU module (``_core.pyi``).

A call reads them where they are and puts its work on the stream of x; results stay on the device,
and the host waits for nothing. Of the options `cu_seqlens` and `row_ids` are NumPy's: sizes follow
from the one, and numbers of rows from the other. A tape keeps the arrays themselves, so they must
stay as they are until the last backward call; nothing watches that. Like a kernel this trusts its
arguments: `DeviceChecker` has checked them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._scan_options import ScanOptions
from ..cells import CELLS
from ..errors import ArgumentError
from . import _layer
from ._arrays import DeviceArray, concatenate
from ._layer import last_kernel
from ._place import Place

__all__ = ["Prepared", "Tape", "backward", "between_layers", "forward", "last_kernel", "parameters"]


class Prepared:
    """The parameters of one layer on the device: D rows (W, R, bW, bR)."""

    def __init__(self, cell: str, params: Sequence[Sequence[DeviceArray | None]]) -> None:
        W, R = params[0][:2]
        assert W is not None
        assert R is not None
        self.cell, self.dtype = cell, R.dtype
        self.I, self.H, self.D = W.shape[1], R.shape[1], len(params)
        self.params = tuple(map(tuple, params))

    def made_from(self, params: Any) -> bool:
        """Whether these parameters hold, to the bit, what was copied."""
        return all(
            (mine is None) == (other is None)
            and (mine is None or mine.numpy().tobytes() == other.tobytes())
            for row, given in zip(self.params, params, strict=True)
            for mine, other in zip(row, given, strict=True)
        )


def parameters(who: str, rows: Sequence[Any], beside: DeviceArray) -> list[Any]:
    """Return the parameters of a layer, L times D rows of NumPy arrays or `Prepared`, there."""
    there: list[Any] = []
    for row in rows:
        if isinstance(row, tuple):
            place = Place.beside(beside, row[0][0].dtype)
            there.append(tuple(tuple(map(place.put, weights)) for weights in row))
        elif isinstance(row, Prepared):
            there.append(row)
        else:
            raise ArgumentError(
                f"{who}: x lies on a GPU, but the layer was prepared for the CPU. Make it with "
                'device="cuda" before prepare().'
            )
    return there


def _lead(x: DeviceArray, flat: bool) -> tuple[int, ...]:
    return x.shape[: 1 if flat else 2]


def _at(array: DeviceArray, flat: bool, first: int = 0) -> _layer.Address:
    """Where feature `first` of a sequence lies."""
    time, batch = array.strides[0], array.strides[0 if flat else 1]
    return array.pointer + first * array.dtype.itemsize, time, batch


class Tape:
    """What one forward call keeps."""

    def __init__(
        self,
        cell: str,
        rows: _layer.Rows,
        params: Any,
        kept: list[Any],
        options: ScanOptions | None,
        directions: list[_layer.Options],
        y: DeviceArray,
        indices: bool,
    ) -> None:
        self.cell, self.dtype, self.D = cell, y.dtype, len(params)
        self.T, self.B, self.I, self.H = rows.T, rows.B, rows.I, rows.H
        self.rows, self.params, self.kept, self.options = rows, params, kept, options
        self.directions, self.y, self.indices = directions, y, indices

    def states(self) -> tuple[DeviceArray, ...]:
        """Return the states that each step left, (D, T, B, H) each, flat (D, N, H)."""
        lead, H = _lead(self.y, self.rows.flat), self.H
        ahead = (slice(None),) * len(lead)
        h = [self.y[(None, *ahead, slice(d * H, (d + 1) * H))] for d in range(self.D)]
        sequences = [concatenate(h)]
        if len(CELLS[self.cell].states) > 1:
            sequences.append(concatenate([k.c.reshape(1, *lead, H) for k in self.kept]))
        return tuple(sequences)

    def gates(self) -> DeviceArray:
        """Return the activated gates, (D, T, B, G, H), flat (D, N, G, H)."""
        spec, lead = CELLS[self.cell], _lead(self.y, self.rows.flat)
        # As places: the copy takes no more axes.
        slots = concatenate([k.cell[None, :, : spec.G] for k in self.kept])
        return slots.reshape(self.D, *lead, spec.G, self.H)


def forward(
    cell: str,
    x: DeviceArray,
    params: Any,
    state: tuple[DeviceArray | None, ...] | None,
    out: DeviceArray | None,
    keep_tape: bool,
    threads: int | None,
    options: ScanOptions | None = None,
) -> tuple[DeviceArray, tuple[DeviceArray, ...], Tape | None]:
    """Run one layer; see `rnnfast.reference.engine.forward`."""
    params = params.params if isinstance(params, Prepared) else params
    place = Place.beside(x, params[0][1].dtype)
    return forward_at(place, cell, x, params, state, out, keep_tape, options)


def forward_at(
    place: Place,
    cell: str,
    x: DeviceArray,
    params: Any,
    state: tuple[DeviceArray | None, ...] | None,
    out: DeviceArray | None,
    keep_tape: bool,
    options: ScanOptions | None,
) -> tuple[DeviceArray, tuple[DeviceArray, ...], Tape | None]:
    """Run one layer at a place, where all its arrays are ready."""
    spec, D = CELLS[cell], len(params)
    I, H = params[0][0].shape[1], params[0][1].shape[1]
    indices = x.dtype.kind in "iu"
    flat = options is not None and options.cu_seqlens is not None
    if flat:
        assert options is not None
        assert options.cu_seqlens is not None
        lengths = np.diff(options.cu_seqlens)
        rows = _layer.Rows(int(lengths.max(initial=0)), len(lengths), I, H, len(x), True)
    else:
        T, B = x.shape[:2]
        rows = _layer.Rows(T, B, I, H, T * B)
    y = place.empty((*_lead(x, flat), D * H)) if out is None else out
    directions = _directions(place, options, D)
    state_n = tuple(place.empty((D, rows.B, H)) for _ in spec.states)
    kept = []
    for d, weights in enumerate(params):
        if options is not None and options.weight_drop:
            R = _layer.drop_weights(place.device, place, directions[d], weights[1])
            weights = (weights[0], R, *weights[2:])
        kept_d = _layer.forward(
            place.device,
            place,
            spec,
            rows,
            (x, _at(x, flat)),
            weights,
            tuple(None if s is None else s[d] for s in state or (None,) * spec.S),
            (y, _at(y, flat, d * H)),
            state_n=tuple(s[d] for s in state_n),
            indices=indices,
            options=directions[d],
            keep=keep_tape,
        )
        kept.append(kept_d)
    tape = None
    if keep_tape:
        tape = Tape(cell, rows, params, kept, options, directions, y, indices)
    return y, state_n, tape


def backward(tape, dy, dstate, need_dx, threads, dstates=None, dgates=None):
    """Run one layer back; see `rnnfast.reference.engine.backward`. dW is dense."""
    return backward_at(Place.beside(tape.y, tape.dtype), tape, dy, dstate, need_dx, dstates, dgates)


def backward_at(
    place: Place,
    tape: Tape,
    dy: DeviceArray | None,
    dstate: tuple[DeviceArray | None, ...] | None,
    need_dx: bool,
    dstates: tuple[DeviceArray | None, ...] | None,
    dgates: DeviceArray | None,
) -> tuple[Any, Any, Any, Any]:
    """Run one layer back at a place, where all its arrays are ready."""
    spec, rows, D, H, I = CELLS[tape.cell], tape.rows, tape.D, tape.H, tape.I
    options, G, flat = tape.options, spec.G, rows.flat
    dx = place.zeros((*_lead(tape.y, flat), I)) if need_dx and not tape.indices else None
    first = tuple(place.empty((D, rows.B, H)) for _ in spec.states)
    replaced: tuple[DeviceArray | None, ...] | None = None
    if options is not None and options.reset_state is not None:
        replaced = tuple(
            None if s is None else place.zeros(tuple(s.shape)) for s in options.reset_state
        )

    def of(arrays: tuple[DeviceArray | None, ...], d: int) -> list[DeviceArray | None]:
        return [None if a is None else a[d] for a in arrays]

    def pointers(arrays: tuple[DeviceArray | None, ...], d: int) -> tuple[int, ...]:
        return tuple(0 if a is None else a.pointer for a in of(arrays, d))

    grads = []
    for d in range(D):
        incoming: dict[str, Any] = {}
        if dy is not None:
            incoming["dy"] = _at(dy, flat, d * H)
        if dstate is not None:
            incoming["dstate_n"] = pointers(dstate, d)
        if dstates is not None:
            incoming["dstates"] = tuple(None if s is None else _at(s, flat) for s in of(dstates, d))
        if dgates is not None:
            incoming["dgates"] = _at(dgates[d], flat)
        shapes = {"dW": (G * H, I), "dR": (G * H, H), "dbW": (G * H,), "dbR": (G * H,)}
        written = {
            name: None if weight is None else place.empty(shape)
            for (name, shape), weight in zip(shapes.items(), tape.params[d], strict=True)
        }
        results: dict[str, Any] = {
            name: array.pointer for name, array in written.items() if array is not None
        }
        results["dstate0"] = pointers(first, d)
        if dx is not None:
            results |= {"dx": _at(dx, flat), "add_to_dx": d > 0}
        if replaced is not None:
            results["dreplacement"] = pointers(replaced, d)
        _layer.backward(place.device, place, tape.kept[d], incoming, results)
        if options is not None and options.weight_drop:
            where = place.device, place, tape.directions[d]
            written["dR"] = _layer.drop_weights(*where, written["dR"])
        grads.append(tuple(written.values()))
    return dx, tuple(grads), first, replaced


def between_layers(x, add, H, p, seed, layer, t0, row_ids, cu_seqlens, threads):
    """Return x times a dropout mask, plus `add`: see `rnnfast.reference.engine.between_layers`."""
    place = Place.beside(x, x.dtype)
    y, flat = place.empty(x.shape), cu_seqlens is not None
    call: dict[str, Any] = {
        "storage": place.device.storage,
        "device": place.device.number,
        "H": H,
        "dropout": p,
        "seed": seed,
        "layer": layer,
        "t0": t0,
    }

    def run(of_x: Any, of_add: Any, of_y: Any, ids: DeviceArray | None) -> None:
        for d in range(x.shape[-1] // H):
            more = {"direction": d, "T": of_x.shape[0], "B": of_x.shape[1]}
            for name, array in (("in", of_x), ("add", of_add), ("out", of_y)):
                if array is not None:
                    more[name] = _at(array, False, d * H)
            if ids is not None:
                more["row_ids"] = ids.pointer
            place.module.layer_between(call | more, place.device.stream)

    if not flat:
        run(x, add, y, place.put(row_ids))
        return y
    if row_ids is None:
        row_ids = np.arange(len(cu_seqlens) - 1, dtype=np.uint32)
    ids = place.put(row_ids)
    assert ids is not None
    # Each row with steps of its own; they lie behind each other.
    for b, (first, end) in enumerate(itertools.pairwise(cu_seqlens)):
        steps = slice(int(first), int(end))
        parts = (None if a is None else a[steps, None] for a in (x, add, y))
        run(*parts, ids[b : b + 1])
    return y


def _directions(place: Place, options: ScanOptions | None, D: int) -> list[_layer.Options]:
    """Return the options of each direction."""
    if options is None:
        return [_layer.options_of(None, d) for d in range(D)]
    start: DeviceArray | None = None
    arrays: dict[str, Any] = {"row_ids": place.put(options.row_ids)}
    if options.cu_seqlens is not None:
        start = place.put(options.cu_seqlens[:-1])
        arrays["lengths"] = place.put(np.diff(options.cu_seqlens))
    there = options._replace(**arrays)
    return [_layer.options_of(there, d, start) for d in range(D)]
