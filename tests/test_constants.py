"""The constants that `benchmarks/constants.py` changes are where it looks for them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import require

ROOT = Path(__file__).resolve().parent.parent
CONSTANTS = tomllib.loads((ROOT / "benchmarks" / "constants.toml").read_text())["constant"]


@pytest.mark.parametrize("constant", CONSTANTS, ids=lambda c: f"{c['name']}-{'-'.join(c['isas'])}")
def test_a_constant_stands_once_where_it_is_said_to(constant: dict[str, Any]) -> None:
    assert (ROOT / constant["file"]).read_text().count(constant["text"]) == 1
    for text in constant["instead"].values():
        assert text != constant["text"]
    for row in constant["rows"]:
        what, cell, sizes = row.split()
        assert what in ("inference", "forward+backward", "stream")
        assert cell in ("lstm", "gru", "rnn_tanh")
        assert len(sizes.split("x")) == 4


def test_the_table_of_the_documentation_is_that_of_the_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("core")  # the script's other half asks what machine this is
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import constants

    page = (ROOT / "docs" / "benchmarks.md").read_text()
    files = sorted((ROOT / "benchmarks" / "results").glob("constants-*.jsonl"))
    assert files
    for results in files:
        assert results.name in page
        assert constants.table_of(results) in page
