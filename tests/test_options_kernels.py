"""Every kernel with options against the reference, by the yardstick: each alone, and combinations.

The instruction set is the one this process runs (RNNFAST_ISA); test_isas.py repeats this file for
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
from conftest import require
from option_judge import judge
from option_problems import SINGLES, OptionProblem, build, choose, fits, run
from problems import CELL_NAMES

core = require("core")


def compare(
    features: Collection[str], seed: int, cell: str, dtype: type, draws: int = 24, **sizes: int
) -> None:
    """Judge some draws with these features, on one to three threads."""

    def on(threads: int) -> Callable[[OptionProblem], dict[str, Any]]:
        def run_once(problem: OptionProblem) -> dict[str, Any]:
            results = run(core, problem, threads)
            name = f"{cell}.backward.f{np.dtype(dtype).itemsize * 8}.{core.isa()}"
            assert core.last_kernel() == name
            return results

        return run_once

    judge([on(threads) for threads in (1, 2, 3)], features, seed, cell, dtype, draws, **sizes)


def every(D: int = 1) -> list[tuple[str, str]]:
    return [(name, cell) for name in SINGLES for cell in CELL_NAMES if fits(name, cell, D)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "cell"), every())
def test_each_option(name, cell, dtype):
    compare(SINGLES[name], 1, cell, dtype, T=7, B=5, I=4, H=17, D=1)


@pytest.mark.parametrize(("name", "cell"), every(D=2))
def test_each_option_in_two_directions(name, cell):
    compare(SINGLES[name], 2, cell, np.float32, T=5, B=6, I=5, H=9, D=2)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("cuts", ["tbptt", "burn_in"])
def test_held_gradients_are_cut(cuts, cell):
    """What comes in at unused steps behind a cut does not reach the state held from before it."""
    for seed in range(5, 9):
        features = {"mask", "hold", "dstates", "reset", "reset_state", cuts}
        compare(features, seed, cell, np.float32, T=9, B=5, I=4, H=17, D=1)


@pytest.mark.parametrize("seed", range(40))
def test_combinations(seed):
    cell = CELL_NAMES[seed % len(CELL_NAMES)]
    features, sizes = choose(seed, cell)
    for dtype in (np.float32, np.float64):
        compare(features, seed, cell, dtype, draws=12, **sizes)


# Chunks of more than one step and more than one chunk (256 places in backward, 192 in forward); the
# direct road (T*B <= 16) and the packed one; rows of two and more tiles; batches that threads split
# by rows and by units.
SHAPES = [
    (60, 11, 3, 17),
    (15, 1, 3, 33),
    (16, 1, 3, 33),
    (17, 1, 3, 33),
    (3, 5, 6, 64),
    (4, 4, 6, 16),
    (9, 40, 5, 9),
]


@pytest.mark.parametrize("seed", range(len(SHAPES) * 2))
def test_combinations_at_awkward_shapes(seed):
    cell = CELL_NAMES[seed % len(CELL_NAMES)]
    T, B, I, H = SHAPES[seed % len(SHAPES)]
    features, sizes = choose(500 + seed, cell, T=T, B=B, I=I, H=H)
    compare(features, 500 + seed, cell, np.float32, draws=3, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_many_combinations(seed):
    rng = np.random.default_rng([seed, 3])
    cell = CELL_NAMES[seed % len(CELL_NAMES)]
    if seed % 5 == 0:
        T, B, I, H = SHAPES[int(rng.integers(len(SHAPES)))]
    else:
        # Empty calls are among those of test_combinations.
        T = int(rng.choice([1, 2, 15, 16, 17, 60]))
        B = int(rng.choice([1, 2, 7, 16, 40]))
        I, H = int(rng.choice([1, 5, 33])), int(rng.choice([1, 16, 17, 33, 64]))
    features, sizes = choose(1000 + seed, cell, T=T, B=B, I=I, H=H)
    # Of a single row with a length and of one unit, most draws have no step or nothing to sum.
    for dtype in (np.float32, np.float64):
        compare(features, 1000 + seed, cell, dtype, draws=64, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cell"), every())
def test_each_option_over_several_chunks(name, cell):
    for dtype in (np.float32, np.float64):
        compare(SINGLES[name], 4, cell, dtype, draws=2, T=60, B=11, I=5, H=33, D=1)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("B", [1, 3])
def test_one_step_with_a_replacement_that_no_reset_takes(cell, B):
    """Nothing is multiplied with R then, whose checksum must not be missed for that."""
    p = build((), 2, cell, T=1, B=B, D=2)
    options = p.options._replace(reset_state=(np.ones((2, 1, B, p.H)),) * p.spec.S)
    _, _, tape = core.forward(p.spec.name, p.x, p.params, p.state, None, True, 1, options)
    for threads in (1, 2):
        args = (tape, p.dy, p.dstate, True, threads, None, None)
        dx, grads, dstate0, dreset = core.backward(*args, False)
        expected = core.backward(*args, True)
        np.testing.assert_array_equal(dx, expected[0])
        for given, wanted in zip(grads, expected[1], strict=True):
            for a, b in zip(given, wanted, strict=True):
                np.testing.assert_array_equal(a, b)
        assert dstate0 == (None,) * p.spec.S
        assert not any(d.any() for d in dreset)
