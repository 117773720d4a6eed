#!/usr/bin/env python3
"""Plain calls of two builds of rnnfast against each other, in turns.

    python benchmarks/commits.py OLD_PYTHON NEW_PYTHON [--out benchmarks/results/NAME.jsonl]

Each argument is the Python of an environment with one build. Both run as processes of their own
and are asked by turns, so that a drift of the machine meets both; what is printed is the median of
time(new) / time(old), pair by pair, with its upper 95 % bound. One thread: the threads of the one
that waits would spin on the cores of the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from turns import Lines, header, ratio_of

SHAPES = [(1, 1, 64, 64), (128, 8, 64, 64), (100, 1, 256, 256), (128, 64, 128, 256)]
CELLS = {"lstm": 4, "gru": 3, "rnn_tanh": 1}
ROUNDS = 21

# What each process runs: it reads a question a line and answers with seconds per call.
WORKER = """
import json, sys, time
import numpy as np
from rnnfast import _core
known = {}
for line in sys.stdin:
    cell, G, (T, B, I, H), threads, backward, calls = json.loads(line)
    key = cell, T, B, I, H
    if key not in known:
        rng = np.random.default_rng(0)
        def draw(*shape):
            return (rng.standard_normal(shape) / np.sqrt(H)).astype(np.float32)
        row = draw(G * H, I), draw(G * H, H), draw(G * H), draw(G * H)
        state = tuple(draw(1, B, H) for _ in range(2 if cell == "lstm" else 1))
        known[key] = draw(T, B, I), (row,), state, draw(T, B, H)
    x, params, state, dy = known[key]
    start = time.perf_counter()
    for _ in range(calls):
        _, _, tape = _core.forward(cell, x, params, state, None, backward, threads)
        if backward:
            _core.backward(tape, dy, None, True, threads)
    print((time.perf_counter() - start) / calls, flush=True)
"""


class Build:
    """One build in a process of its own."""

    def __init__(self, python: str) -> None:
        command = [python, "-P", "-c", WORKER]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def seconds(self, *question: object) -> float:
        """Ask for the time of a call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def main() -> int:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    given = parser.parse_args()
    builds = [Build(given.old), Build(given.new)]
    put = Lines()
    put(header())
    for cell, G in CELLS.items():
        for shape in SHAPES:
            for backward in (False, True):
                question = [cell, G, shape, 1, backward]
                once = max(build.seconds(*question, 3) for build in builds)
                calls = max(1, int(0.02 / once))
                times = np.empty((ROUNDS, 2))
                for k in range(ROUNDS):
                    for i in (0, 1) if k % 2 else (1, 0):
                        times[k, i] = builds[i].seconds(*question, calls)
                ratio, bound = ratio_of(times, 1, 0, upper=True)
                put(
                    {
                        "row": "forward+backward" if backward else "inference",
                        "cell": cell,
                        "shape": shape,
                        "old_us": round(float(np.median(times[:, 0])) * 1e6, 1),
                        "new_us": round(float(np.median(times[:, 1])) * 1e6, 1),
                        "new_over_old": round(ratio, 3),
                        "bound_95": round(bound, 3),
                    }
                )
    if given.out:
        put.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
