"""Weights converted, and the outputs of the systems themselves; each where it is installed.

docs/weights.md says which versions were compared.
"""

from __future__ import annotations

import importlib
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import require

import rnnfast
from rnnfast import weights

# Frameworks warn of their own future; that is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

T, B, I, H = 5, 2, 3, 4
forms = pytest.mark.parametrize(
    ("L", "D", "bias"), [(1, 1, True), (1, 1, False), (2, 2, True), (2, 1, True)]
)
cells = pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "gru"])


def make(cell: str, L: int = 1, D: int = 1, bias: bool = True, dtype: str = "float64") -> Any:
    options = dict(rnnfast.CELLS[cell].options)
    layer = getattr(rnnfast, rnnfast.CELLS[cell].function.upper())
    return layer(
        I, H, num_layers=L, bias=bias, bidirectional=D == 2,
        dtype=dtype, seed=4, device="numpy", **options,
    )  # fmt: skip


def problem(layer: Any) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """x, initial states, y and last states."""
    rng = np.random.default_rng(7)
    rows = layer.num_layers * (1 + layer.bidirectional)
    S = len(rnnfast.CELLS[layer.cell].states)
    x = rng.standard_normal((T, B, I)).astype(layer.dtype)
    start = [rng.standard_normal((rows, B, H)).astype(layer.dtype) for _ in range(S)]
    y, last = layer(x, tuple(start) if S == 2 else start[0])
    return x, start, y, list(last) if S == 2 else [last]


def carries(layer: Any, system: str, states: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
    """The states per layer and direction, in the system's order."""
    letters = rnnfast.CELLS[layer.cell].states
    order = [letters.index(letter) for letter in weights.carry(layer.cell, system)]
    return [tuple(states[k][row] for k in order) for row in range(len(states[0]))]


def close(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(theirs), ours, rtol=0, atol=tolerance)


def unroll(layer: Any, system: str, step: Any, tolerance: float = 1e-12) -> None:
    """Compare a system that has cells only: step(arrays, x, carry) returns (carry, y)."""
    x, start, y, last = problem(layer)
    exported = weights.export(layer, system)
    D = 1 + layer.bidirectional
    ends = carries(layer, system, last)
    for row, carry in enumerate(carries(layer, system, start)):
        if row % D == 0:
            inputs, outputs = x, []
        ys: list[Any] = []
        for xt in inputs[::-1] if row % D else inputs:
            carry, out = step(exported[row], xt, carry)
            ys.append(np.asarray(out))
        for theirs, ours in zip(carry, ends[row], strict=True):
            close(ours, theirs, tolerance)
        outputs.append(np.stack(ys[::-1] if row % D else ys))
        if row % D == D - 1:
            x = np.concatenate(outputs, axis=-1)
    close(y, x, tolerance)


def back(layer: Any, system: str, arrays: Any) -> None:
    """What the system holds is what was exported, and loads into a layer that does the same."""
    other = make(
        layer.cell, layer.num_layers, 1 + layer.bidirectional, layer.bias, layer.dtype.name
    )
    for array in other.parameters.values():
        array[...] = 0
    weights.load(other, system, arrays, **weights.settings(layer, system))
    x = problem(layer)[0]
    close(layer(x)[0], other(x)[0], 1e-12 if layer.dtype == np.float64 else 1e-6)


@forms
@cells
def test_pytorch(cell: str, L: int, D: int, bias: bool) -> None:
    torch = require("torch")
    layer = make(cell, L, D, bias)
    x, start, y, last = problem(layer)
    theirs = getattr(torch.nn, rnnfast.CELLS[cell].function.upper())(
        I, H, num_layers=L, bidirectional=D == 2, bias=bias, dtype=torch.float64,
        **weights.settings(layer, "pytorch"),
    )  # fmt: skip
    exported = weights.export(layer, "pytorch")
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in exported.items()})
    state = tuple(torch.from_numpy(s) for s in start)
    output, ends = theirs(torch.from_numpy(x), state if len(state) == 2 else state[0])
    close(y, output.detach())
    for ours, end in zip(last, ends if len(last) == 2 else [ends], strict=True):
        close(ours, end.detach())
    back(layer, "pytorch", {name: a.numpy() for name, a in theirs.state_dict().items()})


def onnx_outputs(layer: Any, evaluate: Any) -> None:
    """Run a graph of one node per layer: Y (T, D, B, H) goes to (T, B, D*H) in between."""
    onnx = require("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    x, start, y, last = problem(layer)
    L, D = layer.num_layers, 1 + layer.bidirectional
    operator = rnnfast.CELLS[layer.cell].function.upper()
    ends = ("Y_h", "Y_c")[: len(start)]
    nodes, constants, outputs = [], [], []
    for k, arrays in enumerate(weights.export(layer, "onnx")):
        arrays = {**arrays, "h": start[0][k * D : k * D + D]}
        if len(start) == 2:
            arrays["c"] = start[1][k * D : k * D + D]
        constants += [numpy_helper.from_array(a, f"{name}{k}") for name, a in arrays.items()]
        inputs = [f"X{k}", f"W{k}", f"R{k}", f"B{k}" if "B" in arrays else "", "", f"h{k}"]
        inputs += [f"c{k}"] if "c" in arrays else []
        attributes = weights.settings(layer, "onnx")
        outputs += [f"{name}{k}" for name in ends]
        named = [f"Y{k}", *outputs[-len(ends) :]]
        nodes.append(helper.make_node(operator, inputs, named, **attributes))
        nodes.append(helper.make_node("Transpose", [f"Y{k}"], [f"t{k}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"t{k}", "shape"], [f"X{k + 1}"]))
    constants.append(numpy_helper.from_array(np.array([T, B, D * H]), "shape"))
    kind = helper.np_dtype_to_tensor_dtype(layer.dtype)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "layers",
        [value("X0", kind, [T, B, I])],
        [value(f"X{L}", kind, [T, B, D * H]), *(value(n, kind, [D, B, H]) for n in outputs)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    theirs, *states = evaluate(model, {"X0": x})
    tolerance = 1e-12 if layer.dtype == np.float64 else 1e-5
    close(y, theirs, tolerance)
    for k in range(L):
        for s, ours in enumerate(last):
            close(ours[k * D : k * D + D], states[k * len(last) + s], tolerance)
    rows: list[dict[str, Any]] = [{} for _ in range(L)]
    for constant in model.graph.initializer:
        if constant.name[0] in "WRB":
            rows[int(constant.name[1:])][constant.name[0]] = numpy_helper.to_array(constant)
    first = {a.name: helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
    other = make(layer.cell, L, D, layer.bias, layer.dtype.name)
    weights.load(other, "onnx", [{n: np.array(a) for n, a in row.items()} for row in rows], **first)
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(other.parameters[name], array)


@forms
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_onnx(cell: str, L: int, D: int, bias: bool) -> None:
    """The reference evaluator, in float64. It knows no relu in the operator RNN."""
    require("onnx")
    reference = importlib.import_module("onnx.reference")

    def evaluate(model: Any, feeds: Any) -> Any:
        return reference.ReferenceEvaluator(model).run(None, feeds)

    onnx_outputs(make(cell, L, D, bias), evaluate)


@forms
@cells
def test_onnxruntime(cell: str, L: int, D: int, bias: bool) -> None:
    """Its kernels are in float32 only."""
    runtime = require("onnxruntime")

    def evaluate(model: Any, feeds: Any) -> Any:
        providers = ["CPUExecutionProvider"]
        session = runtime.InferenceSession(model.SerializeToString(), providers=providers)
        return session.run(None, feeds)

    onnx_outputs(make(cell, L, D, bias, "float32"), evaluate)


@forms
@cells
def test_keras(cell: str, L: int, D: int, bias: bool) -> None:
    """In float64, except that its SimpleRNN multiplies matrices in float32 there too."""
    keras = require("keras")
    tolerance = 1e-6 if cell.startswith("rnn") else 1e-12
    layer = make(cell, L, D, bias)
    x, start, y, last = problem(layer)
    name = {"rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}[rnnfast.CELLS[cell].function]
    options = {**weights.settings(layer, "keras"), "use_bias": bias, "dtype": "float64"}
    theirs: Any = np.swapaxes(x, 0, 1)
    held = []
    for k, arrays in enumerate(weights.export(layer, "keras")):
        one = getattr(keras.layers, name)(H, return_sequences=True, return_state=True, **options)
        one = keras.layers.Bidirectional(one, dtype="float64") if D == 2 else one
        one.build((B, T, I if k == 0 else D * H))
        one.set_weights(arrays)
        rows = carries(layer, "keras", start)[k * D : k * D + D]
        theirs, *ends = one(theirs, initial_state=[s for row in rows for s in row])
        ours = [s for row in carries(layer, "keras", last)[k * D : k * D + D] for s in row]
        for a, b in zip(ours, ends, strict=True):
            close(a, keras.ops.convert_to_numpy(b), tolerance)
        held.append(one.get_weights())
    close(np.swapaxes(y, 0, 1), keras.ops.convert_to_numpy(theirs), tolerance)
    back(layer, "keras", held)


@pytest.mark.parametrize(("L", "D"), [(1, 1), (2, 1), (2, 2)])
def test_cudnn(L: int, D: int) -> None:
    """The layout as JAX unpacks it, and its reference of cuDNN's LSTM; no GPU is needed."""
    jax = require("jax")
    jax.config.update("jax_enable_x64", True)
    from jax.experimental import rnn

    layer = make("lstm", L, D)
    x, start, y, last = problem(layer)
    vector = weights.export(layer, "cudnn")
    assert len(vector) == rnn.get_num_params_in_lstm(I, H, L, D == 2)
    parts = rnn.unpack_lstm_weights(jax.numpy.asarray(vector), I, H, L, D == 2)
    output, h, c = rnn.lstm_ref(
        np.swapaxes(x, 0, 1), *start, *parts, np.full(B, T, np.int32), I, H, L, 0.0, D == 2
    )
    close(np.swapaxes(y, 0, 1), output)
    close(last[0], h)
    close(last[1], c)


@forms
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "optimized", "gru"])
def test_flax_linen(cell: str, L: int, D: int, bias: bool) -> None:
    linen = require("flax").linen
    jax = require("jax")
    jax.config.update("jax_enable_x64", True)
    own = "lstm" if cell == "optimized" else cell
    layer = make(own, L, D, bias)
    names = {"rnn": "SimpleCell", "lstm": "LSTMCell", "gru": "GRUCell"}
    name = "OptimizedLSTMCell" if cell == "optimized" else names[rnnfast.CELLS[own].function]
    needed = weights.settings(layer, "flax_linen")
    functions = {"tanh": jax.numpy.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}
    options = {n: functions.get(v, v) for n, v in needed.items()}
    theirs = getattr(linen, name)(features=H, param_dtype="float64", **options)

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)

    def step(arrays: Any, xt: Any, carry: Any) -> Any:
        carry = carry if len(carry) == 2 else carry[0]
        initial = theirs.init(jax.random.key(0), carry, xt)["params"]
        assert shapes(initial) == shapes(arrays)
        carry, out = theirs.apply({"params": arrays}, carry, xt)
        return carry if isinstance(carry, tuple) else (carry,), out

    unroll(layer, "flax_linen", step)
    back(layer, "flax_linen", jax.tree.map(np.asarray, weights.export(layer, "flax_linen")))


@forms
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "split", "gru"])
def test_flax_nnx(cell: str, L: int, D: int, bias: bool) -> None:
    nnx = require("flax").nnx
    jax = require("jax")
    jax.config.update("jax_enable_x64", True)
    system = "flax_nnx_split" if cell == "split" else "flax_nnx"
    own = "lstm" if cell == "split" else cell
    layer = make(own, L, D, bias)
    for name, array in layer.parameters.items():
        if own == "gru" and name.startswith("bias_hh"):
            array[2 * H :] = 0
    names = {"rnn": "SimpleCell", "lstm": "OptimizedLSTMCell", "gru": "GRUCell"}
    name = "LSTMCell" if cell == "split" else names[rnnfast.CELLS[own].function]
    functions = {"tanh": jax.numpy.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}
    needed = weights.settings(layer, system)
    options = {n: functions.get(v, v) for n, v in needed.items()}
    held = []

    def step(arrays: Any, xt: Any, carry: Any) -> Any:
        theirs = getattr(nnx, name)(
            xt.shape[-1], H, dtype="float64", param_dtype="float64", rngs=nnx.Rngs(0), **options
        )
        state = nnx.state(theirs, nnx.Param)
        pure = nnx.to_pure_dict(state)
        assert jax.tree.map(np.shape, pure) == jax.tree.map(np.shape, arrays)
        nnx.replace_by_pure_dict(state, jax.tree.map(jax.numpy.asarray, arrays))
        nnx.update(theirs, state)
        held.append(jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(theirs, nnx.Param))))
        carry, out = theirs(carry if len(carry) == 2 else carry[0], xt)
        return carry if isinstance(carry, tuple) else (carry,), out

    unroll(layer, system, step)
    back(layer, system, held[::T])


@forms
@pytest.mark.parametrize("cell", ["rnn_relu", "lstm"])
def test_haiku(cell: str, L: int, D: int, bias: bool) -> None:
    haiku = require("haiku")
    jax = require("jax")
    jax.config.update("jax_enable_x64", True)
    layer = make(cell, L, D, bias)
    name = {"rnn": "VanillaRNN", "lstm": "LSTM"}[rnnfast.CELLS[cell].function]

    def run(xt: Any, state: Any) -> Any:
        return getattr(haiku, name)(H, name="core")(xt, state)

    theirs = haiku.without_apply_rng(haiku.transform(run))

    def step(arrays: Any, xt: Any, carry: Any) -> Any:
        state = haiku.LSTMState(*carry) if len(carry) == 2 else carry[0]
        params = {f"core/{module}": a for module, a in arrays.items()}
        initial = theirs.init(jax.random.key(0), xt, state)
        assert jax.tree.map(np.shape, initial) == jax.tree.map(np.shape, params)
        out, state = theirs.apply(params, xt, state)
        return tuple(state) if len(carry) == 2 else (state,), out

    unroll(layer, "haiku", step)


@forms
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_equinox(cell: str, L: int, D: int, bias: bool) -> None:
    equinox = require("equinox")
    jax = require("jax")
    jax.config.update("jax_enable_x64", True)
    layer = make(cell, L, D, bias)
    held = []

    def step(arrays: Any, xt: Any, carry: Any) -> Any:
        theirs = getattr(equinox.nn, f"{cell.upper()}Cell")(
            xt.shape[-1], H, use_bias=bias, key=jax.random.key(0)
        )
        for field, array in arrays.items():
            assert getattr(theirs, field).shape == array.shape
            theirs = equinox.tree_at(lambda m, n=field: getattr(m, n), theirs, array)
        fields = ("weight_ih", "weight_hh", "bias", "bias_n")[: 3 if cell == "lstm" else 4]
        held.append({field: getattr(theirs, field) for field in fields})
        state = jax.vmap(theirs)(xt, carry if len(carry) == 2 else carry[0])
        state = state if isinstance(state, tuple) else (state,)
        return state, state[0]

    unroll(layer, "equinox", step)
    back(layer, "equinox", held[::T])


@forms
@cells
def test_mlx(cell: str, L: int, D: int, bias: bool) -> None:
    """In float32, its default; it runs on the CPU."""
    require("mlx")
    import mlx.core as mx
    import mlx.nn as nn

    mx.set_default_device(mx.cpu)
    layer = make(cell, L, D, bias, "float32")
    options = {}
    if rnnfast.CELLS[cell].function == "rnn":
        named = weights.settings(layer, "mlx")["nonlinearity"]
        options = {"nonlinearity": {"tanh": mx.tanh, "relu": nn.relu}[named]}

    def step(arrays: Any, xt: Any, carry: Any) -> Any:
        name = rnnfast.CELLS[cell].function.upper()
        theirs = getattr(nn, name)(xt.shape[-1], H, bias=bias, **options)
        held = {n: a for n, a in theirs.parameters().items() if a is not None}
        assert {n: a.shape for n, a in held.items()} == {n: a.shape for n, a in arrays.items()}
        theirs.update({n: mx.array(a) for n, a in arrays.items()})
        out = theirs(mx.array(xt[:, None]), *(mx.array(s) for s in carry))
        out = out if isinstance(out, tuple) else (out,)
        states = tuple(np.array(a)[:, 0] for a in out)
        return states, states[0]

    unroll(layer, "mlx", step, 1e-5)


@forms
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "basic"])
def test_tensorflow_1(cell: str, L: int, D: int, bias: bool) -> None:
    """The cells of TensorFlow 1 as the current TensorFlow carries them along."""
    tf = require("tensorflow")
    # Under tf.compat.v1 they are hidden since Keras 3.
    legacy = importlib.import_module("tensorflow.python.keras.layers.legacy_rnn.rnn_cell_impl")
    own = "lstm" if cell == "basic" else cell
    layer = make(own, L, D, bias)
    needed = weights.settings(layer, "tensorflow1")
    options = {"activation": {"tanh": tf.tanh, "relu": tf.nn.relu}[needed["activation"]]}
    if own == "lstm":
        options["forget_bias"] = needed["forget_bias"]
    name = {"rnn_tanh": "BasicRNNCell", "rnn_relu": "BasicRNNCell", "lstm": "LSTMCell"}.get(cell)
    held = []

    def step(arrays: Any, xt: Any, carry: Any) -> Any:
        theirs = getattr(legacy, name or "BasicLSTMCell")(H, dtype=tf.float64, **options)
        theirs.build(tf.TensorShape(xt.shape))
        variables = {v.name.split("/")[-1].removesuffix(":0"): v for v in theirs.variables}
        assert {n: tuple(v.shape) for n, v in variables.items()} == {
            n: a.shape for n, a in arrays.items()
        }
        for n, v in variables.items():
            v.assign(arrays[n])
        held.append({n: v.numpy() for n, v in variables.items()})
        tensors = [tf.constant(s) for s in carry]
        state = legacy.LSTMStateTuple(*tensors) if len(tensors) == 2 else tensors[0]
        out, state = theirs.call(tf.constant(xt), state)
        return tuple(state) if len(tensors) == 2 else (state,), out

    unroll(layer, "tensorflow1", step)
    back(layer, "tensorflow1", held[::T])


@forms
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_haste(cell: str, L: int, D: int, bias: bool) -> None:
    """The layers of haste_pytorch on the CPU."""
    haste = require("haste")
    torch = require("torch")
    layer = make(cell, L, D, bias)

    def step(arrays: Any, xt: Any, carry: Any) -> Any:
        theirs = getattr(haste, cell.upper())(xt.shape[-1], H).double()
        theirs.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
        states = tuple(torch.as_tensor(s)[None] for s in carry)
        out, state = theirs(torch.as_tensor(xt)[None], states if len(states) == 2 else states[0])
        state = state if isinstance(state, tuple) else (state,)
        return tuple(s[0].detach() for s in state), out[0].detach()

    unroll(layer, "haste", step)


@pytest.fixture(scope="module")
def onednn_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program beside this file, compiled where oneDNN 2 is installed."""
    source = Path(__file__).parent / "onednn_layer.cpp"
    program = tmp_path_factory.mktemp("onednn") / "onednn_layer"
    compiler = os.environ.get("CXX", "g++")
    has = [compiler, "-E", "-x", "c++", "-include", "dnnl.hpp", os.devnull]
    try:
        found = subprocess.run(has, capture_output=True).returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        pytest.skip(f"{compiler} finds no dnnl.hpp (Debian: libdnnl-dev)")
    subprocess.run([compiler, "-std=c++17", source, "-o", program, "-ldnnl"], check=True)
    return program


@pytest.mark.parametrize("D", [1, 2])
@cells
def test_onednn(onednn_layer: Path, cell: str, D: int) -> None:
    """In float32, one layer, through a small program in C++."""
    layer = make(cell, 1, D, dtype="float32")
    x, start, y, _ = problem(layer)
    (arrays,) = weights.export(layer, "onednn")
    inputs = [x, *start, *(arrays[name] for name in ("weights_layer", "weights_iter", "bias"))]
    sent = b"".join(np.ascontiguousarray(a).tobytes() for a in inputs)
    command = [onednn_layer, cell, *map(str, (T, B, I, H, D))]
    output = subprocess.run(command, input=sent, capture_output=True, check=True).stdout
    close(y, np.frombuffer(output, np.float32).reshape(T, B, D * H), 1e-5)
