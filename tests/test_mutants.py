"""The breaks of tests/mutants fit the sources, which change more often than breaks are tried."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _mutants() -> list:
    spec = importlib.util.spec_from_file_location("mutants_table", ROOT / "tests/mutants/table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its annotations
    spec.loader.exec_module(module)
    return module.read_mutants()


@pytest.mark.parametrize("mutant", _mutants(), ids=lambda mutant: mutant.name)
def test_it_breaks_one_place(mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    broken = mutant.broken(text)
    assert broken is not None, "its words do not stand in the file exactly once"
    assert broken != text
