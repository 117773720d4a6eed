"""Weights that `rnnfast.torch` keeps from call to call are never stale, whoever changes them."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from typing import Any

import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402
from torch import nn  # noqa: E402

import rnnfast.torch as ours  # noqa: E402
from rnnfast.torch import _weights  # noqa: E402

kinds = pytest.mark.parametrize("kind", list(pairs.KINDS))
I, H = 8, 8  # W and R are square, so that transposing one in place changes no shape


def through_numpy(p: Any) -> None:
    p.detach().numpy()[0] = 0.25


def through_data(p: Any) -> None:
    p.data.mul_(2)


def out_is_data(p: Any) -> None:
    torch.mul(p.data, 3, out=p.data)


def swap_two(p: Any) -> None:
    # Sums stay the same.
    p.data[[0, 1]] = p.data[[1, 0]]


def one_bit(p: Any) -> None:
    p.data.view(torch.int32)[-1] ^= 1


def other_data(p: Any) -> None:
    p.data = torch.randn_like(p)


def transposed(p: Any) -> None:
    if p.dim() == 2:
        p.data = p.data[: p.shape[1]].t().repeat(p.shape[0] // p.shape[1], 1)
        with torch.no_grad():
            p[: p.shape[1]].t_()


def strides_changed(p: Any) -> None:
    if p.dim() == 2 and p.shape[0] == p.shape[1]:
        p.data = p.data.t()


def counted(p: Any) -> None:
    with torch.no_grad():
        p.add_(1)


def shared(p: Any) -> None:
    p.share_memory_()
    p.data.mul_(2)


CHANGES = [
    *(through_numpy, through_data, out_is_data, swap_two, one_bit, other_data, transposed),
    *(strides_changed, counted, shared),
]


@kinds
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("steps", [2, 40, None], ids=["2 steps", "40 steps", "a cell"])
@pytest.mark.parametrize("which", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_a_change_of_a_weight_is_seen(
    kind: str, change: Any, steps: int | None, which: str
) -> None:
    def made() -> Any:
        if steps is None:
            return pairs.pair(kind, I, H, suffix="Cell")[0]
        return pairs.pair(kind, I, H, 2, bidirectional=True)[0]

    layer = made()
    if steps is None:
        name, state = which, torch.randn(2, H)  # from zero it would not ask for R
        inputs = torch.randn(2, I), (state, state) if kind == "lstm" else state
    else:
        name = f"{which}_l0_reverse"
        inputs = (torch.randn(steps, 1, I),)
    with torch.no_grad():
        layer(*inputs)
        packed = _weights.kept_of(layer).prepared
        assert None not in packed
        p = getattr(layer, name)
        was = p.detach().clone()
        change(p)
        if torch.equal(was, p):
            pytest.skip("this change is none of a vector, or of a matrix that is not square")
        with pairs.taken("fused"):
            after = pairs.tensors_in(layer(*inputs))[0]
        kept = _weights.kept_of(layer)
        assert kept is None or packed[0] not in kept.prepared
        # Another module with the same numbers, of which nothing is kept yet.
        fresh = made()
        fresh.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()})
        assert torch.equal(after, pairs.tensors_in(fresh(*inputs))[0])


@kinds
def test_packed_weights_are_kept_while_nothing_changes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def prepare(self, *args: Any) -> Any:
            made.append(args[0])
            return core.prepare(*args)

    core = _weights._compiled["auto"]
    monkeypatch.setitem(_weights._compiled, "auto", Spy())
    layer, _ = pairs.pair(kind, I, H, 2)
    x = torch.randn(3, 2, I)
    with torch.inference_mode():
        for _ in range(3):
            layer(x)
        assert len(made) == 2
        layer.weight_hh_l1.data[0, 0] += 1
        layer(x)
        layer(x)
    assert len(made) == 3
    # With a tape the kernels take the weights as they lie.
    layer(x)[0].sum().backward()
    assert len(made) == 3


@pytest.mark.parametrize(("T", "B"), [(2, 1), (1, 2), (17, 1)])
def test_weights_are_packed_for_more_than_one_step(T: int, B: int) -> None:
    layer, x = ours.GRU(64, 64), torch.randn(T, B, 64)
    with torch.no_grad():
        for _ in range(2):  # the second by the road of what has been seen before
            layer(x[:1, :1])
            assert _weights.kept_of(layer).prepared == (None,)
        layer(x)
        assert None not in _weights.kept_of(layer).prepared
        assert torch.equal(layer(x)[0][:1, :1], layer(x[:1, :1])[0])


@kinds
@pytest.mark.parametrize("grad", [True, False])
def test_weights_put_in_for_one_call(kind: str, grad: bool) -> None:
    layer, stock = pairs.pair(kind, I, H, dtype=torch.float64)
    x = pairs.draw((3, 2, I), 0, grad=False)
    other = {k: pairs.draw(p.shape, 5, grad=grad) for k, p in layer.named_parameters()}
    with torch.set_grad_enabled(grad):
        own = layer(x)[0]
        with pairs.taken("fused"):
            y = torch.func.functional_call(layer, other, (x,))[0]
        pairs.alike(y, torch.func.functional_call(stock, other, (x,))[0])
        assert torch.equal(layer(x)[0], own)


def test_a_weight_may_stop_to_need_a_gradient() -> None:
    layer, x = ours.LSTM(I, H), torch.randn(3, 2, I)
    with pairs.taken("fused", 3):
        assert layer(x)[0].requires_grad
        layer.requires_grad_(False)
        assert not layer(x)[0].requires_grad
        layer.bias_hh_l0.requires_grad_(True)
        layer(x)[0].sum().backward()
    assert layer.bias_hh_l0.grad is not None
    assert layer.weight_hh_l0.grad is None


@pytest.mark.parametrize("name", ["GRU", "GRUCell"])
@pytest.mark.parametrize("how", ["to", "double", "load", "data"])
def test_other_dtypes_and_loaded_weights(name: str, how: str) -> None:
    layer, x = getattr(ours, name)(I, H), torch.randn((2, I) if name == "GRUCell" else (3, 2, I))
    with torch.no_grad():
        layer(x)
        if how == "load":
            layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()})
        elif how == "data":
            for p in layer.parameters():
                p.data = p.data.double()
        else:
            layer = layer.to(torch.float64) if how == "to" else layer.double()
        x = x.to(next(layer.parameters()).dtype)
        stock = getattr(nn, name)(I, H, dtype=x.dtype)
        stock.load_state_dict(layer.state_dict())
        with pairs.taken("fused"):
            y = pairs.tensors_in(layer(x))[0]
    torch.testing.assert_close(y, pairs.tensors_in(stock(x))[0].detach())


def test_a_bit_view_of_another_dtype_is_not_taken_for_the_weights() -> None:
    layer, x = ours.GRU(I, H).requires_grad_(False), torch.randn(3, 2, I)
    layer(x)
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.view(torch.int32)
    with pytest.raises((RuntimeError, ValueError)), pairs.taken("stock"):
        layer(x)


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_nothing_is_kept_of_a_module_that_is_gone_and_nothing_goes_with_a_copy(name: str) -> None:
    layer, x = getattr(ours, name)(I, H), torch.randn((2, I) if name == "LSTMCell" else (3, 2, I))
    with torch.no_grad():
        layer(x)
    assert _weights.kept_of(layer) is not None
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert _weights.kept_of(other) is None
    file = io.BytesIO()
    torch.save(layer, file)
    assert set(vars(layer)) == set(vars(getattr(nn, name)(I, H)))
    p, key = weakref.ref(next(layer.parameters())), id(layer)
    assert key in _weights.noted
    del layer
    gc.collect()
    assert p() is None
    assert key not in _weights.noted


def test_what_leaves_the_cpu_is_let_go() -> None:
    layer = ours.LSTM(I, H)
    with torch.no_grad():
        layer(torch.randn(3, 2, I))
        layer.to("meta")(torch.randn(3, 2, I, device="meta"))
    assert _weights.kept_of(layer) is None
    assert id(layer) not in _weights.noted


@kinds
@pytest.mark.parametrize("suffix", ["", "Cell"], ids=["layer", "cell"])
def test_memory_that_moves_before_backward(kind: str, suffix: str) -> None:
    options = {} if suffix else {"num_layers": 2}
    layer, _ = pairs.pair(kind, I, H, suffix=suffix, dtype=torch.float64, **options)
    state = torch.randn(3, H, dtype=torch.float64)
    # A single step from zero would not ask for R.
    states = () if not suffix else ((state, state) if kind == "lstm" else state,)
    x = torch.randn((3, I) if suffix else (3, 2, I), dtype=torch.float64)
    with pairs.taken("fused", 2):
        first, second = (pairs.tensors_in(layer(x, *states))[0].sum() for _ in range(2))
    expected = torch.autograd.grad(first, list(layer.parameters()))
    layer.share_memory()
    found = torch.autograd.grad(second, list(layer.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@kinds
def test_threads_share_a_layer(kind: str) -> None:
    layer, _ = pairs.pair(kind, I, H, 2, bidirectional=True, dtype=torch.float64)
    xs = [pairs.draw((7, 3, I), k) for k in range(4)]

    def run(x: Any) -> list[Any]:
        with torch.no_grad():
            y = layer(x)[0]
        return [y, *torch.autograd.grad(layer(x)[0].square().sum(), [x, *layer.parameters()])]

    expected = [run(x) for x in xs]
    found: dict[int, Any] = {}

    def work(k: int) -> None:
        for _ in range(20):
            found[k] = run(xs[k])

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(xs))]
    before = ours.dispatch_counts()
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert ours.dispatch_counts()["fused"] == before["fused"] + 2 * 20 * len(xs)
    for k, results in enumerate(expected):
        for a, b in zip(found[k], results, strict=True):
            assert torch.equal(a, b)
