"""A call made of PyTorch's operators, differentiable by it to any order.

A call that PyTorch has as well is its own layer, with our masks between layers; any other one is
the forward pass of `rnnfast.reference`, run on tensors. Both give what the kernels give, up to
rounding.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import _VF, Tensor

from .._scan_options import ScanOptions
from ..reference import plan, scan
from . import _dispatch

if TYPE_CHECKING:
    from ._call import Call

__all__ = ["gradients", "run"]

_STOCK: dict[str, Any] = {
    "rnn_tanh": _VF.rnn_tanh,
    "rnn_relu": _VF.rnn_relu,
    "lstm": _VF.lstm,
    "gru": _VF.gru,
}


def gradients(
    call: Call,
    tensors: Sequence[Any],
    masks: Sequence[Tensor],
    given: Sequence[Tensor | None],
    needed: Sequence[bool],
    again: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of a call, of gradients `given`; if `again`, themselves differentiable."""
    plain = call.options is None and not call.want_states
    reason = "second derivatives (create_graph=True)" if again else _dispatch.TRANSFORMS[0]
    _dispatch.count("stock" if plain else "composed", reason)
    with torch.enable_grad():
        # Aliases, so that what is differentiated ends here, and yet hangs on those of the call.
        inner = [t.view_as(t) if wants else t for t, wants in zip(tensors, needed, strict=True)]
        outputs = run(call, inner, masks)
    pairs = [
        (y, dy)
        for y, dy in zip(outputs, given, strict=True)
        if dy is not None and y is not None and y.requires_grad
    ]
    wanted = [t for t, wants in zip(inner, needed, strict=True) if wants]
    if not pairs:
        return (None,) * len(needed)
    found = iter(
        torch.autograd.grad(
            [y for y, _ in pairs],
            wanted,
            [dy for _, dy in pairs],
            create_graph=again,
            allow_unused=True,
        )
    )
    return tuple(next(found) if wants else None for wants in needed)


def run(
    call: Call, tensors: Sequence[Any], masks: Sequence[Tensor] = (), by_steps: bool = False
) -> tuple[Any, ...]:
    """Run a call, with these masks between layers or new ones; outputs as of the kernels.

    With `by_steps` PyTorch's layer is not used, even where it has the call.
    """
    if call.options is None and not call.want_states and not by_steps:
        return _run_stock(call, tensors, masks)
    return _run_reference(call, tensors, masks)


def _between(call: Call, k: int, y: Tensor, masks: Sequence[Tensor]) -> Tensor:
    if call.dropout == 0 or k == call.L - 1:
        return y
    return y * masks[k] if masks else torch.dropout(y, call.dropout, True)


def _from_zero(call: Call, x: Tensor, states: tuple[Any, ...], weights: tuple) -> list[Tensor]:
    """Return the initial states (D*L, B, H), zeros where left out."""
    B = x.shape[0 if call.batch_first else 1] if call.packing is None else call.packing.B
    shape = call.L * call.D, B, weights[1].shape[1]
    return [x.new_zeros(shape) if s is None else s for s in states]


def _run_stock(call: Call, tensors: Sequence[Any], masks: Sequence[Tensor]) -> tuple[Any, ...]:
    x, states, _, weights = call.split(tensors)
    first = _from_zero(call, x, states, weights)
    layer, n = _without_cudnn(x, _STOCK[call.cell]), len(weights) // call.L
    y = x.transpose(0, 1) if call.batch_first else x
    parts = []
    for k in range(call.L):
        hx = tuple(s[k * call.D : (k + 1) * call.D] for s in first)
        y, *last = layer(
            *((y,) if call.packing is None else (y, call.packing.sizes)),
            hx if len(hx) > 1 else hx[0],
            list(weights[k * n : (k + 1) * n]),
            *(call.bias, 1, 0.0, False, call.D == 2),
            *((False,) if call.packing is None else ()),
        )
        parts.append(last)
        y = _between(call, k, y, masks)
    finals = [torch.cat(entries) for entries in zip(*parts, strict=True)]
    return (y.transpose(0, 1) if call.batch_first else y, *finals)


def _without_cudnn(x: Tensor, layer: Any) -> Any:
    """Return a layer that runs on PyTorch's own kernels, for cuDNN has no second derivatives."""
    if not x.is_cuda:
        return layer

    def run(*arguments: Any) -> Any:
        with torch.backends.cudnn.flags(enabled=False):
            return layer(*arguments)

    return run


def _run_reference(call: Call, tensors: Sequence[Any], masks: Sequence[Tensor]) -> tuple[Any, ...]:
    x, states, resets, weights = call.split(tensors)
    first = _from_zero(call, x, states, weights)
    cell = importlib.import_module(f"rnnfast.reference.{call.spec.function}")
    cell_options: dict[str, Any] = dict(call.spec.options)
    if call.options is not None and call.options.cell_clip:
        cell_options["cell_clip"] = call.options.cell_clip
    flat = None if call.packing is None else plan.Flat(call.packing.cu_seqlens)
    y = _pad(call, flat, x)
    n = 4 if call.bias else 2
    every: list[Tensor] = []
    finals: list[list[Tensor]] = [[] for _ in first]
    everything: list[list[Tensor]] = [[] for _ in range(call.spec.S + 1)]
    for k in range(call.L):
        sides = []
        for d in range(call.D):
            i = k * call.D + d
            W, R, bW, bR = (*weights[i * n : (i + 1) * n], None, None)[:4]
            steps = _plan(call, k, d, flat, y, resets, R)
            side, last, kept = scan.forward(
                cell,
                cell_options,
                y.flip(0) if d else y,
                W,
                R,
                bW,
                bR,
                tuple(s[i] for s in first),
                xp=torch,
                plan=steps,
            )
            sides.append(side.flip(0) if d else side)
            for final, value in zip(finals, last, strict=True):
                final.append(value)
            if call.want_states:
                for whole, part in zip(everything, _kept(call, steps, kept, side), strict=True):
                    whole.append(part.flip(0) if d else part)
        y = torch.cat(sides, -1)
        if call.packing is not None and call.dropout > 0 and k < call.L - 1:
            packed = _between(call, k, _unpad(call.packing.places, flat, y), masks)
            y = _pad(call, flat, packed)
        else:
            y = _between(call, k, y, masks)
    if call.want_states:
        every = [torch.stack(parts) for parts in everything]
        if call.batch_first:
            every = [a.transpose(1, 2) for a in every]
    if call.packing is not None:
        y = _unpad(call.packing.places, flat, y)
    elif call.batch_first:
        y = y.transpose(0, 1)
    return (y if call.want_y else None, *(torch.stack(parts) for parts in finals), *every)


def _kept(call: Call, steps: plan.Plan, kept: scan.Kept, y: Tensor) -> list[Tensor]:
    """States that leave each step, and the gates, in scan order: (T, B, H), ..., (T, B, G, H)."""
    sequences = [states[1:] for states in kept.states]
    if steps.used is not None and not steps.hold:
        used = steps.used[:, :, None]
        sequences = [torch.where(used, s, torch.zeros_like(s)) for s in sequences]
    G = call.spec.G
    if not kept.slots:
        return [*sequences, y.new_zeros(*y.shape[:2], G, y.shape[2])]
    return [*sequences, torch.stack(kept.slots[:G], 2)]


def _plan(
    call: Call, k: int, d: int, flat: Any, x: Tensor, resets: tuple[Any, ...], R: Tensor
) -> plan.Plan:
    """Make the plan of one layer and direction, its arrays as tensors beside x."""
    T, B, H = map(int, (*x.shape[:2], R.shape[1]))  # tensors while `torch.jit.trace` runs
    options = call.options or ScanOptions()
    # NumPy has no bfloat16, and PyTorch's result type of a mask and x is to be that of x.
    dtype = np.dtype(np.float64 if x.dtype is torch.float64 else np.float32)
    made = plan.make(
        options._replace(layer=k, reset_state=None), flat, d, T, B, call.spec.G, H, dtype
    )

    def there(a: Any) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        return torch.as_tensor(a, dtype=None if a.dtype == bool else x.dtype, device=x.device)

    replacement = None
    if any(r is not None for r in resets):
        replacement = tuple(
            None if r is None else _entering(r[k * call.D + d], d == 1) for r in resets
        )
    zoneout = made.zoneout
    return made._replace(
        used=there(made.used),
        cut=there(made.cut),
        replacement=replacement,
        dropout=there(made.dropout),
        zoneout=None if zoneout is None else tuple(_zone(z, there) for z in zoneout),
        weight=there(made.weight),
    )


def _zone(z: Any, there: Any) -> Any:
    # A number as Python's, for a NumPy one would not stand before a tensor that needs gradients.
    return float(z) if z is not None and np.ndim(z) == 0 else there(z)


def _entering(replacement: Tensor, reverse: bool) -> Tensor:
    """Bring replacements (T or 1, B, H), [t] of the border t, to the steps that they enter."""
    if not reverse or len(replacement) == 1:
        return replacement
    return torch.cat([replacement[1:], torch.zeros_like(replacement[:1])]).flip(0)


def _pad(call: Call, flat: Any, x: Tensor) -> Tensor:
    """Bring x to (T, B, n)."""
    if call.packing is None:
        return x.transpose(0, 1) if call.batch_first else x
    place = torch.from_numpy(flat.step).to(x.device), torch.from_numpy(flat.row).to(x.device)
    padded = x.new_zeros(flat.T, flat.B, x.shape[1])
    return padded.index_put(place, x.index_select(0, call.packing.rows.to(x.device)))


def _unpad(places: Tensor, flat: Any, y: Tensor) -> Tensor:
    """Bring (T, B, n) to the order of packed data."""
    rows = y[torch.from_numpy(flat.step).to(y.device), torch.from_numpy(flat.row).to(y.device)]
    return rows.index_select(0, places.to(y.device))
