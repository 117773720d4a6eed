"""benchmarks/ladder builds, every rung of it is right, and its page knows them."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

CXX = os.environ.get("CXX", "g++")
pytestmark = pytest.mark.skipif(shutil.which(CXX) is None, reason=f"no C++ compiler: {CXX}")

LADDER = Path(__file__).resolve().parent.parent / "benchmarks" / "ladder"
spec = importlib.util.spec_from_file_location("ladder_run", LADDER / "run.py")
ladder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ladder)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return ladder.build(tmp_path_factory.mktemp("ladder"))


# One row, an odd number of panels; panels shared by threads; rows shared, in chunks; one step.
@pytest.mark.parametrize("shape", ["3x1x5x48", "2x7x70x80", "25x9x3x16", "1x1x1x16"])
def test_every_rung_is_right(program, shape):
    """The program ends with an error where one is not."""
    rows = ladder.run(program, shape, 0.0005, 2)
    rungs = [row for row in rows if row["row"] == "rung"]
    assert [row["rung"][0] for row in rungs] == [*"01234567", "l", "l"]
    for row in rungs:
        assert 0 <= row["error"] <= 1, row
        assert min(row["us"], row["gain"], row["of_limit"]) > 0, row
    assert [row["threads"] for row in rows if row["row"] == "limit"] == [1, 2]
    text = ladder.table(rows)
    assert all(row["rung"] in text for row in rungs)
    page = (LADDER / "README.md").read_text()
    assert all(row["rung"] in page for row in rungs)


@pytest.mark.parametrize("shape", ["3x1x5x20", "3x0x5x16", "3x1x5"])
def test_sizes_that_it_does_not_do(program, shape):
    with pytest.raises(subprocess.CalledProcessError):
        ladder.run(program, shape)
