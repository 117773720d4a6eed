"""A layer with options is its functions put together by hand, on every back end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layer_problems import (
    LENGTHS,
    B,
    H,
    I,
    T,
    build,
    cells,
    compiled,
    draw,
    draw_dstates,
    draw_states,
    equal,
    letters,
    marks,
    near,
    parts,
    sizes,
    some_steps,
    whole,
)
from stack_problems import draw_stack, run_stack
from yardstick import check

import rnnfast
from rnnfast import States, _random

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
    # NumPy's own product may sum a row otherwise where there are fewer.
    alike = equal if device == "cpu" else near
    a, state, _ = layer.forward(x[:5], **drawn)
    b, _, _ = layer.forward(x[5:], state, t0=5, **drawn)
    alike(np.concatenate([a, b]), y)
    row, _, _ = layer.forward(x[:, 2:3], row_ids=np.array([2], np.uint8), **drawn)
    alike(row, y[:, 2:3])
    other, _, _ = layer.forward(x[:, 2:3], row_ids=np.array([3]), **drawn)
    assert not np.array_equal(other, row)


# Everything at once ------------------------------------------------------------------------------


def hold_stack(seed: int) -> None:
    """The compiled stack is as near the truth as plain NumPy of its element type."""
    drawn = draw_stack(seed)
    cell, settings, _, _ = drawn
    kernel, parameters = run_stack(drawn, "cpu", np.float32)
    plain, _ = run_stack(drawn, "numpy", np.float32, parameters)
    ref, _ = run_stack(drawn, "numpy", np.float64, parameters)
    assert kernel.keys() == plain.keys() == ref.keys()
    places = settings["num_layers"] * (2 if settings["bidirectional"] else 1)
    for name, value in ref.items():
        if value is None:
            assert kernel[name] is None, (seed, name)
            assert plain[name] is None, (seed, name)
            continue
        # Layers and directions by themselves, and gate blocks, but for a handful of numbers, whose
        # largest says nothing.
        blocks = 1 if name in ("x", "y") else places
        if name.startswith(("weight", "bias")):
            blocks = rnnfast.CELLS[cell].G
        if value.size < 64 * blocks:
            blocks = 1
        check(f"seed {seed}: {name}", kernel[name], plain[name], value, width=19, blocks=blocks)


@compiled
@pytest.mark.parametrize("first", range(0, 80, 20))
def test_random_stacks(first: int) -> None:
    """Everything at once is legal, and right: any form of input, any options."""
    for seed in range(first, first + 20):
        hold_stack(seed)


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("first", range(80, 400, 20))
def test_many_random_stacks(first: int) -> None:
    for seed in range(first, first + 20):
        hold_stack(seed)
