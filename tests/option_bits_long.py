#!/usr/bin/env python3
"""Run every law of `option_laws.py` on random configurations, as many as asked for.

    python tests/option_bits_long.py 10000 [first seed]

Prints the seed of each configuration that breaks a law; the status is then 1.
"""

from __future__ import annotations

import sys
import traceback

import numpy as np
from option_laws import LAWS
from option_problems import draw
from problems import CELL_NAMES


def check(seed: int) -> None:
    """Draw the configuration of a seed and hold it to all laws."""
    rng = np.random.default_rng([seed, 7])
    cell = CELL_NAMES[seed % len(CELL_NAMES)]
    dtype = (np.float32, np.float64)[int(rng.integers(2))]
    sizes = {}
    if seed % 10 == 0:
        # Now and then more rows than a tile, several chunks, more units than a panel.
        sizes = {
            "T": int(rng.choice([3, 15, 16, 17, 40])),
            "B": int(rng.choice([1, 5, 13, 33])),
            "H": int(rng.choice([8, 16, 17, 33, 65])),
        }
    problem = draw(seed, cell, dtype, **sizes)
    for name, law in LAWS.items():
        try:
            law(problem, rng)
        except AssertionError as error:
            raise AssertionError(
                f"seed {seed} ({cell}, {dtype.__name__}), {name}: {error}"
            ) from error


def main() -> int:
    count = int(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    broken = 0
    for seed in range(first, first + count):
        try:
            check(seed)
        except AssertionError as error:
            broken += 1
            print(error, flush=True)
            if broken == 1:
                traceback.print_exc()
    print(f"{count} configurations, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
