"""`rnnfast.torch` in graphs: the operators, `torch.compile`, export, ONNX and scripting."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402
from torch._dynamo import config as dynamo  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402

import rnnfast  # noqa: E402
import rnnfast.torch as ours  # noqa: E402
from rnnfast import _backend  # noqa: E402

kinds = pytest.mark.parametrize("kind", list(pairs.KINDS))
T, B, I, H = 4, 3, 2, 5
D64 = torch.float64
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:The tensor attributes:UserWarning",  # stock's layers make export say so too
)


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch.compiler.reset()
    # The documented route: PyTorch refuses its recurrent layers, and what derives from them.
    with dynamo.patch(allow_rnn=True):
        yield
    torch.compiler.reset()


class Model(torch.nn.Module):
    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.lstm = layers.LSTM(I, H, 2, batch_first=True, bidirectional=True)
        self.gru = layers.GRU(2 * H, H)
        self.cell = layers.GRUCell(H, H)

    def forward(self, x):  # a tensor, to the scripting compiler
        y, _ = self.gru(self.lstm(torch.tanh(x))[0])
        return self.cell(torch.sigmoid(y[:, -1]))


class Cells(torch.nn.Module):
    """Every cell, each with a state, over the first steps of x."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.rnn = layers.RNNCell(I, H)
        self.relu = layers.RNNCell(H, H, nonlinearity="relu", bias=False)
        self.lstm = layers.LSTMCell(H, H)
        self.gru = layers.GRUCell(H, H)

    def forward(self, x):
        h = torch.tanh(self.rnn(x[:, 0]))
        h = self.rnn(x[:, 1], h)
        h = self.relu(h, self.relu(h))
        h, c = self.lstm(h, (h, h))
        return self.gru(h, c)


# Of a model, how many calls of layers and cells it makes, and how many recurrent layers ONNX has.
CALLS = {Model: (3, {"LSTM": 2, "GRU": 1}), Cells: (6, {"LSTM": 0, "GRU": 0})}
every_model = pytest.mark.parametrize("kind", list(CALLS), ids=lambda kind: kind.__name__)


def models(kind: Any = Model) -> tuple[Any, Any, Any]:
    mine, theirs = kind(ours), kind(torch.nn)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs, torch.randn(B, T, I)


def operator_inputs(
    kind: str, batch_first: bool, given: bool, L: int, grad: bool, D: int = 2, bias: bool = True
) -> tuple:
    cell = {"rnn": "rnn_tanh", "relu-rnn": "rnn_relu"}.get(kind, kind)
    layer, _ = pairs.pair(kind, I, H, L, bias=bias, bidirectional=D == 2, dtype=D64)
    weights = [p.detach().requires_grad_(grad) for p in layer.parameters()]
    x = pairs.draw((B, T, I) if batch_first else (T, B, I), 0, grad=grad)
    n = 0 if not given else 2 if kind == "lstm" else 1
    states = [pairs.draw((D * L, B, H), k + 1, grad=grad) for k in range(n)]
    masks = [torch.ones(T, B, D * H, dtype=D64) for _ in range(L - 1)]
    return x, states, [], weights, masks, [], "", cell, L, D, bias, batch_first, grad


def with_options(inputs: tuple) -> tuple:
    """The same with resets to replacements, all states returned."""
    x, states, _, weights, masks, _, _, cell, L, D, *fixed = inputs
    flags = torch.rand(T, B, generator=torch.Generator().manual_seed(1)) < 0.4
    resets = [pairs.draw((D * L, T, B, H), k + 7, grad=x.requires_grad) for k in range(len(states))]
    settings = repr(
        {"who": "rnnfast.torch", "training": True, "arrays": ["reset"], "return_states": True}
    )
    return x, states, resets, weights, masks, [flags], settings, cell, L, D, *fixed


@kinds
@pytest.mark.parametrize(("batch_first", "given", "L"), [(False, True, 1), (True, False, 2)])
@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(kind: str, batch_first: bool, given: bool, L: int, grad: bool) -> None:
    inputs = operator_inputs(kind, batch_first, given, L, grad)
    checked = torch.library.opcheck(torch.ops.rnnfast.scan.default, inputs)
    assert set(checked.values()) == {"SUCCESS"}
    assert len(checked) >= 4


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_opcheck_of_one_direction_without_biases(kind: str) -> None:
    inputs = operator_inputs(kind, False, True, 1, True, 1, False)
    checked = torch.library.opcheck(torch.ops.rnnfast.scan.default, inputs)
    assert set(checked.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("kind", "what", "need_dx"),
    [("gru", "zero state", True), ("lstm", "state", False), ("lstm", "options", True)],
)
def test_opcheck_of_the_backward_operator(kind: str, what: str, need_dx: bool) -> None:
    given, D = what != "zero state", 1 if what == "state" else 2
    inputs = operator_inputs(kind, what == "options", given, 2, False, D, D == 2)
    if what == "options":
        inputs = with_options(inputs)
    tensors, (*fixed, _) = inputs[:6], inputs[6:]
    *out, token = torch.ops.rnnfast.scan(*tensors, *fixed, True)
    gradients = [pairs.draw(t.shape, k, grad=False) for k, t in enumerate(out)]
    checked = torch.library.opcheck(
        torch.ops.rnnfast.scan_backward.default, (token, *tensors, gradients, *fixed, need_dx)
    )
    assert set(checked.values()) == {"SUCCESS"}
    assert len(checked) >= 4


@kinds
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}],
    ids=str,
)
@pytest.mark.parametrize("form", ["batched", "unbatched", "state"])
def test_compiled_in_one_graph(kind: str, options: dict[str, Any], form: str) -> None:
    mine, theirs = pairs.pair(kind, I, H, dtype=D64, **options)
    rows = mine.num_layers * (1 + mine.bidirectional)
    inputs = [pairs.draw((T, I) if form == "unbatched" else (B, B, I), 0)]
    if form == "state":
        inputs += [pairs.draw((rows, B, H), k + 1) for k in range(2 if kind == "lstm" else 1)]

    def call(m: Any, x: Any, *s: Any) -> Any:
        return m(x, None if not s else s if kind == "lstm" else s[0])

    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    with pairs.taken("fused"):
        result = pairs.results(compiled, inputs, call)
    expected = pairs.results(theirs, inputs, call)
    pairs.close(dict(zip(expected, result.values(), strict=True)), expected)
    with torch.no_grad(), pairs.taken("fused"):
        call(compiled, *inputs)


@kinds
@pytest.mark.parametrize("batched", [True, False])
def test_a_cell_in_a_compiled_graph_is_pytorch_s(kind: str, batched: bool) -> None:
    mine, theirs = pairs.pair(kind, I, H, batched, suffix="Cell", dtype=D64)
    n = 0 if batched else 2 if kind == "lstm" else 1
    inputs = [pairs.draw((B, I) if batched else (I,), 0), *(pairs.draw(H, k) for k in range(n))]

    def call(m: Any, x: Any, *s: Any) -> Any:
        return m(x, None if not s else s if kind == "lstm" else s[0])

    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    with pairs.taken("stock"):
        for _ in range(2):  # the second is not traced any more
            result = pairs.results(compiled, inputs, call)
    assert ours.last_reason() == "a cell in a compiled graph"
    expected = pairs.results(theirs, inputs, call)
    pairs.close(dict(zip(expected, result.values(), strict=True)), expected)


@pytest.mark.parametrize("accelerated", [False, True])
def test_a_compiled_model_of_several_layers(accelerated: bool) -> None:
    mine, theirs, x = models()
    if accelerated:
        mine = ours.accelerate(copy.deepcopy(theirs))
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    with pairs.taken("fused", 2, stock=1):
        y = compiled(x)
    y.square().sum().backward()
    expected = theirs(x)
    expected.square().sum().backward()
    torch.testing.assert_close(y, expected)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_model_compiled_to_machine_code() -> None:
    # Inductor, which is the default, with a compiler of C++.
    mine, theirs, x = models()
    compiled = torch.compile(mine, fullgraph=True)
    for traced in (1, 0):
        mine.zero_grad()
        theirs.zero_grad()
        with pairs.taken("fused", 2, stock=traced):  # the cell
            y = compiled(x)
        y.square().sum().backward()
        expected = theirs(x)
        expected.square().sum().backward()
        torch.testing.assert_close(y, expected)
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
            with torch.no_grad():
                p -= 0.1 * p.grad
                q -= 0.1 * q.grad


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_graph_for_any_number_of_steps_and_rows(batch_first: bool) -> None:
    mine, theirs = pairs.pair("lstm", I, H, 2, batch_first=batch_first, dtype=D64)
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps, rows in ((4, 3), (7, 5), (9, 2)):
        x = pairs.draw((rows, steps, I) if batch_first else (steps, rows, I), 0)
        with pairs.taken("fused"):
            result = pairs.results(compiled, [x], lambda m, x: m(x))
        expected = pairs.results(theirs, [x], lambda m, x: m(x))
        pairs.close(dict(zip(expected, result.values(), strict=True)), expected)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("what", ["proj_size", "bfloat16", "autocast", "absent"])
def test_what_is_pytorch_s_in_a_graph_too(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"proj_size": {"proj_size": 3}, "bfloat16": {"dtype": torch.bfloat16}}.get(what, {})
    mine, theirs = pairs.pair("lstm", I, H, **options)
    x = torch.randn(T, B, I).to(mine.weight_ih_l0)
    if what == "absent":
        monkeypatch.delitem(_backend.compiled, "auto")

    def call(m: Any) -> Any:
        # With gradients PyTorch's own compiled LSTM in bfloat16 fails, in 2.13.
        with torch.no_grad(), torch.autocast("cpu", enabled=what == "autocast"):
            return m(x)[0]

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    expected = pairs.stock_result(lambda: compiled(theirs))
    with pairs.taken("stock"):
        for _ in range(2):  # the second is not traced any more
            y = compiled(mine)
    assert what in ours.last_reason()
    torch.testing.assert_close(y, expected)
    assert y.dtype == expected.dtype


def test_forward_mode_within_a_graph_is_pytorch_s() -> None:
    mine, theirs = pairs.pair("rnn", I, H, dtype=D64)
    x = pairs.draw((T, B, I), 0, grad=False)

    def call(m: Any) -> Any:
        return torch.func.jvp(lambda x: m(x)[0], (x,), (torch.ones_like(x),))[1]

    with pairs.taken("stock"):
        tangents = torch.compile(call, fullgraph=True, backend="aot_eager")(mine)
    assert ours.last_reason() == "a functorch transform"
    expected = call(theirs)
    assert expected.all()
    pairs.alike(tangents, expected)
    # The graph of a call without tangents is not that of one with them.
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    with torch.no_grad(), pairs.taken("fused"):
        compiled(x)
    with torch.no_grad(), forward_ad.dual_level(), pairs.taken("stock"):
        y = compiled(forward_ad.make_dual(x, torch.ones_like(x)))[0]
        tangents = forward_ad.unpack_dual(y).tangent
    assert ours.last_reason() == "forward-mode differentiation"
    pairs.alike(tangents, expected)


# Dynamo itself looks at it, after any break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("options", [{}, {"zoneout": 0.2, "seed": 1}])
def test_packed_sequences_break_the_graph_and_keep_the_kernels(
    allowed: bool, options: dict[str, Any]
) -> None:
    mine, theirs = pairs.pair("gru", I, H)
    x = torch.randn(T, B, I)

    def call(m: Any) -> Any:
        return m(torch.nn.utils.rnn.pack_padded_sequence(x, [4, 2, 1]), **options)[0].data.sin()

    with dynamo.patch(allow_rnn=allowed), pairs.taken("fused"):
        y = torch.compile(call, backend="aot_eager")(mine)
    assert torch.equal(y, call(mine))
    if not options:
        torch.testing.assert_close(y, call(theirs))


def test_second_derivatives_of_the_operator_raise() -> None:
    inputs = operator_inputs("gru", False, True, 1, True)
    y = torch.ops.rnnfast.scan(*inputs)[0]
    (dx,) = torch.autograd.grad(y.sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        torch.autograd.grad(dx.sum(), inputs[3])


# Dynamo itself looks at it, after any break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_the_default_mode_breaks_the_graph_and_keeps_the_kernels() -> None:
    mine, theirs, x = models()
    with dynamo.patch(allow_rnn=False), pairs.taken("fused", 2, stock=1):
        y = torch.compile(mine, backend="aot_eager")(x)
    torch.testing.assert_close(y, theirs(x))


def test_dropout_between_layers_is_compiled() -> None:
    layer = ours.LSTM(I, H, 2, dropout=0.5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(T, B, I)
    found = []
    for module in (layer, compiled):
        torch.manual_seed(3)
        with pairs.taken("fused"):
            found.append(module(x)[0])
    assert torch.equal(*found)


def test_a_tape_whose_arrays_are_gone_is_made_anew() -> None:
    inputs = operator_inputs("gru", False, True, 2, True)
    y, _, token = torch.ops.rnnfast.scan(*inputs)
    x, states, resets, weights, masks, arrays, *fixed = (
        [t.detach().clone() for t in a] if isinstance(a, list) else a for a in inputs
    )
    x = x.detach().clone()
    dy = [torch.ones_like(y), torch.zeros_like(states[0])]
    rest = (states, resets, weights, masks, arrays, dy, *fixed[:-1], True)
    expected = torch.ops.rnnfast.scan_backward(token, x, *rest)
    inputs[0].data.zero_()
    again = torch.ops.rnnfast.scan_backward(token, x, *rest)
    copied = torch.ops.rnnfast.scan_backward(token.clone(), x, *rest)
    for a, b, c in zip(expected, again, copied, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def steps_of(batch_first: bool, *shape: int) -> tuple[int, ...]:
    """(..., T, B, ...) in the form of a layer."""
    return tuple({T: B, B: T}.get(n, n) for n in shape) if batch_first else shape


def replacement(kind: str, batch_first: bool, steps: int = T) -> Any:
    made = [pairs.draw((4, steps, B, H), k + 7) for k in range(2 if kind == "lstm" else 1)]
    if batch_first:
        made = [t.detach().transpose(1, 2).requires_grad_() for t in made]
    return tuple(made) if kind == "lstm" else made[0]


# Of each, a function of the kind of layer, batch_first and flags (T, B) in the form of the layer.
OPTIONS: dict[str, Any] = {
    "lengths": lambda *_: {"lengths": torch.tensor([T, 0, 2])},
    "mask": lambda k, b, flags: {"mask": flags, "pad_output": "hold"},
    "reset": lambda k, b, flags: {"reset": flags},
    "reset_state": lambda k, b, flags: {"reset": flags, "reset_state": replacement(k, b)},
    "one reset_state": lambda k, b, flags: {"reset": flags, "reset_state": replacement(k, b, 1)},
    "return_states": lambda *_: {"return_states": True},
    "noise": lambda *_: {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.1},
    "keyed noise": lambda *_: {
        **{"recurrent_dropout": 0.3, "recurrent_dropout_mode": "step", "seed": 2**64 - 3},
        **{"t0": 5, "row_ids": torch.tensor([8, 1, 4])},
    },
    "all": lambda k, b, flags: {
        **{"reset": flags, "lengths": torch.tensor([1, T, 3]), "return_states": True},
        **{"reset_state": replacement(k, b), "zoneout": 0.2, "pad_output": "hold"},
    },
}


def graph_and_eager(call: Any, inputs: Any) -> list[list[Any]]:
    """What both give from the same seed, and the gradients of a loss of all of it."""
    found = []
    for f in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(3)
        with pairs.taken("fused"):
            out = pairs.tensors_in(f())
        loss = sum(t.square().sum() for t in out)
        found.append([*out, *torch.autograd.grad(loss, inputs, allow_unused=True)])
    return found


def assert_equal(eager: list[Any], graph: list[Any]) -> None:
    for a, b in zip(eager, graph, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@kinds
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("what", list(OPTIONS))
def test_options_are_compiled_in_one_graph(kind: str, batch_first: bool, what: str) -> None:
    layer, _ = pairs.pair(
        kind, I, H, 2, bidirectional=True, dropout=0.4, batch_first=batch_first, dtype=D64
    )
    x = pairs.draw((*steps_of(batch_first, T, B), I), 0)
    flags = (
        torch.rand(steps_of(batch_first, T, B), generator=torch.Generator().manual_seed(1)) < 0.4
    )
    options = OPTIONS[what](kind, batch_first, flags)
    inputs = [x, *pairs.tensors_in(options.get("reset_state", ())), *layer.parameters()]

    assert_equal(*graph_and_eager(lambda: layer(x, **options), inputs))


@kinds
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("reset_to", ["zero", "learned", "each step", "once"])
def test_options_of_a_single_row_are_compiled(kind: str, batch_first: bool, reset_to: str) -> None:
    name, own = pairs.KINDS[kind]
    own = own | {"bidirectional": True, "batch_first": batch_first, "dropout": 0.4, "dtype": D64}
    layer = getattr(ours, name)(I, H, 2, initial_state="learned", **own)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x = pairs.draw((T, I), 0)
    options = {
        **{"mask": torch.tensor([True, True, False, True])},
        **{"reset": torch.tensor([False, True, False, True]), "return_states": True},
        **{"zoneout": 0.2, "recurrent_dropout": 0.3, "row_ids": torch.tensor([8])},
    }
    inputs = [x, *layer.parameters()]
    if reset_to == "learned":
        options["reset_to"] = "learned"
    elif reset_to != "zero":
        shape = (4, T if reset_to == "each step" else 1, H)
        given = [pairs.draw(shape, k + 1) for k in range(2 if kind == "lstm" else 1)]
        options["reset_state"] = given if kind == "lstm" else given[0]
        inputs += given
    eager, graph = graph_and_eager(lambda: layer(x, **options), inputs)
    assert eager[0].shape == (T, 2 * H)
    assert_equal(eager, graph)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_options_under_autocast_are_compiled_in_the_weights_dtype(kind: str) -> None:
    layer, _ = pairs.pair(kind, I, H)
    x = pairs.draw((T, B, I), 0, torch.bfloat16)

    def call() -> Any:
        with torch.autocast("cpu"):
            return layer(x, zoneout=0.2, return_states=True)

    eager, graph = graph_and_eager(call, [x, *layer.parameters()])
    assert eager[0].dtype is torch.float32
    assert_equal(eager, graph)


def test_float64_under_autocast_is_fused_in_a_graph_too() -> None:
    layer, _ = pairs.pair("lstm", I, H, dtype=D64)
    x = pairs.draw((T, B, I), 0)

    def call() -> Any:
        with torch.autocast("cpu"):
            return layer(x)

    assert_equal(*graph_and_eager(call, [x, *layer.parameters()]))


def test_lengths_of_a_single_row_are_refused_in_a_graph_too() -> None:
    layer, x = ours.GRU(I, H), torch.randn(T, I)
    with pytest.raises(Exception, match="lengths is given, but input is a single unbatched row"):
        torch.compile(
            lambda: layer(x, lengths=torch.tensor([2])), fullgraph=True, backend="aot_eager"
        )()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("reset_to", ["zero", "learned"])
def test_learned_states_and_options_of_the_layer_are_compiled(kind: str, reset_to: str) -> None:
    layer = getattr(ours, pairs.KINDS[kind][0])(I, H, zoneout=0.2, initial_state="learned")
    for name in ("h_0", "c_0")[: 2 if kind == "lstm" else 1]:
        torch.nn.init.normal_(getattr(layer, name))
    x, reset = torch.randn(T, B, I), torch.rand(T, B) < 0.4

    def call(x: Any) -> Any:
        return layer(x, reset=reset, reset_to=reset_to)

    found = []
    for f in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(3)
        layer.zero_grad()
        with pairs.taken("fused"):
            y = f(x)[0]
        y.square().sum().backward()
        found.append([y, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert layer.h_0.grad.any()


def test_options_compiled_to_machine_code() -> None:
    layer, x = ours.GRU(I, H), torch.randn(T, B, I)
    compiled = torch.compile(lambda x, n: layer(torch.tanh(x), lengths=n)[0].sin(), fullgraph=True)
    for lengths in ([1, 4, 0], [3, 3, 2]):
        n = torch.tensor(lengths)
        with pairs.taken("fused"):
            y = compiled(x, n)
        torch.testing.assert_close(y, layer(torch.tanh(x), lengths=n)[0].sin())


@kinds
@pytest.mark.parametrize("batch_first", [False, True])
def test_opcheck_with_options(kind: str, batch_first: bool) -> None:
    inputs = with_options(operator_inputs(kind, batch_first, True, 1, True))
    checked = torch.library.opcheck(torch.ops.rnnfast.scan.default, inputs)
    assert set(checked.values()) == {"SUCCESS"}


def test_a_graph_s_options_are_checked_when_it_runs() -> None:
    layer = ours.GRU(I, H)
    compiled = torch.compile(lambda x, n: layer(x, lengths=n), fullgraph=True, backend="aot_eager")
    x = torch.randn(T, B, I)
    with pytest.raises(
        rnnfast.ArgumentError, match=r"GRU: lengths holds 9 at \[1\], expected 0 <="
    ):
        compiled(x, torch.tensor([1, 9, 0]))


@pytest.mark.parametrize("what", ["bfloat16", "mixed dtypes", "export", "strict export"])
def test_options_that_no_graph_takes_are_refused_in_words(what: str) -> None:
    layer = ours.GRU(I, H, dtype=torch.bfloat16 if what == "bfloat16" else None)
    x = torch.randn(T, B, I).to(layer.weight_ih_l0)
    given = x.double() if what == "mixed dtypes" else x

    class Zoned(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return layer(given if x is None else x, zoneout=0.1)

    def run() -> None:
        if "export" in what:
            torch.export.export(Zoned(), (x,), strict=what == "strict export")
        else:
            torch.compile(Zoned(), fullgraph=True, backend="aot_eager")(None)

    text = "are compiled for padded input of float32 or float64 on the CPU, and not for export"
    with pytest.raises(Exception, match=text):
        run()


def test_an_unknown_option_is_refused_in_a_graph_too() -> None:
    layer, x = ours.GRU(I, H), torch.randn(T, B, I)
    with pytest.raises(Exception, match="no option 'lenghts'"):
        torch.compile(lambda: layer(x, lenghts=1), fullgraph=True, backend="aot_eager")()


@every_model
@pytest.mark.parametrize("strict", [False, True])
def test_export(kind: Any, strict: bool) -> None:
    mine, theirs, x = models(kind)
    with pairs.taken("stock", CALLS[kind][0]):
        program = torch.export.export(mine.eval(), (x,), strict=strict)
    assert ours.last_reason() == "export"
    torch.testing.assert_close(program.module()(x), theirs(x))
    # Nothing in it needs this package.
    assert not any("rnnfast" in str(node.target) for node in program.graph.nodes)


@every_model
@pytest.mark.parametrize("exporter", ["default", "by tracing"])
def test_onnx_export(kind: Any, exporter: str) -> None:
    onnxruntime = require("onnxruntime")
    import onnx

    tracing = exporter == "by tracing"
    if not tracing:
        require("onnxscript")
    mine, theirs, x = models(kind)
    n, layers = CALLS[kind]
    file = io.BytesIO()
    with (
        pairs.taken("stock", n),
        pytest.warns(Warning),  # noqa: PT030 - the exporter's own, several
    ):
        torch.onnx.export(mine.eval(), (x,), file, **({"dynamo": False} if tracing else {}))
    assert ours.last_reason() == ("tracing" if tracing else "export")
    nodes = [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]
    assert {name: nodes.count(name) for name in layers} == layers
    session = onnxruntime.InferenceSession(file.getvalue())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), theirs(x).detach())


@every_model
def test_scripting_and_tracing_a_model(kind: Any) -> None:
    mine, theirs, x = models(kind)
    n, modules = CALLS[kind][0], dict(theirs.named_children())
    with pairs.taken("stock", n):
        traced = torch.jit.trace(mine, (x,), check_trace=False)
    assert ours.last_reason() == "tracing"
    torch.testing.assert_close(traced(x), theirs(x))
    with pairs.taken("stock", len(modules)):
        scripted = torch.jit.script(copy.deepcopy(mine))
    assert ours.last_reason() == "scripting"
    torch.testing.assert_close(scripted(x), theirs(x))
    with pairs.taken("fused", n):
        mine(x)
    # torch.jit.script puts what it compiles into the model that it is given.
    torch.jit.script(mine)
    for name, stock in modules.items():
        assert type(getattr(mine, name)) is type(stock)
    ours.accelerate(mine)
    for name, stock in modules.items():
        assert type(getattr(mine, name)) is getattr(ours, type(stock).__name__)
