#!/usr/bin/env python3
"""Run every law of `option_laws.py` on random configurations, until each held as often as asked.

    python tests/option_bits_long.py 10000 [first seed]

Most configurations leave some laws nothing to say: there is no reset, or no lengths. So some laws,
or none, are favoured in turn, and a configuration counts for those alone that did say something.
The counts are printed at the end; before that, the seed of each configuration that breaks a law,
and the status is then 1.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from option_laws import LAWS
from option_problems import draw
from problems import CELL_NAMES


class Favour(NamedTuple):
    """What gives a law something to say."""

    plus: Collection[str] = ()
    without: Collection[str] = ()
    D: int | None = None


FAVOURS = (
    Favour(["lengths"], ["flat"]),
    Favour(["reset"], ["burn_in", "tbptt"], D=1),
    Favour(["flat"], D=2),
    Favour(["reset", "lengths"], ["flat", "burn_in", "tbptt"], D=1),
    Favour(["reset", "flat"], ["burn_in", "tbptt"], D=1),
    Favour(),
)


def check(seed: int, favour: Favour | None = None) -> list[str]:
    """Draw the configuration of a seed and hold it to all laws; lists those that had something to
    say."""
    rng = np.random.default_rng([seed, 7])
    cell = CELL_NAMES[seed % len(CELL_NAMES)]
    dtype = (np.float32, np.float64)[int(rng.integers(2))]
    sizes: dict[str, int] = {}
    if seed % (10 if favour is None else 3) == 0:
        # Now and then more rows than a tile, several chunks, more units than a panel.
        sizes = {
            "T": int(rng.choice([3, 15, 16, 17, 40])),
            "B": int(rng.choice([1, 5, 13, 33])),
            "H": int(rng.choice([8, 16, 17, 33, 65])),
        }
    elif favour is not None and seed % 10:
        # Of two rows with lengths one has no step and the other all.
        some = [3, 6, 6] if "lengths" in favour.plus else [1, 2, 3, 6]
        sizes = {"T": int(rng.choice([2, 5, 9, 9, 17])), "B": int(rng.choice(some))}
    only: dict[str, Any] = {}
    if favour is not None:
        only = {"plus": favour.plus, "without": favour.without}
        if favour.D is not None:
            sizes["D"] = favour.D
    problem = draw(seed, cell, dtype, **only, **sizes)
    spoke = []
    for name, law in LAWS.items():
        try:
            if law(problem, rng):
                spoke.append(name)
        except AssertionError as error:
            raise AssertionError(
                f"seed {seed} ({cell}, {dtype.__name__}), {name}: {error}"
            ) from error
    return spoke


def main() -> int:
    count = int(sys.argv[1])
    first = seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    spoke = Counter(dict.fromkeys(LAWS, 0))
    broken = 0
    while min(spoke.values()) < count:
        try:
            spoke.update(check(seed, FAVOURS[seed % len(FAVOURS)]))
        except AssertionError as error:
            broken += 1
            print(error, flush=True)
            if broken == 1:
                traceback.print_exc()
            # A law that never holds would never have its count.
            if broken == 100:
                break
        seed += 1
    print(", ".join(f"{name} {times}" for name, times in spoke.items()))
    print(f"{seed - first} configurations, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
