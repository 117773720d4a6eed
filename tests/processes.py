"""Processes that run the very package that the tests run, wherever they were started."""

import os
import sys
from pathlib import Path

import rnnfast

PACKAGE = Path(rnnfast.__file__).absolute().parent.parent
# -P: the current folder, a clone perhaps whose package is not built, does not come first.
PYTHON = [sys.executable, "-P", "-W", "ignore"]


def environment(**more):
    """The environment of this process, with the package found first."""
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}
