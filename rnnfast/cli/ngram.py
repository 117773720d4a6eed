"""The baseline of a character model: an interpolated n-gram model, smoothed by Witten-Bell.

    P(w | h) = (c(h w) + N(h) P(w | h')) / (c(h) + N(h))

with c(h w) how often character w followed the context h in the training text, c(h) the sum of that
over w, N(h) the number of different characters seen after h, and h' the context less its oldest
character. The recursion ends in the uniform distribution over the vocabulary; a context never seen
hands its whole mass to the shorter one.

Source: Witten and Bell 1991, "The zero-frequency problem", method C, in the interpolated form of
Chen and Goodman 1998.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ArgumentError


@dataclass(frozen=True)
class _Table:
    """What was seen at one order; a gram is numbered by its place among the sorted codes."""

    codes: np.ndarray  # (grams,) int64, ascending: context * V + character
    counts: np.ndarray  # (grams,) c(h w)
    totals: np.ndarray  # (contexts,) c(h)
    kinds: np.ndarray  # (contexts,) N(h)


class WittenBell:
    """An interpolated Witten-Bell model of every order from 1 to `order`, fitted at once.

    Parameters
    ----------
    tokens : (N,) int
        The training text as indices into the vocabulary.
    vocabulary_size : int
        V; the probabilities of all V characters sum to one after every context.
    order : int, default 6
        The longest gram: order n looks back at n - 1 characters.

    Raises
    ------
    ArgumentError
        If `order` is less than 1, or the text is shorter than it.

    Notes
    -----
    A context is named by the number of its gram in the table one order below, so codes stay under
    ``N * V`` and fit 64 bits at any vocabulary. Fitting sorts the text once per order: half a
    million characters take under a second.
    """

    def __init__(self, tokens: np.ndarray, vocabulary_size: int, order: int = 6) -> None:
        if not 1 <= order <= len(tokens):
            raise ArgumentError(
                f"rnnfast: order is {order}, expected 1 <= order <= {len(tokens)}, "
                f"the characters of the training text."
            )
        self.vocabulary_size = vocabulary_size
        self.order = order
        self._tables: list[_Table] = []
        tokens = np.asarray(tokens, dtype=np.int64)
        contexts = np.zeros(len(tokens), dtype=np.int64)  # order 1: the one empty context
        for n in range(1, order + 1):
            codes, numbers, counts = np.unique(
                contexts * vocabulary_size + tokens[n - 1 :],
                return_inverse=True,
                return_counts=True,
            )
            of_context = codes // vocabulary_size
            self._tables.append(
                _Table(
                    codes, counts, np.bincount(of_context, weights=counts), np.bincount(of_context)
                )
            )
            contexts = numbers.reshape(-1)[:-1]  # a gram is the context of the character after it

    def probabilities(self, tokens: np.ndarray, start: int = 0) -> np.ndarray:
        """Return the probability of each character given those before it, at every order.

        Parameters
        ----------
        tokens : (N,) int
            A text; characters before `start` serve as context only.
        start : int, default 0
            The first character to predict.

        Returns
        -------
        (order, N - start) float64
            Row n - 1 holds the model of order n. Where fewer than n - 1 characters precede, the row
            equals the one above.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        size = self.vocabulary_size
        result = np.empty((self.order, len(tokens)))
        below = np.full(len(tokens), 1.0 / size)
        contexts = np.zeros(len(tokens), dtype=np.int64)  # -1: never seen
        for n, table in enumerate(self._tables, start=1):
            numbers, seen = _find(table.codes, contexts * size + tokens)
            # The context at the very end of the training text may have no follower, hence no entry.
            known = (contexts >= 0) & (contexts < len(table.totals))
            context = np.where(known, contexts, 0)
            totals = np.where(known, table.totals[context], 0.0)
            kinds = np.where(known, table.kinds[context], 0)
            counts = np.where(known & seen, table.counts[numbers], 0)
            followed = totals > 0
            below = np.where(
                followed, (counts + kinds * below) / np.where(followed, totals + kinds, 1), below
            )
            result[n - 1] = below
            contexts = np.full(len(tokens), -1, dtype=np.int64)
            contexts[n:] = np.where(known & seen, numbers, -1)[n - 1 : -1]
        return result[:, start:]

    def distribution(self, context: np.ndarray) -> np.ndarray:
        """Return P over the character after `context`, highest order: (V,), sums to one."""
        texts = [[*context, character] for character in range(self.vocabulary_size)]
        return np.array([self.probabilities(np.array(text), len(context))[-1, 0] for text in texts])

    def bits_per_character(self, tokens: np.ndarray, start: int = 0) -> np.ndarray:
        """Return the mean of -log2 P over ``tokens[start:]`` for every order: (order,) float64."""
        return -np.log2(self.probabilities(tokens, start)).mean(axis=1)


def _find(codes: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted code stands in the ascending `codes`, and whether it is there at all."""
    places = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return places, codes[places] == wanted
