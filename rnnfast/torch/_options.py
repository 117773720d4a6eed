"""The keyword arguments that PyTorch's layers do not have, from tensors to what a kernel takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _call, _values
from .._call import Settings
from .._forms import BATCH_FIRST, TIME_FIRST, UNBATCHED
from .._scan_options import ScanOptions
from .._shapes import Checker
from ..cells import CellSpec
from ..errors import ArgumentError, DTypeError
from . import _cuda_device, _dispatch

__all__ = ["CALL", "CELL", "States", "on_host", "read", "refuse_unknown", "settings"]

CELL = ("recurrent_dropout", "recurrent_dropout_mode", "zoneout", "weight_drop", "cell_clip")
"""Options of the cell: attributes of a layer, and keyword arguments of a call in their place."""
CALL = (
    *("lengths", "mask", "reset", "reset_state", "reset_to", "pad_output", "return_states"),
    *("seed", "t0", "row_ids"),
)
"""Options of one call."""
_FLAGS = ("mask", "reset")
_STEPS = ("lengths", "mask", "reset", "reset_state")


class States(NamedTuple):
    """States and gates at every step, of all layers and directions, with gradients.

    Attributes
    ----------
    h : (D*L, T, B, H)
        The state that leaves each step; (D*L, B, T, H) under `batch_first`, (D*L, T, H) unbatched.
    c : the same, or None
        The cell state; None but for the LSTM.
    gates : (D*L, T, B, G, H)
        Activated: LSTM i, f, g, o; GRU r, z, n; RNN the candidate.
    """

    h: Tensor
    c: Tensor | None
    gates: Tensor


class Read(NamedTuple):
    """The options of a call, checked."""

    scan: ScanOptions | None
    resets: tuple[Tensor | None, ...]
    """(D*L, T or 1, B, H) each."""
    reset_to: str
    return_states: bool


def settings(who: str, spec: CellSpec, given: Mapping[str, Any]) -> Settings:
    """Check the options of the cell."""
    return _call.check_settings(who, spec, {k: v for k, v in given.items() if k in CELL})


def refuse_unknown(who: str, given: Mapping[str, Any]) -> None:
    """Refuse keywords that are none of ours."""
    for name in given:
        if name not in CALL and name not in CELL:
            known = ", ".join((*CALL, *CELL))
            raise TypeError(f"{who}: no option {name!r}; there are {known}.")


def read(
    who: str,
    spec: CellSpec,
    module: Any,
    cell: Mapping[str, Any],
    given: Mapping[str, Any],
    x: Tensor,
    batched: bool,
    packed_rows: int | None,
    on_device: bool = False,
) -> Read:
    """Check the options of a call.

    `cell` are those in force of the cell, `given` those of the call as the user wrote them;
    `x` is (T, B, I), (B, T, I), unbatched (T, I) or packed, and then `packed_rows` is B.
    With `on_device` the arrays of the result are tensors beside x.
    """
    L, D = module.num_layers, 1 + module.bidirectional
    check = Checker(
        who,
        I=(module.input_size, "input_size"),
        H=(module.hidden_size, "hidden_size"),
        D=(D, "bidirectional"),
        L=(L, "num_layers"),
        G=(spec.G, "the cell"),
    )
    if packed_rows is not None:
        for name in (*_STEPS, "return_states"):
            if given.get(name) is not None and given.get(name) is not False:
                raise ArgumentError(
                    f"{who}: {name} is given with a PackedSequence, expected a padded tensor. "
                    "Use lengths for rows of different lengths."
                )
        form = TIME_FIRST
        check.bind("input", B=packed_rows)
    else:
        form = UNBATCHED
        if batched:
            form = BATCH_FIRST if module.batch_first else TIME_FIRST
        # While `torch.jit.trace` runs, sizes are tensors.
        sizes = dict(zip(form.steps.split(), map(int, x.shape), strict=False))
        check.bind("input", **({"B": 1} | sizes))
    arrays, there = dict(given), {}
    for name in ("lengths", "mask", "reset", "row_ids"):
        value = given.get(name)
        if on_device and _cuda_device.lies_on(value):
            there[name] = value
            arrays[name] = _hollow(who, name, value)
        elif value is not None:
            arrays[name] = _host(who, name, value)
    fields: dict[str, Any] = {}
    resets: tuple[Tensor | None, ...] = (None,) * spec.S
    if packed_rows is None:
        fields |= _call.check_steps(check, form, arrays, None)
        resets = _replacements(check, form, given, spec, x.dtype)
    reset_to = _values.choice(who, "reset_to", given.get("reset_to", "zero"), "zero", "learned")
    if reset_to == "learned" and given.get("reset_state") is not None:
        raise ArgumentError(
            f'{who}: reset_to is "learned" and reset_state is given, expected one: each says what '
            "a reset puts in place of the state."
        )
    chosen = settings(who, spec, cell)
    fields |= _call.scan_fields(chosen, module.training, False)
    if module.training and chosen.random:
        if arrays.get("seed") is None:
            arrays["seed"] = _drawn_seed(who)
        row_ids = _call.check_row_ids(check, arrays)
        fields |= _call.check_draws(who, arrays, row_ids)._asdict()
    # The tape keeps copies of all arrays but of those of differentiation by PyTorch.
    fields = {name: _copied(value) for name, value in fields.items()}
    if on_device:
        for name, value in fields.items():
            if name in there:
                most = check["T"] if name == "lengths" else 2**32 - 1
                fields[name] = _entered(who, name, form, there[name], x, most)
            elif isinstance(value, np.ndarray):
                fields[name] = _cuda_device.put(value, x)
    scan = ScanOptions(**fields) if fields else None
    wanted = _values.switch(who, "return_states", given.get("return_states", False))
    return Read(scan, resets, reset_to, wanted)


def _drawn_seed(who: str) -> int:
    """Draw from PyTorch's generator, so that manual_seed repeats it, and checkpointing too."""
    drawn = torch.randint(2**63 - 1, (), device="cpu")
    if _dispatch.batched((drawn,)):
        raise ArgumentError(
            f'{who}: masks are wanted under vmap with randomness="different", but one seed serves '
            'all that it maps over, expected randomness="same", or seed=.'
        )
    return int(drawn)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def on_host(options: ScanOptions | None) -> ScanOptions | None:
    """Return options of a call on a device as those of one on the CPU, which waits for them."""
    if options is None:
        return None
    with torch._C._DisableFuncTorch():
        tensors = {k: v for k, v in options._asdict().items() if isinstance(v, Tensor)}
        return options._replace(**{name: t.cpu().numpy() for name, t in tensors.items()})


def _hollow(who: str, name: str, value: Tensor) -> Any:
    """Return zeros of the shape and dtype of a tensor on a device: what a checker may look at."""
    kind = str(value.dtype).removeprefix("torch.")
    try:
        dtype = np.dtype(kind)
    except TypeError:
        raise DTypeError(
            f"{who}: {name} is {kind}, expected {'bool' if name in _FLAGS else 'integers'}."
        ) from None
    return np.broadcast_to(np.zeros((), dtype), tuple(value.shape))


def _entered(who: str, name: str, form: Any, value: Tensor, x: Tensor, most: int) -> Tensor:
    """Return a copy of a tensor as kernels read it; nothing waits for its values."""
    value = value.detach().to(x.device)
    if name in _FLAGS:
        if form is BATCH_FIRST:
            value = value.transpose(0, 1)
        elif form is UNBATCHED:
            value = value.unsqueeze(1)
        return value.clone(memory_format=torch.contiguous_format)
    value = value.to(torch.int64, copy=True, memory_format=torch.contiguous_format)
    # Kernels would read beyond the arrays. On a GPU this speaks as PyTorch's own index checks do.
    torch._assert_async(
        ((value >= 0) & (value <= most)).all(), f"{who}: {name} holds a value outside 0 ... {most}."
    )
    # The low half, for few operators know uint32.
    return value if name == "lengths" else value.to(torch.int32).view(torch.uint32)


def _host(who: str, name: str, value: Any) -> Any:
    """Return a tensor as an array; what is none is an array's business."""
    if isinstance(value, Tensor):
        if value.is_meta:
            raise DTypeError(
                f"{who}: {name} is a meta tensor, expected values: they decide what is computed."
            )
        # Within a functorch transform every operator would give back a wrapper without memory.
        with torch._C._DisableFuncTorch():
            return value.detach().cpu().numpy()
    return np.asarray(value)


def _replacements(
    check: Checker, form: Any, given: Mapping[str, Any], spec: CellSpec, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    """Check `reset_state`; returns S tensors (D*L, T or 1, B, H) or None."""
    entries = _call.replacement_entries(check.who, given, spec.S)
    if entries is None:
        return (None,) * spec.S
    result: list[Tensor | None] = []
    for name, tensor in entries:
        if tensor is not None:
            if not isinstance(tensor, Tensor):
                raise DTypeError(
                    f"{check.who}: {name} is of type {type(tensor).__qualname__}, expected a "
                    "tensor."
                )
            if tensor.dtype != dtype:
                came, expected = (str(d).removeprefix("torch.") for d in (tensor.dtype, dtype))
                raise DTypeError(
                    f"{check.who}: {name} is {came}, expected {expected} as the input is. "
                    f"Use {name}.to(input.dtype)."
                )
            # Its shape is all the checker looks at, so this array has no memory.
            shape = np.broadcast_to(np.zeros(()), tuple(tensor.shape))
            check.shape(name, shape, f"D*L {form.steps} H", f"D*L {form.once} H")
            if form is BATCH_FIRST:
                tensor = tensor.transpose(1, 2)
            elif form is UNBATCHED:
                tensor = tensor.unsqueeze(2)
        result.append(tensor)
    return tuple(result)
