"""One call of a layer on the kernels, as PyTorch differentiates it; on a GPU by `_cuda_scan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _backend
from .._stack import layers_joined
from . import _composed, _cuda_scan, _dispatch, _tapes
from ._call import Call
from ._packed import Packing
from ._weights import DeviceWeights, Weights, as_array, as_weight, in_rows

__all__ = ["agreed", "apply", "run", "steps_of"]

_compiled = _backend.compiled


def steps_of(t: Tensor, packing: Packing | None, batch_first: bool) -> Any:
    """Bring x, or a gradient of y, to (T, B, n) or, packed, row after row to (N, n)."""
    if t.requires_grad:
        t = t.detach()
    if packing is not None:
        t = t.index_select(0, packing.rows)
    elif (not t.is_contiguous() and t.stride(-1) != 1) or t.is_neg():
        t = t.resolve_neg().contiguous()
    a = t.numpy()
    return a.swapaxes(0, 1) if batch_first else a


def agreed(result: Any) -> Any:
    """Return the result of a kernel whose arguments were checked."""
    if result is None:
        raise RuntimeError(
            "rnnfast.torch: internal error: the kernel refused arguments that were checked."
        )
    return result


def _arrays(tensors: Sequence[Any]) -> tuple[Any, ...] | None:
    """Arrays on the memory of tensors; None where all are None."""
    for t in tensors:
        if t is not None:
            return tuple(map(as_array, tensors))
    return None


def _part(blocks: tuple[Any, ...] | None, k: int, call: Call) -> tuple[Any, ...] | None:
    """Take layer k of arrays that have D*L in front; None where all are None."""
    if blocks is None or call.L == 1:
        return blocks
    D = call.D
    return tuple(None if a is None else a[k * D : (k + 1) * D] for a in blocks)


def _borrows_y(call: Call, dtype: torch.dtype) -> bool:
    """Whether the tape may lean on the y that the caller gets, who then may not change it.

    PyTorch allows a change of y before backward wherever its y is put together from steps, so
    everywhere but in the one-directional float32 LSTM that oneDNN runs.
    """
    return (
        call.cell == "lstm"
        and call.D == 1
        and dtype is torch.float32
        and call.packing is None
        and call.want_y
        and not call.own_y
    )


def _watched(call: Call, dtype: torch.dtype, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return outputs that are saved only so that a change of them before backward is noticed."""
    if _borrows_y(call, dtype):
        return (outputs[0],)
    # PyTorch's RNNCell differentiates by its result, and so refuses that it changes.
    return (outputs[1],) if call.cell.startswith("rnn") and not call.want_y else ()


def _run(
    call: Call,
    tensors: Sequence[Any],
    keep: bool,
    masks: Sequence[Tensor],
    weights: Weights | None = None,
) -> tuple[tuple[Any, ...], list[Any], list[Tensor]]:
    """Run all layers forward; returns outputs, tapes, and the masks between layers.

    `masks` are those, drawn here where there are none. `weights` are those at the end of `tensors`,
    where they have been looked at already.
    """
    core, threads = _compiled["auto"], (torch.get_num_threads(),)
    S, packing, options = call.S, call.packing, call.options
    read = steps_of(tensors[0], packing, call.batch_first)
    first = _arrays(tensors[1 : 1 + S])
    rows: Sequence[Any]
    if weights is None:
        flat = list(map(as_weight, tensors[1 + 2 * S :]))
        rows = in_rows(flat, call.D, call.bias)
    elif keep or (options is not None and options.weight_drop > 0):
        rows = weights.rows
    else:
        steps = len(read) if packing is not None else read.shape[0] * read.shape[1]
        rows = weights.pack() if weights.pays_to_pack(steps) else weights.rows
    finals, tapes, drawn = [], [], []
    for k, row in enumerate(rows):
        start = _part(first, k, call)
        if call.plain:
            result = core.forward(call.cell, read, row, start, None, keep, threads)
        else:
            of_layer = call.of_layer(k, _part(_arrays(tensors[1 + S : 1 + 2 * S]), k, call))
            result = core.forward(call.cell, read, row, start, None, keep, threads, of_layer)
        read, state_n, tape = agreed(result)
        finals.append(state_n)
        tapes.append(tape)
        if call.dropout > 0 and k < call.L - 1:
            # As PyTorch draws it: one mask per layer, over time first or packed memory.
            sequence = torch.from_numpy(read)
            if masks:
                mask = masks[k]
            else:
                mask = torch.dropout(torch.ones_like(sequence), call.dropout, True)
            drawn.append(mask)
            if packing is not None:
                mask = mask.index_select(0, packing.rows)
            read = (sequence * mask).numpy()
    _backend.ran.engine = core
    y = None
    if call.want_y and packing is not None:
        y = torch.from_numpy(read).index_select(0, packing.places)
    elif call.want_y:
        if keep and not _borrows_y(call, tensors[0].dtype):
            read = read.copy()
        # Time is outermost in memory under `batch_first` too, as in PyTorch.
        y = torch.from_numpy(read.swapaxes(0, 1) if call.batch_first else read)
    last = map(layers_joined, zip(*finals, strict=True))
    return (y, *map(torch.from_numpy, last)), tapes, drawn


def _all_states(call: Call, tapes: list[Any]) -> tuple[Tensor, ...]:
    """States and gates of every step, (D*L, T, B, ...), or (D*L, B, T, ...) with batch_first."""
    columns = zip(*((*tape.states(), tape.gates()) for tape in tapes), strict=True)
    joined = (torch.from_numpy(layers_joined(parts)) for parts in columns)
    if not call.batch_first:
        return tuple(joined)
    # Not as views, which could not be changed in place when they come out of a Function.
    return tuple(a.transpose(1, 2).contiguous() for a in joined)


def run(call: Call, weights: Weights | DeviceWeights, tensors: Sequence[Any]) -> tuple[Any, ...]:
    """Run a call on the kernels, with a tape where gradients are wanted; outputs as of `apply`."""
    # Before the call, which activation checkpointing leaves early.
    _dispatch.count_fused()
    if isinstance(weights, DeviceWeights):
        return _cuda_scan.run(call, tensors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return apply(call, weights, *tensors)
    outputs, tapes, _ = _run(call, tensors, call.want_states, (), weights)
    return (*outputs, *_all_states(call, tapes)) if call.want_states else outputs


def backward(
    call: Call,
    tensors: Sequence[Any],
    token: Tensor,
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Run a call back; returns the gradients of its row of tensors, those that are needed."""
    core, threads = _compiled["auto"], (torch.get_num_threads(),)
    S, L, packing = call.S, call.L, call.packing
    tapes = _tapes.find(token, tensors)
    if tapes is None:
        _, tapes, _ = _run(call, tensors, True, masks)
    dy = gradients[0]
    dread: Any = None if dy is None else steps_of(dy, packing, call.batch_first)
    dlast = _arrays(gradients[1 : 1 + S])
    into: tuple[Any, ...] | None = None
    if call.want_states:
        parts = gradients[1 + S :]
        if call.batch_first:
            parts = [None if g is None else g.transpose(1, 2) for g in parts]
        into = _arrays(parts)
    # Of each layer, from the last one to the first.
    dweights: list[Any] = []
    firsts: list[Any] = []
    dresets: list[Any] = []
    need_first = any(needed[1 : 1 + S])
    for k in reversed(range(L)):
        inner: Any = (None, None)
        if into is not None:
            *dstates, dgates = _part(into, k, call) or ()
            inner = (tuple(dstates), dgates)
        need_dx = k > 0 or needed[0]
        last = _part(dlast, k, call)
        dread, grads, dfirst, dreset = agreed(
            core.backward(tapes[k], dread, last, need_dx, threads, *inner, need_first)
        )
        firsts.append(dfirst)
        dresets.append(dreset or (None,) * S)
        dweights[:0] = [g for row in grads for g in (row if call.bias else row[:2])]
        if call.dropout > 0 and k > 0:
            mask = masks[k - 1]
            if packing is not None:
                mask = mask.index_select(0, packing.rows)
            dread = (torch.from_numpy(dread) * mask).numpy()
    _backend.ran.engine = core
    dx = None
    if needed[0]:
        dx = torch.from_numpy(dread.swapaxes(0, 1) if call.batch_first else dread)
        if packing is not None:
            dx = dx.index_select(0, packing.places)
    states = (*_stacked(firsts), *_stacked(dresets))
    rest = (
        torch.from_numpy(a) if wanted and a is not None else None
        for a, wanted in zip((*states, *dweights), needed[1:], strict=True)
    )
    return dx, *rest


def _stacked(parts: list[tuple[Any, ...]]) -> Sequence[Any]:
    """Bring what layers have, the last one first, to arrays with D*L in front."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*reversed(parts), strict=True)
    return [None if c[0] is None else np.concatenate(c) for c in columns]


def forward_for_operator(
    call: Call, tensors: Sequence[Any], masks: Sequence[Tensor], keep: bool
) -> tuple[tuple[Any, ...], Tensor]:
    """Run a call whose masks are given; returns outputs and the tensor that owns the tapes."""
    outputs, tapes, _ = _run(call, tensors, keep or call.want_states, masks)
    if call.want_states:
        outputs = (*outputs, *_all_states(call, tapes))
    return outputs, _tapes.keep(tapes if keep else [], tensors)


def backward_for_operator(
    call: Call,
    tensors: Sequence[Any],
    token: Tensor,
    masks: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Run a call back whose tensors are as they were, though perhaps elsewhere in memory.

    A compiler computes again what it does not save, and overwrites what it has no more use for;
    where a tape leaned on that, forward is run again.
    """
    try:
        return backward(call, tensors, token, masks, gradients, needed)
    except RuntimeError as error:
        if "has changed since the forward pass" not in str(error):
            raise
    _, tapes, _ = _run(call, tensors, True, masks)
    return backward(call, tensors, _tapes.keep(tapes, tensors), masks, gradients, needed)


class Scan(torch.autograd.Function):
    """A call with gradients: ``apply(call, weights, x, *states, *replacements, *weights)``.

    Outputs are y, the S final states and, where wanted, the S states and the gates of every step.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, weights: Weights, *tensors: Any) -> Any:
        """Run the kernels forward."""
        outputs, tapes, masks = _run(call, tensors, True, (), weights)
        if call.want_states:
            outputs = (*outputs, *_all_states(call, tapes))
        ctx.call, ctx.n_masks = call, len(masks)
        seen = _watched(call, tensors[0].dtype, outputs)
        ctx.save_for_backward(*tensors, _tapes.keep(tapes, tensors), *masks, *seen)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Run them back; or PyTorch's operators, under a transform or to be differentiated again.

        An opaque result would have second derivatives of zero, without a word.
        """
        call = ctx.call
        saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        n = len(needed)
        tensors, token = saved[:n], saved[n]
        masks = saved[n + 1 : n + 1 + ctx.n_masks]
        if all(g is None for g in gradients):
            return (None,) * (n + 2)
        again = torch.is_grad_enabled()
        if again or _dispatch.batched(gradients):
            found = _composed.gradients(call, tensors, masks, gradients, needed, again)
            return None, None, *found
        return None, None, *backward(call, tensors, token, masks, gradients, needed)


# What `Scan.apply` comes to, without its questions about functorch: `obstacle` has asked them.
apply = super(torch.autograd.Function, Scan).apply
