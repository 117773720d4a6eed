"""NumPy arrays on a GPU: the contract of the compiled CPU module (``_core.pyi``).

Every call copies what it reads to the device and what it returns back, and waits; between the two
it is a call of `on_device`. A tape stays on the device, with copies of what it was made from:
changing x or a parameter between forward and backward changes nothing there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._scan_options import ScanOptions
from ..reference.engine import between_layers
from . import on_device
from ._arrays import DeviceArray, host
from ._layer import last_kernel
from ._place import Place
from .on_device import Prepared

__all__ = ["Prepared", "Tape", "backward", "between_layers", "forward", "last_kernel", "prepare"]


def _module() -> Any:
    from .. import _backend

    return _backend.cuda_module()[0]


def prepare(cell: str, params: Any) -> Prepared:
    """Return a copy of the parameters on the device, usable as `params` in `forward`."""
    place = Place.own(_module(), params[0][1].dtype)
    prepared = Prepared(cell, _there(place, params))
    # Calls on any stream will read it.
    place.stream.synchronize()
    return prepared


class Tape:
    """What one forward call keeps, on the device."""

    def __init__(
        self, there: on_device.Tape, options: ScanOptions | None, indices: np.ndarray | None
    ) -> None:
        self.there, self.options = there, options
        self.indices = indices  # None: x is dense
        self.cell, self.dtype, self.D = there.cell, there.dtype, there.D
        self.T, self.B, self.I, self.H = there.T, there.B, there.I, there.H

    def states(self) -> tuple[np.ndarray, ...]:
        """Return the states that each step left, (D, T, B, H) each, flat (D, N, H)."""
        return tuple(s.numpy() for s in self.there.states())

    def gates(self) -> np.ndarray:
        """Return the activated gates, (D, T, B, G, H), flat (D, N, G, H)."""
        return self.there.gates().numpy()


def forward(cell, x, params, state, out, keep_tape, threads, options=None):
    """Run one layer; see `rnnfast.reference.engine.forward`."""
    prepared = isinstance(params, Prepared)
    place = Place.own(_module(), params.dtype if prepared else params[0][1].dtype)
    indices = x.dtype.kind in "iu"
    y_there, last, kept = on_device.forward_at(
        place,
        cell,
        place.put(x.astype(np.int64, copy=False) if indices else x),
        params.params if prepared else _there(place, params),
        _there(place, state),
        None,
        keep_tape,
        options and options._replace(**{n: _there(place, getattr(options, n)) for n in _ARRAYS}),
    )
    y = y_there.numpy()
    if out is not None:
        out[...] = y
        y = out
    tape = None
    if kept is not None:
        tape = Tape(kept, options, x.copy() if indices else None)
    return y, tuple(s.numpy() for s in last), tape


def backward(tape, dy, dstate, need_dx, threads, dstates=None, dgates=None, need_dstate0=True):
    """Run one layer back; see `rnnfast.reference.engine.backward`."""
    place = Place.own(_module(), tape.dtype)
    given = (_there(place, a) for a in (dstates, dgates))
    incoming = place.put(dy), _there(place, dstate), need_dx, *given
    dx, grads, first, replaced = on_device.backward_at(place, tape.there, *incoming)
    return (
        host(dx),
        tuple(_parameters(tape, *map(host, row)) for row in grads),
        tuple(map(host, first)) if need_dstate0 else (None,) * len(first),
        None if replaced is None else tuple(map(host, replaced)),
    )


_ARRAYS = ("lengths", "mask", "reset", "reset_state")
"""Options that a call on a device reads there."""


def _there(place: Place, value: Any) -> Any:
    """Copy an array, or all in tuples of them, to the device."""
    if isinstance(value, (tuple, list)):
        return tuple(_there(place, entry) for entry in value)
    return value if value is None or isinstance(value, DeviceArray) else place.put(value)


def _parameters(tape: Tape, dW, dR, dbW, dbR):
    if tape.indices is not None:
        distinct = np.unique(tape.indices[_used(tape.indices, tape.options)])
        dW = (distinct, np.ascontiguousarray(dW[:, distinct].T))
    return dW, dR, dbW, dbR


def _used(indices: np.ndarray, options: ScanOptions | None) -> np.ndarray:
    """Return where a step is used: of the shape of the indices."""
    used: np.ndarray = np.ones(indices.shape, np.bool_)
    if options is not None and options.mask is not None:
        used = used & options.mask
    if options is not None and options.lengths is not None:
        used = used & (np.arange(len(indices))[:, None] < options.lengths)
    return used
