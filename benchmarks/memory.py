#!/usr/bin/env python3
"""Whether resident memory stays flat over many calls of random shapes and options.

    python benchmarks/memory.py [--calls 10000] [--small] [--out benchmarks/results/NAME.jsonl]

Functions, layers and streams by their public names, with random cells, shapes and options, as the
tests draw them, forward and backward; one JSON line per tenth of the calls, with the resident set
in MiB after glibc has given back what it holds unused: `mib`, and `lazy_mib`, of large blocks that
wait to be used again (csrc/cpu/arena.cpp), which the system may take whenever it needs them: at
most 512 MiB. Fails if the first less the second stands in the last tenth more than 8 MiB, with
`--small` 2 MiB, above the highest of the first three. `tests/test_memory.py` runs small calls.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
from pathlib import Path

import numpy as np
from turns import Lines, header

import rnnfast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from stack_problems import draw_stack, run_function, run_stack, run_stream

LARGEST = {"T": 119, "B": 19, "I": 99, "H": 149}
SMALL = {"T": 29, "B": 6, "I": 29, "H": 39}
# What a thread keeps is the scratch of the largest call so far, and a rare combination of options
# may need 6 MiB more than any that came first; small calls need less than 1 MiB at all. The pools
# of malloc and Python move by less than 1 MiB.
ALLOWED_MIB, ALLOWED_SMALL_MIB = 8.0, 2.0
AT_FIRST = 100
# Of mallopt: blocks of 64 KiB and more are pages of their own, and there is one heap, or what is
# free in between would count as ours.
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8


def resident() -> tuple[float, float]:
    """Resident set of this process in MiB, and what of it the system may take at any time."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    return kib["Rss"] / 1024, kib["LazyFree"] / 1024


def call_at_random(seed: int, sizes: dict[str, int]) -> None:
    """Call a function, a layer or a stream, with random options."""
    rng = np.random.default_rng([seed, 8])
    kind, dtype = rng.choice(["function", "layer", "stream"]), rng.choice([np.float32, np.float64])
    rnnfast.set_num_threads(int(rng.integers(1, 3)))
    if kind == "layer":
        run_stack(draw_stack(seed, **sizes), "cpu", dtype)
    else:
        drawn = draw_stack(seed, L=1, form=rng.choice(["time first", "lengths", "flat"]), **sizes)
        (run_function if kind == "function" else run_stream)(drawn)


def main() -> int:
    """Run all calls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--small", action="store_true", help="small shapes, for a quick look")
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    given = parser.parse_args()
    put = Lines()
    put(header())
    rng = np.random.default_rng(0)
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(M_ARENA_MAX, 1)
    largest, allowed = LARGEST, ALLOWED_MIB
    if given.small:
        largest, allowed = SMALL, ALLOWED_SMALL_MIB
    marks = []
    # What a thread keeps grows with the largest call that it has seen: here they come first.
    for seed in range(AT_FIRST):
        call_at_random(seed, largest)
    for call in range(given.calls):
        sizes = {name: int(rng.integers(1, most + 1)) for name, most in largest.items()}
        call_at_random(AT_FIRST + call, sizes)
        if (call + 1) % max(1, given.calls // 10) == 0:
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
    put({"row": "growth", "mib": round(grown, 1), "allowed_mib": allowed})
    if given.out:
        put.write(given.out)
    return int(grown > allowed)


if __name__ == "__main__":
    sys.exit(main())
