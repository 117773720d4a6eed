"""The functions with options of a call, on every back end."""

from __future__ import annotations

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
    equal,
    marks,
    near,
    parts,
    whole,
)
from problems import make

from rnnfast import States


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
