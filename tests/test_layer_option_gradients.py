"""Gradients of layers with options: by central differences, by cut sequences,
and into what replaces the state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layer_problems import (
    B,
    I,
    T,
    build,
    cells,
    draw,
    draw_dstates,
    draw_states,
    equal,
    letters,
    marks,
    near,
    parts,
    whole,
)
from stack_problems import draw_stack

import rnnfast


def slope(loss: Any, array: np.ndarray, direction: np.ndarray) -> float:
    original, values = array.copy(), []
    for sign in (1, -1):
        array[...] = original + sign * 1e-6 * direction
        values.append(loss())
    array[...] = original
    return (values[0] - values[1]) / 2e-6


def assert_slopes(layer: Any, arrays: dict[str, np.ndarray], given: dict[str, Any]) -> None:
    """Backward of a call gives the slope of a loss in x, every parameter and every state given."""
    rng = np.random.default_rng(12)
    options = {"training": True, "seed": 2, **given}
    starts = [array for name, array in arrays.items() if name.startswith("state")]

    def forward() -> Any:
        return layer.forward(arrays["x"], whole(starts) if starts else None, **options)

    y, last, tape = forward()
    dy, into = rng.standard_normal(y.shape), draw_dstates(tape)
    dlast = whole(rng.standard_normal(s.shape) for s in parts(last))

    def loss() -> float:
        y, last, tape = forward()
        ends = zip(parts(last), parts(dlast), strict=True)
        inner = zip(tape.states(), into, strict=True)
        pairs = [(y, dy), *ends, *((s, d) for s, d in inner if d is not None)]
        return sum(float((s * d).sum()) for s, d in pairs)

    g = layer.backward(tape, dy, dlast, dstates=into)
    found = {"x": g.x, **g.parameters}
    if given.get("reset_state") is None:
        assert g.reset_state is None
    else:
        for k, array in enumerate(parts(g.reset_state)):
            found[f"reset {k}"] = array
    for k, array in enumerate(parts(g.state) if starts else ()):
        found[f"state {k}"] = array
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        gradient = found[name]
        if array.dtype.kind == "i":
            assert gradient is None
            continue
        if isinstance(gradient, rnnfast.IndexedRows):
            gradient = gradient.dense()
        assert gradient.shape == array.shape
        direction = rng.standard_normal(array.shape)
        expected = slope(loss, array, direction)
        value = float((gradient * direction).sum())
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-6), name


@cells
@pytest.mark.parametrize("form", ["time first", "batch first", "flat", "unbatched"])
@pytest.mark.parametrize("reset_to", ["state", "one state", "learned"])
def test_gradients_are_central_differences(cell: str, form: str, reset_to: str) -> None:
    """Two layers, both directions, everything on."""
    settings: dict[str, Any] = {"zoneout": 0.2}
    if "c" in rnnfast.CELLS[cell].states:
        settings = {"zoneout": (0.2, 0.1), "cell_clip": 0.9}
    layer = build(
        cell,
        "numpy",
        num_layers=2,
        bidirectional=True,
        batch_first=form == "batch first",
        learn=True,
        dropout=0.2,
        residual=True,
        recurrent_dropout=0.25,
        recurrent_dropout_mode="step",
        weight_drop=0.2,
        **settings,
    )
    rng = np.random.default_rng(11)
    rows = 1 if form == "unbatched" else 3
    lead: tuple[int, ...] = {
        "time first": (T, rows),
        "batch first": (rows, T),
        "flat": (11,),
        "unbatched": (T,),
    }[form]
    once = {"time first": (1, rows), "batch first": (rows, 1), "flat": (1, rows), "unbatched": (1,)}
    given: dict[str, Any] = {
        "mask": rng.random(lead) < 0.8,
        "reset": rng.random(lead) < 0.3,
        "pad_output": "hold",
    }
    if form == "flat":
        given["cu_seqlens"] = np.array([0, 5, 5, 11])
    elif form != "unbatched":
        given["lengths"] = np.array([6, 4, 5])
    arrays: dict[str, np.ndarray] = {"x": rng.standard_normal((*lead, I)), **layer.parameters}
    if reset_to == "learned":
        given["reset_to"] = "learned"
    else:
        steps = lead if reset_to == "state" else once[form]
        given["reset_state"] = draw_states(layer, *steps, seed=20)
        for k, array in enumerate(parts(given["reset_state"])):
            arrays[f"reset {k}"] = array
    assert_slopes(layer, arrays, given)


@cells
@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"dropout": 0.4}, {}),
        ({"residual": True}, {}),
        ({"learn": True}, {}),
        ({"learn": True}, {"reset_to": "learned", "reset": marks(0.3, 3)[:, :3]}),
    ],
    ids=["dropout", "residual", "learned state", "reset to the learned state"],
)
def test_gradients_of_what_a_stack_adds(
    cell: str, options: dict[str, Any], given: dict[str, Any]
) -> None:
    """Each alone."""
    layer = build(cell, "numpy", num_layers=2, **options)
    assert_slopes(layer, {"x": draw(T, 3, I), **layer.parameters}, given)


@pytest.mark.parametrize("seed", range(60))
def test_gradients_of_random_stacks(seed: int) -> None:
    """Two layers, one or both directions, and any options under which backward is a gradient."""
    cell, settings, given, drawn = draw_stack(1000 + seed, T=1 + seed % 5, H=5, L=2)
    for options in (settings, given):
        for name in ("clip_state_gradient", "burn_in", "tbptt"):
            options.pop(name, None)
    spec = rnnfast.CELLS[cell]
    kind = getattr(rnnfast, spec.function.upper())
    layer = kind(**spec.options, **settings, device="numpy", dtype="float64")
    for name in layer.parameters:
        if name in ("h_0", "c_0"):
            layer.parameters[name][...] = drawn["learned"]
    x = drawn["x"]
    arrays = {"x": x if x.dtype.kind == "i" else x.astype(float), **layer.parameters}
    if drawn["state"] is not None:
        for k, array in enumerate(parts(drawn["state"])):
            arrays[f"state {k}"] = array.astype(float)
    if "reset_state" in given:
        given["reset_state"] = whole(a.astype(float) for a in parts(given["reset_state"]))
        for k, array in enumerate(parts(given["reset_state"])):
            arrays[f"reset {k}"] = array
    assert_slopes(layer, arrays, given)


@pytest.mark.parametrize("given", [False, True], ids=["omitted", "given"])
@cells
def test_a_learned_reset_is_the_learned_state_in_every_row(
    device: str, cell: str, given: bool
) -> None:
    layer = build(cell, device, num_layers=2, bidirectional=True, learn=True)
    x, reset = draw(T, B, I), marks(0.4, 3)
    state = draw_states(layer, B, seed=4) if given else None
    learned = [layer.parameters[f"{letter}_0"] for letter in letters(layer)]
    by_state = whole(np.repeat(p[:, None, None], B, 2) for p in learned)
    y, last, tape = layer.forward(x, state, reset=reset, reset_to="learned")
    y2, last2, tape2 = layer.forward(x, state, reset=reset, reset_state=by_state)
    equal((y, last), (y2, last2))
    equal(layer(x, state, reset=reset, reset_to="learned"), (y, last))
    dy = draw(*y.shape, seed=5)
    a, b = layer.backward(tape, dy), layer.backward(tape2, dy)
    equal(a.state, b.state)
    assert a.reset_state is None
    for k, letter in enumerate(letters(layer)):
        expected = parts(b.reset_state)[k].sum((1, 2))
        if not given:
            expected = parts(b.state)[k].sum(1) + expected
        near(a.parameters[f"{letter}_0"], expected)
    # Without a reset there is nothing to replace.
    equal(layer(x, state, reset_to="learned"), layer(x, state))


@cells
def test_a_reset_cuts_the_sequence(device: str, cell: str) -> None:
    """Value and gradient are those of two calls; reset[0] discards the initial state."""
    layer = build(cell, device, num_layers=2)
    x, state = draw(T, B, I), draw_states(layer, B, seed=4)
    anew = draw_states(layer, 1, B, seed=20)
    reset = np.zeros((T, B), bool)
    reset[[0, 4]] = True
    y, last, tape = layer.forward(x, state, reset=reset, reset_state=anew)
    start = whole(s[:, 0] for s in parts(anew))
    a, _, tape_a = layer.forward(x[:4], start)
    b, last_b, tape_b = layer.forward(x[4:], start)
    near(y, np.concatenate([a, b]))
    near(last, last_b)
    dy, dlast = draw(*y.shape, seed=5), draw_states(layer, B, seed=6)
    g = layer.backward(tape, dy, dlast)
    ga, gb = layer.backward(tape_a, dy[:4]), layer.backward(tape_b, dy[4:], dlast)
    near(g.x, np.concatenate([ga.x, gb.x]))
    near(g.parameters, {n: ga.parameters[n] + gb.parameters[n] for n in g.parameters})
    for k, replaced in enumerate(parts(g.reset_state)):
        near(replaced[:, 0], parts(ga.state)[k] + parts(gb.state)[k])
        assert not parts(g.state)[k].any()


@cells
def test_truncation_is_calls_with_carried_state(device: str, cell: str) -> None:
    alike = equal if device == "cpu" else near  # NumPy's product of other shapes has another order
    layer = build(cell, device, num_layers=2, dropout=0.3, residual=True, zoneout=0.2)
    x, state = draw(7, B, I), draw_states(layer, B, seed=4)
    drawn = {"training": True, "seed": 3}
    y, last, tape = layer.forward(x, state, tbptt=3, **drawn)
    dy, dlast = draw(*y.shape, seed=5), draw_states(layer, B, seed=6)
    g = layer.backward(tape, dy, dlast)
    carried, pieces = state, []
    for start in (0, 3, 6):
        piece, carried, part = layer.forward(x[start : start + 3], carried, t0=start, **drawn)
        alike(piece, y[start : start + 3])
        end = dlast if start == 6 else None
        pieces.append(layer.backward(part, dy[start : start + 3], end))
    alike(carried, last)
    alike(g.x, np.concatenate([piece.x for piece in pieces]))
    alike(g.state, pieces[0].state)
    near(
        g.parameters,
        {name: sum(piece.parameters[name] for piece in pieces) for name in g.parameters},
    )


@cells
@pytest.mark.parametrize("k", [0, 2, 7, 9])
def test_burn_in_is_a_call_without_gradient(device: str, cell: str, k: int) -> None:
    layer = build(cell, device, num_layers=2, residual=True)
    x, state = draw(7, B, I), draw_states(layer, B, seed=4)
    y, last, tape = layer.forward(x, state, burn_in=k)
    equal((y, last), layer(x, state))
    dy, dlast = draw(*y.shape, seed=5), draw_states(layer, B, seed=6)
    g = layer.backward(tape, dy, dlast)
    if k >= 7:
        assert not g.x.any()
        assert not any(s.any() for s in parts(g.state))
        assert not any(p.any() for p in g.parameters.values())
        return
    carried = layer(x[:k], state)[1]
    _, _, part = layer.forward(x[k:], carried)
    expected = layer.backward(part, dy[k:], dlast)
    # All of it is one chunk of the sums over steps, so parameters have the same bits too.
    alike = equal if device == "cpu" else near
    alike(g.x, np.concatenate([np.zeros((k, B, I)), expected.x]))
    alike(g.parameters, expected.parameters)
    alike(g.state, expected.state if k == 0 else whole(np.zeros_like(s) for s in parts(g.state)))
