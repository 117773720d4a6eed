"""What README and docs say is run, looked up or compared with the code here."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page that are fenced as `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


PYTHON_BLOCKS = [
    pytest.param(block, id=f"{name(page)}-{n}")
    for page in PAGES
    for n, block in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_python_blocks_run(block: str, tmp_path: Path) -> None:
    """Each block of Python stands alone: a reader may paste it."""
    command = [sys.executable, "-c", block]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert run.returncode == 0, run.stderr


def test_there_is_something_to_run() -> None:
    pages = {page for page in PAGES if blocks(page, "python")}
    cells = set(ROOT.glob("docs/cells/*.md"))
    options = set(ROOT.glob("docs/options/*.md")) - {ROOT / "docs" / "options" / "README.md"}
    assert cells
    assert options
    assert {*cells, *options, ROOT / "README.md"} <= pages


def test_readme_shows_the_example_file() -> None:
    example = (ROOT / "examples" / "ten_lines.py").read_text("utf-8")
    assert example in blocks(ROOT / "README.md", "python")


def test_readme_begins_with_the_two_commands() -> None:
    """CI runs the second as it stands; each is one line for the clipboard."""
    first, second = blocks(ROOT / "README.md", "sh")[:2]
    assert len(first.splitlines()) == len(second.splitlines()) == 1
    assert "-m venv" in first
    assert first.rstrip().endswith("rnnfast train")
    assert "-m venv" in second
    assert "bin/pytest" in second


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        path = target.split("#")[0]
        if path and "://" not in target:
            assert (page.parent / path).exists(), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_exist(page: Path) -> None:
    """A path in backticks that begins with one of our folders is a file or folder of ours."""
    own = r"`((?:csrc|rnnfast|tests|docs|examples|benchmarks|\.ci)/[\w./-]*)`"
    for path in re.findall(own, page.read_text("utf-8")):
        assert (ROOT / path).exists(), f"{name(page)} names {path}"


def test_every_environment_variable_is_documented_and_none_that_is_not_read() -> None:
    read = re.compile(
        r"""(?:getenv\(|environ\.get\(|environ\[|environment\()\s*["'](RNNFAST_[A-Z_]+)["']"""
    )
    sources = [
        *ROOT.glob("csrc/**/*.h"),
        *ROOT.glob("csrc/**/*.cpp"),
        *ROOT.glob("rnnfast/**/*.py"),
        ROOT / "tests" / "conftest.py",
    ]
    in_code = {found for path in sources for found in read.findall(path.read_text("utf-8"))}
    page = (ROOT / "docs" / "environment.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `(RNNFAST_[A-Z_]+)` \|", page, re.M))
    assert in_code
    assert in_code == documented


def test_every_cell_has_its_page() -> None:
    import rnnfast.cells

    pages = {page.stem for page in ROOT.glob("docs/cells/*.md")}
    functions = {spec.function for spec in rnnfast.cells.CELLS.values()}
    assert functions == pages


def test_every_option_is_on_a_page() -> None:
    """Of the options of calls, and of those constructors that are about the scan."""
    import rnnfast.options

    kinds = (getattr(rnnfast.options, name) for name in rnnfast.options.__all__)
    options = {name for kind in kinds for name in kind.__annotations__} - {"device", "dtype"}
    pages = [page.read_text("utf-8") for page in ROOT.glob("docs/options/*.md")]
    named = set(re.findall(r"`(\w+)(?:=[^`]*)?`", "\n".join(pages)))
    assert "reset" in options
    assert options <= named, options - named


def test_costs_of_options_are_those_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each table has what the results behind it generate, and each row of them has a table."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tables = importlib.import_module("options_tables")
    options = importlib.import_module("options")
    index = (tables.PAGES / "README.md").read_text("utf-8")
    (named,) = set(re.findall(r"benchmarks/results/(options-[\w.-]+\.jsonl)", index))
    rows = tables.read(ROOT / "benchmarks" / "results" / named)
    for name in tables.ROWS:
        page = tables.PAGES / name
        assert page.read_text("utf-8") == tables.filled(page, rows), name
    shown = {row for of_page in tables.ROWS.values() for row in of_page.values()}
    assert shown == set(options.variants((4, 2, 1, 3), "lstm")) - {"plain"}
