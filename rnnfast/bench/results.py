"""The file of a run: one line of JSON per finding, written whole or not at all.

The first line of each run into the file is ``{"kind": "machine", ...}``. Then there is one
``{"kind": "row", ...}`` per row, of which the last with an id counts; before the first row that
they belong to, ``{"kind": "peaks", ...}`` per number of threads and ``{"kind": "peer", "name": ...,
"versions": {...}}``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from .grid import GRID

__all__ = ["Results", "append", "read"]


@dataclass
class Results:
    """What a file holds.

    Attributes
    ----------
    machines : list of dict
        One per run into the file.
    peaks : dict of int to dict
        By number of threads, the last ones.
    versions : dict of str to dict of str to str
        By peer, the last ones.
    rows : dict of str to dict
        By id, in the order of the grid; rows of an older grid come last.
    """

    machines: list[dict[str, Any]] = field(default_factory=list)
    peaks: dict[int, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add a line: by a single write, forced to disk before this returns."""
    line = (json.dumps(entry, allow_nan=False) + "\n").encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(file).st_size
        if os.write(file, line) != len(line):
            os.ftruncate(file, before)  # a full disk: rather no line than half of one
            raise OSError(f"{path}: the line was not written whole; the file is as it was.")
        os.fsync(file)
    finally:
        os.close(file)


def read(path: Path) -> Results:
    """Read a file of results.

    Raises
    ------
    ArgumentError
        If there is none, or a line is not one of ours; names the line.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"rnnfast bench: {path} cannot be read: {error}.") from error
    results = Results()
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            entry = json.loads(line)
            kind = entry["kind"]
            if not line.endswith("\n"):
                raise ValueError("it has no end")
            if kind == "row":
                results.rows[entry["id"]] = entry
            elif kind == "peaks":
                results.peaks[entry["threads"]] = entry
            elif kind == "peer":
                results.versions[entry["name"]] = entry["versions"]
            elif kind == "machine":
                results.machines.append(entry)
            else:
                raise ValueError(f"unknown kind {kind!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ArgumentError(
                f"rnnfast bench: {path}, line {number} is not a line of results: {error!r}. "
                "Each is one JSON object with a kind: machine, peaks, peer or row."
            ) from error
    place = {row.id: k for k, row in enumerate(GRID)}
    ids = sorted(results.rows, key=lambda id: place.get(id, len(GRID)))
    results.rows = {id: results.rows[id] for id in ids}
    return results
