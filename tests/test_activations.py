"""sigmoid, tanh and relu of every instruction set: the errors csrc/math/activations.h states."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import require

core = require("core")
SIGMOID, TANH, RELU = range(3)


def apply(isa: str, which: int, x: np.ndarray) -> np.ndarray:
    return (core._activation_f32 if x.dtype == np.float32 else core._activation_f64)(isa, which, x)


def sample(dtype) -> np.ndarray:
    rng = np.random.default_rng(0)
    small = 10.0 ** rng.uniform(-30, 2, 200_000) * rng.choice([-1, 1], 200_000)
    return np.concatenate([small, np.linspace(-30, 30, 300_001)]).astype(dtype)


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error in units in the last place of the result's own type."""
    unit = np.spacing(np.abs(exact.astype(got.dtype))).astype(np.longdouble)
    return np.abs(got.astype(np.longdouble) - exact) / unit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa", core.isas())
def test_errors_stay_within_what_is_stated(isa, dtype):
    x = sample(dtype)
    wide = x.astype(np.longdouble)
    assert ulps(apply(isa, TANH, x), np.tanh(wide)).max() <= 3
    normal = x >= (-87 if dtype == np.float32 else -708)
    assert ulps(apply(isa, SIGMOID, x), 1 / (1 + np.exp(-wide)))[normal].max() <= 3
    assert (apply(isa, RELU, x) == np.maximum(x, 0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa", core.isas())
def test_special_values(isa, dtype):
    inf, nan = np.inf, np.nan
    x = np.array([0.0, -0.0, inf, -inf, nan], dtype)
    assert np.array_equal(apply(isa, TANH, x), np.array([0, 0, 1, -1, nan]), equal_nan=True)
    assert np.signbit(apply(isa, TANH, x)).tolist()[:2] == [False, True]
    s = apply(isa, SIGMOID, x)
    assert s[0] == s[1] == 0.5
    assert s[2] == 1
    assert 0 <= s[3] <= (2e-38 if dtype == np.float32 else 4e-308)
    assert np.isnan(s[4])
    assert np.array_equal(apply(isa, RELU, x), np.array([0, 0, inf, 0, nan]), equal_nan=True)
    far = np.array([-1e30, 1e30], dtype)
    assert apply(isa, TANH, far).tolist() == [-1, 1]


@pytest.mark.parametrize("isa", core.isas())
def test_tanh_is_odd_to_the_bit(isa):
    x = sample(np.float32)
    assert (apply(isa, TANH, x) == -apply(isa, TANH, -x)).all()
