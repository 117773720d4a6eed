"""Which way a call takes, and the count of it.

A call is "fused" where our kernels run it; "composed" where the reference's forward pass runs on
tensors, step by step, differentiable by PyTorch to any order; "stock" where PyTorch's own layer
runs it. The last two have a reason in words.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from .. import _backend
from . import _cuda_device

__all__ = [
    "REFUSED",
    "TRANSFORMS",
    "as_leaf",
    "batched",
    "count",
    "count_fused",
    "count_traced",
    "dispatch_counts",
    "in_graph",
    "last_reason",
    "obstacle",
    "unfit",
    "untraced",
]

_log = logging.getLogger("rnnfast")
_lock = threading.Lock()
_counts = {"composed": 0, "stock": 0}
# These count without a lock, at a fraction of its price; but to read is to count, so reads are too.
_fused = itertools.count()
_reads = itertools.count()

count_fused: Callable[[], object] = _fused.__next__
"""Count one call of the kernels."""
_last_reason: str | None = None

REFUSED = "PyTorch refuses the call"
"""The reason where arguments are wrong: the words are PyTorch's."""

_PLAIN = (Tensor, Parameter)
TRANSFORMS = ("a functorch transform", "forward-mode differentiation")
"""Obstacles beside which PyTorch's own layers have no rule for every call."""
_FLOATS = (torch.float32, torch.float64)
_DEVICE_FLOATS = (*_FLOATS, torch.bfloat16, torch.float16)


def count(way: str, reason: str) -> None:
    """Count one call that was not fused."""
    global _last_reason
    with _lock:
        _counts[way] += 1
        _last_reason = reason
    _log.debug("rnnfast.torch: %s: %s", way, reason)


def count_traced(reason: str) -> None:
    """Count one call that a compiler or an export traces as PyTorch's: then, not in each run."""
    count("stock", reason)


def _transform() -> str | None:
    """Say which transform of PyTorch's a call stands in that operators must know, or None."""
    if _level() is not None:
        return TRANSFORMS[0]
    if forward_ad._current_level >= 0:
        return TRANSFORMS[1]
    return None


def _absent() -> str | None:
    """Say why there is no compiled module, or None."""
    if "auto" in _backend.compiled:
        return None
    return f"the compiled module is absent: {_backend.backends()['cpu']}"


def _obstacle_of_graph() -> str | None:
    """Say what keeps a call that is traced from our operator, whatever its tensors, or None."""
    return _transform() or _absent()


# As torch.compiler.assume_constant_result does, which would import the compiler here: Dynamo calls
# the function itself while it traces. It enters transforms then, and guards that they are the same.
for _function in (count_traced, _obstacle_of_graph):
    vars(_function)["_dynamo_marked_constant"] = True


def dispatch_counts() -> dict[str, int]:
    """Return how many calls of this process took each way.

    Returns
    -------
    dict
        ``{"fused": n, "composed": n, "stock": n}``. A call of a layer or cell counts once; a
        backward pass only where it is itself differentiated (``create_graph=True``).
    """
    with _lock:
        return {"fused": next(_fused) - next(_reads), **_counts}


def last_reason() -> str | None:
    """Return why the last call that was not fused was not; None where there was none yet."""
    return _last_reason


@functools.cache
def untraced(method: Any) -> Any:
    """Return a method that Dynamo leaves alone, and all that it calls.

    Where it breaks a graph at one of our layers, as it does by default, it would go on with each
    function that the layer calls, down to the kernel, which it cannot trace. It takes seconds to
    import and costs each call a little, so ask for this only where it is imported already.
    """
    return torch.compiler.disable(method)


# Asked in every call.
_tracing = torch._C._get_tracing_state
_level = torch._C._functorch.maybe_current_level
_modes = torch._C._len_torch_dispatch_stack
_autocast = torch._C._is_any_autocast_enabled
_is_batched = torch._C._functorch.is_batchedtensor
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor


def obstacle(dtype: torch.dtype | None, kind: str = "cpu") -> str | None:
    """Say what of PyTorch's state keeps a call from the kernels, whatever its tensors, or None.

    But for two things: the kind of device, and the dtype of x, for autocast leaves float64 alone.
    """
    # Each of these asks for operators that PyTorch knows, one by one.
    if _tracing() is not None:
        return "tracing"
    if _level() is not None or forward_ad._current_level >= 0:
        return _transform()
    if _modes() > 0:
        return "a dispatch mode"
    if dtype is not torch.float64 and _autocast() and torch.is_autocast_enabled(kind):
        return "autocast"
    if kind == "cpu" and "auto" not in _backend.compiled:
        return _absent()
    return None


def batched(tensors: Any) -> bool:
    """Whether tensors stand for several each, as `vmap` and ``is_grads_batched=True`` make them."""
    return any(t is not None and (_is_batched(t) or _is_legacy_batched(t)) for t in tensors)


def as_leaf(module: Any, input: Any, hx: Any, options: dict[str, Any]) -> Any:
    """Lay the call of a module into the graph that `torch.fx` draws, as one node.

    It does so with all modules of `torch.nn` itself, and would enter ours.
    """
    tracer = input.tracer
    args = (input,) if hx is None else (input, hx)
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, options)


def in_graph(x: Any, hx: Any, S: int, weights: Any) -> tuple[tuple[Any, ...], str | None]:
    """Return the states of a call that is traced, and why our operator cannot take it, or None."""
    if torch.compiler.is_exporting():
        return (), "export"
    reason = _obstacle_of_graph()
    if reason is not None:
        return (), reason
    # Asked here too, for Dynamo to guard it: it may change for the same graph.
    if forward_ad._current_level >= 0:
        return (), TRANSFORMS[1]
    states = () if hx is None else (hx,) if S == 1 else hx
    if not isinstance(states, (tuple, list)) or len(states) != (0 if hx is None else S):
        return (), REFUSED
    if not all(isinstance(t, Tensor) for t in (x, *states)):
        return (), REFUSED
    if x.device.type != "cpu":
        return (), f"device {x.device} in a compiled graph"
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return (), "autocast"
    if x.dtype not in _FLOATS:
        return (), f"{x.dtype}"
    for t in (*states, *weights):
        if t.dtype != x.dtype:
            return (), f"mixed dtypes, {x.dtype} and {t.dtype}"
        if t.device != x.device:
            return (), f"mixed devices, {x.device} and {t.device}"
    return tuple(states), None


def unfit(tensors: Any, home: Tensor) -> str | None:
    """Why these tensors, None among them left out, cannot be handed to a kernel; or None.

    All must be as `home` is: of its type, on its device.
    """
    dtype, on_device = home.dtype, _cuda_device.lies_on(home)
    if dtype not in (_DEVICE_FLOATS if on_device else _FLOATS):
        return f"{dtype}"
    if on_device:
        why = _cuda_device.why_not(home)
        if why is not None:
            return f"device {home.device}: {why}"
    for t in tensors:
        if t is None:
            continue
        if type(t) not in _PLAIN:
            if isinstance(t, Tensor):
                return f"a tensor subclass, {type(t).__name__}"
            return f"{type(t).__name__} in the place of a tensor"
        if on_device:
            if t.device != home.device:
                return f"mixed devices, {home.device} and {t.device}"
        elif not t.is_cpu:
            return "meta tensors" if t.is_meta else f"device {t.device}"
        if t.dtype is not dtype:
            return f"mixed dtypes, {dtype} and {t.dtype}"
        if t.layout is not torch.strided or t.is_nested:
            return "a sparse or nested tensor"
    return None
