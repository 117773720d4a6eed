"""What the reference gave, kept for the other processes of a test run.

test_isas.py runs files again in processes of their own, for other instruction sets. What they are
judged by is the same, and takes most of their time.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["begin", "remembered"]

Value = TypeVar("Value")
_FOLDER = "RNNFAST_TEST_MEMORY"


def begin() -> Callable[[], None]:
    """Make the memory of this run, unless another process of it has; return what removes it."""
    if _FOLDER in os.environ:
        return lambda: None
    os.environ[_FOLDER] = folder = tempfile.mkdtemp(prefix="rnnfast-tests-")

    def end() -> None:
        del os.environ[_FOLDER]
        shutil.rmtree(folder)

    return end


def remembered(key: tuple[object, ...], compute: Callable[[], Value]) -> Value:
    """Return what `compute` returns, or returned in another process of this run.

    Parameters
    ----------
    key : tuple
        All that the value depends on, told apart by its repr.
    compute : callable
    """
    name = hashlib.sha256(repr(key).encode()).hexdigest()
    path = Path(os.environ[_FOLDER], name)
    if path.exists():
        return pickle.loads(path.read_bytes())
    value = compute()
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    part.replace(path)
    return value
