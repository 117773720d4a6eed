#!/usr/bin/env python3
"""What the options of the scan cost: each against the plain call, in turns, on this machine.

    python benchmarks/options.py [--rows GLOB ...] [--out benchmarks/results/NAME.jsonl]

A row is called CELL.TxBxIxH.tTHREADS.OPTION, and `--rows` picks some: `"gru.128x8x64x64.t1.*"`.

Times are of forward plus backward of one layer, through the public interface. `ratio` is the median
of time(with the option) / time(plain), pair by pair, `bound_95` its upper 95 % bound. For rows of
unequal lengths it stands beside the ratio of the two limits, as `rnnfast bench` has them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from turns import Lines, header, in_turns, ratio_of

import rnnfast
from rnnfast.bench.grid import TRAINING, Row
from rnnfast.bench.limit import limit
from rnnfast.bench.machine import Peaks, measure_peaks

SHAPES = [(128, 8, 64, 64), (128, 64, 128, 256)]
MIXED = "lengths uniform in 1 ... T"
LAYERS = {"lstm": rnnfast.LSTM, "gru": rnnfast.GRU, "rnn_tanh": rnnfast.RNN}


def variants(shape: tuple[int, ...], states: int) -> dict[str, tuple[dict, dict, dict]]:
    """Options by name: of the layer, of the call, of backward."""
    T, B, _, H = shape
    rng = np.random.default_rng(1)

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    dstates = rnnfast.States(None, normal(1, T, B, H) if states > 1 else None, None)
    if states == 1:
        dstates = dstates._replace(h=normal(1, T, B, H))
    training: dict[str, Any] = {"training": True, "seed": 1}
    half = (rng.random((1, T, B, H)) - 0.5).astype(np.float32)
    reset_state = half if states == 1 else (half, half.copy())
    return {
        "plain": ({}, {}, {}),
        "reset, 3 %": ({}, {"reset": rng.random((T, B)) < 0.03}, {}),
        "reset to states, 3 %": (
            {},
            {"reset": rng.random((T, B)) < 0.03, "reset_state": reset_state},
            {},
        ),
        "mask, all steps used": ({}, {"mask": np.ones((T, B), bool)}, {}),
        "lengths, all T - 1": ({}, {"lengths": np.full(B, T - 1)}, {}),
        "gradients into states": ({}, {}, {"dstates": dstates}),
        "recurrent dropout": ({"recurrent_dropout": 0.25}, training, {}),
        "recurrent dropout per step": (
            {"recurrent_dropout": 0.25, "recurrent_dropout_mode": "step"},
            training,
            {},
        ),
        "zoneout": ({"zoneout": 0.1}, training, {}),
        "zoneout, expected": ({"zoneout": 0.1}, {}, {}),
        "weight drop": ({"weight_drop": 0.25}, training, {}),
        "state gradients clipped": ({"clip_state_gradient": 1.0}, {}, {}),
        **({"cell clip": ({"cell_clip": 3.0}, {}, {})} if states > 1 else {}),
        MIXED: ({}, {"lengths": np.random.default_rng(2).integers(1, T + 1, B)}, {}),
    }


def runner(cell: str, shape: tuple[int, ...], ctor: dict, call: dict, back: dict):
    """Forward plus backward of a layer with options."""
    T, B, I, H = shape
    layer = LAYERS[cell](I, H, seed=0, **ctor)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    dy = rng.standard_normal((T, B, H)).astype(np.float32)

    def run():
        _, _, tape = layer.forward(x, **call)
        return layer.backward(tape, dy, **back)

    return run


def allowed(row: Row, options: tuple[dict, dict, dict], peaks: Peaks) -> dict[str, float]:
    """Return what rows of these lengths may take at most, of the time of the full ones."""
    lengths = options[1]["lengths"]
    least = limit(row, peaks, int(lengths.sum())).seconds / limit(row, peaks).seconds
    return {
        "used": round(float(lengths.mean() / row.T), 3),
        "ratio_of_limits": round(least, 3),
        "allowed": round(least / 0.9, 3),
    }


def main() -> int:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    parser.add_argument("--seconds", type=float, default=2.0, help="per row (default 2)")
    parser.add_argument("--rows", nargs="+", default=["*"], help="patterns of rows (default all)")
    given = parser.parse_args()
    put = Lines()
    put(header())
    counts = (1, 2) if len(os.sched_getaffinity(0)) >= 2 else (1,)
    peaks: dict[int, Peaks] = {}
    for threads, shape, cell in itertools.product(counts, SHAPES, LAYERS):
        for name, options in variants(shape, 2 if cell == "lstm" else 1).items():
            row = f"{cell}.{'x'.join(map(str, shape))}.t{threads}.{name}"
            if not any(fnmatchcase(row, pattern) for pattern in given.rows):
                continue
            rnnfast.set_num_threads(threads)
            if threads not in peaks:
                peaks[threads] = measure_peaks(threads)
                put({"row": "peaks", **peaks[threads].fields()})
            plain = runner(cell, shape, {}, {}, {})
            times = in_turns([runner(cell, shape, *options), plain], given.seconds)
            ratio, bound = ratio_of(times, 0, 1, upper=True)
            result = {
                "row": name,
                "cell": cell,
                "shape": shape,
                "threads": threads,
                "us": round(float(np.median(times[:, 0])) * 1e6, 1),
                "plain_us": round(float(np.median(times[:, 1])) * 1e6, 1),
                "ratio": round(ratio, 3),
                "bound_95": round(bound, 3),
                "rounds": len(times),
            }
            if name == MIXED:
                result |= allowed(Row(cell, *shape, passed=TRAINING), options, peaks[threads])
            put(result)
    if given.out:
        put.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
