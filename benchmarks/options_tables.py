#!/usr/bin/env python3
"""Write what options cost into their pages, docs/options/*.md, from the results of options.py.

    python benchmarks/options_tables.py benchmarks/results/options-NAME.jsonl

A table stands between `<!-- costs -->` and `<!-- end of costs -->`; rows that were not measured are
left out. A test holds the pages to the results that docs/options/README.md names.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from rnnfast.bench.report import markdown

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "options"
COSTS = re.compile(r"(?<=<!-- costs -->\n).*?(?=\n<!-- end of costs -->)", re.DOTALL)
CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}
SHAPES = {"small": [128, 8, 64, 64], "large": [128, 64, 128, 256]}

# By page: what a row is called there, and in the results.
ROWS = {
    "README.md": {"every option given, at its default": "all off, in so many words"},
    "resets.md": {
        "`reset` at 3 % of the borders": "reset, 3 %",
        "the same, with a `reset_state` for each": "reset to states, 3 %",
        'the same, with `reset_to="learned"`': "reset to learned, 3 %",
    },
    "lengths-and-masks.md": {
        "`mask`, all steps used": "mask, all steps used",
        "`mask`, one step in ten unused": "mask, one step in ten a hole",
        "`lengths`, all T − 1": "lengths, all T - 1",
        'the same, `pad_output="hold"`': "the same, held",
        "`cu_seqlens`, all rows T − 1": "flat, all T - 1",
        "`lengths`, uniform in 1 … T": "lengths uniform in 1 ... T",
    },
    "states.md": {
        "a learned initial state": "learned states",
        "states and gates read": "states and gates read",
        "gradient into c (LSTM) or h": "gradients into states",
        "gradient into the gates": "gradients into gates",
    },
    "dropout.md": {
        "`recurrent_dropout`, one mask": "recurrent dropout",
        "`recurrent_dropout`, per step": "recurrent dropout per step",
        "`zoneout`, training": "zoneout",
        "`zoneout`, evaluation": "zoneout, expected",
        "`weight_drop`": "weight drop",
        "`dropout` between two layers": "dropout between two layers",
    },
    "gradients.md": {
        "`clip_state_gradient`": "state gradients clipped",
        "`cell_clip`": "cell clip",
        "`burn_in` of one step": "burn-in of one step",
        "`tbptt` of 32 steps": "gradient cut every 32 steps",
    },
    "stacks.md": {"`residual`, two layers": "residual, two layers"},
}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the measured rows of a file."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [row for row in rows if "shape" in row]


def table(rows: list[dict[str, Any]], names: dict[str, str]) -> str:
    """Return the table of some options, by thread count."""
    columns = [(shape, cell) for shape in SHAPES for cell in CELLS]
    lines: list[list[str]] = []
    for label, name in names.items():
        for threads in sorted({row["threads"] for row in rows if row["row"] == name}):
            found = {
                (row["cell"], tuple(row["shape"])): row
                for row in rows
                if row["row"] == name and row["threads"] == threads
            }
            line = [found.get((cell, tuple(SHAPES[shape]))) for shape, cell in columns]
            lines.append([label, str(threads), *(_entry(row) if row else "" for row in line)])
    if not lines:
        return "Not measured yet."
    heads = ["option", "threads", *(f"{CELLS[cell]}, {shape}" for shape, cell in columns)]
    return markdown(heads, lines)


def _entry(row: dict[str, Any]) -> str:
    entry = f"{row['ratio']:.2f} (≤ {row['bound_95']:.2f})"
    return entry + (f" of {row['allowed']:.2f}" if "allowed" in row else "")


def filled(page: Path, rows: list[dict[str, Any]]) -> str:
    """Return a page's text with the table of these rows."""
    text, count = COSTS.subn(lambda _: table(rows, ROWS[page.name]), page.read_text("utf-8"))
    if count != 1:
        raise SystemExit(f"{page}: {count} places for a table, expected one")
    return text


def main() -> int:
    """Fill all pages."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    rows = read(Path(sys.argv[1]))
    for name in ROWS:
        page = PAGES / name
        page.write_text(filled(page, rows), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
