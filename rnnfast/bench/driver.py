"""Runs rows: every contender is checked, then all are timed in turns, one at a time.

A contender is one way of one peer: `rnnfast`, `rnnfast plain`, `torch`, `torch cell`. A round gives
each its turn, in random order; so a drift of the machine meets all, and ratios are taken round by
round.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, DeviceError
from . import machine, results
from .check import ALLOWED, ALLOWED_PEERS, Judge
from .explain import explain
from .grid import INFERENCE, Row
from .limit import flops, limit
from .peers import OURS, PEERS, Peer, ours_in
from .problem import Problem
from .process import Process, WorkerError
from .statistics import ROUNDS_NEEDED, Estimate, ratio_of_pairs

__all__ = ["Contender", "Driver", "missing_rows"]

# Many short turns meet more of the machine's moods than a few long ones, but each costs a warm-up.
ROUNDS = 10
# A call that takes this long fills the caches in a small part of itself.
LONG_CALL = 0.02
# Idle threads of one peer may spin before they sleep, GNU's OpenMP for milliseconds, which must not
# be in another's turn: the most that is waited for them. One thread leaves none behind.
REST_SECONDS = 0.02
# Of a turn, before it is timed: the caches are another's.
WARM_SHARE = 0.1


@dataclass
class Contender:
    """One way of one peer to do a row, checked.

    Attributes
    ----------
    name : str
    process : Process
    way : str
        As the worker calls it.
    error : float
        As a share of what the yardstick grants.
    kernel : str or None
    call_seconds : float
        Of one call, roughly.
    wall, cpu : list of float
        Seconds of one call, by round.
    """

    name: str
    process: Process
    way: str
    error: float
    kernel: str | None
    call_seconds: float = math.nan
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class _Meters:
    """What the machine gives, measured in each round of a row."""

    def __init__(
        self, together: machine.Tile, alone: machine.Tile | None, row: Row, weights: int
    ) -> None:
        self._together, self._alone = together, alone
        self._activation = machine.Activation(row.dtype)
        self._read = machine.Read(row.threads, weights)
        self.tiles: list[float] = []
        self._cores: list[float] = []
        self._activations: list[float] = []
        self._reads: list[float] = []

    def measure(self) -> None:
        """Take the tile on all threads and on one, an activation, and a read of the weights."""
        self.tiles.append(self._together.rate())
        if self._alone is not None:
            self._cores.append(self.tiles[-1] / self._alone.rate())
        self._activations.append(self._activation.rate())
        self._reads.append(self._read.rate())

    def fields(self) -> dict[str, float]:
        """Return the medians by name, as a row has them."""
        found = {"tile_gflops": _rounded(statistics.median(self.tiles) / 1e9)}
        if self._cores:
            found["cores_had"] = _rounded(statistics.median(self._cores))
        found["activation_ns"] = _rounded(1e9 / statistics.median(self._activations))
        found["read_gbs"] = _rounded(statistics.median(self._reads) / 1e9)
        return found


@dataclass
class _Part:
    """A row that is timed, maybe in the same rounds as another.

    Attributes
    ----------
    row : Row
    entry : dict
        Its line of the file so far.
    contenders : list of Contender
    meters : _Meters
    """

    row: Row
    entry: dict[str, Any]
    contenders: list[Contender]
    meters: _Meters

    @property
    def ours(self) -> Contender | None:
        """Rnnfast as others are compared with it."""
        name = ours_in(self.row.option, (c.name for c in self.contenders))
        return next((c for c in self.contenders if c.name == name), None)


class Driver:
    """Runs rows with a set of peers; close it at the end.

    Parameters
    ----------
    pythons : mapping of str to str
        The Python of each peer's environment, by the peer's name; rnnfast is always there, in this
        one's.
    seconds : float
        Time to be measured per row, shared by its contenders. Slow calls take more: each is done
        `ROUNDS_NEEDED` times.
    say : callable
        Gets a line of progress.
    together : bool, default False
        Whether rows that differ in threads alone are timed in the same rounds.

    Raises
    ------
    ArgumentError
        If a peer is unknown.
    """

    def __init__(
        self,
        pythons: Mapping[str, str],
        seconds: float,
        say: Callable[[str], None],
        together: bool = False,
    ) -> None:
        self._pythons, self._seconds, self._say = pythons, seconds, say
        self._in_one_go = together
        unknown = [name for name in pythons if name not in {**PEERS, OURS.name: OURS}]
        if unknown:
            raise ArgumentError(
                f"rnnfast bench: {unknown[0]!r} is no peer; there are {', '.join(PEERS)}."
            )
        if OURS.name not in pythons:
            raise ArgumentError(f"rnnfast bench: no Python was given for {OURS.name} itself.")
        self._processes: dict[tuple[str, int], Process | WorkerError] = {}
        self._peaks: dict[int, machine.Peaks] = {}
        self._tiles: dict[tuple[int, str], machine.Tile] = {}
        # Lines of the file that belong before the next row, and peers that it has already.
        self._news: list[dict[str, Any]] = []
        self._told: list[dict[str, Any]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="rnnfast-bench-")
        self._random = random.Random(0)

    def close(self) -> None:
        """End all processes and remove what lay between them."""
        for process in self._processes.values():
            if isinstance(process, Process):
                process.close()
        self._folder.cleanup()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, rows: Sequence[Row], out: Path) -> int:
        """Run rows and append what is found to a file, row by row; those of one problem together.

        Returns
        -------
        int
            How many rows have a wrong result of rnnfast itself.
        """
        absent = [name for name in PEERS if name not in self._pythons]
        results.append(
            out,
            {
                "kind": "machine",
                **machine.describe(seconds=self._seconds),
                "absent": dict.fromkeys(absent, "no environment was given"),
            },
        )
        wrong = done = 0
        began = time.monotonic()
        # The quick ones first: a run that is cut short has most rows then.
        cost = {row.problem: flops(replace(row, passed=INFERENCE)) for row in rows}
        rows = sorted(rows, key=lambda row: (cost[row.problem], row.problem))
        for _, group in itertools.groupby(rows, key=lambda row: row.problem):
            for entry in self._problem(list(group)):
                done += 1
                for news in self._news:
                    results.append(out, news)
                self._news.clear()
                wrong += any(name.split()[0] == OURS.name for name in entry["wrong"])
                results.append(out, entry)
                self._say(f"{done}/{len(rows)}  {time.monotonic() - began:5.0f} s  {_said(entry)}")
        return wrong

    # One problem ---------------------------------------------------------------------------------

    def _problem(self, rows: list[Row]) -> Iterator[dict[str, Any]]:
        """Yield the entries of rows that share their arrays."""
        problem = Problem(rows[0])

        @functools.cache
        def judge() -> Judge:  # one for both passes, made when first wanted
            return Judge(problem, any(row.backward for row in rows))

        files: dict[str, Path] = {}
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
            groups: dict[Any, list[Row]] = {}
            for row in rows:
                key = row.passed if self._in_one_go else row
                groups.setdefault(key, []).append(row)
            for group in groups.values():
                began = time.monotonic()
                entries: list[dict[str, Any]] = []
                parts: list[_Part] = []
                for row in group:
                    entry, part = self._built_row(row, problem, judge, Path(name), files)
                    entries.append(entry)
                    parts += [part] if part is not None else []
                self._time(parts)
                took = (time.monotonic() - began) / len(group)
                for entry in entries:
                    yield {**entry, "took_seconds": round(took, 2)}

    def _built_row(
        self,
        row: Row,
        problem: Problem,
        judge_of: Callable[[], Judge],
        folder: Path,
        files: dict[str, Path],
    ) -> tuple[dict[str, Any], _Part | None]:
        """Return the entry of a row so far, and what is to be timed, None if nothing can be."""
        entry: dict[str, Any] = {"kind": "row", "id": row.id, **row.fields(), "used": problem.used}
        entry |= {"times": {}, "wrong": {}, "left_out": {}}
        try:
            cores = machine.cores(row.threads)
        except DeviceError as error:
            entry["left_out"] = dict.fromkeys(self._pythons, str(error))
            return entry, None
        peaks = self._peaks.get(row.threads)
        if peaks is None:
            peaks = self._peaks[row.threads] = machine.measure_peaks(row.threads)
            self._news.append({"kind": "peaks", **peaks.fields()})
        least = limit(row, peaks, problem.used)
        entry |= {
            "flops": flops(row, problem.used),
            "limit_us": _microseconds(least.seconds),
            "limit_parts_us": {
                part: _microseconds(getattr(least, part))
                for part in ("arithmetic", "memory", "activations", "steps", "call")
            },
            "bound": least.bound,
            "peak_gflops": _rounded(peaks.flops[row.dtype] / 1e9),
            "peak_read_gbs": _rounded(peaks.read[least.level] / 1e9),
            "remarks": machine.remarks_on(peaks),
        }
        # Nothing is timed yet: all build side by side, and the reference is computed meanwhile.
        asked: list[Process] = []
        for name in self._pythons:
            peer = OURS if name == OURS.name else PEERS[name]
            if peer.system not in files:
                files[peer.system] = problem.write(folder, peer.system)
            own = folder / name
            own.mkdir(exist_ok=True)
            try:
                process = self._process(peer, row.threads, cores)
                arrays = str(files[peer.system])
                process.send(do="build", row=row.fields(), arrays=arrays, folder=str(own))
                asked.append(process)
            except WorkerError as error:
                entry["left_out"][name] = str(error)
        judge = judge_of()
        contenders: list[Contender] = []
        for process in asked:
            try:
                contenders += self._built(process, row, problem, judge, entry)
            except WorkerError as error:
                entry["left_out"][process.peer.name] = str(error)
        for process in asked:
            process.rest(REST_SECONDS)
        alone = self._tile(1, row.dtype) if row.threads > 1 else None
        meters = _Meters(self._tile(row.threads, row.dtype), alone, row, least.weights)
        return entry, _Part(row, entry, contenders, meters)

    def _process(self, peer: Peer, threads: int, cores: tuple[int, ...]) -> Process:
        """Return the peer's process, started when first wanted, and again if it died."""
        key = peer.name, threads
        process = self._processes.get(key)
        if isinstance(process, Process) and not process.alive:
            process.close()
            process = None
        if process is None:
            try:
                process = Process(peer, self._pythons[peer.name], threads, cores)
                news = {"kind": "peer", "name": peer.name, "versions": process.versions}
                if news not in self._told:
                    self._told.append(news)
                    self._news.append(news)
            except WorkerError as error:
                process = error  # it will not start for the next row either
            self._processes[key] = process
        if isinstance(process, WorkerError):
            raise process
        return process

    def _built(
        self, process: Process, row: Row, problem: Problem, judge: Judge, entry: dict[str, Any]
    ) -> list[Contender]:
        """Return the ways of a peer whose results are right; note the others in the entry."""
        peer, answer = process.peer, process.answer()
        if "lacks" in answer:
            raise WorkerError(answer["lacks"])
        good = []
        for way, said in answer["ways"].items():
            name = f"{peer.name} {way}".strip()
            allowed = ALLOWED if peer is OURS else ALLOWED_PEERS
            path = Path(said["results"])
            try:
                error = judge.error(problem.read(path, peer.system), row.backward, peer.complete)
            except (KeyError, ValueError, TypeError) as trouble:
                entry["wrong"][name] = f"{trouble}"
                continue
            finally:
                path.unlink()
            if error > allowed:
                entry["wrong"][name] = (
                    f"its error is {error:.3g} of what the yardstick grants, allowed {allowed:g}"
                )
                continue
            good.append(Contender(name, process, way, error, said["kernel"]))
        return good

    # Timing --------------------------------------------------------------------------------------

    def _time(self, parts: list[_Part]) -> None:
        """Time the contenders of rows in turns and put what comes out into the entries.

        Each round begins with what the machine gives at that time.
        """
        # Neither the driver nor a peer whose threads spin after its turn is another process.
        workers = {contender.process for part in parts for contender in part.contenders}

        def own() -> float:
            return time.process_time() + sum(worker.cpu_seconds() for worker in workers)

        began, busy, before = time.monotonic(), machine.busy_seconds(), own()
        spent, rounds = 0.0, 0
        enough = self._seconds * len(parts)
        while any(p.contenders for p in parts) and (rounds < ROUNDS_NEEDED or spent < enough):
            rounds += 1
            for part in parts:
                part.meters.measure()
            turns = [(part, contender) for part in parts for contender in part.contenders]
            self._random.shuffle(turns)
            slice_seconds = enough / (ROUNDS * len(turns))
            for part, contender in turns:
                try:
                    spent += self._turn(contender, slice_seconds)
                except WorkerError as error:
                    part.contenders.remove(contender)
                    part.entry["left_out"][contender.name] = str(error)
                    continue
                if part.row.threads > 1:
                    contender.process.rest(REST_SECONDS)
        wall = max(time.monotonic() - began, 1e-9)
        others = (machine.busy_seconds() - busy - (own() - before)) / wall
        for part in parts:
            entry, ours = part.entry, part.ours
            entry["rounds"] = rounds
            if rounds:
                entry |= part.meters.fields()
            entry["others_cores"] = round(max(0.0, others), 2) if math.isfinite(others) else None
            for contender in part.contenders:
                figures = self._figures(contender, ours, entry, part.meters.tiles)
                entry["times"][contender.name] = figures
            explanation = explain(entry)
            if explanation is not None:
                entry["explanation"] = explanation
        self._compare_threads(parts)

    def _compare_threads(self, parts: list[_Part]) -> None:
        """Say what more threads cost and gain, round by round, where one was timed beside them."""
        one = next((part.ours for part in parts if part.row.threads == 1), None)
        for part in parts:
            more = part.ours
            if one is None or more is None or part.row.threads == 1:
                continue
            part.entry["beside_one_thread"] = {
                "speed_up": _estimated(ratio_of_pairs(one.wall, more.wall)),
                "cpu": _estimated(ratio_of_pairs(more.cpu, one.cpu)),
            }

    def _tile(self, threads: int, dtype: str) -> machine.Tile:
        key = threads, dtype
        if key not in self._tiles:
            self._tiles[key] = machine.Tile(*key)
        return self._tiles[key]

    def _turn(self, contender: Contender, seconds: float) -> float:
        """Give a contender its turn; return the seconds of it."""
        if math.isnan(contender.call_seconds):
            answer = self._calibrate(contender)
            if contender.call_seconds > max(LONG_CALL, seconds):  # as a turn would be
                contender.wall.append(answer["wall"])
                contender.cpu.append(answer["cpu"])
                return answer["wall"]
        calls = max(1, round(seconds / contender.call_seconds))
        warm = 0 if contender.call_seconds > LONG_CALL else max(1, math.ceil(WARM_SHARE * calls))
        answer = contender.process.ask(do="time", way=contender.way, calls=calls, warm=warm)
        contender.wall.append(answer["wall"] / calls)
        contender.cpu.append(answer["cpu"] / calls)
        return answer["wall"]

    def _calibrate(self, contender: Contender) -> dict[str, Any]:
        """Find out what a call takes; return the last answer."""
        calls = 1
        while True:
            answer = contender.process.ask(do="time", way=contender.way, calls=calls, warm=0)
            wall = answer["wall"]
            contender.call_seconds = max(wall / calls, 1e-9)
            # The first call is not like those after it, and the clock's own cost must not count.
            if wall > 0.001 and (calls > 1 or wall > LONG_CALL):
                return answer
            calls = max(2 * calls, min(10 * calls, math.ceil(0.002 / contender.call_seconds)))

    def _figures(
        self,
        contender: Contender,
        ours: Contender | None,
        entry: dict[str, Any],
        rates: list[float],
    ) -> dict[str, Any]:
        median = statistics.median(contender.wall)
        shares = [
            entry["flops"] / wall / rate for wall, rate in zip(contender.wall, rates, strict=True)
        ]
        figures: dict[str, Any] = {
            "median_us": _microseconds(median),
            "cpu_us": _microseconds(statistics.median(contender.cpu)),
            "gflops": _rounded(entry["flops"] / median / 1e9),
            "of_limit": _rounded(entry["limit_us"] / 1e6 / median),
            "of_tile": _rounded(statistics.median(shares)),
            "error": _rounded(contender.error),
            "times_us": [_microseconds(wall) for wall in contender.wall],
        }
        if contender.kernel:
            figures["kernel"] = contender.kernel
        # Rounds in which both were there; a contender that died leaves none behind.
        if ours is not None and contender is not ours:
            ratio = ratio_of_pairs(contender.wall, ours.wall)
            figures |= _estimated(ratio)
        return figures


def missing_rows(rows: Sequence[Row], out: Path, again: bool) -> list[Row]:
    """Return the rows that a file of results lacks, or all of them where they are wanted again.

    Raises
    ------
    ArgumentError
        If the file's results are of another CPU or commit: a table of both would mean nothing.
    """
    if not out.exists() or out.stat().st_size == 0:
        return list(rows)
    found = results.read(out)
    here = machine.describe()
    for there in found.machines:
        for what in ("cpu", "isa", "commit"):
            if there[what] != here[what]:
                raise ArgumentError(
                    f"rnnfast bench: {out} has results of {what} {there[what]}, this is "
                    f"{here[what]}. Write to another file."
                )
    return [row for row in rows if again or row.id not in found.rows]


def _microseconds(seconds: float) -> float:
    return _rounded(seconds * 1e6)


def _estimated(ratio: Estimate) -> dict[str, float]:
    return {name: _rounded(value) for name, value in ratio._asdict().items()}


def _rounded(value: float) -> float:
    """Four digits: more than any of these figures is good for."""
    return float(f"{value:.4g}")


def _said(entry: Mapping[str, Any]) -> str:
    """Say in a line what a row came to."""
    text = [entry["id"]]
    name = ours_in(entry["option"], entry["times"])
    if name is not None:
        ours = entry["times"][name]
        text.append(f"{ours['median_us']:g} us, {ours['of_limit']:.0%} of the limit")
    text += [
        f"{name} {figures['ratio']:.2f}x"
        for name, figures in entry["times"].items()
        if "ratio" in figures
    ]
    text += [f"{name} WRONG: {reason}" for name, reason in entry["wrong"].items()]
    if entry["left_out"]:
        text.append(f"left out: {', '.join(entry['left_out'])}")
    return "; ".join(text)
