"""Layers with options, what is drawn for them, and how their results are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import CELL_NAMES
from stack_problems import parts as parts
from stack_problems import whole as whole

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
