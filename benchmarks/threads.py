#!/usr/bin/env python3
"""Two threads against one around the sizes from which a call takes two.

    python benchmarks/threads.py [--seconds S] [--out benchmarks/results/NAME.jsonl]

One and two threads are asked for outright, and then the choice is left to the engine
(`threads_that_pay`, csrc/cpu/engine.cpp): "choice_over_one" should be the smaller of 1 and
"two_over_one". Medians round by round; of the latter also the upper 95 % bound.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

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


def rows(seconds: float) -> Iterator[dict]:
    """Time all rows."""
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

                calls = [lambda n=n: call(n) for n in (1, 2, (2,))]
                times = in_turns(calls, seconds)
                ratio, bound = ratio_of(times, 1, 0, upper=True)
                choice, _ = ratio_of(times, 2, 0)
                yield {
                    **{"row": "forward+backward" if training else "inference", "cell": cell},
                    "shape": (T, B, H, H),
                    "one_us": round(float(np.median(times[:, 0])) * 1e6, 2),
                    "two_over_one": round(ratio, 3),
                    "bound_95": round(bound, 3),
                    "choice_over_one": round(choice, 3),
                }


if __name__ == "__main__":
    sys.exit(run_rows(__doc__, rows, 0.3))
