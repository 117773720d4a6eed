"""The common call: padded, in eager mode, without dropout between layers or options of ours.

Around a step of a small layer every question that Python asks takes as long as the step. So this
road asks as few as are safe, and answers None to whatever is unusual; what that is, `_layers` finds
out at leisure.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, from_numpy

from .. import _backend
from . import _dispatch, _scan, _weights
from ._call import plain_call

__all__ = ["run"]

_compiled = _backend.compiled
_get_num_threads, _is_grad_enabled = torch.get_num_threads, torch.is_grad_enabled
_address = Tensor.data_ptr


def run(module: Any, x: Any, hx: Any) -> Any:
    """Return what a layer returns, (y, state); or None."""
    kept = _weights.kept_of(module)
    if kept is None or _dispatch.obstacle() is not None:
        return None
    S, D, L = kept.S, kept.D, kept.L
    states: tuple[Any, ...] = ()
    if hx is not None:
        states = (hx,) if S == 1 else hx
        if type(states) is not tuple or len(states) != S:
            return None
    for t in (x, *states):
        if (
            type(t) is not Tensor
            or t.dtype is not kept.dtype
            or not t.is_cpu
            or t.layout is not torch.strided
            or t.is_nested
            or t.is_neg()
            or not t.is_contiguous()
        ):
            return None
    # PyTorch refuses a sequence without steps.
    shape, batch_first = x.shape, bool(module.batch_first)
    if len(shape) != 3 or shape[2] != kept.I or 0 in shape:
        return None
    for t in states:
        if t.shape != (D * L, shape[not batch_first], kept.H):
            return None
    if _is_grad_enabled() and any(t.requires_grad for t in (*kept.tensors, x, *states)):
        # Before the call, which activation checkpointing leaves early.
        _dispatch.count_fused()
        nothing = (None,) * S
        call = plain_call(kept.cell, L, D, kept.bias, batch_first)
        y, *last = _scan.apply(call, kept, x, *(states or nothing), *nothing, *kept.tensors)
        return y, (last[0] if S == 1 else tuple(last))
    core, threads = _compiled["auto"], (_get_num_threads(),)
    B, T = (shape[0], shape[1]) if batch_first else (shape[1], shape[0])
    if not kept.pays_to_pack(T * B):
        return None
    addresses = tuple(map(_address, states)) if states else None
    arguments = kept.rows, _address(x), T, B, batch_first, addresses, threads
    result = core.forward_packed(kept.prepared, *arguments)
    if result is None:
        result = core.forward_packed(kept.pack(), *arguments)
        if result is None:  # another thread is changing them at this moment
            return None
    y, last = result
    _dispatch.count_fused()
    _backend.ran.engine = core
    y = from_numpy(y.swapaxes(0, 1) if batch_first else y)
    return y, (from_numpy(*last) if S == 1 else tuple(map(from_numpy, last)))
