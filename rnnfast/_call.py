"""The options of one call, from what the caller wrote to what a back end takes.

Functions and layers come here only where an option is given; `rnnfast.options` says what each one
means.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy import ndarray

from . import _values
from ._forms import FLAT, TIME_FIRST, UNBATCHED, Form, States
from ._shapes import Checker
from .cells import CellSpec
from .cuda._arrays import dense, host
from .errors import ArgumentError, DTypeError

__all__ = [
    "Call",
    "Draws",
    "Settings",
    "check_draws",
    "check_dstates",
    "check_names",
    "check_replacement",
    "check_row_ids",
    "check_settings",
    "check_steps",
    "check_time",
    "enter_flat",
    "scan_fields",
    "that_ask",
    "used_steps",
]


class Settings(NamedTuple):
    """`CellOptions`, checked: what a layer's constructor fixes, and a function gets per call."""

    recurrent_dropout: float = 0.0
    per_step: bool = False
    zoneout: tuple[float, ...] | None = None
    weight_drop: float = 0.0
    cell_clip: float = 0.0
    gradient_clip: float = 0.0

    @property
    def random(self) -> bool:
        """Whether masks are drawn while training."""
        return self.recurrent_dropout > 0 or self.weight_drop > 0 or self.zoneout is not None


class Draws(NamedTuple):
    """`RandomOptions`, checked: the key of the masks of one call."""

    seed: int
    t0: int = 0
    row_ids: ndarray | None = None


class Call(NamedTuple):
    """What a tape keeps about its call beside the tapes of the back end."""

    form: Form = TIME_FIRST
    learned: bool = False
    """Whether the initial state was the learned one."""
    replaced: str | None = None
    """What resets put in place of the state: "given", "learned", or None, which is zero."""
    dropout: float = 0.0
    """Probability of a zero between layers in this call."""
    residual: bool = False
    draws: Draws | None = None
    """None where no mask was drawn."""
    cu_seqlens: ndarray | None = None


def check_names(who: str, given: Mapping[str, Any], kind: type) -> None:
    """Refuse a keyword argument that is no option, as Python does, but say which there are."""
    known = kind.__annotations__
    for name in given:
        if name not in known:
            raise TypeError(f"{who}: no option {name!r}; there are {', '.join(known)}.")


_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("lengths", "mask", "cu_seqlens", "reset", "reset_state", "tbptt")),
    **{"pad_output": "zero", "burn_in": 0},
}
_LEFT_OUT = object()
_Options = TypeVar("_Options", bound=Mapping[str, Any])


def that_ask(given: _Options, kind: type) -> _Options:
    """Leave out options given at their defaults: alone they leave the call a plain one.

    What is no option of this kind stays, for `check_names` to refuse.
    """
    known = kind.__annotations__
    asked = {
        name: value
        for name, value in given.items()
        if name not in known or value is not _DEFAULTS.get(name, _LEFT_OUT)
    }
    return cast(_Options, asked)


# Options that stay the same from call to call ----------------------------------------------------


def check_settings(who: str, spec: CellSpec, given: Mapping[str, Any]) -> Settings:
    """Check those of `CellOptions` that are given."""
    clip = _values.bound(who, "cell_clip", given.get("cell_clip"))
    if clip is not None and "c" not in spec.states:
        raise ArgumentError(
            f"{who}: cell_clip is {given['cell_clip']}, expected None: the {spec.function} cell "
            "has no cell state."
        )
    mode = given.get("recurrent_dropout_mode", "sequence")
    p = _values.probability(who, "recurrent_dropout", given.get("recurrent_dropout", 0.0))
    return Settings(
        recurrent_dropout=p,
        per_step=_values.choice(who, "recurrent_dropout_mode", mode, "sequence", "step") == "step",
        zoneout=_zoneout(who, spec, given.get("zoneout", 0.0)),
        weight_drop=_values.probability(who, "weight_drop", given.get("weight_drop", 0.0)),
        cell_clip=clip or 0.0,
        gradient_clip=_values.bound(who, "clip_state_gradient", given.get("clip_state_gradient"))
        or 0.0,
    )


def _zoneout(who: str, spec: CellSpec, zoneout: Any) -> tuple[float, ...] | None:
    """One probability per state, or None where all are 0."""
    if isinstance(zoneout, list) or (isinstance(zoneout, tuple) and len(zoneout) != spec.S):
        states = ", ".join(f"p_{letter}" for letter in spec.states)
        raise DTypeError(
            f"{who}: zoneout is a {type(zoneout).__qualname__} of {len(zoneout)}, expected a "
            f"number or a tuple, one per state of the {spec.function} cell, "
            f"({states}{',' * (spec.S == 1)})."
        )
    if not isinstance(zoneout, tuple):
        zoneout = (zoneout,) * spec.S
    each = tuple(_values.probability(who, "zoneout", p) for p in zoneout)
    return each if any(each) else None


# Options of one call -----------------------------------------------------------------------------


def enter_flat(check: Checker, given: Mapping[str, Any]) -> ndarray | None:
    """Check `cu_seqlens`, and bind B and N by it; None where x is not flat."""
    cu_seqlens = given.get("cu_seqlens")
    if cu_seqlens is None:
        return None
    if given.get("lengths") is not None:
        raise ArgumentError(
            f"{check.who}: lengths and cu_seqlens are both given, expected one: they say the same. "
            "cu_seqlens is for rows one after the other, lengths for padded ones."
        )
    cu_seqlens = check.whole("cu_seqlens", cu_seqlens, "B+1")
    if len(cu_seqlens) == 0 or cu_seqlens[0] != 0:
        first = "is empty" if len(cu_seqlens) == 0 else f"starts at {cu_seqlens[0]}"
        raise ArgumentError(
            f"{check.who}: cu_seqlens {first}, expected (B+1,) integers ascending from 0."
        )
    falls = np.flatnonzero(cu_seqlens[1:] < cu_seqlens[:-1])
    if len(falls):
        b = int(falls[0])
        raise ArgumentError(
            f"{check.who}: cu_seqlens falls from {cu_seqlens[b]} to {cu_seqlens[b + 1]} at "
            f"[{b + 1}], expected integers ascending from 0."
        )
    if cu_seqlens[-1] > np.iinfo(np.int64).max:
        raise ArgumentError(
            f"{check.who}: cu_seqlens holds {cu_seqlens[-1]} at [{len(cu_seqlens) - 1}], expected "
            "at most the rows of x."
        )
    # A copy: backward needs it as it is now.
    ends = np.array(cu_seqlens, np.int64, order="C")
    check.bind("cu_seqlens", B=len(ends) - 1, N=int(ends[-1]))
    return ends


def check_steps(
    check: Checker, form: Form, given: Mapping[str, Any], flat: ndarray | None
) -> dict[str, Any]:
    """Check `StepOptions`, the replacement of resets excepted; returns fields of `ScanOptions`."""
    who = check.who
    fields: dict[str, Any] = {}
    lengths, mask, reset = (given.get(name) for name in ("lengths", "mask", "reset"))
    if flat is not None:
        fields["cu_seqlens"] = flat
    if lengths is not None:
        if form is UNBATCHED:
            raise ArgumentError(
                f"{who}: lengths is given, but x is a single unbatched row; expected no lengths. "
                "Use x[:length]."
            )
        most = check["T"], check.source("T")
        fields["lengths"] = check.counts("lengths", lengths, "B", *most)
    for name, array, meaning in (
        ("mask", mask, "where a step is used"),
        ("reset", reset, "where a new sequence begins"),
    ):
        if array is not None:
            steps = form.enter(check.flags(name, array, form.steps, meaning))
            fields[name] = check.kept(steps)
    output = _values.choice(who, "pad_output", given.get("pad_output", "zero"), "zero", "hold")
    if output == "hold":
        if form is FLAT and mask is None:
            raise ArgumentError(
                f'{who}: pad_output is "hold", expected "zero" with cu_seqlens and no mask: there '
                "is no padding."
            )
        fields["hold"] = True
    return fields


def used_steps(check: Checker, fields: Mapping[str, Any]) -> ndarray | None:
    """Whether each step is used, (T, B) or (N,); None where all are."""
    used, lengths = host(fields.get("mask")), host(fields.get("lengths"))
    if lengths is not None:
        within = np.arange(check["T"])[:, None] < lengths
        used = within if used is None else used & within
    return used


def replacement_entries(who: str, given: Mapping[str, Any], S: int) -> list[tuple[str, Any]] | None:
    """Return the entries of `reset_state`, one per state, by their names in messages; or None."""
    state = given.get("reset_state")
    if state is None:
        return None
    if given.get("reset") is None:
        raise ArgumentError(
            f"{who}: reset_state is given without reset, expected both: reset says where it takes "
            "the place of the state."
        )
    if S == 1:
        return [("reset_state", state)]
    if not isinstance(state, (tuple, list)) or len(state) != S:
        came = f"of type {type(state).__qualname__}"
        if isinstance(state, (tuple, list)):
            came = f"a {type(state).__qualname__} of {len(state)}"
        raise DTypeError(f"{who}: reset_state is {came}, expected a tuple (h, c).")
    return [(f"reset_state[{k}]", entry) for k, entry in enumerate(state)]


def check_replacement(
    check: Checker, form: Form, given: Mapping[str, Any], letters: tuple[str, ...], front: str
) -> tuple[ndarray | None, ...] | None:
    """Check `reset_state`; `front` is its axes before the steps, "D*L" or "".

    Returns
    -------
    S arrays (D*L, T or 1, B, H), flat (D*L, N, H) or (D*L, 1, B, H); or None.
    """
    entries = replacement_entries(check.who, given, len(letters))
    if entries is None:
        return None
    blocks: list[ndarray | None] = []
    for name, array in entries:
        if array is not None:
            once = f"{front} {form.once} H"
            array = check.block(name, array, f"{front} {form.steps} H", once)
            if not front:
                array = array[None]
            array = check.kept(form.enter(array, axis=1))
        blocks.append(array)
    return tuple(blocks)


def check_time(who: str, given: Mapping[str, Any], reverse: str | None) -> dict[str, Any]:
    """Check `GradientOptions`; `reverse` is the argument that asks for a reverse direction."""
    burn_in = _values.at_least(who, "burn_in", given.get("burn_in", 0), 0)
    tbptt = given.get("tbptt")
    if tbptt is not None:
        tbptt = _values.at_least(who, "tbptt", tbptt, 1)
    fields = {"burn_in": burn_in} if burn_in else {}
    if tbptt is not None:
        fields["tbptt"] = tbptt
    for name, value in fields.items():
        # More than any call has steps is all of them; the compiled module counts to 2**62.
        fields[name] = min(value, 2**62)
        if reverse is not None:
            none = 0 if name == "burn_in" else None
            raise ArgumentError(
                f"{who}: {name} is {value}, expected {none} with {reverse}: the reverse direction "
                "meets the last steps first, and is not carried on from earlier ones."
            )
    return fields


def check_row_ids(check: Checker, given: Mapping[str, Any]) -> ndarray | None:
    """Check `row_ids`; a copy, for backward draws the masks again."""
    row_ids = given.get("row_ids")
    if row_ids is None:
        return None
    row_ids = check.within("row_ids", row_ids, "B", 2**32 - 1, "0 <= row_ids < 2**32")
    return np.array(row_ids, np.uint32, order="C")


def check_draws(who: str, given: Mapping[str, Any], row_ids: ndarray | None) -> Draws:
    """Check the other `RandomOptions`, and draw the seed where none is given."""
    seed = given.get("seed")
    if seed is None:
        seed = int.from_bytes(os.urandom(8), "little")
    seed = _values.below(who, "seed", seed, 64)
    t0 = _values.below(who, "t0", given.get("t0", 0), 32)
    return Draws(seed, t0, row_ids)


def scan_fields(settings: Settings, training: bool, keep_tape: bool) -> dict[str, Any]:
    """Those fields of `ScanOptions` in which settings differ from a plain call."""
    fields: dict[str, Any] = {}
    if settings.zoneout is not None:
        fields.update(zoneout=settings.zoneout, training=training)
    if training and settings.recurrent_dropout > 0:
        fields["recurrent_dropout"] = settings.recurrent_dropout
        fields["per_step"] = settings.per_step
    if training and settings.weight_drop > 0:
        fields["weight_drop"] = settings.weight_drop
    if settings.cell_clip > 0:
        fields["cell_clip"] = settings.cell_clip
    if keep_tape and settings.gradient_clip > 0:
        fields["gradient_clip"] = settings.gradient_clip
    return fields


# Gradients that come in --------------------------------------------------------------------------


def check_dstates(
    check: Checker, form: Form, dstates: Any, spec: CellSpec, front: str
) -> tuple[Any, ...]:
    """Check gradients with respect to `States`; returns the last arguments of a back end.

    Returns
    -------
    dstates : tuple of S arrays (D*L, T, B, H) or None; or None where all are
    dgates : (D*L, T, B, G, H), or None
        Neither, so an empty tuple, where there is no gradient.
    """
    if dstates is None:
        return ()
    if not isinstance(dstates, States):
        raise DTypeError(
            f"{check.who}: dstates is of type {type(dstates).__qualname__}, expected "
            "rnnfast.States(h, c, gates), in which an entry may be None."
        )
    if dstates.c is not None and "c" not in spec.states:
        raise ArgumentError(
            f"{check.who}: dstates.c is given, expected None: the {spec.function} cell has no cell "
            "state."
        )

    def entry(name: str, axes: str) -> ndarray | None:
        array = getattr(dstates, name)
        if array is None:
            return None
        array = check.block(f"dstates.{name}", array, f"{front} {form.steps} {axes}")
        if not front:
            array = array[None]
        return dense(form.enter(array, axis=1))

    sequences = tuple(entry(letter, "H") for letter in spec.states)
    gates = entry("gates", "G H")
    nothing = all(array is None for array in sequences)
    if nothing and gates is None:
        return ()
    return (None if nothing else sequences), gates
