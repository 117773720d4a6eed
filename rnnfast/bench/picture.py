"""Results as a picture: how many times its limit each contender takes, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from .grid import INFERENCE, TRAINING
from .peers import OURS, PEERS
from .report import NAMES, fastest
from .results import Results

__all__ = ["draw"]

# Of Okabe and Ito, which the colour-blind tell apart; rnnfast in black.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")


def draw(found: Results, path: Path, threads: int) -> None:
    """Draw the float32 rows without options of a number of threads into a file.

    A panel per cell and pass; each row of it is a shape, each mark a contender. Time stands as a
    multiple of the row's limit, on a scale of powers of ten: 1 is the limit.

    Parameters
    ----------
    found : Results
    path : Path
        Its suffix says the format: .png, .svg, .pdf.
    threads : int

    Raises
    ------
    ArgumentError
        If there is no such row.
    """
    rows = [
        row
        for row in found.rows.values()
        if row["threads"] == threads
        and row["dtype"] == "float32"
        and not row["option"]
        and row["times"]
    ]
    if not rows:
        raise ArgumentError(
            f"rnnfast bench picture: no plain float32 row of {threads} threads has times."
        )
    from matplotlib.figure import Figure

    cells = list(dict.fromkeys(row["cell"] for row in rows))
    passes = [p for p in (INFERENCE, TRAINING) if any(row["passed"] == p for row in rows)]
    shapes = list(dict.fromkeys(_shape(row) for row in rows))
    figure = Figure(figsize=(4.2 * len(cells) + 1, (0.26 * len(shapes) + 0.9) * len(passes) + 0.8))
    panels = figure.subplots(len(passes), len(cells), sharex=True, sharey=True, squeeze=False)
    for i, passed in enumerate(passes):
        for j, cell in enumerate(cells):
            panel = panels[i][j]
            here = [row for row in rows if (row["cell"], row["passed"]) == (cell, passed)]
            _panel(panel, here, shapes)
            panel.set_title(f"{NAMES.get(cell, cell)}, {passed}", fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("time / limit", fontsize=8)
    handles: dict[str, Any] = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = {title: k for k, title in enumerate([OURS.title, *(p.title for p in PEERS.values())])}
    labels = sorted(handles, key=order.__getitem__)
    machine = found.machines[-1]
    what = f"{machine['cpu']}, {threads} {'thread' if threads == 1 else 'threads'}, float32"
    figure.suptitle(f"{what}; T, B, I, H", fontsize=9)
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="lower center",
        ncols=len(labels),
        fontsize=8,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    # The title in words as well, which a page that shows the picture is held to.
    figure.savefig(path, dpi=130, metadata={"Title": f"{what}, commit {machine['commit']}"})


def _panel(panel: Any, rows: list[dict[str, Any]], shapes: list[str]) -> None:
    for name, colour in [(OURS.name, "black"), *zip(PEERS, COLOURS, strict=True)]:
        peer = OURS if name == OURS.name else PEERS[name]
        points = [
            (figures["median_us"] / row["limit_us"], shapes.index(_shape(row)))
            for row in rows
            if (figures := _figures(row, name)) is not None
        ]
        if points:
            x, y = zip(*points, strict=True)
            ours = peer is OURS
            panel.plot(
                x,
                y,
                linestyle="none",
                marker="D" if ours else "o",
                markersize=5 if ours else 4,
                color=colour,
                label=peer.title,
                zorder=3 if ours else 2,
            )
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.axvline(1, color="0.6", linewidth=0.8)
    panel.set_yticks(range(len(shapes)), shapes, fontsize=7)
    panel.set_ylim(len(shapes) - 0.5, -0.5)
    panel.tick_params(axis="x", labelsize=7)
    panel.grid(axis="x", linewidth=0.3)


def _figures(row: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return a peer's fastest way, and of rnnfast what the table's first column has."""
    return row["times"].get(name) if name == OURS.name else fastest(row, name)


def _shape(row: dict[str, Any]) -> str:
    sizes = [row["T"], row["B"], row["I"], row["H"]]
    return ", ".join(map(str, sizes)) + (f" x{row['L']}" if row["L"] > 1 else "")
