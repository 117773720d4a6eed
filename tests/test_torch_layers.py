"""`rnnfast.torch`'s layers against PyTorch's: outputs, states and all gradients, over the grid of
constructor arguments and inputs, on the kernels."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from typing import Any

import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import rnnfast  # noqa: E402
import rnnfast.torch as ours  # noqa: E402
from rnnfast import _backend  # noqa: E402

kinds = pytest.mark.parametrize("kind", list(pairs.KINDS))
GRID = list(itertools.product([1, 2, 3], [False, True], [False, True], [False, True]))
I, H = 5, 8


def whole(state: tuple[Any, ...], kind: str) -> Any:
    if not state:
        return None
    return state[:2] if kind == "lstm" else state[0]


def in_both(kind: str, shapes: list[Any], call: Any, **options: Any) -> None:
    pairs.in_both(kind, (I, H), shapes, call, **options)


@kinds
@pytest.mark.parametrize(("L", "bidirectional", "batch_first", "bias"), GRID)
def test_layers(kind: str, L: int, bidirectional: bool, batch_first: bool, bias: bool) -> None:
    rows = 6 if batch_first else 3
    state = (L * (1 + bidirectional), rows, H)
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "bias": bias}
    states = [state] * (2 if kind == "lstm" else 1)

    def call(m: Any, x: Any, *s: Any) -> Any:
        return m(x, whole(s, kind))

    # Weights travel in both directions.
    into = "ours" if (L + bidirectional + batch_first + bias) % 2 else "theirs"
    in_both(kind, [(6, 3, I), *states], call, num_layers=L, into=into, **options)


# H, I, T, B, threads: less than a vector, a little more than one or several, beyond a block of
# columns; I one, as H, or odd; one step and row, a few, and more than a block of rows.
AWKWARD = [
    *((1, 1, 1, 1, 1), (1, 5, 17, 32, 2), (7, 7, 2, 3, 2), (7, 1, 17, 32, 1), (9, 9, 17, 32, 2)),
    *((9, 13, 1, 1, 1), (17, 1, 2, 3, 1), (17, 31, 17, 32, 2), (64, 64, 2, 3, 2)),
    *((64, 33, 17, 32, 1), (64, 1, 1, 1, 2), (513, 1, 2, 32, 2), (513, 513, 1, 1, 1)),
    (513, 7, 2, 3, 1),
]


@kinds
@pytest.mark.parametrize("sizes", AWKWARD, ids=str)
def test_awkward_sizes(kind: str, sizes: tuple[int, ...]) -> None:
    H, I, T, B, threads = sizes
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # The yardstick compares maxima, which say nothing over the few numbers of a small layer.
        draws = max(1, min(24, 64 // H))
        pairs.in_both(kind, (I, H), [(T, B, I)], lambda m, x: m(x), draws=draws)
    finally:
        torch.set_num_threads(before)


@kinds
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, I), (30, 2, I), (7, I), (1, I)], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["zero", "given"])
def test_shapes_unbatched_and_omitted_state(
    kind: str, batch_first: bool, shape: tuple[int, ...], given: bool
) -> None:
    rows = () if len(shape) == 2 else (shape[0 if batch_first else 1],)
    states = [(4, *rows, H)] * (0 if not given else 2 if kind == "lstm" else 1)

    def call(m: Any, x: Any, *s: Any) -> Any:
        return m(x, whole(s, kind))

    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    in_both(kind, [shape, *states], call, **options)


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("lengths", "sort"), [([5, 4, 2, 1], True), ([2, 5, 1, 5], False), ([3, 3, 3, 3], True)]
)
def test_packed_sequences(kind: str, bidirectional: bool, lengths: list[int], sort: bool) -> None:
    state = (2 * (1 + bidirectional), 4, H)
    states = [state] * (2 if kind == "lstm" else 1)

    def call(m: Any, x: Any, *s: Any) -> Any:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=sort)
        y, last = m(packed, whole(s, kind))
        # Sorted as they came in, with what undoes it.
        for mine, given in zip(y[1:], packed[1:], strict=True):
            assert mine is given
        return y, last

    options = {"num_layers": 2, "bidirectional": bidirectional}
    in_both(kind, [(5, 4, I), *states], call, **options)
    # The layer's batch_first says nothing of packed input.
    in_both(kind, [(5, 4, I)], lambda m, x: call(m, x), batch_first=True, **options)


@kinds
def test_a_packed_sequence_of_one_row(kind: str) -> None:
    in_both(kind, [(3, I)], lambda m, x: m(pack_sequence([x])), bidirectional=True)


@kinds
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("p", [0.4, 1.0])
@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_between_layers_draws_stock_s_masks(
    kind: str, packed: bool, p: float, batch_first: bool
) -> None:
    def call(m: Any, x: Any) -> Any:
        return m(pack_padded_sequence(x, [1, 6, 3], enforce_sorted=False) if packed else x)

    options = {"num_layers": 3, "dropout": p, "bidirectional": True, "batch_first": batch_first}
    in_both(kind, [(6, 3, I)], call, **options)
    mine, theirs = pairs.pair(kind, I, H, dtype=torch.float64, **options)
    x = pairs.draw((6, 3, I), 0)
    with pairs.taken("fused"):
        pairs.alike(mine.eval()(x)[0], theirs.eval()(x)[0])


@kinds
@pytest.mark.parametrize("grad", ["no_grad", "inference_mode", "frozen"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_calls_without_gradients(kind: str, grad: str, batch_first: bool) -> None:
    mine, theirs = pairs.pair(
        kind, I, H, 2, bidirectional=True, dtype=torch.float64, batch_first=batch_first
    )
    x = pairs.draw((6, 3, I), 0, grad=False)
    if grad == "frozen":
        mine.requires_grad_(False)
    for _ in range(2):
        context = torch.enable_grad() if grad == "frozen" else getattr(torch, grad)()
        with context, pairs.taken("fused"):
            y, last = mine(x)
    expected, state = theirs(x)
    assert not y.requires_grad
    assert y.stride() == expected.stride()
    out = [y, *pairs.tensors_in(last)]
    for a, b in zip(out, [expected, *pairs.tensors_in(state)], strict=True):
        pairs.alike(a, b)


@kinds
@pytest.mark.parametrize(
    "how",
    [
        "transposed",
        "strided",
        "expanded",
        "sliced state",
        "negative bit",
        "negative view",
        "odd strides",
    ],
)
def test_non_contiguous_inputs(kind: str, how: str) -> None:
    def call(m: Any, x: Any) -> Any:
        if how == "transposed":
            return m(x.transpose(0, 1))
        if how == "strided":
            return m(torch.stack([x, x], -1).flatten(-2)[..., ::2])
        if how == "expanded":
            return m(x[:1, :1].expand(7, 3, I))
        if how == "negative bit":
            negative = torch.complex(x, x).conj().imag
            assert negative.is_neg()
            return m(negative)
        if how == "negative view":
            return m(torch._neg_view(x))
        if how == "odd strides":
            # One row: its stride says nothing.
            return m(x[:, :1].as_strided((6, 1, I), (4 * I, 1, 1)))
        h = torch.cat([x[:1], x[:1]], -1)[..., :H].contiguous().transpose(1, 2)
        h = h.contiguous().transpose(1, 2)
        return m(x, (h, h) if kind == "lstm" else h)

    in_both(kind, [(6, 4, I)], call)


@kinds
def test_transposed_weights(kind: str) -> None:
    mine, theirs = pairs.pair(kind, I, H, dtype=torch.float64)
    for module in (mine, theirs):
        for name in ("weight_ih_l0", "weight_hh_l0"):
            weight = getattr(module, name)
            weight.data = weight.data.t().contiguous().t()
    x = pairs.draw((6, 3, I), 0)
    with pairs.taken("fused"):
        result = pairs.results(mine, [x], lambda m, x: m(x))
    pairs.close(result, pairs.results(theirs, [x], lambda m, x: m(x)))


@kinds
@pytest.mark.parametrize("T", [1, 6])
def test_an_empty_batch(kind: str, T: int) -> None:
    mine, theirs = pairs.pair(kind, I, H, 2, dtype=torch.float64)
    x = pairs.draw((T, 0, I), 0)
    with pairs.taken("fused"):
        result = pairs.results(mine, [x], lambda m, x: m(x))
    pairs.close(result, pairs.results(theirs, [x], lambda m, x: m(x)))


@kinds
def test_strides_of_y_are_stock_s(kind: str) -> None:
    for batch_first in (False, True):
        mine, theirs = pairs.pair(kind, I, H, batch_first=batch_first)
        x = torch.randn(6, 3, I)
        with pairs.taken("fused"):
            y = mine(x)[0]
        assert y.stride() == theirs(x)[0].stride()


@kinds
def test_only_what_is_asked_for_gets_a_gradient(kind: str) -> None:
    mine, _ = pairs.pair(kind, I, H)
    mine.weight_hh_l0.requires_grad_(False)
    x = torch.randn(6, 3, I)
    with pairs.taken("fused"):
        mine(x)[0].sum().backward()
    assert mine.weight_hh_l0.grad is None
    assert x.grad is None
    assert mine.weight_ih_l0.grad is not None
    # Of separate memory, as an optimizer changes one after the other.
    assert mine.bias_ih_l0.grad.data_ptr() != mine.bias_hh_l0.grad.data_ptr()


@kinds
def test_gradients_from_the_final_state_alone(kind: str) -> None:
    in_both(kind, [(6, 3, I)], lambda m, x: m(x)[1], num_layers=2, bidirectional=True)


@kinds
def test_gradients_in_eval_mode(kind: str) -> None:
    in_both(kind, [(6, 3, I)], lambda m, x: m.eval()(x), num_layers=2, dropout=0.5)


@kinds
def test_repr_state_dict_and_isinstance(kind: str) -> None:
    name, _ = pairs.KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine, theirs = pairs.pair(kind, 2, 3, 2, bias=False, batch_first=True, dropout=0.5)
    assert repr(mine) == repr(theirs)
    assert isinstance(mine, getattr(torch.nn, name))
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine.load_state_dict(theirs.state_dict(), strict=True)
    assert mine.all_weights[0][0] is mine.weight_ih_l0


@kinds
def test_refusals_are_in_pytorch_s_words(kind: str) -> None:
    mine, theirs = pairs.pair(kind, I, H)
    zeros = torch.zeros
    state = (zeros(1, 3, H), zeros(1, 3, H)) if kind == "lstm" else zeros(1, 3, H)
    wrong = (zeros(2, 3, H), zeros(2, 3, H)) if kind == "lstm" else zeros(2, 3, H)
    mine(zeros(6, 3, I))

    def pack(x: Any) -> Any:
        return torch.nn.utils.rnn.pack_padded_sequence(x, [6, 2, 1])

    for args in (
        (zeros(6, 3, I + 1),),
        (zeros(6, 3, 2, I),),
        (zeros(I),),
        (zeros(0, 3, I),),
        (zeros(6, 3, I, dtype=torch.float64),),
        (zeros(6, 3, I), wrong),
        (zeros(6, I), state),
        (zeros(6, 3, I, dtype=torch.long),),
        ("text",),
        (zeros(6, 3, I), (zeros(1, 3, H), None)),
        (zeros(6, 3, I), zeros(1, 3, H, dtype=torch.float64)),
        (zeros(6, 3, I), "text"),
        (None,),
        (),
        (zeros(6, 3, I), None, 1),
        (pack(zeros(6, 3, I + 1)),),
        (pack(zeros(6, 3, I)), wrong),
        (pack(zeros(6, 3, I)), (state[0], None)),
    ):
        # Without x, or with a third argument, no forward is called.
        with pairs.taken("stock", int(0 < len(args) < 3)):
            came = pairs.words(mine, *args)
        assert came == pairs.words(theirs, *args)
    with pytest.raises(TypeError) as caught:
        getattr(ours, pairs.KINDS[kind][0])()
    with pytest.raises(TypeError) as expected:
        getattr(torch.nn, pairs.KINDS[kind][0])()
    assert str(caught.value) == str(expected.value)


def test_constructor_refuses_in_pytorch_s_words() -> None:
    for args in ((0, 3), (3, 0), (3, 2, 0), ("3", 2)):
        texts = []
        for module in (ours, torch.nn):
            with pytest.raises((ValueError, TypeError)) as caught:
                module.GRU(*args)
            texts.append(str(caught.value))
        assert texts[0] == texts[1]
    with pytest.raises(ValueError, match="only supported for LSTM"):
        ours.GRU(3, 4, proj_size=2)


# What no kernel takes, and the reason that is told.
ELSEWHERE = {
    "proj_size": "proj_size",
    "bfloat16": "torch.bfloat16",
    "float16": "torch.float16",
    "autocast": "autocast",
    "meta": "meta tensors",
    "dispatch mode": "a dispatch mode",
    "subclass": "a tensor subclass, Odd",
    "functorch": "a functorch transform",
    "forward mode": "forward-mode differentiation",
}
CELLS_ELSEWHERE = [what for what in ELSEWHERE if what != "proj_size"]


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize(
    ("suffix", "what"),
    [*itertools.product([""], ELSEWHERE), *itertools.product(["Cell"], CELLS_ELSEWHERE)],
)
def test_what_goes_to_stock_is_counted_with_its_reason(suffix: str, what: str) -> None:
    class Odd(torch.Tensor):
        pass

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
            return function(*args, **(kwargs or {}))

    options = {"proj_size": {"proj_size": 3}, "meta": {"device": "meta"}}.get(what, {})
    if what in ("bfloat16", "float16"):
        options = {"dtype": getattr(torch, what)}
    mine, theirs = pairs.pair("lstm", I, H, suffix=suffix, **options)
    shape = (3, I) if suffix else (6, 3, I)
    x = torch.randn(shape).to(next(mine.parameters()))
    if what == "subclass":
        x = x.as_subclass(Odd)

    def run(module: Any) -> Any:
        if what == "functorch":
            return torch.func.grad(lambda x: module(x)[0].sum())(x)
        if what == "forward mode":
            with torch.autograd.forward_ad.dual_level(), torch.no_grad():
                return module(x)[0]
        if what == "dispatch mode":
            with Counting():
                return module(x)[0]
        with torch.autocast("cpu", enabled=what == "autocast"):
            return module(x)[0]

    expected = pairs.stock_result(lambda: run(theirs))
    if what not in ("bfloat16", "float16", "meta", "proj_size"):
        mine(torch.randn(shape))  # so that its weights are known
    with pairs.taken("stock"):
        y = run(mine)
    assert ours.last_reason() == ELSEWHERE[what]
    assert y.dtype == expected.dtype
    assert y.shape == expected.shape
    if what != "meta":
        assert torch.equal(y, expected)


@pytest.mark.parametrize("kind", list(pairs.KINDS))
@pytest.mark.parametrize("suffix", ["", "Cell"])
@pytest.mark.parametrize("batched", [True, False])
def test_autocast_leaves_float64_alone(kind: str, suffix: str, batched: bool) -> None:
    mine, theirs = pairs.pair(kind, I, H, suffix=suffix, dtype=torch.float64)
    x = pairs.draw((*(() if suffix else (6,)), *((3,) if batched else ()), I), 0)

    def call(m: Any, x: Any) -> Any:
        with torch.autocast("cpu"):
            return m(x)

    with pairs.taken("fused"):
        found = pairs.results(mine, [x], call)
    pairs.close(found, pairs.results(theirs, [x], call))
    pairs.runs_again(mine, [x], call, found)
    # Not all CPUs are enough for PyTorch's own layer in the lower precision.
    single, _ = pairs.pair(kind, I, H, suffix=suffix)
    with torch.autocast("cpu"), pairs.taken("stock"), contextlib.suppress(RuntimeError):
        single(x)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_memory_that_kernels_cannot_read_goes_to_stock() -> None:
    mine, theirs = pairs.pair("lstm", I, H)
    x = torch.randn(6, 3, I)
    mine(x)  # so that its weights are known
    for given in (x.to_sparse(), torch.nested.nested_tensor(list(x))):
        with pairs.taken("stock"):
            came = pairs.words(mine, given)
        assert ours.last_reason() == "a sparse or nested tensor"
        assert came == pairs.words(theirs, given)


@pytest.mark.parametrize("suffix", ["", "Cell"])
def test_without_the_compiled_module(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = pairs.pair("gru", I, H, suffix=suffix)
    x = torch.randn(*((3, I) if suffix else (6, 3, I)))
    mine(x)  # so that its weights are known
    monkeypatch.delitem(_backend.compiled, "auto")
    with pairs.taken("stock"):
        y = mine(x)
    assert ours.last_reason().startswith("the compiled module is absent: ")
    for a, b in zip(pairs.tensors_in(y), pairs.tensors_in(theirs(x)), strict=True):
        assert torch.equal(a, b)
    if not suffix:
        with pairs.taken("composed"):
            z = mine(x, lengths=torch.tensor([6, 6, 6]))[0]
        torch.testing.assert_close(z, y[0])


def test_the_kernel_is_named() -> None:
    with pairs.taken("fused"):
        ours.GRU(3, 4)(torch.randn(2, 1, 3))[0].sum().backward()
    assert rnnfast.last_kernel().startswith("gru.backward.f32.")


def test_threads_follow_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    from rnnfast.torch import _scan

    seen = []

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def forward(self, *args: Any) -> Any:
            seen.append(args[6])
            return core.forward(*args)

        def backward(self, *args: Any) -> Any:
            seen.append(args[4])
            return core.backward(*args)

    core = _scan._compiled["auto"]
    monkeypatch.setitem(_scan._compiled, "auto", Spy())
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            ours.GRU(3, 4)(torch.randn(2, 1, 3))[0].sum().backward()
    finally:
        torch.set_num_threads(before)
    # At most so many: as many as pay.
    assert seen == [(1,), (1,), (2,), (2,)]


def test_counts_are_a_copy() -> None:
    ours.dispatch_counts()["fused"] = -1
    assert ours.dispatch_counts()["fused"] >= 0
