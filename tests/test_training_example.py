"""The example that README quotes runs, and learns."""

import re
import subprocess
from pathlib import Path

from processes import PYTHON, environment

EXAMPLE = Path(__file__).parent.parent / "examples" / "ten_lines.py"


def test_ten_lines_learn():
    run = subprocess.run(
        [*PYTHON, str(EXAMPLE)], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", run.stdout)]
    assert len(losses) == 6
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.05 * losses[0]
