"""The CUDA kernels against the reference, and what they promise to the bit.

They run on a device, or compiled for the CPU (tests/simt) where there is none. `k0` holds R on one
multiprocessor, `steps` takes any size: each is asked for by name, and judged by the same draws as
the CPU's kernels.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import option_judge
import option_laws
import pytest
from option_judge import judge
from option_problems import SINGLES, OptionProblem, build, choose, fits, run, single
from problems import CELL_NAMES, make

import rnnfast
from rnnfast import _backend
from rnnfast.cuda import _layer, engine

FAMILIES = ("k0", "steps")
DOCS = Path(__file__).parent.parent / "docs" / "cuda.md"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, cuda_module: ModuleType) -> ModuleType:
    """The CUDA back end of NumPy arrays."""
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (cuda_module, None))
    return engine


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cuda: Any) -> str:
    """Each family of kernels, asked for by name."""
    forward = functools.partial(_layer.forward, family=request.param)
    monkeypatch.setattr(_layer, "forward", forward)
    return request.param


def compare(
    family: str, features: Any, seed: int, cell: str, dtype: type, draws: int = 4, **sizes: int
) -> None:
    def run_once(problem: OptionProblem) -> dict[str, Any]:
        results = run(engine, problem)
        size = np.dtype(dtype).itemsize * 8
        assert engine.last_kernel() == f"{cell}.backward.f{size}.cuda.{family}"
        return results

    judge([run_once], features, seed, cell, dtype, draws, **sizes)


def every(D: int = 1) -> list[tuple[str, str]]:
    return [(name, cell) for name in SINGLES for cell in CELL_NAMES if fits(name, cell, D)]


@pytest.mark.parametrize(("name", "cell"), every())
def test_each_option(family, name, cell):
    compare(family, SINGLES[name], 1, cell, np.float32, T=7, B=5, I=4, H=17, D=1)


@pytest.mark.parametrize(("name", "cell"), every(D=2))
def test_each_option_in_two_directions_and_twice_the_precision(family, name, cell):
    compare(family, SINGLES[name], 2, cell, np.float64, T=5, B=6, I=5, H=9, D=2)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_reset_where_the_burn_in_ends_passes_its_gradient(family, cell, monkeypatch):
    """The step that ends the burn-in is the last of the way back."""
    features = ("reset", "reset_state", "burn_in")

    def ending_at_resets(*args: Any, **sizes: int) -> OptionProblem:
        problem = build(*args, **sizes)
        reset, step = problem.options.reset.copy(), problem.T // 2
        reset[step] = True
        return replace(problem, options=problem.options._replace(reset=reset, burn_in=step))

    monkeypatch.setattr(option_judge, "build", ending_at_resets)
    compare(family, features, 1, cell, np.float32, T=7, B=5, I=4, H=9, D=1)


@pytest.mark.parametrize("seed", range(24))
def test_combinations(family, seed):
    cell = CELL_NAMES[seed % len(CELL_NAMES)]
    features, sizes = choose(seed, cell)
    compare(family, features, seed, cell, np.float32, **sizes)


# No steps, no rows; a unit, a warp of units and one more; rows and units beyond a tile of the
# products; sums of more than one block of 64; more places than a segment of the weight gradients.
SHAPES = [
    (0, 3, 4, 5),
    (2, 0, 4, 5),
    (1, 1, 1, 1),
    (2, 1, 7, 7),
    (3, 2, 1, 32),
    (3, 17, 9, 33),
    (2, 65, 5, 16),
    (2, 3, 513, 15),
    (2, 2, 3, 70),
    (300, 2, 3, 9),
]


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def test_shapes(family, shape, cell):
    T, B, I, H = shape
    for dtype in (np.float32, np.float64):
        compare(family, SINGLES["plain"], 1, cell, dtype, T=T, B=B, I=I, H=H, D=1)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_steps_take_what_no_multiprocessor_holds(cuda, cell):
    compare("steps", SINGLES["plain"], 1, cell, np.float32, draws=1, T=2, B=2, I=3, H=513, D=1)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("name", ["plain", "reset, mask held", "flat, indices", "truncated"])
def test_chunks_change_no_bit_but_of_sums_over_places(family, name, cell, monkeypatch):
    """Two steps at a time, instead of all at once."""
    problem = single(name, 3, cell, np.float32, D=1, H=9)
    whole = run(engine, problem)
    forward = _layer.forward

    def in_chunks(*args: Any, options: Any, **more: Any) -> Any:
        G, H = problem.spec.G, problem.H
        options.numbers["chunk_bytes"] = 2 * problem.B * G * H * 4
        return forward(*args, options=options, **more)

    monkeypatch.setattr(_layer, "forward", in_chunks)
    chunked = run(engine, problem)
    option_laws.assert_same(whole, chunked, "in chunks", option_laws.of_row)
    for name, value in whole.items():
        if value is not None:
            np.testing.assert_allclose(chunked[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("law", sorted(set(option_laws.LAWS) - {"threads"}))
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_laws(family, law, cell, monkeypatch):
    """Rows alone, pieces of time, resets, lengths: the same bits."""
    monkeypatch.setattr(option_laws, "core", engine)
    rng = np.random.default_rng(1)
    for D in (1, 2):
        for name in SINGLES:
            if fits(name, cell, D):
                option_laws.LAWS[law](single(name, 3, cell, np.float32, D=D, H=9), rng)


@pytest.mark.parametrize("name", ["plain", "reset, mask held", "recurrent dropout"])
def test_a_graph_may_be_captured_around_a_pass(family, name, twin, monkeypatch):
    """It neither waits, nor copies from or to the host."""
    run_pass = _layer._run

    def run_captured(*args: Any, **more: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("SIMT_CAPTURING", "1")
            run_pass(*args, **more)

    monkeypatch.setattr(_layer, "_run", run_captured)
    problem = single(name, 3, "lstm", np.float32, D=1, H=9)
    results = run(engine, problem)
    assert results["dW_0"].any()
    monkeypatch.setenv("SIMT_CAPTURING", "1")
    with pytest.raises(rnnfast.DeviceError, match="capturing"):
        run(engine, problem)


def held(cuda_module, cell, storage, H, backward):
    """Whether one multiprocessor holds R."""
    call = {"cell": cell, "storage": storage, "T": 1, "B": 1, "I": 1, "H": H, "family": "k0"}
    try:
        return cuda_module.layer_scratch({**call, "device": 0}, backward) > 0
    except ValueError as e:
        if str(e) != "R does not fit one multiprocessor":
            raise
        return False


@pytest.mark.parametrize("storage", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_k0_holds_every_h_up_to_its_largest(twin, storage, cell):
    """Which is what docs/cuda.md says of a device with as much shared memory as the twin."""
    table = re.findall(r"^\| (RNN|LSTM|GRU) \| (.+) \| (.+) \| (.+) \|$", DOCS.read_text(), re.M)
    columns = {"f32": 1, "f64": 2, "bf16": 3, "f16": 3}
    (row,) = (row for row in table if row[0].lower() == cell[:4].split("_")[0])
    said = [int(number) for number in re.findall(r"\d+", row[columns[storage]])]
    for backward in (False, True):
        fitting = [H for H in range(8, 513, 8) if held(twin, cell, storage, H, backward)]
        assert fitting == list(range(8, said[-1 if backward else 0] + 1, 8))


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_functions(cuda, cell):
    """As a user calls it."""
    problem = make(cell, 4, 3, 5, 9).astype(np.float32)
    got, expected = problem.run(device="cuda"), problem.run(device="numpy")
    problem.run(device="cuda")
    assert rnnfast.last_kernel() == f"{cell}.backward.f32.cuda.k0"
    for name, value in expected.items():
        if value is not None:
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


def test_a_layer(cuda):
    """Two layers, both directions, dropout between them; prepared for inference too."""
    x = np.random.default_rng(0).standard_normal((6, 3, 5)).astype(np.float32)
    given = {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "seed": 1}
    on_gpu, on_cpu = (rnnfast.GRU(5, 8, device=device, **given) for device in ("cuda", "cpu"))
    results = []
    for layer in (on_gpu, on_cpu):
        y, h, tape = layer.forward(x, training=True, seed=3)
        gradients = layer.backward(tape, np.ones_like(y))
        results.append([y, h, gradients.x, *gradients.parameters.values()])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    y, _ = on_gpu(x)
    prepared, _ = on_gpu.prepare()(x)
    assert y.tobytes() == prepared.tobytes()
