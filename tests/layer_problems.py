"""Layers with options, what is drawn for them, and how their results are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import CELL_NAMES

import rnnfast
from rnnfast import States, _backend

compiled = pytest.mark.skipif(not _backend.compiled, reason="the compiled module is judged")
cells = pytest.mark.parametrize("cell", CELL_NAMES)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forth", "back"])
T, B, I, H = 6, 4, 3, 5
LENGTHS = np.array([6, 0, 3, 5])


def build(cell: str, device: str, *, learn: bool = False, **options: Any) -> Any:
    spec = rnnfast.CELLS[cell]
    kind = getattr(rnnfast, spec.function.upper())
    if learn:
        options["initial_state"] = "learned"
    layer = kind(I, H, **spec.options, dtype="float64", seed=3, device=device, **options)
    for name in ("h_0", "c_0"):
        if name in layer.parameters:
            layer.parameters[name][...] = draw(*layer.parameters[name].shape, seed=8)
    return layer


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def whole(entries: Any) -> Any:
    entries = tuple(entries)
    return entries[0] if len(entries) == 1 else entries


def letters(layer: Any) -> tuple[str, ...]:
    return rnnfast.CELLS[layer.cell].states


def sizes(layer: Any) -> tuple[int, int]:
    return layer.num_layers, 2 if layer.bidirectional else 1


def draw_states(layer: Any, *lead: int, seed: int) -> Any:
    """In the form of a state: D*L, then `lead`, then H."""
    L, D = sizes(layer)
    return whole(draw(D * L, *lead, H, seed=seed + k) for k, _ in enumerate(letters(layer)))


def draw_dstates(tape: Any, seed: int = 40) -> States:
    states = tape.states()
    return States(
        *(None if s is None else draw(*s.shape, seed=seed + k) for k, s in enumerate(states))
    )


def marks(p: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((T, B)) < p


def some_steps(layer: Any) -> dict[str, Any]:
    """Every option that selects steps, at once."""
    return {
        "lengths": LENGTHS,
        "mask": marks(0.7, 1),
        "reset": marks(0.3, 2),
        "reset_state": draw_states(layer, T, B, seed=20),
        "pad_output": "hold",
    }


def draw_stack(
    seed: int, *, T: int | None = None, H: int = 13, L: int | None = None
) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Draw a cell, settings of a stack of it, and the options and arrays of a call."""
    rng = np.random.default_rng([seed, 5])
    cell = list(rnnfast.CELLS)[seed % len(rnnfast.CELLS)]
    letters = rnnfast.CELLS[cell].states
    some_L, D = int(rng.integers(2, 4)), int(rng.integers(1, 3))
    some_T, B, I = int(rng.choice([1, 3, 8, 17])), int(rng.choice([3, 4, 7])), 6
    L, T = L or some_L, T or some_T

    def some(p: float = 0.4) -> bool:
        return bool(rng.random() < p)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    settings: dict[str, Any] = {"input_size": I, "hidden_size": H, "num_layers": L, "seed": seed}
    settings |= {"bidirectional": D == 2, "residual": some(), "dropout": 0.3 * some(0.6)}
    settings |= {"recurrent_dropout": 0.2 * some(), "weight_drop": 0.2 * some()}
    settings |= {"recurrent_dropout_mode": str(rng.choice(["sequence", "step"]))}
    if some():
        settings["zoneout"] = 0.3
    if some():
        settings["clip_state_gradient"] = 1.0  # some are above it
    if some() and "c" in letters:
        settings["cell_clip"] = 0.3
    if some():
        settings["initial_state"] = "learned"

    form = str(rng.choice(["time first", "batch first", "lengths", "flat"]))
    settings["batch_first"] = form == "batch first"
    lengths = rng.integers(0, T + 1, B)
    # Someone has a step.
    lengths[rng.integers(B)] = T
    steps: tuple[int, ...] = (B, T) if form == "batch first" else (T, B)
    given: dict[str, Any] = {"training": some(0.8), "seed": seed, "t0": int(rng.choice([0, 7]))}
    if form == "lengths":
        given["lengths"] = lengths
    elif form == "flat":
        given["cu_seqlens"], steps = np.cumsum([0, *lengths]), (int(lengths.sum()),)
    if some():
        given["mask"] = rng.random(steps) < 0.8
        given["pad_output"] = str(rng.choice(["zero", "hold"]))
    if some(0.6):
        given["reset"] = rng.random(steps) < 0.2
        if "initial_state" in settings and some(0.6):
            given["reset_to"] = "learned"
        elif some(0.6):
            given["reset_state"] = whole(normal(D * L, *steps, H) for _ in letters)
    if some():
        given["row_ids"] = rng.integers(0, 2**32, B)
    if D == 1 and some():
        given["burn_in"] = int(rng.integers(0, T))
    if D == 1 and some():
        given["tbptt"] = int(rng.integers(1, T + 1))
    indices = some(0.2)
    arrays: dict[str, Any] = {
        "x": rng.integers(0, I, steps) if indices else normal(*steps, I),
        "state": whole(normal(D * L, B, H) for _ in letters) if some(0.6) else None,
        "learned": normal(D * L, H),
        "dy": normal(*steps, D * H),
        "dlast": whole(normal(D * L, B, H) for _ in letters),
        "dstates": States(*(normal(D * L, *steps, H) for _ in letters)) if some(0.6) else None,
    }
    return cell, settings, given, arrays


def equal(a: Any, b: Any) -> None:
    """Bit for bit, whatever is nested in what."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = tuple(a.values()), tuple(b.values())
    if isinstance(a, tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            equal(left, right)
    elif isinstance(a, rnnfast.IndexedRows):
        np.testing.assert_array_equal(a.dense(), b.dense(), strict=True)
    elif a is None or b is None:
        assert a is b
    else:
        np.testing.assert_array_equal(a, b, strict=True)


def near(a: Any, b: Any, name: str = "") -> None:
    """As `equal`, for sums in another order."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key, value in a.items():
            near(value, b[key], key)
    elif isinstance(a, tuple):
        for left, right in zip(a, b, strict=True):
            near(left, right, name)
    elif a is None or b is None:
        assert a is b, name
    else:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=name, strict=True)
