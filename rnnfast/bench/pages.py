"""Pages that hold tables and summaries of results between two comments."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ..errors import ArgumentError
from . import report, results
from .summary import summary

__all__ = ["MARK", "fill"]

MARK = re.compile(
    r"(?P<begin><!-- rnnfast bench (?P<what>table|summary) (?P<arguments>[^\n]*?) -->\n).*?"
    r"(?P<end><!-- end of (?P=what) -->)",
    re.DOTALL,
)
"""Where a page has one: the comment holds the arguments of the command that makes it."""
NONE_YET = "No results of the suite are there yet.\n"


def fill(page: Path) -> str:
    """Return a page with every table and summary in it made anew from its results.

    Parameters
    ----------
    page : Path
        Has comments ``<!-- rnnfast bench table FILE [--rows PATTERN]... -->`` and ``<!-- end of
        table -->``, or ``<!-- rnnfast bench summary FILE -->`` and ``<!-- end of summary -->``;
        what is between them is replaced. FILE is relative to the page; one that is not there gives
        a sentence that says so.

    Raises
    ------
    ArgumentError
        If the page has no such comments, or they cannot be followed.
    """

    def made(match: re.Match[str]) -> str:
        file, *rest = shlex.split(match["arguments"])
        table = match["what"] == "table"
        if rest[::2] != ["--rows"] * (len(rest) // 2) or len(rest) % 2 or (rest and not table):
            raise ArgumentError(
                f"rnnfast bench {match['what']}: {page} asks for {match['arguments']!r}, expected "
                f"FILE{' [--rows PATTERN]...' if table else ''}"
            )
        path = page.parent / file
        content = NONE_YET
        if path.exists():
            found = results.read(path)
            content = report.table(found, rest[1::2]) if table else summary(found)
        return f"{match['begin']}\n{content}\n{match['end']}"

    text = page.read_text("utf-8")
    if not MARK.search(text):
        raise ArgumentError(
            f"rnnfast bench table: {page} has no comment <!-- rnnfast bench table FILE --> with "
            "<!-- end of table --> after it, nor one of summary."
        )
    return MARK.sub(made, text)
