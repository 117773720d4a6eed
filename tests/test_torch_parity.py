"""Parity with torch.nn: the same weights give the same outputs, states and gradients, and back
again."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import require

import rnnfast

torch = require("torch")

import torch_pairs as pairs  # noqa: E402

KINDS = pairs.KINDS
kinds = pytest.mark.parametrize("kind", list(KINDS))


def pair(kind: str, device: str, **options: Any) -> tuple[Any, Any]:
    """Our layer and torch's, with our weights."""
    name, own = KINDS[kind]
    ours = getattr(rnnfast, name)(5, 8, dtype="float64", seed=2, device=device, **own, **options)
    theirs = getattr(torch.nn, name)(5, 8, dtype=torch.float64, **own, **options)
    weights = {name: torch.from_numpy(a) for name, a in ours.state_dict().items()}
    theirs.load_state_dict(weights, strict=True)
    return ours, theirs


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def whole(arrays: list[Any]) -> Any:
    return tuple(arrays) if len(arrays) == 2 else arrays[0]


def close(ours: np.ndarray, theirs: Any, what: str) -> None:
    """Two float64 computations of one function."""
    pairs.alike(torch.from_numpy(ours), theirs.detach(), what)


def assert_parity(
    kind: str, device: str, shape: tuple[int, ...], given: bool, **options: Any
) -> None:
    ours, theirs = pair(kind, device, **options)
    rng = np.random.default_rng(4)
    x = rng.standard_normal(shape)
    D, L = 1 + ours.bidirectional, ours.num_layers
    batch = () if len(shape) == 2 else (shape[0 if ours.batch_first else 1],)
    S = len(rnnfast.CELLS[ours.cell].states)
    start = [rng.standard_normal((D * L, *batch, 8)) for _ in range(S)]
    tx = torch.tensor(x, requires_grad=True)
    tstart = [torch.tensor(s, requires_grad=True) for s in start]
    ty, tlast = theirs(tx, whole(tstart)) if given else theirs(tx)
    y, last, tape = ours.forward(x, whole(start) if given else None)
    close(y, ty, "y")
    for a, b in zip(parts(last), parts(tlast), strict=True):
        close(a, b, "final state")
    y2, _ = ours(x, whole(start) if given else None)
    np.testing.assert_array_equal(y2, y)
    dy, dlast = rng.standard_normal(y.shape), [rng.standard_normal(s.shape) for s in start]
    loss = (ty * torch.tensor(dy)).sum()
    for s, d in zip(parts(tlast), dlast, strict=True):
        loss = loss + (s * torch.tensor(d)).sum()
    loss.backward()
    gradients = ours.backward(tape, dy, whole(dlast))
    close(gradients.x, tx.grad, "dx")
    assert list(gradients.parameters) == [name for name, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        close(gradients.parameters[name], parameter.grad, name)
    if given:
        for a, b in zip(parts(gradients.state), tstart, strict=True):
            close(a, b.grad, "initial state")


GRID = list(itertools.product([1, 2, 3], [False, True], [False, True], [False, True]))


@kinds
@pytest.mark.parametrize(("L", "bidirectional", "batch_first", "bias"), GRID)
def test_layers(
    device: str, kind: str, L: int, bidirectional: bool, batch_first: bool, bias: bool
) -> None:
    options = {
        "num_layers": L,
        "bidirectional": bidirectional,
        "batch_first": batch_first,
        "bias": bias,
    }
    assert_parity(kind, device, (6, 3, 5), True, **options)


@kinds
@pytest.mark.parametrize("shape", [(1, 1, 5), (30, 2, 5), (7, 5), (1, 5)], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["zero", "given"])
def test_shapes_and_omitted_state(
    device: str, kind: str, shape: tuple[int, ...], given: bool
) -> None:
    assert_parity(kind, device, shape, given, num_layers=2, bidirectional=True)


@kinds
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_travel_both_ways(
    device: str, kind: str, L: int, bidirectional: bool, bias: bool
) -> None:
    options = {"num_layers": L, "bidirectional": bidirectional, "bias": bias}
    ours, theirs = pair(kind, device, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.nn.init.normal_(theirs.weight_hh_l0)
    ours.load_state_dict({name: p.numpy() for name, p in theirs.state_dict().items()})
    for name, parameter in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.parameters[name], parameter.numpy())
    x = np.random.default_rng(1).standard_normal((4, 2, 5))
    close(ours(x)[0], theirs(torch.from_numpy(x))[0], "y")


@kinds
def test_the_constructor_s_arguments_come_in_torch_s_order(kind: str) -> None:
    name, own = KINDS[kind]
    arguments = [5, 8, 2, *own.values(), False, True, 0.5, True]
    if kind == "rnn":
        arguments.insert(3, "tanh")
    ours = getattr(rnnfast, name)(*arguments, device="numpy")
    theirs = getattr(torch.nn, name)(*arguments)
    for attribute in (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        *own,
    ):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute


@kinds
def test_default_initialisation_has_torch_s_distribution(kind: str) -> None:
    name, own = KINDS[kind]
    ours = getattr(rnnfast, name)(64, 100, seed=1, device="numpy", **own)
    theirs = getattr(torch.nn, name)(64, 100, **own)
    for key, parameter in theirs.state_dict().items():
        array = ours.parameters[key]
        assert array.dtype == np.float32
        for values in (array, parameter.numpy()):
            # U(-0.1, 0.1): standard deviation 0.1 / sqrt(3).
            assert float(np.abs(values).max()) <= 0.1
            assert float(values.std()) == pytest.approx(0.1 / np.sqrt(3), rel=0.15)
            assert float(values.mean()) == pytest.approx(0, abs=0.025)
