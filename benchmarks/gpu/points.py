#!/usr/bin/env python3
"""Time rnnfast.torch and torch.nn (cuDNN) on a GPU, point by point.

A point is a cell, a shape and a dtype. Each pass is timed at two lengths T, and the slope between
them is the time of a step, whatever a call costs; the whole call is given too. Times come from
CUDA's events around some calls in a row, ours and torch's in turns. One profiled call of each gives
the kernels that ran, so that it is known which of cuDNN's algorithms is compared with, and the time
of a step without the products over all steps. Results are checked against torch.nn in float64
first; a point whose results are wrong is reported as wrong and not timed.

    points.py --out FILE.jsonl                    the mandatory points, in under ten minutes
    points.py --out FILE.jsonl --grid --minutes 9 as many of the whole grid as fit; again: the rest

Needs a GPU and PyTorch with CUDA.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import rnnfast.torch

CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# How far from float64 a result may be, in units of the dtype's epsilon times the largest value: it
# catches a wrong kernel, not a rounding. The tests hold the yardstick.
TOLERANCE = 64
# The tests rehearse this file without a GPU, at other lengths.
DEVICE = "cuda"
LENGTHS = (64, 512)
CHECKED_STEPS = 33


@dataclass(frozen=True)
class Point:
    """What is timed."""

    cell: str
    B: int
    H: int
    dtype: str
    layers: int = 1
    directions: int = 1
    feature: str = ""  # "resets": 3 % of the steps; "lengths": uniform in 1 ... T

    @property
    def id(self) -> str:
        """Name in the results."""
        more = (
            f".{self.layers}x{self.directions}" if (self.layers, self.directions) != (1, 1) else ""
        )
        feature = f".{self.feature}" if self.feature else ""
        return f"{self.cell}.{self.dtype}.b{self.B}.h{self.H}{more}{feature}"


def mandatory() -> Iterator[Point]:
    """Where cuDNN is strongest, where it falls, and what most use."""
    for dtype in ("f32", "bf16", "f16"):
        yield Point("lstm", 16, 768, dtype)
        yield Point("lstm", 5, 64, dtype)
        yield Point("lstm", 6, 72, dtype)
        yield Point("lstm", 8, 128, dtype)
        yield Point("lstm", 44, 160, dtype)
        yield Point("lstm", 12, 192, dtype)
        yield Point("gru", 8, 128, dtype)
    yield Point("rnn_tanh", 8, 128, "f32")
    yield Point("lstm", 32, 512, "f32", 2, 2)
    for feature in ("resets", "lengths"):
        yield Point("lstm", 128, 256, "f32", feature=feature)
        yield Point("lstm", 64, 96, "f32", feature=feature)
    for cell, H, B in itertools.product(("lstm", "gru"), (256, 512, 1024), (1, 32)):
        yield Point(cell, B, H, "f32")


def grid() -> Iterator[Point]:
    """Everything, after what is mandatory."""
    yield from mandatory()
    sizes = itertools.product(
        CELLS,
        (32, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024),
        (1, 8, 32, 128),
        DTYPES,
    )
    seen = {point.id for point in mandatory()}
    for cell, H, B, dtype in sizes:
        point = Point(cell, B, H, dtype)
        if point.id not in seen:
            yield point


class Subject:
    """A layer with its input, in one library."""

    def __init__(self, point: Point, library: Any, T: int, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        kind = getattr(library, CELLS[point.cell])
        self.layer = kind(point.H, point.H, point.layers, bidirectional=point.directions == 2).to(
            device, dtype
        )
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(T, point.B, point.H, generator=generator)
        dy = torch.randn(T, point.B, point.H * point.directions, generator=generator)
        self.x = x.to(device, dtype).requires_grad_()
        self.dy = dy.to(device, dtype)
        self.options: dict[str, Any] = {}
        ours = library is rnnfast.torch
        lengths = torch.randint(1, T + 1, (point.B,), generator=generator)
        lengths[0] = T
        resets = torch.rand(T, point.B, generator=generator) < 0.03
        self.packed = None
        if point.feature == "lengths" and ours:
            self.options["lengths"] = lengths.to(device)
        elif point.feature == "lengths":
            self.packed = lengths
        elif point.feature == "resets" and ours:
            self.options["reset"] = resets.to(device)
        elif point.feature == "resets":
            self.resets = (~resets).to(device, dtype)[:, :, None]
        self.feature = point.feature

    def forward(self) -> torch.Tensor:
        """Return y."""
        if self.packed is not None:
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                self.x, self.packed, enforce_sorted=False
            )
            y, _ = self.layer(packed)
            return torch.nn.utils.rnn.pad_packed_sequence(y, total_length=len(self.x))[0]
        if self.feature == "resets" and not self.options:
            return self.by_steps()
        return self.layer(self.x, **self.options)[0]

    def by_steps(self) -> torch.Tensor:
        """Reset as a user of torch.nn does: a call a step, the state multiplied by 0 or 1."""
        state, steps = None, []
        for t in range(len(self.x)):
            if state is not None:
                keep = self.resets[t][None]
                state = tuple(s * keep for s in state) if isinstance(state, tuple) else state * keep
            y, state = self.layer(self.x[t : t + 1], state)
            steps.append(y)
        return torch.cat(steps)

    def both(self) -> list[torch.Tensor]:
        """Forward and backward: y and the gradients."""
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        y = self.forward()
        y.backward(self.dy)
        return [y.detach(), self.x.grad, *(p.grad for p in self.layer.parameters())]

    def passes(self) -> dict[str, Callable[[], Any]]:
        """Return what is timed."""
        return {"inference": self.inference, "forward+backward": self.both}

    def inference(self) -> torch.Tensor:
        """Return y, and keep nothing."""
        with torch.inference_mode():
            return self.forward()


def worst(point: Point, library: Any) -> float:
    """Return the largest error of any result of a library, in epsilons of its largest value."""
    subject = Subject(point, library, CHECKED_STEPS, DEVICE, DTYPES[point.dtype])
    plain = Subject(point, torch.nn, CHECKED_STEPS, "cpu", torch.float64)
    plain.layer.load_state_dict(
        {name: value.double().cpu() for name, value in subject.layer.state_dict().items()}
    )
    with torch.no_grad():
        plain.x.copy_(subject.x.detach().double())
        plain.dy.copy_(subject.dy.double())
    epsilon = torch.finfo(DTYPES[point.dtype]).eps
    error = 0.0
    for ours, theirs in zip(subject.both(), plain.both(), strict=True):
        largest = theirs.abs().max().item() or 1.0
        error = max(error, (ours.double().cpu() - theirs).abs().max().item() / largest / epsilon)
    return error


def microseconds(run: Callable[[], Any], calls: int) -> float:
    """Return the mean time of some calls in a row, by the device's own clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000 / calls


def kernels(run: Callable[[], Any]) -> dict[str, list[float]]:
    """Return the kernels of one call: how often each ran, and microseconds in all."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    return {
        event.key[:120]: [event.count, event.self_device_time_total]
        for event in recorded.key_averages()
        if event.self_device_time_total > 0
    }


def measure(point: Point, seconds: float) -> dict[str, Any]:
    """Check a point, then time it."""
    row: dict[str, Any] = {"id": point.id, **asdict(point)}
    dtype = DTYPES[point.dtype]
    libraries = {"rnnfast": rnnfast.torch, "torch": torch.nn}
    row["error"] = worst(point, rnnfast.torch)
    row["kernel"] = rnnfast.last_kernel()
    row["not_fused"] = rnnfast.torch.last_reason()
    row["error_torch"] = worst(point, torch.nn)
    if not row["error"] <= max(TOLERANCE, 4 * row["error_torch"]):
        row["wrong"] = True
        return row
    for passing in ("inference", "forward+backward"):
        times: dict[tuple[str, int], list[float]] = {}
        runs = {
            (name, T): Subject(point, library, T, DEVICE, dtype).passes()[passing]
            for name, library in libraries.items()
            for T in LENGTHS
        }
        calls = {}
        for key, run in runs.items():
            run()
            calls[key] = max(1, min(50, int(2e4 / max(microseconds(run, 1), 1))))
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(times.get(("torch", LENGTHS[-1]), [])) < 5:
            for key, run in runs.items():
                times.setdefault(key, []).append(microseconds(run, calls[key]))
        result: dict[str, Any] = {}
        for name in libraries:
            short, long = (times[name, T] for T in LENGTHS)
            slopes = [(b - a) / (LENGTHS[1] - LENGTHS[0]) for a, b in zip(short, long, strict=True)]
            result[name] = {
                "step": statistics.median(slopes),
                "step_spread": [min(slopes), max(slopes)],
                "call": statistics.median(long),
                "kernels": kernels(runs[name, LENGTHS[1]]),
            }
        ratios = [
            b / a
            for a, b in zip(times["rnnfast", LENGTHS[1]], times["torch", LENGTHS[1]], strict=True)
        ]
        result["ratio"] = statistics.median(ratios)
        result["ratio_spread"] = [min(ratios), max(ratios)]
        row[passing] = result
    return row


def main(arguments: list[str] | None = None) -> None:
    """Time what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--grid", action="store_true", help="not only the mandatory points")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each pass of a point")
    given = parser.parse_args(arguments)
    done = set()
    if given.out.exists():
        done = {json.loads(line)["id"] for line in given.out.read_text("utf-8").splitlines()}
    end = time.monotonic() + 60 * given.minutes
    left = 0
    for point in grid() if given.grid else mandatory():
        if point.id in done:
            continue
        if time.monotonic() > end:
            left += 1
            continue
        try:
            row = measure(point, given.seconds)
        except (RuntimeError, ValueError) as error:  # one point that fails does not end the others
            row = {"id": point.id, **asdict(point), "failed": f"{type(error).__name__}: {error}"}
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        summary = row.get("failed") or ("WRONG" if row.get("wrong") else "")
        for passing in ("inference", "forward+backward"):
            if passing in row:
                ours, theirs = row[passing]["rnnfast"]["step"], row[passing]["torch"]["step"]
                ratio = theirs / ours if ours > 0 else math.nan
                summary += f"  {passing}: {ours:.2f} us a step, cuDNN {theirs:.2f}, {ratio:.2f}x"
        print(f"{point.id:28}{summary}", flush=True)
    print(f"{left} points are left for another run" if left else "all points are there")


if __name__ == "__main__":
    main()
