#!/usr/bin/env python3
"""Time rnnfast.torch and its peers on a GPU, point by point.

A point is a cell, a shape and a dtype. Each pass is timed at two lengths T, and the slope between
them is the time of a step, whatever a call costs; the whole call is given too. Times come from
CUDA's events around some calls in a row, all peers in turns. The products over all steps are timed
alone, as torch.mm does them, and a step is given with and without them. One profiled call of each
gives the kernels that ran: a kernel or more for each step, or one for all ("walk"), which tells the
algorithm that cuDNN chose. Results are checked against torch.nn in float64 first; a point whose
results are wrong is reported as wrong and not timed.

Peers: torch.nn, by PackedSequence or a call a step where a point has lengths or resets; a compiled
PyTorch loop at some points; FlashRNN where it is installed.

    points.py --out FILE.jsonl                    the mandatory points, in under ten minutes
    points.py --out FILE.jsonl --grid --minutes 9 as many of the whole grid as fit; again: the rest

Every run writes a line about the machine first. Needs a GPU and PyTorch with CUDA.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peers
import torch
from peers import CELLS, DTYPES, Ours, Point, Products, Subject, Torch

import rnnfast.torch

# How far from float64 a result may be, in units of the dtype's epsilon times the largest value: it
# catches a wrong kernel, not a rounding. The tests hold the yardstick.
TOLERANCE = 64
# The slope is taken from the shorter of both lengths; the longer one is the point's.
SHORT = 64
CHECKED_STEPS = 33
PASSES = ("inference", "forward+backward")


def mandatory() -> Iterator[Point]:
    """Where cuDNN is strongest, where it falls, and what most use; what matters most comes first.

    What a run has no time for is left to the next.
    """
    for dtype in DTYPES:
        yield Point("lstm", 16, 768, dtype, T=1024)
        yield Point("lstm", 5, 64, dtype)
        yield Point("lstm", 6, 72, dtype)
        yield Point("lstm", 8, 128, dtype, loop=dtype == "f32")
        yield Point("lstm", 44, 160, dtype)
        yield Point("lstm", 12, 192, dtype)
        yield Point("gru", 8, 128, dtype, loop=dtype == "f32")
    yield Point("rnn_tanh", 8, 128, "f32", loop=True)
    yield Point("lstm", 32, 512, "f32", 2, 2)
    for cell, feature in itertools.product(("lstm", "gru"), ("resets", "lengths")):
        yield Point(cell, 128, 256, "f32", feature=feature, T=128)
        yield Point(cell, 64, 96, "f32", feature=feature)
    for dtype, cell, H, B in itertools.product(
        ("f32", "bf16", "f16"), ("lstm", "gru"), (256, 512, 1024, 2048), (1, 8, 32, 128)
    ):
        yield Point(cell, B, H, dtype)


def grid() -> Iterator[Point]:
    """Everything, after what is mandatory."""
    yield from mandatory()
    sizes = itertools.product(
        CELLS,
        (32, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024),
        (1, 8, 32, 128),
        DTYPES,
    )
    features = itertools.product(
        CELLS, (64, 256, 512), (8, 64), DTYPES, ((1, 1), (2, 2)), ("", "resets", "lengths")
    )
    points = itertools.chain(
        (Point(*(cell, B, H, dtype), loop=B == 8) for cell, H, B, dtype in sizes),
        (
            Point(cell, B, H, dtype, *stack, feature)
            for cell, H, B, dtype, stack, feature in features
        ),
    )
    seen = {point.id for point in mandatory()}
    for point in points:
        if point.id not in seen:
            seen.add(point.id)
            yield point


def machine() -> dict[str, Any]:
    """Say where the times that follow come from."""
    commit = os.environ.get("RNNFAST_COMMIT", "")  # where the sources came without their history
    if not commit:
        commit = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
        ).stdout.strip()
    row = {
        "id": "machine",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit or "unknown",
        "rnnfast": rnnfast.__version__,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }
    if torch.cuda.is_available():
        row["gpu"] = str(torch.cuda.get_device_properties(0))
    return row


def worst(point: Point, kind: type[Subject]) -> float:
    """Return the largest error of any result of a peer, in epsilons of its largest value."""
    eps = peers.epsilon(point.dtype)
    subject = kind(point, CHECKED_STEPS, peers.DEVICE, DTYPES[point.dtype])
    plain = Torch(point, CHECKED_STEPS, "cpu", torch.float64)
    plain.layer.load_state_dict(
        {name: value.double().cpu() for name, value in subject.layer.state_dict().items()}
    )
    with torch.no_grad():
        plain.x.copy_(subject.x.detach().double())
        plain.dy.copy_(subject.dy.double())
    error = 0.0
    for ours, theirs in zip(subject.both(), plain.both(), strict=True):
        largest = theirs.abs().max().item() or 1.0
        error = max(error, (ours.double().cpu() - theirs).abs().max().item() / largest / eps)
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


def peak_memory(run: Callable[[], Any]) -> int:
    """Return how many bytes a call takes at most beside what was there."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def measure(point: Point, seconds: float) -> dict[str, Any]:
    """Check a point, then time it."""
    row: dict[str, Any] = {"id": point.id, **asdict(point), "error": {}, "failed_peers": {}}
    peers.set_precision(point.dtype)
    row["error"]["rnnfast"] = worst(point, Ours)
    row["kernel"], row["not_fused"] = rnnfast.last_kernel(), rnnfast.torch.last_reason()
    row["error"]["torch"] = worst(point, Torch)
    if not row["error"]["rnnfast"] <= max(TOLERANCE, 4 * row["error"]["torch"]):
        row["wrong"] = True
        return row
    chosen = point.peers
    for name in set(chosen) - {"rnnfast", "torch"}:
        # A peer that cannot run a point is named, and left out.
        try:
            if chosen[name].checked:
                row["error"][name] = worst(point, chosen[name])
            else:
                chosen[name](point, SHORT, peers.DEVICE, DTYPES[point.dtype]).both()
        except Exception as error:
            row["failed_peers"][name] = f"{type(error).__name__}: {error}"
            del chosen[name]
    if point.plain:
        chosen["products"] = Products
    for passing in PASSES:
        row[passing] = timed(point, passing, chosen, seconds)
    return row


def timed(
    point: Point, passing: str, chosen: dict[str, type[Subject]], seconds: float
) -> dict[str, Any]:
    """Time one pass of each, in turns."""
    lengths = (min(SHORT, point.T // 2), point.T)
    runs = {
        (name, T): kind(point, T, peers.DEVICE, DTYPES[point.dtype]).passes()[passing]
        for name, kind in chosen.items()
        for T in lengths
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    calls = {}
    for key, run in runs.items():
        run()
        calls[key] = max(1, min(50, int(1e4 / max(microseconds(run, 1), 1))))
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times["torch", point.T]) < 5:
        for key, run in runs.items():
            times[key].append(microseconds(run, calls[key]))
    result: dict[str, Any] = {}
    slopes = {}
    for name in chosen:
        short, long = (times[name, T] for T in lengths)
        slopes[name] = [
            (b - a) / (lengths[1] - lengths[0]) for a, b in zip(short, long, strict=True)
        ]
        run = runs[name, point.T]
        ran = kernels(run)
        result[name] = {
            "step": statistics.median(slopes[name]),
            "step_spread": [min(slopes[name]), max(slopes[name])],
            "call": statistics.median(long),
            "raw": {str(T): [round(t, 3) for t in times[name, T]] for T in lengths},
            "walk": "steps" if sum(count for count, _ in ran.values()) >= point.T else "whole",
            "kernels": ran,
            "peak_bytes": peak_memory(run),
        }
    if "products" in chosen:
        for name in set(chosen) - {"products"}:
            net = [a - b for a, b in zip(slopes[name], slopes["products"], strict=True)]
            result[name]["step_without_products"] = statistics.median(net)
    ratios = [
        b / a for a, b in zip(times["rnnfast", point.T], times["torch", point.T], strict=True)
    ]
    result["ratio"] = statistics.median(ratios)
    result["ratio_spread"] = [min(ratios), max(ratios)]
    return result


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

    def write(row: dict[str, Any]) -> None:
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    end = time.monotonic() + 60 * given.minutes
    left, begun = 0, False
    for point in grid() if given.grid else mandatory():
        if point.id in done:
            continue
        if time.monotonic() > end:
            left += 1
            continue
        if not begun:
            write(machine())
            begun = True
        try:
            row = measure(point, given.seconds)
        except (RuntimeError, ValueError) as error:  # one point that fails does not end the others
            row = {"id": point.id, **asdict(point), "failed": f"{type(error).__name__}: {error}"}
        write(row)
        summary = row.get("failed") or ("WRONG" if row.get("wrong") else "")
        for passing in PASSES:
            if passing in row:
                ours, theirs = row[passing]["rnnfast"]["step"], row[passing]["torch"]["step"]
                ratio = theirs / ours if ours > 0 else math.nan
                summary += f"  {passing}: {ours:.2f} us a step, cuDNN {theirs:.2f}, {ratio:.2f}x"
        print(f"{point.id:28}{summary}", flush=True)
    print(f"{left} points are left for another run" if left else "all points are there")


if __name__ == "__main__":
    main()
