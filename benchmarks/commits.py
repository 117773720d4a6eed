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
import sys
from pathlib import Path

import numpy as np
from builds import Build, times_of
from turns import Lines, header, ratio_of

from rnnfast.bench import grid

SHAPES = [(1, 1, 64, 64), (128, 8, 64, 64), (100, 1, 256, 256), (128, 64, 128, 256)]
SECONDS = 1.0


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
    for cell in grid.GRID_CELLS:
        for shape in SHAPES:
            for what in ("inference", "forward+backward"):
                times = times_of(builds, what, cell, shape, 1, SECONDS)
                ratio, bound = ratio_of(times, 1, 0, upper=True)
                put(
                    {
                        "row": what,
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
