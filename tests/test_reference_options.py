"""The options of the scan as the reference specifies them.

The forward pass is compared with a loop over single rows and steps that is written here again, the
backward pass with central differences. Options under which backward is not the gradient of the loss
(burn-in, truncation, clipping) are cut by hand.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from option_problems import NOT_A_GRADIENT, SINGLES, OptionProblem, build, draw, fits, run, single
from problems import CELL_NAMES

from rnnfast import _random
from rnnfast._scan_options import ScanOptions
from rnnfast.reference import engine

EVERY_CELL = pytest.mark.parametrize("cell", CELL_NAMES)
SEEDS = range(75)  # times four cells
SETTINGS = [
    (cell, name, D)
    for cell in CELL_NAMES
    for name in SINGLES
    for D in (1, 2)
    if fits(name, cell, D)
]


def forward(p: OptionProblem, tape: bool = True) -> tuple:
    return engine.forward(p.spec.name, p.x, p.params, p.state, None, tape, None, p.options)


def with_options(p: OptionProblem, **changes: object) -> OptionProblem:
    return replace(p, options=p.options._replace(**changes))


def assert_same(a: dict, b: dict, tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] is None) == (b[name] is None), name
        if a[name] is not None:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance, err_msg=name)


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
    assert_gradients_hold(draw(seed, cell, without=NOT_A_GRADIENT))


# Backward where it is not the gradient of the loss -----------------------------------------------


def piece(
    p: OptionProblem, start: int, stop: int, state: tuple | None, last: bool
) -> OptionProblem:
    """Steps start ... stop of a padded problem of one direction, as a call of its own."""
    o = p.options
    part = slice(start, stop)
    full = (None,) * p.spec.S
    return replace(
        p,
        x=p.x[part],
        state=state,
        dy=p.dy[part],
        dstate=p.dstate if last else tuple(np.zeros_like(d) for d in p.dstate),
        dstates=tuple(None if d is None else d[:, part] for d in p.dstates or full),
        dgates=None if p.dgates is None else p.dgates[:, part],
        options=o._replace(
            lengths=None if o.lengths is None else np.clip(o.lengths - start, 0, stop - start),
            mask=None if o.mask is None else o.mask[part],
            reset=None if o.reset is None else o.reset[part],
            reset_state=None
            if o.reset_state is None
            else tuple(None if a is None else _at_steps(a, part) for a in o.reset_state),
            t0=(o.t0 + start) % 2**32,
            burn_in=0,
            tbptt=0,
            gradient_clip=0.0,
        ),
    )


def _at_steps(reset_state: np.ndarray, part: slice) -> np.ndarray:
    return reset_state if reset_state.shape[1] == 1 else reset_state[:, part]


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


# What options equal ------------------------------------------------------------------------------


@EVERY_CELL
@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_options_that_are_off_are_the_plain_call_to_the_bit(
    cell: str, D: int, training: bool
) -> None:
    p = build({"dstates", "dgates"}, 2, cell, D=D)
    S = p.spec.S
    plain = run(engine, replace(p, options=None))
    off = ScanOptions(
        zoneout=(0.0,) * S, training=training, seed=3, layer=1, t0=7, hold=True, per_step=True
    )
    assert_same(run(engine, replace(p, options=off)), plain)
    shape = p.x.shape[:2]
    everywhere = ScanOptions(
        lengths=np.full(p.B, p.T),
        mask=np.ones(shape, bool),
        reset=np.zeros(shape, bool),
        gradient_clip=1e30,
        tbptt=0 if D == 2 else p.T,
        cell_clip=1e30 if cell == "lstm" else 0.0,
    )
    assert_same(run(engine, replace(p, options=everywhere)), plain, 1e-14)


@EVERY_CELL
def test_states_of_a_plain_call(cell: str) -> None:
    p = replace(build((), 2, cell, D=2), options=None)
    y, state_n, tape = forward(p)
    for values, last in zip(tape.states(), state_n, strict=True):
        assert values.shape == (2, p.T, p.B, p.H)
        np.testing.assert_array_equal(values[0, -1], last[0])
        np.testing.assert_array_equal(values[1, 0], last[1])
    np.testing.assert_array_equal(np.concatenate(list(tape.states()[0]), -1), y)
    assert tape.gates().shape == (2, p.T, p.B, p.spec.G, p.H)
    _, _, _, dreset = engine.backward(tape, p.dy, None, True, None)
    assert dreset is None


@EVERY_CELL
@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("seed", range(10))
def test_lengths_are_runs_of_single_rows(cell: str, D: int, seed: int) -> None:
    features = {"lengths", "reset", "reset_state", "dstates", "dgates", "zoneout", "training"}
    p = build(features | {"recurrent_dropout", "per_step"}, seed, cell, D=D)
    whole = run(engine, p)
    sums: dict = {}
    for b, length in enumerate(p.options.lengths):
        row, steps = slice(b, b + 1), slice(0, length)
        alone = replace(
            p,
            x=p.x[steps, row],
            state=None
            if p.state is None
            else tuple(None if s is None else s[:, row] for s in p.state),
            dy=p.dy[steps, row],
            dstate=tuple(d[:, row] for d in p.dstate),
            dstates=tuple(None if d is None else d[:, steps, row] for d in p.dstates),
            dgates=p.dgates[:, steps, row],
            options=p.options._replace(
                lengths=None,
                reset=p.options.reset[steps, row],
                reset_state=tuple(
                    None if a is None else a[:, steps, row] for a in p.options.reset_state
                ),
                row_ids=np.array([b], np.uint32),
            ),
        )
        for name, value in run(engine, alone).items():
            if value is None:
                assert whole[name] is None
                continue
            if name in ("y", "dx"):
                part, rest = whole[name][steps, row], whole[name][length:, row]
            elif name.startswith(("states", "gates", "dreset")):
                part, rest = whole[name][:, steps, row], whole[name][:, length:, row]
            elif name[:2] in ("dW", "dR", "db"):
                sums[name] = sums.get(name, 0) + value
                continue
            else:
                part, rest = whole[name][:, row], np.zeros(0)
            np.testing.assert_allclose(value, part, rtol=0, atol=1e-12, err_msg=name)
            assert not rest.any(), name
    for name, value in sums.items():
        np.testing.assert_allclose(value, whole[name], rtol=0, atol=1e-11, err_msg=name)


def padded(p: OptionProblem) -> tuple[OptionProblem, np.ndarray, np.ndarray]:
    """Return a flat problem as a padded one, and the step and row of each flat step."""
    o = p.options
    lengths = np.diff(o.cu_seqlens)
    row = np.repeat(np.arange(p.B), lengths)
    step = np.concatenate([np.arange(n) for n in lengths]) if p.B else np.zeros(0, int)

    def pad(array: np.ndarray | None, axis: int = 0) -> np.ndarray | None:
        if array is None:
            return None
        lead = (slice(None),) * axis
        out = np.zeros((*array.shape[:axis], p.T, p.B, *array.shape[axis + 1 :]), array.dtype)
        out[(*lead, step, row)] = array
        return out

    wide = replace(
        p,
        x=pad(p.x),
        dy=pad(p.dy),
        dstates=None if p.dstates is None else tuple(pad(d, 1) for d in p.dstates),
        dgates=pad(p.dgates, 1),
        options=o._replace(
            cu_seqlens=None,
            lengths=lengths,
            mask=pad(o.mask),
            reset=pad(o.reset),
            reset_state=None
            if o.reset_state is None
            else tuple(a if a is None or a.ndim == 4 else pad(a, 1) for a in o.reset_state),
        ),
    )
    return wide, step, row


@EVERY_CELL
@pytest.mark.parametrize("seed", range(40))
def test_flat_is_padded(cell: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    D = int(rng.choice([1, 2]))
    features = {"flat", *rng.choice(["mask", "hold", "reset", "dstates", "dgates"], 3)}
    features |= set(rng.choice(["zoneout", "training", "recurrent_dropout", "per_step"], 3))
    features |= set(rng.choice(["indices", "weight_drop", "gradient_clip", "rows"], 2))
    if "reset" in features:
        features |= {"reset_state"} | ({"one"} if seed % 2 else set())
    if D == 1:
        features |= set(rng.choice(["burn_in", "tbptt", "reset", "hold"], 2))
    p = build(features, seed, cell, B=seed % 5, D=D)
    wide, step, row = padded(p)
    results, expected = run(engine, p), run(engine, wide)
    for name, value in expected.items():
        if value is None or value.shape == results[name].shape:
            continue
        axis = 0 if name in ("y", "dx") else 1
        expected[name] = value[(*(slice(None),) * axis, step, row)]
    assert_same(results, expected, 1e-12)


@EVERY_CELL
@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("features", ["reset", "reset reset_state", "reset reset_state one"])
def test_a_reset_is_a_cut_by_hand(cell: str, D: int, features: str) -> None:
    p = build({*features.split(), "dstates", "dgates"}, 4, cell, D=D)
    k, H, letters = 3, p.H, p.spec.states
    reset = np.zeros((p.T, p.B), bool)
    reset[k] = True
    p = with_options(p, reset=reset)
    o, results = p.options, run(engine, p)
    for d in range(D):
        alone = replace(
            p,
            params=p.params[d : d + 1],
            state=None
            if p.state is None
            else tuple(None if s is None else s[d : d + 1] for s in p.state),
            dy=p.dy[:, :, d * H : (d + 1) * H],
            dstate=tuple(a[d : d + 1] for a in p.dstate),
            dstates=tuple(None if a is None else a[d : d + 1] for a in p.dstates),
            dgates=p.dgates[d : d + 1],
            options=o._replace(reset=None, reset_state=None, reverse=d == 1),
        )
        replacement = tuple(
            None if o.reset_state is None or a is None else a[d : d + 1, min(k, a.shape[1] - 1)]
            for a in o.reset_state or (None,) * p.spec.S
        )
        # In scan order, the second piece starts with the replacement and has the final states.
        forwards = d == 0
        before = piece(alone, 0, k, alone.state if forwards else replacement, not forwards)
        after = piece(alone, k, p.T, replacement if forwards else alone.state, forwards)
        early, late = run(engine, before), run(engine, after)
        first, second = (early, late) if forwards else (late, early)
        mine = {
            "y": results["y"][:, :, d * H : (d + 1) * H],
            "gates": results["gates"][d : d + 1],
            "dW_0": results[f"dW_{d}"],
            "dR_0": results[f"dR_{d}"],
        }
        for name, value in mine.items():
            both = early[name], late[name]
            axis = {"y": 0, "gates": 1}.get(name)
            expected = sum(both) if axis is None else np.concatenate(both, axis)
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12, err_msg=name)
        for s, given in zip(letters, replacement, strict=True):
            np.testing.assert_allclose(results[f"{s}_n"][d], second[f"{s}_n"][0], atol=1e-13)
            np.testing.assert_allclose(results[f"d{s}0"][d], first[f"d{s}0"][0], atol=1e-12)
            if given is None:
                continue
            dreset = results[f"dreset_{s}"][d]
            at_k = dreset[min(k, len(dreset) - 1)]
            np.testing.assert_allclose(at_k, second[f"d{s}0"][0], rtol=0, atol=1e-12)
            assert len(dreset) == 1 or not np.delete(dreset, k, 0).any()


@EVERY_CELL
def test_nothing_flows_across_a_reset(cell: str) -> None:
    p = build({"reset", "zoneout"}, 5, cell, D=2)
    k, H = 4, p.H
    reset = np.zeros((p.T, p.B), bool)
    reset[k] = True
    dy = np.zeros_like(p.dy)
    # Loss of the steps after the border in each direction's own order.
    dy[k:, :, :H] = p.dy[k:, :, :H]
    p = with_options(replace(p, dy=dy, dstate=tuple(map(np.zeros_like, p.dstate))), reset=reset)
    results = run(engine, p)
    assert results["dx"][k:].any()
    assert not results["dx"][:k].any()
    assert not any(results[f"d{s}0"].any() for s in p.spec.states)
    dy = np.zeros_like(p.dy)
    dy[:k, :, H:] = p.dy[:k, :, :H] + 1
    results = run(engine, replace(p, dy=dy))
    assert results["dx"][:k].any()
    assert not results["dx"][k:].any()
    assert not any(results[f"d{s}0"].any() for s in p.spec.states)


@EVERY_CELL
def test_the_first_flag_discards_the_state_of_the_forward_direction_only(cell: str) -> None:
    p = build({"reset"}, 1, cell, D=2)
    reset = np.zeros((p.T, p.B), bool)
    reset[0, 1] = True
    p = with_options(p, reset=reset)
    state = tuple(s.copy() for s in p.state)
    for array in state:
        array[0, 1] = np.nan
    results = run(engine, replace(p, state=state))
    for name, value in results.items():
        assert value is None or np.isfinite(value).all(), name
    for s in p.spec.states:
        assert not results[f"d{s}0"][0, 1].any()
        assert results[f"d{s}0"][1, 1].any()


@EVERY_CELL
@pytest.mark.parametrize("seed", range(20))
def test_what_stands_at_unused_steps_has_no_effect(cell: str, seed: int) -> None:
    p = draw(seed, cell, T=6, B=4)
    if p.used().all():
        mask = np.random.default_rng(seed).random(p.used().shape) < 0.7
        p = with_options(p, mask=mask)
    nothing = ~p.used()
    x, dy, dgates = p.x.copy(), p.dy.copy(), None if p.dgates is None else p.dgates.copy()
    x[nothing] = -(2**40) if x.dtype.kind == "i" else -np.inf
    full = (None,) * p.spec.S
    dstates = [None if d is None else d.copy() for d in p.dstates or full]
    if not p.options.hold:
        dy[nothing] = np.inf
        for a in dstates:
            if a is not None:
                a[:, nothing] = 7
    if dgates is not None:
        dgates[:, nothing] = -3
    changed = replace(p, x=x, dy=dy, dgates=dgates, dstates=tuple(dstates))
    results = run(engine, p)
    assert_same(run(engine, changed), results)
    if results["dx"] is not None:
        assert not results["dx"][nothing].any()
    assert not results["gates"][:, nothing].any()


@EVERY_CELL
def test_nan_without_gradient_has_no_effect_on_gradients(cell: str) -> None:
    """In the state of a row without steps, and in steps of a burn-in that a reset ends."""
    p = build({"lengths"}, 6, cell, D=2)
    empty = p.options.lengths == 0
    state = tuple(np.where(empty[:, None], np.nan, s) for s in p.state)
    results, expected = run(engine, replace(p, state=state)), run(engine, p)
    for name in results:
        if name.endswith("_n"):
            assert np.isnan(results[name][:, empty]).all()
        elif results[name] is not None:
            np.testing.assert_array_equal(results[name], expected[name], err_msg=name)
    p = build({"reset", "burn_in", "dstates", "dgates"}, 6, cell)
    reset = p.options.reset.copy()
    reset[2] = True
    p = with_options(p, reset=reset, burn_in=2)
    x = p.x.copy()
    x[:2] = np.nan
    results, expected = run(engine, replace(p, x=x)), run(engine, p)
    for name in results:
        if name.startswith("d") and results[name] is not None:
            np.testing.assert_array_equal(results[name], expected[name], err_msg=name)


@EVERY_CELL
def test_dx_is_zero_at_unused_steps_whatever_the_weights(cell: str) -> None:
    p = build({"mask"}, 6, cell)
    W = p.params[0][0].copy()
    W[0, 0] = np.inf
    results = run(engine, replace(p, params=((W, *p.params[0][1:]),)))
    assert np.isnan(results["dx"]).any()
    assert not results["dx"][~p.options.mask].any()


@EVERY_CELL
@pytest.mark.parametrize("hold", [False, True])
def test_rows_of_no_steps(cell: str, hold: bool) -> None:
    p = build({"lengths", "reset", *(["hold"] if hold else [])}, 6, cell, D=2)
    empty = p.options.lengths == 0
    assert empty.any()
    results = run(engine, p)
    for k, s in enumerate(p.spec.states):
        np.testing.assert_array_equal(results[f"{s}_n"][:, empty], p.state[k][:, empty])
        dheld = p.dstate[k][:, empty]
        if hold and s == "h":
            dheld = dheld + p.dy.reshape(p.T, p.B, 2, p.H).sum(0).swapaxes(0, 1)[:, empty]
        np.testing.assert_allclose(results[f"d{s}0"][:, empty], dheld, rtol=0, atol=1e-14)
    assert not results["dx"][:, empty].any()
    if hold:
        held = p.state[0][:, empty].swapaxes(0, 1).reshape(-1, 2 * p.H)
        np.testing.assert_array_equal(results["y"][:, empty], np.stack([held] * p.T))
    else:
        assert not results["y"][:, empty].any()


@EVERY_CELL
def test_indices_are_one_hot_rows(cell: str) -> None:
    p = build({"indices", "lengths", "mask", "reset", "dstates", "dgates"}, 7, cell, D=2)
    used = p.used()
    hot = np.full((*p.x.shape, 3), np.nan)
    hot[used] = np.eye(3)[p.x[used]]
    dense = run(engine, replace(p, x=hot))
    indexed = run(engine, p)
    assert indexed["dx"] is None
    dense["dx"] = None
    assert_same(indexed, dense, 1e-12)


@EVERY_CELL
@pytest.mark.parametrize("seed", range(10))
def test_chunks_and_batches_continue_the_masks(cell: str, seed: int) -> None:
    features = {"recurrent_dropout", "zoneout", "training", "weight_drop", "rows", "dstates"}
    p = build(features | ({"per_step"} if seed % 2 else set()), seed, cell, T=8)
    order = np.array([2, 0, 3, 1])
    mixed = replace(
        p,
        x=p.x[:, order],
        state=None
        if p.state is None
        else tuple(None if s is None else s[:, order] for s in p.state),
        options=p.options._replace(row_ids=p.options.row_ids[order]),
    )
    y, state_n, _ = forward(p, tape=False)
    y_mixed, state_mixed, _ = forward(mixed, tape=False)
    np.testing.assert_allclose(y_mixed, y[:, order], rtol=0, atol=1e-13)
    parts, state = [], p.state
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        y_part, state, _ = forward(piece(p, start, stop, state, False), tape=False)
        parts.append(y_part)
    np.testing.assert_allclose(np.concatenate(parts), y, rtol=0, atol=1e-13)
    for a, b, c in zip(state, state_n, state_mixed, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
        np.testing.assert_allclose(c, b[:, order], rtol=0, atol=1e-13)


# Limits and expectations -------------------------------------------------------------------------


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


# The tape, prepared parameters, between layers ---------------------------------------------------


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
