"""What the scripts beside this file share: calls timed in turns, and rows of JSON lines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rnnfast import _core


def in_turns(
    calls: list[Callable[[], object]], seconds: float, least: int = 20, warm: int = 3
) -> np.ndarray:
    """Return times in seconds, (rounds, calls), of `least` rounds or more, after `warm` others.

    Each round runs every call once, in the other order than the round before.
    """
    for call in calls:
        for _ in range(warm):
            call()
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < least:
        times = [0.0] * len(calls)
        order = range(len(calls)) if len(rounds) % 2 else reversed(range(len(calls)))
        for i in order:
            start = time.perf_counter()
            calls[i]()
            times[i] = time.perf_counter() - start
        rounds.append(times)
    return np.array(rounds)


def ratio_of(times: np.ndarray, top: int, bottom: int, upper: bool = False) -> tuple[float, float]:
    """Median of times[top] / times[bottom] pair by pair, and its lower or upper 95 % bound."""
    ratios = times[:, top] / times[:, bottom]
    rng = np.random.default_rng(0)
    samples = np.median(rng.choice(ratios, (400, len(ratios))), axis=1)
    return float(np.median(ratios)), float(np.quantile(samples, 0.95 if upper else 0.05))


def header(**versions: str) -> dict:
    """Describe machine, versions (further ones as given) and commit."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {
        "row": "header",
        "date": time.strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "isa": _core.isa(),
        "compiler": _core.build_info()["compiler"],
        "python": platform.python_version(),
        "numpy": np.__version__,
        **versions,
        "commit": commit,
    }


class Lines:
    """Rows, printed as they come and written at the end."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __call__(self, row: dict) -> None:
        """Add a row."""
        self._lines.append(json.dumps(row))
        print(self._lines[-1], flush=True)

    def write(self, path: Path) -> None:
        """Write all rows."""
        path.write_text("\n".join(self._lines) + "\n")
