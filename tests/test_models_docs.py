"""The examples in the docstrings of the models are true."""

import doctest
import importlib

import pytest
from conftest import require

require("models")

from rnnfast import models  # noqa: E402


@pytest.mark.parametrize("name", models.__all__)
def test_examples(name):
    module = importlib.import_module(getattr(models, name).__module__)
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0 or name == "SequenceRegressor"
