"""What fuzzing (tests/fuzz) found, each as the smallest call that shows it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import option_problems
import pytest

import rnnfast
from rnnfast import training

core = pytest.importorskip("rnnfast._core", reason="the compiled module is not built")


def _flat(array: np.ndarray) -> None:
    array.shape = (array.size,)


def _larger(array: np.ndarray) -> None:
    array.resize((array.size * 64,), refcheck=False)


def _still(array: np.ndarray) -> None:
    array.strides = (0,) * array.ndim


def _swapped(array: np.ndarray) -> None:
    array.shape = array.shape[::-1]


@pytest.mark.parametrize("name", ["x", "y", "W", "R", "h0"])
@pytest.mark.parametrize("change", [_flat, _larger, _still, _swapped])
def test_a_tape_refuses_an_array_of_another_form(
    name: str, change: Callable[[np.ndarray], None]
) -> None:
    # The bytes may be the same all the while, so that no checksum tells.
    p = option_problems.build([], 1, "lstm", T=3, B=2, I=4, H=5)
    W, R, *biases = p.params[0]
    h0, c0 = (s[0].copy() for s in p.state)
    y, _, tape = rnnfast.lstm_forward(p.x, W, R, *biases, h0, c0)
    array = {"x": p.x, "y": y, "W": W, "R": R, "h0": h0}[name]
    if name == "h0":  # the tape holds a view (1, B, H) of it
        array = p.state[0]
        *_, kept = core.forward(p.spec.name, p.x, p.params, p.state, None, True, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy advises against it
        change(array)
    if name == "h0":
        with pytest.raises(RuntimeError, match="h0 has changed"):
            core.backward(kept, p.dy, p.dstate, True, None)
        return
    with pytest.raises(rnnfast.TapeError, match=f"{name} has changed"):
        rnnfast.lstm_backward(tape, p.dy)
    if name == "y":
        with pytest.raises(rnnfast.TapeError, match="lstm_forward: y has changed"):
            tape.states()


class _Meddler:
    """A number only if asked, which then shrinks an array that the call has looked at already."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.asked = array, 0

    def __float__(self) -> float:
        self.asked += 1
        self.array.resize((0,), refcheck=False)
        return 0.5

    __index__ = __float__


@pytest.mark.parametrize("field", ["recurrent_dropout", "weight_drop", "gradient_clip", "zoneout"])
def test_no_option_is_asked_for_its_number(field: str) -> None:
    p = option_problems.build(["mask"], 1, "gru")
    meddler = _Meddler(p.options.mask)
    value = (meddler,) if field == "zoneout" else meddler
    options = p.options._replace(**{field: value})
    assert core.forward("gru", p.x, p.params, p.state, None, True, None, options) is None
    assert not meddler.asked


@pytest.mark.parametrize("place", range(2, 7))
@pytest.mark.parametrize("value", [None, "1", 1 + 1j, 2**64, -1, _Meddler(np.zeros(1))])
def test_between_layers_refuses_what_is_no_number(place: int, value: object) -> None:
    args = [np.ones((2, 2, 4)), None, 2, 0.5, 1, 0, 0, None, None, None]
    assert core.between_layers(*args) is not None
    args[place] = value
    assert core.between_layers(*args) is None


def test_the_largest_bounds_are_bounds() -> None:
    layer = rnnfast.LSTM(2, 3, seed=0)
    x = np.ones((4, 1, 2), np.float32)
    y, _ = layer(x)
    largest = float(np.finfo(np.float64).max)
    layer.cell_clip, layer.clip_state_gradient = largest, largest
    assert (layer(x)[0] == y).all()
    _, _, tape = layer.forward(x)
    assert np.isfinite(layer.backward(tape, y).x).all()


def test_the_least_bound_is_a_bound() -> None:
    layer = rnnfast.GRU(2, 3, seed=0, clip_state_gradient=1e-320)  # 0 to float32
    _, _, tape = layer.forward(np.ones((4, 1, 2), np.float32))
    dh0 = layer.backward(tape, dstate=np.ones((1, 1, 3), np.float32)).state
    assert np.abs(dh0).max() < 1e-37


@pytest.mark.parametrize("name", ["recurrent_dropout", "zoneout", "cell_clip", "dropout"])
@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_integers_beyond_all_floats_are_refused(name: str, value: int) -> None:
    with pytest.raises(rnnfast.ArgumentError, match=name):
        rnnfast.LSTM(2, 3, **{name: value})


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("name", ["burn_in", "tbptt"])
def test_counts_of_steps_have_no_end(device: str, name: str) -> None:
    layer = rnnfast.GRU(2, 3, seed=0, device=device)
    x = np.ones((4, 1, 2), np.float32)
    y, _, tape = layer.forward(x, **{name: 2**70})
    *_, same = layer.forward(x, **{name: 4})
    assert (layer.backward(tape, y).x == layer.backward(same, y).x).all()


@pytest.mark.parametrize("odd", [[], np.zeros(2), {}, None, 1.5])
def test_names_of_any_kind_are_refused(odd: object) -> None:
    x, W, R = np.ones((2, 1, 2)), np.ones((3, 2)), np.ones((3, 3))
    with pytest.raises(rnnfast.ArgumentError, match="device"):
        rnnfast.rnn(x, W, R, device=odd)
    with pytest.raises(rnnfast.ArgumentError, match="device"):
        rnnfast.RNN(2, 3, device=odd)
    with pytest.raises(rnnfast.ArgumentError, match="nonlinearity"):
        rnnfast.rnn(x, W, R, nonlinearity=odd)


@pytest.mark.parametrize("dtype", [-1, "f9", "\ud800", object(), [1]])
def test_what_is_no_dtype_is_refused_in_words(dtype: object) -> None:
    for make in (rnnfast.GRU, training.Linear, training.Embedding):
        with pytest.raises(rnnfast.DTypeError, match="dtype is"):
            make(2, 3, dtype=dtype)


def test_odd_arguments_of_constructors_are_refused_in_words() -> None:
    with pytest.raises(rnnfast.ArgumentError, match="seed is -1"):
        rnnfast.GRU(2, 3, seed=-1)
    with pytest.raises(rnnfast.DTypeError, match="seed is of type str"):
        rnnfast.GRU(2, 3, seed="a")
    with pytest.raises(rnnfast.DTypeError, match="proj_size is of type ndarray"):
        rnnfast.LSTM(2, 3, proj_size=np.zeros(2))
    for size in (2**62, 10**400):
        with pytest.raises(rnnfast.ArgumentError, match="hidden_size is"):
            rnnfast.GRU(2, size)


@pytest.mark.parametrize("batch_size", [2**31, 10**400])
def test_a_stream_of_too_many_rows_is_refused_in_words(batch_size: int) -> None:
    with pytest.raises(rnnfast.ArgumentError, match="batch_size is"):
        rnnfast.Stream(rnnfast.GRU(2, 3, seed=0), batch_size)


def test_an_empty_out_overlaps_nothing() -> None:
    out = np.lib.stride_tricks.as_strided(np.empty((0, 3, 3)), strides=(0, 0, 8))
    x, W, R = np.ones((0, 3, 2)), np.ones((3, 2)), np.ones((3, 3))
    y, _ = rnnfast.rnn(x, W, R, out=out)
    assert y is out


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_a_stream_runs_no_steps_into_an_empty_out(device: str) -> None:
    stream = rnnfast.Stream(rnnfast.GRU(2, 3, seed=0, device=device), 2)
    out = np.lib.stride_tricks.as_strided(np.empty((0, 2, 3), np.float32), strides=(0, 0, 4))
    assert stream.run(np.ones((0, 2, 2), np.float32), out=out) is out


@pytest.mark.parametrize("name", ["W", "R"])  # of x and y it has views of its own
def test_a_tape_of_numpy_refuses_an_array_of_another_shape(name: str) -> None:
    x, W, R = np.ones((2, 3, 4)), np.ones((5, 4)), np.ones((5, 5))
    _, _, tape = rnnfast.rnn_forward(x, W, R, device="numpy")
    array = {"W": W, "R": R}[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _flat(array)
    with pytest.raises(rnnfast.TapeError, match=f"{name} has changed"):
        rnnfast.rnn_backward(tape, np.ones((2, 3, 5)))


def test_states_of_a_layer_refuse_another_y() -> None:
    layer = rnnfast.LSTM(2, 3, seed=0)
    y, _, tape = layer.forward(np.ones((4, 1, 2), np.float32))
    y += 1
    with pytest.raises(rnnfast.TapeError, match=r"LSTM.forward: y has changed"):
        tape.states()


def test_a_tuple_is_one_argument_of_a_reset() -> None:
    stream = rnnfast.Stream(rnnfast.GRU(2, 3), 2)
    for rows in ((), (np.ones(2, bool), np.ones(2, bool))):
        with pytest.raises(rnnfast.errors.DTypeError, match=r"^rnnfast\.Stream\.reset: rows"):
            stream.reset(rows)


def test_a_cell_that_is_an_array() -> None:
    layer = rnnfast.GRU(2, 3)
    with pytest.raises(rnnfast.errors.ArgumentError, match="cell is array"):
        rnnfast.weights.export(layer, "pytorch", cell=np.zeros(3))


def test_a_setting_that_is_an_array_or_no_text() -> None:
    layer = rnnfast.GRU(2, 3)
    arrays = rnnfast.weights.export(layer, "keras")
    for value in (np.zeros(3, np.float32), (np.zeros(3),), b"\xff"):
        with pytest.raises(rnnfast.errors.ArgumentError, match="reset_after is"):
            rnnfast.weights.load(layer, "keras", arrays, reset_after=value)
