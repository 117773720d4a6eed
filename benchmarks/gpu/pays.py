#!/usr/bin/env python3
"""Measure which layers of NumPy arrays take less time on the GPU, for rnnfast/cuda/costs.py.

Forward plus backward of a layer, as a user calls it, with device="cpu" and device="cuda" in turns;
copies to the device and back are part of a call. A layer pays where the GPU was faster in every
call shape (T, B) of the list, for the choice must not depend on them. Prints the smallest layers
that pay as rows of the table; raw times go to FILE.

    pays.py --out FILE.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import rnnfast
from rnnfast.cuda.costs import Paid

CELLS = {"rnn_tanh": "RNN", "lstm": "LSTM", "gru": "GRU"}
DTYPES = ("float32", "float64")
SIZES = (32, 64, 128, 256, 512, 1024)
LAYERS = (1, 2)
CALLS = ((100, 1), (100, 32))
PAIRS = 9


def seconds(layer: Any, x: np.ndarray, dy: np.ndarray) -> float:
    """Time one call forward and back."""
    start = time.perf_counter()
    _, _, tape = layer.forward(x)
    layer.backward(tape, dy)
    return time.perf_counter() - start


def measure(cell: str, dtype: str, H: int, L: int) -> dict[str, Any]:
    """Return the times of a layer on both, in pairs."""
    kind = getattr(rnnfast, CELLS[cell])
    layers = {d: kind(H, H, L, dtype=dtype, seed=0, device=d) for d in ("cpu", "cuda")}
    rng = np.random.default_rng(0)
    row: dict[str, Any] = {"cell": cell, "dtype": dtype, "I": H, "H": H, "L": L, "ratio": {}}
    for T, B in CALLS:
        x, dy = rng.standard_normal((2, T, B, H)).astype(dtype)
        times = [[seconds(layer, x, dy) for layer in layers.values()] for _ in range(PAIRS + 1)]
        ratios = sorted(cpu / cuda for cpu, cuda in times[1:])  # the first call warms up
        row["ratio"][f"{T}x{B}"] = [statistics.median(ratios), ratios[0], ratios[-1]]
    return row


def smallest(rows: list[dict[str, Any]]) -> list[Paid]:
    """Return the layers that pay, less those that a smaller one stands for."""
    paid = [
        Paid(*(row[name] for name in Paid._fields))
        for row in rows
        if all(median > 1 for median, *_ in row["ratio"].values())
    ]
    return [
        p
        for p in paid
        if not any(
            q != p and q[:2] == p[:2] and all(a <= b for a, b in zip(q[2:], p[2:], strict=True))
            for q in paid
        )
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    rows = []
    with given.out.open("w", encoding="utf-8") as file:
        for point in itertools.product(CELLS, DTYPES, SIZES, LAYERS):
            rows.append(measure(*point))
            file.write(json.dumps(rows[-1]) + "\n")
    for row in smallest(rows):
        print(f"    {row},")


if __name__ == "__main__":
    main()
