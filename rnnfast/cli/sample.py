"""``rnnfast sample``: let a model write, character by character."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import ArgumentError
from .text import UNKNOWN
from .training_run import load_model


def sample(
    folder: Path, prompt: str, length: int, temperature: float, seed: int | None, device: str
) -> int:
    """Print `prompt` and then `length` characters, each as soon as it is drawn.

    Characters of the prompt outside the vocabulary are read and printed as ``<UNK>``, with a
    warning on standard error. ``<UNK>`` itself is never drawn: it stands for no character.

    Parameters
    ----------
    folder : Path
        Of `rnnfast train`.
    prompt : str
        Where the model starts; if empty, at a line's beginning, as after a line feed.
    length : int
    temperature : float
        0 takes the likeliest character each time, 1 draws from the model's distribution.
    seed : int or None
        The same seed writes the same text; None differs each time.
    device : str

    Returns
    -------
    int
        Exit status.
    """
    if not temperature >= 0:
        raise ArgumentError(f"rnnfast sample: --temperature is {temperature}, expected at least 0.")
    model, vocabulary = load_model(folder, device)
    outside = vocabulary.outside(prompt)
    if outside:
        print(
            f"rnnfast sample: the model knows no {', '.join(map(repr, outside))}: "
            f"read as {UNKNOWN}.",
            file=sys.stderr,
        )
    start = vocabulary.encode(prompt or "\n")
    drawn = model.generate(start, temperature, np.random.default_rng(seed), vocabulary.unknown)
    _write(vocabulary.decode(vocabulary.encode(prompt)))
    for token in islice(drawn, length):
        _write(vocabulary.decode([token]))
    _write("\n")
    return 0


def _write(text: str) -> None:
    # A terminal or pipe that cannot show a character gets a question mark, not an end.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
