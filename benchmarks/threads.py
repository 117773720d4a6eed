#!/usr/bin/env python3
"""Two threads against one around the sizes from which a call takes two.

    python benchmarks/threads.py [--seconds S] [--out benchmarks/results/NAME.jsonl]

One and two threads are asked for outright, and then the choice is left to the engine
(csrc/cpu/engine.cpp): "choice_over_one" should be the smaller of 1 and "two_over_one". Medians
round by round; of the latter also the upper 95 % bound. "linear" is the layer of an output, its
shape (N, K, M); "dropout" and "residual" stand between two layers, their shape (T, B, H).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
from turns import in_turns, ratio_of, run_rows

from rnnfast import _core
from rnnfast.bench import grid
from rnnfast.cells import CELLS

# (T, B, H), I = H: single steps; rows that split their units and meet at every step; small batches
# that split their rows.
SHAPES = [
    *((1, 1, H) for H in (64, 96, 128, 192, 256, 384)),
    *((50, 1, H) for H in (48, 64, 80, 96, 128, 192)),
    *((50, 4, H) for H in (32, 48, 64, 96)),
    *((T, 8, H) for T in (1, 2, 4, 8) for H in (32, 64)),
]
LINEAR = [
    *((N, 64, 64) for N in (8, 16, 32, 64, 128)),
    *((1, K, K) for K in (256, 512, 1024)),
]
BETWEEN = [*((T, 8, 64) for T in (8, 16, 32, 64, 128))]

Call = Callable[[int | tuple[int]], object]


def layer_calls() -> Iterator[tuple[dict, Call]]:
    """Yield recurrent layers: what a row says of the call, and the call by its threads."""
    for cell in grid.GRID_CELLS:
        G, S = CELLS[cell].G, CELLS[cell].S
        for T, B, H in SHAPES:
            rng = np.random.default_rng(0)

            def draw(*shape: int, rng: np.random.Generator = rng, H: int = H) -> np.ndarray:
                return (rng.standard_normal(shape) / np.sqrt(H)).astype(np.float32)

            params = ((draw(G * H, H), draw(G * H, H), draw(G * H), draw(G * H)),)
            state = tuple(draw(1, B, H) for _ in range(S))
            x, dy = draw(T, B, H), draw(T, B, H)
            for training in (False, True):

                def call(
                    threads: int | tuple[int],
                    given: tuple = (cell, x, params, state, None, training),
                    dy: np.ndarray = dy,
                ) -> None:
                    _, _, tape = _core.forward(*given, threads)
                    if given[-1]:
                        _core.backward(tape, dy, None, True, threads)

                what = "forward+backward" if training else "inference"
                yield {"row": what, "cell": cell, "shape": (T, B, H, H)}, call


def other_calls() -> Iterator[tuple[dict, Call]]:
    """Yield what stands between layers and behind them."""
    rng = np.random.default_rng(0)
    for N, K, M in LINEAR:
        x, W, b, dy = (
            rng.standard_normal(shape).astype(np.float32)
            for shape in ((N, K), (M, K), (M,), (N, M))
        )
        yield (
            {"row": "inference", "cell": "linear", "shape": (N, K, M)},
            lambda n, x=x, W=W, b=b: _core.linear_forward(x, W, b, n),
        )
        yield (
            {"row": "backward", "cell": "linear", "shape": (N, K, M)},
            lambda n, x=x, W=W, dy=dy: _core.linear_backward(x, W, dy, True, True, n),
        )
    for T, B, H in BETWEEN:
        x, add = rng.standard_normal((2, T, B, H)).astype(np.float32)
        for what, given, p in (("dropout", None, 0.5), ("residual", add, 0.0)):
            yield (
                {"row": "inference", "cell": what, "shape": (T, B, H)},
                lambda n, x=x, add=given, p=p: _core.between_layers(
                    x, add, x.shape[2], p, 0, 0, 0, None, None, n
                ),
            )


def rows(seconds: float) -> Iterator[dict]:
    """Time all rows."""
    for calls in (layer_calls, other_calls):
        for row, call in calls():
            times = in_turns([lambda n=n, c=call: c(n) for n in (1, 2, (2,))], seconds)
            ratio, bound = ratio_of(times, 1, 0, upper=True)
            choice, _ = ratio_of(times, 2, 0)
            yield row | {
                "one_us": round(float(np.median(times[:, 0])) * 1e6, 2),
                "two_over_one": round(ratio, 3),
                "bound_95": round(bound, 3),
                "choice_over_one": round(choice, 3),
            }


if __name__ == "__main__":
    sys.exit(run_rows(__doc__, rows, 0.3))
