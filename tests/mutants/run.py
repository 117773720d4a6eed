#!/usr/bin/env python3
"""Break the code on purpose, one line at a time, and report every break that no test notices.

`mutants.toml` beside this file lists the breaks: what each is, the file, the words that are
replaced and by what, and the pytest arguments that must fail on it. Each is made in a copy of the
tree, the package is built there, and those tests are run. All of them must pass on the unbroken
copy first.

    run.py                 all mutants
    run.py gates carry     those whose names hold one of these words

A mutant survives if its tests pass; this, and one whose words are no longer found (white space
aside, so that formatting changes nothing) or that does not compile, is a failure of this command.
Run it with the Python of an environment that has rnnfast with its test extra and
.ci/requirements-build.txt.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pybind11
from table import Mutant, read_mutants

import rnnfast

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# A mutant that hangs (a missing barrier, a lost wake-up) is as dead as one that fails.
LIMIT_SECONDS = 600

# The one that is built, the best this CPU has: as wide as what users run.
ISA = rnnfast._core.isa()

# pytest: 0 all passed, 1 some failed, anything else says nothing about the code.
PASSED, FAILED = 0, 1


class Copy:
    """A copy of the working tree, with an environment of its own to build and test it in."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "tree"
        self.twin = directory / "build" / "twin"
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout
        for name in names.decode().split("\0"):
            if name and (ROOT / name).is_file():
                target = self.tree / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
        environment = directory / "venv"
        # The tools come from the environment that runs this; only rnnfast itself is the copy's.
        subprocess.run(
            [sys.executable, "-m", "venv", "--system-site-packages", str(environment)], check=True
        )
        self.python = str(environment / "bin" / "python")
        site = subprocess.run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        parent = [path for path in sys.path if path.endswith("site-packages")]
        (Path(site) / "parent.pth").write_text("\n".join(parent) + "\n", "utf-8")

    def run(self, *command: str, limit: float | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.tree,
            env={
                **os.environ,
                # CMake and Ninja of the environment that runs this.
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                # A mutant may keep a file's size and second: cached bytecode would hide it.
                "PYTHONDONTWRITEBYTECODE": "1",
                "RNNFAST_TEST_TWIN": str(self.twin),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )

    def build(self) -> subprocess.CompletedProcess[str]:
        """Install the copy in place; compiles only what changed since the last time.

        Optimised little and for one instruction set, since the compiler is what takes the time:
        bits do not depend on the first, and the source is the same for all of the second.
        """
        return self.run(
            *(self.python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"),
            "--config-settings=cmake.build-type=RelWithDebInfo",
            "--config-settings=cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1",
            "--config-settings=cmake.define.RNNFAST_CUDA=OFF",
            f"--config-settings=cmake.define.RNNFAST_ISAS={ISA}",
            *("--editable", "."),
        )

    def build_twin(self) -> subprocess.CompletedProcess[str]:
        """Compile the CUDA module for the CPU."""
        build = str(self.twin.parent)
        made = self.run(
            *("cmake", "-S", str(self.tree), "-B", build, "-G", "Ninja", "-DRNNFAST_CUDA=OFF"),
            *("-DRNNFAST_CUDA_TWIN=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"),
            *("-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1", f"-DPython_EXECUTABLE={self.python}"),
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        )
        if made.returncode:
            return made
        return self.run("cmake", "--build", build, "--target", "rnnfast_cuda_twin")

    def test(self, tests: str) -> subprocess.CompletedProcess[str]:
        """Run pytest with these arguments, up to the first failure."""
        return self.run(
            *(self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
            *shlex.split(tests),
            limit=LIMIT_SECONDS,
        )


def verdict(copy: Copy, mutant: Mutant) -> tuple[bool, str]:
    """Return whether the mutant was noticed, and how it ended in words."""
    path = copy.tree / mutant.file
    whole = path.read_text("utf-8")
    broken = mutant.broken(whole)
    if broken is None:
        return False, "STALE: its words do not stand in the file exactly once"
    path.write_text(broken, "utf-8")
    try:
        if mutant.compiled or mutant.cuda:
            built = copy.build_twin() if mutant.cuda else copy.build()
            if built.returncode:
                return False, f"BROKEN: does not compile\n{built.stdout[-2000:]}"
        try:
            tested = copy.test(mutant.tests)
        except subprocess.TimeoutExpired:
            return True, "killed (hung)"
        if tested.returncode == PASSED:
            return False, "SURVIVED"
        # A crash of the interpreter ends by a signal, which is a negative status.
        if tested.returncode == FAILED or tested.returncode < 0:
            return True, "killed"
        return False, f"BROKEN: pytest ended with {tested.returncode}\n{tested.stdout[-2000:]}"
    finally:
        path.write_text(whole, "utf-8")


def main() -> int:
    """Try the mutants asked for; the status is 1 if one is not noticed."""
    parser = argparse.ArgumentParser(description="Report the mutants that no test notices.")
    parser.add_argument("words", nargs="*", help="only mutants whose names hold one of these")
    words = parser.parse_args().words
    mutants = [m for m in read_mutants() if not words or any(word in m.name for word in words)]
    if not mutants:
        raise SystemExit("no mutant of that name")

    failures = []
    with tempfile.TemporaryDirectory(prefix="rnnfast-mutants.") as directory:
        copy = Copy(Path(directory))
        built = copy.build()
        if built.returncode:
            raise SystemExit(f"the unbroken tree does not build\n{built.stdout}")
        if any(mutant.on_twin for mutant in mutants):
            built = copy.build_twin()
            if built.returncode:
                raise SystemExit(f"the unbroken CUDA module does not build\n{built.stdout}")
        for tests in sorted({mutant.tests for mutant in mutants}):
            tested = copy.test(tests)
            if tested.returncode != PASSED:
                raise SystemExit(f"the unbroken tree fails {tests}\n{tested.stdout[-4000:]}")
        for mutant in mutants:
            start = time.monotonic()
            noticed, ending = verdict(copy, mutant)
            print(f"{mutant.name:32} {time.monotonic() - start:5.0f} s  {ending}", flush=True)
            if not noticed:
                failures.append(mutant)
    for mutant in failures:
        print(f"{mutant.name}: {mutant.what}")
    print(f"mutants: {len(mutants)} tried, {len(failures)} not noticed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
