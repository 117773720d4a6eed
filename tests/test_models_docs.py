"""What docs/models.md and the docstrings of the models show is true."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
from conftest import require

require("models")

from rnnfast import models  # noqa: E402

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "models.md").read_text("utf-8")


@pytest.mark.parametrize("name", models.__all__)
def test_docstrings(name):
    module = importlib.import_module(getattr(models, name).__module__)
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0 or name in ("SequenceRegressor", "SequenceModel")


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```py\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == 6
    names = {}
    for block in blocks:
        exec(block, names)


def test_the_page_names_every_model_and_program():
    kinds = {name for name in models.__all__ if hasattr(getattr(models, name), "predict")}
    assert kinds == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M))
    for path in re.findall(r"\]\(\.\./(examples/\w+\.py)\)", PAGE):
        assert "rnnfast" in (ROOT / path).read_text("utf-8")


@pytest.mark.parametrize("name", [n for n in models.__all__ if hasattr(getattr(models, n), "fit")])
def test_every_parameter_is_documented(name):
    kind = getattr(models, name)
    docs = "\n".join(base.__doc__ or "" for base in kind.__mro__)
    for parameter in inspect.signature(kind).parameters:
        assert re.search(rf"^ +(\w+, )*{parameter}(, \w+)* : ", docs, re.M), parameter
