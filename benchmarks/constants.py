#!/usr/bin/env python3
"""Chosen constants of the kernels against what else they could be: a build each, timed in turns.

    python benchmarks/constants.py --isa ISA [--only NAME]... [--out benchmarks/results/NAME.jsonl]
    python benchmarks/constants.py --table benchmarks/results/NAME.jsonl

`constants.toml` says where each constant stands, what to write there instead, and which calls it
matters to. A copy of the sources is built for one instruction set (CMake, Ninja and a compiler are
needed), as it is and with each change by itself; all stay in a temporary folder, or in --keep,
where a second run finds them. Then each is timed against the one as it is, in turns, in processes
of their own, in float32, on one thread or as many as the change says: time(instead) / time(as it
is), above 1 where the choice is the faster one. Where a process has its memory decides as much as
many a constant, so each row has five pairs of processes: "pairs" are their medians in order, the
ratio is the middle one. A build of the same sources against itself says what is noise ("nothing").
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from builds import Build, times_of
from turns import Lines, header

ROOT = Path(__file__).resolve().parent.parent
PAIRS = 5


class Tree:
    """A copy of the sources, built incrementally.

    The kernels of float64, which are not timed, are built once, from a copy that does not change.
    """

    def __init__(self, folder: Path, isa: str) -> None:
        self._folder, self._tree, self._build = folder, folder / "tree", folder / "build"
        if not self._tree.exists():
            listed = ["git", "-C", str(ROOT), "ls-files", "-z", "csrc", "CMakeLists.txt"]
            for name in subprocess.check_output(listed, text=True).split("\0")[:-1]:
                for to in (self._tree / name, self._tree / "still" / name):
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, to)
            path = self._tree / "CMakeLists.txt"
            source = "$<$<STREQUAL:${dtype},f64>:still/>csrc/cpu/kernels.cpp"
            path.write_text(self._once(path, "OBJECT csrc/cpu/kernels.cpp", f"OBJECT {source}"))
        pybind11 = [sys.executable, "-m", "pybind11", "--cmakedir"]
        self._run(
            *("cmake", "-G", "Ninja", "-S", str(self._tree), "-B", str(self._build)),
            *(f"-DRNNFAST_ISAS={isa}", "-DRNNFAST_CUDA=OFF", "-DRNNFAST_OPENMP=OFF"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={subprocess.check_output(pybind11, text=True).strip()}",
        )

    @staticmethod
    def _once(path: Path, text: str, instead: str) -> str:
        before = path.read_text()
        if before.count(text) != 1:
            raise RuntimeError(f"{path} has {before.count(text)} times {text!r}, expected once")
        return before.replace(text, instead)

    @staticmethod
    def _run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")

    @contextlib.contextmanager
    def _changed(self, file: str, text: str, instead: str) -> Iterator[None]:
        path = self._tree / file
        before = path.read_text()
        path.write_text(self._once(path, text, instead))
        try:
            yield
        finally:
            path.write_text(before)

    def module(self, name: str, *change: str) -> str:
        """Return the file of the module, built where it is not; `change`: file, text, instead."""
        made = self._folder / name / "_core.so"
        if not made.exists():
            with self._changed(*change) if change else contextlib.nullcontext():
                self._run("cmake", "--build", str(self._build), "--target", "_core")
            (found,) = self._build.glob("_core*.so")
            made.parent.mkdir()
            shutil.copy2(found, made)
        return str(made)


def time_rows(modules: list[str], rows: list[str], threads: int, seconds: float) -> Iterator[dict]:
    """Time each row, as "inference lstm 128x8x64x64", of two modules in turns."""
    for row in rows:
        what, cell, sizes = row.split()
        shape = tuple(map(int, sizes.split("x")))
        ratios, times = [], []
        for _ in range(PAIRS):
            builds = [Build(sys.executable, module) for module in modules]
            took = times_of(builds, what, cell, shape, threads, seconds / PAIRS, least=3)
            for build in builds:
                build.close()
            ratios.append(round(float(np.median(took[:, 1] / took[:, 0])), 3))
            times.append(np.median(took[:, 0]))
        ratios.sort()
        yield {
            **{"row": what, "cell": cell, "shape": shape},
            "threads": threads,
            "us": round(float(np.median(times)) * 1e6, 1),
            "instead_over_chosen": ratios[PAIRS // 2],
            "pairs": ratios,
        }


def table_of(path: Path) -> str:
    """Bring results to a table: of each change the smallest, middle and largest ratio."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in path.read_text().splitlines()[1:]:
        row = json.loads(line)
        key = row["constant"], row["instead"]
        found.setdefault(key, []).append(row["instead_over_chosen"])
    lines = [
        "| constant | instead | rows | smallest | middle | largest |",
        "|---|---|---|---|---|---|",
    ]
    for (name, instead), ratios in found.items():
        ends = (min(ratios), float(np.median(ratios)), max(ratios))
        shown = " | ".join(f"{ratio:.2f}" for ratio in ends)
        lines.append(f"| {name} | {instead} | {len(ratios)} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Build all, then time all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--isa", help="the instruction set to build for")
    what.add_argument("--table", type=Path, help="print the table of these results, run nothing")
    parser.add_argument("--only", action="append", help="only constants of this name")
    parser.add_argument("--seconds", type=float, default=2.5, help="per row (default 2.5)")
    parser.add_argument("--keep", type=Path, help="folder for the builds")
    parser.add_argument("--build", action="store_true", help="build only")
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    given = parser.parse_args()
    if given.table:
        print(table_of(given.table), end="")
        return 0
    constants = [
        c
        for c in tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["constant"]
        if given.isa in c["isas"] and (not given.only or c["name"] in given.only)
    ]
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder / given.isa
        folder.mkdir(parents=True, exist_ok=True)
        tree = Tree(folder, given.isa)
        chosen = tree.module("chosen")
        pairs = [("nothing", "", chosen, constants[0]["rows"], 1)]
        for c in constants:
            for k, (label, text) in enumerate(c["instead"].items()):
                print(f"building {c['name']}: {label}", file=sys.stderr, flush=True)
                module = tree.module(f"{c['name']}-{k}", c["file"], c["text"], text)
                pairs.append((c["name"], label, module, c["rows"], c.get("threads", 1)))
        if given.build:
            return 0
        put = Lines()
        put(header(isa=given.isa))
        for name, label, module, rows, threads in pairs:
            for row in time_rows([chosen, module], rows, threads, given.seconds):
                put({"constant": name, "instead": label} | row)
        if given.out:
            put.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
