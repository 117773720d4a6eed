"""Options under which the reference's backward is not the gradient of the loss (burn-in,
truncation, clipping), against sequences cut by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from option_problems import OptionProblem, build, draw, run
from option_reference import EVERY_CELL, assert_same, forward, piece, with_options

from rnnfast.reference import engine


def cut(p: OptionProblem, borders: list[int], gradient_clip: float = 0.0) -> dict:
    """Results of the pieces between borders, each run with the state carried in as a constant."""
    pieces, results, state = [], [], p.state
    for start, stop in pairwise(borders):
        pieces.append(piece(p, start, stop, state, stop == borders[-1]))
        pieces[-1] = with_options(pieces[-1], gradient_clip=gradient_clip)
        results.append(run(engine, pieces[-1]))
        state = tuple(results[-1][f"{s}_n"] for s in p.spec.states)
    return joined(p, results)


def joined(p: OptionProblem, results: list[dict]) -> dict:
    """Results of consecutive pieces as those of one call."""
    whole = {}
    for name in results[0]:
        values = [r[name] for r in results]
        if values[0] is None:
            whole[name] = None
        elif name.startswith("dreset"):
            given = p.options.reset_state[p.spec.states.index(name[-1])]
            whole[name] = sum(values) if given.shape[1] == 1 else np.concatenate(values, 1)
        elif name in ("y", "dx"):
            whole[name] = np.concatenate(values)
        elif name == "gates" or name.startswith("states"):
            whole[name] = np.concatenate(values, 1)
        elif name.endswith("_n"):
            whole[name] = values[-1]
        elif name in ("dh0", "dc0"):
            whole[name] = values[0]
        else:
            whole[name] = sum(values)
    return whole


def without_gradients(results: dict) -> dict:
    """The same call, had it been constant."""
    return {
        name: a if a is None or not name.startswith("d") else np.zeros_like(a)
        for name, a in results.items()
    }


UNCUT = ("flat", "reverse", "burn_in", "tbptt", "one")


@EVERY_CELL
@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("k", [1, 2, 3, 8, 9])
def test_tbptt_is_cutting_by_hand(cell: str, seed: int, k: int) -> None:
    p = draw(seed, cell, without=(*UNCUT, "lengths"), T=8, B=3, D=1)
    borders = [*range(0, 8, k), 8]
    expected = cut(p, borders, p.options.gradient_clip)
    assert_same(run(engine, with_options(p, tbptt=k)), expected, 1e-12)


@EVERY_CELL
@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("k", [1, 5, 8, 9])
def test_burn_in_is_cutting_by_hand(cell: str, seed: int, k: int) -> None:
    p = draw(seed, cell, without=UNCUT, T=8, B=3, D=1)
    clip = p.options.gradient_clip
    first = with_options(piece(p, 0, min(k, 8), p.state, False), gradient_clip=clip)
    results = [without_gradients(run(engine, first))]
    state = tuple(results[0][f"{s}_n"] for s in p.spec.states)
    if k < 8:
        second = with_options(piece(p, k, 8, state, True), gradient_clip=clip)
        results.append(run(engine, second))
    assert_same(run(engine, with_options(p, burn_in=k)), joined(p, results), 1e-12)


@EVERY_CELL
@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_rows_that_have_ended_are_cut_no_more(cell: str, k: int, hold: bool) -> None:
    """What a row gives back does not depend on how long the others are."""
    features = {"lengths", "mask", "reset", "dstates", "dgates", *(["hold"] if hold else [])}
    p = build(features, 4, cell, T=8, B=4)
    p = with_options(p, tbptt=k)
    whole = run(engine, p)
    for b, length in enumerate(p.options.lengths):
        one = slice(b, b + 1)
        steps = slice(0, 8 if hold else length)
        row = replace(
            p,
            x=p.x[steps, one],
            dy=p.dy[steps, one],
            state=tuple(s[:, one] for s in p.state),
            dstate=tuple(d[:, one] for d in p.dstate),
            dstates=tuple(None if d is None else d[:, steps, one] for d in p.dstates),
            dgates=p.dgates[:, steps, one],
            options=p.options._replace(
                lengths=p.options.lengths[one] if hold else None,
                mask=p.options.mask[steps, one],
                reset=p.options.reset[steps, one],
            ),
        )
        alone = run(engine, row)
        np.testing.assert_allclose(alone["dx"][:, 0], whole["dx"][steps, b], atol=1e-12)
        for name in ("dh0", "dc0"):
            if alone.get(name) is not None:
                np.testing.assert_allclose(alone[name][:, 0], whole[name][:, b], atol=1e-12)


@EVERY_CELL
def test_burn_in_beside_tbptt(cell: str) -> None:
    p = build({"mask", "reset", "reset_state", "dstates", "dgates"}, 3, cell, T=8)
    both = run(engine, with_options(p, burn_in=3, tbptt=2))
    # Cut before steps 2, 4 and 6; nothing before step 3.
    late = cut(p, [0, 2, 3, 4, 6, 8])
    early = without_gradients(run(engine, piece(p, 0, 3, p.state, False)))
    state = tuple(early[f"{s}_n"] for s in p.spec.states)
    expected = joined(p, [early, cut(piece(p, 3, 8, state, True), [0, 1, 3, 5])])
    np.testing.assert_array_equal(late["dx"][3:], expected["dx"][3:])
    assert_same(both, expected, 1e-12)


@EVERY_CELL
@pytest.mark.parametrize("seed", range(25))
def test_gradient_clip_step_by_step(cell: str, seed: int) -> None:
    """Each step as a call of its own, and what it sends back clamped here."""
    p = draw(seed, cell, without=(*UNCUT, "gradient_clip"), T=6, B=3, I=3, H=5, D=1)
    bound = 0.25
    pieces, state = [], p.state
    for t in range(6):
        pieces.append(piece(p, t, t + 1, state, t == 5))
        state = forward(pieces[-1])[1]
    used, results, carried = p.used(), [], p.dstate
    clamped = 0
    for t in reversed(range(6)):
        result = run(engine, replace(pieces[t], dstate=carried))
        here = used[t][:, None]
        for s in p.spec.states:
            for name in (f"d{s}0", f"dreset_{s}"):
                if result[name] is not None:
                    raw = result[name]
                    result[name] = np.where(here, np.clip(raw, -bound, bound), raw)
                    clamped += int((result[name] != raw).sum())
        carried = tuple(result[f"d{s}0"] for s in p.spec.states)
        results.insert(0, result)
    assert clamped > 0 or not used.any()
    assert_same(run(engine, with_options(p, gradient_clip=bound)), joined(p, results), 1e-12)
