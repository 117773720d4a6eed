#!/usr/bin/env python3
"""From the textbook to the engine: builds the ladder, times its rungs and prints a table.

    python benchmarks/ladder/run.py [--out benchmarks/results/NAME.jsonl] [SHAPE ...]

A shape is TxBxIxH, 100x1x256x256 and 48x32x256x256 if none is given; H in whole vectors. Needs g++,
or the compiler that CXX names, and two cores. README.md beside this says what the rungs are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
SHAPES = ("100x1x256x256", "48x32x256x256")
# As the engine's kernels are compiled. Tuned for the machine at hand, an AMD Zen 3, GCC 12 reads
# each weight from memory once for each row of a tile.
FLAGS = ("-std=c++17", "-O2", "-DNDEBUG", "-ffp-contract=off", "-march=native", "-mtune=generic")


def build(folder: Path) -> Path:
    """Compile the ladder into a folder; return the program."""
    program = folder / "ladder"
    sources = (
        HERE / "ladder.cpp",
        *(
            CSRC / "team" / f
            for f in (
                "barrier.cpp",
                "openmp_runtime.cpp",
                "team.cpp",
                "thread_pool.cpp",
                "wait.cpp",
            )
        ),
    )
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, *FLAGS, *map(str, sources), "-pthread", "-ldl", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def run(program: Path, shape: str, *settings: float) -> list[dict]:
    """Check and time all rungs at one shape; return the limits and the rungs."""
    command = [str(program), *shape.split("x"), *map(str, settings)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


def table(rows: list[dict]) -> str:
    """Return limits and rungs of one shape as Markdown."""
    limits = [row for row in rows if row["row"] == "limit"]
    T, B, I, H = limits[0]["shape"]
    peaks = [
        f"{row['threads']} thread{'s' * (row['threads'] > 1)}: {row['gflops']:.0f} GFLOP/s, R read "
        f"at {row['read_gbs']:.0f} GB/s, limit {row['us']:,.4g} µs a step"
        for row in limits
    ]
    lines = [f"T={T} B={B} I={I} H={H}. {'; '.join(peaks)}.", ""]
    lines += ["| rung | µs a step | times faster | of the limit |", "|---|---|---|---|"]
    for row in rows:
        if row["row"] == "rung":
            gain = "" if row["before"] == row["rung"] else f"{row['gain']:.2f}"
            time = f"{row['us']:,.0f}" if row["us"] >= 1000 else f"{row['us']:.4g}"
            lines.append(f"| {row['rung']} | {time} | {gain} | {row['of_limit']:.0%} |")
    return "\n".join(lines)


def main() -> int:
    """Run the ladder at all shapes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", default=SHAPES)
    parser.add_argument("--out", type=Path, help="write lines of JSON here (needs rnnfast)")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for shape in options.shapes:
            found.append(run(program, shape))
            print(table(found[-1]), end="\n\n", flush=True)
    if options.out:
        sys.path.insert(0, str(HERE.parent))
        from turns import header

        rows = [header(flags=" ".join(FLAGS)), *(row for rows in found for row in rows)]
        options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
