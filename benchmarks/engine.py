#!/usr/bin/env python3
"""What a plain call costs, and how forward plus backward stands against torch.nn.

    python benchmarks/engine.py [--out benchmarks/results/NAME.jsonl]

Needs rnnfast and torch in one environment (they share one OpenMP runtime). Every pair is checked
first (outputs and gradients agree) and then timed in turns, call by call, the order swapped each
round; printed are medians and the median of the ratios pair by pair with a 95 % bound from
resampling them. One JSON line per row; the first names machine, versions and commit.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from turns import Lines, header, in_turns, ratio_of

import rnnfast
from rnnfast import _core

SHAPES = [(128, 8, 64, 64), (100, 1, 256, 256)]
LAYERS = {"lstm": ("LSTM", {}), "gru": ("GRU", {}), "rnn_tanh": ("RNN", {})}


def torch_twin(layer, name: str, options: dict) -> torch.nn.Module:
    """Return PyTorch's layer with the same parameters."""
    twin = getattr(torch.nn, name)(layer.input_size, layer.hidden_size, **options)
    twin.load_state_dict({k: torch.from_numpy(v) for k, v in layer.state_dict().items()})
    return twin


def against_torch(cell: str, shape: tuple[int, ...], threads: int, seconds: float) -> dict:
    """Compare, then time forward plus backward of a whole layer."""
    T, B, I, H = shape
    name, options = LAYERS[cell]
    layer = getattr(rnnfast, name)(I, H, seed=0, **options)
    twin = torch_twin(layer, name, options)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    dy = rng.standard_normal((T, B, H)).astype(np.float32)
    their_x, their_dy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def ours():
        y, _, tape = layer.forward(x)
        return y, layer.backward(tape, dy)

    def theirs():
        twin.zero_grad()
        their_x.grad = None
        y, _ = twin(their_x)
        y.backward(their_dy)
        return y

    y, gradients = ours()
    kernel = rnnfast.last_kernel()
    their_y = theirs().detach().numpy()
    off = max(
        np.abs(a - b).max() / np.abs(b).max()
        for a, b in [
            (y, their_y),
            (gradients.x, their_x.grad.numpy()),
            *((gradients.parameters[k], p.grad.numpy()) for k, p in twin.named_parameters()),
        ]
    )
    # A check that both compute the same thing, not a test: tests judge by the yardstick.
    assert off < 1e-4, f"{cell} {shape}: results differ by {off:.1e}"
    times = in_turns([ours, theirs], seconds)
    ratio, bound = ratio_of(times, 1, 0)
    return {
        "row": "forward+backward",
        "kernel": kernel,
        "shape": shape,
        "threads": threads,
        "ours_us": round(float(np.median(times[:, 0])) * 1e6, 1),
        "torch_us": round(float(np.median(times[:, 1])) * 1e6, 1),
        "torch_over_ours": round(ratio, 2),
        "bound_95": round(bound, 2),
        "rounds": len(times),
        "largest_difference": float(f"{off:.1e}"),
    }


def call_cost(cell: str, seconds: float) -> list[dict]:
    """Time the Python of a plain call at (1, 1, 64, 64) over the compiled call it makes."""
    name, options = LAYERS[cell]
    layer = getattr(rnnfast, name)(64, 64, seed=0, **options)
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


def main() -> int:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the JSON lines here too")
    parser.add_argument("--seconds", type=float, default=2.0, help="per row (default 2)")
    options = parser.parse_args()
    put = Lines()
    put(header(torch=torch.__version__))
    cores = len(os.sched_getaffinity(0))
    for threads in (1, 2) if cores >= 2 else (1,):
        rnnfast.set_num_threads(threads)
        torch.set_num_threads(threads)
        for shape in SHAPES:
            for cell in LAYERS:
                put(against_torch(cell, shape, threads, options.seconds))
    rnnfast.set_num_threads(1)
    for cell in LAYERS:
        for row in call_cost(cell, options.seconds / 2):
            put(row)
    if options.out:
        put.write(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
