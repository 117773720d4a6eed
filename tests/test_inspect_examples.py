"""The programs about what is inside a layer run, and assert what they print."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import require
from processes import PYTHON, environment

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, *arguments: str) -> str:
    command = [*PYTHON, str(ROOT / "examples" / name), *arguments]
    # Networks this small gain nothing from a second thread, and lose on a busy machine.
    settings = environment(MPLBACKEND="Agg", RNNFAST_NUM_THREADS="1")
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_memory_gap_draws_the_pictures_of_the_guide(tmp_path: Path) -> None:
    require("cli")
    printed = run("memory_gap.py", str(tmp_path))
    assert printed.count("gap 60: ") == 4
    drawn = {path.name for path in tmp_path.iterdir()}
    kept = {path.name for path in (ROOT / "docs" / "images").iterdir()}
    page = (ROOT / "docs" / "inspect.md").read_text("utf-8")
    assert drawn
    assert drawn <= kept
    for name in drawn:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"](images/{name})" in page


def test_numpy_rnn() -> None:
    require("core")  # against NumPy there is nothing to be faster with
    printed = run("numpy_rnn.py")
    assert printed.count("of what the yardstick allows") == 6
    assert printed.count("times faster than the class") == 2
