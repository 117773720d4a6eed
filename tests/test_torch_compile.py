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

import rnnfast.torch as ours  # noqa: E402

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


def models() -> tuple[Any, Any, Any]:
    mine, theirs = Model(ours), Model(torch.nn)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs, torch.randn(B, T, I)


def operator_inputs(kind: str, batch_first: bool, given: bool, L: int, grad: bool) -> tuple:
    cell = {"rnn": "rnn_tanh", "relu-rnn": "rnn_relu"}.get(kind, kind)
    layer, _ = pairs.pair(kind, I, H, L, bidirectional=True, dtype=D64)
    weights = [p.detach().requires_grad_(grad) for p in layer.parameters()]
    x = pairs.draw((B, T, I) if batch_first else (T, B, I), 0, grad=grad)
    n = 0 if not given else 2 if kind == "lstm" else 1
    states = [pairs.draw((2 * L, B, H), k + 1, grad=grad) for k in range(n)]
    masks = [torch.ones(T, B, 2 * H, dtype=D64) for _ in range(L - 1)]
    return x, states, weights, masks, cell, L, 2, True, batch_first, grad


@kinds
@pytest.mark.parametrize(("batch_first", "given", "L"), [(False, True, 1), (True, False, 2)])
@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(kind: str, batch_first: bool, given: bool, L: int, grad: bool) -> None:
    inputs = operator_inputs(kind, batch_first, given, L, grad)
    checked = torch.library.opcheck(torch.ops.rnnfast.scan.default, inputs)
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


def test_a_compiled_model_of_several_layers() -> None:
    mine, theirs, x = models()
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    with pairs.taken("fused", 2):
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
    for _ in range(2):
        mine.zero_grad()
        theirs.zero_grad()
        with pairs.taken("fused", 2):
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
@pytest.mark.parametrize("what", ["proj_size", "bfloat16", "autocast"])
def test_what_is_pytorch_s_in_a_graph_too(what: str) -> None:
    options = {"proj_size": {"proj_size": 3}, "bfloat16": {"dtype": torch.bfloat16}}.get(what, {})
    mine, theirs = pairs.pair("lstm", I, H, **options)
    x = torch.randn(T, B, I).to(mine.weight_ih_l0)

    def call(m: Any) -> Any:
        # With gradients PyTorch's own compiled LSTM in bfloat16 fails, in 2.13.
        with torch.no_grad(), torch.autocast("cpu", enabled=what == "autocast"):
            return m(x)[0]

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    with pairs.taken("fused", 0):
        y = compiled(mine)
    torch.testing.assert_close(y, call(theirs))
    assert y.dtype == call(theirs).dtype


# Dynamo itself looks at it, after any break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_packed_sequences_break_the_graph_and_keep_the_kernels() -> None:
    mine, theirs = pairs.pair("gru", I, H)
    x = torch.randn(T, B, I)

    def call(m: Any) -> Any:
        return m(torch.nn.utils.rnn.pack_padded_sequence(x, [4, 2, 1]))[0].data.sin()

    with dynamo.patch(allow_rnn=False), pairs.taken("fused"):
        y = torch.compile(call, backend="aot_eager")(mine)
    torch.testing.assert_close(y, call(theirs))


def test_second_derivatives_of_the_operator_raise() -> None:
    inputs = operator_inputs("gru", False, True, 1, True)
    y = torch.ops.rnnfast.scan(*inputs)[0]
    (dx,) = torch.autograd.grad(y.sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        torch.autograd.grad(dx.sum(), inputs[2])


# Dynamo itself looks at it, after any break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_the_default_mode_breaks_the_graph_and_keeps_the_kernels() -> None:
    mine, theirs, x = models()
    with dynamo.patch(allow_rnn=False), pairs.taken("fused", 2):
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
    x, states, weights, masks, *fixed = (
        [t.detach().clone() for t in a] if isinstance(a, list) else a for a in inputs
    )
    x = x.detach().clone()
    dy = [torch.ones_like(y), torch.zeros_like(states[0])]
    rest = (states, weights, masks, dy, *fixed[:-1], True)
    expected = torch.ops.rnnfast.scan_backward(token, x, *rest)
    inputs[0].data.zero_()
    again = torch.ops.rnnfast.scan_backward(token, x, *rest)
    copied = torch.ops.rnnfast.scan_backward(token.clone(), x, *rest)
    for a, b, c in zip(expected, again, copied, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_options_are_refused_in_a_graph() -> None:
    compiled = torch.compile(ours.GRU(I, H), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="options of its own are not compiled yet"):
        compiled(torch.randn(T, B, I), lengths=torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    mine, theirs, x = models()
    program = torch.export.export(mine.eval(), (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), theirs(x))
    # Nothing in it needs this package.
    assert not any("rnnfast" in str(node.target) for node in program.graph.nodes)


def test_onnx_export() -> None:
    onnxruntime = require("onnxruntime")
    import onnx

    mine, theirs, x = models()
    file = io.BytesIO()
    with pytest.warns(Warning):  # noqa: PT030 - the exporter's own, several
        torch.onnx.export(mine.eval(), (x,), file, dynamo=False)
    kinds_of_nodes = [n.op_type for n in onnx.load_from_string(file.getvalue()).graph.node]
    assert kinds_of_nodes.count("LSTM") == 2
    assert kinds_of_nodes.count("GRU") == 1
    session = onnxruntime.InferenceSession(file.getvalue())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), theirs(x).detach())


def test_scripting_and_tracing_a_model() -> None:
    mine, theirs, x = models()
    with pairs.taken("stock", 3):
        traced = torch.jit.trace(mine, (x,), check_trace=False)
    assert ours.last_reason() == "tracing"
    torch.testing.assert_close(traced(x), theirs(x))
    with pairs.taken("stock", 3):
        scripted = torch.jit.script(copy.deepcopy(mine))
    assert ours.last_reason() == "scripting"
    torch.testing.assert_close(scripted(x), theirs(x))
    with pairs.taken("fused", 3):
        mine(x)
    # torch.jit.script puts what it compiles into the model that it is given.
    torch.jit.script(mine)
    assert type(mine.lstm) is torch.nn.LSTM
    assert type(ours.accelerate(mine).lstm) is ours.LSTM
