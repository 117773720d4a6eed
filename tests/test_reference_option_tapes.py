"""The reference's tape, its prepared parameters and what stands between layers, with options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from option_problems import build, draw, run
from option_reference import EVERY_CELL, forward

from rnnfast import _random
from rnnfast.reference import engine


@EVERY_CELL
def test_the_tape_keeps_its_own_options(cell: str) -> None:
    p = build({"lengths", "mask", "reset", "reset_state", "rows", "zoneout", "training"}, 2, cell)
    expected = run(engine, p)
    y, _, tape = forward(p)
    o = p.options
    for array in (o.lengths, o.mask, o.reset, o.row_ids, *o.reset_state):
        if array is not None:
            array[...] = 1
    for _ in range(2):
        dx, _, _, dreset = engine.backward(tape, p.dy, p.dstate, True, None)
        np.testing.assert_array_equal(dx, expected["dx"])
        np.testing.assert_array_equal(y, expected["y"])
        for s, d in zip(p.spec.states, dreset, strict=True):
            assert (d is None) == (expected[f"dreset_{s}"] is None)
            if d is not None:
                np.testing.assert_array_equal(d, expected[f"dreset_{s}"])


@EVERY_CELL
@pytest.mark.parametrize("seed", range(20))
def test_a_second_backward_gives_the_same_bits(cell: str, seed: int) -> None:
    p = draw(seed, cell, T=6)
    _, _, tape = forward(p)
    before = (*tape.states(), tape.gates())
    first, second = (
        engine.backward(tape, p.dy, p.dstate, True, None, p.dstates, p.dgates) for _ in range(2)
    )
    for a, b in zip((*tape.states(), tape.gates()), before, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def leaves(values: object) -> list[np.ndarray]:
    """All arrays of nested tuples."""
    if isinstance(values, tuple):
        return [a for entry in values for a in leaves(entry)]
    return [] if values is None else [values]


@EVERY_CELL
@pytest.mark.parametrize("seed", range(5))
def test_prepared_parameters_take_options(cell: str, seed: int) -> None:
    p = draw(seed, cell)
    y, state_n, tape = forward(replace(p, params=engine.prepare(cell, p.params)), tape=False)
    assert tape is None
    expected, expected_n, _ = forward(p)
    np.testing.assert_array_equal(y, expected)
    for a, b in zip(state_n, expected_n, strict=True):
        np.testing.assert_array_equal(a, b)


@EVERY_CELL
def test_float32_stays_float32(cell: str) -> None:
    for seed in range(10):
        results = run(engine, draw(seed, cell, np.float32))
        assert {a.dtype for a in results.values() if a is not None} == {np.dtype(np.float32)}


@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_between_layers(D: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    T, B, H, row_ids = 5, 3, 6, np.array([7, 2**32 - 1, 0], np.uint32)
    x, add = (rng.standard_normal((T, B, D * H)).astype(dtype) for _ in range(2))
    steps = np.array([2**32 - 2, 2**32 - 1, 0, 1, 2])[:, None]
    mask = np.concatenate(
        [
            np.where(_random.words(9, 1, 2, d, steps, row_ids, H) < 2**30, 0, dtype(1 / 0.75))
            for d in range(D)
        ],
        -1,
    )
    of = (2, 2**32 - 2, row_ids)
    got = engine.between_layers(x, None, H, 0.25, 9, *of, None, None)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, x * mask)
    np.testing.assert_array_equal(
        engine.between_layers(x, add, H, 0.25, 9, *of, None, None), x * mask + add
    )
    np.testing.assert_array_equal(
        engine.between_layers(x, add, H, 0.0, 9, *of, None, None), x + add
    )
    assert not engine.between_layers(x, None, H, 1.0, 9, *of, None, None).any()
    by_rows = engine.between_layers(x, None, H, 0.25, 9, 2, 0, None, None, None)
    np.testing.assert_array_equal(
        by_rows, engine.between_layers(x, None, H, 0.25, 9, 2, 0, np.arange(B), None, None)
    )
    lengths = [2, 0, 5]
    flat, flat_add, expected = (
        np.concatenate([a[:n, b] for b, n in enumerate(lengths)]) for a in (x, add, x * mask + add)
    )
    cu_seqlens = np.array([0, 2, 2, 7])
    np.testing.assert_array_equal(
        engine.between_layers(flat, flat_add, H, 0.25, 9, *of, cu_seqlens, None), expected
    )
