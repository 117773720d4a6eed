#!/usr/bin/env python3
"""Break the code on purpose, one line at a time, and report every break that no test notices.

Each `*.patch` beside this file is one mutant: some words on what it breaks, a line `Tests:` with
the pytest arguments that must fail on it, and the patch. It is applied to a copy of the tree, the
package is built there, and those tests are run. All of them must pass on the unbroken copy first.

    run.py                 all mutants
    run.py gates carry     those whose names hold one of these words

A mutant survives if its tests pass; this, and a patch that no longer applies or does not compile,
is a failure of this command. Run it with the Python of an environment that has the test extra.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# A mutant that hangs (a missing barrier, a lost wake-up) is as dead as one that fails.
LIMIT_SECONDS = 600

# pytest: 0 all passed, 1 some failed, anything else says nothing about the code.
PASSED, FAILED = 0, 1


@dataclass(frozen=True)
class Mutant:
    name: str
    what: str
    tests: tuple[str, ...]
    patch: Path

    @classmethod
    def read(cls, patch: Path) -> Mutant:
        head = patch.read_text("utf-8").split("\n--- a/", 1)[0]
        tests = re.search(r"^Tests: (.+)$", head, re.M)
        if tests is None:
            raise SystemExit(f"{patch.name}: no line `Tests:` before the patch")
        what = " ".join(head[: tests.start()].split())
        return cls(patch.stem, what, tuple(shlex.split(tests.group(1))), patch)

    @property
    def compiled(self) -> bool:
        return re.search(r"^\+\+\+ b/csrc/", self.patch.read_text("utf-8"), re.M) is not None


class Copy:
    """A copy of the working tree, with an environment of its own to build and test it in."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "tree"
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
            # A mutant may keep a file's size and second: cached bytecode would hide it.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )

    def build(self) -> subprocess.CompletedProcess[str]:
        """Install the copy in place; compiles only what changed since the last time."""
        return self.run(
            *(self.python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--editable", "."),
        )

    def test(self, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return self.run(
            *(self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests),
            limit=LIMIT_SECONDS,
        )

    def apply(self, mutant: Mutant, *options: str) -> subprocess.CompletedProcess[str]:
        # Outside a repository, or git would look for the files in the one above.
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(self.tree.parent)}
        return subprocess.run(
            ["git", "apply", *options, str(mutant.patch)],
            cwd=self.tree,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


def verdict(copy: Copy, mutant: Mutant) -> tuple[bool, str]:
    """Whether the mutant was noticed, and how it ended in words."""
    applied = copy.apply(mutant)
    if applied.returncode:
        return False, f"STALE: does not apply\n{applied.stderr}"
    try:
        if mutant.compiled:
            built = copy.build()
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
        reverted = copy.apply(mutant, "--reverse")
        if reverted.returncode:
            raise SystemExit(f"{mutant.name}: cannot be taken back\n{reverted.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Report the mutants that no test notices.")
    parser.add_argument("words", nargs="*", help="only mutants whose names hold one of these")
    words = parser.parse_args().words
    mutants = [Mutant.read(patch) for patch in sorted(HERE.glob("*.patch"))]
    mutants = [m for m in mutants if not words or any(word in m.name for word in words)]
    if not mutants:
        raise SystemExit("no mutant of that name")

    failures = []
    with tempfile.TemporaryDirectory(prefix="rnnfast-mutants.") as directory:
        copy = Copy(Path(directory))
        built = copy.build()
        if built.returncode:
            raise SystemExit(f"the unbroken tree does not build\n{built.stdout}")
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
