"""Processes that run the very package that the tests run, wherever they were started."""

import os
import sys
from pathlib import Path

import pytest

import rnnfast

PACKAGE = Path(rnnfast.__file__).absolute().parent.parent
# -P: the current folder, a clone perhaps whose package is not built, does not come first.
PYTHON = [sys.executable, "-P", "-W", "ignore"]


def environment(**more):
    """The environment of this process, with the package found first."""
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


PEAK = """
def peak():
    "The most memory that this process has had, in bytes."
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
"""


def peak_is_told():
    """Skip where PEAK tells nothing of ours."""
    own_allocator()
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system: it tells the memory of a process")


def own_allocator():
    """Skip where another library stands before the C library, as a sanitizer's does."""
    if "LD_PRELOAD" in os.environ:
        pytest.skip(f"LD_PRELOAD is {os.environ['LD_PRELOAD']}: the C library's malloc is replaced")
