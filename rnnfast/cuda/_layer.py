"""One layer in one direction on arrays that lie on a device: what a pass reads, writes and keeps.

Nothing here looks into an array. Who calls brings a `Memory`, which makes arrays and knows where
they lie, so that NumPy's copies and PyTorch's tensors take the same road.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .._scan_options import ScanOptions
from ..cells import CellSpec

__all__ = [
    *("Device", "Kept", "Memory", "Options", "Rows"),
    *("backward", "drop_weights", "forward", "kept", "last_kernel", "options_of"),
]

_thread = threading.local()

Array = Any
Address = tuple[int, int, int]
"""Where a sequence lies: pointer, and strides of time and batch in elements. Inner stride 1."""


class Memory(Protocol):
    """Makes arrays on one device, in order with one of its streams."""

    def empty(self, shape: tuple[int, ...], wide: bool = False) -> Array:
        """Make room for an array of the stored type, or of the one it is computed in (`wide`)."""

    def zeros(self, shape: tuple[int, ...], wide: bool = False) -> Array:
        """Make the same, filled with zeros."""

    def scratch(self, size: int) -> Array:
        """Make room for so many bytes, until the next call of this."""

    def pointer(self, array: Array) -> int:
        """Return where an array lies."""


class Device(NamedTuple):
    """Where a pass runs, and on what kind of numbers."""

    module: Any  # rnnfast._cuda
    number: int
    stream: int
    storage: str  # f32, f64, bf16, f16
    tf32: bool = False  # whether products of f32 round what they multiply


class Rows(NamedTuple):
    """The sizes of a pass, and how its sequences lie."""

    T: int
    B: int
    I: int
    H: int
    places: int  # T * B, flat N
    flat: bool = False

    def address(self, pointer: int, n: int) -> Address:
        """Return where a C-contiguous sequence of n features lies."""
        return (pointer, n if self.flat else self.B * n, n)


@dataclass(frozen=True)
class Options:
    """A layer's options as a pass takes them: numbers, and arrays on the device."""

    numbers: dict[str, Any] = field(default_factory=dict)
    lengths: Array = None  # (B,) int64
    start: Array = None  # (B,) int64, first row of each sequence of flat arrays
    mask: Array = None  # (T, B) or (N,) bool
    reset: Array = None
    row_ids: Array = None  # (B,) uint32
    replacement: tuple[Array, ...] | None = None  # of this direction, see ScanOptions.reset_state

    @property
    def scheduled(self) -> bool:
        """Whether the state that enters a step may not be what the step before left."""
        return any(a is not None for a in (self.lengths, self.mask, self.reset))

    def call(self, memory: Memory) -> dict[str, Any]:
        """Return the entries of a call."""
        entries = dict(self.numbers)
        for name in ("lengths", "start", "mask", "reset", "row_ids"):
            array = getattr(self, name)
            if array is not None:
                entries[name] = memory.pointer(array)
        if self.replacement is not None:
            # Flat arrays have no axis of time: (N, H), or (1, B, H) for all steps.
            entries["replacement_per_step"] = tuple(
                a is not None and (len(a.shape) == 2 or a.shape[0] != 1) for a in self.replacement
            )
        return entries


_NUMBERS = (
    *("hold", "recurrent_dropout", "per_step", "training", "weight_drop", "cell_clip"),
    *("gradient_clip", "burn_in", "tbptt", "seed", "layer", "t0"),
)


def options_of(options: ScanOptions | None, d: int, start: Array = None) -> Options:
    """Return the options of direction d of a layer.

    The arrays of `options` lie on the device, `reset_state` with one entry for each direction; for
    flat arrays `start` and `lengths` take the place of `cu_seqlens`.
    """
    if options is None:
        return Options({"reverse": d == 1})
    numbers = {name: getattr(options, name) for name in _NUMBERS}
    numbers["reverse"] = options.reverse or d == 1
    if options.zoneout is not None:
        numbers["zoneout"] = tuple(options.zoneout)
    replacement = None
    if options.reset_state is not None:
        replacement = tuple(None if s is None else s[d] for s in options.reset_state)
    return Options(
        numbers,
        lengths=options.lengths,
        start=start,
        mask=options.mask,
        reset=options.reset,
        row_ids=options.row_ids,
        replacement=replacement,
    )


@dataclass(frozen=True)
class Kept:
    """What forward keeps for backward, and the call that it was made by."""

    call: dict[str, Any]
    tape: dict[str, Array]
    arrays: tuple[Array, ...]  # all whose pointers the call holds

    @property
    def cell(self) -> Array:
        """The slots of the cell, (places, K, H)."""
        return self.tape["tape_cell"]

    @property
    def c(self) -> Array | None:
        """The second state after each step, (places, H), wide."""
        return self.tape.get("tape_c")


def last_kernel() -> str:
    """Id of the last kernels that ran in this thread, "" before the first."""
    return getattr(_thread, "kernel", "")


def _pointers(memory: Memory, arrays: Any) -> tuple[int, ...]:
    return tuple(0 if a is None else memory.pointer(a) for a in arrays)


def _run(device: Device, memory: Memory, call: dict[str, Any], backward: bool) -> None:
    scratch = memory.scratch(device.module.layer_scratch(call, backward))
    where = memory.pointer(scratch), device.stream
    _thread.kernel = device.module.layer_run(call, backward, *where)


def drop_weights(device: Device, memory: Memory, options: Options, rows: Array) -> Array:
    """Return R, or dR, (G*H, H) with the mask of weight drop."""
    n, H = rows.shape
    call = {"storage": device.storage, "device": device.number, "H": H, **options.numbers}
    dropped = memory.empty((n, H))
    where = memory.pointer(rows), memory.pointer(dropped)
    device.module.layer_weight_drop(call, n, *where, device.stream)
    return dropped


def kept(
    device: Device,
    memory: Memory,
    spec: CellSpec,
    rows: Rows,
    x: tuple[Array, Address],
    weights: tuple[Array, ...],
    state0: tuple[Array, ...],
    y: tuple[Array, Address],
    *,
    tape: dict[str, Array],
    indices: bool = False,
    options: Options | None = None,
    family: str = "",
) -> Kept:
    """Return what `forward` of these arguments kept, whose arrays may lie elsewhere by now."""
    options = options or Options()
    call: dict[str, Any] = {
        "cell": spec.name,
        "storage": device.storage,
        "tf32": device.tf32,
        "device": device.number,
        "family": family,
        "T": rows.T,
        "B": rows.B,
        "I": rows.I,
        "H": rows.H,
        "index" if indices else "x": x[1],
        "y": y[1],
        "state0": _pointers(memory, state0),
        **options.call(memory),
    }
    for name, weight in zip(("W", "R", "bW", "bR"), weights, strict=True):
        if weight is not None:
            call[name] = memory.pointer(weight)
    call |= {name: memory.pointer(array) for name, array in tape.items()}
    return Kept(call, tape, (x[0], y[0], weights, state0, options, *tape.values()))


def forward(
    device: Device,
    memory: Memory,
    spec: CellSpec,
    rows: Rows,
    x: tuple[Array, Address],
    weights: tuple[Array, ...],
    state0: tuple[Array, ...],
    y: tuple[Array, Address],
    *,
    state_n: tuple[Array, ...],
    indices: bool = False,
    options: Options | None = None,
    keep: bool = False,
    family: str = "",
) -> Kept | None:
    """Run one direction forward.

    Parameters
    ----------
    x, y : (array, address)
        (T, B, I), indices (T, B, 1) int64; (T, B, H). Flat: rows for (T, B).
    weights : W, R, bW, bR
        The biases may be None.
    state0 : S arrays (B, H) or None
    state_n : S arrays (B, H)
        Where the final states are written.

    Returns
    -------
    Kept or None
    """
    options = options or Options()
    tape: dict[str, Array] = {}
    if keep:
        # Gates and cell states are outputs too, and zero where no step is.
        fresh = memory.zeros if options.scheduled else memory.empty
        shape = (rows.places, rows.H)
        tape["tape_cell"] = fresh((rows.places, len(spec.tape), rows.H))
        if spec.S > 1:
            tape["tape_c"] = fresh(shape, wide=True)
        if options.scheduled:
            tape["tape_entered"] = memory.empty(shape)
            if spec.S > 1:
                tape["tape_entered_c"] = memory.empty(shape, wide=True)
        if options.numbers.get("recurrent_dropout"):
            tape["tape_operand"] = memory.empty(shape, wide=True)
    more: dict[str, Any] = {"indices": indices, "options": options, "family": family}
    made = kept(device, memory, spec, rows, x, weights, state0, y, tape=tape, **more)
    written = {**made.call, "state_n": _pointers(memory, state_n)}
    if options.replacement is not None:
        written["replacement"] = _pointers(memory, options.replacement)
    _run(device, memory, written, backward=False)
    return made if keep else None


def backward(
    device: Device,
    memory: Memory,
    kept: Kept,
    gradients: dict[str, Any],
    results: dict[str, Any],
) -> None:
    """Run the direction that kept this back.

    Parameters
    ----------
    gradients : dict
        What comes in: `dy`, `dgates` (addresses), `dstate_n` (pointers), `dstates` (addresses or
        None).
    results : dict
        Where to write: `dx` (an address), `add_to_dx`, `dW`, `dR`, `dbW`, `dbR` (pointers),
        `dstate0` (pointers), `dreplacement` (pointers, wide, added to).
    """
    _run(device, memory, {**kept.call, **gradients, **results}, backward=True)
