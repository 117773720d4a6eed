#!/usr/bin/env python3
"""What the options of the scan cost: each against the plain call, in turns, on this machine.

    python benchmarks/options.py [--rows GLOB ...] [--out benchmarks/results/NAME.jsonl]

A row is called CELL.TxBxIxH.tTHREADS.OPTION, and `--rows` picks some: `"gru.128x8x64x64.t1.*"`.

Times are of forward plus backward of a layer, through the public interface. `ratio` is the median
of time(with the option) / time(plain), pair by pair, `bound_95` its upper 95 % bound. For rows of
unequal lengths it stands beside the ratio of the two limits, as `rnnfast bench` has them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from turns import Lines, header, in_turns, ratio_of

import rnnfast
from rnnfast.bench.grid import TRAINING, Row
from rnnfast.bench.limit import limit
from rnnfast.bench.machine import Peaks, measure_peaks
from rnnfast.cells import CELLS

SHAPES = [(128, 8, 64, 64), (128, 64, 128, 256)]
MIXED = "lengths uniform in 1 ... T"
LAYERS = {"lstm": rnnfast.LSTM, "gru": rnnfast.GRU, "rnn_tanh": rnnfast.RNN}


@dataclass(frozen=True)
class Variant:
    """Options of a layer, of its call and of backward, and what it is compared with."""

    layer: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    back: dict[str, Any] = field(default_factory=dict)
    num_layers: int = 1
    flat: bool = False
    """Whether x and dy are flat, all rows of T - 1 steps: of T, a power of two, they would share
    cache sets."""
    reads_states: bool = False
    """Whether states and gates of all steps are asked for."""


def variants(shape: tuple[int, ...], cell: str) -> dict[str, Variant]:
    """Return the variants by name; the first two are the plain call itself."""
    T, B, _, H = shape
    spec = CELLS[cell]
    rng = np.random.default_rng(1)

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    of_states = rnnfast.States(None, normal(1, T, B, H) if spec.S > 1 else None, None)
    if spec.S == 1:
        of_states = of_states._replace(h=normal(1, T, B, H))
    of_gates = rnnfast.States(None, None, normal(1, T, B, spec.G, H))
    training = {"training": True, "seed": 1}
    half = (rng.random((1, T, B, H)) - 0.5).astype(np.float32)
    reset = {"reset": rng.random((T, B)) < 0.03}
    learned = {"initial_state": "learned"}
    off = {
        "layer": {name: 0.0 for name in ("recurrent_dropout", "zoneout", "weight_drop")}
        | {"clip_state_gradient": None, "cell_clip": None, "residual": False},
        "call": {name: None for name in ("reset", "reset_state", "lengths", "mask")}
        | {"burn_in": 0, "tbptt": None, "pad_output": "zero", "training": True},
    }
    by_step = {"recurrent_dropout": 0.25, "recurrent_dropout_mode": "step"}
    return {
        "plain": Variant(),
        "all off, in so many words": Variant(**off),
        "reset, 3 %": Variant(call=reset),
        "reset to states, 3 %": Variant(
            call=reset | {"reset_state": half if spec.S == 1 else (half, half.copy())}
        ),
        "reset to learned, 3 %": Variant(learned, reset | {"reset_to": "learned"}),
        "learned states": Variant(learned),
        "mask, all steps used": Variant(call={"mask": np.ones((T, B), bool)}),
        "mask, one step in ten a hole": Variant(call={"mask": rng.random((T, B)) >= 0.1}),
        "lengths, all T - 1": Variant(call={"lengths": np.full(B, T - 1)}),
        "the same, held": Variant(call={"lengths": np.full(B, T - 1), "pad_output": "hold"}),
        "flat, all T - 1": Variant(call={"cu_seqlens": np.arange(B + 1) * (T - 1)}, flat=True),
        "states and gates read": Variant(reads_states=True),
        "gradients into states": Variant(back={"dstates": of_states}),
        "gradients into gates": Variant(back={"dstates": of_gates}),
        "recurrent dropout": Variant({"recurrent_dropout": 0.25}, training),
        "recurrent dropout per step": Variant(by_step, training),
        "zoneout": Variant({"zoneout": 0.1}, training),
        "zoneout, expected": Variant({"zoneout": 0.1}),
        "weight drop": Variant({"weight_drop": 0.25}, training),
        "state gradients clipped": Variant({"clip_state_gradient": 1.0}),
        **({"cell clip": Variant({"cell_clip": 3.0})} if spec.S > 1 else {}),
        "burn-in of one step": Variant(call={"burn_in": 1}),
        "gradient cut every 32 steps": Variant(call={"tbptt": 32}),
        "dropout between two layers": Variant({"dropout": 0.25}, training, num_layers=2),
        "residual, two layers": Variant({"residual": True}, num_layers=2),
        MIXED: Variant(call={"lengths": np.random.default_rng(2).integers(1, T + 1, B)}),
    }


def runner(cell: str, shape: tuple[int, ...], of: Variant) -> Callable[[], Any]:
    """Forward plus backward of a layer with options."""
    T, B, I, H = shape
    layer = LAYERS[cell](I, H, of.num_layers, seed=0, **of.layer)
    rng = np.random.default_rng(0)
    rows = ((T - 1) * B,) if of.flat else (T, B)
    x = rng.standard_normal((*rows, I)).astype(np.float32)
    dy = rng.standard_normal((*rows, H)).astype(np.float32)

    def run() -> Any:
        _, _, tape = layer.forward(x, **of.call)
        states = tape.states() if of.reads_states else None
        return states, layer.backward(tape, dy, **of.back)

    return run


def allowed(row: Row, lengths: np.ndarray, peaks: Peaks) -> dict[str, float]:
    """Return what rows of these lengths may take at most, of the time of the full ones."""
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
        for name, variant in variants(shape, cell).items():
            row = f"{cell}.{'x'.join(map(str, shape))}.t{threads}.{name}"
            if not any(fnmatchcase(row, pattern) for pattern in given.rows):
                continue
            rnnfast.set_num_threads(threads)
            if threads not in peaks:
                peaks[threads] = measure_peaks(threads)
                put({"row": "peaks", **peaks[threads].fields()})
            plain = runner(cell, shape, Variant(num_layers=variant.num_layers))
            times = in_turns([runner(cell, shape, variant), plain], given.seconds)
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
                row_of = Row(cell, *shape, passed=TRAINING)
                result |= allowed(row_of, variant.call["lengths"], peaks[threads])
            put(result)
    if given.out:
        put.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
