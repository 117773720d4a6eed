"""The reference's options at their limits, and in expectation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from option_problems import build, run, single
from option_reference import EVERY_CELL, assert_same, forward, with_options

from rnnfast.reference import engine


@EVERY_CELL
@pytest.mark.parametrize("option", ["recurrent_dropout", "weight_drop"])
def test_all_dropped_is_no_recurrence(cell: str, option: str) -> None:
    p = build({"dstates"}, 3, cell, D=2)
    none = tuple((row[0], np.zeros_like(row[1]), *row[2:]) for row in p.params)
    expected = run(engine, replace(p, params=none))
    results = run(engine, with_options(p, **{option: 1.0}))
    for d in range(2):
        assert expected.pop(f"dR_{d}").any()
        assert not results.pop(f"dR_{d}").any()
    assert_same(results, expected, 1e-14)


@EVERY_CELL
@pytest.mark.parametrize("training", [False, True])
def test_all_zoned_out_keeps_the_state(cell: str, training: bool) -> None:
    p = build((), 3, cell)
    p = with_options(p, zoneout=(1.0,) * p.spec.S, training=training)
    results = run(engine, p)
    for k, s in enumerate(p.spec.states):
        np.testing.assert_array_equal(results[f"states_{s}"][0], np.stack([p.state[k][0]] * p.T))
    np.testing.assert_allclose(results["dh0"][0], p.dstate[0][0] + p.dy.sum(0), rtol=0, atol=1e-13)
    assert not results["dx"].any()
    assert not results["dR_0"].any()


@EVERY_CELL
def test_zoneout_is_in_expectation_what_evaluation_computes(cell: str) -> None:
    """One step of many equal rows, whose mean is five standard deviations from the formula's."""
    p = build({"zoneout"}, 11, cell, T=1, B=1)
    B = 20000
    many = replace(
        with_options(p, training=True),
        x=np.repeat(p.x, B, 1),
        state=tuple(np.repeat(s, B, 1) for s in p.state),
    )
    plain = with_options(p, zoneout=None)
    _, expected, _ = forward(p)
    for mean, value, old, new in zip(
        (s.mean(1) for s in forward(many)[1]), expected, p.state, forward(plain)[1], strict=True
    ):
        bound = 5 * 0.5 * np.abs(new - old)[:, 0] / np.sqrt(B)
        assert (np.abs(mean - value[:, 0]) < bound + 1e-12).all()


@pytest.mark.parametrize("option", ["recurrent_dropout", "weight_drop"])
def test_dropout_is_in_expectation_the_plain_call(option: str) -> None:
    """Where relu is linear, the mean of a step over many masks is the step without one."""
    p = build((), 2, "rnn_relu", T=1, B=1)
    (W, R, bW, bR), draws = p.params[0], 4000
    p = replace(p, params=((W, R, bW + 30, bR),))
    _, (expected,), _ = forward(p)
    values = [
        forward(with_options(p, **{option: 0.5}, seed=seed), tape=False)[1][0][0, 0]
        for seed in range(draws)
    ]
    deviation = np.sqrt((R**2) @ (p.state[0][0, 0] ** 2))
    assert (np.abs(np.mean(values, 0) - expected[0, 0]) < 5 * deviation / np.sqrt(draws)).all()
    assert np.std(values, 0) == pytest.approx(deviation, rel=0.1)


def test_cell_clip_bounds_the_cell_state() -> None:
    p = single("cell clip", 1, "lstm")
    results, plain = run(engine, p), run(engine, with_options(p, cell_clip=0.0))
    assert np.abs(plain["states_c"]).max() > 0.375
    assert np.abs(results["states_c"]).max() == 0.375
    at_bound = np.abs(results["states_c"]) == 0.375
    outputs = results["gates"][:, :, :, 3] * np.tanh(results["states_c"])
    np.testing.assert_allclose(results["states_h"], outputs, rtol=0, atol=1e-15)
    assert at_bound.any()
    assert not at_bound.all()
