"""The breaks of tests/mutants fit the sources, which change more often than breaks are tried."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = runpy.run_path(str(ROOT / "tests/mutants/table.py"))["read_mutants"]()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_breaks_one_place(mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    broken = mutant.broken(text)
    assert broken is not None, "its words do not stand in the file exactly once"
    assert broken != text
