"""``rnnfast info`` and ``check``: with and without the extras, with and without kernels."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import require
from processes import PYTHON, environment

import rnnfast
from rnnfast import _backend
from rnnfast.cli import check as check_module
from rnnfast.cli import main
from rnnfast.reference.yardstick import excess

EXTRAS = ("typer", "tqdm", "matplotlib", "safetensors", "rich")


def python(*arguments, **options):
    """Run the interpreter on the package under test."""
    return subprocess.run(
        [*PYTHON, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def without_extras(*arguments, **options):
    """Run a command line where none of the extras can be imported."""
    script = (
        f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS}))\n"
        "from rnnfast.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    return python("-c", script, *arguments, **options)


def test_info(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert f"rnnfast       {rnnfast.__version__}" in said
    assert f"NumPy         {np.__version__}" in said
    assert "device cuda   absent: " in said
    assert "device numpy  runs" in said
    reason = rnnfast.backends()["cpu"]
    assert ("device cpu    runs" in said) == (reason is None)
    if reason is None:
        assert f"ISA           {_backend.compiled['cpu'].isa()}," in said
    else:
        assert reason in said


def test_info_without_extras():
    run = without_extras("info")
    assert run.returncode == 0
    assert "rnnfast" in run.stdout
    assert run.stderr == ""


@pytest.mark.parametrize("command", ["train", "sample", "bench"])
def test_other_commands_say_what_to_install(command):
    for arguments in ([command], [command, "--out", "x"], [command, "--help"]):
        run = without_extras(*arguments)
        assert run.returncode == 1
        assert run.stderr == (
            f"rnnfast {command} needs typer, which is not installed. "
            'Install it with: pip install "rnnfast[cli]"\n'
        )


def test_help_without_extras():
    run = without_extras("--help")
    assert run.returncode == 0
    for word in ("info", "check", "train", "bench", 'pip install "rnnfast[cli]"'):
        assert word in " ".join(run.stdout.split())
    assert without_extras("info", "--nonsense").returncode == 2
    assert without_extras("nonsense").returncode == 2
    assert without_extras().returncode == 2


def test_help_with_extras(capsys):
    require("cli")
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in ("train", "sample", "bench", "info", "check"))
    assert main(["nonsense"]) == 2


def test_importing_brings_none_of_the_extras():
    script = (
        "import sys, rnnfast, rnnfast.training, rnnfast.cli\n"
        f"print([name for name in {EXTRAS} if name in sys.modules])\n"
    )
    run = python("-c", script)
    assert run.stdout == "[]\n", run.stderr


def test_as_a_module():
    run = python("-m", "rnnfast", "info")
    assert run.returncode == 0, run.stderr


def test_a_reader_that_leaves():
    with subprocess.Popen(
        [*PYTHON, "-m", "rnnfast", "info"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        assert process.wait(60) in (0, 1)  # 0: all had been written before the pipe broke
        assert "BrokenPipe" not in process.stderr.read()


def test_check_without_kernels(monkeypatch, capsys):
    monkeypatch.setattr(_backend, "backends", lambda: {"cpu": "it is not built"})
    assert main(["check"]) == 1
    assert "There is no kernel to check: it is not built." in capsys.readouterr().err


def test_check_finds_every_kernel_good(tmp_path):
    """Without the extras, and not misled by a package that lies around, as in an unbuilt clone."""
    core = require("core")
    (tmp_path / "rnnfast").mkdir()
    (tmp_path / "rnnfast" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    run = without_extras("check", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    for isa in core.isas():
        for cell in (*rnnfast.CELLS, "linear"):
            for passed in ("forward", "backward"):
                for dtype in ("f32", "f64"):
                    assert f"\n{cell}.{passed}.{dtype}.{isa} " in run.stdout
    assert run.stdout.count("  ok\n") == len(core.isas()) * (len(rnnfast.CELLS) + 1) * 4
    assert "all good" in run.stdout


@pytest.mark.parametrize("trouble", ["wrong", "crash", "silent"])
def test_check_reports_bad_kernels(trouble, monkeypatch, capsys):
    """The worker is replaced by one whose kernels are wrong, or that dies."""
    core = require("core")
    line = json.dumps(["lstm.forward.f32.x", 3, 1.5, "y of T=1"])
    scripts = {
        "wrong": f"print({line!r})",
        "crash": "import os; os.kill(os.getpid(), 9)",
        "silent": "raise SystemExit('kernel x was called, y ran')",
    }
    real = subprocess.run

    def run(command, **options):
        return real([sys.executable, "-c", scripts[trouble]], **options)

    monkeypatch.setattr(check_module.subprocess, "run", run)
    assert main(["check"]) == 1
    said = capsys.readouterr().out
    expected = {
        "wrong": "FAILED at y of T=1",
        "crash": "FAILED: exit status -9, no message",
        "silent": "FAILED: exit status 1, kernel x was called, y ran",
    }
    assert said.count(expected[trouble]) == len(core.isas())
    assert f"{len(core.isas())} FAILED" in said


def test_the_worker_sees_a_wrong_kernel():
    """One weight of a compiled call off by a hundredth: far outside the yardstick."""
    core = require("core")
    script = (
        "import sys, numpy as np\n"
        "from rnnfast import ops\n"
        "from rnnfast.cli import check_kernels\n"
        "real = ops.gru_forward\n"
        "def wrong(x, W, *rest, **options):\n"
        "    W = W.copy(); W[0, 0] += 0.01\n"
        "    return real(x, W, *rest, **options)\n"
        "ops.gru_forward = wrong\n"
        "check_kernels.SHAPES = check_kernels.SHAPES[:1]\n"
        "sys.exit(check_kernels.main())\n"
    )
    run = python("-c", script, core.isa())
    assert run.returncode == 0, run.stderr
    ratios = {name: ratio for name, _, ratio, _ in map(json.loads, run.stdout.splitlines())}
    for name, ratio in ratios.items():
        assert (ratio > 100) == name.startswith("gru."), name


def test_the_worker_runs_the_kernels_it_names():
    require("core")
    other = "avx512" if _backend.compiled["cpu"].isa() != "avx512" else "baseline"
    run = python("-m", "rnnfast.cli.check_kernels", other)
    assert run.returncode != 0
    assert f".{other} was called, " in run.stderr


def test_yardstick():
    ref = np.array([[1.0, 2.0], [3.0, 4.0], [0.5, 0.25]], np.longdouble)
    exact = ref.astype(np.float32)
    assert excess(exact, exact, ref, 4) == 0
    assert excess(exact[:0], exact[:0], ref[:0], 4) == 0
    eps = np.finfo(np.float32).eps
    off = exact.copy()
    off[2, 0] += 8 * eps * 0.5
    assert excess(off, exact, ref, 4) == pytest.approx(2, rel=1e-3)
    assert excess(off, exact, ref, 4, time=1) == pytest.approx(0.25, rel=1e-3)  # the 4 before
    assert excess(off, exact, ref, 4, time=-1) == pytest.approx(2, rel=1e-3)
    assert excess(off, off, ref, 4) == pytest.approx(4 / (8 + 2), rel=1e-2)
    assert excess(np.full_like(exact, np.nan), exact, ref, 4) == np.inf
