"""The common call: padded, no gradients, no options of ours.

Around a step of a small layer every question that Python asks takes as long as the step. So this
road asks as few as are safe, leaves shapes and strides to the kernel, which looks at them anyway,
and answers None to whatever is unusual; what that is, `_layers` finds out at leisure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _backend
from . import _dispatch, _weights

__all__ = ["run"]

_compiled = _backend.compiled


def run(module: Any, x: Any, hx: Any) -> Any:
    """Return what a layer returns, (y, state); or None."""
    kept = _weights.kept_of(module)
    if kept is None or _dispatch.obstacle() is not None:
        return None
    S, D, L = kept.S, kept.D, len(kept.rows)
    states = hx
    if hx is None:
        states = ()
    elif S == 1:
        states = (hx,)
    elif type(hx) is not tuple or len(hx) != S:
        return None
    arrays = []
    for t in (x, *states):
        if (
            type(t) is not Tensor
            or t.dtype is not kept.dtype
            or not t.is_cpu
            or t.layout is not torch.strided
            or t.is_nested
            or t.is_neg()
        ):
            return None
        arrays.append(t.detach().numpy() if t.requires_grad else t.numpy())
    y, *first = arrays
    # PyTorch refuses a sequence without steps.
    if y.ndim != 3 or y.size == 0 or (first and any(a.shape[:1] != (D * L,) for a in first)):
        return None
    if module.batch_first:
        y = y.swapaxes(0, 1)
    core, threads = _compiled["auto"], torch.get_num_threads()
    finals = []
    for k, row in enumerate(kept.packed(y.shape[0] * y.shape[1])):
        start = tuple(a[k * D : (k + 1) * D] for a in first) if first else None
        result = core.forward(kept.cell, y, row, start, None, False, threads)
        if result is None:
            return None
        y, last, _ = result
        finals.append(last)
    _dispatch.count_fused()
    _backend.ran.engine = core
    if L > 1:
        last = map(np.concatenate, zip(*finals, strict=True))
    # Time is outermost in memory under `batch_first` too, as in PyTorch.
    y = torch.from_numpy(y.swapaxes(0, 1) if module.batch_first else y)
    if S == 1:
        return y, torch.from_numpy(*last)
    return y, tuple(map(torch.from_numpy, last))
