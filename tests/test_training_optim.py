"""Optimisers and clipping: hand-computed steps, PyTorch, indexed gradients, saving and loading."""

import math

import numpy as np
import pytest

from rnnfast import ArgumentError, DTypeError, IndexedRows, ShapeError
from rnnfast.training import SGD, Adam, clip_by_global_norm, clip_by_value

MAKERS = {
    "sgd": lambda parameters: SGD(parameters, 0.1),
    "momentum": lambda parameters: SGD(parameters, 0.1, momentum=0.9),
    "adam": lambda parameters: Adam(parameters, 0.1),
}


def parameters(dtype=np.float64):
    rng = np.random.default_rng(3)
    shapes = {"W": (6, 5), "table": (5, 3), "b": (6,)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def gradients_like(arrays, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in arrays.items()}


def test_sgd_by_hand():
    p = {"p": np.array([1.0, 2.0])}
    optimizer = SGD(p, 0.5, momentum=0.5)
    optimizer.step({"p": np.array([1.0, -1.0])})  # u = g
    np.testing.assert_array_equal(p["p"], [0.5, 2.5])
    optimizer.step({"p": np.array([1.0, 0.0])})  # u = (1.5, -0.5)
    np.testing.assert_array_equal(p["p"], [-0.25, 2.75])
    optimizer.step({"p": np.array([0.0, 0.0])}, lr=1.0)  # u = (0.75, -0.25)
    np.testing.assert_array_equal(p["p"], [-1.0, 3.0])


def test_adam_by_the_paper():
    p, expected = {"p": np.array([1.0, -2.0, 3.0])}, np.array([1.0, -2.0, 3.0])
    optimizer = Adam(p, 0.1, betas=(0.8, 0.95), eps=1e-3)
    m, v = np.zeros(3), np.zeros(3)
    for t in range(1, 6):
        g = np.sin(np.arange(3.0) + t)
        m = 0.8 * m + 0.2 * g
        v = 0.95 * v + 0.05 * g * g
        expected -= 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3)
        kept = g.copy()
        optimizer.step({"p": g})
        np.testing.assert_array_equal(g, kept)
        np.testing.assert_allclose(p["p"], expected, rtol=1e-13)


@pytest.mark.parametrize("kind", MAKERS)
def test_parity_with_torch(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ours = parameters()
    theirs = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in ours.items()}
    optimizer = MAKERS[kind](ours)
    reference = {
        "sgd": lambda: torch.optim.SGD(theirs.values(), 0.1),
        "momentum": lambda: torch.optim.SGD(theirs.values(), 0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(theirs.values(), 0.1),
    }[kind]()
    for seed in range(5):
        gradients = gradients_like(ours, seed)
        for name, tensor in theirs.items():
            tensor.grad = torch.tensor(gradients[name])
        optimizer.step(gradients)
        reference.step()
        for name, tensor in theirs.items():
            np.testing.assert_allclose(ours[name], tensor.detach().numpy(), rtol=1e-12)


def test_indexed_adam_is_torch_sparse_adam():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    table = np.random.default_rng(0).standard_normal((6, 3))
    theirs = torch.nn.Parameter(torch.tensor(table))
    # SparseAdam adds eps to the uncorrected root; one so small shows no difference.
    optimizer = Adam({"t": table}, 0.1, eps=1e-16)
    reference = torch.optim.SparseAdam([theirs], 0.1, eps=1e-16)
    rng = np.random.default_rng(1)
    for indices in ([0, 2], [2, 5], [0, 1, 2, 3, 4, 5], [3]):
        rows = rng.standard_normal((len(indices), 3))
        optimizer.step({"t": IndexedRows(np.array(indices), rows, (6, 3), axis=0)})
        theirs.grad = torch.sparse_coo_tensor(
            torch.tensor([indices]), torch.tensor(rows), (6, 3), check_invariants=False
        )
        reference.step()
        np.testing.assert_allclose(table, theirs.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", MAKERS)
def test_indexed_gradients(kind, axis, dtype):
    """All indices: the bits of the dense step. Some: they move as if alone, the rest stays."""
    start = np.random.default_rng(0).standard_normal((6, 6)).astype(dtype)
    dense, indexed, alone = start.copy(), start.copy(), np.moveaxis(start, axis, 0)[[1, 4]].copy()
    of_dense, of_indexed = MAKERS[kind]({"W": dense}), MAKERS[kind]({"W": indexed})
    of_alone = MAKERS[kind]({"W": alone})
    rng = np.random.default_rng(1)
    for _ in range(3):
        rows = rng.standard_normal((6, 6)).astype(dtype)
        gradient = IndexedRows(np.arange(6), rows, (6, 6), axis=axis)
        of_indexed.step({"W": gradient})
        of_dense.step({"W": gradient.dense()})
        np.testing.assert_array_equal(indexed, dense)
        of_alone.step({"W": rows[[1, 4]]})
    for _ in range(3):
        rows = rng.standard_normal((2, 6)).astype(dtype)
        before = indexed.copy()
        of_indexed.step({"W": IndexedRows(np.array([1, 4]), rows, (6, 6), axis=axis)})
        of_alone.step({"W": rows})
        moved = np.moveaxis(indexed, axis, 0)
        np.testing.assert_array_equal(moved[[1, 4]], alone)
        still = [0, 2, 3, 5]
        np.testing.assert_array_equal(moved[still], np.moveaxis(before, axis, 0)[still])


@pytest.mark.parametrize("kind", MAKERS)
def test_state_goes_on_to_the_bit(kind):
    whole, halves = parameters(np.float32), parameters(np.float32)
    optimizer, first, second = (MAKERS[kind](p) for p in (whole, halves, halves))
    for seed in range(6):
        optimizer.step(gradients_like(whole, seed))
    for seed in range(3):
        first.step(gradients_like(halves, seed))
    kept, state = {name: array.copy() for name, array in halves.items()}, first.state_dict()
    first.step(gradients_like(halves, 9))  # neither the copy nor the state sees this step
    for name, array in kept.items():
        halves[name][...] = array
    second.load_state_dict(state)
    assert second.steps == 3
    for seed in range(3, 6):
        second.step(gradients_like(halves, seed))
    for name, array in whole.items():
        np.testing.assert_array_equal(halves[name], array)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda g: g.pop("b"), ArgumentError, "gradients lack b"),
        (lambda g: g.update(c=g["b"]), ArgumentError, "gradients have unknown c"),
        (lambda g: g.update(b=g["b"][:3]), ShapeError, r"gradient of b has shape \(3,\)"),
        (lambda g: g.update(b=g["b"].astype("f4")), DTypeError, "gradient of b is float32"),
        (lambda g: g.update(b=[0.0] * 6), DTypeError, "gradient of b is a list"),
    ],
)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_bad_gradient_changes_nothing(kind, spoil, error, words):
    p = parameters()
    optimizer = MAKERS[kind](p)
    gradients = gradients_like(p, 0)
    spoil(gradients)
    with pytest.raises(error, match=words):
        optimizer.step(gradients)
    assert optimizer.steps == 0
    for name, array in parameters().items():
        np.testing.assert_array_equal(p[name], array)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda p: SGD(p, 0.0), ArgumentError, "lr is 0.0"),
        (lambda p: SGD(p, math.nan), ArgumentError, "lr is nan"),
        (lambda p: SGD(p, 0.1, momentum=1.0), ArgumentError, "momentum is 1.0"),
        (lambda p: Adam(p, betas=(0.9, 1.0)), ArgumentError, r"betas\[1\] is 1.0"),
        (lambda p: Adam(p, eps=0.0), ArgumentError, "eps is 0.0"),
        (lambda p: Adam({"p": [1.0]}), DTypeError, "p is a list"),
        (lambda p: Adam({"p": np.zeros(2, int)}), DTypeError, "p is int64"),
        (lambda p: Adam({"p": np.broadcast_to(0.0, 2)}), ArgumentError, "p is read-only"),
        (lambda p: Adam(p).load_state_dict({"steps": 1}), ArgumentError, "state lack m.W"),
        (
            lambda p: Adam(p).load_state_dict({**Adam(p).state_dict(), "m.b": np.zeros(2)}),
            ShapeError,
            r"state\['m.b'\] has shape \(2,\)",
        ),
        (lambda p: clip_by_value(p, 0.0), ArgumentError, "limit is 0.0"),
        (lambda p: clip_by_global_norm(p, -1.0), ArgumentError, "max_norm is -1.0"),
    ],
)
def test_words(call, error, words):
    with pytest.raises(error, match=words):
        call(parameters())


def indexed(rows):
    return IndexedRows(np.array([0, 2]), np.array(rows), (4, 2), axis=0)


def test_clip_by_value():
    g = {"a": np.array([-3.0, 0.5, np.nan, 2.0]), "t": indexed([[1.0, -2.0], [0.1, 9.0]])}
    clip_by_value(g, 1.0)
    np.testing.assert_array_equal(g["a"], [-1.0, 0.5, np.nan, 1.0])
    np.testing.assert_array_equal(g["t"].rows, [[1.0, -1.0], [0.1, 1.0]])


def test_clip_by_global_norm():
    g = {"a": np.array([3.0, 0.0]), "t": indexed([[0.0, 4.0], [12.0, 0.0]])}
    assert clip_by_global_norm(g, math.inf) == 13.0
    np.testing.assert_array_equal(g["a"], [3.0, 0.0])
    assert clip_by_global_norm(g, 6.5) == 13.0
    np.testing.assert_array_equal(g["a"], [1.5, 0.0])
    np.testing.assert_array_equal(g["t"].rows, [[0.0, 2.0], [6.0, 0.0]])
    assert clip_by_global_norm(g, 6.5) == 6.5  # at the bound: nothing is scaled
    np.testing.assert_array_equal(g["a"], [1.5, 0.0])


def test_global_norm_of_float32_does_not_overflow():
    g = {"a": np.full(4, 1e30, np.float32)}
    assert clip_by_global_norm(g, 1.0) == pytest.approx(2e30)
    np.testing.assert_allclose(g["a"], 0.5, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_scales_nothing(bad):
    g = {"a": np.array([bad, 5.0]), "b": np.array([7.0])}
    assert not math.isfinite(clip_by_global_norm(g, 1.0))
    np.testing.assert_array_equal(g["a"], [bad, 5.0])
    np.testing.assert_array_equal(g["b"], [7.0])


def test_parity_of_clipping_with_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ours = gradients_like(parameters(), 0)
    tensors = [torch.nn.Parameter(torch.zeros(a.shape, dtype=torch.float64)) for a in ours.values()]
    for tensor, array in zip(tensors, ours.values(), strict=True):
        tensor.grad = torch.tensor(array)
    norm = torch.nn.utils.clip_grad_norm_(tensors, 1.5).item()
    assert clip_by_global_norm(ours, 1.5) == pytest.approx(norm, rel=1e-12)
    for tensor, array in zip(tensors, ours.values(), strict=True):
        # PyTorch divides by the norm plus 1e-6.
        np.testing.assert_allclose(array, tensor.grad.numpy(), rtol=1e-6)
