"""Initial values: distribution, orthogonality, the forget gate, and the seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnfast
from rnnfast import ArgumentError, initializers, training


def layer(name: str = "LSTM", **options: object) -> rnnfast.layers.Recurrent:
    sizes = {"dtype": "float64", "device": "numpy", "seed": 1}
    return getattr(rnnfast, name)(6, 9, 2, **{**sizes, "bidirectional": True, **options})


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_the_seed_fixes_all_values(name: str) -> None:
    a, b, other = layer(name), layer(name), layer(name, seed=2)
    for key, array in a.parameters.items():
        np.testing.assert_array_equal(array, b.parameters[key])
        assert not np.array_equal(array, other.parameters[key])
    unseeded = layer(name, seed=None)
    assert not np.array_equal(unseeded.weight_hh_l0, layer(name, seed=None).weight_hh_l0)


def test_float32_is_float64_rounded() -> None:
    small, large = layer(dtype="float32"), layer()
    for key, array in small.parameters.items():
        np.testing.assert_array_equal(array, large.parameters[key].astype(np.float32))


def test_uniform_again() -> None:
    a = layer(initial_state="learned")
    a.h_0[...] = 5
    initializers.uniform(a, seed=1)
    for key, array in layer().parameters.items():
        np.testing.assert_array_equal(a.parameters[key], array)
        assert np.abs(array).max() <= 1 / 3
        assert len(np.unique(array)) == array.size
    assert not a.h_0.any()


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_orthogonal_blocks(name: str) -> None:
    a = layer(name)
    before = a.state_dict()
    initializers.orthogonal_recurrent(a, seed=3, gain=2.0)
    seen = []
    for key, array in a.parameters.items():
        if not key.startswith("weight_hh"):
            np.testing.assert_array_equal(array, before[key])
            continue
        for block in array.reshape(-1, 9, 9):
            np.testing.assert_allclose(block @ block.T, 4 * np.eye(9), rtol=0, atol=1e-13)
            seen.append(block[0, 0])
    assert len(set(seen)) == len(seen)
    b = layer(name)
    initializers.orthogonal_recurrent(b, seed=3, gain=2.0)
    np.testing.assert_array_equal(a.weight_hh_l1_reverse, b.weight_hh_l1_reverse)


@pytest.mark.parametrize(("rows", "columns"), [(3, 8), (8, 3), (5, 5)])
def test_orthogonal_of_any_shape(rows: int, columns: int) -> None:
    q = initializers.orthogonal(rows, columns, np.random.default_rng(0))
    assert q.shape == (rows, columns)
    small = q @ q.T if rows <= columns else q.T @ q
    np.testing.assert_allclose(small, np.eye(min(rows, columns)), rtol=0, atol=1e-14)


def test_orthogonal_is_uniform_over_signs() -> None:
    """A bare QR has a fixed sign on its diagonal; half of these must be negative."""
    rng = np.random.default_rng(0)
    negative = np.mean([initializers.orthogonal(4, 4, rng)[0, 0] < 0 for _ in range(400)])
    # Four standard deviations of 400 coins.
    assert negative == pytest.approx(0.5, abs=0.1)


def test_forget_bias() -> None:
    a = layer()
    before = a.state_dict()
    initializers.forget_bias(a, 1.5)
    for key, array in a.parameters.items():
        expected = before[key].copy()
        if key.startswith("bias"):
            expected[9:18] = 1.5 if key.startswith("bias_ih") else 0
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_chrono(name: str) -> None:
    a, b = layer(name), layer(name)
    before = a.state_dict()
    initializers.chrono(a, 50, seed=3)
    initializers.chrono(b, 50, seed=3)
    drawn = []
    for key, array in a.parameters.items():
        np.testing.assert_array_equal(array, b.parameters[key])
        expected = before[key].copy()
        if key.startswith("bias"):
            kept = array[9:18].copy()  # f of the LSTM, z of the GRU
            drawn.append(kept)
            expected[9:18] = kept
            if name == "LSTM":
                expected[:9] = -kept
        np.testing.assert_array_equal(array, expected)
        if key.startswith("bias_hh"):
            assert not kept.any()
    values = np.exp(np.concatenate(drawn[::2]))
    assert len(np.unique(values)) == values.size == 4 * 9
    assert ((values >= 1) & (values <= 49)).all()
    # The mean of 36 draws from U(1, 49) lies within 25 +- 4 * 48 / sqrt(12 * 36).
    assert values.mean() == pytest.approx(25, abs=9.3)


def test_chrono_needs_gates_a_bias_and_two_steps() -> None:
    with pytest.raises(ArgumentError, match=r"RNN\(6, 9.*\) has no gate that keeps the state\.$"):
        initializers.chrono(layer("RNN"), 9)
    with pytest.raises(ArgumentError, match=r"GRU\(6, 9.*\) has no bias\.$"):
        initializers.chrono(layer("GRU", bias=False), 9)
    with pytest.raises(ArgumentError, match=r"longest is 1, expected at least 2"):
        initializers.chrono(layer(), 1)
    with pytest.raises(rnnfast.DTypeError, match=r"longest is of type float, expected int"):
        initializers.chrono(layer(), 9.0)


SEEDED = {
    "layer": lambda seed: rnnfast.GRU(2, 3, seed=seed),
    "uniform": lambda seed: initializers.uniform(layer(), seed),
    "orthogonal_recurrent": lambda seed: initializers.orthogonal_recurrent(layer(), seed),
    "chrono": lambda seed: initializers.chrono(layer(), 9, seed),
    "Linear": lambda seed: training.Linear(2, 3, seed=seed),
    "Embedding": lambda seed: training.Embedding(2, 3, seed=seed),
}


@pytest.mark.parametrize("call", SEEDED.values(), ids=SEEDED)
def test_a_seed_that_is_none_is_refused_in_words(call: Any) -> None:
    for seed in (np.int64(3), 2**200, None):
        call(seed)
    with pytest.raises(ArgumentError, match=r"^rnnfast.* seed is -1, expected at least 0\.$"):
        call(-1)
    for seed in ("1", 1.0, True, [1], np.zeros(2), np.random.default_rng()):
        words = rf"seed is of type {type(seed).__qualname__}, expected int\.$"
        with pytest.raises(rnnfast.DTypeError, match=words):
            call(seed)


def test_forget_bias_needs_a_forget_gate_and_a_bias() -> None:
    with pytest.raises(ArgumentError, match=r"GRU\(6, 9.*\) has no forget gate\.$"):
        initializers.forget_bias(layer("GRU"))
    with pytest.raises(ArgumentError, match=r"LSTM\(6, 9.*\) has no bias\.$"):
        initializers.forget_bias(layer(bias=False))
