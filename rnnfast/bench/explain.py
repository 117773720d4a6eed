"""Why a row takes longer than is wanted of it: its time, split by what was measured in its rounds.

A row's limit comes from peaks that were taken once per run. In each round of the row itself the
tile (`machine.Tile`), an activation (`machine.Activation`) and a read of its weights
(`machine.Read`) are timed as well, so that what the machine lacked can be told from what the
kernels lose. The parts are worked out one after the other, each with what came before it, and add
up to the row's time; where the machine did better than its peaks, a part is negative.
"""

from __future__ import annotations

from typing import Any

from .limit import ACTIVATION_SECONDS
from .machine import BUSY_CORES
from .peers import ours_in

__all__ = ["ARITHMETIC", "LATENCY", "STEP", "WANTED", "explain", "group"]

ARITHMETIC, LATENCY, STEP = "32 rows and 128 units or more", "fewer of either", "a single step"
WANTED = {ARITHMETIC: 0.85, LATENCY: 0.5}
"""The share of its limit that a row is to reach, by group: where the arithmetic bounds, and where
latency does. Single steps have none."""


def group(row: dict[str, Any]) -> str:
    """Return the group that a row belongs to."""
    if row["T"] == 1:
        return STEP
    return ARITHMETIC if row["B"] >= 32 and row["H"] >= 128 else LATENCY


def explain(row: dict[str, Any]) -> str | None:
    """Return a sentence that says where a row's time went; None where nothing is to be explained.

    Parameters
    ----------
    row : dict
        As a file has it, complete.
    """
    name = ours_in(row["option"], row["times"])
    wanted = WANTED.get(group(row))
    if name is None or wanted is None or row["times"][name]["of_limit"] >= wanted:
        return None
    figures, limit, n = row["times"][name], row["limit_parts_us"], row["threads"]
    cores = row.get("cores_had", 1.0)
    slower = n / cores  # than threads that had a core each
    alone = row["tile_gflops"] / cores  # of one thread
    peak = row["peak_gflops"] / n
    product, memory = limit["arithmetic"], limit["memory"]
    tiles = product * peak / alone
    reads = memory * row["peak_read_gbs"] / row["read_gbs"]
    activations = limit["activations"] * row["activation_ns"] / (ACTIVATION_SECONDS * 1e9)
    parts = [
        (
            max(tiles, memory) - max(product, memory),
            f"the tile, {alone:.3g} GFLOP/s a thread where the peak is {peak:.3g}",
        ),
        (
            activations - limit["activations"],
            f"activations, {row['activation_ns']:.2g} ns each and not "
            f"{ACTIVATION_SECONDS * 1e9:.2g}",
        ),
    ]
    if n > 1:
        parts.append(
            (
                max(tiles * slower, memory) - max(tiles, memory) + activations * (slower - 1),
                f"cores, for {n} threads had {cores:.2g} of them",
            )
        )
    parts.append(
        (
            max(tiles * slower, reads) - max(tiles * slower, memory),
            f"reading weights, {row['read_gbs']:.3g} GB/s where the peak is "
            f"{row['peak_read_gbs']:.3g}",
        )
    )
    time = figures["median_us"]
    rest = time - row["limit_us"] - sum(part for part, _ in parts)
    parts.append((rest, "the rest, not measured apart"))
    text = (
        f"{figures['of_limit']:.0%} of the limit, wanted {wanted:.0%} ({group(row)}); of its time "
    )
    text += "; ".join(f"{part / time:.0%} {what}" for part, what in parts)
    others = row.get("others_cores") or 0.0
    return text + (f"; other processes used {others:g} cores" if others > BUSY_CORES else "")
