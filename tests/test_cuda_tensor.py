"""Products on tensor cores: tf32, asked for by name, and the 16-bit numbers of tensors.

As `test_cuda_layers.py`, with plain arithmetic that rounds what it multiplies to tf32. Storage of
16 bits is judged in `test_torch_cuda.py`, which has it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import option_laws
import pytest
from option_judge import judge
from option_problems import SINGLES, OptionProblem, fits, run, single
from problems import CELL_NAMES
from tf32 import EPS, run_in_tf32, to_tf32

import rnnfast
from rnnfast import _backend
from rnnfast.cuda import _layer, engine
from rnnfast.cuda._place import Place


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, cuda_module: ModuleType) -> dict[str, Any]:
    """What every call says beside its own."""
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (cuda_module, None))
    said: dict[str, Any] = {"tf32": True}
    run = _layer._run
    monkeypatch.setattr(
        _layer, "_run", lambda d, m, call, backward: run(d, m, call | said, backward)
    )
    return said


@pytest.fixture(params=["k0", "steps"])
def family(request: pytest.FixtureRequest, calls: dict[str, Any]) -> str:
    calls["family"] = request.param
    return request.param


def compare(family: str, features: Any, cell: str, **sizes: int) -> None:
    def run_once(problem: OptionProblem) -> dict[str, Any]:
        results = run(engine, problem)
        assert engine.last_kernel() == f"{cell}.backward.tf32.cuda.{family}"
        return results

    judge([run_once], features, 1, cell, np.float32, 4, run_in_tf32, EPS, **sizes)


# A tile of the products before and after the steps is 128 x 64, one of a step 32 x 64, 48 or 32;
# 32 terms go at a time, 64 to a chain. Lines that lie on 16 bytes, and lines that do not.
SHAPES = [
    (0, 3, 4, 5),
    (2, 0, 4, 5),
    (1, 1, 1, 1),
    (3, 2, 1, 32),
    (3, 17, 9, 33),
    (2, 65, 8, 16),
    (2, 3, 100, 68),
    (2, 3, 259, 15),
    (300, 2, 3, 9),
]


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def test_shapes_in_tf32(family: str, shape: tuple[int, ...], cell: str) -> None:
    T, B, I, H = shape
    compare(family, SINGLES["plain"], cell, T=T, B=B, I=I, H=H, D=1)


@pytest.mark.parametrize("name", [name for name in SINGLES if "indices" not in SINGLES[name]])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_each_option_in_tf32(family: str, name: str, cell: str) -> None:
    if not fits(name, cell, 1):
        pytest.skip("not of this cell")
    compare(family, SINGLES[name], cell, T=7, B=5, I=4, H=17, D=1)


@pytest.mark.parametrize("law", sorted(set(option_laws.LAWS) - {"threads"}))
def test_laws_in_tf32(family: str, law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of a sum does not depend on the rows beside it, nor on where a sequence is cut."""
    for name, value in (("core", engine), ("plainly", run_in_tf32), ("eps", EPS)):
        monkeypatch.setattr(option_laws, name, value)
    rng = np.random.default_rng(1)
    for D in (1, 2):
        for name in SINGLES:
            if fits(name, "lstm", D):
                option_laws.LAWS[law](single(name, 3, "lstm", np.float32, D=D, H=9), rng)


def test_tf32_is_what_products_round_to(calls: dict[str, Any]) -> None:
    """x and W as they are, and rounded: the same bits in tf32, others without."""
    calls["family"] = "steps"
    problem = single("plain", 3, "gru", np.float32, D=1, H=9)
    W, *rest = problem.params[0]
    changed = {"x": to_tf32(problem.x), "params": ((to_tf32(W), *rest),)}
    rounded = replace(problem, **changed)
    a, b = run(engine, problem), run(engine, rounded)
    for name in ("y", "h_n", "dR_0", "dW_0", "dx"):
        np.testing.assert_array_equal(a[name], b[name], name)
    del calls["tf32"]
    assert (run(engine, problem)["y"] != run(engine, rounded)["y"]).any()
    assert engine.last_kernel() == "gru.backward.f32.cuda.steps"


def test_tf32_is_of_float32_alone(calls: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tf32 is a way to multiply f32, not f64"):
        run(engine, single("plain", 3, "gru", np.float64, D=1, H=9))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4028235e38])
def test_what_is_not_finite_stays_so(calls: dict[str, Any], value: float) -> None:
    """And the largest number becomes infinite, as rounding has it."""
    problem = single("plain", 3, "rnn_relu", np.float32, D=1, H=9)
    problem.x[:] = 0
    problem.x[1, 0, 0] = value
    problem.params[0][0][:] = 1
    y = run(engine, problem)["y"]
    with np.errstate(all="ignore"):
        expected = run_in_tf32(problem)["y"]
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))


def test_tf32_is_asked_for_by_a_block(
    monkeypatch: pytest.MonkeyPatch, cuda_module: ModuleType
) -> None:
    """In this thread; backward takes what forward took."""
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (cuda_module, None))
    x = np.random.default_rng(0).standard_normal((3, 2, 37)).astype(np.float32)
    layer = rnnfast.GRU(37, 24, seed=0, device="cuda")
    wide = rnnfast.GRU(37, 24, seed=0, device="cuda", dtype="float64")
    plain, _ = layer(x)
    with rnnfast.cuda.tf32():
        y, _, tape = layer.forward(x)
        assert rnnfast.last_kernel() == "gru.forward.tf32.cuda.k0"
        wide(x.astype(np.float64))
        assert rnnfast.last_kernel() == "gru.forward.f64.cuda.k0"
        with ThreadPoolExecutor(1) as pool:
            np.testing.assert_array_equal(pool.submit(layer, x).result()[0], plain)
        there = Place.own(cuda_module, x.dtype).put(x)
        np.testing.assert_array_equal(layer(there)[0].numpy(), y)
    assert (y != plain).any()
    layer.backward(tape, np.ones_like(y))
    assert rnnfast.last_kernel() == "gru.backward.tf32.cuda.k0"
    np.testing.assert_array_equal(layer(x)[0], plain)
    assert rnnfast.last_kernel() == "gru.forward.f32.cuda.k0"
