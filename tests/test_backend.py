"""Which back end runs: asked for by name, chosen, absent, broken; threads; the log."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import require

import rnnfast
from rnnfast import ArgumentError, DeviceError, DTypeError, _backend

CALL = "rnnfast.gru(np.zeros((2, 1, 3)), np.zeros((12, 3)), np.zeros((12, 4)))"
HERE = Path(rnnfast.__file__).parent


def fresh(code: str, *flags: str, **changed: str | None) -> subprocess.CompletedProcess[str]:
    """A new interpreter that sees the package under test, in a changed environment."""
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, **changed}
    return subprocess.run(
        # -P: or the folder it runs in would come first, which may be that of the sources.
        [sys.executable, "-P", *flags, "-c", code],
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
    )


# The compiled module hidden, as where it was never built.
HIDDEN = "import sys; sys.modules['rnnfast._core'] = None; import numpy as np, rnnfast; "


def call(device: str) -> Any:
    return rnnfast.gru(np.zeros((2, 1, 3)), np.zeros((12, 3)), np.zeros((12, 4)), device=device)


def test_without_the_compiled_module_numpy_runs_and_says_so_once() -> None:
    code = f"{HIDDEN}{CALL}; {CALL}; rnnfast.LSTM(2, 3); print(rnnfast.last_kernel())"
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "gru.forward.f64.numpy"
    assert done.stderr.count("FallbackWarning") == 1
    assert (
        "rnnfast runs on NumPy, for the compiled module is absent: it is not built (no "
        f"rnnfast._core beside {HERE}); `pip install .` builds it. Results are the same, many "
        'times slower. device="numpy" asks for that without this warning.'
    ) in done.stderr


def test_importing_or_asking_for_numpy_says_nothing() -> None:
    done = fresh(HIDDEN + CALL.replace("4)))", "4)), device='numpy')"), "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")


def test_cpu_without_the_compiled_module_is_refused() -> None:
    code = HIDDEN + CALL.replace("4)))", "4)), device='cpu')")
    done = fresh(code)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        'DeviceError: rnnfast.gru: device="cpu" was asked for, but the compiled module is absent: '
        f"it is not built (no rnnfast._core beside {HERE}); `pip install .` builds it. "
        'device="numpy" runs without it.'
    )


BROKEN = (
    "import sys, importlib.abc, importlib.machinery\n"
    "class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):\n"
    "    def find_spec(self, name, path, target=None):\n"
    "        if name == 'rnnfast._core':\n"
    "            return importlib.machinery.ModuleSpec(name, self)\n"
    "    def create_module(self, spec):\n"
    "        raise ImportError('libfoo.so.1: cannot open shared object file')\n"
    "    def exec_module(self, module): pass\n"
    "sys.meta_path.insert(0, Broken())\n"
    "import numpy as np, rnnfast\n"
)


def test_a_module_that_does_not_load_is_named_with_its_cause() -> None:
    done = fresh(BROKEN + CALL, RNNFAST_ISA=None)
    assert done.returncode == 0, done.stderr
    assert "it does not load (libfoo.so.1: cannot open shared object file)" in done.stderr


def test_who_names_an_instruction_set_gets_no_fallback() -> None:
    done = fresh(BROKEN + CALL, RNNFAST_ISA="avx2")
    assert done.returncode == 1
    assert "ImportError: libfoo.so.1" in done.stderr


def test_an_unknown_instruction_set_fails_the_import() -> None:
    require("core")
    done = fresh("import rnnfast", RNNFAST_ISA="mmx")
    assert done.returncode == 1
    assert "RNNFAST_ISA=mmx" in done.stderr


# The CUDA module hidden, as where it was never built; or there, and broken.
NO_CUDA = "import sys; sys.modules['rnnfast._cuda'] = None; import numpy as np, rnnfast; "
ON_CUDA = CALL.replace("4)))", "4)), device='cuda')")


@pytest.mark.parametrize(
    ("built", "why"),
    [
        (
            "no: no CUDA compiler was found",
            "this build of rnnfast has no CUDA module: "
            "no CUDA compiler was found when it was built",
        ),
        (
            "no: RNNFAST_CUDA was OFF",
            "this build of rnnfast has no CUDA module: RNNFAST_CUDA was OFF when it was built",
        ),
        ("yes", f"rnnfast._cuda was built, but is not beside {HERE}"),
    ],
)
def test_cuda_that_was_not_built_names_the_cause_and_the_remedy(built: str, why: str) -> None:
    require("core")
    done = fresh(
        f"{NO_CUDA}from rnnfast import _backend; "
        f"_backend._core.build_info = lambda: {{'cuda': {built!r}}}; {ON_CUDA}"
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        f'DeviceError: rnnfast.gru: device="cuda" was asked for, but {why}. '
        'Use device="cpu" or "auto".'
    )


def test_the_build_says_whether_it_has_cuda() -> None:
    built = require("core").build_info()["cuda"]
    assert built in ("yes", "no: no CUDA compiler was found", "no: RNNFAST_CUDA was OFF")
    assert (built == "yes") == (importlib.util.find_spec("rnnfast._cuda") is not None)


def test_cuda_where_nothing_is_compiled() -> None:
    done = fresh(HIDDEN + "sys.modules['rnnfast._cuda'] = None; print(rnnfast.backends()['cuda'])")
    assert done.stdout.startswith("rnnfast is not compiled: it is not built (no rnnfast._core")


def test_cuda_that_does_not_load() -> None:
    done = fresh(BROKEN.replace("rnnfast._core", "rnnfast._cuda") + ON_CUDA)
    assert done.returncode == 1
    assert (
        "but rnnfast._cuda does not load (libfoo.so.1: cannot open shared object file). Use"
    ) in done.stderr


def test_cuda_is_loaded_when_first_asked_for() -> None:
    code = (
        f"import sys, numpy as np, rnnfast; {CALL}; print('rnnfast._cuda' in sys.modules)\n"
        "rnnfast.backends(); print('rnnfast._cuda' in sys.modules)"
    )
    found = importlib.util.find_spec("rnnfast._cuda") is not None
    assert fresh(code).stdout.split() == ["False", str(found)]


class Cuda:
    """A CUDA module of which only this is known."""

    def __init__(self, why: str | None) -> None:
        self.why_none = lambda: why


def test_cuda_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "there is no NVIDIA driver"
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (Cuda(why), None))
    text = f'device="cuda" was asked for, but {why}. Use device="cpu" or "auto".'
    with pytest.raises(DeviceError) as caught:
        call("cuda")
    assert str(caught.value) == f"rnnfast.gru: {text}"
    with pytest.raises(DeviceError) as caught:
        rnnfast.LSTM(2, 3, device="cuda")
    assert str(caught.value) == f"rnnfast.LSTM: {text}"
    assert rnnfast.backends()["cuda"] == why


@pytest.mark.parametrize("name", ["gpu", "", None, 3])
def test_an_unknown_device(name: Any) -> None:
    with pytest.raises(ArgumentError, match='expected "auto", "cpu"'):
        call(name)


def test_backends_are_listed_with_reasons() -> None:
    listed = rnnfast.backends()
    assert list(listed) == ["cpu", "cuda", "numpy"]
    assert listed["numpy"] is None
    assert listed["cuda"]
    assert (listed["cpu"] is None) == ("cpu" in _backend.compiled)


def test_the_choice_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(_backend, "_announced", set())
    with caplog.at_level(logging.DEBUG, logger="rnnfast"):
        rnnfast.RNN(2, 3, device="numpy")
        rnnfast.RNN(2, 3, device="numpy")
    assert [record.getMessage() for record in caplog.records] == ["device=numpy runs on numpy"]


def test_the_last_kernel_is_this_thread_s_own() -> None:
    call("numpy")
    seen = []

    def other() -> None:
        seen.append(rnnfast.last_kernel())
        rnnfast.LSTM(2, 3, device="numpy")(np.zeros((1, 1, 2), np.float32))
        seen.append(rnnfast.last_kernel())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == ["", "lstm.forward.f32.numpy"]
    assert rnnfast.last_kernel() == "gru.forward.f64.numpy"


def test_the_last_kernel_follows_the_back_end() -> None:
    core = require("core")
    call("cpu")
    assert rnnfast.last_kernel() == f"gru.forward.f64.{core.isa()}"
    call("numpy")
    assert rnnfast.last_kernel() == "gru.forward.f64.numpy"
    call("cpu")
    assert rnnfast.last_kernel() == f"gru.forward.f64.{core.isa()}"


def test_the_last_kernel_is_not_another_thread_s_back_end() -> None:
    core = require("core")
    call("cpu")
    thread = threading.Thread(target=call, args=("numpy",))
    thread.start()
    thread.join()
    assert rnnfast.last_kernel() == f"gru.forward.f64.{core.isa()}"


def test_number_of_threads() -> None:
    before = rnnfast.get_num_threads()
    try:
        for n in (1, 3, np.int64(2)):
            rnnfast.set_num_threads(n)
            assert rnnfast.get_num_threads() == n
        for n in (0, -1, 1025):
            with pytest.raises(ArgumentError, match=f"n is {n}, expected 1 "):
                rnnfast.set_num_threads(n)
        with pytest.raises(DTypeError, match="n is of type float, expected int"):
            rnnfast.set_num_threads(2.0)
        with pytest.raises(DTypeError, match="n is of type bool, expected int"):
            rnnfast.set_num_threads(True)
        assert rnnfast.get_num_threads() == 2
    finally:
        rnnfast.set_num_threads(before)


def test_number_of_threads_without_the_compiled_module() -> None:
    code = "rnnfast.set_num_threads(3); print(rnnfast.get_num_threads())"
    done = fresh(HIDDEN + code)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr
