"""One call of a layer on a GPU, as PyTorch differentiates it.

Everything lies in tensors from PyTorch's allocator and runs on the current stream; the host waits
for nothing, so that a call can be captured in a CUDA graph. What backward needs are saved tensors:
PyTorch guards them against changes, frees and offloads them, and what passes read is found from
them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import _backend
from .._scan_options import ScanOptions
from ..cuda import _layer
from . import _composed, _cuda_device, _dispatch, _options
from ._call import Call

__all__ = ["run"]

_DWEIGHTS = ("dW", "dR", "dbW", "dbR")


class _Frame:
    """What forward and backward of a call have alike: its sizes, and how its tensors are read."""

    def __init__(self, call: Call, tensors: Sequence[Any]) -> None:
        x, states, resets, self.weights = call.split(tensors)
        self.call, self.x = call, x
        self.states, self.resets = tuple(map(_dense, states)), tuple(map(_dense, resets))
        self.n = 4 if call.bias else 2
        self.H = self.weights[1].shape[1]
        self.device, self.memory = _cuda_device.device_of(x), _cuda_device.Memory(x)
        self.lengths = self.start = self.rows = self.places = None
        if call.packing is None:
            self.T, self.B = x.shape[:2]
            if call.batch_first:
                self.T, self.B = self.B, self.T
            self.N = self.T * self.B
        else:
            self.T, self.B, self.N = len(call.packing.sizes), call.packing.B, len(x)
            self.rows, self.places, self.lengths, self.start = call.packing.beside(x)

    def sizes(self, k: int) -> _layer.Rows:
        """Sizes of layer k."""
        I = self.weights[k * self.call.D * self.n].shape[1]
        return _layer.Rows(self.T, self.B, I, self.H, self.N, self.call.packing is not None)

    def empty(self, n: int) -> Tensor:
        """Room for a sequence of n features, as PyTorch has it: time outermost in memory."""
        if self.call.packing is not None:
            return self.memory.empty((self.N, n))
        if not self.call.batch_first:
            return self.memory.empty((self.T, self.B, n))
        # Not a view, which could not be changed in place when it comes out of a Function.
        shape, strides = (self.B, self.T, n), (n, self.B * n, 1)
        return torch.empty_strided(shape, strides, dtype=self.x.dtype, device=self.x.device)

    def read(self, t: Tensor) -> Tensor:
        """Bring a sequence of the caller's to (T, B, n), or row after row to (N, n)."""
        if self.rows is not None:
            return t.index_select(0, self.rows)
        t = t.resolve_neg()
        return self.turned(t if t.stride(-1) == 1 else t.contiguous())

    def turned(self, t: Tensor) -> Tensor:
        """Bring a sequence of `empty` to (T, B, n)."""
        return t.transpose(0, 1) if self.call.batch_first else t

    def at(self, t: Tensor, first: int = 0) -> _layer.Address:
        """Where feature `first` of a sequence (T, B, n), (T, B, ..., n) or (N, n) lies."""
        strides = (t.stride(0), t.stride(0 if self.call.packing is not None else 1))
        return (self.memory.pointer(t) + first * t.element_size(), *strides)

    def arguments(self, k: int, d: int, x: Tensor, y: Tensor) -> tuple[list[Any], _layer.Options]:
        """First arguments of a pass of layer k in direction d, and its options."""
        call, i = self.call, k * self.call.D + d
        flat = self.weights[i * self.n : (i + 1) * self.n]
        W, R, bW, bR = (*map(_dense, flat), None, None)[:4]
        options = self.options(k, d)
        if options.numbers.get("weight_drop"):
            R = _layer.drop_weights(self.device, self.memory, options, R)
        state0 = _each(self.states, i)
        sequences = (x, self.at(x)), (W, R, bW, bR), state0, (y, self.at(y, d * self.H))
        return [self.device, self.memory, call.spec, self.sizes(k), *sequences], options

    def options(self, k: int, d: int) -> _layer.Options:
        """Return the options of layer k in direction d."""
        options, D = self.call.options, self.call.D
        if options is None and self.call.packing is None:
            return _layer.options_of(None, d)
        options = (options or ScanOptions())._replace(layer=k)
        if self.lengths is not None:
            options = options._replace(lengths=self.lengths)
        if any(r is not None for r in self.resets):
            of_layer = _each(self.resets, slice(k * D, (k + 1) * D))
            options = options._replace(reset_state=of_layer)
        return _layer.options_of(options, d, self.start)

    def masked(self, t: Tensor, mask: Tensor) -> Tensor:
        """Multiply a sequence that `turned` or `read` gave with a mask between layers."""
        # Masks are drawn as PyTorch does: over time first or packed memory.
        return t * (mask if self.rows is None else mask.index_select(0, self.rows))


def _dense(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.resolve_neg().contiguous()


def _each(tensors: Sequence[Tensor | None], i: int | slice) -> tuple[Any, ...]:
    return tuple(None if t is None else t[i] for t in tensors)


def _pointers(memory: _cuda_device.Memory, tensors: Sequence[Tensor | None], i: int) -> tuple:
    return tuple(0 if t is None else memory.pointer(t[i]) for t in tensors)


class _Saved:
    """What forward leaves to backward beside a call's tensors: sequences y, masks and tapes."""

    def __init__(self, call: Call, names: list[str], tensors: Sequence[Tensor]) -> None:
        self.ys = tensors[: call.L]
        rest = list(tensors[call.L :])
        n = call.L - 1 if call.dropout > 0 else 0
        self.masks, rest = rest[:n], rest[n:]
        K = len(names)
        self.tapes = [
            dict(zip(names, rest[i : i + K], strict=True)) for i in range(0, len(rest), K)
        ]


def _run(
    call: Call, tensors: Sequence[Any], keep: bool
) -> tuple[tuple[Any, ...], list[str], list[Tensor]]:
    """Run all layers forward; returns outputs, and what `_Saved` is made from."""
    frame = _Frame(call, tensors)
    L, D, H = call.L, call.D, frame.H
    last = tuple(frame.memory.empty((L * D, frame.B, H)) for _ in range(call.S))
    read = frame.read(frame.x)
    ys, masks, tapes = [], [], []
    for k in range(L):
        y = frame.empty(D * H)
        for d in range(D):
            arguments, options = frame.arguments(k, d, read, frame.turned(y))
            state_n = tuple(s[k * D + d] for s in last)
            kept = _layer.forward(*arguments, state_n=state_n, options=options, keep=keep)
            if kept is not None:
                tapes.append(kept.tape)
        if keep:
            ys.append(y)
        read = frame.turned(y)
        if call.dropout > 0 and k < L - 1:
            mask = torch.dropout(torch.ones_like(read), call.dropout, True)
            masks.append(mask)
            read = frame.masked(read, mask)
    _backend.ran.engine = _layer
    if frame.places is not None and call.want_y:
        y = y.index_select(0, frame.places)
    outputs = (y if call.want_y else None, *last)
    if call.want_states:
        outputs = (*outputs, *_all_states(frame, ys, tapes))
    names = list(tapes[0]) if tapes else []
    return outputs, names, [*ys, *masks, *(t for tape in tapes for t in tape.values())]


def _all_states(frame: _Frame, ys: list[Tensor], tapes: list[dict[str, Tensor]]) -> list[Tensor]:
    """States and gates of every step, (D*L, T, B, ...), or (D*L, B, T, ...) with batch_first."""
    call, T, B, H = frame.call, frame.T, frame.B, frame.H
    G, K = call.spec.G, len(call.spec.tape)
    parts = [[frame.turned(y)[..., d * H : (d + 1) * H] for y in ys for d in range(call.D)]]
    if call.S > 1:
        parts.append([tape["tape_c"].view(T, B, H).to(frame.x.dtype) for tape in tapes])
    parts.append([tape["tape_cell"].view(T, B, K, H)[:, :, :G] for tape in tapes])
    # Each one a tensor of its own, no view of the tape.
    if call.batch_first:
        parts = [[p.transpose(0, 1) for p in column] for column in parts]
    return [torch.stack(column) for column in parts]


def _backward(
    call: Call,
    tensors: Sequence[Any],
    saved: _Saved,
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Run a call back; returns the gradients of its row of tensors, those that are needed."""
    frame = _Frame(call, tensors)
    memory, S, L, D, H = frame.memory, call.S, call.L, call.D, frame.H
    _, need_states, need_resets, need_weights = call.split(needed)
    dy, *rest = gradients
    dread = None if dy is None else frame.read(dy)
    dlast, dstates = list(map(_dense, rest[:S])), rest[S:]
    if call.batch_first:
        dstates = [None if g is None else g.transpose(1, 2) for g in dstates]
    dstates = list(map(_dense, dstates))
    dfirst = [memory.empty((L * D, frame.B, H)) for _ in range(S)]
    dresets = [
        memory.zeros(r.shape, wide=True) if r is not None and need else None
        for r, need in zip(frame.resets, need_resets, strict=True)
    ]
    dweights: list[Tensor | None] = [None] * len(frame.weights)
    dx: Tensor | None = None
    for k in reversed(range(L)):
        y = frame.turned(saved.ys[k])
        if k == 0:
            read = frame.read(frame.x)
        else:
            read = frame.turned(saved.ys[k - 1])
            if call.dropout > 0:
                read = frame.masked(read, saved.masks[k - 1])
        I = frame.sizes(k).I
        dx = frame.empty(I) if k > 0 or needed[0] else None
        for d in range(D):
            i = k * D + d
            arguments, options = frame.arguments(k, d, read, y)
            kept = _layer.kept(*arguments, tape=saved.tapes[i], options=options)
            incoming: dict[str, Any] = {"dstate_n": _pointers(memory, dlast, i)}
            if dread is not None:
                incoming["dy"] = frame.at(dread, d * H)
            if dstates:
                *into, dgates = (None if g is None else frame.at(g[i]) for g in dstates)
                incoming["dstates"] = tuple(into)
                if dgates is not None:
                    incoming["dgates"] = dgates
            results: dict[str, Any] = {
                "dstate0": _pointers(memory, dfirst, i),
                "dreplacement": _pointers(memory, dresets, i),
            }
            if dx is not None:
                results |= {"dx": frame.at(frame.turned(dx)), "add_to_dx": d > 0}
            for j, name in enumerate(_DWEIGHTS[: frame.n], i * frame.n):
                if need_weights[j]:
                    made = dweights[j] = memory.empty(frame.weights[j].shape)
                    results[name] = memory.pointer(made)
            _layer.backward(frame.device, memory, kept, incoming, results)
            dR = dweights[i * frame.n + 1]
            if dR is not None and options.numbers.get("weight_drop"):
                dropped = _layer.drop_weights(frame.device, memory, options, dR)
                dweights[i * frame.n + 1] = dropped
        if dx is not None and k > 0:
            dread = frame.turned(dx)
            if call.dropout > 0:
                dread = frame.masked(dread, saved.masks[k - 1])
    _backend.ran.engine = _layer
    if dx is not None and frame.places is not None:
        dx = dx.index_select(0, frame.places)
    first = (g if need else None for g, need in zip(dfirst, need_states, strict=True))
    replaced = (None if g is None else g.to(frame.x.dtype) for g in dresets)
    return (dx, *first, *replaced, *dweights)


def run(call: Call, tensors: Sequence[Any]) -> tuple[Any, ...]:
    """Run a call, with a tape where gradients are wanted; outputs as of `CudaScan`."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return CudaScan.apply(call, *tensors)
    return _run(call, tensors, call.want_states)[0]


class CudaScan(torch.autograd.Function):
    """A call with gradients: ``apply(call, x, *states, *replacements, *weights)``.

    Outputs are y, the S final states and, where wanted, the S states and the gates of every step.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Any) -> Any:
        """Run the kernels forward."""
        outputs, names, saved = _run(call, tensors, True)
        ctx.call, ctx.names = call, names
        ctx.save_for_backward(*tensors, *saved)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Run them back; or PyTorch's operators, as `_scan.Scan` does and for the same reason."""
        call, needed = ctx.call, ctx.needs_input_grad[1:]
        n = len(needed)
        everything = ctx.saved_tensors  # asked for once, for checkpointing computes it once
        tensors, saved = everything[:n], _Saved(call, ctx.names, everything[n:])
        if all(g is None for g in gradients):
            return (None,) * (n + 1)
        again = torch.is_grad_enabled()
        if again or _dispatch.batched(gradients):
            call = replace(call, options=_options.on_host(call.options))
            found = _composed.gradients(call, tensors, saved.masks, gradients, needed, again)
            return None, *found
        return None, *_backward(call, tensors, saved, gradients, needed)
