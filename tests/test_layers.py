"""The layers on every back end: forms of input and state, gradients, parameters, dropout,
copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import rnnfast
from rnnfast import ArgumentError, DTypeError, ShapeError, TapeError

LAYERS = {
    "rnn": lambda *a, **k: rnnfast.RNN(*a, **k),
    "relu-rnn": lambda *a, **k: rnnfast.RNN(*a, nonlinearity="relu", **k),
    "lstm": lambda *a, **k: rnnfast.LSTM(*a, **k),
    "gru": lambda *a, **k: rnnfast.GRU(*a, **k),
}
layers = pytest.mark.parametrize("kind", list(LAYERS))
rng = np.random.default_rng(0)


def build(kind: str, device: str, *sizes: int, **options: Any) -> Any:
    return LAYERS[kind](*(sizes or (4, 7)), dtype="float64", seed=3, device=device, **options)


def parts(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def draw_state(layer: Any, B: int, seed: int = 5) -> Any:
    D = 2 if layer.bidirectional else 1
    shape = (D * layer.num_layers, B, layer.hidden_size)
    state = tuple(np.random.default_rng(seed).standard_normal((len(layer_states(layer)), *shape)))
    return state if len(state) == 2 else state[0]


def layer_states(layer: Any) -> tuple[str, ...]:
    return rnnfast.CELLS[layer.cell].states


def equal(a: Any, b: Any) -> None:
    for left, right in zip(parts(a), parts(b), strict=True):
        np.testing.assert_array_equal(left, right, strict=True)


def same_gradients(a: Any, b: Any) -> None:
    equal(a.x, b.x)
    equal(a.state, b.state)
    assert a.parameters.keys() == b.parameters.keys()
    for name, gradient in a.parameters.items():
        np.testing.assert_array_equal(gradient, b.parameters[name], err_msg=name, strict=True)


# Values and gradients ----------------------------------------------------------------------------


def by_functions(
    layer: Any, x: np.ndarray, state: Any
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The layer put together from the functions, one layer and direction at a time."""
    spec = rnnfast.CELLS[layer.cell]
    function = getattr(rnnfast, spec.function)
    D = 2 if layer.bidirectional else 1
    finals: list[list[np.ndarray]] = [[] for _ in spec.states]
    for k in range(layer.num_layers):
        sides = []
        for d in range(D):
            suffix = f"_l{k}" + ("_reverse" if d else "")
            names = [stem + suffix for stem in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            row = [layer.parameters.get(name) for name in names]
            start = [s[k * D + d] for s in parts(state)]
            y, last = function(x, *row, *start, **spec.options, reverse=d == 1, device=layer.device)
            sides.append(y)
            for entries, value in zip(finals, parts(last), strict=True):
                entries.append(value)
        x = np.concatenate(sides, -1)
    return x, tuple(np.stack(entries) for entries in finals)


@layers
@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_a_layer_is_its_functions(
    device: str, kind: str, L: int, bidirectional: bool, bias: bool
) -> None:
    layer = build(kind, device, num_layers=L, bidirectional=bidirectional, bias=bias)
    x, state = rng.standard_normal((6, 3, 4)), draw_state(layer, 3)
    y, last = layer(x, state)
    expected, finals = by_functions(layer, x, state)
    np.testing.assert_array_equal(y, expected)
    equal(last, finals if len(finals) == 2 else finals[0])


def layer_loss(layer: Any, x: np.ndarray, state: Any, dy: np.ndarray, dstate: Any) -> float:
    y, last = layer(x, state)
    ends = zip(parts(last), parts(dstate), strict=True)
    return float((y * dy).sum()) + sum(float((s * d).sum()) for s, d in ends)


@layers
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
def test_gradients_are_central_differences(
    device: str, kind: str, L: int, batch_first: bool, bidirectional: bool
) -> None:
    # Its own, for the numbers must not depend on the tests before: a relu may bend between the two.
    rng = np.random.default_rng(L)
    options = {"num_layers": L, "batch_first": batch_first, "bidirectional": bidirectional}
    layer = build(kind, device, **options)
    x, state = rng.standard_normal((5, 3, 4)), draw_state(layer, 5 if batch_first else 3)
    y, _, tape = layer.forward(x, state)
    dy, dstate = rng.standard_normal(y.shape), draw_state(layer, 5 if batch_first else 3, seed=6)
    gradients = layer.backward(tape, dy, dstate)
    arrays = {"x": x, **layer.parameters}
    found = {"x": gradients.x, **gradients.parameters}
    for name, s, d in zip("hc", parts(state), parts(gradients.state), strict=False):
        arrays[name], found[name] = s, d
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        direction = rng.standard_normal(array.shape)
        original = array.copy()
        values = []
        for sign in (1, -1):
            array[...] = original + sign * 1e-6 * direction
            values.append(layer_loss(layer, x, state, dy, dstate))
        array[...] = original
        slope = (values[0] - values[1]) / 2e-6
        assert float((found[name] * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-6)


# Forms of input and state ------------------------------------------------------------------------


@layers
@pytest.mark.parametrize("L", [1, 2])
def test_batch_first_is_a_transposed_view_of_the_same(device: str, kind: str, L: int) -> None:
    layer = build(kind, device, num_layers=L, bidirectional=True)
    turned = build(kind, device, num_layers=L, bidirectional=True, batch_first=True)
    x, state = rng.standard_normal((6, 3, 4)), draw_state(layer, 3)
    y, last, tape = layer.forward(x, state)
    y2, last2, tape2 = turned.forward(x.swapaxes(0, 1), state)
    assert y2.flags.c_contiguous
    np.testing.assert_array_equal(y2.swapaxes(0, 1), y)
    equal(last, last2)
    dy, dstate = rng.standard_normal(y.shape), draw_state(layer, 3, 6)
    a, b = layer.backward(tape, dy, dstate), turned.backward(tape2, dy.swapaxes(0, 1), dstate)
    same_gradients(a, b._replace(x=b.x.swapaxes(0, 1)))


@layers
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_is_a_batch_of_one(device: str, kind: str, batch_first: bool) -> None:
    layer = build(kind, device, num_layers=2, batch_first=batch_first)
    plain = build(kind, device, num_layers=2)
    x, state = rng.standard_normal((6, 4)), draw_state(plain, 1)
    bare = tuple(s[:, 0] for s in parts(state))
    bare = bare if len(bare) == 2 else bare[0]
    y, last, tape = layer.forward(x, bare)
    y2, last2, tape2 = plain.forward(x[:, None], state)
    assert y.shape == (6, 7)
    np.testing.assert_array_equal(y, y2[:, 0])
    equal(last, tuple(s[:, 0] for s in last2) if isinstance(last2, tuple) else last2[:, 0])
    a, b = (
        layer.backward(tape, np.ones((6, 7)), bare),
        plain.backward(tape2, np.ones((6, 1, 7)), state),
    )
    np.testing.assert_array_equal(a.x, b.x[:, 0])
    equal(a.state, tuple(s[:, 0] for s in b.state) if isinstance(b.state, tuple) else b.state[:, 0])
    equal(layer(x, bare)[0], y)


@layers
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("batch_first", [False, True])
def test_indices_are_one_hot_rows(
    device: str, kind: str, options: dict[str, Any], batch_first: bool
) -> None:
    layer = build(kind, device, batch_first=batch_first, **options)
    x = rng.integers(0, 4, (6, 3))
    y, last, tape = layer.forward(x)
    y2, last2, tape2 = layer.forward(np.eye(4)[x])
    equal(y, y2)
    equal(last, last2)
    equal(layer(x)[0], y)
    equal(layer(x.astype(np.uint8))[0], y)
    equal(layer(x[:, 0])[0], layer(np.eye(4)[x[:, 0]])[0])
    a, b = layer.backward(tape, np.ones(y.shape)), layer.backward(tape2, np.ones(y.shape))
    assert a.x is None
    assert isinstance(a.parameters["weight_ih_l0"], rnnfast.IndexedRows)
    for name, gradient in a.parameters.items():
        dense = gradient.dense() if isinstance(gradient, rnnfast.IndexedRows) else gradient
        np.testing.assert_allclose(dense, b.parameters[name], rtol=0, atol=1e-12, err_msg=name)
    with pytest.raises(rnnfast.IndexRangeError, match="I=4 from input_size"):
        layer(np.full((2, 2), 4))
    with pytest.raises(rnnfast.IndexRangeError, match="holds the index -1"):
        layer(np.full((2, 2), -1))


@layers
@pytest.mark.parametrize("T", [0, 1, 3])
@pytest.mark.parametrize("B", [0, 1, 2])
@pytest.mark.parametrize("L", [1, 2])
def test_zero_sizes(device: str, kind: str, T: int, B: int, L: int) -> None:
    layer = build(kind, device, num_layers=L)
    x, state = np.ones((T, B, 4)), draw_state(layer, B)
    y, last, tape = layer.forward(x, state)
    assert y.shape == (T, B, 7)
    gradients = layer.backward(tape, np.ones(y.shape), state)
    assert gradients.x.shape == x.shape
    if T == 0:
        equal(last, state)
        equal(gradients.state, state)
    if T * B == 0:
        assert not any(g.any() for g in gradients.parameters.values())


@layers
def test_chunks_with_carried_state_are_the_whole(device: str, kind: str) -> None:
    layer = build(kind, device, num_layers=2)
    x = rng.standard_normal((9, 3, 4)).astype(layer.dtype)
    whole, last = layer(x)
    state, pieces = None, []
    for start in range(0, 9, 4):
        y, state = layer(x[start : start + 4], state)
        pieces.append(y)
    joined = np.concatenate(pieces)
    if device == "numpy":  # whose BLAS promises no bits
        np.testing.assert_allclose(joined, whole, rtol=1e-12)
        np.testing.assert_allclose(parts(state), parts(last), rtol=1e-12)
    else:
        np.testing.assert_array_equal(joined, whole)
        equal(state, last)


def test_a_state_of_lstm_may_be_a_list_and_half_given(device: str) -> None:
    layer = build("lstm", device)
    x, (h, c) = np.ones((3, 2, 4)), draw_state(layer, 2)
    equal(layer(x, [h, c])[0], layer(x, (h, c))[0])
    equal(layer(x, (None, c))[0], layer(x, (np.zeros_like(h), c))[0])
    _, _, tape = layer.forward(x)
    same_gradients(
        layer.backward(tape, None, (h, None)), layer.backward(tape, None, (h, np.zeros_like(c)))
    )


# Learned initial states --------------------------------------------------------------------------


@layers
@pytest.mark.parametrize("L", [1, 2])
def test_a_learned_state_stands_in_for_an_omitted_one(device: str, kind: str, L: int) -> None:
    layer = build(kind, device, num_layers=L, bidirectional=True, initial_state="learned")
    names = [f"{letter}_0" for letter in layer_states(layer)]
    assert list(layer.parameters)[-len(names) :] == names
    for name in names:
        assert layer.parameters[name].shape == (2 * L, 7)
        assert not layer.parameters[name].any()
        layer.parameters[name][...] = rng.standard_normal((2 * L, 7))
    x = rng.standard_normal((5, 3, 4))
    given = tuple(np.repeat(layer.parameters[name][:, None], 3, 1) for name in names)
    given = given if len(given) == 2 else given[0]
    y, last, tape = layer.forward(x)
    y2, last2, tape2 = layer.forward(x, given)
    equal(y, y2)
    equal(last, last2)
    equal(layer(x)[0], y)
    equal(layer.prepare()(x)[0], y)
    a, b = layer.backward(tape, np.ones(y.shape)), layer.backward(tape2, np.ones(y.shape))
    equal(a.state, b.state)
    for name, gradient in zip(names, parts(a.state), strict=True):
        np.testing.assert_array_equal(a.parameters[name], gradient.sum(1))
        # A state that was given leaves nothing to learn.
        np.testing.assert_array_equal(b.parameters[name], np.zeros((2 * L, 7)))


# Tapes -------------------------------------------------------------------------------------------


@layers
@pytest.mark.parametrize("L", [1, 2])
def test_backward_twice_and_without_dx(device: str, kind: str, L: int) -> None:
    layer = build(kind, device, num_layers=L)
    y, _, tape = layer.forward(rng.standard_normal((5, 3, 4)))
    dy = rng.standard_normal(y.shape)
    first = layer.backward(tape, dy)
    layer.backward(tape, 2 * dy)
    same_gradients(layer.backward(tape, dy), first)
    without = layer.backward(tape, dy, need_dx=False)
    assert without.x is None
    same_gradients(without._replace(x=first.x), first)
    assert repr(tape) == f"<rnnfast tape of rnnfast.{type(layer).__name__} (T=5, B=3)>"
    assert (tape.cell, tape.T, tape.B, tape.seed) == (layer.cell, 5, 3, None)


def test_tapes_of_others(device: str) -> None:
    layer, other = build("gru", device), build("lstm", device, 4, 8)
    _, _, tape = other.forward(np.zeros((5, 3, 4)))
    text = (
        r"^rnnfast.GRU.backward: tape came from another layer, rnnfast.LSTM\(4, 8\) with T=5, B=3; "
        r"expected one of this GRU\(4, 7"
    )
    with pytest.raises(TapeError, match=text):
        layer.backward(tape)
    _, _, tape = copy.deepcopy(layer).forward(np.zeros((5, 3, 4)))
    with pytest.raises(TapeError, match="another layer"):
        layer.backward(tape)
    with pytest.raises(
        DTypeError, match="tape is of type NoneType, expected the tape that forward"
    ):
        layer.backward(None)


@pytest.mark.parametrize("L", [1, 2])
def test_a_changed_array_is_named(device: str, L: int) -> None:
    layer = build("lstm", device, num_layers=L)
    place = f"layer {L - 1}: " if L > 1 else ""
    y, _, tape = layer.forward(np.ones((5, 3, 4)))
    layer.parameters[f"weight_hh_l{L - 1}"][0, 0] += 1
    with pytest.raises(TapeError, match=f"^rnnfast.LSTM.backward: {place}R has changed since"):
        layer.backward(tape, np.ones(y.shape))
    y, _, tape = layer.forward(np.ones((5, 3, 4)))
    y[0, 0, 0] = 7
    with pytest.raises(TapeError, match=f"^rnnfast.LSTM.backward: {place}y has changed since"):
        layer.backward(tape, np.ones(y.shape))


# Parameters --------------------------------------------------------------------------------------


def test_names_and_shapes_in_pytorch_s_order() -> None:
    layer = rnnfast.GRU(4, 7, num_layers=2, bidirectional=True, device="numpy")
    assert {name: a.shape for name, a in layer.parameters.items()} == {
        "weight_ih_l0": (21, 4),
        "weight_hh_l0": (21, 7),
        "bias_ih_l0": (21,),
        "bias_hh_l0": (21,),
        "weight_ih_l0_reverse": (21, 4),
        "weight_hh_l0_reverse": (21, 7),
        "bias_ih_l0_reverse": (21,),
        "bias_hh_l0_reverse": (21,),
        "weight_ih_l1": (21, 14),
        "weight_hh_l1": (21, 7),
        "bias_ih_l1": (21,),
        "bias_hh_l1": (21,),
        "weight_ih_l1_reverse": (21, 14),
        "weight_hh_l1_reverse": (21, 7),
        "bias_ih_l1_reverse": (21,),
        "bias_hh_l1_reverse": (21,),
    }
    assert {a.dtype for a in layer.parameters.values()} == {np.dtype(np.float32)}
    assert list(rnnfast.RNN(2, 3, bias=False, device="numpy").parameters) == [
        "weight_ih_l0",
        "weight_hh_l0",
    ]


def test_writes_and_rebinding_are_seen_by_the_next_call(device: str) -> None:
    layer, x = build("lstm", device), np.ones((3, 2, 4))
    prepared = layer.prepare()
    before, _ = layer(x)
    equal(prepared(x)[0], before)
    layer.parameters["weight_ih_l0"] *= 2
    written, _ = layer(x)
    assert not np.array_equal(written, before)
    mine = np.zeros((28, 4))
    layer.weight_ih_l0 = mine
    assert layer.weight_ih_l0 is layer.parameters["weight_ih_l0"] is mine
    rebound, _ = layer(x)
    assert not np.array_equal(rebound, written)
    mine += 1
    assert not np.array_equal(layer(x)[0], rebound)
    equal(prepared(x)[0], before)


def test_parameters_are_guarded() -> None:
    layer = rnnfast.LSTM(4, 7, device="numpy")
    text = r"^rnnfast.LSTM: weight_ih_l0 has shape \(28, 5\), expected \(28, 4\) from the layer.$"
    with pytest.raises(ShapeError, match=text):
        layer.weight_ih_l0 = np.zeros((28, 5), np.float32)
    text = r"^rnnfast.LSTM: the layer is float32 but bias_ih_l0 is float64; all arrays must share"
    with pytest.raises(DTypeError, match=text):
        layer.parameters["bias_ih_l0"] = np.zeros(28)
    with pytest.raises(ArgumentError, match="is not a C-contiguous array"):
        layer.parameters["weight_ih_l0"] = np.zeros((4, 28), np.float32).T
    with pytest.raises(
        KeyError, match="no parameter 'weight'; there are weight_ih_l0, weight_hh_l0"
    ):
        layer.parameters["weight"] = np.zeros(3)
    with pytest.raises(TypeError, match="parameters are fixed"):
        del layer.parameters["bias_ih_l0"]
    with pytest.raises(AttributeError, match="LSTM has no attribute or parameter 'weight'"):
        _ = layer.weight
    with pytest.raises(AttributeError):
        layer.hidden_size = 9


def test_state_dict_copies_out_and_in(device: str) -> None:
    a, b = build("gru", device, num_layers=2), build("gru", device, num_layers=2)
    b.parameters["weight_ih_l0"] += 1
    held = b.parameters["weight_ih_l0"]
    state = a.state_dict()
    assert list(state) == list(a.parameters)
    b.load_state_dict(state)
    assert b.parameters["weight_ih_l0"] is held
    x = np.ones((3, 2, 4))
    equal(a(x)[0], b(x)[0])
    state["weight_ih_l0"] += 1
    equal(a(x)[0], b(x)[0])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            lambda s: s.pop("bias_hh_l0"),
            ArgumentError,
            "rnnfast.RNN.load_state_dict: names do not fit: missing bias_hh_l0.",
        ),
        (
            lambda s: s.update(weight_ih_l1=0, other=1),
            ArgumentError,
            "rnnfast.RNN.load_state_dict: names do not fit: unexpected weight_ih_l1, other.",
        ),
        (
            lambda s: s.update(bias_hh_l0=np.zeros(3, np.float32)),
            ShapeError,
            "rnnfast.RNN: bias_hh_l0 has shape (3,), expected (7,) from the layer.",
        ),
        (
            lambda s: s.update(bias_hh_l0=[0.0] * 7),
            DTypeError,
            "rnnfast.RNN: bias_hh_l0 is of type list, expected a NumPy array. "
            "Use np.asarray(bias_hh_l0).",
        ),
    ],
)
def test_load_refuses_what_does_not_fit_and_writes_nothing(
    change: Any, error: Any, text: str
) -> None:
    layer = rnnfast.RNN(4, 7, device="numpy", seed=1)
    before = layer.state_dict()
    wrong = {name: array + 1 for name, array in before.items()}
    change(wrong)
    with pytest.raises(error) as caught:
        layer.load_state_dict(wrong)
    assert str(caught.value) == text
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(array, before[name])


def test_two_layers_can_share_an_array(device: str) -> None:
    a, b = build("gru", device), build("gru", device)
    b.weight_hh_l0 = a.weight_hh_l0
    x = np.ones((3, 2, 4))
    equal(a(x)[0], b(x)[0])
    a.weight_hh_l0 *= 0.5
    equal(a(x)[0], b(x)[0])


# Copies ------------------------------------------------------------------------------------------


@layers
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_are_whole_and_apart(device: str, kind: str, copied: Any) -> None:
    options = {"num_layers": 2, "bidirectional": True, "dropout": 0.25, "initial_state": "learned"}
    layer = build(kind, device, **options)
    layer.dropout = 0.5
    layer.note = "mine"
    twin = copied(layer)
    assert repr(twin) == repr(layer)
    assert (twin.dropout, twin.note, type(twin)) == (0.5, "mine", type(layer))
    x = rng.standard_normal((3, 2, 4))
    equal(twin(x)[0], layer(x)[0])
    y, _, tape = twin.forward(x, training=True, seed=1)
    y2, _, tape2 = layer.forward(x, training=True, seed=1)
    equal(y, y2)
    same_gradients(twin.backward(tape, y), layer.backward(tape2, y2))
    twin.parameters["weight_ih_l0"] += 1
    assert not np.array_equal(twin(x)[0], layer(x)[0])


def test_a_shallow_copy_shares_its_parameters(device: str) -> None:
    layer = build("rnn", device)
    twin = copy.copy(layer)
    layer.weight_hh_l0 *= 0.5
    equal(twin(np.ones((3, 2, 4)))[0], layer(np.ones((3, 2, 4)))[0])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_prepared_layer_stays_where_it_is(device: str, copied: Any) -> None:
    with pytest.raises(TypeError, match="Pickle the layer and prepare it again"):
        copied(build("rnn", device).prepare())


@layers
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}]
)
def test_prepared_gives_the_same_bits(device: str, kind: str, options: dict[str, Any]) -> None:
    layer = build(kind, device, **options)
    x = rng.standard_normal((5, 3, 4))
    state = draw_state(layer, 5 if layer.batch_first else 3)
    prepared = layer.prepare()
    for given in (None, state):
        (y, last), (y2, last2) = layer(x, given), prepared(x, given)
        equal(y, y2)
        equal(last, last2)
    assert repr(prepared) == f"<prepared {layer!r}>"
    with pytest.raises(ShapeError, match="I=4 from input_size"):
        prepared(np.zeros((5, 3, 9)))


# Dropout between layers --------------------------------------------------------------------------


@layers
@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_is_a_mask_on_what_the_next_layer_reads(
    device: str, kind: str, bidirectional: bool
) -> None:
    layer = build(kind, device, num_layers=2, dropout=0.25, bidirectional=bidirectional)
    D = 1 + bidirectional
    x = rng.standard_normal((6, 3, 4))
    y, last, tape = layer.forward(x, training=True, seed=11)
    assert tape.seed == 11
    lower = build(kind, device, bidirectional=bidirectional)
    upper = build(kind, device, D * 7, 7, bidirectional=bidirectional)
    for name, array in layer.parameters.items():
        part = lower if "_l0" in name else upper
        part.parameters[name.replace("_l1", "_l0")][...] = array
    steps, rows = np.arange(6)[:, None], np.arange(3)
    mask = rnnfast._random.between_layers(0.25, 11, 0, steps, rows, 7, D, layer.dtype)
    assert set(np.unique(mask)) == {0, 1 / 0.75}
    hidden, first, tape0 = lower.forward(x)
    y2, second, tape1 = upper.forward(hidden * mask)
    equal(y, y2)
    for whole, a, b in zip(parts(last), parts(first), parts(second), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate([a, b]))
    dy = rng.standard_normal(y.shape)
    gradients = layer.backward(tape, dy)
    above = upper.backward(tape1, dy)
    below = lower.backward(tape0, above.x * mask)
    equal(gradients.x, below.x)
    equal(gradients.parameters["weight_ih_l1"], above.parameters["weight_ih_l0"])
    equal(gradients.parameters["weight_hh_l0"], below.parameters["weight_hh_l0"])
    same_gradients(layer.backward(tape, dy), gradients)


def test_dropout_only_while_training_and_above_zero(device: str) -> None:
    layer = build("gru", device, num_layers=2, dropout=0.5)
    x = rng.standard_normal((6, 3, 4))
    plain, _ = layer(x)
    y, _, tape = layer.forward(x)
    equal(y, plain)
    assert tape.seed is None
    dropped, _, tape = layer.forward(x, training=True)
    assert not np.array_equal(dropped, plain)
    equal(layer.forward(x, training=True, seed=tape.seed)[0], dropped)
    assert layer.forward(x, training=True)[2].seed != tape.seed
    layer.dropout = 0.0
    y, _, tape = layer.forward(x, training=True, seed=1)
    equal(y, plain)
    assert tape.seed is None


def test_dropout_of_everything_leaves_biases(device: str) -> None:
    layer = build("rnn", device, num_layers=2, dropout=1.0)
    a, _, tape = layer.forward(rng.standard_normal((3, 2, 4)), training=True)
    b, _, _ = layer.forward(rng.standard_normal((3, 2, 4)), training=True)
    np.testing.assert_array_equal(a, b)
    assert not layer.backward(tape, np.ones(a.shape)).x.any()


def test_masks_do_not_depend_on_chunks_or_batch(device: str) -> None:
    layer = build("lstm", device, num_layers=3, dropout=0.5, batch_first=True)
    x = rng.standard_normal((3, 8, 4))
    whole, _, _ = layer.forward(x, training=True, seed=4)
    a, state, _ = layer.forward(x[:, :5], training=True, seed=4)
    b, _, _ = layer.forward(x[:, 5:], state, training=True, seed=4, t0=5)
    # NumPy's own product may sum a row otherwise where there are fewer.
    atol = 0 if device == "cpu" else 1e-14
    np.testing.assert_allclose(np.concatenate([a, b], 1), whole, rtol=0, atol=atol)
    row, _, _ = layer.forward(x[2:], training=True, seed=4, row_ids=np.array([2]))
    np.testing.assert_allclose(row, whole[2:], rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"seed": -1}, ArgumentError, "seed is -1, expected 0 <= seed < 2**64"),
        ({"seed": 2**64}, ArgumentError, "expected 0 <= seed < 2**64"),
        ({"seed": "1"}, DTypeError, "seed is of type str, expected int"),
        ({"t0": -1}, ArgumentError, "t0 is -1, expected 0 <= t0 < 2**32"),
        ({"row_ids": [0, 1]}, DTypeError, "row_ids is of type list, expected a NumPy array"),
        ({"row_ids": np.zeros(3, int)}, ShapeError, "row_ids has shape (3,), expected (B,) = (2,)"),
        ({"row_ids": np.array([0, -1])}, ArgumentError, "row_ids holds -1 at [1]"),
    ],
)
def test_dropout_s_arguments(options: dict[str, Any], error: Any, text: str) -> None:
    layer = rnnfast.GRU(4, 7, num_layers=2, dropout=0.5, device="numpy")
    with pytest.raises(error) as caught:
        layer.forward(np.zeros((3, 2, 4), np.float32), training=True, **options)
    who = "rnnfast.GRU" if "row_ids" in options else "rnnfast.GRU.forward"
    assert str(caught.value).startswith(f"{who}: ")
    assert text in str(caught.value)


# Words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "state", "error", "text"),
    [
        (
            np.zeros((5, 3, 9)),
            None,
            ShapeError,
            "rnnfast.LSTM: x has shape (5, 3, 9), expected (T, B, I) = (5, 3, 4); "
            "I=4 from input_size.",
        ),
        (
            np.zeros((5, 9)),
            None,
            ShapeError,
            "rnnfast.LSTM: x has shape (5, 9), expected (T, I) = (5, 4); I=4 from input_size.",
        ),
        (
            np.zeros(5),
            None,
            ShapeError,
            "rnnfast.LSTM: x has shape (5,), expected (T, B, I) = (T, B, 4); I=4 from input_size.",
        ),
        (
            np.zeros((5, 3, 4), int),
            None,
            DTypeError,
            "rnnfast.LSTM: x is int64 with shape (5, 3, 4); an integer dtype means indices (T, B). "
            'For dense input use x.astype("float64").',
        ),
        (
            np.zeros((5, 3, 4), np.float32),
            None,
            DTypeError,
            "rnnfast.LSTM: the layer is float64 but x is float32; all arrays must share one dtype. "
            'Use x.astype("float64").',
        ),
        (
            np.zeros((5, 3, 4)),
            np.zeros((4, 3, 7)),
            DTypeError,
            "rnnfast.LSTM: the state is of type ndarray, expected a tuple (h, c).",
        ),
        (
            np.zeros((5, 3, 4)),
            (np.zeros((4, 3, 7)),),
            DTypeError,
            "rnnfast.LSTM: the state is a tuple of 1, expected a tuple (h, c).",
        ),
        (
            np.zeros((5, 3, 4)),
            (np.zeros((4, 3, 7)), np.zeros((2, 3, 7))),
            ShapeError,
            "rnnfast.LSTM: c0 has shape (2, 3, 7), expected (D*L, B, H) = (4, 3, 7); "
            "D=2 from bidirectional, L=2 from num_layers, B=3 from x, H=7 from hidden_size.",
        ),
        (
            [[[0.0]]],
            None,
            DTypeError,
            "rnnfast.LSTM: x is of type list, expected a NumPy array. Use np.asarray(x).",
        ),
    ],
)
@pytest.mark.parametrize("L", [1, 2])
def test_inputs_in_words(device: str, L: int, x: Any, state: Any, error: Any, text: str) -> None:
    if L == 1 and "L=2" in text:
        text = (
            text.replace("L=2", "L=1")
            .replace("(4, 3, 7)", "(2, 3, 7)")
            .replace("(2, 3, 7), expected", "(1, 3, 7), expected")
        )
        state = (np.zeros((2, 3, 7)), np.zeros((1, 3, 7)))
    layer = build("lstm", device, num_layers=L, bidirectional=True)
    for call in (layer, layer.forward, layer.prepare()):
        with pytest.raises(error) as caught:
            call(x, state)
        assert str(caught.value) == text


@pytest.mark.parametrize("L", [1, 2])
def test_gradients_in_words(device: str, L: int) -> None:
    layer = build("gru", device, num_layers=L)
    _, _, tape = layer.forward(np.zeros((5, 3, 4)))
    with pytest.raises(ShapeError) as caught:
        layer.backward(tape, np.zeros((5, 3, 6)))
    assert str(caught.value) == (
        "rnnfast.GRU.backward: dy has shape (5, 3, 6), expected (T, B, D*H) = (5, 3, 7); "
        "T=5 from the tape, B=3 from the tape, D=1 from bidirectional, H=7 from hidden_size."
    )
    with pytest.raises(ShapeError, match="dh_n has shape"):
        layer.backward(tape, None, np.zeros((5, 3, 7)))
    with pytest.raises(DTypeError, match="dy is float32"):
        layer.backward(tape, np.zeros((5, 3, 7), np.float32))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"hidden_size": 0}, ArgumentError, "hidden_size is 0, expected at least 1."),
        ({"input_size": -1}, ArgumentError, "input_size is -1, expected at least 1."),
        ({"num_layers": 0}, ArgumentError, "num_layers is 0, expected at least 1."),
        ({"num_layers": 1.0}, DTypeError, "num_layers is of type float, expected int."),
        ({"hidden_size": True}, DTypeError, "hidden_size is of type bool, expected int."),
        ({"bias": 1}, DTypeError, "bias is of type int, expected bool."),
        ({"dropout": 1.5}, ArgumentError, "dropout is 1.5, expected 0 <= dropout <= 1."),
        ({"dropout": "a"}, DTypeError, "dropout is of type str, expected a number."),
        ({"dropout": float("nan")}, ArgumentError, "dropout is nan, expected 0 <= dropout <= 1."),
        (
            {"proj_size": 3},
            ArgumentError,
            "proj_size is 3, expected 0: projections have no kernel yet.",
        ),
        ({"dtype": "float16"}, DTypeError, "dtype is float16, expected float32 or float64."),
        ({"dtype": None}, DTypeError, "dtype is None, expected float32 or float64."),
        (
            {"initial_state": "random"},
            ArgumentError,
            'initial_state is \'random\', expected "zero" or "learned".',
        ),
        (
            {"device": "tpu"},
            ArgumentError,
            'device is \'tpu\', expected "auto", "cpu", "cuda" or "numpy".',
        ),
    ],
)
def test_constructor_in_words(options: dict[str, Any], error: Any, text: str) -> None:
    with pytest.raises(error) as caught:
        rnnfast.LSTM(**{"input_size": 4, "hidden_size": 7, "device": "numpy", **options})
    assert str(caught.value) == f"rnnfast.LSTM: {text}"


def test_dropout_with_one_layer_warns() -> None:
    with pytest.warns(UserWarning, match="dropout=0.5 does nothing with num_layers=1"):
        rnnfast.GRU(4, 7, dropout=0.5, device="numpy")


def test_repr_says_what_differs_from_the_default() -> None:
    assert repr(rnnfast.RNN(4, 7)) == "RNN(4, 7)"
    layer = rnnfast.RNN(4, 7, 2, "relu", False, True, 0.5, True, dtype="float64", device="numpy")
    assert repr(layer) == (
        "RNN(4, 7, num_layers=2, nonlinearity='relu', bias=False, batch_first=True, dropout=0.5, "
        "bidirectional=True, dtype='float64', device='numpy')"
    )
    assert layer.nonlinearity == "relu"
    assert (layer.input_size, layer.hidden_size, layer.num_layers, layer.bias) == (4, 7, 2, False)
    assert (layer.batch_first, layer.bidirectional, layer.initial_state) == (True, True, "zero")
