"""Runs with options judged against the reference, by the yardstick."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pytest
from memory import remembered
from option_problems import OptionProblem, build, run
from yardstick import check_options

from rnnfast.reference import engine
from rnnfast.reference.plan import Flat

__all__ = ["judge"]


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


def referred(
    problem: OptionProblem, dtype: type, types: Sequence[type], T: int
) -> list[dict[str, Any]]:
    """Return the reference's results in these element types; none if dtype does not decide."""
    if not decided(problem, dtype):
        return []
    return [padded(problem, run(engine, problem.astype(of)), T) for of in types]


def judge(
    runs: Sequence[Callable[[OptionProblem], dict[str, Any]]],
    features: Collection[str],
    seed: int,
    cell: str,
    dtype: type,
    draws: int,
    plainly: Callable[[OptionProblem], dict[str, Any]] | None = None,
    eps: float | None = None,
    **sizes: int,
) -> None:
    """Judge each way to run some draws with these features, at most so many.

    `plainly` runs plain arithmetic, which is the reference in the element type of the problem
    where nothing else is given.
    """
    wider = np.float64 if dtype is np.float32 else np.longdouble
    # The yardstick compares maxima. Over a handful of numbers they say nothing, so where a step or
    # a gate block has few, several draws are judged as one.
    T, B, I, H = (sizes[letter] for letter in "TBIH")
    draws = max(1, min(draws, 64 // min(H, B * I))) if T * B else 1
    kernels: list[dict[str, list]] = [{} for _ in runs]
    plain: dict[str, list] = {}
    ref: dict[str, list] = {}
    taken, problem = 0, None
    for attempt in range(10 * draws):
        draw = 1000 * seed + attempt
        candidate = build(features, draw, cell, **sizes)
        types = (wider,) if plainly else (wider, dtype)
        key = sorted(features), draw, cell, sorted(sizes.items()), dtype, types
        by_reference = remembered(key, functools.partial(referred, candidate, dtype, types, T))
        if not by_reference:
            continue
        problem, taken = candidate, taken + 1
        cast = problem.astype(dtype)
        for run_once, pool in zip(runs, kernels, strict=True):
            add(pool, padded(problem, run_once(cast), T))
        add(plain, padded(problem, plainly(cast), T) if plainly else by_reference[1])
        add(ref, by_reference[0])
        if taken == draws:
            break
    assert problem is not None
    assert taken == draws
    for pool in kernels:
        check_options(
            pool,
            plain,
            ref,
            G=problem.spec.G,
            D=problem.D,
            reverse=problem.options.reverse,
            width=I + H,
            eps=eps,
        )


def add(pool: dict[str, list], results: dict[str, Any]) -> None:
    for name, value in results.items():
        pool.setdefault(name, []).append(value)
