"""A layer's call while a compiler traces it: our operator as one node of the graph.

Nothing here may look at the values of a tensor; the operator checks them when the graph runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from . import _custom_ops, _dispatch, _options  # noqa: F401 - _custom_ops registers
from ._options import States

__all__ = ["run"]


def run(layer: Any, input: Any, hx: Any, options: dict[str, Any]) -> Any:
    """Lay a call of `torch.ops.rnnfast.scan` into the graph; None where it is PyTorch's to do."""
    own = bool(options) or layer._wants_own()
    weights = layer._weights()
    if own and isinstance(input, Tensor) and torch.is_autocast_enabled(input.device.type):
        # As in an eager call: the operator knows nothing of autocast, and nor do its states.
        with torch.autocast(input.device.type, enabled=False):
            return run(layer, input.to(weights[0].dtype), hx, options)
    S = layer._spec.S
    entries, reason = _dispatch.in_graph(input, hx, S, weights)
    if layer.proj_size > 0:
        reason = "proj_size"
    elif reason is None and (
        input.dim() not in (2, 3)
        or input.shape[1 if layer.batch_first and input.dim() == 3 else 0] == 0
        or any(s.dim() != input.dim() for s in entries)
    ):
        reason = _dispatch.REFUSED
    if reason is not None and own:
        raise ArgumentError(
            f"{layer._who}: options of its own are compiled for padded input of float32 or "
            "float64 on the CPU, and not for export; call the layer outside of torch.compile "
            "(torch.compiler.disable)."
        )
    if reason is not None:
        _dispatch.count_traced(reason)
        return None
    unbatched = input.dim() == 2
    row = 0 if layer.batch_first else 1
    x = input.unsqueeze(row) if unbatched else input
    states: list[Tensor] = [s.unsqueeze(1) if unbatched else s for s in entries]
    if states:
        layer.check_forward_args(x, states[0] if S == 1 else tuple(states), None)
    else:
        layer.check_input(x, None)
    L, D = layer.num_layers, 1 + layer.bidirectional
    resets: list[Tensor] = []
    arrays: list[Tensor] = []
    settings = ""
    if own:  # first, for it may draw a seed, as an eager call does before it draws masks
        states, resets, arrays, settings = _own(layer, x, states, options, unbatched)
    masks: list[Tensor] = []
    if layer.training and layer.dropout > 0:
        T, B = (x.shape[1], x.shape[0]) if layer.batch_first else (x.shape[0], x.shape[1])
        ones = x.new_ones(T, B, D * layer.hidden_size)
        masks = [torch.dropout(ones, layer.dropout, True) for _ in range(L - 1)]
    tensors = (x, *states, *resets, *weights)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    y, *last, _ = torch.ops.rnnfast.scan(
        *(x, states, resets, weights, masks, arrays, settings),
        *(layer._name, L, D, layer.bias, layer.batch_first, keep),
    )
    last, everything = last[:S], last[S:]
    if unbatched:
        y, last = y.squeeze(row), [s.squeeze(1) for s in last]
        everything = [a.squeeze(row + 1) for a in everything]
    final = last[0] if S == 1 else tuple(last)
    if not everything:
        return y, final
    return y, final, States(everything[0], None if S == 1 else everything[1], everything[-1])


def _own(
    layer: Any, x: Tensor, states: list[Tensor], options: dict[str, Any], unbatched: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor], str]:
    """Return initial states, replacements, arrays and settings as the operator takes them."""
    _options.refuse_unknown(layer._who, options)
    given: dict[str, Any] = {name: getattr(layer, name) for name in _options.CELL}
    given.update((k, v) for k, v in options.items() if v is not None)
    if unbatched and "lengths" in given:
        raise ArgumentError(
            f"{layer._who}: lengths is given, but input is a single unbatched row; expected no "
            "lengths. Use input[:length]."
        )
    resets = _replacements(given, unbatched, layer.batch_first)
    reset_to = given.get("reset_to", "zero")
    learned = layer._learned(x, None, True, not states, reset_to)
    if learned is not None:
        states = states or list(learned)
        if reset_to == "learned" and given.get("reset") is not None and not resets:
            # (D*L, B, H), the same at every step; what is left to check is that reset_state is
            # not given too.
            resets = [s.unsqueeze(1) for s in learned]
            given.pop("reset_to")
    if layer.training and given.get("seed") is None:
        zoneout = given["zoneout"]
        drawn = any(zoneout) if isinstance(zoneout, tuple) else zoneout
        if drawn or given["recurrent_dropout"] or given["weight_drop"]:
            # As `_options.read` draws it.
            given["seed"] = torch.randint(2**63 - 1, (), device="cpu")
    names: list[str] = []
    arrays: list[Tensor] = []
    for name in ("lengths", "mask", "reset", "row_ids", "seed", "t0"):
        value = given.pop(name, None)
        if value is None:
            continue
        if not isinstance(value, Tensor):
            if name == "seed" and value >= 2**63:
                value -= 2**64  # the same 64 bits
            value = torch.as_tensor(value)
        if name in ("mask", "reset") and unbatched:
            value = value.unsqueeze(1)
        elif name in ("mask", "reset") and layer.batch_first:
            value = value.transpose(0, 1)
        # A copy: the caller may change it before backward.
        arrays.append(value.clone())
        names.append(name)
    given |= {"who": layer._who, "training": layer.training, "arrays": names}
    settings = "{" + ", ".join(f"{k!r}: {v!r}" for k, v in given.items()) + "}"
    return states, resets, arrays, settings


def _replacements(given: dict[str, Any], unbatched: bool, batch_first: bool) -> list[Tensor]:
    """Take `reset_state` out of the options: S replacements (D*L, T or 1, B, H), or none."""
    state = given.pop("reset_state", None)
    entries = list(state) if isinstance(state, (tuple, list)) else [state]
    some = [t for t in entries if t is not None]
    if not some:
        return []
    # What is left out is zero; all have as many steps.
    entries = [torch.zeros_like(some[0]) if t is None else t for t in entries]
    if unbatched:
        entries = [t.unsqueeze(2) for t in entries]
    elif batch_first:
        entries = [t.transpose(1, 2) for t in entries]
    steps = max(t.shape[1] for t in entries)
    return [t.expand(-1, steps, -1, -1) for t in entries]
