"""The kernels as operators of PyTorch, for `torch.compile`: one node of the graph each.

Eager calls do not come here, for an operator costs several times what an autograd function does.

Options come as they go through a graph: `settings` is the text of a dict, ``""`` for a plain call,
and `arrays` are the tensors among them, as (T, B), which its entry "arrays" names in order. They
are checked when the operator runs. `resets` are the S replacements of resets (D*L, T or 1, B, H),
or none.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..cells import CELLS
from . import _dispatch, _options, _scan
from ._call import Call

__all__ = ["scan"]


def _call(
    x: Tensor,
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    resets: Sequence[Tensor],
    arrays: Sequence[Tensor],
    settings: str,
    *fixed: Any,
) -> Call:
    cell, L, D, bias, batch_first = fixed
    options, want_states = None, False
    if settings:
        given: dict[str, Any] = ast.literal_eval(settings)
        given |= zip(given.pop("arrays"), arrays, strict=True)
        for name in ("seed", "t0"):
            if name in given:
                given[name] = int(given[name]) % 2**64
        if resets:
            given["reset_state"] = tuple(resets) if len(resets) > 1 else resets[0]
        layer = SimpleNamespace(
            num_layers=L,
            bidirectional=D == 2,
            input_size=x.shape[2],
            hidden_size=weights[1].shape[1],
            batch_first=False,
            training=given.pop("training"),
        )
        steps = x.transpose(0, 1) if batch_first else x
        who, spec = given.pop("who"), CELLS[cell]
        read = _options.read(who, spec, layer, given, given, steps, True, None)
        options, want_states = read.scan, read.return_states
    # The masks come with the call, so that all that matters of p is that it is not 0. The compiler
    # may use the memory of y again, so the tape has its own.
    return Call(
        *(cell, L, D, bias, batch_first),
        dropout=0.5 if masks else 0.0,
        options=options,
        want_states=want_states,
        own_y=True,
    )


def _row(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    resets: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> tuple:
    nothing = (None,) * CELLS[cell].S
    return (x, *(states or nothing), *(resets or nothing), *weights)


@torch.library.custom_op("rnnfast::scan", mutates_args=(), device_types="cpu")
def scan(
    x: Tensor,
    states: Sequence[Tensor],
    resets: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    arrays: Sequence[Tensor],
    settings: str,
    cell: str,
    L: int,
    D: int,
    bias: bool,
    batch_first: bool,
    keep: bool,
) -> list[Tensor]:
    """Run a call; returns the outputs of `_scan.apply` and what owns the tapes (one byte)."""
    _dispatch.count_fused()
    call = _call(x, weights, masks, resets, arrays, settings, cell, L, D, bias, batch_first)
    row = _row(cell, x, states, resets, weights)
    outputs, token = _scan.forward_for_operator(call, row, masks, keep)
    return [*outputs, token]


@scan.register_fake
def _(
    x: Tensor,
    states: Sequence[Tensor],
    resets: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    arrays: Sequence[Tensor],
    settings: str,
    cell: str,
    L: int,
    D: int,
    bias: bool,
    batch_first: bool,
    keep: bool,
) -> list[Tensor]:
    H, spec = weights[1].shape[1], CELLS[cell]
    n, m = x.shape[:2]
    K, B = D * H, (n if batch_first else m)
    strides = (K, n * K, 1) if batch_first else (m * K, K, 1)
    y = x.new_empty_strided((n, m, K), strides)
    finals = [x.new_empty((L * D, B, H)) for _ in range(spec.S)]
    every = []
    if settings and ast.literal_eval(settings).get("return_states"):
        every = [x.new_empty((L * D, n, m, H)) for _ in range(spec.S)]
        every.append(x.new_empty((L * D, n, m, spec.G, H)))
    return [y, *finals, *every, x.new_empty(1, dtype=torch.uint8)]


@torch.library.custom_op("rnnfast::scan_backward", mutates_args=(), device_types="cpu")
def scan_backward(
    token: Tensor,
    x: Tensor,
    states: Sequence[Tensor],
    resets: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    arrays: Sequence[Tensor],
    gradients: Sequence[Tensor],
    settings: str,
    cell: str,
    L: int,
    D: int,
    bias: bool,
    batch_first: bool,
    need_dx: bool,
) -> list[Tensor]:
    """Run a call back; returns gradients: of x if needed, states and resets given, weights."""
    call = _call(x, weights, masks, resets, arrays, settings, cell, L, D, bias, batch_first)
    row = _row(cell, x, states, resets, weights)
    needed = (need_dx, *(t is not None for t in row[1:]))
    dx, *rest = _scan.backward_for_operator(call, row, token, masks, gradients, needed)
    S = CELLS[cell].S
    first = [dx.contiguous()] if need_dx and dx is not None else []
    states_too, resets_too = rest[:S] if states else (), rest[S : 2 * S] if resets else ()
    return [*first, *states_too, *resets_too, *rest[2 * S :]]


@scan_backward.register_fake
def _(
    token: Tensor,
    x: Tensor,
    states: Sequence[Tensor],
    resets: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    arrays: Sequence[Tensor],
    gradients: Sequence[Tensor],
    settings: str,
    cell: str,
    L: int,
    D: int,
    bias: bool,
    batch_first: bool,
    need_dx: bool,
) -> list[Tensor]:
    like = [*((x,) if need_dx else ()), *states, *resets, *weights]
    return [t.new_empty(t.shape) for t in like]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, *lists, settings, cell, L, D, bias, batch_first, _ = inputs
    ctx.fixed = settings, cell, L, D, bias, batch_first
    ctx.sizes = list(map(len, lists))
    ctx.save_for_backward(output[-1], x, *(t for tensors in lists for t in tensors))


def _backward(ctx: Any, gradients: Any) -> Any:
    token, x, *rest = ctx.saved_tensors
    lists = []
    for n in ctx.sizes:
        lists.append(rest[:n])
        rest = rest[n:]
    need_dx = ctx.needs_input_grad[0]
    found = scan_backward(token, x, *lists, list(gradients[:-1]), *ctx.fixed, need_dx)
    results = [found.pop(0) if need_dx else None]
    # Of states, replacements and weights; masks and arrays have none.
    for n in ctx.sizes[:3]:
        results.append(found[:n])
        found = found[n:]
    return (*results, *([None] * n for n in ctx.sizes[3:]), *(None,) * 7)


scan.register_autograd(_backward, setup_context=_setup_context)
