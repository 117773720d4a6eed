#!/usr/bin/env python3
"""What calls on two threads take while another process keeps one of two cores busy.

    python benchmarks/busy.py [--out benchmarks/results/NAME.jsonl]

Mean wall time of forward plus backward over two seconds, on one thread and on two, beside a process
that computes without end, and `ratio` of the two. A team loses a time slice whenever the other
process has a member's core: means, since a median hides that.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from turns import Lines, header

import rnnfast

LAYERS = {"lstm": rnnfast.LSTM, "gru": rnnfast.GRU, "rnn_tanh": rnnfast.RNN}
# Hidden units shared by the threads (a barrier at each step), and rows shared (a few per call).
SHAPES = [(100, 1, 256, 256), (32, 4, 128, 128), (128, 8, 64, 64)]


def mean_seconds(cell: str, shape: tuple[int, ...], threads: int, seconds: float) -> float:
    """Mean time of forward plus backward."""
    T, B, I, H = shape
    rnnfast.set_num_threads(threads)
    layer = LAYERS[cell](I, H, seed=0)
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    dy = np.ones((T, B, H), np.float32)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        layer.backward(layer.forward(x)[2], dy)
        calls += 1
    return (time.perf_counter() - start) / calls


def main() -> int:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure (default 2)")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        parser.error("needs two cores")
    os.sched_setaffinity(0, cores)
    put = Lines()
    put(header())
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for shape in SHAPES:
            for cell in LAYERS:
                one, two = (mean_seconds(cell, shape, n, given.seconds) for n in (1, 2))
                row = {"row": "beside a busy process", "cell": cell, "shape": shape}
                times = {"one_us": round(one * 1e6, 1), "two_us": round(two * 1e6, 1)}
                put({**row, **times, "ratio": round(two / one, 3)})
    finally:
        busy.kill()
        busy.wait()
    if given.out:
        put.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
