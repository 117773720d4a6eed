"""Results as a Markdown table, and the rows that reach too little of their limit."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import geometric_mean
from typing import Any

from ..errors import ArgumentError
from . import results
from .explain import WANTED, group
from .grid import INFERENCE, TRAINING
from .peers import OURS, PEERS, PLAIN, ours_in

__all__ = ["NAMES", "below", "fastest", "markdown", "table"]

NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN, relu"}

NOT_EXPLAINED = "measured before rows were explained"


def table(found: results.Results, patterns: Sequence[str] = ()) -> str:
    """Return the rows that fit one of the patterns, all without any, as a Markdown table.

    A peer's column has its fastest way. Below the table stands what all rows of the file come to,
    what is not in it, and why.

    Raises
    ------
    ArgumentError
        If no row fits.
    """
    rows = _fitting(found, patterns)
    peers = [name for name in PEERS if any(fastest(row, name) for row in rows)]
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("layer", _layer),
        ("T, B, I, H", _shape),
        ("pass", lambda row: row["passed"]),
        ("threads", lambda row: str(row["threads"])),
        ("rnnfast, µs", lambda row: _ours(row, "median_us", _digits)),
        ("plain call, µs", _plain),
        ("of the limit", lambda row: _ours(row, "of_limit", "{:.0%}".format)),
        ("of the tile", lambda row: _ours(row, "of_tile", "{:.0%}".format)),
        ("GFLOP/s", lambda row: _ours(row, "gflops", partial(_digits, most=3))),
        ("CPU, µs", lambda row: _ours(row, "cpu_us", _digits)),
    ]
    if any("cores_had" in row for row in rows):
        columns.insert(4, ("cores had", _cores_had))
    columns += [(PEERS[name].title, partial(_ratio, peer=name)) for name in peers]
    lines = ([cell(row) for _, cell in columns] for row in rows)
    return f"{markdown([title for title, _ in columns], lines)}\n\n{_notes(found, rows)}"


def markdown(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table of cells."""
    text = [f"| {' | '.join(cells)} |" for cells in (titles, *lines)]
    return "\n".join([text[0], "|---" * len(titles) + "|", *text[1:]])


def _fitting(found: results.Results, patterns: Sequence[str]) -> list[dict[str, Any]]:
    rows = [
        row
        for id, row in found.rows.items()
        if not patterns or any(fnmatch.fnmatchcase(id, pattern) for pattern in patterns)
    ]
    if not rows:
        wanted = ", ".join(patterns) or "anything"
        raise ArgumentError(
            f"rnnfast bench table: no row fits {wanted}; there are {len(found.rows)} rows."
        )
    return rows


def below(found: results.Results, patterns: Sequence[str] = ()) -> str:
    """Return the rows that reach less of their limit than is wanted, each with its explanation.

    Patterns and error as of `table`.
    """
    rows = [row for row in _fitting(found, patterns) if _is_below(row)]
    lines = [f"- `{row['id']}`: {row.get('explanation', NOT_EXPLAINED)}." for row in rows]
    lines.append(f"\n{len(rows)} rows reach less of their limit than is wanted.")
    return "\n".join(lines) + "\n"


def _is_below(row: dict[str, Any]) -> bool:
    wanted, name = WANTED.get(group(row)), ours_in(row["option"], row["times"])
    return wanted is not None and name is not None and row["times"][name]["of_limit"] < wanted


def _layer(row: dict[str, Any]) -> str:
    text = NAMES.get(row["cell"], row["cell"])
    text += f", {row['L']} layers" if row["L"] > 1 else ""
    text += ", float64" if row["dtype"] == "float64" else ""
    return text + (f", {row['option'].replace('_', ' ')}" if row["option"] else "")


def _shape(row: dict[str, Any]) -> str:
    return f"{row['T']}, {row['B']}, {row['I']}, {row['H']}"


def _cores_had(row: dict[str, Any]) -> str:
    return f"{row['cores_had']:.2g}" if "cores_had" in row else ""


def _ours(row: dict[str, Any], what: str, form: Callable[[float], str]) -> str:
    figures = row["times"].get(ours_in(row["option"], row["times"]), {})
    return form(figures[what]) if what in figures else "-"


def _digits(value: float, most: int = 4) -> str:
    """Write so many digits, and the whole of a large number: never an exponent."""
    return f"{round(value):,}" if value >= 1000 else f"{value:.{most}g}"


def _plain(row: dict[str, Any]) -> str:
    """Return the plain call beside a prepared layer, and a stream's step."""
    said = []
    same = "the same" if ours_in(row["option"], row["times"]) == PLAIN else ""
    for way in ("plain", "stream"):
        figures = row["times"].get(f"{OURS.name} {way}")
        if figures is not None:
            text = _digits(figures["median_us"])
            said.append(f"stream {text}" if way == "stream" else same or text)
    if not said and row["passed"] != INFERENCE:
        return ""
    return ", ".join(said) or "-"


def fastest(row: dict[str, Any], peer: str) -> dict[str, Any] | None:
    """Return the figures of a peer's fastest way, None where it has none."""
    ways = [figures for name, figures in row["times"].items() if name.split()[0] == peer]
    return min(ways, key=lambda figures: figures["median_us"], default=None)


def _ratio(row: dict[str, Any], peer: str) -> str:
    figures = fastest(row, peer)
    if figures is None:
        return "wrong" if any(name.split()[0] == peer for name in row["wrong"]) else "-"
    if "ratio" not in figures:
        return f"{_digits(figures['median_us'])} µs"
    return f"{figures['ratio']:.2f} (≥ {figures['low']:.2f})"


def _notes(found: results.Results, rows: list[dict[str, Any]]) -> str:
    """Say what was measured on, and what is not there and why."""
    machine = found.machines[-1]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}; rnnfast "
        f"{machine['rnnfast']} ({machine['commit']}), {machine['compiler']}, Python "
        f"{machine['python']}, {machine['date']}."
    ]
    versions = {
        name: version
        for peer, versions in found.versions.items()
        if peer != OURS.name
        for name, version in versions.items()
        if name != "python"
    }
    if versions:
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(f"Peers: {said}.")
    for passed in (INFERENCE, TRAINING):
        lines += _summary(found, passed)
    for peaks in found.peaks.values():
        noun = "thread" if peaks["threads"] == 1 else "threads"
        read = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in peaks["read"].items())
        said = ", ".join(f"{rate / 1e9:.0f} of {kind}" for kind, rate in peaks["flops"].items())
        lines.append(f"Peaks with {peaks['threads']} {noun}: {said} GFLOP/s; read, GB/s: {read}.")
    remarks = dict.fromkeys(remark for row in rows for remark in row.get("remarks", ()))
    lines += [f"Peaks: {remark}." for remark in remarks]
    reasons: dict[str, list[str]] = {}
    for name, reason in machine["absent"].items():
        reasons.setdefault(f"{name}: {reason}", [])
    for what in ("left_out", "wrong"):
        for row in rows:
            for name, reason in row[what].items():
                text = f"{name}{', wrong' if what == 'wrong' else ''}: {reason}"
                reasons.setdefault(text, []).append(row["id"])
    if reasons:
        lines.append("Left out: " + "; ".join(_counted(*item) for item in reasons.items()) + ".")
    return "  \n".join(lines) + "\n"


def _summary(found: results.Results, passed: str) -> list[str]:
    """Say what a pass comes to over all plain rows of float32 with more than one step."""
    rows = [
        (row, ratios)
        for row in found.rows.values()
        if row["passed"] == passed and row["dtype"] == "float32" and row["T"] > 1
        if not row["option"] and (ratios := _ratios(row))
    ]
    if not rows:
        return []
    best = [min(ratios.values()) for _, ratios in rows]
    line = f"{passed.capitalize()}, {len(rows)} rows of float32 with T > 1 and no option: "
    line += f"the fastest peer took {geometric_mean(best):.2f} times ours (geometric mean)"
    torch = [ratios["torch"] for _, ratios in rows if "torch" in ratios]
    if torch:
        line += f", PyTorch {geometric_mean(torch):.2f} times"
    slower = [row["id"] for (row, _), ratio in zip(rows, best, strict=True) if ratio < 1]
    return [f"{line}; a peer was faster in {', '.join(slower) or 'none'}."]


def _ratios(row: dict[str, Any]) -> dict[str, float]:
    """Return the time of each peer's fastest way over ours."""
    figures = {name: fastest(row, name) for name in PEERS}
    return {name: f["ratio"] for name, f in figures.items() if f is not None and "ratio" in f}


def _counted(reason: str, ids: list[str]) -> str:
    if not ids:
        return reason
    return f"{reason} ({ids[0]})" if len(ids) == 1 else f"{reason} ({len(ids)} rows)"
