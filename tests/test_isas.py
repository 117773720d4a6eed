"""The kernel tests again, in a process of its own for each other instruction set of this CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import require

core = require("core")
HERE = Path(__file__).parent


# `.ci/full grid` runs everything on each set; on every change there is time for the plain kernels
# and what masks draw.
OPTIONS = [pytest.param(f"options_{of}", marks=pytest.mark.slow) for of in ("kernels", "bits")]


@pytest.mark.parametrize("name", ["kernels", "masks", "bits", *OPTIONS])
@pytest.mark.parametrize("isa", [isa for isa in core.isas() if isa != core.isa()])
def test_other_instruction_sets(isa, name):
    file = str(HERE / f"test_{name}.py")
    run = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file],
        env={**os.environ, "RNNFAST_ISA": isa},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def ask(isa: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import rnnfast\nfrom rnnfast import _core\nprint(_core.isa())",
        ],
        env={**os.environ, "RNNFAST_ISA": isa},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("isa", core.isas())
def test_the_one_asked_for_runs(isa):
    assert ask(isa).stdout.split() == [isa]


def test_asking_for_what_is_not_there_is_an_error():
    run = ask("avx9")
    assert run.returncode != 0
    assert (
        f"RNNFAST_ISA=avx9 was asked for, this build and CPU offer {', '.join(core.isas())}."
        in run.stderr
    )
