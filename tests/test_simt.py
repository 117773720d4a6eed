"""The shim that runs CUDA kernels on the CPU: right kernels pass, each kind of fault is seen."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SIMT = TESTS / "simt"
CUDA = TESTS.parent / "csrc" / "cuda"

CXX = os.environ.get("CXX", "g++")
pytestmark = pytest.mark.skipif(shutil.which(CXX) is None, reason=f"no C++ compiler: {CXX}")

FLAGS = ["-std=gnu++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{SIMT}"]
OURS = [CUDA / "error.cpp", CUDA / "launch.cpp", SIMT / "faults.cpp", SIMT / "runtime.cpp"]
# What threads do together, which ThreadSanitizer is not to see.
ALIKE = [SIMT / "collectives.cpp", SIMT / "tensor.cpp"]

# As .ci/full: newer kernels use more bits of an address than the sanitizer's map has room for.
FIXED = ["setarch", "--addr-no-randomize"] if shutil.which("setarch") else []

Run = Callable[..., str]


def compiled(to: Path, sources: list[Path], *flags: str) -> Path:
    for source in sources:
        done = subprocess.run(
            [CXX, *FLAGS, *flags, "-c", source, "-o", to / f"{source.stem}.o"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    return to


def linked(folder: Path, *flags: str) -> Path:
    program = folder / "faults"
    objects = sorted(folder.glob("*.o"))
    done = subprocess.run(
        [CXX, "-pthread", *flags, *objects, "-o", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return program


def runner(program: Path, *before: str) -> Run:
    def run(name: str, **environment: object) -> str:
        changed = {key: str(value) for key, value in environment.items()}
        # Not the sanitizer of the process that runs the tests: the program has its own.
        inherited = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
        done = subprocess.run(
            [*before, program, name],
            env=inherited | changed,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def fibers(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A fiber for each thread, under AddressSanitizer."""
    folder = tmp_path_factory.mktemp("fibers")
    sanitize = "-fsanitize=address,undefined"
    compiled(folder, [*OURS, *ALIKE, SIMT / "fibers.cpp"], sanitize)
    return runner(linked(folder, sanitize))


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An OS thread for each thread, under ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("threads")
    sanitize = "-fsanitize=thread"
    compiled(folder, [*OURS, SIMT / "threads.cpp"], sanitize)
    compiled(folder, [*ALIKE, SIMT / "locks.cpp"])
    return runner(linked(folder, sanitize), *FIXED)


RIGHT = [
    "exchange",
    "exchange_twice",
    "exchange_in_warp",
    "sum_of_warp",
    "half_warps",
    "leave_early",
    "tensor_cores",
    "by_fours",
    "much_shared_memory",
    "grid_barrier",
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_kernel_is_right_in_every_order(fibers: Run, name: str) -> None:
    for seed in range(1, 9):
        assert fibers(name, SIMT_SEED=seed) == "right\n"


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_kernel_has_no_race(threads: Run, name: str) -> None:
    assert threads(name) == "right\n"


@pytest.mark.parametrize(
    "name",
    [
        "missing_barrier",
        "missing_second_barrier",
        "missing_warp_barrier",
        "missing_lane",
        "dropped_tail",
    ],
)
def test_a_fault_in_the_result(fibers: Run, name: str) -> None:
    """Whatever the order: what was not written yet is not a number that could pass."""
    for seed in range(1, 9):
        assert fibers(name, SIMT_SEED=seed) == "wrong\n"


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("divergent_barrier", "divergent barrier: thread # at __syncthreads (FILE), thread # at"),
        ("deadlock", "deadlock: 96 threads live, 64 wait at __syncthreads|32 wait at __syncwarp"),
        ("absent_lane", "a shuffle names absent lanes: thread"),
        ("half_a_product", "mma.sync names absent lanes: thread"),
        ("lane_outside_mask", "thread # reads lane 20, which is not in mask 0000ffff"),
        ("caller_outside_mask", "lane # of thread # is not in its own mask 0000ffff"),
        ("different_shuffles", "threads of a warp meet at different places: thread #"),
        ("spin_for_ever", "threads did nothing but spin for 0.2 s"),
    ],
)
def test_a_fault_in_how_threads_meet(fibers: Run, name: str, report: str) -> None:
    for seed in range(1, 4):
        said = fibers(name, SIMT_SEED=seed, SIMT_PATIENCE=0.2)
        pattern = re.escape(report).replace(r"\#", r"\d+").replace("FILE", r"[^)]*faults.cpp:\d+")
        words = pattern.split(r"\|")
        assert all(re.search(word, said) for word in words), said
        assert re.match(rf"{name}: launch failed: simt: block \(\d, 0, 0\): ", said)
        assert said.endswith("(cudaErrorLaunchFailure)\n")


@pytest.mark.parametrize(
    "name", ["global_overrun", "dynamic_shared_overrun", "shared_array_overrun"]
)
def test_memory_that_is_not_the_kernel_s(fibers: Run, name: str) -> None:
    said = fibers(name)
    assert re.search(rf"heap-buffer-overflow.*{name}", said, re.DOTALL), said


@pytest.mark.parametrize(
    "name",
    [
        "missing_barrier",
        "missing_second_barrier",
        "missing_warp_barrier",
        "race",
        "race_between_blocks",
        "shuffle_for_a_barrier",
    ],
)
def test_a_race(threads: Run, name: str) -> None:
    assert "WARNING: ThreadSanitizer: data race" in threads(name)


def test_a_deadlock_of_os_threads(threads: Run) -> None:
    assert "deadlock: 96 threads live" in threads("deadlock", SIMT_PATIENCE=1)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("too_many_threads", "cudaErrorInvalidConfiguration"),
        ("no_blocks", "cudaErrorInvalidConfiguration"),
        ("too_much_shared_memory", "cudaErrorInvalidValue"),
        ("too_many_blocks_together", "cudaErrorCooperativeLaunchTooLarge"),
    ],
)
def test_a_launch_that_a_device_would_refuse(fibers: Run, name: str, error: str) -> None:
    assert re.match(rf"{name}: \w+ failed: .*{error}", fibers(name))
