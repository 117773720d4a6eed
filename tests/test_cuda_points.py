"""The program that times points on a GPU, rehearsed: everything of it but the device's clock.

Without a GPU it runs on the twin, as in test_torch_cuda.py, at a few steps.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import require

torch = require("torch")
require("core")

from rnnfast import _backend  # noqa: E402
from rnnfast.torch import _cuda_device  # noqa: E402

PROGRAM = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu" / "points.py"


def by_the_clock(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) * 1e6 / calls


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch, cuda_module: ModuleType) -> ModuleType:
    spec = importlib.util.spec_from_file_location("points", PROGRAM)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "points", module)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LENGTHS", (2, 4))
    monkeypatch.setattr(module, "CHECKED_STEPS", 4)
    if _backend.cuda_module()[1] is not None:
        monkeypatch.setattr(module, "DEVICE", "cpu")
        monkeypatch.setattr(module, "microseconds", by_the_clock)
        monkeypatch.setattr(module, "kernels", lambda run: {})
        monkeypatch.setattr(_backend, "_load_cuda", lambda: (cuda_module, None))
        monkeypatch.setattr(_cuda_device, "lies_on", lambda t: isinstance(t, torch.Tensor))
        monkeypatch.setattr(_cuda_device, "_place", lambda t: (0, 0))
    return module


def few(points: ModuleType) -> list[Any]:
    return [
        points.Point("lstm", 3, 8, "f32"),
        points.Point("gru", 2, 8, "bf16"),
        points.Point("rnn_tanh", 2, 8, "f32", 2, 2),
        points.Point("lstm", 3, 8, "f32", feature="resets"),
        points.Point("lstm", 3, 8, "f32", feature="lengths"),
    ]


def test_points_are_checked_timed_and_kept(points, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(points, "mandatory", lambda: iter(few(points)))
    out = tmp_path / "points.jsonl"
    points.main(["--out", str(out), "--seconds", "0"])
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [point.id for point in few(points)]
    for row in rows:
        assert "failed" not in row, row["failed"]
        assert "wrong" not in row, row
        assert ".cuda." in row["kernel"]
        for passing in ("inference", "forward+backward"):
            assert row[passing]["rnnfast"]["call"] > 0
            assert row[passing]["torch"]["call"] > 0
    # What is there is not timed again.
    before = out.read_bytes()
    points.main(["--out", str(out), "--seconds", "0"])
    assert out.read_bytes() == before
    assert capsys.readouterr().out.endswith("all points are there\n")


def test_a_wrong_result_is_not_timed(points, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(points, "mandatory", lambda: iter(few(points)[:1]))
    monkeypatch.setattr(points, "TOLERANCE", 0)
    monkeypatch.setattr(points, "worst", lambda point, library: 1e9 * (library is not torch.nn))
    out = tmp_path / "points.jsonl"
    points.main(["--out", str(out), "--seconds", "0"])
    row = json.loads(out.read_text("utf-8"))
    assert row["wrong"]
    assert "inference" not in row


def test_a_point_that_fails_does_not_end_the_others(points, tmp_path, monkeypatch) -> None:
    def fails(point: Any, library: Any) -> float:
        if point.cell == "lstm":
            raise RuntimeError("out of memory")
        return 0.0

    monkeypatch.setattr(points, "mandatory", lambda: iter(few(points)[:2]))
    monkeypatch.setattr(points, "worst", fails)
    out = tmp_path / "points.jsonl"
    points.main(["--out", str(out), "--seconds", "0"])
    first, second = (json.loads(line) for line in out.read_text("utf-8").splitlines())
    assert first["failed"] == "RuntimeError: out of memory"
    assert second["inference"]["rnnfast"]["call"] > 0


def test_every_point_has_a_name_of_its_own(points) -> None:
    for listed in (list(points.mandatory()), list(points.grid())):
        assert len({point.id for point in listed}) == len(listed)
    assert {point.id for point in points.mandatory()} <= {point.id for point in points.grid()}
