"""The weights of a module as kernels read them, checked once and kept for its next call.

Looking at a tensor from Python costs more than a step of a small layer. So what was found out about
the parameters of a module is kept beside it, and a call only asks whether they are still the same
tensors in the same memory. Packed copies are kept too, for calls without gradients. No pointer and
no version tells of `p.data.mul_(2)` or of a write through `p.numpy()`; so each call compares a
checksum of the weights with that of what was packed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import Parameter

from .. import _backend
from ..cells import CELLS
from . import _cuda_device, _dispatch

__all__ = [
    *("DeviceWeights", "Weights", "apart", "as_array", "as_weight", "find", "in_rows", "kept_of"),
    "noted",
]

_compiled = _backend.compiled
noted: dict[int, tuple[Callable[[], Any], Weights]] = {}
"""A module, weakly, and what was kept of it, whose weights may have changed since; by the module's
id, for a WeakKeyDictionary takes three times as long to ask."""

_address, _lies_as = Tensor.data_ptr, Tensor.is_set_to
_dtype = Tensor.dtype.__get__


def as_array(t: Tensor | None) -> Any:
    """Return the memory of a tensor as an array, copied only where kernels cannot read it."""
    if t is None:
        return None
    if t.requires_grad:
        t = t.detach()
    if not t.is_contiguous() or t.is_neg():
        t = t.resolve_neg().contiguous()
    return t.numpy()


def as_weight(t: Tensor) -> Any:
    """Return the memory of a weight as an array, copied only where kernels cannot read it.

    By DLPack, for `numpy()` forbids PyTorch for good to free or move the memory, which is what FSDP
    does with the parameters that it gathers.
    """
    t = t.detach()
    if not t.is_contiguous() or t.is_neg():
        t = t.resolve_neg().contiguous()
    return np.from_dlpack(t)


def in_rows(arrays: Sequence[Any], D: int, bias: bool) -> list[Any]:
    """Bring the arrays of a flat list to one entry per layer: D tuples (W, R, bW, bR)."""
    n = 4 if bias else 2
    rows = [(*arrays[i : i + n], None, None)[:4] for i in range(0, len(arrays), n)]
    return [tuple(rows[k : k + D]) for k in range(0, len(rows), D)]


class Weights:
    """Weights in the order of PyTorch's flat list, all that a kernel takes.

    Attributes
    ----------
    cell : str
    L, D, I, H, S : int
        Layers, directions, input and hidden size, states of the cell.
    bias : bool
        Whether there are biases.
    tensors : tuple
        They themselves.
    dtype : torch.dtype
        Of all of them.
    rows : list (L) of D tuples (W, R, bW, bR)
        Arrays on their memory; copies where kernels cannot read it.
    names, known : tuple
        Names of the flat list, and what the module has by each, None included.
    addresses, aliases, dtypes : tuple
        Of each tensor: its memory, an alias of it, its type.
    stay : bool
        Whether all are parameters on whose own memory the arrays are.
    prepared : tuple
        Packed copies, by layer; None of those not made yet.
    stack : TensorStack or None
        Calls on them by the shortest road; None where PyTorch is older than 2.10, or they do not
        stay.
    """

    __slots__ = (
        *("D", "H", "I", "L", "S", "bias", "cell", "dtype"),
        *("addresses", "aliases", "dtypes", "known", "names", "prepared", "rows"),
        *("stack", "stay", "tensors"),
    )

    def __init__(
        self, cell: str, names: Sequence[str], tensors: Sequence[Any], D: int, bias: bool
    ) -> None:
        self.cell, self.D, self.S, self.bias = cell, D, CELLS[cell].S, bias
        self.names, self.known = tuple(names), tuple(tensors)
        self.tensors = tuple(t for t in tensors if t is not None)
        self.dtype = self.tensors[0].dtype
        arrays = list(map(as_weight, self.tensors))
        self.rows = tuple(in_rows(arrays, D, bias))
        W, R = self.rows[0][0][:2]
        self.L, self.I, self.H = len(self.rows), W.shape[1], R.shape[1]
        self.addresses = tuple(map(_address, self.tensors))
        self.aliases = tuple(t.detach() for t in self.tensors)
        self.dtypes = tuple(map(_dtype, self.tensors))
        # Others may be results of an operator, which one keeps no longer than needed; and a copy
        # would not change with its tensor.
        self.stay = all(type(t) is Parameter for t in self.tensors) and self.addresses == tuple(
            a.ctypes.data for a in arrays
        )
        self.prepared: tuple[Any, ...] = (None,) * len(self.rows)
        self.stack: Any = None
        if self.stay:
            given = cell, self.names, self.known, self.rows
            self.stack = _compiled["auto"].tensor_stack(Tensor, *given)

    def pays_to_pack(self, steps: int) -> bool:
        """Whether a call of T*B steps without a tape is faster on packed copies.

        A single step reads every weight once, as it lies; packed copies are read beside the weights
        themselves, whose checksum tells whether they are stale. With them it took 0.87 to 1.12 of
        the time up to 4.5 MiB of weights and 1.16 to 1.75 from 6 MiB on, LSTM and GRU. Calls of 2
        to 16 took 0.44 to 0.98 up to 8 MiB, 0.75 to 1.15 from 24 MiB on (AVX2, Zen 3).
        """
        return self.stay and steps > 1

    def pack(self) -> tuple[Any, ...]:
        """Return packed copies of the weights as they are now, by layer."""
        core = _compiled["auto"]
        # A new tuple: another thread may be reading the old one.
        self.prepared = tuple(
            p if p is not None and p.made_from(row) else core.prepare(self.cell, row)
            for p, row in zip(self.prepared, self.rows, strict=True)
        )
        return self.prepared


class DeviceWeights(NamedTuple):
    """Weights on a GPU, in the order of PyTorch's flat list; nothing of them is kept."""

    cell: str
    bias: bool
    tensors: tuple[Tensor, ...]


def apart(weights: Weights | DeviceWeights, x: Tensor) -> str | None:
    """Why weights and input, each fit for a kernel, are not so together; or None."""
    w = weights.tensors[0]
    if w.dtype is not x.dtype:
        return f"mixed dtypes, {x.dtype} and {w.dtype}"
    if w.device != x.device:
        return f"mixed devices, {x.device} and {w.device}"
    return None


def kept_of(module: Any) -> Weights | None:
    """Return what is kept of a module, if its weights are still in the same memory and shape."""
    entry = noted.get(id(module))
    if entry is None or entry[0]() is not module:
        return None
    kept = entry[1]
    tensors, parameters = kept.tensors, module._parameters
    # Memory shared among processes moves within its storage, and the alias with it.
    if (
        all(map(is_, map(parameters.get, kept.names), kept.known))
        and tuple(map(_address, tensors)) == kept.addresses
        and all(map(_lies_as, tensors, kept.aliases))
        and tuple(map(_dtype, tensors)) == kept.dtypes
    ):
        return kept
    noted.pop(id(module), None)
    return None


def find(
    module: Any, cell: str, names: Sequence[str], D: int, bias: bool, shapes: Any
) -> Weights | DeviceWeights | str:
    """Return the weights of a module, or why no kernel takes them.

    `names` are those of the flat list, `shapes` a function that returns what shapes they must have.
    """
    kept = kept_of(module)
    if kept is not None:
        return kept
    # A weight made of other parameters is an attribute, or a property of the class.
    tensors = [getattr(module, name) for name in names]
    expected = shapes()
    present = [t for t in tensors if t is not None]
    if len(present) != len(expected):
        return "a weight is None"
    reason = _dispatch.unfit(present, present[0])
    if reason is not None:
        return reason
    if any(t.shape != shape for t, shape in zip(present, expected, strict=True)):
        return _dispatch.REFUSED
    if _cuda_device.lies_on(present[0]):
        return DeviceWeights(cell, bias, tuple(present))
    made = Weights(cell, names, tensors, D, bias)
    if made.stay:
        key = id(module)
        noted[key] = weakref.ref(module, lambda _: noted.pop(key, None)), made
    return made
