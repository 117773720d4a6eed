"""The program that times points on a GPU, rehearsed: everything of it but the device's clock.

Without a GPU it runs on the twin, as in test_torch_cuda.py, at a few steps.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import sys
import time
from collections.abc import Callable, Iterator
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
def switches() -> Iterator[None]:
    """PyTorch's, which the program sets, as they were."""
    both = torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    before = [switch.fp32_precision for switch in both]
    yield
    for switch, value in zip(both, before, strict=True):
        switch.fp32_precision = value


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch, cuda_module: ModuleType, switches: None) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    for name in ("peers", "points"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("points")
    monkeypatch.setattr(module, "CHECKED_STEPS", 4)
    # Compilers are others' business.
    monkeypatch.setattr(torch, "compile", lambda body, dynamic: body)
    if _backend.cuda_module()[1] is not None:
        monkeypatch.setattr(module.peers, "DEVICE", "cpu")
        monkeypatch.setattr(module, "microseconds", by_the_clock)
        monkeypatch.setattr(module, "kernels", lambda run: {"a kernel": [1, 1.0]})
        monkeypatch.setattr(module, "peak_memory", lambda run: 0)
        monkeypatch.setattr(_backend, "_load_cuda", lambda: (cuda_module, None))
        monkeypatch.setattr(_cuda_device, "lies_on", lambda t: isinstance(t, torch.Tensor))
        monkeypatch.setattr(_cuda_device, "_place", lambda t: (0, 0))
    return module


def few(points: ModuleType) -> list[Any]:
    return [
        points.Point("lstm", 3, 8, "f32", T=4, loop=True),
        points.Point("gru", 2, 8, "bf16", T=4),
        points.Point("rnn_tanh", 2, 8, "f32", 2, 2, T=4),
        points.Point("lstm", 3, 8, "f32", feature="resets", T=4),
        points.Point("gru", 3, 8, "f32", feature="lengths", T=4),
        points.Point("gru", 3, 8, "f32", T=4, loop=True),
        points.Point("rnn_tanh", 3, 8, "f32", T=4, loop=True),
        points.Point("lstm", 3, 8, "tf32", T=4),
    ]


def test_points_are_checked_timed_and_kept(points, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(points, "mandatory", lambda: iter(few(points)))
    out = tmp_path / "points.jsonl"
    points.main(["--out", str(out), "--seconds", "0"])
    machine, *rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert machine["torch"] == torch.__version__
    assert [row["id"] for row in rows] == [point.id for point in few(points)]
    for row in rows:
        assert "failed" not in row, row["failed"]
        assert "wrong" not in row, row
        assert f".{row['dtype']}.cuda." in row["kernel"]
        for passing in ("inference", "forward+backward"):
            assert row[passing]["rnnfast"]["call"] > 0
            assert row[passing]["torch"]["call"] > 0
            assert len(row[passing]["torch"]["raw"]["4"]) >= 5
            assert ("step_without_products" in row[passing]["rnnfast"]) == (
                row["layers"] == 1 and not row["feature"]
            )
            assert ("loop" in row[passing]) == row["loop"]
        assert row["failed_peers"] == {}
        assert all(error < points.TOLERANCE for error in row["error"].values())
    # What is there is not timed again.
    before = out.read_bytes()
    points.main(["--out", str(out), "--seconds", "0"])
    assert out.read_bytes() == before
    assert capsys.readouterr().out.endswith("all points are there\n")


def test_a_wrong_result_is_not_timed(points, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(points, "mandatory", lambda: iter(few(points)[:1]))
    monkeypatch.setattr(points, "TOLERANCE", 0)
    monkeypatch.setattr(points, "worst", lambda point, kind: 1e9 * (kind is points.Ours))
    out = tmp_path / "points.jsonl"
    points.main(["--out", str(out), "--seconds", "0"])
    row = json.loads(out.read_text("utf-8").splitlines()[-1])
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
    _, first, second = (json.loads(line) for line in out.read_text("utf-8").splitlines())
    assert first["failed"] == "RuntimeError: out of memory"
    assert second["inference"]["rnnfast"]["call"] > 0


def test_flashrnn_where_it_is_installed(points, tmp_path, monkeypatch) -> None:
    """By the shapes of its documentation, and named where it fails."""
    fake = ModuleType("flashrnn")

    def flashrnn(Wx: Any, R: Any, b: Any, *, function: str, backend: str, dtype: str) -> Any:
        assert (function, backend) == ("elman", "cuda_fused")
        if dtype == "bfloat16":
            raise NotImplementedError("no such kernel")
        assert (Wx.shape, R.shape, b.shape) == ((3, len(Wx[0]), 1, 1, 8), (1, 1, 8, 8), (1, 1, 8))
        h = torch.tanh(Wx[:, :, 0] + b[0] + R.sum())
        return h[None], h[None, :, -1:]

    fake.flashrnn = flashrnn
    fake.__spec__ = importlib.machinery.ModuleSpec("flashrnn", None)
    monkeypatch.setitem(sys.modules, "flashrnn", fake)
    chosen = [points.Point("rnn_tanh", 3, 8, dtype, T=4) for dtype in ("f32", "bf16")]
    monkeypatch.setattr(points, "mandatory", lambda: iter(chosen))
    out = tmp_path / "points.jsonl"
    points.main(["--out", str(out), "--seconds", "0"])
    _, first, second = (json.loads(line) for line in out.read_text("utf-8").splitlines())
    assert first["inference"]["flashrnn"]["call"] > 0
    assert first["forward+backward"]["flashrnn"]["call"] > 0
    assert "flashrnn" not in second["inference"]
    assert second["failed_peers"] == {"flashrnn": "NotImplementedError: no such kernel"}


def test_the_kernels_tell_a_walk_of_steps(points, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(points, "mandatory", lambda: iter(few(points)[:1]))
    monkeypatch.setattr(points, "kernels", lambda run: {"gemm": [3, 1.0], "cell": [1, 1.0]})
    out = tmp_path / "points.jsonl"
    points.main(["--out", str(out), "--seconds", "0"])
    row = json.loads(out.read_text("utf-8").splitlines()[-1])
    assert row["inference"]["torch"]["walk"] == "steps"
    monkeypatch.setattr(points, "kernels", lambda run: {"persistent": [3, 1.0]})
    out.unlink()
    points.main(["--out", str(out), "--seconds", "0"])
    row = json.loads(out.read_text("utf-8").splitlines()[-1])
    assert row["inference"]["torch"]["walk"] == "whole"


def test_what_has_no_time_is_left_to_the_next_run(points, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(points, "grid", lambda: iter(few(points)))
    out = tmp_path / "points.jsonl"
    points.main(["--out", str(out), "--grid", "--minutes", "-1"])
    assert capsys.readouterr().out == "8 points are left for another run\n"
    assert not out.exists()


def test_every_point_has_a_name_of_its_own(points) -> None:
    for listed in (list(points.mandatory()), list(points.grid())):
        assert len({point.id for point in listed}) == len(listed)
    assert {point.id for point in points.mandatory()} <= {point.id for point in points.grid()}
