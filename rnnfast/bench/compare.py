"""Two files of results against each other, row by row: which rows became faster or slower."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from .peers import OURS
from .results import Results
from .statistics import Estimate, ratio_of_samples

__all__ = ["LEAST", "Verdict", "compare", "table"]

# Chosen, not measured: what is less is not worth a verdict, however sure it is.
LEAST = 0.03


@dataclass(frozen=True)
class Verdict:
    """What became of one way of rnnfast in one row.

    Attributes
    ----------
    id, name : str
        Of the row, and of the contender: ``"rnnfast"``, ``"rnnfast plain"``.
    word : {"faster", "slower", "same"}
    change : Estimate
        Time in the second file over time in the first, with its 95 % interval.
    drift : float
        The same of the peers that both files have, their median: how much of the change is the
        machine's. nan without peers.
    """

    id: str
    name: str
    word: str
    change: Estimate
    drift: float


def compare(before: Results, after: Results, least: float = LEAST) -> Iterator[Verdict]:
    """Yield a verdict for each way of rnnfast in each row that both files have.

    A row is faster or slower if the whole interval is further than `least` from 1, measured by the
    machine's drift where peers tell it: peers did not change between the two.

    Raises
    ------
    ArgumentError
        If the files are of different CPUs or instruction sets: no build made such a change.
    """
    for what in ("cpu", "isa"):
        there, here = ({head[what] for head in file.machines} for file in (before, after))
        if there and here and len(there | here) > 1:
            raise ArgumentError(
                f"rnnfast bench compare: the first file has results of {what} "
                f"{', '.join(sorted(there))}, the second of {', '.join(sorted(here))}. Times of "
                "different machines say nothing about a build."
            )
    for id, row in after.rows.items():
        earlier = before.rows.get(id)
        if earlier is None:
            continue
        drift = _drift(earlier["times"], row["times"])
        for name, figures in row["times"].items():
            if not _ours(name) or name not in earlier["times"]:
                continue
            change = ratio_of_samples(figures["times_us"], earlier["times"][name]["times_us"])
            scale = 1.0 if math.isnan(drift) else drift
            word = "same"
            if change.high / scale < 1 - least:
                word = "faster"
            elif change.low / scale > 1 + least:
                word = "slower"
            yield Verdict(id, name, word, change, drift)


def _ours(name: str) -> bool:
    return name.split()[0] == OURS.name


def _drift(before: dict[str, Any], after: dict[str, Any]) -> float:
    ratios = [
        after[name]["median_us"] / before[name]["median_us"]
        for name in after
        if name in before and not _ours(name)
    ]
    return statistics.median(ratios) if ratios else math.nan


def unpaired(before: Results, after: Results) -> list[str]:
    """Return the rows that only one of the files has, each with the word that says which."""
    return [f"only in the first: {id}" for id in before.rows if id not in after.rows] + [
        f"only in the second: {id}" for id in after.rows if id not in before.rows
    ]


def table(verdicts: Iterable[Verdict]) -> str:
    """Return the verdicts as text, a line each, and a line that counts them."""
    lines, counts = [], {"faster": 0, "slower": 0, "same": 0}
    for v in verdicts:
        counts[v.word] += 1
        drift = "" if math.isnan(v.drift) else f"  peers {v.drift:.2f}"
        lines.append(
            f"{v.word:<8}{v.change.ratio:.3f} ({v.change.low:.3f} ... {v.change.high:.3f})"
            f"{drift}  {v.id}  {v.name}"
        )
    lines.append(", ".join(f"{count} {word}" for word, count in counts.items()))
    return "\n".join(lines)
