"""A stack with options, to the bit: rows alone, threads, exact zeros, and NaN that nobody reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layer_problems import B, H, I, T, build, cells, compiled, draw, draw_states, parts, whole

import rnnfast

both_directions = pytest.mark.parametrize("D", [1, 2])


@compiled
@cells
@both_directions
def test_bits_of_a_stack_with_everything(cell: str, D: int) -> None:
    """Outputs, states and gradients of a row are the same alone, and by any number of threads."""
    T, B = 21, 9
    settings = {"recurrent_dropout": 0.4, "zoneout": 0.3, "weight_drop": 0.2, "dropout": 0.3}
    layer = build(cell, "cpu", num_layers=2, bidirectional=D == 2, residual=True, **settings)
    x, dy = draw(T, B, I), draw(T, B, D * H, seed=5)
    state, dlast = draw_states(layer, B, seed=4), draw_states(layer, B, seed=6)
    lengths = np.array([21, 0, 3, 20, 7, 21, 1, 12, 9])
    reset = np.random.default_rng(1).random((T, B)) < 0.2

    def run(threads: int, rows: slice) -> list[np.ndarray]:
        def some(arrays: Any) -> Any:
            return whole(a[:, rows] for a in parts(arrays))

        rnnfast.set_num_threads(threads)
        y, last, tape = layer.forward(
            x[:, rows],
            some(state),
            lengths=lengths[rows],
            reset=reset[:, rows],
            row_ids=np.arange(B)[rows],
            seed=4,
            training=True,
        )
        g = layer.backward(tape, dy[:, rows], some(dlast))
        return [y, *parts(last), g.x, *parts(g.state)]

    before = rnnfast.get_num_threads()
    try:
        together = run(1, slice(None))
        for mine, other in zip(run(3, slice(None)), together, strict=True):
            assert mine.tobytes() == other.tobytes()
        for b in range(B):
            for mine, other in zip(run(1, slice(b, b + 1)), together, strict=True):
                assert mine.tobytes() == other[:, b : b + 1].tobytes()
    finally:
        rnnfast.set_num_threads(before)


@cells
@both_directions
def test_no_gradient_of_a_stack_crosses_a_reset(device: str, cell: str, D: int) -> None:
    """It is exactly zero behind a border that resets every direction's sequence."""
    layer = build(cell, device, num_layers=2, bidirectional=D == 2)
    x, state = draw(T, B, I), draw_states(layer, B, seed=4)
    reset = np.zeros((T, B), bool)
    reset[3, 1] = True
    y, _, tape = layer.forward(x, state, reset=reset)
    dy = np.zeros_like(y)
    dy[3:] = 1
    g = layer.backward(tape, dy)
    assert not g.x[:3, 1].any()
    assert g.x[:3, 0].any()
    assert g.x[3:, 1].any()
    for s in parts(g.state):
        for_forward = s[::D]
        assert not for_forward[:, 1].any()
        assert for_forward[:, 0].any()


@cells
@pytest.mark.parametrize("L", [1, 2])
def test_nan_that_no_step_reads(device: str, cell: str, L: int) -> None:
    """A discarded state, that of an empty row, and a replacement without a flag leak nowhere."""
    layer = build(cell, device, num_layers=L, zoneout=0.2)

    def finite(x: np.ndarray, state: Any, rows: Any = slice(None), **given: Any) -> Any:
        y, last, tape = layer.forward(x, state, training=True, seed=1, **given)
        g = layer.backward(tape, np.ones_like(y))
        for array in (y[:, rows], *(s[:, rows] for s in parts(last))):
            assert np.isfinite(array).all()
        for name, array in g.parameters.items():
            assert np.isfinite(array).all(), name
        assert np.isfinite(g.x).all()
        return g

    def poisoned(*shape: int, at: Any) -> Any:
        state = draw_states(layer, *shape, seed=4)
        for s in parts(state):
            s[at] = np.nan
        return state

    x, first = draw(T, B, I), np.zeros((T, B), bool)
    first[0] = True
    g = finite(x, poisoned(B, at=...), reset=first)
    assert all(not s.any() for s in parts(g.state))

    lengths = np.array([T, 0, 3, T])
    g = finite(x, poisoned(B, at=(slice(None), 1)), [0, 2, 3], lengths=lengths)
    assert all(np.isfinite(s).all() and not s[:, 1].any() for s in parts(g.state))

    some = np.zeros((T, B), bool)
    some[2, 0] = some[4, 3] = True
    anew = poisoned(T, B, at=(slice(None), ~some))
    g = finite(x, draw_states(layer, B, seed=4), reset=some, reset_state=anew)
    for s in parts(g.reset_state):
        assert s[:, some].any()
        assert not s[:, ~some].any()

    # A burn-in that a reset of all rows ends.
    border = np.zeros((T, B), bool)
    border[2] = True
    x = x.copy()
    x[:2] = np.nan
    y, last, tape = layer.forward(
        x, poisoned(B, at=...), reset=border, burn_in=2, training=True, seed=1
    )
    g = layer.backward(tape, np.ones_like(y))
    assert np.isfinite(y[2:]).all()
    assert all(np.isfinite(s).all() for s in parts(last))
    assert all(np.isfinite(array).all() for array in g.parameters.values())
    assert not g.x[:2].any()
    assert np.isfinite(g.x).all()
    assert all(not s.any() for s in parts(g.state))
