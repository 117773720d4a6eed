"""Builds of the compiled module, each in a process of its own, asked for times by turns."""

from __future__ import annotations

import json
import subprocess
from functools import partial

import numpy as np
from turns import asked_in_turns

from rnnfast.cells import CELLS

# What each process runs: it reads a question a line and answers with seconds per call.
WORKER = """
import json, sys, time
import numpy as np
if len(sys.argv) > 1:
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("rnnfast._core", sys.argv[1])
    _core = module_from_spec(spec)
    spec.loader.exec_module(_core)
else:
    from rnnfast import _core
known = {}
for line in sys.stdin:
    what, cell, G, (T, B, I, H), threads, calls = json.loads(line)
    key = what, cell, T, B, I, H
    if key not in known:
        known.clear()
        rng = np.random.default_rng(0)
        def draw(*shape):
            return (rng.standard_normal(shape) / np.sqrt(H)).astype(np.float32)
        row = draw(G * H, I), draw(G * H, H), draw(G * H), draw(G * H)
        state = tuple(draw(1, B, H) for _ in range(2 if cell == "lstm" else 1))
        stream = None
        if what == "stream":  # of two layers
            stream = _core.Stream()
            layers = (row, (draw(G * H, H), *row[1:]))
            stream._open(cell, layers, B, False, False, None, 0.0, None, threads)
        known[key] = draw(T, B, I), (row,), state, draw(T, B, H), stream
    x, params, state, dy, stream = known[key]
    backward = what == "forward+backward"
    start = time.perf_counter()
    for _ in range(calls):
        if stream:
            stream.run(x)
            continue
        _, _, tape = _core.forward(cell, x, params, state, None, backward, threads)
        if backward:
            _core.backward(tape, dy, None, True, threads)
    print((time.perf_counter() - start) / calls, flush=True)
"""


class Build:
    """One build in a process of its own.

    `python` is the interpreter of its environment; `module` the file of the compiled module, where
    it is not the one that is installed there.
    """

    def __init__(self, python: str, module: str = "") -> None:
        command = [python, "-P", "-c", WORKER, *([module] if module else [])]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def seconds(self, *question: object) -> float:
        """Ask for the time of a call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def times_of(
    builds: list[Build],
    what: str,
    cell: str,
    shape: tuple[int, ...],
    threads: int,
    seconds: float,
    least: int = 15,
) -> np.ndarray:
    """Return seconds per call, (rounds, builds), of `least` rounds or more.

    `what` is "inference", "forward+backward" or "stream", a `run` of all steps by two layers.
    Each time is that of calls of 5 ms or of one call: turns so short that a machine whose speed
    changes is the same to both.
    """
    question = [what, cell, CELLS[cell].G, shape, threads]
    for build in builds:
        build.seconds(*question, 1)
    once = max(build.seconds(*question, 1) for build in builds)
    calls = max(1, int(0.005 / once))
    asks = [partial(build.seconds, *question, calls) for build in builds]
    return asked_in_turns(asks, seconds, least)
