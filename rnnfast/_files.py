"""Writing a file so that a process killed at any moment leaves the old or the new one, whole."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_file"]


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one atomic step, forced to disk before this returns.

    Parameters
    ----------
    path : Path
        Its folder must exist. What was there stays until the new file is complete; a temporary
        file beside it, of the same name and ``.tmp``, may be left by a process that was killed.
    content : bytes
    """
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself is on disk before anything is built on it
    finally:
        os.close(directory)
