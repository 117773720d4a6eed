"""What a run comes to against the aims of docs/benchmarks.md, as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Any

from .explain import ARITHMETIC, LATENCY, STEP, WANTED, group
from .grid import INFERENCE, TRAINING
from .peers import OURS, PEERS
from .report import NAMES, fastest, markdown
from .results import Results

__all__ = ["AIMS", "CPU_ALLOWED", "summary"]

AIMS = {INFERENCE: (1.6, 5.0), TRAINING: (3.0, 7.0)}
"""Geometric means that we want by pass: the fastest peer's time over ours, and PyTorch's."""
CPU_ALLOWED = 1.3
"""How many times the CPU time of one thread several may take without gaining as much."""

GROUPS = (ARITHMETIC, LATENCY, STEP)


@dataclass(frozen=True)
class _Row:
    """A row, and the times of its peers' fastest ways over ours."""

    row: dict[str, Any]
    ratios: dict[str, float]
    lows: dict[str, float]

    @property
    def of_limit(self) -> float:
        return float(self.row["times"][OURS.name]["of_limit"])

    @property
    def best(self) -> float:
        return min(self.ratios.values())

    @property
    def bound(self) -> float:
        """Above 1 where every peer is slower with 95 %."""
        return min(self.lows.values())


def summary(found: Results) -> str:
    """Return what the plain float32 rows of a run come to; options and float64 take no part."""
    rows = [
        _compared(row)
        for row in found.rows.values()
        if row["dtype"] == "float32" and not row["option"] and OURS.name in row["times"]
    ]
    passes = [p for p in (INFERENCE, TRAINING) if any(r.row["passed"] == p for r in rows)]
    if not passes:
        return "No plain row of float32 has times of rnnfast.\n"
    machine = found.machines[-1]
    parts = [
        f"Plain rows of float32 on {machine['cpu']} ({machine['isa']}, {machine['cores']} cores), "
        f"commit {machine['commit']}, {machine['date']}; their limits and ratios as the file has "
        "them.",
        _means(rows, passes),
        _fractions(rows, passes),
        *(_not_led(rows, passed) for passed in passes),
        _processor_time(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _compared(row: dict[str, Any]) -> _Row:
    ways = {name: fastest(row, name) for name in PEERS}
    there = {name: way for name, way in ways.items() if way is not None and "ratio" in way}
    return _Row(
        row,
        {name: way["ratio"] for name, way in there.items()},
        {name: way["low"] for name, way in there.items()},
    )


def _of(rows: Iterable[_Row], passed: str) -> list[_Row]:
    return [row for row in rows if row.row["passed"] == passed and row.ratios]


def _means(rows: list[_Row], passes: list[str]) -> str:
    """Ratios to the fastest peer and to PyTorch, and what share of the limit the aims would take.

    At the limit our time would be `of_limit` of what it is, and each ratio that much larger.
    """
    lines = []
    for passed, steps in itertools.product(passes, (False, True)):
        mine = [row for row in _of(rows, passed) if steps or row.row["T"] > 1]
        if not mine:
            continue
        torch = [row for row in mine if "torch" in row.ratios]
        aims = AIMS[passed]
        cells = [passed, "all" if steps else "T > 1", str(len(mine))]
        for some, ratio, aim in (
            (mine, _best, aims[0]),
            (torch, _torch, aims[1]),
        ):
            if not some:
                cells += ["-", "-"]
                continue
            now = geometric_mean(ratio(row) for row in some)
            there = geometric_mean(ratio(row) / row.of_limit for row in some)
            cells += [f"{now:.2f}, wanted {aim:g}", f"{aim / there:.2f}"]
        cells.append(str(sum(row.best > 1 for row in mine)))
        cells.append(str(sum(row.bound > 1 for row in mine)))
        lines.append(cells)
    titles = [
        *("pass", "steps", "rows"),
        *("fastest peer over ours, geometric mean", "that takes, of the limit"),
        *("PyTorch over ours", "that takes, of the limit"),
        *("ahead by the median", "ahead with 95 %"),
    ]
    return markdown(titles, lines)


def _best(row: _Row) -> float:
    return row.best


def _torch(row: _Row) -> float:
    return row.ratios["torch"]


def _fractions(rows: list[_Row], passes: list[str]) -> str:
    """Medians of the share of the limit."""
    threads = sorted({row.row["threads"] for row in rows})
    lines = []
    for passed, name in itertools.product(passes, GROUPS):
        cells = [f"{passed}, {name}", f"{WANTED[name]:.0%}" if name in WANTED else ""]
        for n in threads:
            shares = [
                row.of_limit
                for row in rows
                if (row.row["passed"], row.row["threads"], group(row.row)) == (passed, n, name)
            ]
            cells.append(f"{median(shares):.0%} of {len(shares)} rows" if shares else "-")
        if cells[2:] != ["-"] * len(threads):
            lines.append(cells)
    titles = [f"{n} thread{'s' if n > 1 else ''}" for n in threads]
    return markdown(["of the limit, median", "wanted", *titles], lines)


def _not_led(rows: list[_Row], passed: str) -> str:
    """Name the rows in which some peer is not slower with 95 %, and what the nearest one took."""
    mine = _of(rows, passed)
    behind = sorted((row for row in mine if row.bound <= 1), key=_best)
    named = [
        f"{_name(row)} {row.best:.2f} ({PEERS[min(row.ratios, key=row.ratios.__getitem__)].title})"
        for row in behind
    ]
    return (
        f"{passed.capitalize()}, not ahead with 95 % in {len(behind)} of {len(mine)} rows; the "
        f"fastest peer over ours: {'; '.join(named) or 'none'}."
    )


def _name(row: _Row) -> str:
    r = row.row
    layers = f", {r['L']} layers" if r["L"] > 1 else ""
    return f"{NAMES[r['cell']]} ({r['T']}, {r['B']}, {r['I']}, {r['H']}{layers}) t{r['threads']}"


def _processor_time(rows: list[_Row]) -> str:
    """Name the pairs of rows whose threads cost more than they gain."""

    def same_but_threads(row: _Row) -> str:
        return str(row.row["id"]).rpartition(".t")[0]

    ones = {same_but_threads(row): row for row in rows if row.row["threads"] == 1}
    pairs = [
        (ones[same_but_threads(row)], row)
        for row in rows
        if row.row["threads"] > 1 and same_but_threads(row) in ones
    ]
    costly = []
    for one, more in pairs:
        cost, gain = _cost_and_gain(one.row, more.row)
        if cost > max(CPU_ALLOWED, gain):
            costly.append(
                (cost / gain, f"{_name(more)} {more.row['passed']} {cost:.2f}, {gain:.2f}")
            )
    named = "; ".join(text for _, text in sorted(costly, reverse=True)) or "none"
    return (
        f"Several threads took more than {CPU_ALLOWED:g} times the processor time of one and more "
        f"than they gained in {len(costly)} of {len(pairs)} pairs of rows; processor time and "
        f"speed-up: {named}."
    )


def _cost_and_gain(one: dict[str, Any], more: dict[str, Any]) -> tuple[float, float]:
    """Return the processor time over that of one thread, and the speed-up.

    In pairs where both were timed in the same rounds; else the rows are of different minutes.
    """
    if "beside_one_thread" in more:
        pairs = more["beside_one_thread"]
        return pairs["cpu"]["ratio"], pairs["speed_up"]["ratio"]
    a, b = one["times"][OURS.name], more["times"][OURS.name]
    return b["cpu_us"] / a["cpu_us"], a["median_us"] / b["median_us"]
