"""Threads: any number of callers at once, forks, and one OpenMP runtime for all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import require
from problems import CELL_NAMES, make

import rnnfast

core = require("core")
ROOT = Path(__file__).parent.parent


def python(code: str, **environment: str | None) -> subprocess.CompletedProcess:
    """Run code in a fresh process, away from the source tree, with 60 seconds to end.

    A variable that is None is taken out of the environment.
    """
    variables = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=60,
    )


# A call that takes two threads: enough work, few rows.
USE_THREADS = """
import numpy as np, rnnfast
layer = rnnfast.LSTM(64, 256, seed=0)
rnnfast.set_num_threads(2)
x = np.ones((20, 1, 64), np.float32)
def run():
    y, _, tape = layer.forward(x)
    return y.tobytes() + layer.backward(tape, np.ones_like(y)).x.tobytes()
first = run()
"""


def test_many_callers_at_once():
    """Each of eight Python threads gets the bits that it gets alone."""
    problems = [make(cell, 30, 3, 20, 40).astype(np.float32) for cell in CELL_NAMES] * 2
    alone = [p.run(device="cpu", threads=2) for p in problems]
    wrong: list[str] = []

    def work(problem, expected):
        for _ in range(20):
            got = problem.run(device="cpu", threads=2)
            wrong.extend(
                name
                for name, value in expected.items()
                if value is not None and got[name].tobytes() != value.tobytes()
            )

    callers = [
        threading.Thread(target=work, args=pair) for pair in zip(problems, alone, strict=True)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("options", ["none", "mask", "flat"])
@pytest.mark.parametrize(("B", "H"), [(9, 130), (60, 256)])
def test_states_copied_together(cell, bidirectional, options, B, H):
    """States and gates that are large enough for several threads are the same by one."""
    # 280 KiB of each, and neither steps nor rows are even; 3.6 MiB, written past the caches.
    T, I = 61, 3
    spec = rnnfast.CELLS[cell]
    kind = getattr(rnnfast, spec.function.upper())
    layer = kind(I, H, **spec.options, bidirectional=bidirectional, seed=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, B, I), dtype=np.float32)
    given: dict[str, np.ndarray] = {}
    if options == "mask":
        given = {"mask": rng.random((T, B)) < 0.8}
    elif options == "flat":
        x = x.reshape(T * B, I)
        given = {"cu_seqlens": np.array([0, 7, *range(300, T * B, 60), T * B])}
    y, _, tape = layer.forward(x, **given)
    before = rnnfast.get_num_threads()
    kept = []
    try:
        for threads in (1, 2, 3):
            rnnfast.set_num_threads(threads)
            kept.append(tape.states())
    finally:
        rnnfast.set_num_threads(before)
    for states in kept[1:]:
        for one, other in zip(kept[0], states, strict=True):
            assert one is None or one.tobytes() == other.tobytes()
    h = np.moveaxis(y.reshape(*y.shape[:-1], -1, H), -2, 0)
    assert np.array_equal(kept[1].h, h)
    if options == "none":
        few = layer.forward(x[:, :4])[2].states()
        for whole, part in zip(kept[0], few, strict=True):
            assert whole is None or np.array_equal(whole[:, :, :4], part)


def test_long_calls_release_the_interpreter():
    problem = make("lstm", 400, 16, 64, 200).astype(np.float32)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    other = threading.Thread(target=tick)
    other.start()
    time.sleep(0.02)
    start = time.perf_counter()
    problem.forward(device="cpu", threads=1)
    end = time.perf_counter()
    done.set()
    other.join()
    assert sum(start < t < end for t in ticks) >= 3


@pytest.mark.parametrize("method", ["fork before", "fork after"])
def test_a_forked_child_works(method):
    """Threads do not survive a fork: a child that asks for them must neither hang nor differ."""
    code = USE_THREADS if method == "fork after" else "first = None\n"
    code += (
        """
import os, sys
child = os.fork()
if child == 0:
"""
        + "".join(f"    {line}\n" for line in USE_THREADS.splitlines() if "first =" not in line)
        + """
    second = run()
    os._exit(0 if second == run() and first in (None, second) else 3)
_, status = os.waitpid(child, 0)
if first is not None:
    assert run() == first
sys.exit(os.waitstatus_to_exitcode(status))
"""
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_number_of_threads():
    before = rnnfast.get_num_threads()
    try:
        rnnfast.set_num_threads(3)
        assert rnnfast.get_num_threads() == 3
    finally:
        rnnfast.set_num_threads(before)
    code = "import rnnfast; print(rnnfast.get_num_threads())"
    assert python(code, RNNFAST_NUM_THREADS="5").stdout.strip() == "5"
    bad = python(code, RNNFAST_NUM_THREADS="many")
    assert bad.returncode != 0
    assert "RNNFAST_NUM_THREADS is 'many', expected a whole number from 1 to 1024" in bad.stderr


def test_the_number_of_threads_respects_affinity():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import rnnfast
print(rnnfast.get_num_threads())
"""
    assert python(code, RNNFAST_NUM_THREADS=None).stdout.strip() == "1"


def test_more_threads_than_cores():
    problem = make("gru", 40, 2, 9, 130).astype(np.float32)
    one = problem.run(device="cpu", threads=1)
    many = problem.run(device="cpu", threads=9)
    for name, value in one.items():
        if value is not None:
            assert many[name].tobytes() == value.tobytes()


def test_both_cores_are_used():
    """A call on two threads spends more CPU time than wall time, whatever team it runs on."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this process may run on one core only")
    problem = make("lstm", 60, 64, 64, 256).astype(np.float32)
    problem.forward(device="cpu", threads=2)
    before = os.times()
    for _ in range(3):
        problem.forward(device="cpu", threads=2)
    after = os.times()
    used = after.user + after.system - before.user - before.system
    assert len(os.listdir("/proc/self/task")) >= 2
    assert used > 0


def joined_runtime() -> str:
    """Return the OpenMP runtime that this build joins, its compiler's; skip where none."""
    if not (Path(core.__file__).parent / "librnnfast_openmp.so").exists():
        pytest.skip("this build joins no OpenMP runtime")
    by_clang = core.build_info()["compiler"].startswith("clang")
    return "libomp.so.5" if by_clang else "libgomp.so.1"


def test_the_team_is_our_own_until_another_library_brings_openmp():
    """A runtime that comes later is joined then, with its number of threads and the same bits."""
    runtime = joined_runtime()
    code = (
        "import ctypes\n"
        + USE_THREADS.replace("rnnfast.set_num_threads(2)\n", "")
        + f"""
from rnnfast import _core
print(_core.build_info()["team"], rnnfast.get_num_threads())
openmp = ctypes.CDLL("{runtime}")
openmp.omp_set_num_threads(1)
print(_core.build_info()["team"], rnnfast.get_num_threads())
rnnfast.set_num_threads(2)
assert run() == first
"""
    )
    done = python(code, RNNFAST_NUM_THREADS=None, OMP_NUM_THREADS=None)
    assert done.returncode == 0, done.stderr
    cores = str(len(os.sched_getaffinity(0)))
    assert done.stdout.split() == ["threads", cores, "openmp", "1"]


@pytest.mark.parametrize(
    ("text", "threads"), [("1", 1), ("1,4", 1), ("many", None), ("0", None), ("100000", None)]
)
def test_the_pool_reads_the_number_that_openmp_reads(text, threads):
    code = "import rnnfast; print(rnnfast.get_num_threads())"
    alone = python(code, RNNFAST_NUM_THREADS=None, OMP_NUM_THREADS=None)
    done = python(code, RNNFAST_NUM_THREADS=None, OMP_NUM_THREADS=text)
    assert done.stdout.strip() == (str(threads) if threads else alone.stdout.strip())


def test_a_team_that_loses_more_than_it_gained_is_made_smaller_for_a_while():
    """What calls note of themselves, in milliseconds of time and of long waits."""
    code = """
import time
from rnnfast import _core
def after(members, ms, waited):
    _core._note_call(members, int(ms * 1e6), int(waited * 1e6))
    return _core._members_in_crowd(8)
print(after(2, 10, 4.9), after(2, 10, 5.2))  # one alone takes 10.2, then 9.6
time.sleep(0.03)
print(_core._members_in_crowd(8), after(4, 10, 22))  # one alone takes 10.7
print([after(4, 10, 25) for _ in range(4)][-1])  # and now 6.7
time.sleep(0.05)
print(_core._members_in_crowd(8))
time.sleep(0.2)
print(_core._members_in_crowd(8))
for _ in range(9):
    after(2, 5, 0)  # gains 5 ms, of 45 in all 10 are kept
print(after(2, 9, 9), after(2, 2, 2), _core._members_in_crowd(1))
time.sleep(0.2)
print(after(2, 5, 0), after(2, 2, 9), after(2, 4, 4))  # one alone takes no less than no time
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    # Half of the members; for 10 ms, and where the crowd comes back for up to 160.
    assert done.stdout.split() == ["8", "1", "8", "8", "2", "2", "8", "8", "1", "1", "8", "8", "1"]


@pytest.mark.parametrize("order", ["rnnfast, torch", "torch, rnnfast"])
def test_one_openmp_runtime_with_torch(order):
    """Whichever comes first, both run on one libgomp: two would fight for the same cores."""
    require("torch")
    if joined_runtime() != "libgomp.so.1":
        pytest.skip(f"this build joins {joined_runtime()}, PyTorch brings libgomp")
    code = (
        f"import {order}\n{USE_THREADS}"
        + """
import torch
from rnnfast import _core
assert _core.build_info()["team"] == "openmp"
(torch.ones(500, 500) @ torch.ones(500, 500)).sum()
run()
lines = [line for line in open("/proc/self/maps") if "libgomp" in line or "libiomp" in line]
print(len({line.split()[-1] for line in lines}), lines)
"""
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "1", done.stdout


def test_at_most_so_many_threads_are_as_many_as_pay():
    """A step of a small layer starts none; a long sequence of a large one does."""
    code = """
import os, numpy as np, rnnfast
from rnnfast import _core
tasks = lambda: len(os.listdir("/proc/self/task"))
def run(T, B, H, threads):
    row = (np.ones((H, 3), np.float32), np.ones((H, H), np.float32), None, None)
    x = np.ones((T, B, 3), np.float32)
    _, _, tape = _core.forward("rnn_tanh", x, (row,), None, None, True, threads)
    _core.backward(tape, np.ones((T, B, H), np.float32), None, True, threads)
before = tasks()
run(10, 4, 16, (2,))
small = tasks() - before
run(50, 32, 256, (1,))
one = tasks() - before
run(50, 32, 256, (2,))
print(small, one, tasks() - before)
"""
    done = python(code, OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "0", "1"]
