"""Good calls by number: the beginning of an input says which, and a corpus to start from."""

from __future__ import annotations

import functools
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import option_problems
from hostile import Choices
from option_problems import SINGLES, OptionProblem

__all__ = ["CELL_NAMES", "fresh", "problem_of", "write_corpus"]

CELL_NAMES = ["rnn_tanh", "rnn_relu", "lstm", "gru"]
_T, _B, _I, _H = (3, 0, 1, 2, 4, 6), (2, 0, 1, 3, 4), (2, 0, 1, 3, 5), (3, 1, 2, 4, 5, 6, 9, 17)
_FEATURES = sorted(option_problems._FEATURES)
_HEADER = 12


def problem_of(b: Choices) -> OptionProblem:
    """The good call that an input begins with, arrays of its own."""
    sizes = [b.next(n) for n in (4, 2, len(_T), len(_B), len(_I), len(_H), 2, 16)]
    features = [b.next(256) for _ in range(4)]
    return fresh(_built(*sizes, *features))


def _legal(cell: str, D: int, has: set[str]) -> frozenset[str]:
    if cell != "lstm":
        has.discard("cell_clip")
    if D == 2:
        has.discard("reverse")
    if D == 2 or "reverse" in has:
        has -= {"burn_in", "tbptt"}
    if "flat" in has:
        has.discard("lengths")
    return frozenset(has)


@functools.lru_cache(10_000)
def _built(c: int, f64: int, T: int, B: int, I: int, H: int, D: int, seed: int, *bits: int):
    word = int.from_bytes(bytes(bits), "little")
    has = {name for k, name in enumerate(_FEATURES) if word >> k & 1}
    cell, D = CELL_NAMES[c], D + 1
    sizes = {"T": _T[T], "B": _B[B], "I": _I[I], "H": _H[H], "D": D}
    if "indices" in has:
        sizes["I"] = max(sizes["I"], 1)
    dtype = np.float64 if f64 else np.float32
    return option_problems.build(_legal(cell, D, has), seed, cell, dtype, **sizes)


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple):
        copies = map(_copied, value)
        return value._make(copies) if hasattr(value, "_make") else tuple(copies)
    return value


def fresh(problem: OptionProblem) -> OptionProblem:
    """The same problem, in arrays that nobody else has."""
    mine = {field.name: _copied(getattr(problem, field.name)) for field in fields(problem)}
    return replace(problem, **mine)


def write_corpus(folder: Path, front: list[bytes], back: list[bytes]) -> None:
    """Write inputs: the options alone, and the combinations that `option_problems.draw` makes.

    `front` and `back` have what may stand before and behind the problem.
    """
    drawn = [(cell, SINGLES[name]) for cell in CELL_NAMES for name in SINGLES]
    real = option_problems.build

    def note(has: Any, seed: int, cell: str, *rest: Any, **sizes: Any) -> OptionProblem:
        drawn.append((cell, frozenset(has)))
        return real(has, seed, cell, *rest, **sizes)

    option_problems.build = note
    try:
        for seed in range(60):
            for cell in CELL_NAMES:
                option_problems.draw(seed, cell)
    finally:
        option_problems.build = real
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (cell, has) in enumerate(drawn):
        word = sum(1 << k for k, name in enumerate(_FEATURES) if name in has)
        sizes = [int(rng.integers(0, len(s))) for s in (_T, _B, _I, _H)]
        header = [CELL_NAMES.index(cell), number % 2, *sizes, number // 2 % 2, number % 16]
        data = bytes(header) + word.to_bytes(4, "little")
        assert len(data) == _HEADER
        (folder / f"drawn{number:04}").write_bytes(
            front[number % len(front)] + data + back[number % len(back)]
        )
