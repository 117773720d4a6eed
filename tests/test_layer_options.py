"""The options of layers and functions on every back end: a layer against its functions put together
by hand, forms of input, gradients, and what changes between calls."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from problems import CELL_NAMES, make

import rnnfast
from rnnfast import States, _random
from rnnfast._scan_options import ScanOptions
from rnnfast.reference import engine

cells = pytest.mark.parametrize("cell", CELL_NAMES)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forth", "back"])
T, B, I, H = 6, 4, 3, 5
LENGTHS = np.array([6, 0, 3, 5])


def build(cell: str, device: str, *, learn: bool = False, **options: Any) -> Any:
    spec = rnnfast.CELLS[cell]
    kind = getattr(rnnfast, spec.function.upper())
    if learn:
        options["initial_state"] = "learned"
    layer = kind(I, H, **spec.options, dtype="float64", seed=3, device=device, **options)
    for name in ("h_0", "c_0"):
        if name in layer.parameters:
            layer.parameters[name][...] = draw(*layer.parameters[name].shape, seed=8)
    return layer


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def whole(entries: Any) -> Any:
    entries = tuple(entries)
    return entries[0] if len(entries) == 1 else entries


def letters(layer: Any) -> tuple[str, ...]:
    return rnnfast.CELLS[layer.cell].states


def sizes(layer: Any) -> tuple[int, int]:
    return layer.num_layers, 2 if layer.bidirectional else 1


def draw_states(layer: Any, *lead: int, seed: int) -> Any:
    """In the form of a state: D*L, then `lead`, then H."""
    L, D = sizes(layer)
    return whole(draw(D * L, *lead, H, seed=seed + k) for k, _ in enumerate(letters(layer)))


def draw_dstates(tape: Any, seed: int = 40) -> States:
    states = tape.states()
    return States(
        *(None if s is None else draw(*s.shape, seed=seed + k) for k, s in enumerate(states))
    )


def marks(p: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((T, B)) < p


def some_steps(layer: Any) -> dict[str, Any]:
    """Every option that selects steps, at once."""
    return {
        "lengths": LENGTHS,
        "mask": marks(0.7, 1),
        "reset": marks(0.3, 2),
        "reset_state": draw_states(layer, T, B, seed=20),
        "pad_output": "hold",
    }


def equal(a: Any, b: Any) -> None:
    """Bit for bit, whatever is nested in what."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = tuple(a.values()), tuple(b.values())
    if isinstance(a, tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            equal(left, right)
    elif isinstance(a, rnnfast.IndexedRows):
        np.testing.assert_array_equal(a.dense(), b.dense(), strict=True)
    elif a is None or b is None:
        assert a is b
    else:
        np.testing.assert_array_equal(a, b, strict=True)


def near(a: Any, b: Any, name: str = "") -> None:
    """As `equal`, for sums in another order."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key, value in a.items():
            near(value, b[key], key)
    elif isinstance(a, tuple):
        for left, right in zip(a, b, strict=True):
            near(left, right, name)
    elif a is None or b is None:
        assert a is b, name
    else:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=name, strict=True)


# A layer is its functions ------------------------------------------------------------------------


class ByHand:
    """A layer put together from the functions, one layer and direction at a time."""

    def __init__(
        self,
        layer: Any,
        x: np.ndarray,
        state: Any,
        scan: dict[str, Any],
        p: float = 0,
        seed: int = 0,
    ) -> None:
        self.layer, self.seed, self.p, self.scan = layer, seed, p, scan
        self.spec = rnnfast.CELLS[layer.cell]
        self.tapes, self.y = [], x
        finals: list[list[np.ndarray]] = [[] for _ in self.spec.states]
        for k in range(layer.num_layers):
            read, sides = self.y, []
            for d in range(self.D):
                y, last, tape = self.run(k, d, read, state)
                sides.append(y)
                self.tapes.append(tape)
                for entries, value in zip(finals, parts(last), strict=True):
                    entries.append(value)
            self.y = np.concatenate(sides, -1) * self.mask(k)
            if layer.residual and k > 0:
                self.y = self.y + read
        self.last = whole(np.stack(entries) for entries in finals)

    @property
    def D(self) -> int:
        return sizes(self.layer)[1]

    def run(self, k: int, d: int, read: np.ndarray, state: Any) -> Any:
        place = k * self.D + d
        suffix = f"_l{k}" + ("_reverse" if d else "")
        stems = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        row = [self.layer.parameters[stem + suffix] for stem in stems]
        given = dict(self.scan)
        if "reset_state" in given:
            given["reset_state"] = whole(s[place] for s in parts(given["reset_state"]))
        function = getattr(rnnfast, self.spec.function + "_forward")
        start = [s[place] for s in parts(state)]
        return function(
            read,
            *row,
            *start,
            **self.spec.options,
            reverse=d == 1,
            device=self.layer.device,
            **given,
        )

    def mask(self, k: int) -> Any:
        if self.p == 0 or k == self.layer.num_layers - 1:
            return 1.0
        steps, rows = np.arange(T)[:, None], np.arange(B)
        return _random.between_layers(
            self.p, self.seed, k, steps, rows, H, self.D, self.layer.dtype
        )

    def backward(self, dy: np.ndarray, dstate: Any, dstates: States) -> dict[str, Any]:
        gradients: dict[str, Any] = {}
        function = getattr(rnnfast, self.spec.function + "_backward")
        places = len(self.tapes)
        first: list[Any] = [None] * places
        replaced: list[Any] = [None] * places
        for k in reversed(range(self.layer.num_layers)):
            dout, dy = dy, dy * self.mask(k)
            dx = 0.0
            for d in range(self.D):
                place = k * self.D + d
                into = States(*(None if s is None else s[place] for s in dstates))
                last = [s[place] for s in parts(dstate)]
                side = dy[..., d * H : (d + 1) * H]
                g = function(self.tapes[place], side, *last, dstates=into)
                dx = dx + g.dx
                suffix = f"_l{k}" + ("_reverse" if d else "")
                gradients.update(
                    {
                        f"weight_ih{suffix}": g.dW,
                        f"weight_hh{suffix}": g.dR,
                        f"bias_ih{suffix}": g.dbW,
                        f"bias_hh{suffix}": g.dbR,
                    }
                )
                first[place] = (g.dh0, g.dc0)
                replaced[place] = parts(g.reset_state)
            dy = dx + dout if self.layer.residual and k > 0 else dx
        gradients["x"] = dy
        for s, letter in enumerate(self.spec.states):
            gradients[f"d{letter}0"] = np.stack([entry[s] for entry in first])
            gradients[f"reset {letter}"] = (
                np.stack([entry[s] for entry in replaced]) if "reset_state" in self.scan else None
            )
        return gradients

    def states(self) -> States:
        each = [tape.states() for tape in self.tapes]
        return States(*(None if s[0] is None else np.stack(s) for s in zip(*each, strict=True)))


@cells
@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
def test_a_layer_is_its_functions(device: str, cell: str, L: int, bidirectional: bool) -> None:
    """With every option that draws nothing inside the scan, and dropout and residual between."""
    settings: dict[str, Any] = {"zoneout": 0.2, "clip_state_gradient": 0.5}
    if "c" in rnnfast.CELLS[cell].states:
        settings |= {"cell_clip": 0.4, "zoneout": (0.2, 0.1)}
    between = {"dropout": 0.25, "residual": True} if L > 1 else {}
    layer = build(cell, device, num_layers=L, bidirectional=bidirectional, **between, **settings)
    x, state, given = draw(T, B, I), draw_states(layer, B, seed=4), some_steps(layer)
    # Zoneout would be drawn while training, with the number of the layer.
    layer.zoneout = 0.0
    del settings["zoneout"]
    hand = ByHand(layer, x, state, settings | given, layer.dropout, 9)
    y, last, tape = layer.forward(x, state, training=True, seed=9, **given)
    equal(y, hand.y)
    equal(last, hand.last)
    equal(tape.states(), hand.states())
    dy, dlast, into = draw(*y.shape, seed=5), draw_states(layer, B, seed=6), draw_dstates(tape)
    g = layer.backward(tape, dy, dlast, dstates=into)
    found = {"x": g.x, **g.parameters}
    for k, letter in enumerate(letters(layer)):
        found[f"d{letter}0"], found[f"reset {letter}"] = parts(g.state)[k], parts(g.reset_state)[k]
    near(found, hand.backward(dy, dlast, into))
    equal(layer.backward(tape, dy, dlast, dstates=into), g)


@cells
@pytest.mark.parametrize("options", ["none", "steps"])
def test_a_plain_layer_with_the_options_of_a_call(device: str, cell: str, options: str) -> None:
    """Gradients into states and of replacements, which the quick road may not take."""
    layer = build(cell, device, bidirectional=True)
    x, state = draw(T, B, I), draw_states(layer, B, seed=4)
    given = some_steps(layer) if options == "steps" else {}
    hand = ByHand(layer, x, state, given)
    y, last, tape = layer.forward(x, state, **given)
    equal((y, last), (hand.y, hand.last))
    dy, dlast = draw(*y.shape, seed=5), draw_states(layer, B, seed=6)
    for into in (States(), draw_dstates(tape)):
        g = layer.backward(tape, dy, dlast, dstates=into if into.h is not None else None)
        found = {"x": g.x, **g.parameters}
        for k, letter in enumerate(letters(layer)):
            found[f"d{letter}0"] = parts(g.state)[k]
            found[f"reset {letter}"] = parts(g.reset_state)[k] if given else None
        near(found, hand.backward(dy, dlast, into))


def test_gradients_of_nothing_have_the_form_of_x(device: str) -> None:
    layer = build("gru", device)
    ends = np.array([0, 2, T])
    for options in ({}, {"mask": np.ones(T, bool)}, {"cu_seqlens": ends}):
        x = draw(T, I)
        _, _, tape = layer.forward(x, **options)
        assert layer.backward(tape).x.shape == x.shape


@cells
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_random_masks_are_those_of_the_functions(device: str, cell: str, training: bool) -> None:
    """To the bit: a function that runs in reverse draws what a second direction draws."""
    settings = {
        "recurrent_dropout": 0.3,
        "recurrent_dropout_mode": "step",
        "zoneout": 0.2,
        "weight_drop": 0.4,
    }
    layer = build(cell, device, bidirectional=True, **settings)
    x, state, given = draw(T, B, I), draw_states(layer, B, seed=4), some_steps(layer)
    drawn = {"seed": 7, "t0": 3, "row_ids": np.array([5, 2, 9, 0]), "training": training}
    hand = ByHand(layer, x, state, settings | given | drawn)
    y, last, tape = layer.forward(x, state, **drawn, **given)
    equal(y, hand.y)
    equal(last, hand.last)
    assert tape.seed == hand.tapes[0].seed == (7 if training else None)
    plain = build(cell, device, bidirectional=True)
    assert not np.array_equal(plain(x, state, **given)[0], y)
    if not training:
        equal(layer(x, state, **given), (y, last))
        equal(layer.prepare()(x, state, **given), (y, last))


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm"])
def test_layers_of_a_stack_have_masks_of_their_own(device: str, cell: str) -> None:
    """In these cells h goes through R alone, so masking it is masking h0."""
    layer = build(cell, device, num_layers=2, recurrent_dropout=0.5)
    x, state = draw(1, B, I), draw_states(layer, B, seed=4)
    y, _, tape = layer.forward(x, state, training=True, seed=1)
    lower = tape.states().h[0]
    upper = [s[1] for s in parts(state)]
    mask = _random.recurrent_dropout(0.5, 1, 1, 0, 0, np.arange(B), H, layer.dtype)
    stems = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    row = [layer.parameters[f"{stem}_l1"] for stem in stems]
    spec = rnnfast.CELLS[cell]
    function = getattr(rnnfast, spec.function)
    upper[0] = upper[0] * mask
    near(y, function(lower, *row, *upper, **spec.options, device=device)[0])


# Gradients ---------------------------------------------------------------------------------------


def slope(loss: Any, array: np.ndarray, direction: np.ndarray) -> float:
    original, values = array.copy(), []
    for sign in (1, -1):
        array[...] = original + sign * 1e-6 * direction
        values.append(loss())
    array[...] = original
    return (values[0] - values[1]) / 2e-6


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

    def forward() -> Any:
        return layer.forward(arrays["x"], training=True, seed=2, **given)

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
    if reset_to == "learned":
        assert g.reset_state is None
    else:
        for k, array in enumerate(parts(g.reset_state)):
            found[f"reset {k}"] = array
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        direction = rng.standard_normal(array.shape)
        expected = slope(loss, array, direction)
        value = float((found[name] * direction).sum())
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-6), name


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
    layer = build(cell, device, num_layers=2, dropout=0.3, residual=True, zoneout=0.2)
    x, state = draw(7, B, I), draw_states(layer, B, seed=4)
    drawn = {"training": True, "seed": 3}
    y, last, tape = layer.forward(x, state, tbptt=3, **drawn)
    dy, dlast = draw(*y.shape, seed=5), draw_states(layer, B, seed=6)
    g = layer.backward(tape, dy, dlast)
    carried, pieces = state, []
    for start in (0, 3, 6):
        piece, carried, part = layer.forward(x[start : start + 3], carried, t0=start, **drawn)
        near(piece, y[start : start + 3])
        end = dlast if start == 6 else None
        pieces.append(layer.backward(part, dy[start : start + 3], end))
    near(carried, last)
    near(g.x, np.concatenate([piece.x for piece in pieces]))
    near(g.state, pieces[0].state)
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
    near(g.x, np.concatenate([np.zeros((k, B, I)), expected.x]))
    near(g.parameters, expected.parameters)
    near(g.state, expected.state if k == 0 else whole(np.zeros_like(s) for s in parts(g.state)))


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


# Functions ---------------------------------------------------------------------------------------


@cells
@both_ways
def test_lengths_are_shorter_sequences(device: str, cell: str, reverse: bool) -> None:
    p = make(cell, T, B, I, H, reverse=reverse)
    y, last, tape = p.forward(device=device, lengths=LENGTHS)
    g = p.function("_backward")(tape, p.dy, *p.dstate)
    states = tape.states()
    for b, n in enumerate(LENGTHS):
        row = (slice(0, n), slice(b, b + 1))
        start = [s[b : b + 1] for s in p.state]
        y2, last2, tape2 = p.function("_forward")(
            p.x[row], *p.row, *start, **p.spec.options, reverse=reverse, device=device
        )
        near(y[row], y2)
        assert not y[n:, b].any()
        g2 = p.function("_backward")(tape2, p.dy[row], *(d[b : b + 1] for d in p.dstate))
        near(g.dx[row], g2.dx)
        near(g.dh0[b : b + 1], g2.dh0)
        for k, s in enumerate(parts(last2)):
            near(last[k][b : b + 1], s)
        for s, s2 in zip(states, tape2.states(), strict=True):
            near(None if s is None else s[row], s2)


@cells
@both_ways
def test_a_reset_on_either_side(device: str, cell: str, reverse: bool) -> None:
    """In the reverse direction reset[t] acts on what enters step t-1, and reset[0] on nothing."""
    p = make(cell, T, B, I, H, reverse=reverse)
    reset = np.zeros((T, B), bool)
    reset[[0, 2]] = True
    y, _, tape = p.forward(device=device, reset=reset)
    zero = [np.zeros_like(s) for s in p.state]
    starts = (zero, zero) if not reverse else (zero, p.state)
    run = p.function("_forward")
    g = p.function("_backward")(tape, p.dy)
    for part, start in zip((slice(0, 2), slice(2, T)), starts, strict=True):
        y2, _, tape2 = run(
            p.x[part], *p.row, *start, **p.spec.options, reverse=reverse, device=device
        )
        near(y[part], y2)
        near(g.dx[part], p.function("_backward")(tape2, p.dy[part]).dx)
    assert g.dh0.any() == reverse


@cells
@both_ways
def test_states_and_gates_of_a_plain_call(device: str, cell: str, reverse: bool) -> None:
    """No option given: the tape has them all the same, in the order of x."""
    p = make(cell, T, B, I, H, reverse=reverse)
    y, last, tape = p.forward(device=device)
    h, c, gates = tape.states()
    equal(h, y)
    end = 0 if reverse else -1
    assert gates.shape == (T, B, p.spec.G, H)
    if cell == "lstm":
        near(last[1], c[end])
        near(h, gates[:, :, 3] * np.tanh(c))
        before = np.concatenate(
            [c[1:], p.state[1][None]] if reverse else [p.state[1][None], c[:-1]]
        )
        near(c, gates[:, :, 1] * before + gates[:, :, 0] * gates[:, :, 2])
    else:
        assert c is None
    if cell == "gru":
        before = np.concatenate(
            [h[1:], p.state[0][None]] if reverse else [p.state[0][None], h[:-1]]
        )
        near(h, (1 - gates[:, :, 1]) * gates[:, :, 2] + gates[:, :, 1] * before)
    if cell.startswith("rnn"):
        equal(gates[:, :, 0], h)
    backward = p.function("_backward")
    near(backward(tape, None, dstates=States(h=p.dy))._asdict(), backward(tape, p.dy)._asdict())
    equal(backward(tape, p.dy, dstates=States()), backward(tape, p.dy))
    for name in ("h", "c", "gates"):
        s = getattr(tape.states(), name)
        if s is not None:
            assert not np.shares_memory(s, y)
            d = draw(*s.shape, seed=3)
            g = backward(tape, dstates=States(**{name: d}))
            direction = draw(T, B, I, seed=4)

            def value(moved: np.ndarray, name: str = name, d: np.ndarray = d) -> float:
                _, _, tape = p.function("_forward")(
                    moved, *p.row, *p.state, **p.spec.options, reverse=reverse, device=device
                )
                return float((getattr(tape.states(), name) * d).sum())

            expected = (value(p.x + 1e-6 * direction) - value(p.x - 1e-6 * direction)) / 2e-6
            assert float((g.dx * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@cells
@both_ways
def test_a_function_on_flat_input(device: str, cell: str, reverse: bool) -> None:
    p = make(cell, T, B, I, H, reverse=reverse)
    inside = (np.arange(T)[:, None] < LENGTHS).T
    cu_seqlens = np.array([0, 6, 6, 9, 14])
    x = p.x.swapaxes(0, 1)[inside]
    out = np.empty((14, H))
    anew = whole(draw(14, H, seed=20 + k) for k, _ in enumerate(p.spec.states))
    padded = []
    for s in parts(anew):
        room = np.zeros((B, T, H))
        room[inside] = s
        padded.append(room.swapaxes(0, 1))
    reset = marks(0.4, 3)
    given = {"reset": reset.T[inside], "reset_state": anew, "cu_seqlens": cu_seqlens}
    args = (*p.row, *p.state)
    options = {**p.spec.options, "reverse": reverse, "device": device}
    y, last, tape = p.function("_forward")(x, *args, out=out, **options, **given)
    assert y is out
    y2, last2, tape2 = p.function("_forward")(
        p.x, *args, **options, lengths=LENGTHS, reset=reset, reset_state=whole(padded)
    )
    near(y, y2.swapaxes(0, 1)[inside])
    near(last, last2)
    dy = p.dy.swapaxes(0, 1)[inside]
    g = p.function("_backward")(tape, dy, *p.dstate)
    g2 = p.function("_backward")(tape2, p.dy, *p.dstate)
    near(g.dx, g2.dx.swapaxes(0, 1)[inside])
    near(g.dR, g2.dR)
    near(g.reset_state, whole(s.swapaxes(0, 1)[inside] for s in parts(g2.reset_state)))
    once = whole(s[None, :B] for s in parts(anew))
    given["reset_state"] = once
    _, _, tape = p.function("_forward")(x, *args, **options, **given)
    shapes = [s.shape for s in parts(p.function("_backward")(tape, dy).reset_state)]
    assert shapes == [(1, B, H)] * p.spec.S


@cells
def test_training_is_what_functions_do_unless_told(device: str, cell: str) -> None:
    p = make(cell, T, B, I, H)
    plain = p.forward(device=device)[0]
    for name in ("recurrent_dropout", "zoneout", "weight_drop"):
        drawn, _, tape = p.forward(device=device, **{name: 0.5})
        assert tape.seed is not None
        again, _, tape2 = p.forward(device=device, **{name: 0.5}, seed=tape.seed)
        equal(again, drawn)
        assert tape2.seed == tape.seed
        assert not np.array_equal(drawn, plain)
        off, _, tape = p.forward(device=device, **{name: 0.5}, training=False)
        assert tape.seed is None
        assert np.array_equal(off, plain) == (name != "zoneout")
        backward = p.function("_backward")
        equal(backward(tape2, p.dy), backward(tape2, p.dy))


@cells
@both_ways
def test_nothing_is_the_plain_call_to_the_bit(device: str, cell: str, reverse: bool) -> None:
    p = make(cell, T, B, I, H, reverse=reverse)
    nothing = {
        "lengths": None,
        "mask": None,
        "cu_seqlens": None,
        "reset": None,
        "reset_state": None,
        "pad_output": "zero",
        "recurrent_dropout": 0,
        "recurrent_dropout_mode": "step",
        "zoneout": 0.0,
        "weight_drop": 0.0,
        "cell_clip": None,
        "clip_state_gradient": None,
        "burn_in": 0,
        "tbptt": None,
        "training": True,
        "seed": 1,
    }
    plain = p.run(device=device)
    found = p.run(device=device, **nothing)
    equal(found, plain)
    layer = build(cell, device, num_layers=2)
    x = draw(T, B, I)
    mine = ("lengths", "mask", "cu_seqlens", "reset", "reset_state", "pad_output")
    given = {name: nothing[name] for name in mine}
    equal(layer(x, **given, reset_to="zero"), layer(x))
    equal(layer.prepare()(x, **given), layer(x))
    equal(layer.forward(x, **given, burn_in=0, tbptt=None)[:2], layer(x))


# Between layers ----------------------------------------------------------------------------------


def test_residual_begins_with_the_second_layer(device: str) -> None:
    layer = build("gru", device, num_layers=3, residual=True)
    plain = build("gru", device, num_layers=3)
    x = draw(T, B, I)
    y, _, states = layer(x, return_states=True)
    equal(states.h[0], plain(x, return_states=True)[2].h[0])
    near(y, states.h[0] + states.h[1] + states.h[2])
    layer.residual = False
    equal(layer(x), plain(x))
    one = build("gru", device, residual=True)
    equal(one(x), build("gru", device)(x))


def test_a_tape_keeps_the_options_of_its_call(device: str) -> None:
    layer = build("lstm", device, num_layers=2, dropout=0.3, residual=True, zoneout=0.2)
    x, given = draw(T, B, I), some_steps(layer)
    drawn = {"training": True, "seed": 6, "row_ids": np.array([4, 2, 0, 9])}
    y, _, tape = layer.forward(x, **drawn, **given)
    dy = draw(*y.shape, seed=5)
    g = layer.backward(tape, dy)
    layer.dropout, layer.residual, layer.zoneout = 0.0, False, 0.0
    for array in (given["mask"], given["reset"]):
        array[...] = ~array
    drawn["row_ids"] += 1
    given["lengths"] = LENGTHS.copy()
    for array in given["reset_state"]:
        array += 1
    equal(layer.backward(tape, dy), g)


def test_a_tape_keeps_lengths_and_ends(device: str) -> None:
    layer = build("gru", device, num_layers=2, dropout=0.3)
    lengths, ends = LENGTHS.copy(), np.array([0, 6, 6, 9, 14])
    y, _, tape = layer.forward(draw(T, B, I), training=True, seed=1, lengths=lengths)
    y2, _, tape2 = layer.forward(draw(14, I), training=True, seed=1, cu_seqlens=ends)
    g, g2 = layer.backward(tape, y), layer.backward(tape2, y2)
    lengths[...] = 1
    ends[...] = 0
    equal(layer.backward(tape, y), g)
    equal(layer.backward(tape2, y2), g2)


def test_one_of_two_replacements_may_be_omitted(device: str) -> None:
    layer = build("lstm", device, num_layers=2)
    x, reset, (h, c) = draw(T, B, I), marks(0.4, 3), draw_states(layer, 1, B, seed=20)
    y, last, tape = layer.forward(x, reset=reset, reset_state=(None, c))
    equal((y, last), layer(x, reset=reset, reset_state=(np.zeros_like(h), c)))
    g = layer.backward(tape, y)
    assert g.reset_state[0] is None
    assert g.reset_state[1].shape == c.shape


def test_masks_do_not_depend_on_chunks_or_batch(device: str) -> None:
    settings = {"recurrent_dropout": 0.4, "zoneout": 0.3, "weight_drop": 0.2, "dropout": 0.3}
    layer = build("lstm", device, num_layers=2, **settings)
    x, drawn = draw(8, B, I), {"training": True, "seed": 4}
    y, _, _ = layer.forward(x, **drawn)
    a, state, _ = layer.forward(x[:5], **drawn)
    b, _, _ = layer.forward(x[5:], state, t0=5, **drawn)
    near(np.concatenate([a, b]), y)
    row, _, _ = layer.forward(x[:, 2:3], row_ids=np.array([2], np.uint8), **drawn)
    near(row, y[:, 2:3])
    other, _, _ = layer.forward(x[:, 2:3], row_ids=np.array([3]), **drawn)
    assert not np.array_equal(other, row)


# The object --------------------------------------------------------------------------------------

EVERYTHING = {
    "num_layers": 2,
    "dropout": 0.5,
    "recurrent_dropout": 0.25,
    "recurrent_dropout_mode": "step",
    "zoneout": (0.1, 0.2),
    "weight_drop": 0.3,
    "residual": True,
    "cell_clip": 3.0,
    "clip_state_gradient": 1.5,
}


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_copies_have_the_options(device: str, copied: Any) -> None:
    layer = build("lstm", device, **EVERYTHING)
    layer.zoneout = 0.125
    twin = copied(layer)
    assert repr(twin) == repr(layer)
    x, drawn = draw(T, B, I), {"training": True, "seed": 1}
    y, last, tape = layer.forward(x, **drawn)
    y2, last2, tape2 = twin.forward(x, **drawn)
    equal((y2, last2), (y, last))
    equal(twin.backward(tape2, y), layer.backward(tape, y))
    twin.weight_drop = 0.0
    assert layer.weight_drop == 0.3
    equal(layer.forward(x, **drawn)[0], y)
    assert not np.array_equal(twin.forward(x, **drawn)[0], y)


def test_repr_and_attributes() -> None:
    layer = rnnfast.LSTM(3, 5, device="numpy", **EVERYTHING)
    assert repr(layer) == (
        "LSTM(3, 5, num_layers=2, dropout=0.5, recurrent_dropout=0.25, "
        "recurrent_dropout_mode='step', zoneout=(0.1, 0.2), weight_drop=0.3, residual=True, "
        "cell_clip=3.0, clip_state_gradient=1.5, device='numpy')"
    )
    for name, value in EVERYTHING.items():
        assert getattr(layer, name) == value
    layer.zoneout = 0.0
    layer.cell_clip = None
    assert "zoneout" not in repr(layer)
    assert "cell_clip" not in repr(layer)
    with pytest.raises(
        rnnfast.ArgumentError, match=r"rnnfast.LSTM: zoneout is 2, expected 0 <= zon"
    ):
        layer.zoneout = 2
    assert layer.zoneout == 0.0
    with pytest.raises(rnnfast.ArgumentError, match="cell_clip is -1, expected a finite number"):
        layer.cell_clip = -1
    assert isinstance(rnnfast.LSTM.zoneout.__doc__, str)


def test_a_prepared_layer_has_options_of_its_own(device: str) -> None:
    layer = build("lstm", device, num_layers=2, zoneout=0.2, learn=True, cell_clip=0.3)
    prepared, x = layer.prepare(), draw(T, B, I)
    given = {"lengths": LENGTHS, "reset": marks(0.4, 3), "reset_to": "learned"}
    expected = layer(x, **given)
    equal(prepared(x, **given), expected)
    layer.zoneout, layer.cell_clip = 0.0, None
    assert not np.array_equal(layer(x, **given)[0], expected[0])
    equal(prepared(x, **given), expected)


def test_setting_an_option_takes_the_quick_road_away_and_gives_it_back(device: str) -> None:
    layer, x = build("gru", device), draw(T, B, I)
    plain, _ = layer(x)
    layer.zoneout = 0.4
    assert not np.array_equal(layer(x)[0], plain)
    layer.zoneout = 0.0
    equal(layer(x)[0], plain)


def test_return_states(device: str) -> None:
    layer = build("lstm", device, num_layers=2, bidirectional=True)
    x, given = draw(T, B, I), {"lengths": LENGTHS}
    for options in ({}, given):
        y, state, states = layer(x, return_states=True, **options)
        equal((y, state), layer(x, **options))
        equal(states, layer.forward(x, **options)[2].states())
        assert states.h.shape == states.c.shape == (4, T, B, H)
        assert states.gates.shape == (4, T, B, 4, H)
        equal(np.concatenate([states.h[2], states.h[3]], -1), y)


# What reaches the back end ------------------------------------------------------------------------


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[ScanOptions | None]:
    """The options of every call of the NumPy back end, in order."""
    seen: list[ScanOptions | None] = []
    forward = engine.forward

    def recording(*args: Any) -> Any:
        seen.append(args[7] if len(args) > 7 else None)
        return forward(*args)

    monkeypatch.setattr(engine, "forward", recording)
    return seen


def fields(scan: ScanOptions | None) -> dict[str, Any]:
    """Those that differ from a plain call, arrays as lists."""
    if scan is None:
        return {}
    plain = ScanOptions()._asdict()
    listed = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in scan._asdict().items()
    }
    return {name: value for name, value in listed.items() if value != plain[name]}


SETTINGS = {
    "recurrent_dropout": 0.25,
    "recurrent_dropout_mode": "step",
    "zoneout": 0.125,
    "weight_drop": 0.5,
    "cell_clip": 3,
    "clip_state_gradient": 2,
}
ALWAYS = {"zoneout": (0.125, 0.125), "cell_clip": 3.0}
DRAWN = {
    "recurrent_dropout": 0.25,
    "per_step": True,
    "weight_drop": 0.5,
    "training": True,
    "seed": 9,
    "t0": 4,
    "row_ids": [3, 1],
}


def test_what_a_function_passes_on(received: list[ScanOptions | None]) -> None:
    p = make("lstm", 3, 2, I, H)
    drawn = {"seed": 9, "t0": 4, "row_ids": np.array([3, 1])}
    run = {"device": "numpy", **SETTINGS, **drawn}
    rnnfast.lstm(p.x, *p.row, **run)
    p.forward(**run, burn_in=1, tbptt=2)
    p.forward(**run, training=False, reverse=True)
    p.forward(device="numpy", recurrent_dropout=0.5, seed=1)
    p.forward(device="numpy", lengths=np.array([3, 1], np.int16), pad_output="hold")
    clip = {"gradient_clip": 2.0}
    assert [fields(scan) for scan in received] == [
        ALWAYS | DRAWN,
        ALWAYS | DRAWN | clip | {"burn_in": 1, "tbptt": 2},
        ALWAYS | clip | {"reverse": True},
        {"recurrent_dropout": 0.5, "seed": 1},
        {"lengths": [3, 1], "hold": True},
    ]
    for scan in received:
        for value in scan:
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous
    assert received[0].row_ids.dtype == np.uint32
    assert received[-1].lengths.dtype == np.int64


def test_what_a_layer_passes_on(received: list[ScanOptions | None]) -> None:
    layer = build("lstm", "numpy", num_layers=2, **SETTINGS)
    x, drawn = draw(3, 2, I), {"seed": 9, "t0": 4, "row_ids": np.array([3, 1])}
    layer(x)
    layer.forward(x)
    layer.forward(x, training=True, **drawn, burn_in=1, tbptt=2)
    clip = {"gradient_clip": 2.0}
    training = ALWAYS | DRAWN | clip | {"burn_in": 1, "tbptt": 2}
    assert [fields(scan) for scan in received] == [
        ALWAYS,
        ALWAYS | {"layer": 1},
        ALWAYS | clip,
        ALWAYS | clip | {"layer": 1},
        training,
        training | {"layer": 1},
    ]


def test_nothing_is_passed_on_for_nothing(received: list[ScanOptions | None]) -> None:
    """Dropout between layers, and bounds of a gradient without a tape, are none of its business."""
    layer = build("gru", "numpy", num_layers=2, dropout=0.5, residual=True, clip_state_gradient=1)
    layer(draw(3, 2, I), pad_output="zero", reset_to="zero", return_states=False)
    layer.clip_state_gradient = None
    layer.forward(draw(3, 2, I), training=True)
    p = make("gru", 3, 2, I, H)
    p.forward(device="numpy", zoneout=0.0, recurrent_dropout=0, seed=4, reverse=True)
    assert received == [None] * 5
