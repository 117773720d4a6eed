"""Every kernel with options against the reference, by the yardstick: each alone, and combinations.

The instruction set is the one this process runs (RNNFAST_ISA); test_isas.py repeats this file for
the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from conftest import require
from option_problems import SINGLES, OptionProblem, build, choose, fits, run
from problems import CELL_NAMES
from yardstick import check_options

from rnnfast.reference import engine
from rnnfast.reference.plan import Flat

core = require("core")


def decided(problem: OptionProblem, dtype: type) -> bool:
    """Whether no sum lies so near a threshold that rounding decides on which side of it.

    Behind the threshold of relu and behind the cell's clip the gradient is zero, so there two
    right results may differ by all of it.
    """
    spec = problem.spec
    clip = 0.0 if problem.options is None else problem.options.cell_clip
    relu = spec.options.get("nonlinearity") == "relu"
    if not clip and not relu:
        return True
    module = importlib.import_module(f"rnnfast.reference.{spec.function}")
    forward, nearest = module.forward, [np.inf]

    def watched(xp, gx, gh, states, **options):
        if relu:
            distance = abs(gx + gh)
        else:
            (_, c), _ = forward(xp, gx, gh, states)
            distance = abs(abs(c) - clip)
        # Behind the end of a flat row, x is zero, and there is no sum at all.
        nearest.append(distance.min(initial=np.inf, where=distance > 0))
        return forward(xp, gx, gh, states, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "forward", watched)
        p = problem
        engine.forward(spec.name, p.x, p.params, p.state, None, False, None, p.options)
    return min(nearest) > 64 * np.finfo(dtype).eps


def padded(problem: OptionProblem, results: dict[str, Any], T: int) -> dict[str, Any]:
    """Flat arrays as (T, B, ...), where steps of one time stand together."""
    if problem.options.cu_seqlens is None:
        return results
    flat = Flat(problem.options.cu_seqlens)
    flat.T = T  # the longest row of this draw may be shorter
    padded = dict(results)
    for name in ("y", "dx"):
        if results[name] is not None:
            padded[name] = flat.pad(results[name])
    for name, value in results.items():
        # One replacement of each row for all steps is not flat.
        sequence = name == "gates" or name.startswith("states_")
        sequence |= name.startswith("dreset_") and value is not None and value.ndim == 3
        if sequence:
            padded[name] = np.stack([flat.pad(part) for part in value])
    return padded


def compare(
    features: Collection[str], seed: int, cell: str, dtype: type, draws: int = 24, **sizes: int
) -> None:
    """Judge some draws with these features, at most so many."""
    wider = np.float64 if dtype is np.float32 else np.longdouble
    # The yardstick compares maxima. Over a handful of numbers they say nothing, so where a step or
    # a gate block has few, several draws are judged as one.
    T, B, I, H = (sizes[letter] for letter in "TBIH")
    draws = max(1, min(draws, 64 // min(H, B * I))) if T * B else 1
    kernels: dict[int, dict[str, list]] = {1: {}, 2: {}, 3: {}}
    plain: dict[str, list] = {}
    ref: dict[str, list] = {}
    taken, problem = 0, None
    for attempt in range(10 * draws):
        candidate = build(features, 1000 * seed + attempt, cell, **sizes)
        if not decided(candidate, dtype):
            continue
        problem, taken = candidate, taken + 1
        cast = problem.astype(dtype)
        for threads, pool in kernels.items():
            add(pool, padded(problem, run(core, cast, threads), T))
            name = f"{cell}.backward.f{np.dtype(dtype).itemsize * 8}.{core.isa()}"
            assert core.last_kernel() == name
        add(plain, padded(problem, run(engine, cast), T))
        add(ref, padded(problem, run(engine, problem.astype(wider)), T))
        if taken == draws:
            break
    assert problem is not None
    assert taken == draws
    for pool in kernels.values():
        check_options(
            pool,
            plain,
            ref,
            G=problem.spec.G,
            D=problem.D,
            reverse=problem.options.reverse,
            width=I + H,
        )


def add(pool: dict[str, list], results: dict[str, Any]) -> None:
    for name, value in results.items():
        pool.setdefault(name, []).append(value)


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
        T = int(rng.choice([0, 1, 2, 15, 16, 17, 60]))
        B = int(rng.choice([0, 1, 2, 7, 16, 40]))
        I, H = int(rng.choice([1, 5, 33])), int(rng.choice([1, 16, 17, 33, 64]))
    features, sizes = choose(1000 + seed, cell, T=T, B=B, I=I, H=H)
    for dtype in (np.float32, np.float64):
        compare(features, 1000 + seed, cell, dtype, draws=6, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cell"), every())
def test_each_option_over_several_chunks(name, cell):
    for dtype in (np.float32, np.float64):
        compare(SINGLES[name], 4, cell, dtype, draws=2, T=60, B=11, I=5, H=33, D=1)
