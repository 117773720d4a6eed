"""``rnnfast check``: every kernel that is built, against the reference, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import _backend


def check() -> int:
    """Check all kernels on every instruction set of this CPU and print a table.

    Returns
    -------
    int
        0 if every kernel keeps the yardstick; 1 if one does not, or crashes, or none is built.
    """
    reason = _backend.backends()["cpu"]
    if reason is not None:
        print(f"There is no kernel to check: {reason}.", file=sys.stderr)
        return 1
    began = time.monotonic()
    isas = _backend.compiled["cpu"].isas()
    print("Worst error of each kernel, as a share of what the yardstick grants.\n")
    print(f"{'kernel':<34}{'arrays':>8}{'worst':>9}")
    checked, failed = 0, 0
    with ThreadPoolExecutor() as pool:
        results = pool.map(_in_a_process_of_its_own, isas)
    for isa, (findings, trouble) in zip(isas, results, strict=True):
        for name, arrays, worst, where in findings:
            good = worst <= 1
            checked, failed = checked + 1, failed + (not good)
            print(f"{name:<34}{arrays:>8}{worst:>9.2f}  {'ok' if good else f'FAILED at {where}'}")
        if trouble:
            failed += 1
            print(f"{'*.' + isa:<34}{'':>8}{'':>9}  FAILED: {trouble}")
    seconds = time.monotonic() - began
    verdict = f"{failed} FAILED" if failed else "all good"
    print(f"\n{checked} kernels on {', '.join(isas)}: {verdict}; {seconds:.1f} seconds.")
    return 1 if failed else 0


def _in_a_process_of_its_own(isa: str) -> tuple[list[tuple[str, int, float, str]], str | None]:
    """Judge the kernels of one instruction set, which a process chooses when it starts."""
    # The child must run this very package, not one that lies in the current folder.
    paths = [str(Path(__file__).absolute().parents[2]), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "rnnfast.cli.check_kernels", isa],
        env={**os.environ, "RNNFAST_ISA": isa, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    findings = [tuple(json.loads(line)) for line in lines]
    if done.returncode == 0:
        return findings, None
    last = done.stderr.strip().splitlines()
    return findings, f"exit status {done.returncode}, {last[-1] if last else 'no message'}"
