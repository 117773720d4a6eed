"""What machine this is, and what it can do at most: measured in the run that is judged by it."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, _backend
from ..errors import DeviceError

__all__ = [
    "Activation",
    "Peaks",
    "Read",
    "Tile",
    "busy_seconds",
    "cores",
    "describe",
    "measure_peaks",
    "remarks_on",
]

# Bytes of the caches of one core, L3 of all, where the system does not say.
COMMON_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
# Of a cache: the rest is taken by what passes through and by what else lies there. What is larger
# than that share of L3 but not much larger than L3 is found there in part.
USABLE = 0.75
EDGE = 1.5
# Above this, in cores, the machine is not ours: 2-thread rows suffered from 0.08 on.
BUSY_CORES = 0.08

# Measured with other programs on 2026-11-20, by vendor, family and model: (lowest, highest) in
# GFLOP/s of float32 and GB/s read. Peaks that are further than 5 % outside are remarked upon.
EARLIER: Mapping[tuple[str, int, int], Mapping[int, Mapping[str, tuple[float, float]]]] = {
    ("AuthenticAMD", 26, 2): {
        1: {
            "float32": (259, 261),
            "L1": (477, 477),
            "L2": (195, 250),
            "L3": (105, 128),
            "L3 edge": (90, 95),
            "DRAM": (41, 44),
        },
        2: {
            "float32": (513, 517),
            "L1": (960, 960),
            "L2": (390, 445),
            "L3": (205, 230),
            "L3 edge": (100, 108),
            "DRAM": (48, 54),
        },
    }
}
CORE_BOUND = ("float32", "L1", "L2")


@dataclass(frozen=True)
class Peaks:
    """What a number of threads can do at most.

    Attributes
    ----------
    threads : int
    flops : mapping of str to float
        Operations per second by dtype, multiply-adds counted as two.
    read : mapping of str to float
        Bytes per second that all threads together read, by level of memory.
    caches : mapping of str to int
        Bytes by level: L1 and L2 of one core, L3 of all.
    others : float
        Cores' worth of time that other processes used meanwhile.
    """

    threads: int
    flops: Mapping[str, float]
    read: Mapping[str, float]
    caches: Mapping[str, int]
    others: float = 0.0

    def level_of(self, size: int) -> str:
        """Return the level that holds `size` bytes, of which each thread reads its share."""
        share = {"L1": size / self.threads, "L2": size / self.threads, "L3": size}
        for level, part in share.items():
            if part <= USABLE * self.caches[level]:
                return level
        return "L3 edge" if size <= EDGE * self.caches["L3"] else "DRAM"

    def fields(self) -> dict[str, Any]:
        """Return the attributes by name, as JSON takes them."""
        return asdict(self)


def cores(threads: int) -> tuple[int, ...]:
    """Return the cores for so many threads: the last ones, for systems keep the first one busier.

    Raises
    ------
    DeviceError
        If this process may run on fewer.
    """
    mine = sorted(os.sched_getaffinity(0))
    if threads > len(mine):
        raise DeviceError(
            f"rnnfast bench: {threads} threads need as many cores, this process has {len(mine)}."
        )
    return tuple(mine[-threads:])


def describe(**more: Any) -> dict[str, Any]:
    """Return machine, versions and commit, and what is given, for the head of a results file."""
    core = _core()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu()["model name"],
        "cores": len(os.sched_getaffinity(0)),
        "caches": caches(),
        "system": platform.platform(),
        "isa": core.isa(),
        "compiler": core.build_info()["compiler"],
        "rnnfast": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        **more,
    }


def _core() -> Any:
    core = _backend.compiled.get("cpu")
    if core is None:
        reason = _backend.backends()["cpu"]
        raise DeviceError(f"rnnfast bench: there is nothing to measure: {reason}.")
    return core


def _cpu() -> dict[str, str]:
    """Return the first processor's entry of /proc/cpuinfo; what is not there reads as ""."""
    entry = dict.fromkeys(("vendor_id", "cpu family", "model"), "")
    entry["model name"] = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(errors="replace").split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            entry[name.strip()] = value.strip()
    return entry


def _commit() -> str:
    """Return the commit of the clone that the package lies in, or that it lies in none."""
    package = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(package)]
    try:
        top = subprocess.run(
            [*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True
        ).stdout.strip()
        # A virtual environment inside some clone does not make an installed wheel part of it.
        if Path(top) / "rnnfast" != package:
            return "installed"
        described = [*git, "describe", "--always", "--dirty"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "installed"  # no git, or no clone


def caches() -> dict[str, int]:
    """Return bytes of L1 (data) and L2 of one core and of L3, as the system states them."""
    found = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (index / "type").read_text().strip() != "Instruction":
            text = (index / "size").read_text().strip()
            units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
            size = int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)
            found["L" + (index / "level").read_text().strip()] = size
    return {level: found.get(level, size) for level, size in COMMON_CACHES.items()}


def busy_seconds() -> float:
    """Return the seconds that all processes together have used of all cores; nan if not stated."""
    path = Path("/proc/stat")
    if not path.exists():
        return math.nan
    user, nice, system, _, _, irq, softirq, steal = path.read_text().split()[1:9]
    ticks = sum(map(int, (user, nice, system, irq, softirq, steal)))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure_peaks(threads: int, seconds: float = 0.05) -> Peaks:
    """Measure what so many threads can do at most, each on a core of its own.

    Parameters
    ----------
    threads : int
    seconds : float, default 0.05
        Of one measurement; the best of five is taken, for all that can happen is a delay.
    """
    core = _core()
    sizes, on = caches(), cores(threads)
    busy, wall, own = busy_seconds(), time.perf_counter(), time.process_time()
    flops, read = {}, {}
    for dtype, add in (("float32", core._multiply_add_f32), ("float64", core._multiply_add_f64)):

        def adding(rounds: int, add: Callable[[int], float]) -> float:
            return add(rounds)

        flops[dtype] = _best(adding, [add] * threads, on, seconds)
    for level, size in _working_sets(sizes, threads).items():
        read[level] = _best(_reading, _shares(size, threads), on, seconds)
    wall = time.perf_counter() - wall
    others = (busy_seconds() - busy - (time.process_time() - own)) / wall
    return Peaks(threads, flops, read, sizes, round(max(0.0, others), 2))


class _Rate:
    """A rate that is measured when asked.

    Unlike the peaks it is to be measured in turns with what it is compared with: on a machine with
    neighbours it changes from minute to minute.
    """

    def __init__(
        self, work: Callable[[int, Any], float], arguments: list[Any], seconds: float
    ) -> None:
        self._work, self._arguments, self._on = work, arguments, cores(len(arguments))
        self._rounds = _rounds(work, arguments, self._on, seconds)

    def rate(self) -> float:
        """Return how much is done in a second."""
        done, took = _together(self._work, self._rounds, self._arguments, self._on)
        return done / took


class Tile(_Rate):
    """What the innermost product of rnnfast's kernels reaches on what lies in L1.

    No product of theirs is faster. The rate is operations, multiply-adds counted as two.

    Parameters
    ----------
    threads : int
    dtype : str
    seconds : float, default 0.01
        Of one measurement.
    """

    def __init__(self, threads: int, dtype: str, seconds: float = 0.01) -> None:
        core = _core()
        product = {"float32": core._tile_product_f32, "float64": core._tile_product_f64}[dtype]

        def multiply(rounds: int, _: None) -> float:
            return product(rounds)

        super().__init__(multiply, [None] * threads, seconds)


class Activation(_Rate):
    """What rnnfast's sigmoid and tanh reach in turns, on one thread, on what lies in L2.

    The rate is activations of one number. So many at once that the way from Python, some 0.8
    microseconds, is a small part. `dtype` and `seconds` as of `Tile`; measurements beside the
    tile's may be short, for a round has several.
    """

    def __init__(self, dtype: str, seconds: float = 0.003) -> None:
        core = _core()
        apply = {"float32": core._activation_f32, "float64": core._activation_f64}[dtype]
        isa = core.isa()

        def both(rounds: int, numbers: np.ndarray) -> float:
            for _ in range(rounds):
                apply(isa, 0, numbers)
                apply(isa, 1, numbers)
            return float(2 * rounds * numbers.size)

        super().__init__(both, [np.linspace(-3, 3, 16384, dtype=dtype)], seconds)


class Read(_Rate):
    """How many bytes in a second threads together read of so many, each its own share.

    Parameters
    ----------
    threads : int
    size : int
        Bytes, of a layer's weights.
    seconds : float, default 0.003
    """

    def __init__(self, threads: int, size: int, seconds: float = 0.003) -> None:
        super().__init__(_reading, _shares(size // threads, threads), seconds)


def _reading(passes: int, array: np.ndarray) -> float:
    _core()._read_memory(array, passes)
    return float(passes * array.nbytes)


def _shares(size: int, threads: int) -> list[np.ndarray]:
    return [_aligned(size) for _ in range(threads)]


def _working_sets(sizes: Mapping[str, int], threads: int) -> dict[str, int]:
    """Bytes that each thread reads over and over, well inside of each level."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    dram = min(max(256 << 20, 2 * sizes["L3"]), memory // 8)
    return {
        "L1": sizes["L1"] // 2,
        "L2": sizes["L2"] // 2,
        # Beyond both L2, and no more of L3 than weights of the grid take.
        "L3": min(8 * sizes["L2"], sizes["L3"] // 2) // threads,
        "L3 edge": min(int(USABLE * sizes["L3"]), dram // threads),
        "DRAM": dram // threads,
    }


def _aligned(size: int) -> np.ndarray:
    """Return words of about so many bytes: whole blocks of 512, none of them across cache lines."""
    words = max(1, size // 512) * 64
    # Written once, so that there is memory behind every page, and not the one page of zeros.
    array = np.arange(words + 8, dtype=np.uint64)
    skip = -array.ctypes.data % 64 // 8
    return array[skip : skip + words]


def _best(
    work: Callable[[int, Any], float], arguments: list[Any], on: tuple[int, ...], seconds: float
) -> float:
    """Return the best rate of several tries; `work` gives what so many rounds have done."""
    rounds = _rounds(work, arguments, on, seconds)
    tries = (_together(work, rounds, arguments, on) for _ in range(5))
    return max(done / took for done, took in tries)


def _rounds(
    work: Callable[[int, Any], float], arguments: list[Any], on: tuple[int, ...], seconds: float
) -> int:
    """Return how many rounds take that long, by the better of two tries: one may be disturbed."""
    rounds, took = 1, 0.0
    while took < seconds:
        took = min(_together(work, rounds, arguments, on)[1] for _ in range(2))
        rounds *= 1 if took >= seconds else min(16, max(2, int(seconds / max(took, 1e-9))))
    return rounds


def _together(
    work: Callable[[int, Any], float], rounds: int, arguments: list[Any], on: tuple[int, ...]
) -> tuple[float, float]:
    """Run on all cores at once; return what was done, and the seconds from first to last."""
    gate = threading.Barrier(len(on))
    spans: list[tuple[float, float, float]] = []
    troubles: list[BaseException] = []

    def member(core: int, argument: Any) -> None:
        try:
            os.sched_setaffinity(0, {core})  # of this thread
            gate.wait()
            begin = time.perf_counter()
            done = work(rounds, argument)
            spans.append((begin, time.perf_counter(), done))
        except BaseException as error:
            troubles.append(error)
            gate.abort()

    pairs = zip(on, arguments, strict=True)
    members = [threading.Thread(target=member, args=pair) for pair in pairs]
    for thread in members:
        thread.start()
    for thread in members:
        thread.join()
    if troubles:
        raise troubles[0]
    begin, end = min(s[0] for s in spans), max(s[1] for s in spans)
    return sum(s[2] for s in spans), end - begin


def remarks_on(peaks: Peaks) -> list[str]:
    """Return what is to be said of peaks: where they are not what such a CPU has shown before.

    More than 5 % outside of earlier measurements counts, and is said with its cause as far as the
    run knows one; so does a machine that was not idle.
    """
    cpu = _cpu()
    kind = (cpu["vendor_id"], _number(cpu["cpu family"]), _number(cpu["model"]))
    known = EARLIER.get(kind, {}).get(peaks.threads)
    now = {"float32": peaks.flops["float32"], **peaks.read}
    busy = peaks.others > BUSY_CORES
    remarks = []
    if busy:
        remarks.append(
            f"other processes used {peaks.others} cores while peaks were measured, which are too "
            "low then"
        )
    if known is None:
        return [*remarks, f"no earlier peaks of {cpu['model name']} to compare with"]
    off = {name: _off(now[name] / 1e9, known[name]) for name in known}
    for name, by in off.items():
        if not by:
            continue
        (low, high), rate = known[name], now[name] / 1e9
        # Arithmetic and the first two caches run at the core's clock, on their own core.
        beside = [other for other in CORE_BOUND if other != name and off[other] * by > 0]
        if busy and by < 0:
            cause = "others used the cores"
        elif name in CORE_BOUND and beside:
            cause = f"as with another clock, {' and '.join(beside)} off to the same side too"
        else:
            cause = "no cause measured"
        unit = "GFLOP/s" if name == "float32" else "GB/s"
        earlier = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        remarks.append(f"{name} {rate:.0f} {unit}, earlier {earlier}: {cause}")
    return remarks


def _off(rate: float, earlier: tuple[float, float]) -> int:
    """Return -1 for a rate that is more than 5 % below what it was, 1 for one above, else 0."""
    low, high = earlier
    return int(rate > 1.05 * high) - int(rate < 0.95 * low)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else -1
