"""The kernels as operators of PyTorch, for `torch.compile`: one node of the graph each.

Eager calls do not come here, for an operator costs several times what an autograd function does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cells import CELLS
from . import _dispatch, _scan
from ._call import Call

__all__ = ["scan"]


def _call(
    cell: str, L: int, D: int, bias: bool, batch_first: bool, masks: Sequence[Tensor]
) -> Call:
    # The masks come with the call, so that all that matters of p is that it is not 0. The compiler
    # may use the memory of y again, so the tape has its own.
    return Call(cell, L, D, bias, batch_first, 0.5 if masks else 0.0, own_y=True)


def _row(cell: str, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple:
    nothing = (None,) * CELLS[cell].S
    return (x, *(states or nothing), *nothing, *weights)


@torch.library.custom_op("rnnfast::scan", mutates_args=(), device_types="cpu")
def scan(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    cell: str,
    L: int,
    D: int,
    bias: bool,
    batch_first: bool,
    keep: bool,
) -> list[Tensor]:
    """Run a call; returns y, the S final states, and what owns the tapes (one byte)."""
    call = _call(cell, L, D, bias, batch_first, masks)
    _dispatch.count_fused()
    outputs, token = _scan.forward_for_operator(call, _row(cell, x, states, weights), masks, keep)
    return [*outputs, token]


@scan.register_fake
def _(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    cell: str,
    L: int,
    D: int,
    bias: bool,
    batch_first: bool,
    keep: bool,
) -> list[Tensor]:
    H = weights[1].shape[1]
    n, m = x.shape[:2]
    K, B = D * H, (n if batch_first else m)
    strides = (K, n * K, 1) if batch_first else (m * K, K, 1)
    y = x.new_empty_strided((n, m, K), strides)
    finals = [x.new_empty((L * D, B, H)) for _ in range(CELLS[cell].S)]
    return [y, *finals, x.new_empty(1, dtype=torch.uint8)]


@torch.library.custom_op("rnnfast::scan_backward", mutates_args=(), device_types="cpu")
def scan_backward(
    token: Tensor,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cell: str,
    L: int,
    D: int,
    bias: bool,
    batch_first: bool,
    need_dx: bool,
) -> list[Tensor]:
    """Run a call back; returns the gradients of x, if needed, the states, if given, and weights."""
    call = _call(cell, L, D, bias, batch_first, masks)
    row = _row(cell, x, states, weights)
    needed = (need_dx, *(t is not None for t in row[1:]))
    dx, *rest = _scan.backward_for_operator(call, row, token, masks, gradients, needed)
    S = CELLS[cell].S
    first = [dx.contiguous()] if need_dx and dx is not None else []
    return [*first, *(rest[:S] if states else ()), *rest[2 * S :]]


@scan_backward.register_fake
def _(
    token: Tensor,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cell: str,
    L: int,
    D: int,
    bias: bool,
    batch_first: bool,
    need_dx: bool,
) -> list[Tensor]:
    like = [*((x,) if need_dx else ()), *states, *weights]
    return [t.new_empty(t.shape) for t in like]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, states, weights, masks, *ctx.fixed, _ = inputs
    ctx.sizes = len(states), len(weights)
    ctx.save_for_backward(output[-1], x, *states, *weights, *masks)


def _backward(ctx: Any, gradients: Any) -> Any:
    token, x, *rest = ctx.saved_tensors
    n, m = ctx.sizes
    states, weights, masks = rest[:n], rest[n : n + m], rest[n + m :]
    need_dx = ctx.needs_input_grad[0]
    found = scan_backward(
        token, x, states, weights, masks, list(gradients[:-1]), *ctx.fixed, need_dx
    )
    dx = found.pop(0) if need_dx else None
    return dx, found[:n], found[n:], [None] * len(masks), *(None,) * 6


scan.register_autograd(_backward, setup_context=_setup_context)
