"""Which back end ``device="auto"`` takes for NumPy arrays, and the program that fills its table."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from problems import make

import rnnfast
from rnnfast import _backend
from rnnfast.cuda import costs
from rnnfast.cuda.costs import Paid

pytestmark = pytest.mark.skipif(not _backend.compiled, reason="the compiled module is absent")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, cuda_module: ModuleType) -> ModuleType:
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (cuda_module, None))
    return cuda_module


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (Paid("gru", "float32", 4, 8, 2), Paid("gru", "float32", 16, 8, 1))
    monkeypatch.setattr(costs, "TABLE", rows)


def ran(layer: Any, T: int = 3, B: int = 2) -> str:
    layer(np.zeros((T, B, layer.input_size), layer.dtype))
    return rnnfast.last_kernel().split(".")[3]


def test_nothing_was_measured(cuda: ModuleType) -> None:
    assert costs.TABLE == ()
    assert ran(rnnfast.LSTM(8, 1024)) != "cuda"


@pytest.mark.parametrize(
    ("sizes", "pays"),
    [
        ((4, 8, 2), True),
        ((5, 9, 3), True),
        ((4, 8, 1), False),
        ((3, 8, 2), False),
        ((4, 7, 2), False),
        ((16, 8, 1), True),
    ],
)
def test_what_is_no_smaller_than_a_row_of_the_table(
    cuda: ModuleType, table: None, sizes: tuple[int, int, int], pays: bool
) -> None:
    for T, B in ((1, 1), (3, 5)):
        assert (ran(rnnfast.GRU(*sizes), T, B) == "cuda") == pays
    assert ran(rnnfast.GRU(*sizes, dtype="float64")) != "cuda"
    assert ran(rnnfast.LSTM(*sizes)) != "cuda"
    assert ran(rnnfast.GRU(*sizes, device="cpu")) != "cuda"


def test_layers_train_and_prepare_where_they_run(cuda: ModuleType, table: None) -> None:
    layer = rnnfast.GRU(16, 8)
    x = np.random.default_rng(0).standard_normal((3, 2, 16)).astype(np.float32)
    y, _, tape = layer.forward(x)
    layer.backward(tape, np.ones_like(y))
    assert rnnfast.last_kernel() == "gru.backward.f32.cuda.k0"
    np.testing.assert_array_equal(layer.prepare()(x)[0], y)
    assert rnnfast.last_kernel() == "gru.forward.f32.cuda.k0"


def test_functions(cuda: ModuleType, table: None) -> None:
    for I, place in ((16, "cuda"), (15, _backend.compiled["cpu"].isa())):
        make("gru", 3, 2, I, 8).astype(np.float32).run()
        assert rnnfast.last_kernel().startswith(f"gru.backward.f32.{place}")


def test_a_stream_stays_on_the_cpu(cuda: ModuleType, table: None) -> None:
    stream = rnnfast.Stream(rnnfast.GRU(16, 8), batch_size=1)
    assert isinstance(stream, _backend.compiled["cpu"].Stream)
    stream.step(np.zeros((1, 16), np.float32))


def test_the_choice_is_logged(
    cuda: ModuleType, table: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.DEBUG, "rnnfast"):
        layer = rnnfast.GRU(16, 8)
    said = "device=auto runs on cuda: it pays for gru, float32, I=16, H=8, L=1"
    assert said in caplog.messages
    assert layer.device == "auto"
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (None, "there is no module"))
    with caplog.at_level(logging.DEBUG, "rnnfast"):
        assert ran(rnnfast.GRU(16, 8)) != "cuda"
    said = "device=auto: a GPU would pay for gru, float32, I=16, H=8, L=1, but there is no module"
    assert said in caplog.messages


def test_the_program_that_fills_the_table(
    cuda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu" / "pays.py"
    spec = importlib.util.spec_from_file_location("pays", path)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pays", program)
    spec.loader.exec_module(program)
    for name, value in {"SIZES": (4, 8, 16), "CALLS": ((2, 1), (3, 2)), "PAIRS": 1}.items():
        monkeypatch.setattr(program, name, value)

    def faster_from_8_on(layer: Any, x: np.ndarray, dy: np.ndarray) -> float:
        _, _, tape = layer.forward(x)
        layer.backward(tape, dy)
        return 2.0 if layer.device == "cpu" and layer.hidden_size >= 8 else 1.0

    monkeypatch.setattr(program, "seconds", faster_from_8_on)
    out = tmp_path / "pays.jsonl"
    program.main(["--out", str(out)])
    assert len(out.read_text("utf-8").splitlines()) == 3 * 2 * 3 * 2
    printed = capsys.readouterr().out.split("\n")
    assert printed[0] == "    Paid(cell='rnn_tanh', dtype='float32', I=8, H=8, L=1),"
    # Larger ones, and more layers, are what the smallest stands for.
    assert len(printed) == 6 + 1
