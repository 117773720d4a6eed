"""Conversion of weights: against each system's formula written out, round trips, refusals.

`test_weights_frameworks.py` compares with the outputs of the systems themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnfast
from rnnfast import weights

LAYERS = {
    "rnn_tanh": lambda *a, **o: rnnfast.RNN(*a, **o),
    "rnn_relu": lambda *a, **o: rnnfast.RNN(*a, nonlinearity="relu", **o),
    "lstm": lambda *a, **o: rnnfast.LSTM(*a, **o),
    "gru": lambda *a, **o: rnnfast.GRU(*a, **o),
}
PAIRS = [(system, cell) for cell in LAYERS for system in weights.systems(cell)]
pairs = pytest.mark.parametrize(("system", "cell"), PAIRS)
# Which keep both biases; all others one per gate, and the b_hn of the GRU apart.
BOTH = {(system, cell) for system in ("pytorch", "onnx", "cudnn") for cell in LAYERS}
BOTH |= {("keras", "gru"), ("haste", "gru"), ("haiku", "rnn_relu")}
# Which have biases always.
ALWAYS = {
    *("flax_linen", "flax_nnx", "flax_nnx_split"),
    *("haiku", "tensorflow1", "haste", "cs231n"),
}


def make(cell: str, system: str = "", seed: int = 0, **options: Any) -> Any:
    """A layer that the system can hold, its states of another size than its input."""
    options = {"dtype": "float64", "device": "numpy", **options}
    layer = LAYERS[cell](3, 4, seed=seed, **options)
    if (system, cell) == ("flax_nnx", "gru"):
        for name, array in layer.parameters.items():
            if name.startswith("bias_hh"):
                array[8:] = 0  # it has no b_hn
    return layer


# (a) Formulas ------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def blocks(a: np.ndarray, n: int) -> list[np.ndarray]:
    return np.split(a, n, axis=-1)


def lstm(i: Any, f: Any, g: Any, o: Any, c: Any) -> tuple[np.ndarray, np.ndarray]:
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def pytorch_rnn(p: Any, x: Any, h: Any) -> Any:
    return x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]


def pytorch_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    i, f, g, o = blocks(pytorch_rnn(p, x, h), 4)
    return lstm(i, f, g, o, c)


def pytorch_gru(p: Any, x: Any, h: Any) -> Any:
    xr, xz, xn = blocks(x @ p["weight_ih"].T + p["bias_ih"], 3)
    hr, hz, hn = blocks(h @ p["weight_hh"].T + p["bias_hh"], 3)
    z = sigmoid(xz + hz)
    return (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h


def keras_rnn(p: Any, x: Any, h: Any) -> Any:
    kernel, recurrent_kernel, bias = p
    return x @ kernel + h @ recurrent_kernel + bias


def keras_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    i, f, candidate, o = blocks(keras_rnn(p, x, h), 4)
    return lstm(i, f, candidate, o, c)


def keras_gru(p: Any, x: Any, h: Any) -> Any:
    kernel, recurrent_kernel, (input_bias, recurrent_bias) = p
    xz, xr, xh = blocks(x @ kernel + input_bias, 3)
    hz, hr, hh = blocks(h @ recurrent_kernel + recurrent_bias, 3)
    z = sigmoid(xz + hz)
    return z * h + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh)


def onnx_rnn(p: Any, x: Any, h: Any) -> Any:
    Wb, Rb = blocks(p["B"], 2)
    return x @ p["W"].T + h @ p["R"].T + Wb + Rb


def onnx_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    i, o, f, candidate = blocks(onnx_rnn(p, x, h), 4)
    return lstm(i, f, candidate, o, c)


def onnx_gru(p: Any, x: Any, h: Any) -> Any:
    (Wz, Wr, Wh), (Rz, Rr, Rh) = np.split(p["W"], 3), np.split(p["R"], 3)
    Wbz, Wbr, Wbh, Rbz, Rbr, Rbh = blocks(p["B"], 6)
    z = sigmoid(x @ Wz.T + h @ Rz.T + Wbz + Rbz)
    r = sigmoid(x @ Wr.T + h @ Rr.T + Wbr + Rbr)
    return (1 - z) * np.tanh(x @ Wh.T + r * (h @ Rh.T + Rbh) + Wbh) + z * h


def onednn_products(p: Any, x: Any, h: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of ldigo without l and d: (B, G, H)."""
    a = np.einsum("bi,igo->bgo", x, p["weights_layer"])
    return a, np.einsum("bi,igo->bgo", h, p["weights_iter"])


def onednn_rnn(p: Any, x: Any, h: Any) -> Any:
    a, b = onednn_products(p, x, h)
    return (a + b + p["bias"])[:, 0]


def onednn_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    a, b = onednn_products(p, x, h)
    i, f, candidate, o = np.moveaxis(a + b + p["bias"], 1, 0)
    return lstm(i, f, candidate, o, c)


def onednn_gru(p: Any, x: Any, h: Any) -> Any:
    (au, ar, ao), (bu, br, bo) = (np.moveaxis(a, 1, 0) for a in onednn_products(p, x, h))
    Bu, Br, Bo, Bu2 = p["bias"]
    u, r = sigmoid(au + bu + Bu), sigmoid(ar + br + Br)
    return u * h + (1 - u) * np.tanh(ao + r * (bo + Bu2) + Bo)


def linen_rnn(p: Any, x: Any, h: Any) -> Any:
    return x @ p["i"]["kernel"] + p["i"]["bias"] + h @ p["h"]["kernel"]


def linen_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    def gate(g: str) -> np.ndarray:
        return x @ p["i" + g]["kernel"] + h @ p["h" + g]["kernel"] + p["h" + g]["bias"]

    return lstm(gate("i"), gate("f"), gate("g"), gate("o"), c)


def linen_gru(p: Any, x: Any, h: Any) -> Any:
    def dense(name: str, a: np.ndarray) -> np.ndarray:
        return a @ p[name]["kernel"] + p[name].get("bias", 0)

    r = sigmoid(dense("ir", x) + dense("hr", h))
    z = sigmoid(dense("iz", x) + dense("hz", h))
    return (1 - z) * np.tanh(dense("in", x) + r * dense("hn", h)) + z * h


def nnx_rnn(p: Any, x: Any, h: Any) -> Any:
    return x @ p["dense_i"]["kernel"] + p["dense_i"]["bias"] + h @ p["dense_h"]["kernel"]


def nnx_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    y = x @ p["dense_i"]["kernel"] + h @ p["dense_h"]["kernel"] + p["dense_h"]["bias"]
    i, f, g, o = blocks(y, 4)
    return lstm(i, f, g, o, c)


def nnx_gru(p: Any, x: Any, h: Any) -> Any:
    assert set(p["dense_h"]) == {"kernel"}
    xr, xz, xn = blocks(x @ p["dense_i"]["kernel"] + p["dense_i"]["bias"], 3)
    hr, hz, hn = blocks(h @ p["dense_h"]["kernel"], 3)
    z = sigmoid(xz + hz)
    return (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h


def nnx_split_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    def gate(on_x: str, on_h: str) -> np.ndarray:
        return x @ p[on_x]["kernel"] + h @ p[on_h]["kernel"] + p[on_h]["bias"]

    return lstm(gate("ii", "hi"), gate("if_", "hf"), gate("ig", "hg"), gate("io", "ho"), c)


def haiku_rnn(p: Any, x: Any, h: Any) -> Any:
    first, second = p["linear"], p["linear_1"]
    return x @ first["w"] + first["b"] + h @ second["w"] + second["b"]


def haiku_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    xh = np.concatenate([x, h], axis=-1)
    i, g, f, o = blocks(xh @ p["linear"]["w"] + p["linear"]["b"], 4)
    return lstm(i, f + 1, g, o, c)


def tensorflow1_rnn(p: Any, x: Any, h: Any) -> Any:
    return np.concatenate([x, h], axis=-1) @ p["kernel"] + p["bias"]


def tensorflow1_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    i, j, f, o = blocks(tensorflow1_rnn(p, x, h), 4)
    return lstm(i, f + 1.0, j, o, c)


def haste_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    i, g, f, o = blocks(x @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"], 4)
    return lstm(i, f, g, o, c)


def haste_gru(p: Any, x: Any, h: Any) -> Any:
    return keras_gru((p["kernel"], p["recurrent_kernel"], (p["bias"], p["recurrent_bias"])), x, h)


def cs231n_rnn(p: Any, x: Any, h: Any) -> Any:
    return x @ p["Wx"] + h @ p["Wh"] + p["b"]


def cs231n_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    ai, af, ao, ag = blocks(cs231n_rnn(p, x, h), 4)
    return lstm(ai, af, ag, ao, c)


def mlx_rnn(p: Any, x: Any, h: Any) -> Any:
    return x @ p["Wxh"].T + h @ p["Whh"].T + p["bias"]


def mlx_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    i, f, g, o = blocks(x @ p["Wx"].T + h @ p["Wh"].T + p["bias"], 4)
    return lstm(i, f, g, o, c)


def mlx_gru(p: Any, x: Any, h: Any) -> Any:
    xr, xz, xn = blocks(x @ p["Wx"].T + p["b"], 3)
    hr, hz, hn = blocks(h @ p["Wh"].T, 3)
    z = sigmoid(xz + hz)
    return (1 - z) * np.tanh(xn + sigmoid(xr + hr) * (hn + p["bhn"])) + z * h


def equinox_lstm(p: Any, x: Any, h: Any, c: Any) -> Any:
    i, f, g, o = blocks(x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"], 4)
    return lstm(i, f, g, o, c)


def equinox_gru(p: Any, x: Any, h: Any) -> Any:
    xr, xz, xn = blocks(x @ p["weight_ih"].T + p["bias"], 3)
    hr, hz, hn = blocks(h @ p["weight_hh"].T, 3)
    new = np.tanh(xn + sigmoid(xr + hr) * (hn + p["bias_n"]))
    return new + sigmoid(xz + hz) * (h - new)


STEPS: dict[tuple[str, str], Callable[..., Any]] = {
    ("pytorch", "rnn"): pytorch_rnn,
    ("pytorch", "lstm"): pytorch_lstm,
    ("pytorch", "gru"): pytorch_gru,
    ("keras", "rnn"): keras_rnn,
    ("keras", "lstm"): keras_lstm,
    ("keras", "gru"): keras_gru,
    ("onnx", "rnn"): onnx_rnn,
    ("onnx", "lstm"): onnx_lstm,
    ("onnx", "gru"): onnx_gru,
    ("cudnn", "rnn"): pytorch_rnn,
    ("cudnn", "lstm"): pytorch_lstm,
    ("cudnn", "gru"): pytorch_gru,
    ("onednn", "rnn"): onednn_rnn,
    ("onednn", "lstm"): onednn_lstm,
    ("onednn", "gru"): onednn_gru,
    ("flax_linen", "rnn"): linen_rnn,
    ("flax_linen", "lstm"): linen_lstm,
    ("flax_linen", "gru"): linen_gru,
    ("flax_nnx", "rnn"): nnx_rnn,
    ("flax_nnx", "lstm"): nnx_lstm,
    ("flax_nnx", "gru"): nnx_gru,
    ("flax_nnx_split", "lstm"): nnx_split_lstm,
    ("haiku", "rnn"): haiku_rnn,
    ("haiku", "lstm"): haiku_lstm,
    ("tensorflow1", "rnn"): tensorflow1_rnn,
    ("tensorflow1", "lstm"): tensorflow1_lstm,
    ("haste", "lstm"): haste_lstm,
    ("haste", "gru"): haste_gru,
    ("cs231n", "rnn"): cs231n_rnn,
    ("cs231n", "lstm"): cs231n_lstm,
    ("mlx", "rnn"): mlx_rnn,
    ("mlx", "lstm"): mlx_lstm,
    ("mlx", "gru"): mlx_gru,
    ("equinox", "lstm"): equinox_lstm,
    ("equinox", "gru"): equinox_gru,
}


def cudnn_cells(vector: np.ndarray, G: int, L: int, D: int) -> list[list[dict[str, np.ndarray]]]:
    """Cut the weight space by hand, I = 3 and H = 4."""
    cells: list[list[dict[str, np.ndarray]]] = [[{} for _ in range(D)] for _ in range(L)]
    at = 0
    for k, d in itertools.product(range(L), range(D)):
        for name, width in (("weight_ih", 3 if k == 0 else 4 * D), ("weight_hh", 4)):
            cells[k][d][name] = vector[at : at + 4 * G * width].reshape(4 * G, width)
            at += 4 * G * width
    for k, d in itertools.product(range(L), range(D)):
        for name in ("bias_ih", "bias_hh"):
            cells[k][d][name] = vector[at : at + 4 * G]
            at += 4 * G
    assert at == len(vector)
    return cells


def cells_of(system: str, exported: Any, layer: Any) -> list[list[Any]]:
    """The arrays of each layer and direction."""
    L, D = layer.num_layers, 1 + layer.bidirectional
    if system == "pytorch":
        stems = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ends = [[f"_l{k}" + ("_reverse" if d else "") for d in range(D)] for k in range(L)]
        return [[{s: exported[s + end] for s in stems} for end in row] for row in ends]
    if system == "keras":
        return [[row[3 * d : 3 * d + 3] for d in range(D)] for row in exported]
    if system == "onnx":
        return [[{n: a[d] for n, a in row.items()} for d in range(D)] for row in exported]
    if system == "onednn":
        return [[{n: a[0, d] for n, a in row.items()} for d in range(D)] for row in exported]
    if system == "cudnn":
        return cudnn_cells(exported, rnnfast.CELLS[layer.cell].G, L, D)
    return [exported[k * D : k * D + D] for k in range(L)]


def run(step: Callable[..., Any], phi: Any, cells: Any, x: np.ndarray, state: Any) -> np.ndarray:
    """Layers and directions of any step function; states (D*L, B, H)."""
    for k, row in enumerate(cells):
        outputs = []
        for d, p in enumerate(row):
            carry = tuple(s[k * len(row) + d] for s in state)
            ys = []
            for xt in x[::-1] if d else x:
                out = step(p, xt, *carry)
                carry = out if isinstance(out, tuple) else (phi(out),)
                ys.append(carry[0])
            outputs.append(np.stack(ys[::-1] if d else ys))
        x = np.concatenate(outputs, axis=-1)
    return x


@pytest.mark.parametrize(("L", "D"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pairs
def test_the_formula_of_the_system_gives_our_output(system: str, cell: str, L: int, D: int) -> None:
    layer = make(cell, system, num_layers=L, bidirectional=D == 2)
    function = rnnfast.CELLS[cell].function
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5, 2, 3))
    state = [rng.standard_normal((D * L, 2, 4)) for _ in rnnfast.CELLS[cell].states]
    y, _ = layer(x, tuple(state) if len(state) == 2 else state[0])
    phi = {"rnn_tanh": np.tanh, "rnn_relu": lambda a: np.maximum(a, 0)}.get(cell, lambda a: a)
    cells = cells_of(system, weights.export(layer, system), layer)
    expected = run(STEPS[system, function], phi, cells, x, state)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


def test_every_system_has_a_formula_here() -> None:
    used = {(system, rnnfast.CELLS[cell].function) for system, cell in PAIRS}
    assert used == set(STEPS)
    assert {system for system, _ in used} == set(weights.systems())


# Round trips -------------------------------------------------------------------------------------


def leaves(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, np.ndarray):
        return [tree]
    branches = tree.values() if isinstance(tree, dict) else tree
    return [leaf for branch in branches for leaf in leaves(branch)]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


options = pytest.mark.parametrize(
    ("L", "D", "bias", "dtype"),
    [(1, 1, True, "float32"), (2, 2, True, "float64"), (2, 1, False, "float32")],
)


@options
@pairs
def test_ours_theirs_ours(system: str, cell: str, L: int, D: int, bias: bool, dtype: str) -> None:
    """To the bit where both biases are kept; else one rounding, all of it in bias_ih."""
    form = {"num_layers": L, "bidirectional": D == 2, "bias": bias, "dtype": dtype}
    layer, other = make(cell, system, **form), make(cell, seed=1, **form)
    layer.weight_hh_l0[0, :3] = [-0.0, np.inf, 1e-310]
    weights.load(other, system, weights.export(layer, system), **weights.settings(layer, system))
    spec = rnnfast.CELLS[cell]
    added = {("haiku", "lstm"): 1, ("tensorflow1", "lstm"): 1}.get((system, cell), 0)
    for name, ours in layer.parameters.items():
        theirs = other.parameters[name]
        if name.startswith("weight") or (system, cell) in BOTH:
            assert same_bits(ours, theirs), name
            continue
        end = name.removeprefix("bias_ih").removeprefix("bias_hh")
        rows = zip(*(a.parameters[s + end].reshape(-1, 4) for a, s in [
            (layer, "bias_ih"), (layer, "bias_hh"), (other, "bias_ih"), (other, "bias_hh")
        ]), strict=True)  # fmt: skip
        for gate, (bW, bR, after, rest) in zip(spec.gates, rows, strict=True):
            if spec.name == "gru" and gate == "n":
                assert same_bits(after, bW)
                assert same_bits(rest, bR)
            else:
                plus = np.dtype(dtype).type(added if gate == "f" else 0)
                exact = [
                    float(Fraction(float(a)) + Fraction(float(b)) - int(plus))
                    for a, b in zip(bW, bR, strict=True)
                ]
                if dtype == "float64" and np.finfo(np.longdouble).nmant == 52 and plus:
                    exact = bW + (bR - plus)  # what is said of platforms without a wider type
                assert same_bits(after, np.asarray(exact, dtype)), gate
                assert same_bits(rest, np.full_like(rest, plus)), gate


@options
@pairs
def test_theirs_ours_theirs(system: str, cell: str, L: int, D: int, bias: bool, dtype: str) -> None:
    """Whatever their arrays hold comes back to the bit."""
    layer = make(cell, num_layers=L, bidirectional=D == 2, bias=bias, dtype=dtype)
    if not bias and system in ALWAYS:
        layer = make(cell, num_layers=L, bidirectional=D == 2, dtype=dtype)
    first = make(cell, system, num_layers=L, bidirectional=D == 2, bias=layer.bias, dtype=dtype)
    theirs = weights.export(first, system)
    rng = np.random.default_rng(5)
    for array in leaves(theirs):
        array[...] = rng.standard_normal(array.shape)
        array.reshape(-1)[::7] = -0.0
    weights.load(layer, system, theirs, **weights.settings(layer, system))
    again = weights.export(layer, system)
    for before, after in zip(leaves(theirs), leaves(again), strict=True):
        assert same_bits(before, after)


@pairs
def test_a_layer_without_biases(system: str, cell: str) -> None:
    """Its function is kept, in zeros where the system always has biases."""
    layer, other = make(cell, bias=False), make(cell, bias=False, seed=1)
    exported = weights.export(layer, system)
    weights.load(other, system, exported, **weights.settings(layer, system))
    for name, array in layer.parameters.items():
        assert same_bits(array, other.parameters[name])
    with_biases = make(cell, seed=1)
    total = sum(array.size for array in leaves(exported))
    if system in ALWAYS:
        assert total == sum(a.size for a in leaves(weights.export(make(cell, system), system)))
        weights.load(with_biases, system, exported, **weights.settings(layer, system))
        np.testing.assert_array_equal(with_biases.bias_ih_l0 + with_biases.bias_hh_l0, 0)
    else:
        assert total == sum(array.size for array in layer.parameters.values())
        with pytest.raises(rnnfast.ArgumentError, match="hold no biases, but the layer has bias=T"):
            weights.load(with_biases, system, exported, **weights.settings(layer, system))
    with pytest.raises(rnnfast.ArgumentError, match="biases of layer 0 are not 0, but the layer"):
        weights.load(
            other,
            system,
            weights.export(make(cell, system), system),
            **weights.settings(layer, system),
        )


@pairs
def test_the_export_is_a_copy(system: str, cell: str) -> None:
    layer = make(cell, system)
    before = layer.state_dict()
    for array in leaves(weights.export(layer, system)):
        array[...] = 7
    for name, array in layer.parameters.items():
        assert same_bits(array, before[name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_forget_bias_that_float32_rounds(dtype: str) -> None:
    """It is taken out as it came in, so that their arrays come back to the bit."""
    first, layer = make("lstm", dtype=dtype), make("lstm", seed=1, dtype=dtype)
    theirs = weights.export(first, "tensorflow1", forget_bias=0.1)
    weights.load(layer, "tensorflow1", theirs, forget_bias=0.1)
    again = weights.export(layer, "tensorflow1", forget_bias=0.1)
    for before, after in zip(leaves(theirs), leaves(again), strict=True):
        assert same_bits(before, after)


def test_forget_bias_of_tensorflow_1() -> None:
    layer = make("lstm")
    b0 = weights.export(layer, "tensorflow1", forget_bias=0.0)[0]["bias"]
    b1 = weights.export(layer, "tensorflow1")[0]["bias"]
    b25 = weights.export(layer, "tensorflow1", forget_bias=2.5)[0]["bias"]
    np.testing.assert_allclose(b0 - b1, np.repeat([0, 0, 1, 0], 4), rtol=0, atol=1e-15)
    np.testing.assert_allclose(b0 - b25, np.repeat([0, 0, 2.5, 0], 4), rtol=0, atol=1e-15)
    other = make("lstm", seed=1)
    exported = weights.export(layer, "tensorflow1", forget_bias=2.5)
    weights.load(other, "tensorflow1", exported, forget_bias=2.5)
    x = np.random.default_rng(0).standard_normal((3, 2, 3))
    np.testing.assert_allclose(other(x)[0], layer(x)[0], rtol=0, atol=1e-14)
    assert weights.settings(layer, "tensorflow1")["forget_bias"] == 1.0
    with pytest.raises(rnnfast.DTypeError, match="forget_bias is of type str, expected a number"):
        weights.export(layer, "tensorflow1", forget_bias="1")


def test_cell_clip_of_tensorflow_1() -> None:
    layer = rnnfast.LSTM(3, 4, cell_clip=0.125, dtype=np.float64, device="numpy", seed=1)
    settings = weights.settings(layer, "tensorflow1")
    assert settings["cell_clip"] == 0.125
    theirs = weights.export(layer, "tensorflow1", **settings)
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    h = c = np.zeros((2, 4))
    for t in range(5):
        i, j, f, o = blocks(tensorflow1_rnn(theirs[0], x[t], h), 4)
        # LSTMCell bounds the new cell state before the output gate.
        c = np.clip(sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(j), -0.125, 0.125)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(layer(x)[0][t], h, rtol=0, atol=1e-14)
    assert (abs(c) == 0.125).any()
    weights.load(layer, "tensorflow1", theirs, **settings)
    for other in ({}, {"cell_clip": None}, {"cell_clip": 0.25}):
        with pytest.raises(rnnfast.ArgumentError, match=r"needs cell_clip=0.125"):
            weights.load(layer, "tensorflow1", theirs, **other)


@pytest.mark.parametrize("system", weights.systems("lstm"))
def test_no_settings_of_what_a_system_does_not_have(system: str) -> None:
    plain = dict(dtype=np.float64, device="numpy", num_layers=2)
    for options, words in (
        ({"cell_clip": 0.5}, r"cell_clip of the layer is 0\.5, expected None"),
        ({"zoneout": 0.1}, r"zoneout of the layer is 0\.1, expected 0\.0"),
        ({"zoneout": (0.0, 0.1)}, r"zoneout of the layer is \(0\.0, 0\.1\), expected 0\.0"),
        ({"residual": True}, "residual of the layer is True, expected False"),
    ):
        layer = rnnfast.LSTM(4, 4, **plain, **options)
        if system == "tensorflow1" and "cell_clip" in options:
            assert weights.settings(layer, system)["cell_clip"] == 0.5
            continue
        with pytest.raises(rnnfast.ArgumentError, match=f"{words}: no setting of '{system}'"):
            weights.settings(layer, system)
        expected = weights.settings(rnnfast.LSTM(4, 4, **plain), system)
        assert weights.settings(layer.parameters, system) == expected
    for options in ({"dropout": 0.5, "recurrent_dropout": 0.5}, {"weight_drop": 0.5}):
        assert weights.settings(rnnfast.LSTM(4, 4, **plain, **options), system) == expected
    one = dict(plain, num_layers=1)
    once = weights.settings(rnnfast.LSTM(4, 4, **one, residual=True), system)
    assert once == weights.settings(rnnfast.LSTM(4, 4, **one), system)


# Parameters without a layer ----------------------------------------------------------------------


@pytest.mark.parametrize("cell", list(LAYERS))
def test_a_mapping_is_as_good_as_a_layer(cell: str) -> None:
    layer = make(cell, num_layers=2, bidirectional=True)
    given = cell if cell.startswith("rnn") else None
    from_mapping = weights.export(layer.state_dict(), "keras", cell=given)
    for a, b in zip(leaves(from_mapping), leaves(weights.export(layer, "keras")), strict=True):
        assert same_bits(a, b)
    target = make(cell, seed=1, num_layers=2, bidirectional=True).state_dict()
    arrays = dict(target)
    settings = weights.settings(target, "onnx", cell=given)
    weights.load(target, "onnx", weights.export(layer, "onnx"), cell=given, **settings)
    for name, array in layer.parameters.items():
        assert same_bits(array, target[name])
        assert target[name] is arrays[name]


def test_what_is_wrong_with_a_mapping() -> None:
    def refused(match: str, source: Any, error: type = rnnfast.ArgumentError, **more: Any) -> None:
        with pytest.raises(error, match=match):
            weights.export(source, "keras", **more)

    good = make("lstm").state_dict()
    refused("fits rnn_tanh, rnn_relu; say which by cell=", make("rnn_tanh").state_dict())
    refused("weight_ih_l0 is missing among bias_ih_l0", {"bias_ih_l0": good["bias_ih_l0"]})
    refused("unexpected h_0", {**good, "h_0": np.zeros((1, 4))})
    refused("missing bias_hh_l0", {n: a for n, a in good.items() if n != "bias_hh_l0"})
    refused("missing weight_ih_l1", {**good, "weight_hh_l1": good["weight_hh_l0"]})
    refused("cell is 'elman', expected one of rnn_tanh", good, cell="elman")
    refused("fits no cell", {**good, "weight_hh_l0": np.zeros((15, 4))})
    mixed = {**good, "bias_hh_l0": np.zeros(16, np.float32)}
    refused("all arrays must share one dtype", mixed, rnnfast.DTypeError)
    refused("is of type list, expected an RNN, LSTM or GRU", [1], rnnfast.DTypeError)
    refused("bias_hh_l0 has shape", {**good, "bias_hh_l0": np.zeros(8)}, rnnfast.ShapeError)
    refused("expected two axes", {**good, "weight_hh_l0": np.zeros(4)}, rnnfast.ShapeError)
    refused("cell is 'gru', expected 'lstm'", make("lstm"), cell="gru")
    good["bias_ih_l0"].setflags(write=False)
    with pytest.raises(rnnfast.ArgumentError, match="bias_ih_l0 is read-only"):
        weights.load(good, "pytorch", make("lstm").state_dict())


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "system", "reason"),
    [
        ("gru", "cs231n", "it has no GRU"),
        ("rnn_relu", "cs231n", "tanh and nothing else"),
        ("rnn_tanh", "haiku", "relu and nothing else"),
        ("gru", "haiku", "reset gate before the recurrent product"),
        ("gru", "tensorflow1", "reset gate before the recurrent product"),
        ("rnn_tanh", "haste", "no plain recurrent layer"),
        ("rnn_relu", "equinox", "no plain recurrent cell"),
        ("gru", "flax_nnx_split", 'take "flax_nnx"'),
    ],
)
def test_a_cell_that_a_system_has_not(cell: str, system: str, reason: str) -> None:
    for call in (weights.export, weights.settings):
        with pytest.raises(rnnfast.ArgumentError, match=reason):
            call(make(cell), system)
    with pytest.raises(rnnfast.ArgumentError, match=reason):
        weights.load(make(cell), system, [])
    with pytest.raises(rnnfast.ArgumentError, match=reason):
        weights.carry(cell, system)


def test_every_absence_has_its_reason() -> None:
    for cell, system in itertools.product(LAYERS, weights.systems()):
        if system not in weights.systems(cell):
            with pytest.raises(rnnfast.ArgumentError, match=f"{cell} has no counterpart in"):
                weights.export(make(cell), system)


@pytest.mark.parametrize(
    ("cell", "system", "settings", "reason"),
    [
        ("gru", "keras", {"reset_after": False}, "reset_after=False applies the reset gate before"),
        ("gru", "onnx", {"linear_before_reset": 0}, "linear_before_reset=0, the operator"),
        ("lstm", "keras", {"activation": "relu"}, "lstm needs activation='tanh'"),
        ("lstm", "keras", {"recurrent_activation": "hard_sigmoid"}, "needs recurrent_activ"),
        ("rnn_tanh", "keras", {"go_backwards": True}, "runs from the end"),
        ("rnn_relu", "keras", {"activation": "tanh"}, "rnn_relu needs activation='relu'"),
        ("lstm", "onnx", {"activations": ["Sigmoid", "Tanh", "Relu"]}, "needs activations="),
        ("lstm", "onnx", {"direction": "reverse"}, "needs direction='forward'"),
        ("lstm", "onnx", {"clip": 3.0}, "no kernel clips what enters the gates"),
        ("lstm", "onnx", {"input_forget": 1}, "couples input and forget gate"),
        ("lstm", "onnx", {"hidden_size": 5}, "needs hidden_size=4"),
        ("lstm", "pytorch", {"proj_size": 2}, "projections have no kernel yet"),
        ("lstm", "tensorflow1", {"use_peepholes": True}, "peepholes have no kernel"),
        ("lstm", "flax_linen", {"gate_fn": "hard_sigmoid"}, "needs gate_fn='sigmoid'"),
        ("rnn_tanh", "flax_nnx", {"residual": True}, "adds h inside the activation"),
        ("lstm", "keras", {"units": 4}, "unknown setting 'units' of 'keras' for lstm; known: a"),
        ("lstm", "haiku", {"forget_bias": 0.0}, "unknown setting 'forget_bias'"),
    ],
)  # fmt: skip
def test_a_setting_that_means_another_function(
    cell: str, system: str, settings: dict[str, Any], reason: str
) -> None:
    layer = make(cell)
    with pytest.raises(rnnfast.ArgumentError, match=reason):
        weights.export(layer, system, **settings)
    good = weights.settings(layer, system)
    with pytest.raises(rnnfast.ArgumentError, match=reason):
        weights.load(layer, system, weights.export(layer, system), **{**good, **settings})


@pytest.mark.parametrize(
    ("cell", "system", "D", "reason"),
    [
        ("gru", "onnx", 1, "linear_before_reset is 0, the default of 'onnx',"),
        ("lstm", "onnx", 2, "direction is 'forward', the default of 'onnx',"),
        ("rnn_relu", "onnx", 1, "activations is \\['Tanh'\\], the default"),
        ("rnn_relu", "pytorch", 1, "nonlinearity is 'tanh', the default of 'pytorch',"),
        ("rnn_relu", "keras", 1, "activation is 'tanh', the default of 'keras',"),
        ("rnn_relu", "flax_linen", 1, "activation_fn is 'tanh', the default"),
        ("rnn_relu", "tensorflow1", 1, "activation is 'tanh', the default of 'tensorflow1',"),
        ("rnn_relu", "mlx", 1, "nonlinearity is 'tanh', the default of 'mlx',"),
    ],
)
def test_a_default_that_means_another_function(cell: str, system: str, D: int, reason: str) -> None:
    layer = make(cell, bidirectional=D == 2)
    exported = weights.export(layer, system)
    with pytest.raises(rnnfast.ArgumentError, match=reason):
        weights.load(layer, system, exported)
    weights.load(layer, system, exported, **weights.settings(layer, system))


def test_the_default_activations_of_both_directions() -> None:
    layer = make("lstm", bidirectional=True)
    weights.load(layer, "onnx", weights.export(layer, "onnx"), direction="bidirectional")


def test_biases_that_cancel_in_a_sum_are_not_nothing_in_the_gate_n() -> None:
    layer, other = make("gru"), make("gru", bias=False)
    layer.bias_ih_l0[...] = 0
    layer.bias_ih_l0[8:] = 1
    layer.bias_hh_l0[...] = -layer.bias_ih_l0
    with pytest.raises(rnnfast.ArgumentError, match="biases of layer 0 are not 0"):
        weights.load(other, "pytorch", weights.export(layer, "pytorch"))
    layer.bias_ih_l0[...] = [1] * 8 + [0] * 4
    layer.bias_hh_l0[...] = -layer.bias_ih_l0
    weights.load(other, "pytorch", weights.export(layer, "pytorch"))
    assert same_bits(other.weight_ih_l0, layer.weight_ih_l0)


def test_attributes_of_a_node_as_onnx_gives_them() -> None:
    layer = make("gru")
    attributes = {
        "hidden_size": 4,
        "direction": b"forward",
        "activations": [b"sigmoid", b"tanh"],
        "linear_before_reset": 1,
        "layout": 1,
    }
    weights.load(layer, "onnx", weights.export(layer, "onnx"), **attributes)


def test_arrays_that_mean_another_function() -> None:
    def refused(cell: str, system: str, change: Callable[[Any], Any], reason: str) -> None:
        layer = make(cell)
        arrays = weights.export(layer, system)
        change(arrays)
        with pytest.raises(rnnfast.ArgumentError, match=reason):
            weights.load(layer, system, arrays, **weights.settings(layer, system))

    def put(key: str, shape: tuple[int, ...]) -> Callable[[Any], Any]:
        return lambda arrays: (arrays if isinstance(arrays, dict) else arrays[0]).update(
            {key: np.zeros(shape)}
        )

    refused("gru", "keras", lambda a: a[0].__setitem__(2, np.zeros(12)), "reset_after=False")
    refused("gru", "onednn", put("bias", (1, 1, 3, 4)), "plain GRU of oneDNN")
    refused("lstm", "onnx", put("P", (1, 12)), r"arrays\[0\]\['P'\] is of no use: peepholes")
    refused("lstm", "pytorch", put("weight_hr_l0", (2, 4)), "projections have no kernel yet")
    refused("lstm", "tensorflow1", put("w_f_diag", (4,)), "peepholes have no kernel")
    refused("lstm", "onednn", put("weights_peephole", (1, 1, 3, 4)), "peepholes have no kernel")


def test_values_that_a_system_cannot_hold() -> None:
    layer = make("gru")
    with pytest.raises(rnnfast.ArgumentError, match=r"bias_hh of gate n in layer 0 is not 0"):
        weights.export(layer, "flax_nnx")
    learned = make("lstm", initial_state="learned")
    with pytest.raises(rnnfast.ArgumentError, match="initial state of the layer is learned"):
        weights.export(learned, "keras")
    learned.c_0[...] = 3
    weights.load(learned, "keras", weights.export(make("lstm", seed=1), "keras"))
    np.testing.assert_array_equal(learned.c_0, 3)
    np.testing.assert_array_equal(learned.weight_hh_l0, make("lstm", seed=1).weight_hh_l0)


@pytest.mark.parametrize(
    ("system", "change", "error", "message"),
    [
        ("mlx", lambda a: a[1].pop("Wh"), rnnfast.ArgumentError,
         r"a list of 2 dicts, one per layer and direction: missing \[1\]\['Wh'\]"),
        ("mlx", lambda a: a.pop(), rnnfast.ArgumentError, r"missing \[1\]\['Wx'\]"),
        ("mlx", lambda a: a[0].update(x=a[0]["Wx"]), rnnfast.ArgumentError, r"unexpected \[0\]"),
        ("keras", lambda a: a.append([]), rnnfast.ArgumentError, r"unexpected \[2\]"),
        ("keras", lambda a: a.append([np.zeros(3)]), rnnfast.ArgumentError, r"ted \[2\]\[0\]"),
        ("onnx", lambda a: a[1].update(W=np.zeros((1, 16, 3))), rnnfast.ShapeError,
         r"arrays\[1\]\['W'\] has shape \(1, 16, 3\), expected \(D, G\*H, I\) with I=4, the width "
         r"of layer 0's output, = \(1, 16, 4\); I=3, H=4, 2 layers and 1 directions"),
        ("keras", lambda a: a[0].__setitem__(0, a[0][0].T), rnnfast.ShapeError,
         r"arrays\[0\]\[0\] \(kernel\) has shape \(16, 3\), expected \(I, G\*H\) = \(3, 16\)"),
        ("keras", lambda a: a[1].__setitem__(2, np.zeros(16, np.float32)), rnnfast.DTypeError,
         r'arrays\[1\]\[2\] \(bias\) is float32'),
        ("keras", lambda a: a[1].__setitem__(2, 0.0), rnnfast.DTypeError, "expected a NumPy array"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(system: str, change: Any, error: Any, message: str) -> None:
    """Nothing is written then, although the other arrays fit."""
    layer = make("lstm", num_layers=2)
    before = layer.state_dict()
    arrays = weights.export(make("lstm", num_layers=2, seed=1), system)
    change(arrays)
    with pytest.raises(error, match=message):
        weights.load(layer, system, arrays)
    for name, array in layer.parameters.items():
        assert same_bits(array, before[name])


def test_none_is_no_array() -> None:
    """Equinox and MLX keep None where there is no bias."""
    layer, other = make("gru", bias=False), make("gru", bias=False, seed=1)
    (arrays,) = weights.export(layer, "equinox")
    weights.load(other, "equinox", [{**arrays, "bias": None, "bias_n": None}])
    assert same_bits(layer.weight_hh_l0, other.weight_hh_l0)


def test_a_vector_of_the_wrong_length() -> None:
    layer = make("gru")
    with pytest.raises(rnnfast.ShapeError, match=r"arrays has shape \(5,\), expected \(108,\)"):
        weights.load(layer, "cudnn", np.zeros(5))
    with pytest.raises(rnnfast.DTypeError, match="arrays is of type list"):
        weights.load(layer, "cudnn", [0.0])


def test_unknown_system() -> None:
    with pytest.raises(
        rnnfast.ArgumentError, match="unknown system 'theano', expected one of pyto"
    ):
        weights.export(make("gru"), "theano")


def test_systems_and_carry() -> None:
    assert set(weights.systems("gru")) < set(weights.systems("lstm"))
    assert "haiku" in weights.systems("rnn_relu")
    swapped = {"flax_linen", "flax_nnx", "flax_nnx_split", "tensorflow1"}
    for system in weights.systems("lstm"):
        expected = ("c", "h") if system in swapped else ("h", "c")
        assert weights.carry("lstm", system) == expected, system
    assert weights.carry("gru", "flax_nnx") == ("h",)


def test_the_page_lists_every_system_and_cell() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "weights.md").read_text()
    for system in weights.systems():
        assert f"| `{system}` |" in page, system
