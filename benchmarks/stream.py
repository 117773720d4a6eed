#!/usr/bin/env python3
"""What a step of `rnnfast.Stream` takes, up to the slowest of a million.

    python benchmarks/stream.py [--steps 1000000] [--out benchmarks/results/NAME.jsonl]

Each call of `step(x, out)` is timed alone, from Python, on one thread, with 256 units on two as
well where there are two cores; `clock_us` is the median of two readings of the clock with nothing
in between, which every figure contains. `run_us` is a step's share of a `run` of 1000 steps: the
same work with the price of a call left out. The collector of
garbage is off, as it would be where latency counts; everything else of the machine is as it is, so
the largest times say as much about the system as about the step (`stolen` steps took more than ten
times the median). One JSON line per row; the first names machine, versions and commit.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from turns import Lines, header

import rnnfast

LAYERS = {"lstm": rnnfast.LSTM, "gru": rnnfast.GRU, "rnn_tanh": rnnfast.RNN}
SHAPES = [(1, 64, 1), (1, 256, 1), (1, 256, 2), (8, 64, 1)]  # B, H, threads; I = H
CHUNK = 1000
# What we want on a Zen 5 with AVX-512 at 4 GHz, with the clock's own time in it.
ALLOWED_US = {("lstm", 1, 64, 1): 1.2, ("lstm", 1, 256, 1): 21.0, ("lstm", 1, 256, 2): 13.0}


def clock_cost() -> float:
    """Median microseconds between two readings of the clock."""
    clock = time.perf_counter_ns
    times = np.empty(10_000, np.int64)
    for i in range(len(times)):
        start = clock()
        times[i] = clock() - start
    return float(np.median(times)) / 1e3


def each_step(stream: rnnfast.Stream, xs: np.ndarray, y: np.ndarray, steps: int) -> np.ndarray:
    """Return the nanoseconds of each of so many steps, after a thousand others."""
    clock, step = time.perf_counter_ns, stream.step
    rows = list(xs)  # views made beforehand
    times = np.empty(steps, np.int64)
    for i in range(-1000, steps):
        x = rows[i % len(rows)]
        start = clock()
        step(x, y)
        end = clock()
        if i >= 0:
            times[i] = end - start
    return times


def in_chunks(stream: rnnfast.Stream, xs: np.ndarray, ys: np.ndarray, steps: int) -> float:
    """Return the median nanoseconds of a step within a run."""
    times = []
    for _ in range(max(20, steps // len(xs) // 10)):
        start = time.perf_counter_ns()
        stream.run(xs, ys)
        times.append((time.perf_counter_ns() - start) / len(xs))
    return float(np.median(times))


def main() -> int:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    given = parser.parse_args()
    put = Lines()
    put(header())
    gc.collect()
    gc.disable()
    cost = clock_cost()
    cores = len(os.sched_getaffinity(0))
    for B, H, threads in SHAPES:
        if threads > cores:
            put({"row": "left out", "B": B, "H": H, "threads": threads, "cores": cores})
            continue
        for cell, kind in LAYERS.items():
            layer = kind(H, H, seed=0)
            xs = np.random.default_rng(0).standard_normal((CHUNK, B, H)).astype(np.float32)
            ys = np.empty((CHUNK, B, H), np.float32)
            # The same thing as the layer itself, before anything is timed.
            stream = partial(rnnfast.Stream, layer, B, threads=threads)
            if not np.array_equal(stream().run(xs, ys), layer(xs)[0]):
                raise RuntimeError(f"{cell} B={B} H={H}: the stream and the layer differ")
            times = each_step(stream(), xs, ys[0], given.steps) / 1e3
            run = in_chunks(stream(), xs, ys, given.steps)
            p50, p99, p999 = np.quantile(times, (0.5, 0.99, 0.999))
            row = {
                "row": "step",
                "cell": cell,
                "B": B,
                "H": H,
                "threads": threads,
                "dtype": "float32",
                "steps": given.steps,
                "p50_us": round(float(p50), 3),
                "p99_us": round(float(p99), 3),
                "p999_us": round(float(p999), 3),
                "max_us": round(float(times.max()), 1),
                "stolen": int((times > 10 * p50).sum()),
                "clock_us": round(cost, 3),
                "run_us": round(run / 1e3, 3),
            }
            if (cell, B, H, threads) in ALLOWED_US:
                row["allowed_us"] = ALLOWED_US[cell, B, H, threads]
            put(row)
    if given.out:
        put.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
