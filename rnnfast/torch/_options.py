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

__all__ = ["CALL", "CELL", "States", "read", "settings"]

CELL = ("recurrent_dropout", "recurrent_dropout_mode", "zoneout", "weight_drop", "cell_clip")
"""Options of the cell: attributes of a layer, and keyword arguments of a call in their place."""
CALL = (
    *("lengths", "mask", "reset", "reset_state", "reset_to", "pad_output", "return_states"),
    *("seed", "t0", "row_ids"),
)
"""Options of one call."""
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


def read(
    who: str,
    spec: CellSpec,
    module: Any,
    cell: Mapping[str, Any],
    given: Mapping[str, Any],
    x: Tensor,
    batched: bool,
    packed_rows: int | None,
    steps: bool = True,
) -> Read:
    """Check the options of a call.

    `cell` are those in force of the cell, `given` those of the call as the user wrote them;
    `x` is (T, B, I), (B, T, I), unbatched (T, I) or packed, and then `packed_rows` is B.
    """
    for name in given:
        if name not in CALL and name not in CELL:
            known = ", ".join((*CALL, *CELL))
            raise TypeError(f"{who}: no option {name!r}; there are {known}.")
    L, D = module.num_layers, 1 + module.bidirectional
    dtype = np.dtype(str(x.dtype).removeprefix("torch."))
    check = Checker(
        who,
        (dtype, "the layer"),
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
        sizes = dict(zip(form.steps.split(), x.shape, strict=False))
        check.bind("input", **({"B": 1} | sizes))
    arrays = dict(given)
    for name in ("lengths", "mask", "reset", "row_ids"):
        if given.get(name) is not None:
            arrays[name] = _host(who, name, given[name])
    fields: dict[str, Any] = {}
    resets: tuple[Tensor | None, ...] = (None,) * spec.S
    if packed_rows is None:
        fields |= _call.check_steps(check, form, arrays, None)
        resets = _replacements(check, form, given, spec)
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
            # From PyTorch's generator, so that manual_seed repeats it, and checkpointing too.
            arrays["seed"] = int(torch.randint(2**63 - 1, (), device="cpu"))
        fields |= _call.check_draws(who, arrays, check["B"], check.source("B"))._asdict()
    # The tape keeps copies of all arrays but of those of differentiation by PyTorch.
    scan = None
    if fields:
        scan = ScanOptions(**{k: _copied(v) for k, v in fields.items()})
    wanted = _values.switch(who, "return_states", given.get("return_states", False))
    return Read(scan, resets, reset_to, wanted)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


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
    check: Checker, form: Any, given: Mapping[str, Any], spec: CellSpec
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
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype != str(check.dtype):
                raise DTypeError(
                    f"{check.who}: {name} is {dtype}, expected {check.dtype} as the input is. "
                    f"Use {name}.to(input.dtype)."
                )
            # Its shape is all the checker looks at, so this array has no memory.
            shape = np.broadcast_to(np.zeros((), check.dtype), tuple(tensor.shape))
            check.shape(name, shape, f"D*L {form.steps} H", f"D*L {form.once} H")
            if form is BATCH_FIRST:
                tensor = tensor.transpose(1, 2)
            elif form is UNBATCHED:
                tensor = tensor.unsqueeze(2)
        result.append(tensor)
    # Kernels take either form, but not one of each.
    T = max(1 if t is None else t.shape[1] for t in result)
    return tuple(None if t is None else t.expand(-1, T, -1, -1) for t in result)
