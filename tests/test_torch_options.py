"""The keyword arguments that PyTorch's layers do not have: on the kernels, against the reference's
forward pass on tensors, differentiated by PyTorch, and against the NumPy layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import rnnfast  # noqa: E402
import rnnfast.torch as ours  # noqa: E402
from rnnfast.torch import _dispatch  # noqa: E402

kinds = pytest.mark.parametrize("kind", list(pairs.KINDS))
T, B, I, H = 4, 3, 2, 5
D64 = torch.float64
OWN = {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.1, "initial_state": "learned"}


def layer(kind: str, L: int = 1, **options: Any) -> Any:
    name, own = pairs.KINDS[kind]
    torch.manual_seed(2)
    made = getattr(ours, name)(I, H, L, dtype=D64, **own, **options)
    for name, p in made.named_parameters():
        if name in ("h_0", "c_0"):
            torch.nn.init.normal_(p)
    return made


def both_ways(monkeypatch: pytest.MonkeyPatch, module: Any, inputs: list[Any], call: Any) -> None:
    """Outputs and gradients on the kernels and composed, each counted as such."""

    def run() -> list[Any]:
        torch.manual_seed(8)
        out = [t for t in pairs.tensors_in(call(module, *inputs))]
        into = [pairs.draw(t.shape, 50 + k, D64, False) for k, t in enumerate(out)]
        wanted = [*inputs, *module.parameters()]
        found = torch.autograd.grad(out, wanted, into, allow_unused=True)
        zeros = (
            torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True)
        )
        return [*(t.detach() for t in out), *zeros]

    with pairs.taken("fused"):
        fused = run()
    with monkeypatch.context() as patch, pairs.taken("composed"):
        patch.setattr(_dispatch, "obstacle", lambda *kind: "the test")
        composed = run()
    assert ours.last_reason() == "the test"
    for k, (a, b) in enumerate(zip(fused, composed, strict=True)):
        pairs.alike(a, b, f"result {k}")


@kinds
@pytest.mark.parametrize("form", ["time first", "batch first", "unbatched"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reset_to", ["zero", "learned", "each step", "once", "mixed"])
def test_all_options_together(
    monkeypatch: pytest.MonkeyPatch, kind: str, form: str, training: bool, reset_to: str
) -> None:
    if reset_to == "mixed" and kind != "lstm":
        pytest.skip("one state")
    batch_first = form == "batch first"
    clip = {"cell_clip": 0.5} if kind == "lstm" else {}
    module = layer(kind, 2, bidirectional=True, batch_first=batch_first, **OWN, **clip)
    module.train(training)
    steps = {"time first": (T, B), "batch first": (B, T), "unbatched": (T,)}[form]
    once = {"time first": (1, B), "batch first": (B, 1), "unbatched": (1,)}[form]
    rows = () if form == "unbatched" else (B,)
    rng = np.random.default_rng(1)
    given = {
        "mask": torch.from_numpy(rng.random(steps) > 0.2),
        "reset": torch.from_numpy(rng.random(steps) > 0.6),
        "seed": 7,
        "t0": 3,
        "return_states": True,
    }
    if rows:
        given |= {"lengths": torch.tensor([2, 0, 4]), "row_ids": torch.tensor([4, 1, 9])}
    S = 2 if kind == "lstm" else 1
    shapes = {
        "each step": [(4, *steps, H)] * S,
        "once": [(4, *once, H)] * S,
        "mixed": [(4, *steps, H), (4, *once, H)],
    }.get(reset_to, [])
    inputs = [pairs.draw((*steps, I), 0), *(pairs.draw((4, *rows, H), k + 1) for k in range(S))]
    inputs += [pairs.draw(shape, k + 3) for k, shape in enumerate(shapes)]

    def call(m: Any, x: Any, *rest: Any) -> Any:
        hx, replacement = rest[:S], rest[S:]
        options = dict(given)
        if reset_to == "learned":
            options["reset_to"] = "learned"
            hx = ()
        if replacement:
            options["reset_state"] = replacement if S == 2 else replacement[0]
        return m(x, (hx if S == 2 else hx[0]) if hx else None, **options)

    both_ways(monkeypatch, module, inputs, call)


ONE = {
    "lengths": {"lengths": torch.tensor([4, 0, 2])},
    "mask": {"mask": torch.tensor([[True, False, True], [False] * 3, [True] * 3, [True] * 3])},
    "hold": {"lengths": torch.tensor([1, 0, 2]), "pad_output": "hold"},
    "reset": {"reset": torch.tensor([[False] * 3, [True, False, True], [True] * 3, [False] * 3])},
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "per step": {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "step"},
    "zoneout": {"zoneout": 0.3},
    "weight drop": {"weight_drop": 0.3},
    "states": {"return_states": True},
}


@kinds
@pytest.mark.parametrize("name", list(ONE))
def test_each_option_alone_equals_the_numpy_layer(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    module = layer(kind, 2, bidirectional=True)
    x = pairs.draw((T, B, I), 0)
    options = dict(ONE[name]) | {"seed": 11}
    both_ways(monkeypatch, module, [x], lambda m, x: m(x, **options))
    function, own = pairs.KINDS[kind]
    cell = {k: v for k, v in options.items() if k in ours._options.CELL}
    call = {k: v for k, v in options.items() if k not in cell and k != "return_states"}
    twin = getattr(rnnfast, function)(I, H, 2, bidirectional=True, dtype="float64", **own, **cell)
    twin.load_state_dict({k: v.numpy() for k, v in module.state_dict().items()})
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in call.items()}
    y, _, tape = twin.forward(x.detach().numpy(), training=True, **arrays)
    result = module(x, **options)
    np.testing.assert_array_equal(result[0].detach().numpy(), y)
    if name == "states":
        for a, b in zip(result[2], tape.states(), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a.detach().numpy(), b)


@kinds
def test_lengths_equal_a_packed_sequence(kind: str) -> None:
    module = layer(kind, 2, bidirectional=True)
    x, lengths = pairs.draw((T, B, I), 0), torch.tensor([2, 4, 1])
    with pairs.taken("fused", 2):
        y, last = module(x, lengths=lengths)
        packed, state = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(packed)
    assert torch.equal(y, padded)
    for a, b in zip(pairs.tensors_in(last), pairs.tensors_in(state), strict=True):
        assert torch.equal(a, b)


@kinds
def test_packed_input_takes_the_options_of_the_cell(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    module = layer(kind, 2, dropout=0.4, **OWN)

    def call(m: Any, x: Any) -> Any:
        y, last = m(pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False), seed=3)
        return y.data, last

    both_ways(monkeypatch, module, [pairs.draw((T, B, I), 0)], call)


@kinds
def test_a_reset_equals_two_calls(kind: str) -> None:
    module = layer(kind)
    x = pairs.draw((T, B, I), 0)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2] = True
    with pairs.taken("fused", 3):
        y, _ = module(x, reset=reset)
        first, second = module(x[:2])[0], module(x[2:])[0]
    assert torch.equal(y, torch.cat([first, second]))
    (dx,) = torch.autograd.grad(y[2:].sum(), x)
    assert not dx[:2].any()


def test_options_in_an_accelerated_layer() -> None:
    stock = torch.nn.LSTM(I, H)
    x, lengths = torch.randn(T, B, I), torch.tensor([2, 0, 4])
    with pytest.raises(TypeError):
        stock(x, lengths=lengths)
    layer = ours.accelerate(stock)
    with pairs.taken("fused"):
        y, (h, _) = layer(x, lengths=lengths)
    assert not y[2:, 0].any()
    assert not h[0, 1].any()
    layer.zoneout = (0.1, 0.2)
    with pairs.taken("fused"):
        layer(x)


@kinds
def test_masks_come_from_manual_seed(kind: str) -> None:
    module = layer(kind, recurrent_dropout=0.5)
    x = pairs.draw((T, B, I), 0)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with pairs.taken("fused"):
            found.append(module(x)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    with pairs.taken("fused", 2):
        assert torch.equal(module.eval()(x)[0], layer(kind)(x)[0])


@kinds
def test_gradients_and_second_ones_of_options(kind: str) -> None:
    module = layer(kind, bidirectional=True, zoneout=0.2, recurrent_dropout=0.2)
    names = [name for name, _ in module.named_parameters()]
    reset = torch.tensor([[False, True], [True, False], [False, False]])
    S = 2 if kind == "lstm" else 1

    def f(x: Any, *rest: Any) -> Any:
        replacement, weights = rest[:S], dict(zip(names, rest[S:], strict=True))
        options = {"reset": reset, "lengths": torch.tensor([3, 2]), "seed": 5}
        options["reset_state"] = replacement if S == 2 else replacement[0]
        options["return_states"] = True
        out = torch.func.functional_call(module, weights, (x,), options)
        return tuple(pairs.tensors_in(out))

    inputs = [pairs.draw((3, 2, I), 9), *(pairs.draw((2, 3, 2, H), k) for k in range(S))]
    inputs += [p.detach().clone().requires_grad_() for p in module.parameters()]
    before = ours.dispatch_counts()
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    assert ours.dispatch_counts()["composed"] == before["composed"]
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)
    assert ours.dispatch_counts()["composed"] > before["composed"]
    assert ours.dispatch_counts()["stock"] == before["stock"]


@kinds
@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({}, {"mask": torch.tensor([[True, True], [False, True], [True, False]])}),
        ({"weight_drop": 0.3}, {"seed": 5}),
        ({"recurrent_dropout": 0.3, "recurrent_dropout_mode": "step"}, {"seed": 5}),
        ({"cell_clip": 0.1}, {}),
        ({"initial_state": "learned"}, {}),
    ],
    ids=["mask", "weight drop", "dropout per step", "cell clip", "learned state"],
)
def test_second_gradients_of_each_option(kind: str, settings: Any, given: Any) -> None:
    """The first ones come from the kernels, those of them from the composed path.

    With a learned state PyTorch's own layer, which takes it as any state, has them.
    """
    way, other = "composed", "stock"
    if "initial_state" in settings:
        way, other = other, way
    if "cell_clip" in settings and kind != "lstm":
        pytest.skip("only the LSTM has a cell state")
    module = layer(kind, **settings)
    names = [name for name, _ in module.named_parameters()]

    def f(x: Any, *weights: Any) -> Any:
        found = dict(zip(names, weights, strict=True))
        return tuple(pairs.tensors_in(torch.func.functional_call(module, found, (x,), given)))

    inputs = [pairs.draw((3, 2, I), 9)]
    inputs += [p.detach().clone().requires_grad_() for p in module.parameters()]
    before = ours.dispatch_counts()
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    middle = ours.dispatch_counts()
    assert middle["fused"] > before["fused"]
    assert middle[way] == before[way]
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)
    assert ours.dispatch_counts()[way] > middle[way]
    assert ours.dispatch_counts()[other] == before[other]


@kinds
def test_functorch_and_meta_tensors_are_composed(kind: str) -> None:
    module = layer(kind)
    x, lengths = pairs.draw((T, B, I), 0), torch.tensor([4, 1, 0])
    (expected,) = torch.autograd.grad(module(x, lengths=lengths)[0].sum(), x)
    with pairs.taken("composed"):
        found = torch.func.grad(lambda x: module(x, lengths=lengths)[0].sum())(x.detach())
    pairs.alike(found, expected)
    meta = layer(kind, device="meta")
    with pairs.taken("composed"):
        y, last = meta(x.detach().to("meta"), lengths=lengths)
    assert y.is_meta
    assert y.shape == (T, B, H)
    assert ours.last_reason() == "meta tensors"
    assert all(t.is_meta for t in pairs.tensors_in(last))


# PyTorch's own rules of forward mode, when it first needs them, and its tracing.
pytorch_scripts = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return function(*args, **(kwargs or {}))


class Optioned(torch.nn.Module):
    """A layer called with options, as one that can be traced."""

    def __init__(self, inner: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, x: Any) -> Any:
        return self.inner(x, **self.options)[0]


# Each yields something of a call f and an input x by one of PyTorch's transforms, and then the same
# without.
def mapped(f: Any, x: Any) -> Any:
    xs = torch.stack([x, 2 * x], 1)
    yield torch.func.vmap(f, 1, 1, randomness="same")(xs)
    yield torch.stack([f(x), f(2 * x)], 1)


def forward_mode(f: Any, x: Any) -> Any:
    v = pairs.draw(x.shape, 5, grad=False)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), v)
        yield torch.autograd.forward_ad.unpack_dual(f(dual)).tangent
    yield jacobian_of(f, x).flatten(3) @ v.flatten()


def pushed(f: Any, x: Any) -> Any:
    v = pairs.draw(x.shape, 5, grad=False)
    yield torch.func.jvp(f, (x.detach(),), (v,))[1]
    yield jacobian_of(f, x).flatten(3) @ v.flatten()


def hessian(f: Any, x: Any) -> Any:
    def loss(x: Any) -> Any:
        return f(x).square().sum()

    # `torch.func.hessian`, which takes no randomness.
    yield torch.func.jacfwd(torch.func.jacrev(loss), randomness="same")(x.detach())
    yield torch.autograd.functional.hessian(loss, x)


def jacobian(f: Any, x: Any) -> Any:
    yield torch.autograd.functional.jacobian(f, x, vectorize=True)
    yield jacobian_of(f, x)


def jacobian_of(f: Any, x: Any) -> Any:
    return torch.autograd.functional.jacobian(f, x)


def batched(f: Any, x: Any) -> Any:
    dys = pairs.draw((2, T, B, H), 6, grad=False)
    yield torch.autograd.grad(f(x), x, dys, is_grads_batched=True)[0]
    y = f(x)
    yield torch.stack([torch.autograd.grad(y, x, dy, retain_graph=True)[0] for dy in dys])


def traced(f: Any, x: Any) -> Any:
    graph = torch.jit.trace(f, (x,), check_trace=False)
    yield graph(3 * x)
    yield f(3 * x)


def moded(f: Any, x: Any) -> Any:
    with Passing():
        yield f(x)
    yield f(x)


# Why the call is composed, and what is counted besides.
TRANSFORMS = {
    mapped: ("a functorch transform", {}),
    forward_mode: ("forward-mode differentiation", {}),
    pushed: ("a functorch transform", {}),
    hessian: ("a functorch transform", {}),
    jacobian: ("a functorch transform", {"fused": 1}),
    batched: ("a functorch transform", {"fused": 1}),
    traced: ("tracing", {}),
    moded: ("a dispatch mode", {}),
}


@pytest.mark.parametrize(
    ("kind", "what"), [("gru", "lengths"), ("lstm", "reset_state"), ("lstm", "noise")]
)
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytorch_scripts
def test_transforms_of_calls_with_options_are_composed(
    transform: Any, kind: str, what: str
) -> None:
    state = pairs.draw((1, T, B, H), 3, grad=False)
    options = {
        "lengths": {"lengths": torch.tensor([4, 0, 2])},
        "reset_state": {**ONE["reset"], "reset_state": (state, None)},
        "noise": {"recurrent_dropout": 0.4},  # without a seed
    }[what]
    module = Optioned(layer(kind), options)

    def f(x: Any) -> Any:
        torch.manual_seed(8)
        return module(x)

    reason, others = TRANSFORMS[transform]
    results = transform(module if transform is traced else f, pairs.draw((T, B, I), 0))
    torch.manual_seed(8)
    with pairs.taken("composed", **others):
        found = next(results)
    assert ours.last_reason() == reason
    torch.manual_seed(8)
    expected = next(results)
    assert expected.any()
    pairs.alike(found, expected)


def test_masks_follow_the_randomness_of_vmap() -> None:
    module, xs = layer("gru", recurrent_dropout=0.4), pairs.draw((2, T, B, I), 0)

    def f(x: Any) -> Any:
        return module(x)[0]

    with pytest.raises(RuntimeError, match="randomness error mode"):
        torch.func.vmap(f)(xs)
    with pytest.raises(rnnfast.ArgumentError, match=r'GRU: .* expected randomness="same", or seed'):
        torch.func.vmap(f, randomness="different")(xs)


@kinds
@pytorch_scripts
def test_transforms_of_a_layer_whose_options_rest(kind: str) -> None:
    # PyTorch has the call, and for some of its layers no rule for the transform.
    module, x = layer(kind, recurrent_dropout=0.4).eval(), pairs.draw((T, B, I), 0)
    for transform in (mapped, pushed):
        results = transform(lambda x: module(x)[0], x)
        with pairs.taken("composed"):
            found = next(results)
        pairs.alike(found, next(results))


@kinds
def test_bfloat16_is_composed(kind: str) -> None:
    wide = layer(kind, 2, **OWN).float()
    narrow = layer(kind, 2, **OWN).to(torch.bfloat16)
    x = pairs.draw((T, B, I), 0, torch.bfloat16, False)
    given = {"lengths": [4, 1, 0], "reset": np.arange(T * B).reshape(T, B) % 3 == 0, "seed": 1}
    with pairs.taken("composed"):
        y, _ = narrow(x, **given)
    assert ours.last_reason() == "torch.bfloat16"
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), wide(x.float(), **given)[0], rtol=0, atol=0.1)


def test_autocast_computes_options_in_the_weights_dtype() -> None:
    module, x = ours.GRU(I, H), torch.randn(T, B, I)
    expected = module(x, lengths=[4, 1, 0])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16), pairs.taken("fused"):
        y = module(x, lengths=[4, 1, 0])[0]
    assert torch.equal(y, expected)


def test_learned_states_are_parameters() -> None:
    module = ours.LSTM(I, H, 2, bidirectional=True, initial_state="learned")
    assert module.h_0.shape == module.c_0.shape == (4, H)
    assert list(module.state_dict())[-2:] == ["h_0", "c_0"]
    assert repr(module) == "LSTM(2, 5, num_layers=2, bidirectional=True, initial_state='learned')"
    module.reset_parameters()
    assert not module.h_0.any()
    with pairs.taken("fused"):
        module(torch.randn(T, B, I))[0].sum().backward()
    assert module.c_0.grad.shape == (4, H)


REFUSED = [
    ({"nonsense": 1}, TypeError, "no option 'nonsense'"),
    ({"lengths": torch.tensor([1, 2])}, ValueError, r"lengths has shape \(2,\), expected \(B,\)"),
    ({"lengths": torch.tensor([1, 2, 5])}, ValueError, r"lengths holds 5 at \[2\]"),
    ({"lengths": torch.tensor([1.0, 2, 3])}, TypeError, "lengths is float64|float32"),
    ({"mask": torch.ones(T, B)}, TypeError, "mask is float32, expected bool"),
    ({"reset_state": torch.ones(1, T, B, H)}, ValueError, "given without reset"),
    (
        {"reset": torch.ones(T, B, dtype=torch.bool), "reset_state": torch.ones(1, T, B, H + 1)},
        ValueError,
        r"reset_state has shape \(1, 4, 3, 6\), expected \(D\*L, T, B, H\)",
    ),
    ({"reset_to": "learned"}, ValueError, "no learned state"),
    ({"zoneout": 1.5}, ValueError, "zoneout is 1.5"),
    ({"cell_clip": 1.0}, ValueError, "no cell state"),
    ({"pad_output": "keep"}, ValueError, "pad_output is 'keep'"),
]


@pytest.mark.parametrize(("options", "error", "text"), REFUSED)
def test_refusals_speak(options: dict[str, Any], error: type, text: str) -> None:
    module = ours.GRU(I, H)
    with pytest.raises(error, match=text) as caught:
        module(torch.zeros(T, B, I), **options)
    assert str(caught.value).startswith("rnnfast.torch.GRU: ")


def test_what_options_cannot_be_combined_with() -> None:
    x = torch.zeros(T, B, I)
    with pytest.raises(ValueError, match="with a PackedSequence, expected a padded tensor"):
        ours.GRU(I, H)(pack_padded_sequence(x, [4, 2, 1]), mask=torch.ones(T, B) > 0)
    with pytest.raises(ValueError, match="proj_size=2"):
        ours.LSTM(I, H, proj_size=2)(x, lengths=[1, 2, 3])
    with pytest.raises(ValueError, match="proj_size=2"):
        ours.LSTM(I, H, proj_size=2, zoneout=0.1)
    with pytest.raises(RuntimeError, match=r"input\.size\(-1\) must be equal"):
        ours.GRU(I, H)(torch.zeros(T, B, I + 1), lengths=[1, 2, 3])


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_state_is_refused_in_pytorch_s_words(batch_first: bool) -> None:
    x, h = torch.zeros(T, B, I), torch.zeros(1, 9, H)
    texts = []
    for made, options in ((ours, {"zoneout": 0.1}), (torch.nn, {})):
        module = made.GRU(I, H, batch_first=batch_first)
        with pytest.raises(RuntimeError) as caught:
            module(x, h, **options)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
