"""What the scripts beside this file share: calls timed in turns, and rows of JSON lines."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from rnnfast.bench import machine
from rnnfast.bench.statistics import ratio_of_pairs


def in_turns(
    calls: list[Callable[[], object]], seconds: float, least: int = 20, warm: int = 3
) -> np.ndarray:
    """Return times in seconds, (rounds, calls), of `least` rounds or more, after `warm` others."""
    for call in calls:
        for _ in range(warm):
            call()

    def seconds_of(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return asked_in_turns([partial(seconds_of, call) for call in calls], seconds, least)


def asked_in_turns(asks: list[Callable[[], float]], seconds: float, least: int) -> np.ndarray:
    """Return times in seconds, (rounds, asks), of `least` rounds or more, as each ask says itself.

    Each round asks all once, in the other order than the round before.
    """
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < least:
        times = [0.0] * len(asks)
        for i in range(len(asks)) if len(rounds) % 2 else reversed(range(len(asks))):
            times[i] = asks[i]()
        rounds.append(times)
    return np.array(rounds)


def ratio_of(times: np.ndarray, top: int, bottom: int, upper: bool = False) -> tuple[float, float]:
    """Median of times[top] / times[bottom] pair by pair, and an end of its 95 % interval."""
    ratio, low, high = ratio_of_pairs(times[:, top], times[:, bottom])
    return ratio, high if upper else low


def header(**versions: str) -> dict:
    """Describe machine, versions (further ones as given) and commit."""
    return {"row": "header", **machine.describe(**versions)}


def run_rows(doc: str, rows: Callable[[float], Iterable[dict]], seconds: float = 1.0) -> int:
    """Run a script: print its rows of so many seconds each, and write them with --out."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    default = f"per row (default {seconds:g})"
    parser.add_argument("--seconds", type=float, default=seconds, help=default)
    given = parser.parse_args()
    put = Lines()
    put(header())
    for row in rows(given.seconds):
        put(row)
    if given.out:
        put.write(given.out)
    return 0


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

    def add_to(self, path: Path) -> None:
        """Write all rows behind those of a file, which need not be there."""
        with path.open("a") as file:
            file.writelines(line + "\n" for line in self._lines)
