"""The forms of input that layers with options take, and the steps that are not read."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import pytest
from layer_problems import (
    LENGTHS,
    B,
    H,
    I,
    T,
    both_ways,
    build,
    cells,
    draw,
    draw_dstates,
    draw_states,
    equal,
    marks,
    near,
    parts,
    some_steps,
    whole,
)
from problems import make
from processes import PEAK, PYTHON, environment, peak_is_told

import rnnfast
from rnnfast import States, _backend

compiled = pytest.mark.skipif(not _backend.compiled, reason='device="numpy" does pad')

# Forms -------------------------------------------------------------------------------------------


def turned(array: np.ndarray, axis: int = 0) -> np.ndarray:
    return np.ascontiguousarray(array.swapaxes(axis, axis + 1))


@cells
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("once", [False, True], ids=["each", "once"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
def test_batch_first_is_a_transposed_view_of_the_same(
    device: str, cell: str, L: int, once: bool, residual: bool
) -> None:
    options = {
        "num_layers": L,
        "bidirectional": True,
        "zoneout": 0.3,
        "recurrent_dropout": 0.2,
        "residual": residual,
    }
    layer, other = build(cell, device, **options), build(cell, device, batch_first=True, **options)
    x, state, given = draw(T, B, I), draw_states(layer, B, seed=4), some_steps(layer)
    if once:
        given["reset_state"] = draw_states(layer, 1, B, seed=20)
    given2 = given | {name: given[name].T for name in ("mask", "reset")}
    given2["reset_state"] = whole(turned(s, 1) for s in parts(given["reset_state"]))
    drawn = {"training": True, "seed": 5}
    y, last, tape = layer.forward(x, state, **drawn, **given)
    y2, last2, tape2 = other.forward(turned(x), state, **drawn, **given2)
    assert y2.flags.c_contiguous
    equal((y2.swapaxes(0, 1), last2), (y, last))
    states, states2 = tape.states(), tape2.states()
    equal(tuple(s if s is None else s.swapaxes(1, 2) for s in states2), tuple(states))
    dy, dlast, into = draw(*y.shape, seed=5), draw_states(layer, B, seed=6), draw_dstates(tape)
    into2 = States(*(None if s is None else turned(s, 1) for s in into))
    a = layer.backward(tape, dy, dlast, dstates=into)
    b = other.backward(tape2, turned(dy), dlast, dstates=into2)
    back = whole(s.swapaxes(1, 2) for s in parts(b.reset_state))
    equal(b._replace(x=b.x.swapaxes(0, 1), reset_state=back), a)
    y, last, states = layer(x, state, return_states=True, **given)
    y2, last2, states2 = other(turned(x), state, return_states=True, **given2)
    equal((y2.swapaxes(0, 1), last2), (y, last))
    equal(tuple(s if s is None else s.swapaxes(1, 2) for s in states2), tuple(states))


@cells
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("once", [False, True], ids=["each", "once"])
def test_unbatched_is_a_batch_of_one(device: str, cell: str, batch_first: bool, once: bool) -> None:
    options = {"num_layers": 2, "bidirectional": True, "recurrent_dropout": 0.2, "dropout": 0.3}
    layer, other = (
        build(cell, device, **options),
        build(cell, device, batch_first=batch_first, **options),
    )
    x, state = draw(T, I), draw_states(layer, seed=4)
    steps = 1 if once else T
    bare = {
        "mask": marks(0.7, 1)[:, 0],
        "reset": marks(0.5, 2)[:, 0],
        "reset_state": draw_states(layer, steps, seed=20),
        "pad_output": "hold",
    }
    given = bare | {name: bare[name][:, None] for name in ("mask", "reset")}
    given["reset_state"] = whole(s[:, :, None] for s in parts(bare["reset_state"]))
    drawn = {"training": True, "seed": 5, "row_ids": np.array([3])}
    lifted = whole(s[:, None] for s in parts(state))
    y, last, tape = layer.forward(x[:, None], lifted, **drawn, **given)
    y2, last2, tape2 = other.forward(x, state, **drawn, **bare)
    equal(y2, y[:, 0])
    equal(last2, whole(s[:, 0] for s in parts(last)))
    assert tape2.B == 1
    equal(tuple(tape2.states()), tuple(s if s is None else s[:, :, 0] for s in tape.states()))
    into = draw_dstates(tape)
    into2 = States(*(None if s is None else s[:, :, 0] for s in into))
    dy = draw(*y.shape, seed=5)
    a = layer.backward(tape, dy, lifted, dstates=into)
    b = other.backward(tape2, dy[:, 0], state, dstates=into2)
    equal(b.x, a.x[:, 0])
    equal(b.state, whole(s[:, 0] for s in parts(a.state)))
    equal(b.parameters, a.parameters)
    equal(b.reset_state, whole(s[:, :, 0] for s in parts(a.reset_state)))


@cells
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("kind", ["each", "once", "masked"])
def test_flat_input_is_padded_input_with_lengths(device: str, cell: str, L: int, kind: str) -> None:
    options = {
        "num_layers": L,
        "bidirectional": True,
        "zoneout": 0.3,
        "residual": True,
        "recurrent_dropout": 0.2,
        "recurrent_dropout_mode": "step",
        **({"dropout": 0.25} if L == 2 else {}),
    }
    layer = build(cell, device, **options)
    x, state, given = draw(T, B, I), draw_states(layer, B, seed=4), some_steps(layer)
    if kind == "once":
        given["reset_state"] = draw_states(layer, 1, B, seed=20)
    if kind != "masked":
        del given["mask"], given["pad_output"]
    inside = np.arange(T)[:, None] < LENGTHS

    def flat(array: np.ndarray, axis: int = 0) -> np.ndarray:
        rows = array.swapaxes(axis, axis + 1)
        lead = (slice(None),) * axis
        return rows[(*lead, inside.T)]

    ragged: dict[str, Any] = {"cu_seqlens": np.array([0, 6, 6, 9, 14])}
    ragged |= {n: flat(given[n]) for n in ("mask", "reset") if n in given}
    ragged["reset_state"] = given["reset_state"]
    if kind != "once":
        ragged["reset_state"] = whole(flat(s, 1) for s in parts(given["reset_state"]))
    else:
        assert parts(ragged["reset_state"])[0].shape == (2 * L, 1, B, H)
    if "pad_output" in given:
        ragged["pad_output"] = "hold"
    drawn = {"training": True, "seed": 5, "t0": 2, "row_ids": np.array([4, 5, 1, 0])}
    y, last, tape = layer.forward(x, state, **drawn, **given)
    y2, last2, tape2 = layer.forward(flat(x), state, **drawn, **ragged)
    near(y2, flat(y))
    near(last2, last)
    assert (tape2.T, tape2.B) == (T, B)
    near(tuple(tape2.states()), tuple(s if s is None else flat(s, 1) for s in tape.states()))
    dy, dlast = draw(*y.shape, seed=5) * inside[..., None], draw_states(layer, B, seed=6)
    into = draw_dstates(tape)
    outside = ~inside
    for s in into:
        if s is not None:
            s[:, outside] = 0
    into2 = States(*(None if s is None else flat(s, 1) for s in into))
    a = layer.backward(tape, dy, dlast, dstates=into)
    b = layer.backward(tape2, flat(dy), dlast, dstates=into2)
    near(b.x, flat(a.x))
    near(b.state, a.state)
    near(b.parameters, a.parameters)
    expected = a.reset_state
    if kind != "once":
        expected = whole(flat(s, 1) for s in parts(expected))
    near(b.reset_state, expected)
    near(layer(flat(x), state, **ragged)[0], flat(layer(x, state, **given)[0]))


@pytest.mark.parametrize("form", ["time first", "batch first", "unbatched", "flat", "one step"])
@pytest.mark.parametrize("once", [0, 1], ids=["h once", "c once"])
@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_one_replacement_of_one_state_and_each_of_the_other(
    device: str, D: int, once: int, form: str
) -> None:
    """Spelled out for every step it is the same, and its gradient the sum over them."""
    options = {"num_layers": 2, "bidirectional": D == 2, "batch_first": form == "batch first"}
    layer = build("lstm", device, **options)
    steps = {"one step": (1, B), "unbatched": (T,), "flat": (T * B,)}.get(form, (T, B))
    rows = () if form == "unbatched" else (B,)
    x, reset = draw(*steps, I), marks(0.5, 3).ravel()[: np.prod(steps)].reshape(steps)
    given: dict[str, Any] = {"reset": reset}
    if form == "flat":
        given["cu_seqlens"] = np.arange(B + 1) * T
    if form == "batch first":
        x, given["reset"] = turned(x), turned(reset)
    h, c = draw_states(layer, *steps, seed=20)
    short = [h, c]
    short[once] = draw_states(layer, 1, *rows, seed=21)[once]
    long = [h, c]
    if form == "flat":
        long[once] = np.repeat(short[once][:, 0], T, axis=1)
    else:
        long[once] = np.broadcast_to(short[once], long[once].shape).copy()

    def laid(states: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(turned(s, 1) if form == "batch first" else s for s in states)

    y, last, tape = layer.forward(x, reset_state=laid(short), **given)
    y2, last2, tape2 = layer.forward(x, reset_state=laid(long), **given)
    equal((y, last), (y2, last2))
    dy = draw(*y.shape, seed=5)
    a, b = layer.backward(tape, dy), layer.backward(tape2, dy)
    equal(a._replace(reset_state=None), b._replace(reset_state=None))
    equal(a.reset_state[1 - once], b.reset_state[1 - once])
    found, spelled = a.reset_state[once], b.reset_state[once]
    assert found.shape == laid(short)[once].shape
    if form == "flat":
        near(found[:, 0], spelled.reshape(len(spelled), B, T, H).sum(2))
    elif form == "batch first":
        near(found, spelled.sum(2, keepdims=True))
    else:
        near(found, spelled.sum(1, keepdims=True))


@cells
def test_flat_input_does_not_know_batch_first(device: str, cell: str) -> None:
    layer, other = build(cell, device), build(cell, device, batch_first=True)
    x, cu_seqlens, reset = draw(14, I), np.array([0, 6, 6, 9, 14]), marks(0.5, 3).ravel()[:14]
    given = {"cu_seqlens": cu_seqlens, "reset": reset}
    for shape in ((14,), (1, B)):
        given["reset_state"] = draw_states(layer, *shape, seed=20)
        equal(layer(x, **given), other(x, **given))


@cells
@pytest.mark.parametrize("lead", [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("L", [1, 2])
def test_zero_steps_and_zero_rows(device: str, cell: str, lead: tuple[int, int], L: int) -> None:
    options = {"zoneout": 0.3, "recurrent_dropout": 0.2, "weight_drop": 0.2, "residual": True}
    layer = build(cell, device, num_layers=L, bidirectional=True, **options)
    t, b = lead
    state = draw_states(layer, b, seed=4)
    given = {
        "lengths": np.zeros(b, int),
        "mask": np.ones(lead, bool),
        "reset": np.ones(lead, bool),
        "reset_state": draw_states(layer, t, b, seed=20),
        "pad_output": "hold",
    }
    flat = given | {"cu_seqlens": np.zeros(b + 1, int)}
    del flat["lengths"]
    flat |= {name: flat[name].reshape(-1)[:0] for name in ("mask", "reset")}
    flat["reset_state"] = draw_states(layer, 0, seed=20)
    for x, options in ((np.ones((t, b, I)), given), (np.ones((0, I)), flat)):
        y, last, tape = layer.forward(x, state, training=True, **options)
        assert y.shape == (*x.shape[:-1], 2 * H)
        equal(last, state)
        g = layer.backward(tape, y, state, dstates=draw_dstates(tape))
        assert g.x.shape == x.shape
        assert not any(p.any() for p in g.parameters.values())
        equal(
            tuple(s.shape for s in parts(g.reset_state)),
            tuple(s.shape for s in parts(options["reset_state"])),
        )


# What is not used is not read --------------------------------------------------------------------


@cells
@pytest.mark.parametrize("indices", [False, True], ids=["dense", "indices"])
@pytest.mark.parametrize("by", ["lengths", "mask", "both", "flat"])
def test_unused_steps_are_not_read(device: str, cell: str, indices: bool, by: str) -> None:
    layer = build(cell, device, num_layers=2, bidirectional=True)
    used, given = np.ones((T, B), bool), {}
    if by in ("lengths", "both"):
        given["lengths"] = LENGTHS
        used &= np.arange(T)[:, None] < LENGTHS
    if by in ("mask", "both", "flat"):
        given["mask"] = marks(0.6, 1)
        used &= given["mask"]
    x = np.random.default_rng(0).integers(0, I, (T, B)) if indices else draw(T, B, I)
    if by == "flat":
        x, used, given["mask"] = x.reshape(T * B, *x.shape[2:]), used.ravel(), used.ravel()
        given["cu_seqlens"] = np.array([0, 7, 7, 20, 24])
    spoiled = x.copy()
    spoiled[~used] = -7 if indices else np.nan
    y, last, tape = layer.forward(x, **given)
    y2, last2, tape2 = layer.forward(spoiled, **given)
    equal((y2, last2), (y, last))
    equal(layer(spoiled, **given), (y, last))
    assert not y[~used].any()
    dy = draw(*y.shape, seed=5)
    other = dy.copy()
    other[~used] = np.nan  # dy is ignored there too
    g = layer.backward(tape2, other)
    equal(g, layer.backward(tape, dy))
    if not indices:
        assert not g.x[~used].any()
    if indices:
        first = tuple(int(k) for k in np.argwhere(used)[0])
        spoiled[first] = 99
        with pytest.raises(rnnfast.IndexRangeError) as caught:
            layer(spoiled, **given)
        assert f"x holds the index 99 at {list(first)}, expected" in str(caught.value)


@cells
@both_ways
def test_a_function_skips_indices_of_unused_steps(device: str, cell: str, reverse: bool) -> None:
    p = make(cell, T, B, I, H, indices=True, reverse=reverse)
    x = p.x.copy()
    x[np.arange(T)[:, None] >= LENGTHS] = 1000
    spec = p.spec.options
    run = p.function()
    given = {"lengths": LENGTHS, "reverse": reverse, "device": device}
    equal(run(x, *p.row, *p.state, **spec, **given), run(p.x, *p.row, *p.state, **spec, **given))


RAGGED = """
import numpy as np
import rnnfast

rng = np.random.default_rng(0)
layer = rnnfast.GRU(4, 8, 2, dropout=0.3, seed=0, device="cpu")

def run(lengths):
    N = int(lengths.sum())
    x = rng.standard_normal((N, 4), dtype=np.float32)
    given = {"cu_seqlens": np.cumsum([0, *lengths]), "reset": rng.random(N) < 0.1}
    y, _, tape = layer.forward(x, training=True, seed=1, **given)
    layer.backward(tape, np.ones_like(y))

run(np.ones(10, int))
before = peak()
run(np.array([1] * 2000 + [50000]))
grown = peak() - before
assert grown < 64 << 20, f"rows of unequal length took {grown} bytes"
"""


@compiled
def test_no_padding_is_ever_built() -> None:
    """One row of 50,000 steps beside 2,000 of one: padded, a mask alone would take 100 MB."""
    peak_is_told()
    run = subprocess.run(
        [*PYTHON, "-c", PEAK + RAGGED], env=environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


# What is given as its default ---------------------------------------------------------------------

DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("lengths", "mask", "cu_seqlens", "reset", "reset_state")),
    "pad_output": "zero",
}


def test_defaults_in_so_many_words_are_the_plain_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost no more than looking at them: nothing is checked or built for them."""
    layer = rnnfast.LSTM(I, H, seed=0)
    x = draw(T, B, I).astype(np.float32)
    plain = layer.forward(x)
    gradients = layer.backward(plain[2], plain[0])

    def refuse(*_given: object) -> None:
        raise AssertionError("the road of options")

    monkeypatch.setattr(type(layer._stack), "forward_with", refuse)
    y, state, tape = layer.forward(x, training=True, burn_in=0, tbptt=None, **DEFAULTS)
    equal((y, state), plain[:2])
    equal(layer.backward(tape, y).parameters, gradients.parameters)
    equal(layer(x, **DEFAULTS), plain[:2])
    equal(layer.prepare()(x, **DEFAULTS), plain[:2])
    for call in (layer.forward, layer, layer.prepare()):
        with pytest.raises(AssertionError, match="the road of options"):
            call(x, **DEFAULTS | {"lengths": np.full(B, T)})


@pytest.mark.parametrize("given", [{"burn_in": 0}, {"tbptt": None}])
def test_a_default_of_what_is_no_option_here_is_refused(given: dict[str, Any]) -> None:
    """Only `forward` has a backward pass to cut."""
    layer = rnnfast.LSTM(I, H, seed=0)
    x = draw(T, B, I).astype(np.float32)
    row = [layer.parameters[name] for name in layer.parameters]
    layer.forward(x, **given)
    rnnfast.lstm_forward(x, *row, **given)
    for call in (layer, layer.prepare(), lambda x, **named: rnnfast.lstm(x, *row, **named)):
        with pytest.raises(TypeError, match=f"no option '{next(iter(given))}'"):
            call(x, **given)
