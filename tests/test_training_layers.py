"""Embedding and Linear: central differences, PyTorch, words."""

import numpy as np
import pytest
from test_training_losses import central_differences

import rnnfast
from rnnfast import ArgumentError, DTypeError, IndexedRows, IndexRangeError, ShapeError
from rnnfast.training import Embedding, Linear

DEVICES = [name for name, reason in rnnfast.backends().items() if reason is None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 2, 5), (0, 2, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_gradients(device, shape, bias):
    rng = np.random.default_rng(2)
    layer = Linear(5, 3, bias, dtype="float64", seed=0, device=device)
    x = rng.standard_normal(shape)
    y, tape = layer.forward(x)
    assert y.shape == (*shape[:-1], 3)
    expected = x @ layer.parameters["weight"].T + layer.parameters.get("bias", 0)
    np.testing.assert_allclose(y, expected, rtol=1e-13)
    np.testing.assert_array_equal(layer(x), y)
    dy = rng.standard_normal(y.shape)
    gradients = layer.backward(tape, dy)
    assert set(gradients.parameters) == set(layer.parameters)

    def objective(_):
        return float((layer(x) * dy).sum())

    np.testing.assert_allclose(gradients.x, central_differences(objective, x), atol=1e-8)
    for name, parameter in layer.parameters.items():
        numeric = central_differences(objective, parameter)
        np.testing.assert_allclose(gradients.parameters[name], numeric, atol=1e-8)
    without_x = layer.backward(tape, dy, need_dx=False)
    assert without_x.x is None
    for name, gradient in gradients.parameters.items():
        np.testing.assert_array_equal(without_x.parameters[name], gradient)


def test_linear_takes_any_strides():
    layer = Linear(4, 3, seed=0, device="numpy")
    x = np.random.default_rng(0).standard_normal((6, 2, 8)).astype(np.float32)[::-2, :, ::2]
    np.testing.assert_array_equal(layer(x), layer(x.copy()))


@pytest.mark.skipif("cpu" not in DEVICES, reason="the compiled module is not built")
def test_linear_bits_do_not_depend_on_rows():
    layer = Linear(37, 53, seed=0, device="cpu")
    x = np.random.default_rng(0).standard_normal((65, 37)).astype(np.float32)
    y = layer(x)
    for rows in (1, 2, 5, 16, 33):
        np.testing.assert_array_equal(layer(x[:rows]), y[:rows])


def test_layers_are_seedable():
    for make in (lambda seed: Linear(3, 4, seed=seed), lambda seed: Embedding(3, 4, seed=seed)):
        first, again, other = make(1), make(1), make(2)
        np.testing.assert_array_equal(first.parameters["weight"], again.parameters["weight"])
        assert (first.parameters["weight"] != other.parameters["weight"]).any()


def test_embedding_looks_up_and_adds_up():
    layer = Embedding(6, 2, dtype="float64", seed=0)
    x = np.array([[4, 1], [4, 0], [1, 4]])
    y, tape = layer.forward(x)
    np.testing.assert_array_equal(y, layer.parameters["weight"][x])
    np.testing.assert_array_equal(layer(x), y)
    x[:] = 5  # the tape keeps its own copy
    dy = np.random.default_rng(0).standard_normal(y.shape)
    gradient = layer.backward(tape, dy).parameters["weight"]
    assert isinstance(gradient, IndexedRows)
    assert gradient.axis == 0
    np.testing.assert_array_equal(gradient.indices, [0, 1, 4])
    x[:] = [[4, 1], [4, 0], [1, 4]]
    numeric = central_differences(
        lambda _: float((layer(x) * dy).sum()), layer.parameters["weight"]
    )
    np.testing.assert_allclose(gradient.dense(), numeric, atol=1e-8)


def test_embedding_of_nothing():
    layer = Embedding(6, 2)
    y, tape = layer.forward(np.zeros((0, 3), np.int64))
    assert y.shape == (0, 3, 2)
    assert not layer.backward(tape, y).parameters["weight"].dense().any()


def test_parity_with_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(0)
    ours, theirs = Linear(5, 3, dtype="float64", device="numpy"), torch.nn.Linear(5, 3).double()
    theirs.load_state_dict({k: torch.tensor(v) for k, v in ours.parameters.items()})
    x, dy = rng.standard_normal((4, 2, 5)), rng.standard_normal((4, 2, 3))
    tensor = torch.tensor(x, requires_grad=True)
    output = theirs(tensor)
    output.backward(torch.tensor(dy))
    y, tape = ours.forward(x)
    gradients = ours.backward(tape, dy)
    np.testing.assert_allclose(y, output.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(gradients.x, tensor.grad.numpy(), rtol=1e-12, atol=1e-13)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(
            gradients.parameters[name], parameter.grad.numpy(), rtol=1e-12, atol=1e-13
        )

    table, reference = Embedding(7, 3, dtype="float64"), torch.nn.Embedding(7, 3).double()
    reference.load_state_dict({k: torch.tensor(v) for k, v in table.parameters.items()})
    indices = rng.integers(7, size=(4, 2))
    reference(torch.tensor(indices)).backward(torch.tensor(dy))
    _, tape = table.forward(indices)
    np.testing.assert_allclose(
        table.backward(tape, dy).parameters["weight"].dense(),
        reference.weight.grad.numpy(),
        rtol=1e-12,
        atol=1e-13,
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Linear(0, 3), ArgumentError, "in_features is 0"),
        (lambda: Linear(4, 3, dtype="float16"), DTypeError, "dtype is float16"),
        (
            lambda: Linear(4, 3, device="numpy")(np.zeros((2, 5), np.float32)),
            ShapeError,
            r"x has shape \(2, 5\), expected \(N, K\) = \(N, 4\)|K=4 from weight",
        ),
        (
            lambda: Linear(4, 3, device="numpy")(np.zeros((2, 4))),
            DTypeError,
            "x is float64",
        ),
        (
            lambda: Linear(4, 3, device="numpy")(np.zeros((1, 1, 2, 4), np.float32)),
            ShapeError,
            r"expected \(K,\), \(N, K\) or \(T, B, K\)",
        ),
        (lambda: Embedding(3, 0), ArgumentError, "embedding_dim is 0"),
        (lambda: Embedding(3, 2)(np.zeros(2)), DTypeError, "x is float64, expected an integer"),
        (
            lambda: Embedding(3, 2)(np.array([[0, 3]])),
            IndexRangeError,
            r"x holds the index 3 at \[0, 1\].*I=3 from weight|expected 0 <= index < 3",
        ),
    ],
)
def test_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("shape", [(4, 4), (3, 3), (4,), (4, 2, 3)])
def test_linear_refuses_a_foreign_dy(shape):
    layer = Linear(5, 3, device="numpy")
    _, tape = layer.forward(np.zeros((4, 5), np.float32))
    with pytest.raises(ShapeError, match=r"dy has shape .*expected \(N, M\) = \(4, 3\)"):
        layer.backward(tape, np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (2,), (4, 2, 3)])
def test_embedding_refuses_a_foreign_dy(shape):
    layer = Embedding(5, 3)
    _, tape = layer.forward(np.zeros(4, np.int64))
    with pytest.raises(ShapeError, match="dy has shape"):
        layer.backward(tape, np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "make", [lambda s: Linear(5, 3, seed=s), lambda s: Embedding(5, 3, seed=s)]
)
def test_state_dict_round_trip(make):
    one, other = make(1), make(2)
    state = one.state_dict()
    other.load_state_dict(state)
    for name, array in one.parameters.items():
        np.testing.assert_array_equal(other.parameters[name], array)
        state[name][...] = 0  # a copy
        assert array.any()
    with pytest.raises(ArgumentError, match="missing weight"):
        other.load_state_dict({})
    with pytest.raises(ShapeError, match="weight has shape"):
        other.load_state_dict({**state, "weight": state["weight"][:2]})
