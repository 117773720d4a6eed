"""`rnnfast.torch` among the rest of PyTorch: swapping layers in a model, cells, and everything that
PyTorch does to a module and its gradients."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
import weakref
from typing import Any

import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import rnnfast  # noqa: E402
import rnnfast.torch as ours  # noqa: E402
from rnnfast.torch import _tapes  # noqa: E402
from rnnfast.torch._dispatch import REFUSED  # noqa: E402

kinds = pytest.mark.parametrize("kind", list(pairs.KINDS))
suffixes = pytest.mark.parametrize("suffix", ["", "Cell"], ids=["layer", "cell"])
I, H = 5, 8
D64 = torch.float64


class Named(nn.LSTM):
    """A user's subclass without a forward of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.note = "kept"


class Forwarding(nn.LSTM):
    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


class Model(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, I)
        self.lstm = nn.LSTM(I, H, 2, bidirectional=True, batch_first=True, **options)
        self.gru = nn.GRU(2 * H, H, batch_first=True)
        self.cell = nn.RNNCell(H, 3)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        y, _ = self.gru(self.lstm(self.embed(x))[0])
        return self.out(self.cell(y[:, -1]))


def learn(model: nn.Module, x: Any) -> list[Any]:
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]


def assert_same(mine: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        pairs.alike(a, b)


# What a layer and a cell are asked alike.


def both(kind: str, suffix: str, dtype: Any = D64, **of_layers: Any) -> tuple[Any, Any]:
    """A pair of layers, with options that cells do not have, or of cells."""
    return pairs.pair(kind, I, H, suffix=suffix, dtype=dtype, **({} if suffix else of_layers))


def given(kind: str, suffix: str, dtype: Any = D64, grad: bool = True) -> tuple[Any, ...]:
    """x, and the state of a cell: a single step from zero would not ask for R."""
    x = pairs.draw((3, I) if suffix else (6, 3, I), 0, dtype, grad)
    if not suffix:
        return (x,)
    state = tuple(pairs.draw((3, H), k, dtype, grad) for k in (1, 2))
    return x, state if kind == "lstm" else state[0]


def recurrent(suffix: str) -> str:
    """The name of R."""
    return "weight_hh" if suffix else "weight_hh_l0"


def first(out: Any) -> Any:
    """y of a layer, h of a cell."""
    return pairs.tensors_in(out)[0]


# Swapping ----------------------------------------------------------------------------------------


def test_accelerate_and_restore_a_model_in_place() -> None:
    model = Model().double()
    x = torch.arange(24).reshape(4, 6) % 11
    parameters = dict(model.named_parameters())
    text = repr(model)
    expected = learn(model, x)
    assert ours.accelerate(model) is model
    assert type(model.lstm) is ours.LSTM
    assert type(model.cell) is ours.RNNCell
    assert repr(model) == text
    assert all(p is parameters[name] for name, p in model.named_parameters())
    with pairs.taken("fused", 3):
        assert_same(learn(model, x), expected)
    assert ours.restore(model) is model
    assert type(model.lstm) is nn.LSTM
    assert type(model.cell) is nn.RNNCell
    with pairs.taken("fused", 0):
        assert_same(learn(model, x), expected)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_a_bare_layer_is_accelerated(name: str) -> None:
    layer = getattr(nn, name)(3, 4)
    assert ours.accelerate(layer) is layer
    assert type(layer) is getattr(ours, name)
    assert ours.accelerate(layer) is layer
    assert type(ours.restore(layer)) is getattr(nn, name)


def test_a_shared_layer_is_swapped_once_for_all_who_hold_it() -> None:
    layer = nn.GRU(3, 3)
    model = nn.ModuleList([layer, layer])
    ours.accelerate(model)
    assert model[0] is model[1] is layer
    assert type(layer) is ours.GRU


def test_a_forward_of_one_s_own_is_left_alone_and_reported() -> None:
    model = nn.ModuleDict({"a": Forwarding(3, 4), "b": nn.LSTM(3, 4), "c": nn.GRU(3, 4)})
    model["c"].forward = lambda x: x
    with pytest.warns(rnnfast.FallbackWarning) as caught:
        ours.accelerate(model)
    texts = [str(w.message) for w in caught]
    assert texts == [
        "rnnfast.torch.accelerate: a (Forwarding) is left as it is, for Forwarding has a forward "
        "of its own.",
        "rnnfast.torch.accelerate: c (GRU) is left as it is, for it has a forward of its own.",
    ]
    assert [type(m) for m in model.values()] == [Forwarding, ours.LSTM, nn.GRU]
    ours.restore(model)
    assert type(model["b"]) is nn.LSTM


def test_a_subclass_without_a_forward_is_accelerated() -> None:
    layer = Named(3, 4)
    x = torch.randn(5, 2, 3)
    expected = layer(x)[0]
    ours.accelerate(layer)
    assert isinstance(layer, Named)
    assert type(layer).__name__ == "Named"
    assert pairs.words(layer) == pairs.words(Named(3, 4))
    for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same.note == "kept"
        assert isinstance(same, Named)
        with pairs.taken("fused"):
            torch.testing.assert_close(same(x)[0], expected)
    assert type(ours.restore(layer)) is Named


@pytest.mark.parametrize("kind", [nn.GRU, Named], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("first", ["accelerate", "parametrize"])
@pytest.mark.parametrize("undone_first", ["accelerate", "parametrize"])
def test_parametrized_layers_are_swapped(kind: Any, first: str, undone_first: str) -> None:
    class Double(nn.Module):
        def forward(self, w: Any) -> Any:
            return 2 * w

    layer, stock = kind(3, 4), kind(3, 4)
    accelerated = type(ours.accelerate(kind(3, 4)))
    stock.load_state_dict(layer.state_dict())
    parametrize.register_parametrization(stock, "weight_hh_l0", Double())
    if first == "accelerate":
        ours.accelerate(layer)
    parametrize.register_parametrization(layer, "weight_hh_l0", Double())
    ours.accelerate(layer)
    x = torch.randn(5, 2, 3)
    for same in (layer, copy.deepcopy(layer)):
        with pairs.taken("fused"):
            y = same(x)[0]
        torch.testing.assert_close(y, stock(x)[0])
    if undone_first == "accelerate":
        ours.restore(layer)
        with pairs.taken("fused", 0):
            assert torch.equal(layer(x)[0], stock(x)[0])
        parametrize.remove_parametrizations(layer, "weight_hh_l0")
    else:
        parametrize.remove_parametrizations(layer, "weight_hh_l0")
        assert type(layer) is accelerated
        with pairs.taken("fused"):
            assert torch.equal(layer(x)[0], y)
        ours.restore(layer)
    assert type(layer) is kind


def test_a_class_derived_from_ours_is_not_restored_and_reported() -> None:
    class Mine(ours.LSTM):
        pass

    model = nn.ModuleDict({"a": Mine(3, 4), "b": ours.GRUCell(3, 4)})
    parametrizations.weight_norm(model["a"], "weight_hh_l0")
    with pytest.warns(rnnfast.FallbackWarning) as caught:
        ours.restore(model)
    name = Mine.__qualname__
    assert [str(w.message) for w in caught] == [
        f"rnnfast.torch.restore: a ({name}) is left as it is, for {name} derives from "
        "rnnfast.torch.LSTM."
    ]
    assert isinstance(model["a"], ours.LSTM)
    assert type(model["b"]) is nn.GRUCell


# Cells -------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(I,), (3, I), (0, I)], ids=str)
@pytest.mark.parametrize("given", [True, False])
def test_cells(kind: str, bias: bool, shape: tuple[int, ...], given: bool) -> None:
    mine, theirs = pairs.pair(kind, I, H, bias, suffix="Cell")
    assert repr(mine) == repr(theirs)
    n = 0 if not given else 2 if kind == "lstm" else 1

    def call(m: Any, x: Any, *s: Any) -> Any:
        return m(x, None if not s else s if kind == "lstm" else s[0])

    shapes = [shape, *[(*shape[:-1], H)] * n]
    into = "ours" if bias else "theirs"
    pairs.in_both(kind, (I, H), shapes, call, bias, suffix="Cell", into=into)


@kinds
def test_cells_refuse_in_pytorch_s_words(kind: str) -> None:
    mine, theirs = pairs.pair(kind, I, H, suffix="Cell")
    zeros = torch.zeros
    x = zeros(2, I)

    def hx(*shape: int, **options: Any) -> Any:
        state = zeros(*shape, **options)
        return (state, state) if kind == "lstm" else state

    for args, reason in (
        # Which no forward sees.
        ((), None),
        ((x, None, 1), None),
        *(((given,), REFUSED) for given in (zeros(2, 3, I), zeros(()), zeros(2, I + 1), "text")),
        ((None,), REFUSED),
        ((zeros(2, I, dtype=torch.long),), "torch.int64"),
        ((zeros(2, I, dtype=D64),), "mixed dtypes, torch.float64 and torch.float32"),
        *(((x, hx(*shape)), REFUSED) for shape in ((1, H), (2, H + 1), (H,), (1, 2, H))),
        ((x[0], hx(2, H)), REFUSED),
        ((x, hx(2, H, dtype=D64)), "mixed dtypes, torch.float32 and torch.float64"),
        ((x, "text"), REFUSED if kind == "lstm" else "str in the place of a tensor"),
        *([((x, (x, None)), REFUSED), ((x, (x, x, x)), REFUSED)] if kind == "lstm" else []),
    ):
        with pairs.taken("stock", 0 if reason is None else 1):
            came = pairs.words(mine, *args)
        assert came == pairs.words(theirs, *args)
        assert reason is None or ours.last_reason() == reason


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_constructors_of_cells_refuse_in_pytorch_s_words(name: str) -> None:
    mine, theirs = getattr(ours, name), getattr(nn, name)
    for args in ((), (3,), ("3", 2), (3, -1), (3, 2, True, "odd", None, None, 1)):
        assert pairs.words(mine, *args) == pairs.words(theirs, *args)


def test_an_unknown_nonlinearity_is_refused_in_pytorch_s_words() -> None:
    cells = [made.RNNCell(I, H, nonlinearity="odd") for made in (ours, nn)]
    with pairs.taken("stock"):
        found = [pairs.words(cell, torch.zeros(2, I)) for cell in cells]
    assert found[0] == found[1]
    assert ours.last_reason() == REFUSED


# What PyTorch does to a module -------------------------------------------------------------------


@kinds
@suffixes
@pytest.mark.parametrize(
    "how", ["deepcopy", "pickle", "state_dict", "share_memory", "module", "meta"]
)
def test_copies(kind: str, suffix: str, how: str) -> None:
    mine, _ = both(kind, suffix, num_layers=2)
    inputs = given(kind, suffix)
    expected = first(mine(*inputs))
    if how == "deepcopy":
        other = copy.deepcopy(mine)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(mine))
    elif how == "share_memory":
        other = copy.deepcopy(mine).share_memory()
    elif how == "meta":
        # As a large model is loaded: without memory of its own until the weights are there.
        other = copy.deepcopy(mine).to("meta").to_empty(device="cpu")
        other.load_state_dict(mine.state_dict(), strict=True)
    else:
        file = io.BytesIO()
        torch.save(mine if how == "module" else mine.state_dict(), file)
        file.seek(0)
        if how == "module":
            other = torch.load(file, weights_only=False)
        else:
            other, _ = both(kind, suffix, num_layers=2)
            nn.init.zeros_(getattr(other, recurrent(suffix)))
            other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    with pairs.taken("fused"):
        assert torch.equal(first(other(*inputs)), expected)
    with torch.no_grad():
        getattr(other, recurrent(suffix)).zero_()
    with pairs.taken("fused", 2):
        assert torch.equal(first(mine(*inputs)), expected)
        assert not torch.equal(first(other(*inputs)), expected)


@kinds
@suffixes
@pytest.mark.parametrize(
    "how",
    [
        *("parametrization", "weight_norm", "old weight_norm"),
        *("spectral_norm", "old spectral_norm", "prune"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(weight|spectral)_norm.*:FutureWarning")
def test_weights_made_of_other_parameters(kind: str, suffix: str, how: str) -> None:
    mine, theirs = both(kind, suffix)
    name = recurrent(suffix)
    for module in (mine, theirs):
        if how == "parametrization":
            parametrizations.orthogonal(module, name, use_trivialization=False)
        elif how == "weight_norm":
            parametrizations.weight_norm(module, name)
        elif how == "old weight_norm":
            nn.utils.weight_norm(module, name)
        elif how == "spectral_norm":
            # In training it goes on at each look at the weight, and PyTorch looks four times.
            parametrizations.spectral_norm(module.eval(), name)
        elif how == "old spectral_norm":
            nn.utils.spectral_norm(module, name)
        else:
            prune.l1_unstructured(module, name, 0.4)
    theirs.load_state_dict(mine.state_dict())
    x, *state = given(kind, suffix)
    for _ in range(2):
        with pairs.taken("fused"):
            result = pairs.results(mine, [x], lambda m, x: m(x, *state))
        expected = pairs.results(theirs, [x], lambda m, x: m(x, *state))
        pairs.close(result, expected)
        with torch.no_grad():
            for module in (mine, theirs):
                for p in module.parameters():
                    p.mul_(1.5)


@kinds
@suffixes
def test_functional_call_takes_the_weights_given(kind: str, suffix: str) -> None:
    mine, theirs = both(kind, suffix)
    other = {name: pairs.draw(p.shape, 7) for name, p in mine.named_parameters()}
    inputs = given(kind, suffix)
    mine(*inputs)  # so that its own weights are known
    found = []
    for module, n in ((mine, 1), (theirs, 0)):
        with pairs.taken("fused", n):
            y = first(torch.func.functional_call(module, other, inputs))
        found.append([y, *torch.autograd.grad(y.sum(), list(other.values()))])
    assert_same(*found)


@kinds
@suffixes
def test_func_grad(kind: str, suffix: str) -> None:
    mine, theirs = both(kind, suffix)
    inputs = given(kind, suffix, grad=False)

    def loss(module: Any) -> Any:
        def of(weights: Any) -> Any:
            return first(torch.func.functional_call(module, weights, inputs)).square().sum()

        return of

    weights = {k: v.detach() for k, v in mine.named_parameters()}
    mine(*inputs)
    with pairs.taken("stock"):
        mine_g = torch.func.grad(loss(mine))(weights)
    assert ours.last_reason() == "a functorch transform"
    theirs_g = torch.func.grad(loss(theirs))(weights)
    assert_same(list(mine_g.values()), list(theirs_g.values()))


@kinds
@suffixes
def test_hooks(kind: str, suffix: str) -> None:
    found = []
    for module in both(kind, suffix):
        seen: dict[str, list[Any]] = {}
        module.register_forward_pre_hook(lambda m, args: (2 * args[0], *args[1:]))
        module.register_forward_hook(
            lambda m, args, out, seen=seen: seen.update(forward=pairs.tensors_in((args, out)))
        )
        module.register_full_backward_pre_hook(lambda m, go, seen=seen: seen.update(before=[*go]))
        module.register_full_backward_hook(
            lambda m, gi, go, seen=seen: seen.update(after=[*gi, *go])
        )
        R = getattr(module, recurrent(suffix))
        R.register_hook(lambda g: 0 * g)
        x, *state = given(kind, suffix)
        with pairs.taken("fused", int(not found)):
            first(module(x, *state)).square().sum().backward()
        assert list(seen) == ["forward", "before", "after"]
        assert not R.grad.any()
        tensors = pairs.tensors_in(list(seen.values()))
        found.append([*tensors, x.grad, *(p.grad for p in module.parameters())])
    assert_same(*found)


@kinds
@suffixes
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(kind: str, suffix: str, reentrant: bool) -> None:
    mine, _ = both(kind, suffix, num_layers=3, dropout=0.4)
    x, *state = given(kind, suffix)
    found = []

    def call(x: Any) -> Any:
        return first(mine(x, *state))

    for kept in (True, False):
        torch.manual_seed(5)
        with pairs.taken("fused", 1 if kept else 2):
            y = call(x) if kept else checkpoint(call, x, use_reentrant=reentrant)
            if not kept:
                gc.collect()
                assert not len(_tapes._tokens)
            gradients = torch.autograd.grad(y.sum(), [x, *mine.parameters()]) if kept else None
            if gradients is None:
                mine.zero_grad()
                x.grad = None
                y.sum().backward()
                gradients = [x.grad, *(p.grad for p in mine.parameters())]
        found.append([y.detach(), *gradients])
        del y
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@kinds
@suffixes
def test_tensors_saved_elsewhere(kind: str, suffix: str) -> None:
    mine, _ = both(kind, suffix, num_layers=3, dropout=0.4)
    x, *state = given(kind, suffix)
    found = []
    for hooks in (False, True):
        torch.manual_seed(5)
        pack = (lambda t: t.clone()) if hooks else (lambda t: t)
        hooked = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with hooked, pairs.taken("fused"):
            y = first(mine(x, *state))
        if hooks:
            assert not len(_tapes._tokens)
        found.append([y.detach(), *torch.autograd.grad(y.sum(), [x, *mine.parameters()])])
        del y
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@kinds
@suffixes
def test_the_tape_goes_with_the_graph_s_buffers(kind: str, suffix: str) -> None:
    mine, _ = both(kind, suffix, num_layers=2)
    with pairs.taken("fused"):
        out = mine(*given(kind, suffix))
    assert len(_tapes._tokens) == 1
    token = weakref.ref(next(iter(_tapes._tokens.values())))
    loss = first(out).sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in mine.parameters()]
    assert token() is not None
    mine.zero_grad()
    loss.backward()
    for p, g in zip(mine.parameters(), once, strict=True):
        assert torch.equal(p.grad, g)
    # The loss and the results are still here; their buffers are not.
    assert token() is None
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    assert out is not None


@kinds
@suffixes
def test_inference_mode(kind: str, suffix: str) -> None:
    mine, _ = both(kind, suffix)
    with torch.inference_mode():
        inputs = given(kind, suffix, grad=False)
        with pairs.taken("fused"):
            out = pairs.tensors_in(mine(*inputs))
    assert all(t.is_inference() for t in out)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        mine(*inputs)


@kinds
@suffixes
def test_anomaly_mode_names_the_call(kind: str, suffix: str) -> None:
    mine, _ = both(kind, suffix)
    x, *state = given(kind, suffix)
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        with pairs.taken("fused"):
            y = first(mine(x * float("nan"), *state))
        # What comes to the call is finite: the first NaN on the way back is its own.
        with (
            pytest.warns(UserWarning, match="Error detected in ScanBackward"),
            pytest.raises(RuntimeError, match="'ScanBackward' returned nan"),
        ):
            y.backward(torch.ones_like(y))


# In place ----------------------------------------------------------------------------------------


def outcome(loss: Any, inputs: list[Any]) -> tuple[str, list[Any]]:
    """Whether backward is allowed after a change in place, and its gradients."""
    try:
        return "allowed", list(torch.autograd.grad(loss, inputs))
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        return "raises", []


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, D64])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("what", ["y", "state", "weight", "x"])
def test_changes_in_place_before_backward(
    kind: str, dtype: Any, bidirectional: bool, batch_first: bool, what: str
) -> None:
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "dtype": dtype}
    mine, theirs = pairs.pair(kind, I, H, **options)
    outcomes, gradients = [], []
    for module in (mine, theirs):
        leaf = pairs.draw((6, 3, I), 0, dtype)
        x = leaf * 1
        with pairs.taken("fused", int(module is mine)):
            y, last = module(x)
        loss = (y * y).sum() if what == "state" else y.sum()
        with torch.no_grad():
            changed = {"y": y, "state": pairs.tensors_in(last)[0], "x": x}
            changed.get(what, module.weight_hh_l0).mul_(2)
        came, found = outcome(loss, [leaf, *module.parameters()])
        outcomes.append(came)
        gradients.append(found)
    if what == "x" and batch_first:
        # Stock has a copy of x there; ours has none.
        assert outcomes == ["raises", "allowed"]
        return
    assert outcomes[0] == outcomes[1]
    if outcomes[0] == "allowed" and dtype is D64:
        assert_same(*gradients)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, D64])
@pytest.mark.parametrize("form", ["packed", "unbatched", "dropout"])
def test_changes_of_y_before_backward(kind: str, dtype: Any, form: str) -> None:
    options = {"num_layers": 2, "dropout": 0.5} if form == "dropout" else {}
    outcomes, gradients = [], []
    for module in pairs.pair(kind, I, H, dtype=dtype, **options):
        x = pairs.draw((6, I) if form == "unbatched" else (6, 3, I), 0, dtype)
        torch.manual_seed(2)
        packed = nn.utils.rnn.pack_padded_sequence(x, [6, 3, 2]) if form == "packed" else x
        with pairs.taken("fused", int(not outcomes)):
            y = first(module(packed))
        loss = y.sum()
        with torch.no_grad():
            y.mul_(2)
        came, found = outcome(loss, [x, *module.parameters()])
        outcomes.append(came)
        gradients.append(found)
    assert outcomes[0] == outcomes[1]
    if dtype is D64:
        assert_same(*gradients)


@kinds
def test_changes_around_a_cell_before_backward(kind: str) -> None:
    n = 2 if kind == "lstm" else 1
    names = ["x", *("h_0", "c_0")[:n], *("h_1", "c_1")[:n], *nn.GRUCell(I, H).state_dict()]
    for name in names:
        outcomes, gradients = [], []
        for module in pairs.pair(kind, I, H, suffix="Cell", dtype=D64):
            leaves = [pairs.draw((3, I), 0), *(pairs.draw((3, H), 1 + k) for k in range(n))]
            x, *states = (2 * t for t in leaves)
            with pairs.taken("fused", int(not outcomes)):
                last = pairs.tensors_in(module(x, tuple(states) if n == 2 else states[0]))
            loss = sum(t.sum() for t in last)
            tensors = [x, *states, *last, *module.parameters()]
            with torch.no_grad():
                dict(zip(names, tensors, strict=True))[name].mul_(2)
            came, found = outcome(loss, [*leaves, *module.parameters()])
            outcomes.append(came)
            gradients.append(found)
        if name.startswith("bias"):
            # Where the tape is gone, as under checkpointing, our backward runs forward again.
            assert outcomes == ["raises", "allowed"], name
            continue
        assert outcomes[0] == outcomes[1], name
        if outcomes[0] == "allowed":
            assert_same(*gradients)


@kinds
def test_a_change_of_the_initial_state_is_noticed_as_stock_does(kind: str) -> None:
    outcomes = []
    for module in pairs.pair(kind, I, H, dtype=D64):
        state = [torch.randn(1, 3, H, dtype=D64) for _ in range(2 if kind == "lstm" else 1)]
        with pairs.taken("fused", int(not outcomes)):
            y, _ = module(pairs.draw((6, 3, I), 0), tuple(state) if kind == "lstm" else state[0])
        state[0].mul_(2)
        with pytest.raises(RuntimeError) as caught:
            y.sum().backward()
        outcomes.append("modified by an inplace operation" in str(caught.value))
    assert outcomes == [True, True]


@kinds
def test_y_may_be_changed_as_part_of_the_graph(kind: str) -> None:
    found = []
    for module in pairs.pair(kind, I, H, bidirectional=True, dtype=D64):
        x = pairs.draw((6, 3, I), 0)
        with pairs.taken("fused", int(not found)):
            y, last = module(x)
        y.mul_(3)
        pairs.tensors_in(last)[0].add_(1)
        loss = sum(t.square().sum() for t in (y, *pairs.tensors_in(last)))
        found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    assert_same(*found)


@kinds
@suffixes
@pytest.mark.parametrize("letter", ["W", "R"])
def test_a_change_that_no_version_counts_is_refused(kind: str, suffix: str, letter: str) -> None:
    mine, _ = both(kind, suffix)
    with pairs.taken("fused"):
        y = first(mine(*given(kind, suffix)))
    name = recurrent(suffix)
    getattr(mine, name if letter == "R" else name.replace("hh", "ih")).data.mul_(2)
    with pytest.raises(RuntimeError, match=f"{letter} has changed since the forward pass"):
        y.sum().backward()


# Second derivatives ------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(("L", "p", "packed"), [(1, 0.0, False), (2, 0.5, False), (2, 0.0, True)])
def test_gradcheck_and_gradgradcheck(kind: str, L: int, p: float, packed: bool) -> None:
    mine, _ = pairs.pair(kind, 2, 3, L, dropout=p, bidirectional=True, dtype=D64)
    names = [name for name, _ in mine.named_parameters()]
    state = [pairs.draw((2 * L, 2, 3), k) for k in range(2 if kind == "lstm" else 1)]

    def f(x: Any, *rest: Any) -> Any:
        torch.manual_seed(5)
        s, weights = rest[: len(state)], dict(zip(names, rest[len(state) :], strict=True))
        if packed:
            x = nn.utils.rnn.pack_padded_sequence(x, [2, 3], enforce_sorted=False)
        args = (x, s if kind == "lstm" else s[0])
        return tuple(pairs.tensors_in(torch.func.functional_call(mine, weights, args)))

    inputs = [pairs.draw((3, 2, 2), 9), *state]
    inputs += [p.detach().clone().requires_grad_() for p in mine.parameters()]
    before = ours.dispatch_counts()
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    after = ours.dispatch_counts()
    assert after["fused"] > before["fused"]
    assert after == before | {"fused": after["fused"]}
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)
    assert ours.last_reason() == "second derivatives (create_graph=True)"


@kinds
@suffixes
@pytest.mark.parametrize("dtype", [torch.float32, D64])
def test_a_gradient_penalty(kind: str, suffix: str, dtype: Any) -> None:
    found = []
    for module in both(kind, suffix, dtype, num_layers=2):
        x, *state = given(kind, suffix, dtype)
        # Ours: the call itself on the kernels, its gradient, which is differentiated, PyTorch's.
        n = int(not found)
        with pairs.taken("fused", n, stock=n):
            (dx,) = torch.autograd.grad(first(module(x, *state)).sum(), x, create_graph=True)
            found.append(torch.autograd.grad(dx.square().sum(), [x, *module.parameters()]))
    if dtype is D64:
        assert_same(*found)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    dW, dR = found[0][-4:-2]
    assert dW.any()
    # dx of a ReLU's single step does not depend on R.
    assert bool(dR.any()) == (kind != "relu-rnn" or not suffix)


@kinds
@suffixes
def test_several_gradients_at_once(kind: str, suffix: str) -> None:
    found = []
    for module in both(kind, suffix, num_layers=2):
        x, *state = given(kind, suffix)
        with pairs.taken("fused", int(not found)):
            y = first(module(x, *state))
        dys = pairs.draw((4, *y.shape), 1, grad=False)
        wanted = [x, *module.parameters()]
        with pairs.taken("stock", int(not found)):
            found.append(torch.autograd.grad(y, wanted, dys, is_grads_batched=True))
    assert_same(*found)
    assert ours.last_reason() == "a functorch transform"


@kinds
def test_jacobians_and_hessians(kind: str) -> None:
    found = []
    for module in pairs.pair(kind, 2, 3, dtype=D64):
        x = pairs.draw((2, 1, 2), 0, grad=False)
        n, jacobian = int(not found), []
        for vectorize in (False, True):
            with pairs.taken("fused", n, stock=n * vectorize):
                jacobian.append(
                    torch.autograd.functional.jacobian(
                        lambda x, m=module: m(x)[0], x, vectorize=vectorize
                    )
                )
        with pairs.taken("fused", n, stock=n):
            hessian = torch.autograd.functional.hessian(lambda x, m=module: m(x)[0].sum(), x)
        assert bool(hessian.any()) == (kind != "relu-rnn")  # which is linear but for its corners
        found.append([*jacobian, hessian])
    assert_same(*found)


@kinds
def test_the_graph_kept_and_differentiated_twice(kind: str) -> None:
    mine, _ = pairs.pair(kind, I, H, 2, dtype=D64)
    x = pairs.draw((6, 3, I), 0)
    with pairs.taken("fused"):
        y, last = mine(x)
    # One by one, and together; through other functions of the same call in any order.
    parts = [y.sum(), *(s.sum() for s in pairs.tensors_in(last))]
    one = [torch.autograd.grad(p, x, retain_graph=True)[0] for p in reversed(parts)]
    (whole,) = torch.autograd.grad(sum(parts), x)
    pairs.alike(sum(one), whole)


@kinds
def test_weights_that_are_no_leaves(kind: str) -> None:
    found = []
    for module, n in zip(pairs.pair(kind, I, H, dtype=D64), (1, 0), strict=True):
        scale = torch.tensor(1.5, dtype=D64, requires_grad=True)
        weights = {k: scale * p for k, p in module.named_parameters()}
        with pairs.taken("fused", n):
            y, _ = torch.func.functional_call(
                module, weights, (pairs.draw((6, 3, I), 0, grad=False),)
            )
        found.append(torch.autograd.grad(y.square().sum(), [scale, *module.parameters()]))
    assert_same(*found)


@pytest.mark.parametrize("cells", [False, True])
def test_fx_draws_a_layer_as_one_node(cells: bool) -> None:
    class Small(nn.Module):
        def __init__(self, layers: Any) -> None:
            super().__init__()
            self.inner = layers.LSTMCell(I, H) if cells else layers.LSTM(I, H, 2)

        def forward(self, x: Any) -> Any:
            return self.inner(2 * x)[0]

    mine, theirs = Small(ours), Small(nn)
    theirs.load_state_dict(mine.state_dict())
    graphs = [torch.fx.symbolic_trace(m) for m in (mine, theirs)]
    assert graphs[0].code == graphs[1].code
    x = torch.randn(3, I) if cells else torch.randn(4, 3, I)
    with pairs.taken("fused"):
        y = graphs[0](x)
    torch.testing.assert_close(y, theirs(x))


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("bfloat16", "torch.bfloat16"),
        ("autocast", "autocast"),
        ("meta", "meta tensors"),
        ("functorch", "a functorch transform"),
        ("one bias", "one bias without the other"),
    ],
)
def test_cells_that_go_to_stock_are_counted_with_the_reason(
    name: str, what: str, reason: str
) -> None:
    options: dict[str, Any] = {"meta": {"device": "meta"}}.get(what, {})
    if what == "bfloat16":
        options = {"dtype": torch.bfloat16}
    torch.manual_seed(0)
    mine = getattr(ours, name)(I, H, **options)
    theirs = copy.deepcopy(mine)
    ours.restore(theirs)
    x = torch.randn(3, I).to(mine.weight_ih)
    if what == "one bias":
        mine.bias_hh = theirs.bias_hh = None

    def run(module: Any) -> Any:
        if what == "functorch":
            return torch.func.grad(lambda x: pairs.tensors_in(module(x))[0].sum())(x)
        with torch.autocast("cpu", enabled=what == "autocast"):
            return pairs.tensors_in(module(x))[0]

    with pairs.taken("stock"):
        y = run(mine)
    assert ours.last_reason() == reason
    expected = run(theirs)
    assert (y.dtype, y.shape, y.device) == (expected.dtype, expected.shape, expected.device)
    if what != "meta":
        assert torch.equal(y, expected)


@kinds
def test_gradcheck_and_gradgradcheck_of_cells(kind: str) -> None:
    mine, _ = pairs.pair(kind, 2, 3, suffix="Cell", dtype=D64)
    names = [name for name, _ in mine.named_parameters()]
    state = [pairs.draw((2, 3), k) for k in range(2 if kind == "lstm" else 1)]

    def f(x: Any, *rest: Any) -> Any:
        s, weights = rest[: len(state)], dict(zip(names, rest[len(state) :], strict=True))
        args = (x, s if kind == "lstm" else s[0])
        return tuple(pairs.tensors_in(torch.func.functional_call(mine, weights, args)))

    inputs = [pairs.draw((2, 2), 9), *state]
    inputs += [p.detach().clone().requires_grad_() for p in mine.parameters()]
    before = ours.dispatch_counts()
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    after = ours.dispatch_counts()
    assert after["fused"] > before["fused"]
    assert after == before | {"fused": after["fused"]}
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)
    assert ours.last_reason() == "second derivatives (create_graph=True)"


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_travel_both_ways(name: str) -> None:
    mine, theirs = getattr(ours, name)(I, H), getattr(nn, name)(I, H)
    x = torch.randn(3, I)
    for giver, taker in ((theirs, mine), (mine, theirs)):
        with torch.no_grad():
            for p in giver.parameters():
                p.normal_()
        file = io.BytesIO()
        torch.save(giver.state_dict(), file)
        file.seek(0)
        taker.load_state_dict(torch.load(file, weights_only=True), strict=True)
        with pairs.taken("fused"):
            found = pairs.tensors_in(mine(x))
        for a, b in zip(found, pairs.tensors_in(theirs(x)), strict=True):
            torch.testing.assert_close(a, b)


def test_every_cell_is_counted_once() -> None:
    cells = [ours.RNNCell(I, H), ours.LSTMCell(I, H), ours.GRUCell(I, H)]
    with pairs.taken("fused", len(cells)):
        for cell, x in zip(cells, itertools.repeat(torch.randn(2, I)), strict=False):
            cell(x)
