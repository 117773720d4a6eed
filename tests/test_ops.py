"""The functions on every back end: layouts of arrays, options, tapes, and what changes between
passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from problems import CELL_NAMES, make

import rnnfast
from rnnfast import TapeError

cells = pytest.mark.parametrize("cell", CELL_NAMES)


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name, strict=True)


@cells
def test_a_call_without_tape_gives_the_same_bits(device: str, cell: str) -> None:
    p = make(cell, 6, 3, 4, 7)
    y, state, _ = p.forward(device=device)
    y2, state2 = p.function()(p.x, *p.row, *p.state, **p.spec.options, device=device)
    np.testing.assert_array_equal(y, y2)
    np.testing.assert_array_equal(state, state2 if isinstance(state2, tuple) else (state2,))


@cells
def test_reverse_is_flipping_by_hand(device: str, cell: str) -> None:
    p = make(cell, 6, 3, 4, 7)
    flipped = replace(p, x=p.x[::-1].copy(), dy=p.dy[::-1].copy()).run(device=device)
    for name in ("y", "dx"):
        flipped[name] = flipped[name][::-1]
    same(p.run(device=device, reverse=True), flipped)


@cells
@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "back"])
def test_indices_are_one_hot_rows(device: str, cell: str, reverse: bool) -> None:
    p = make(cell, 7, 3, 5, 6, indices=True, reverse=reverse)
    dense = replace(p, x=np.eye(5)[p.x])
    kernel, expected = p.run(device=device), dense.run(device=device)
    assert kernel["dx"] is None
    for name in ("y", "h_n", "dh0"):
        np.testing.assert_array_equal(kernel[name], expected[name], err_msg=name)
    # Parameter gradients are sums, here in another order.
    np.testing.assert_allclose(kernel["dW"], expected["dW"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(kernel["dR"], expected["dR"], rtol=0, atol=1e-13)


def test_only_what_was_looked_up_has_a_gradient(device: str) -> None:
    p = make("lstm", 4, 2, 1000, 6, indices=True)
    x = np.array([[3, 999], [3, 3], [500, 3], [999, 3]])
    _, _, tape = replace(p, x=x).forward(device=device)
    dW = rnnfast.lstm_backward(tape, p.dy).dW
    assert isinstance(dW, rnnfast.IndexedRows)
    assert dW.indices.dtype == np.int64
    assert dW.indices.tolist() == [3, 500, 999]
    assert dW.rows.shape == (3, 24)
    assert (dW.shape, dW.axis, dW.dtype) == ((24, 1000), 1, np.float64)
    dense = dW.dense()
    assert dense.shape == (24, 1000)
    assert np.flatnonzero(np.abs(dense).sum(0)).tolist() == [3, 500, 999]
    np.testing.assert_array_equal(dense[:, 500], dW.rows[1])


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, np.uint64])
def test_any_integer_dtype_is_an_index(device: str, dtype: type) -> None:
    p = make("gru", 4, 2, 9, 6, indices=True)
    expected = p.run(device=device)
    same(replace(p, x=p.x.astype(dtype)).run(device=device), expected)
    same(replace(p, x=np.asfortranarray(p.x)).run(device=device), expected)


@cells
def test_strides_do_not_change_bits(device: str, cell: str) -> None:
    p = make(cell, 6, 3, 4, 8)
    expected = p.run(device=device)
    by_batch = replace(p, x=p.x.swapaxes(0, 1).copy().swapaxes(0, 1), dy=np.asfortranarray(p.dy))
    same(by_batch.run(device=device), expected)
    padded = replace(
        p,
        x=np.repeat(p.x, 2, axis=2)[:, :, ::2],
        row=tuple(np.asfortranarray(a) for a in p.row),
        state=tuple(np.asfortranarray(a) for a in p.state),
        dstate=tuple(np.asfortranarray(a) for a in p.dstate),
    )
    same(padded.run(device=device), expected)


def unaligned(a: np.ndarray) -> np.ndarray:
    room = np.empty(a.nbytes + 1, np.uint8)[1:]
    view = room.view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


def test_unaligned_arrays_and_subclasses(device: str, tmp_path: Any) -> None:
    p = make("lstm", 4, 3, 4, 8)
    expected = p.run(device=device)
    moved = replace(p, x=unaligned(p.x), row=tuple(map(unaligned, p.row)), dy=unaligned(p.dy))
    same(moved.run(device=device), expected)
    mapped = np.memmap(tmp_path / "x", p.x.dtype, "w+", shape=p.x.shape)
    mapped[...] = p.x
    same(replace(p, x=mapped).run(device=device), expected)


@cells
@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "back"])
def test_out_is_written_and_returned(device: str, cell: str, reverse: bool) -> None:
    p = make(cell, 5, 3, 4, 8, reverse=reverse)
    expected = p.run(device=device)
    room = np.full((3, 5, 20), np.nan)
    for out in (
        np.empty((5, 3, 8)),
        room.swapaxes(0, 1)[:, :, 2:10],
        room[:, :, 1:17:2].swapaxes(0, 1),
    ):
        y, _, tape = p.forward(device=device, out=out)
        assert y is out
        np.testing.assert_array_equal(out, expected["y"])
        np.testing.assert_array_equal(p.function("_backward")(tape, p.dy).dh0.shape, (3, 8))
    assert np.isnan(room[:, :, 18:]).all()


@cells
def test_zero_steps_and_zero_rows(device: str, cell: str) -> None:
    p = make(cell, 0, 3, 4, 7)
    results = p.run(device=device)
    assert results["y"].shape == (0, 3, 7)
    assert results["dx"].shape == (0, 3, 4)
    for k, letter in enumerate(p.spec.states):
        np.testing.assert_array_equal(results[f"{letter}_n"], p.state[k])
        np.testing.assert_array_equal(results[f"d{letter}0"], p.dstate[k])
    for name in ("dW", "dR", "dbW", "dbR"):
        assert not results[name].any()
    results = make(cell, 4, 0, 4, 7).run(device=device)
    assert results["y"].shape == (4, 0, 7)
    assert results["h_n"].shape == results["dh0"].shape == (0, 7)
    for name in ("dW", "dR", "dbW", "dbR"):
        assert not results[name].any()
    indexed = make(cell, 0, 3, 4, 7, indices=True).run(device=device)
    assert not indexed["dW"].any()


@cells
def test_results_never_alias_arguments(device: str, cell: str) -> None:
    """Final states are the caller's own, also where no step ran."""
    for T in (0, 3):
        p = make(cell, T, 2, 4, 5)
        y, states, _ = p.forward(device=device)
        for state, start in zip(states, p.state, strict=True):
            assert not np.shares_memory(state, start)
            assert not np.shares_memory(state, y)


@cells
def test_nan_comes_out_and_stays_in_its_row(device: str, cell: str) -> None:
    p = make(cell, 4, 3, 4, 7)
    clean = p.run(device=device)
    x = p.x.copy()
    x[1, 2, 0] = np.nan
    results = replace(p, x=x).run(device=device)
    assert np.isnan(results["y"][1:, 2]).all()
    np.testing.assert_array_equal(results["y"][:, :2], clean["y"][:, :2])
    np.testing.assert_array_equal(results["y"][0], clean["y"][0])
    assert np.isnan(results["dW"]).any()


@cells
def test_infinite_input_saturates_without_warning(device: str, cell: str) -> None:
    p = make(cell, 3, 2, 4, 5)
    x = p.x.copy()
    x[0, 0, 0] = np.inf
    y, _, _ = replace(p, x=x).forward(device=device)
    if cell != "rnn_relu":
        assert np.isfinite(y).all()


@cells
def test_backward_any_number_of_times(device: str, cell: str) -> None:
    p = make(cell, 6, 3, 4, 7)
    _, _, tape = p.forward(device=device)
    backward = p.function("_backward")
    first = backward(tape, p.dy, *p.dstate)
    backward(tape, 2 * p.dy)
    same(first._asdict(), backward(tape, p.dy, *p.dstate)._asdict())


@cells
def test_omitted_gradients_are_zero(device: str, cell: str) -> None:
    p = make(cell, 4, 2, 3, 5)
    _, _, tape = p.forward(device=device)
    backward = p.function("_backward")
    zeros = tuple(np.zeros_like(d) for d in p.dstate)
    same(backward(tape, p.dy)._asdict(), backward(tape, p.dy, *zeros)._asdict())
    same(
        backward(tape, None, *p.dstate)._asdict(),
        backward(tape, np.zeros_like(p.dy), *p.dstate)._asdict(),
    )
    assert not any(g.any() for g in backward(tape) if g is not None)


def test_one_of_two_states_may_be_omitted(device: str) -> None:
    p = make("lstm", 4, 2, 3, 5)
    zero = np.zeros((2, 5))
    given = replace(p, state=(None, p.state[1])).run(device=device)
    same(given, replace(p, state=(zero, p.state[1])).run(device=device))
    _, _, tape = p.forward(device=device)
    same(
        rnnfast.lstm_backward(tape, dc_n=p.dstate[1])._asdict(),
        rnnfast.lstm_backward(tape, None, zero, p.dstate[1])._asdict(),
    )


@pytest.mark.parametrize("needed", [False, np.False_])
def test_dx_only_where_needed(device: str, needed: Any) -> None:
    p = make("gru", 4, 2, 3, 5)
    _, _, tape = p.forward(device=device)
    with_dx = rnnfast.gru_backward(tape, p.dy, need_dx=np.True_)
    without = rnnfast.gru_backward(tape, p.dy, need_dx=needed)
    assert without.dx is None
    assert with_dx.dx.shape == (4, 2, 3)
    np.testing.assert_array_equal(without.dW, with_dx.dW)


@cells
@pytest.mark.parametrize("name", ["x", "y", "W", "R", "h0"])
def test_a_changed_array_is_named(device: str, cell: str, name: str) -> None:
    p = make(cell, 4, 2, 3, 5)
    y, _, tape = p.forward(device=device)
    array = {"x": p.x, "y": y, "W": p.row[0], "R": p.row[1], "h0": p.state[0]}[name]
    backward = p.function("_backward")
    before = backward(tape, p.dy)
    kept = array.flat[-1]
    array.flat[-1] += 1
    text = f"^rnnfast.{p.spec.function}_backward: {name} has changed since the forward pass"
    with pytest.raises(TapeError, match=text):
        backward(tape, p.dy)
    array.flat[-1] = kept
    same(before._asdict(), backward(tape, p.dy)._asdict())


def test_a_tape_of_another_cell(device: str) -> None:
    _, _, tape = make("lstm", 4, 2, 3, 5).forward(device=device)
    text = (
        r"^rnnfast.gru_backward: tape came from lstm \(T=4, B=2\), "
        "expected one of rnnfast.gru_forward.$"
    )
    with pytest.raises(TapeError, match=text):
        rnnfast.gru_backward(tape)


def test_what_a_tape_tells(device: str) -> None:
    _, _, tape = make("rnn_relu", 4, 2, 3, 5).astype(np.float32).forward(device=device)
    assert (tape.cell, tape.dtype, tape.T, tape.B, tape.I, tape.H) == (
        "rnn_relu",
        np.float32,
        4,
        2,
        3,
        5,
    )
    assert repr(tape) == "<rnnfast tape of rnn_relu (T=4, B=2, I=3, H=5)>"


@cells
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_last_kernel_has_a_name(device: str, cell: str, dtype: type) -> None:
    p = make(cell, 2, 1, 3, 4).astype(dtype)
    target = "numpy" if device == "numpy" else rnnfast._backend._core.isa()
    bits = 8 * np.dtype(dtype).itemsize
    _, _, tape = p.forward(device=device)
    assert rnnfast.last_kernel() == f"{cell}.forward.f{bits}.{target}"
    p.function("_backward")(tape)
    assert rnnfast.last_kernel() == f"{cell}.backward.f{bits}.{target}"


def test_threads_is_an_integer_of_any_kind(device: str) -> None:
    p = make("lstm", 4, 2, 3, 5)
    expected = p.run(device=device)
    same(p.run(device=device, threads=2), expected)
    same(p.run(device=device, threads=np.int64(2)), expected)
