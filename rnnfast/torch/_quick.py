"""The common call: padded, in eager mode, without dropout between layers or options of ours.

Around a step of a small layer every question that Python asks takes as long as the step. So on this
road the compiled module asks them, of PyTorch's own functions for the exchange of tensors, and
answers None to whatever is unusual; what that is, `_layers` finds out at leisure. So it does for
all calls where PyTorch is older than these functions.
"""

from __future__ import annotations

from typing import Any

import torch

from .. import _backend
from . import _dispatch, _scan, _weights
from ._call import plain_call

__all__ = ["run"]

_compiled, _noted = _backend.compiled, _weights.noted
_get_num_threads, _is_grad_enabled = torch.get_num_threads, torch.is_grad_enabled


def run(module: Any, x: Any, hx: Any, options: dict[str, Any]) -> Any:
    """Run the eager call of a layer, by this road where it serves."""
    noted = _noted.get(id(module))
    if (
        noted is None
        or noted[0]() is not module
        or noted[1].stack is None
        or options
        or module._wants_own()
        or (module.dropout and module.training)
        or _dispatch.obstacle(noted[1].dtype) is not None
    ):
        return module._forward_eager(x, hx, options)
    kept = noted[1]
    parameters, batch_first = module._parameters, module.batch_first
    grad, threads = _is_grad_enabled(), _get_num_threads()
    result = kept.stack.run(kept.prepared, parameters, x, hx, batch_first, grad, threads)
    if result is False:
        result = kept.stack.run(kept.pack(), parameters, x, hx, batch_first, grad, threads)
    if result is True:
        return _with_gradients(kept, x, hx, batch_first)
    if not result:  # False again: another thread is changing them at this moment
        return module._forward_eager(x, hx, options)
    _dispatch.count_fused()
    _backend.ran.engine = _compiled["auto"]
    return result


def _with_gradients(kept: _weights.Weights, x: Any, hx: Any, batch_first: Any) -> Any:
    # Before the call, which activation checkpointing leaves early.
    _dispatch.count_fused()
    nothing = (None,) * kept.S
    states = nothing if hx is None else (hx,) if kept.S == 1 else hx
    call = plain_call(kept.cell, kept.L, kept.D, kept.bias, bool(batch_first))
    y, *last = _scan.apply(call, kept, x, *states, *nothing, *kept.tensors)
    return y, (last[0] if kept.S == 1 else tuple(last))
