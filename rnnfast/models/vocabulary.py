"""Tokens and their indices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _values
from ..errors import ArgumentError, DTypeError

PADDING, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<PAD>", "<UNK>", "<BEGIN>", "<END>")

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Split a text into words and punctuation marks, in their own case.

    >>> words("He isn't here, Teddy.")
    ['He', "isn't", 'here', ',', 'Teddy', '.']
    """
    return _WORD.findall(text)


class Tokenizer(NamedTuple):
    """What cuts a text into tokens, and what stands between them when they are joined again."""

    cut: Callable[[str], list[str]]
    between: str


TOKENIZERS = {"words": Tokenizer(words, " "), "characters": Tokenizer(list, "")}


class Vocabulary:
    """The tokens that a model knows, each with its index.

    Parameters
    ----------
    tokens : iterable of str or int
        In the order of their indices, from 4 on; each once. The first four indices are
        ``<PAD>``, ``<UNK>``, ``<BEGIN>`` and ``<END>``.

    Raises
    ------
    ArgumentError
        If a token comes twice, or is one of these four.
    DTypeError
        If a token is neither str nor int, or `tokens` is a single str.
    """

    def __init__(self, tokens: Iterable[Hashable]) -> None:
        if isinstance(tokens, str):
            raise DTypeError(
                "rnnfast.models.Vocabulary: tokens is a str, expected an iterable of tokens; "
                "for characters, list(text)."
            )
        self.tokens: tuple[Any, ...] = (*SPECIAL, *(plain(token) for token in tokens))
        self._indices = {token: index for index, token in enumerate(self.tokens)}
        if len(self._indices) < len(self.tokens):
            (twice, _), *_ = Counter(self.tokens).most_common(1)
            raise ArgumentError(
                f"rnnfast.models.Vocabulary: tokens holds {twice!r} twice, or one of "
                f"{', '.join(SPECIAL)}, expected each token once."
            )

    @classmethod
    def learn(cls, sequences: Iterable[Iterable[Hashable]], size: int | None = None) -> Vocabulary:
        """Make one of the tokens in `sequences`, the most frequent first.

        Parameters
        ----------
        sequences : iterable of sequences of tokens
        size : int, optional
            How many tokens to keep; the others are ``<UNK>``. All if omitted.
        """
        if size is not None:
            _values.at_least("rnnfast.models.Vocabulary", "size", size, 1)
        counts = Counter(plain(token) for sequence in sequences for token in sequence)
        # Equal counts in an order that does not follow that of the sequences.
        ordered = sorted(counts, key=lambda token: (-counts[token], str(token)))
        return cls([token for token in ordered if token not in SPECIAL][:size])

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._indices

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self):,} tokens>"

    def encode(self, tokens: Iterable[Hashable]) -> np.ndarray:
        """Return the index of each token, ``<UNK>`` for those outside: (T,) int64."""
        indices = self._indices
        found = [indices.get(plain(token), UNKNOWN) for token in tokens]
        return np.array(found, np.int64)

    def decode(self, indices: Iterable[int]) -> list[Any]:
        """Return the tokens of indices."""
        return [self.tokens[index] for index in indices]

    def encode_batch(
        self, sequences: Sequence[Iterable[Hashable]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return sequences as the layers take them: padded with ``<PAD>``, and their lengths.

        Returns
        -------
        indices : (T, B) int64
        lengths : (B,) int64
        """
        rows = [self.encode(sequence) for sequence in sequences]
        lengths = np.array([len(row) for row in rows], np.int64)
        padded = np.full((max(lengths, default=0), len(rows)), PADDING, np.int64)
        for b, row in enumerate(rows):
            padded[: len(row), b] = row
        return padded, lengths


def plain(token: Any) -> Any:
    """Return a token as Python's own str or int: NumPy's would not go into a file."""
    if isinstance(token, str):
        return str(token)
    if isinstance(token, (int, np.integer)) and not isinstance(token, bool):
        return int(token)
    raise DTypeError(
        f"rnnfast.models.Vocabulary: a token is {token!r} of type {type(token).__qualname__}, "
        "expected str or int."
    )
