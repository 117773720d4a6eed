"""Text for a character model: its source, its vocabulary, the order in which it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import ArgumentError

UNKNOWN = "<UNK>"
"""What stands for a character outside the vocabulary."""


def default_text() -> str:
    """Return the English documentation that every CPython carries, about 465,000 characters."""
    from pydoc_data.topics import topics

    return "".join(text for _, text in sorted(topics.items()))


def read_text(paths: Sequence[Path]) -> str:
    """Read UTF-8 files, one after the other; line ends become line feeds.

    Raises
    ------
    ArgumentError
        If a file cannot be read, is not UTF-8, or is empty; the message names it.
    """
    return "\n".join(_read_file(Path(path)) for path in paths)


def _read_file(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArgumentError(f"rnnfast train: {path} cannot be read: {error.strerror}.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"rnnfast train: {path} is not UTF-8: byte 0x{content[error.start]:02x} at position "
            f"{error.start}. Convert it first, for example with iconv -f latin1 -t utf-8."
        ) from error
    if not text.strip():
        raise ArgumentError(f"rnnfast train: {path} is empty; there is nothing to learn from.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Vocabulary:
    """The characters a model knows, each with its index; one index more stands for all others.

    Parameters
    ----------
    characters : iterable of str
        Sorted and made unique here.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        self._codes = _code_points(self.characters)

    def __len__(self) -> int:
        return len(self.characters) + 1

    @property
    def unknown(self) -> int:
        """The index of `UNKNOWN`: the last."""
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """(N,) int64: the index of every character, `unknown` for those outside."""
        codes = _code_points(text)
        places = np.searchsorted(self._codes, codes).astype(np.int64)
        known = self._codes[np.minimum(places, len(self._codes) - 1)] == codes
        return np.where(known, places, self.unknown)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of indices; `unknown` reads ``<UNK>``."""
        return "".join(
            UNKNOWN if token == self.unknown else self.characters[token] for token in tokens
        )

    def outside(self, text: str) -> list[str]:
        """Return the distinct characters of `text` that `encode` turns into `unknown`, sorted."""
        return sorted(set(text) - set(self.characters))


def _code_points(text: str) -> np.ndarray:
    # surrogatepass: a command line argument may hold bytes that are no text; they are unknown, not
    # an error.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class Corpus:
    """A text cut into nine tenths to train on and the last tenth to validate on.

    Parameters
    ----------
    text : str
    batch, length : int
        B readers start evenly spread over the training text; each reads on by `length` characters
        per step, round and round (the end is followed by the beginning). So the states carried from
        step to step always belong to the characters read just before, and which characters step k
        reads follows from k alone.

    Raises
    ------
    ArgumentError
        If the text is too short for `batch` and `length`.
    """

    def __init__(self, text: str, batch: int, length: int) -> None:
        cut = len(text) * 9 // 10
        if cut <= batch * length:
            raise ArgumentError(
                f"rnnfast train: the text has {len(text):,} characters, of which {cut:,} train; "
                f"one step of batch {batch} x length {length} reads {batch * length:,}. "
                f"Give more text, or a smaller --batch or --length."
            )
        self.vocabulary = Vocabulary(text[:cut])
        self.tokens = self.vocabulary.encode(text)
        self.cut = cut
        self.batch = batch
        self.length = length

    @property
    def characters_per_step(self) -> int:
        """Characters that one training step reads."""
        return self.batch * self.length

    def window(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and the characters after them, of one step: (length, batch) int64 each."""
        starts = np.arange(self.batch) * (self.cut // self.batch) + step * self.length
        places = starts + np.arange(self.length)[:, None]
        return self.tokens[places % self.cut], self.tokens[(places + 1) % self.cut]
