#!/usr/bin/env python3
"""Whether resident memory stays flat over many calls of random shapes and options.

    python benchmarks/memory.py [--calls 10000] [--out benchmarks/results/NAME.jsonl]

Forward plus backward of random cells, shapes and options, as the tests draw them; one JSON line per
tenth of the calls, with the resident set in MiB after glibc has given back what it holds unused:
`mib`, and `lazy_mib`, of large blocks that wait to be used again (csrc/cpu/arena.cpp), which the
system may take whenever it needs them: at most 512 MiB. Fails if the first less the second stands
in the last tenth more than 2 MiB above the highest of the first three.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
from pathlib import Path

import numpy as np
from turns import Lines, header

from rnnfast import _core
from rnnfast.cells import CELLS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import option_problems

ALLOWED_MIB = 2.0


def resident() -> tuple[float, float]:
    """Resident set of this process in MiB, and what of it the system may take at any time."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    return kib["Rss"] / 1024, kib["LazyFree"] / 1024


def main() -> int:
    """Run all calls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    given = parser.parse_args()
    put = Lines()
    put(header())
    names = list(CELLS)
    rng = np.random.default_rng(0)
    libc = ctypes.CDLL("libc.so.6")
    marks = []
    # What a thread keeps grows with the largest call that it has seen: here it comes first.
    for number, cell in enumerate(names * 2):
        problem = option_problems.draw(number, cell, np.float64, T=119, B=19, I=99, H=149)
        option_problems.run(_core, problem, 1 + number % 2)
    for call in range(given.calls):
        cell = names[call % len(names)]
        sizes = {
            "T": int(rng.integers(0, 120)),
            "B": int(rng.integers(0, 20)),
            "I": int(rng.integers(1, 100)),
            "H": int(rng.integers(1, 150)),
        }
        dtype = np.float32 if rng.random() < 0.5 else np.float64
        problem = option_problems.draw(call, cell, dtype, **sizes)
        option_problems.run(_core, problem, 1 + call % 2)
        if (call + 1) % max(1, given.calls // 10) == 0:
            del problem
            gc.collect()
            libc.malloc_trim(0)
            mib, lazy = resident()
            marks.append(mib - lazy)
            put(
                {
                    "row": "resident",
                    "calls": call + 1,
                    "mib": round(mib, 1),
                    "lazy_mib": round(lazy, 1),
                }
            )
    grown = marks[-1] - max(marks[:3])
    put({"row": "growth", "mib": round(grown, 1), "allowed_mib": ALLOWED_MIB})
    if given.out:
        put.write(given.out)
    return int(grown > ALLOWED_MIB)


if __name__ == "__main__":
    sys.exit(main())
