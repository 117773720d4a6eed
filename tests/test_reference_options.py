"""The options of the scan as the reference specifies them.

The forward pass is compared with a loop over single rows and steps that is written here again, the
backward pass with central differences.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from option_problems import NOT_A_GRADIENT, SINGLES, OptionProblem, draw, fits, run, single
from option_reference import EVERY_CELL, assert_same, forward, with_options
from problems import CELL_NAMES

from rnnfast import _random
from rnnfast._scan_options import ScanOptions
from rnnfast.reference import engine

SEEDS = range(75)  # times four cells
SETTINGS = [
    (cell, name, D)
    for cell in CELL_NAMES
    for name in SINGLES
    for D in (1, 2)
    if fits(name, cell, D)
]

# The forward pass, by a loop over rows and steps -------------------------------------------------


def by_hand(p: OptionProblem) -> dict[str, np.ndarray]:
    """y, final states, states and gates, one row and one step at a time."""
    o, spec = p.options, p.spec
    module, cell_options = engine._cell(spec.name)
    if o.cell_clip:
        cell_options["cell_clip"] = o.cell_clip
    G, S, H, B = spec.G, spec.S, p.H, p.B
    flat = o.cu_seqlens is not None
    lead = p.x.shape[:1] if flat else p.x.shape[:2]
    y = np.zeros((*lead, p.D * H))
    states = np.zeros((S, p.D, *lead, H))
    gates = np.zeros((p.D, *lead, G, H))
    final = np.zeros((S, p.D, B, H))
    for d, (W, R, bW, bR) in enumerate(p.params):
        backwards = d == 1 or o.reverse
        draw_of = (o.seed, o.layer, int(backwards))
        if o.weight_drop:
            R = R * _random.weight_drop(o.weight_drop, *draw_of, G * H, H, R.dtype)
        for b in range(B):
            start, count = 0, len(p.x)
            if flat:
                start, count = int(o.cu_seqlens[b]), int(np.diff(o.cu_seqlens)[b])
            length = count if o.lengths is None else int(o.lengths[b])
            places = [start + t if flat else (t, b) for t in range(count)]
            row = b if o.row_ids is None else int(o.row_ids[b])
            state = [
                np.zeros(H) if p.state is None or p.state[k] is None else p.state[k][d, b]
                for k in range(S)
            ]
            for t in reversed(range(count)) if backwards else range(count):
                border = t + 1 if backwards else t
                if o.reset is not None and border < length and o.reset[places[border]]:
                    for k in range(S):
                        given = None if o.reset_state is None else o.reset_state[k]
                        if given is None:
                            state[k] = np.zeros(H)
                        elif given.ndim == 4 and given.shape[1] == 1:
                            state[k] = given[d, 0, b]
                        else:
                            place = places[border]
                            state[k] = given[d][place]
                place = places[t]
                used = t < length and (o.mask is None or bool(o.mask[place]))
                if used:
                    step = (o.t0 + t) % 2**32
                    gx = W[:, p.x[place]] if p.x.dtype.kind == "i" else W @ p.x[place]
                    h = state[0]
                    if o.recurrent_dropout:
                        when = step if o.per_step else 0
                        h = h * _random.recurrent_dropout(
                            o.recurrent_dropout, *draw_of, when, row, H, h.dtype
                        )
                    gh = R @ h
                    if bW is not None:
                        gx, gh = gx + bW, gh + bR
                    new, slots = module.forward(
                        np,
                        gx.reshape(1, G, H),
                        gh.reshape(1, G, H),
                        [s[None] for s in state],
                        **cell_options,
                    )
                    for k in range(S):
                        z = 0.0 if o.zoneout is None else o.zoneout[k]
                        if o.training and z:
                            z = _random.zoneout(z, *draw_of, k, step, row, H, h.dtype)
                        state[k] = z * state[k] + (1 - z) * new[k][0]
                    gates[d][place] = [slot[0] for slot in slots[:G]]
                if used or o.hold:
                    y[place][d * H : (d + 1) * H] = state[0]
                    for k in range(S):
                        states[k, d][place] = state[k]
            final[:, d, b] = state
    results = {"y": y}
    results.update((f"{s}_n", a) for s, a in zip(spec.states, final, strict=True))
    results.update((f"states_{s}", a) for s, a in zip(spec.states, states, strict=True))
    results["gates"] = gates
    return results


def assert_forward_holds(p: OptionProblem) -> None:
    results, expected = run(engine, p), by_hand(p)
    assert_same({name: results[name] for name in expected}, expected, 1e-13)


@pytest.mark.parametrize(("cell", "name", "D"), SETTINGS)
def test_forward_of_each_option_by_hand(cell: str, name: str, D: int) -> None:
    assert_forward_holds(single(name, 1, cell, D=D))


@EVERY_CELL
@pytest.mark.parametrize("seed", SEEDS)
def test_forward_of_combinations_by_hand(cell: str, seed: int) -> None:
    assert_forward_holds(draw(seed, cell, T=min(seed % 7, 5)))


# The backward pass, by central differences -------------------------------------------------------


def loss(p: OptionProblem) -> float:
    """A number whose gradients are what backward is given, with the masks of the seed."""
    y, state_n, tape = forward(p)
    pairs = [(y, p.dy), *zip(state_n, p.dstate, strict=True)]
    pairs += zip(tape.states(), p.dstates or (), strict=False)
    pairs.append((tape.gates(), p.dgates))
    # NaN stands where backward reads nothing.
    return float(sum((a * np.nan_to_num(da)).sum() for a, da in pairs if da is not None))


def assert_gradients_hold(p: OptionProblem) -> None:
    results = run(engine, p)
    for name, gradient in results.items():
        assert gradient is None or np.isfinite(gradient).all(), name
    rng = np.random.default_rng(1)
    start = p.state or (None,) * p.spec.S
    start = tuple(np.zeros_like(p.dstate[0]) if s is None else s for s in start)
    entries = [
        (f"d{s}0", start[k], lambda a, k=k: replace(p, state=at(start, k, a)))
        for k, s in enumerate(p.spec.states)
    ]
    if p.x.dtype.kind == "f":
        entries.append(("dx", p.x, lambda a: replace(p, x=a)))
    for d, row in enumerate(p.params):
        for k, name in enumerate(("dW", "dR", "dbW", "dbR")):
            if row[k] is None:
                assert results[f"{name}_{d}"] is None
                continue

            def replaced(a: np.ndarray, d: int = d, k: int = k) -> OptionProblem:
                return replace(p, params=at(p.params, d, at(p.params[d], k, a)))

            entries.append((f"{name}_{d}", row[k], replaced))
    given = p.options.reset_state
    for k, s in enumerate(p.spec.states):
        if given is None or given[k] is None:
            assert results[f"dreset_{s}"] is None
            continue
        entries.append(
            (
                f"dreset_{s}",
                given[k],
                lambda a, k=k: with_options(p, reset_state=at(given, k, a)),
            )
        )
    step = 1e-6
    for name, array, replaced in entries:
        assert results[name].shape == array.shape
        direction = rng.standard_normal(array.shape)
        up, down = (loss(replaced(array + s * direction)) for s in (step, -step))
        assert float((results[name] * direction).sum()) == pytest.approx(
            (up - down) / (2 * step), rel=1e-6, abs=1e-7
        ), name


def at(values: tuple, k: int, value: object) -> tuple:
    return (*values[:k], value, *values[k + 1 :])


@pytest.mark.parametrize(
    ("cell", "name", "D"), [s for s in SETTINGS if not SINGLES[s[1]] & set(NOT_A_GRADIENT)]
)
def test_gradients_of_each_option(cell: str, name: str, D: int) -> None:
    assert_gradients_hold(single(name, 1, cell, D=D))


@EVERY_CELL
@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_of_combinations(cell: str, seed: int) -> None:
    # A call without a used step has no gradient to hold; forward has such calls above.
    while not (problem := draw(seed, cell, without=NOT_A_GRADIENT)).used().any():
        seed += len(SEEDS)
    assert_gradients_hold(problem)


def test_every_single_option_is_one_of_the_contract() -> None:
    """No option is left out of the list that others test by."""
    shown = set()
    for name in SINGLES:
        o = single(name, 1, "lstm").options
        default = ScanOptions()
        shown |= {
            field
            for field in ScanOptions._fields
            if not np.array_equal(getattr(o, field), getattr(default, field))
        }
    assert shown == set(ScanOptions._fields)
