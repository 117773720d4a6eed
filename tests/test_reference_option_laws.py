"""What the reference's options equal: a plain call, runs of single rows, a cut by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from option_problems import OptionProblem, build, draw, run
from option_reference import EVERY_CELL, assert_same, forward, piece, with_options

from rnnfast._scan_options import ScanOptions
from rnnfast.reference import engine


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
