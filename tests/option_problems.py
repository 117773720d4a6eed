"""Random calls of a back end with options, the same numbers in any dtype.

`draw` takes a random legal combination, `single` one option alone; `run` gives all results of
forward and backward by name. What must not be read is NaN, or an index out of range: x at unused
steps, gradients into them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from problems import make

from rnnfast._scan_options import ScanOptions
from rnnfast.cells import CELLS, CellSpec

SINGLES: dict[str, frozenset[str]] = {
    name: frozenset(features.split())
    for name, features in {
        "plain": "",
        "no state": "no_state",
        "indices": "indices",
        "reverse": "reverse",
        "gradients into states": "dstates",
        "gradients into gates": "dgates",
        "lengths": "lengths dstates dgates",
        "lengths, indices": "lengths indices",
        "lengths, held": "lengths hold dstates dgates",
        "mask": "mask dstates dgates",
        "mask, held": "mask hold dstates dgates",
        "lengths and mask": "lengths mask",
        "flat": "flat dstates dgates",
        "flat, indices": "flat indices",
        "flat, mask held": "flat mask hold dstates dgates",
        "reset": "reset dstates dgates",
        "reset, lengths": "reset lengths dstates",
        "reset, mask held": "reset mask hold dstates",
        "reset to states": "reset reset_state",
        "reset to one state": "reset reset_state one",
        "reset to states, flat": "reset reset_state flat",
        "reset to a state and to states": "reset reset_state one mixed",
        "recurrent dropout": "recurrent_dropout",
        "recurrent dropout, per step": "recurrent_dropout per_step",
        "zoneout": "zoneout training dstates",
        "zoneout, expected": "zoneout dstates",
        "weight drop": "weight_drop",
        "rows and t0": "rows recurrent_dropout per_step zoneout training",
        "cell clip": "cell_clip dstates",
        "gradient clip": "gradient_clip",
        "burn-in": "burn_in dstates dgates",
        "truncated": "tbptt dstates dgates",
    }.items()
}
"""Every option alone, with what shows it best: the features of `build` by name."""

_FEATURES = [
    *("indices", "reverse", "dstates", "dgates", "lengths", "mask", "flat", "hold"),
    *("reset", "reset_state", "one", "recurrent_dropout", "per_step", "zoneout", "training"),
    *(
        "no_state",
        "part_state",
        "weight_drop",
        "rows",
        "cell_clip",
        "gradient_clip",
        "burn_in",
        "tbptt",
    ),
]

NOT_A_GRADIENT = ("gradient_clip", "burn_in", "tbptt")
"""Features under which backward is, on purpose, not the gradient of the loss."""


@dataclass(frozen=True)
class OptionProblem:
    """One forward and backward call of a back end, arrays as its contract has them."""

    spec: CellSpec
    x: np.ndarray
    params: tuple[tuple[np.ndarray | None, ...], ...]
    state: tuple[np.ndarray | None, ...] | None
    options: ScanOptions | None
    dy: np.ndarray
    dstate: tuple[np.ndarray, ...]
    dstates: tuple[np.ndarray | None, ...] | None
    dgates: np.ndarray | None

    @property
    def D(self) -> int:
        return len(self.params)

    @property
    def H(self) -> int:
        return self.params[0][1].shape[1]

    @property
    def B(self) -> int:
        return self.dstate[0].shape[1]

    @property
    def T(self) -> int:
        if self.options is None or self.options.cu_seqlens is None:
            return len(self.x)
        return int(max(np.diff(self.options.cu_seqlens), default=0))

    def used(self) -> np.ndarray:
        """Which steps are used: (T, B) bool, flat (N,)."""
        o = self.options
        shape = (self.T, self.B) if o.cu_seqlens is None else self.x.shape[:1]
        used = np.ones(shape, bool) if o.mask is None else o.mask.copy()
        return used if o.lengths is None else used & (np.arange(self.T)[:, None] < o.lengths)

    def astype(self, dtype: Any) -> OptionProblem:
        def cast(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(cast(entry) for entry in value)
            return value if value is None or value.dtype.kind != "f" else value.astype(dtype)

        return replace(
            self,
            x=cast(self.x),
            params=cast(self.params),
            state=cast(self.state),
            options=None
            if self.options is None
            else self.options._replace(reset_state=cast(self.options.reset_state)),
            dy=cast(self.dy),
            dstate=cast(self.dstate),
            dstates=cast(self.dstates),
            dgates=cast(self.dgates),
        )


def build(
    features: Collection[str],
    seed: int,
    cell: str,
    dtype: Any = np.float64,
    *,
    T: int = 7,
    B: int = 4,
    I: int = 3,
    H: int = 5,
    D: int = 1,
) -> OptionProblem:
    """Draw a problem with certain features, whose numbers are exact in float32."""
    has = frozenset(features)
    assert has <= frozenset([*_FEATURES, "mixed"]), has
    rng = np.random.default_rng([seed, len(has)])
    spec = CELLS[cell]
    parts = [
        make(
            cell,
            T,
            B,
            I,
            H,
            seed=2 * seed + d,
            bias=seed % 5 > 0,
            state=True,
            indices="indices" in has,
        )
        for d in range(D)
    ]

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    def probability() -> float:
        return float(rng.choice([0.25, 0.3, 0.5]))

    steps = np.arange(T)[:, None]
    lengths = _lengths(rng, T, B) if has & {"lengths", "flat"} else np.full(B, T)
    mask = rng.random((T, B)) < 0.7 if "mask" in has else np.ones((T, B), bool)
    inside = steps < lengths
    # Flat arrays are the rows of the padded ones behind each other.
    of_row, of_step = np.nonzero(inside.T)

    def laid(array: np.ndarray, axis: int = 0) -> np.ndarray:
        """Bring (T, B, ...), from that axis on, to the form of the call."""
        if "flat" not in has:
            return array
        index = (slice(None),) * axis
        return np.ascontiguousarray(array[(*index, of_step, of_row)])

    o: dict[str, Any] = {"seed": int(rng.integers(0, 2**64, dtype=np.uint64))}
    o["layer"] = int(rng.integers(0, 4))
    if "flat" in has:
        o["cu_seqlens"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    elif "lengths" in has:
        o["lengths"] = lengths.astype(np.int64)
    if "mask" in has:
        o["mask"] = laid(mask)
    o["hold"] = "hold" in has
    if "reset" in has:
        o["reset"] = laid(rng.random((T, B)) < 0.3)
    if "reset_state" in has:
        # One state of the LSTM may be zero, or both given and c in the other form.
        given = [k for k in range(spec.S) if rng.random() < 0.8] or [0]
        if "mixed" in has:
            given = [*range(spec.S)]
        o["reset_state"] = tuple(
            None
            if k not in given
            else 0.5
            * (
                normal(D, 1, B, H)
                if ("one" in has) != ("mixed" in has and k == 1)
                else laid(normal(D, T, B, H), 1)
            )
            for k in range(spec.S)
        )
    if "recurrent_dropout" in has:
        o["recurrent_dropout"] = probability()
        o["per_step"] = "per_step" in has
    if "zoneout" in has:
        o["zoneout"] = tuple(probability() for _ in range(spec.S))
        if spec.S > 1 and rng.random() < 0.2:
            o["zoneout"] = (0.0, o["zoneout"][1])
    o["training"] = "training" in has
    if "weight_drop" in has:
        o["weight_drop"] = probability()
    if "cell_clip" in has:
        o["cell_clip"] = 0.375
    if "gradient_clip" in has:
        o["gradient_clip"] = 0.5
    if "burn_in" in has:
        o["burn_in"] = int(rng.integers(1, T + 2))
    if "tbptt" in has:
        o["tbptt"] = int(rng.integers(1, T + 2))
    if "rows" in has:
        o["row_ids"] = rng.integers(0, 2**32, B, dtype=np.uint32)
        o["t0"] = int(rng.choice([5, 2**32 - 3]))
    o["reverse"] = "reverse" in has

    used = inside & mask
    x = parts[0].x.copy()
    x[~used] = 10**9 if "indices" in has else np.nan
    dy = np.concatenate([part.dy for part in parts], -1)
    dstates = tuple(
        None if rng.random() < 0.2 else normal(D, T, B, H) for _ in range(spec.S if D else 0)
    )
    dgates = normal(D, T, B, spec.G, H)
    dgates[:, ~used] = np.nan
    if "hold" not in has:
        for array in (dy, *(a.swapaxes(0, 2).swapaxes(0, 1) for a in dstates if a is not None)):
            array[~used] = np.nan
    # A factor 1 / (1 - p) on half of the entries is one of 1 / sqrt(1 - p) on the radius.
    shrunk = np.sqrt((1 - o.get("weight_drop", 0)) * (1 - o.get("recurrent_dropout", 0)))
    state = tuple(np.stack([part.state[k] for part in parts]) for k in range(spec.S))
    if "part_state" in has:
        state = (None, *state[1:])
    problem = OptionProblem(
        spec=spec,
        x=laid(x),
        params=tuple(
            (
                part.row[0],
                (part.row[1] * shrunk).astype(np.float32).astype(np.float64),
                *part.row[2:],
            )
            for part in parts
        ),
        state=None if "no_state" in has else state,
        options=ScanOptions(**o),
        dy=laid(dy),
        dstate=tuple(np.stack([part.dstate[k] for part in parts]) for k in range(spec.S)),
        dstates=tuple(None if a is None else laid(a, 1) for a in dstates)
        if "dstates" in has
        else None,
        dgates=laid(dgates, 1) if "dgates" in has else None,
    )
    return problem if np.dtype(dtype) == np.float64 else problem.astype(dtype)


def single(name: str, seed: int, cell: str, dtype: Any = np.float64, **sizes: int) -> OptionProblem:
    """Draw a problem with one option of `SINGLES`; sizes as in `build`."""
    return build(SINGLES[name], seed, cell, dtype, **sizes)


def fits(name: str, cell: str, D: int = 1) -> bool:
    """Whether a cell, with so many directions, has the option of that name."""
    has = SINGLES[name]
    return (cell == "lstm" or not has & {"cell_clip", "mixed"}) and not (
        D == 2 and has & {"burn_in", "tbptt", "reverse"}
    )


def choose(
    seed: int,
    cell: str,
    *,
    plus: Collection[str] = (),
    without: Collection[str] = (),
    **sizes: int,
) -> tuple[set[str], dict[str, int]]:
    """Choose the features of a random legal combination, those of `plus` among them and none of
    `without`, and the sizes not given."""
    rng = np.random.default_rng([seed, 1])
    sizes = {
        "T": int(rng.choice([0, 1, 2, 5, 9, 17], p=[0.03, 0.07, 0.1, 0.3, 0.3, 0.2])),
        "B": int(rng.choice([0, 1, 2, 3, 6], p=[0.03, 0.17, 0.2, 0.3, 0.3])),
        "I": int(rng.integers(1, 6)),
        "H": int(rng.choice([1, 3, 4, 7, 9])),
        "D": int(rng.choice([1, 2])),
        **sizes,
    }
    rarely = {"no_state": 0.1, "part_state": 0.1}
    has = {name for name in _FEATURES if rng.random() < rarely.get(name, 0.4)} | set(plus)
    if cell != "lstm":
        has.discard("cell_clip")
    if sizes["D"] == 2:
        has.discard("reverse")
    if sizes["D"] == 2 or "reverse" in has:
        has -= {"burn_in", "tbptt"}
    if "flat" in has:
        has.discard("lengths")
    if cell == "lstm" and "reset_state" in has and seed // 4 % 2:
        has.add("mixed")
    return has - set(without), sizes


def draw(
    seed: int,
    cell: str,
    dtype: Any = np.float64,
    *,
    plus: Collection[str] = (),
    without: Collection[str] = (),
    **sizes: int,
) -> OptionProblem:
    """Draw what `choose` chooses."""
    has, sizes = choose(seed, cell, plus=plus, without=without, **sizes)
    return build(has, seed, cell, dtype, **sizes)


def run(
    engine: Any, problem: OptionProblem, threads: int | None = None
) -> dict[str, np.ndarray | None]:
    """All results of forward and backward by name.

    y, h_n, c_n, states_h, states_c, gates, dx, dW_0, dR_0, dbW_0, dbR_0 and the same with _1 for
    the second direction, dh0, dc0, dreset_h, dreset_c; forms as in the contract, dW dense.
    """
    p = problem
    letters = p.spec.states
    y, state_n, tape = engine.forward(
        p.spec.name, p.x, p.params, p.state, None, True, threads, p.options
    )
    results = {"y": y}
    results.update((f"{s}_n", a) for s, a in zip(letters, state_n, strict=True))
    results.update((f"states_{s}", a) for s, a in zip(letters, tape.states(), strict=True))
    results["gates"] = tape.gates()
    dx, grads, dstate0, dreset = engine.backward(
        tape, p.dy, p.dstate, True, threads, p.dstates, p.dgates
    )
    results["dx"] = dx
    for d, ((dW, *rest), (W, *_)) in enumerate(zip(grads, p.params, strict=True)):
        if isinstance(dW, tuple):
            indices, rows = dW
            dW = np.zeros_like(W)
            dW[:, indices] = rows.T
        results.update(
            zip((f"dW_{d}", f"dR_{d}", f"dbW_{d}", f"dbR_{d}"), (dW, *rest), strict=True)
        )
    results.update((f"d{s}0", a) for s, a in zip(letters, dstate0, strict=True))
    dreset = (None,) * len(letters) if dreset is None else dreset
    results.update((f"dreset_{s}", a) for s, a in zip(letters, dreset, strict=True))
    return results


def _lengths(rng: np.random.Generator, T: int, B: int) -> np.ndarray:
    """Lengths in any order, with a row of no steps and one of T where there is room."""
    lengths = rng.integers(0, T + 1, B)
    if B > 1:
        empty, full = rng.choice(B, 2, replace=False)
        lengths[empty], lengths[full] = 0, T
    return lengths
