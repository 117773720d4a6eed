#!/usr/bin/env python3
"""What the Python of a call costs, over the compiled call that it makes.

    python benchmarks/call_cost.py [--out benchmarks/results/NAME.jsonl]

At (1, 1, 64, 64), one thread: a whole call and the entrance of the compiled module below it, in
turns, the order swapped each round; printed are the median and the median of the differences. One
JSON line per row; the first names machine, versions and commit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from turns import in_turns, run_rows

import rnnfast
from rnnfast import _core

LAYERS = {"lstm": rnnfast.LSTM, "gru": rnnfast.GRU, "rnn_tanh": rnnfast.RNN}


def call_cost(cell: str, seconds: float) -> list[dict]:
    """Time the Python of a plain call at (1, 1, 64, 64) over the compiled call it makes."""
    layer = LAYERS[cell](64, 64, seed=0)
    function = getattr(rnnfast, cell.split("_")[0])
    row = tuple(layer.parameters[k] for k in layer.parameters)
    x = np.ones((1, 1, 64), np.float32)
    states = 2 if cell == "lstm" else 1
    whole = tuple(np.zeros((1, 1, 64), np.float32) for _ in range(states))
    state = whole if states == 2 else whole[0]
    flat = tuple(s[0] for s in whole)
    dy = np.ones((1, 1, 64), np.float32)

    def kernel():
        return _core.forward(cell, x, (row,), whole, None, False, None)

    def kernels():
        _, _, tape = _core.forward(cell, x, (row,), whole, None, True, None)
        return _core.backward(tape, dy, None, True, None)

    def both():
        _, _, tape = layer.forward(x, state)
        return layer.backward(tape, dy)

    calls = {
        "layer(x, state)": (lambda: layer(x, state), kernel, 5),
        f"{function.__name__}(x, ...)": (lambda: function(x, *row, *flat), kernel, 3),
        "forward and backward": (both, kernels, 15),
    }
    rows = []
    for what, (call, below, allowed) in calls.items():
        # Calls of microseconds: a round times 200 of each.
        def many(f):
            def run():
                for _ in range(200):
                    f()

            return run

        times = in_turns([many(call), many(below)], seconds) / 200 * 1e6
        rows.append(
            {
                "row": "call cost",
                "cell": cell,
                "call": what,
                "whole_us": round(float(np.median(times[:, 0])), 2),
                "over_kernel_us": round(float(np.median(times[:, 0] - times[:, 1])), 2),
                "allowed_us": allowed,
            }
        )
    return rows


def all_rows(seconds: float) -> Iterator[dict]:
    """Yield all rows, timed on one thread."""
    rnnfast.set_num_threads(1)
    for cell in LAYERS:
        yield from call_cost(cell, seconds)


if __name__ == "__main__":
    sys.exit(run_rows(__doc__, all_rows))
