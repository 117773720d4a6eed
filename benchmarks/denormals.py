#!/usr/bin/env python3
"""Whether a long decay into numbers below the smallest normal costs anything.

    python benchmarks/denormals.py [--out benchmarks/results/NAME.jsonl]

Without input, states of these layers decay by 0.99 a step. In turns, on one thread: a call whose
states begin at 1e-37 and one whose states begin at 1; a backward pass whose gradient comes in at
the last step alone, as 1e-37 and as 1. Everything else is the same: the ratio is what denormals
cost, and is printed with its 95 % interval. `denormal` is the share of the states that NumPy, which
flushes nothing, has below the smallest normal. One JSON line per row; the first names machine,
versions and commit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
from turns import in_turns, run_rows

import rnnfast
from rnnfast.bench.statistics import ratio_of_pairs
from rnnfast.layers import Recurrent

LAYERS = {"lstm": rnnfast.LSTM, "gru": rnnfast.GRU, "rnn_tanh": rnnfast.RNN}
SHAPES = [(1500, 1, 64), (1500, 16, 64)]  # T, B, H; I = H
TINY = 1e-37
BIAS = 4.6  # sigmoid(4.6) = 0.99


def decaying(cell: str, H: int, device: str) -> Recurrent:
    """Return a layer whose states decay."""
    layer = LAYERS[cell](H, H, device=device)
    for array in layer.parameters.values():
        array[...] = 0
    if cell == "rnn_tanh":
        layer.parameters["weight_hh_l0"][...] = 0.99 * np.eye(H)
    else:  # the forget gate of the one, the update gate of the other: the second block
        layer.parameters["bias_ih_l0"][H : 2 * H] = BIAS
    return layer


def calls_of(
    cell: str, layer: Recurrent, T: int, B: int, scale: float
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a forward call from states of a scale, and a backward call from a gradient of it."""
    H = layer.hidden_size
    x = np.zeros((T, B, H), np.float32)
    states = tuple(np.full((1, B, H), scale, np.float32) for _ in rnnfast.CELLS[cell].states)
    ones = tuple(np.ones_like(s) for s in states)
    dy = np.zeros((T, B, H), np.float32)
    dy[-1] = scale

    def given(some: tuple[np.ndarray, ...]) -> object:
        return some if len(some) > 1 else some[0]

    tape = layer.forward(x, given(ones))[2]
    return lambda: layer(x, given(states))[0], lambda: layer.backward(tape, dy)


def rows_of(cell: str, T: int, B: int, H: int, seconds: float) -> list[dict]:
    """Time a forward and a backward call into denormals and beside them."""
    layer = decaying(cell, H, "cpu")
    pairs = zip(calls_of(cell, layer, T, B, TINY), calls_of(cell, layer, T, B, 1.0), strict=True)
    plain = calls_of(cell, decaying(cell, H, "numpy"), T, 1, TINY)[0]()
    below = (plain != 0) & (np.abs(plain) < np.finfo(np.float32).smallest_normal)
    rows = []
    for what, calls in zip(("forward", "backward"), pairs, strict=True):
        times = in_turns(list(calls), seconds)
        ratio, low, high = ratio_of_pairs(times[:, 0], times[:, 1])
        rows.append(
            {
                "row": "decay",
                "cell": cell,
                "shape": (T, B, H, H),
                "pass": what,
                "decay_us": round(float(np.median(times[:, 0])) * 1e6, 1),
                "normal_us": round(float(np.median(times[:, 1])) * 1e6, 1),
                "ratio": round(ratio, 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "rounds": len(times),
                "denormal": round(float(below.mean()), 2),
            }
        )
    return rows


def all_rows(seconds: float) -> Iterator[dict]:
    """Yield all rows, timed on one thread."""
    rnnfast.set_num_threads(1)
    for shape in SHAPES:
        for cell in LAYERS:
            yield from rows_of(cell, *shape, seconds)


if __name__ == "__main__":
    sys.exit(run_rows(__doc__, all_rows))
