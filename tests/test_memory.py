"""Resident memory stays flat over many calls of random shapes and options."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import require
from processes import environment, own_allocator

core = require("core")


def test_memory_stays_flat() -> None:
    """Small calls of functions, layers and streams, by the rule of the benchmark: 2 MiB.

    In a process of its own, for what other tests leave behind moves too. A leak of 3 KiB a call,
    as y of such a call is on average, would be 3 MiB; what moves without one is below 0.5 MiB.
    """
    own_allocator()
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("no /proc/self/smaps_rollup on this system: it tells what of memory is ours")
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("not glibc: what it holds unused could not be given back before a look")
    program = Path(__file__).resolve().parent.parent / "benchmarks" / "memory.py"
    command = [sys.executable, "-W", "error", str(program), "--small", "--calls", "1500"]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
