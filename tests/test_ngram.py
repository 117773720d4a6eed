"""The n-gram baseline: by hand, sums to one, and against a plain one with dictionaries."""

import math
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from rnnfast import ArgumentError
from rnnfast.cli.ngram import WittenBell


def by_dictionaries(training, size, order, context, character):
    """P by the formula, nothing shared with the class."""
    if order == 0:
        return 1 / size
    followers = defaultdict(Counter)
    for place in range(order - 1, len(training)):
        history = tuple(training[place - order + 1 : place])
        followers[history][training[place]] += 1
    lower = by_dictionaries(training, size, order - 1, context, character)
    if len(context) < order - 1:
        return lower
    seen = followers[tuple(context[len(context) - order + 1 :])]
    if not seen:
        return lower
    kinds, total = len(seen), sum(seen.values())
    return (seen[character] + kinds * lower) / (total + kinds)


def test_by_hand():
    """Training text a b a b a c over the vocabulary a, b, c, d."""
    model = WittenBell(np.array([0, 1, 0, 1, 0, 2]), 4, order=2)
    # Order 1: c(a) = 3, c(b) = 2, c(c) = 1, 6 in all, 3 kinds: P(a) = (3 + 3/4) / 9.
    unigram = {0: 3.75 / 9, 1: 2.75 / 9, 2: 1.75 / 9, 3: 0.75 / 9}
    # Order 2 after a: b twice, c once, 2 kinds: P(b | a) = (2 + 2 P(b)) / 5.
    after_a = [2 * unigram[0] / 5, (2 + 2 * unigram[1]) / 5, (1 + 2 * unigram[2]) / 5]
    result = model.probabilities(np.array([0, 1, 0, 2, 3, 0]))
    expected_1 = [unigram[k] for k in (0, 1, 0, 2, 3, 0)]
    np.testing.assert_allclose(result[0], expected_1, rtol=1e-14)
    after_b = (2 + 1 * unigram[0]) / 3  # b was followed by a twice, 1 kind
    expected_2 = [unigram[0], after_a[1], after_b, after_a[2], unigram[3], unigram[0]]
    np.testing.assert_allclose(result[1], expected_2, rtol=1e-14)
    bits = model.bits_per_character(np.array([0, 1, 0, 2]), start=2)
    assert bits[1] == pytest.approx(-(math.log2(after_b) + math.log2(after_a[2])) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_against_dictionaries(seed):
    rng = np.random.default_rng(seed)
    training, text = rng.integers(4, size=60), rng.integers(5, size=25)  # 4 never seen
    result = WittenBell(training, 5, order=4).probabilities(text, start=3)
    assert result.shape == (4, 22)
    for order in range(1, 5):
        for place in range(3, 25):
            expected = by_dictionaries(training, 5, order, text[:place], text[place])
            assert result[order - 1, place - 3] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("context", [[], [1], [2, 0, 1, 1, 0, 2], [4, 4, 4], [0, 4], [1, 2, 0, 1]])
def test_sums_to_one(context):
    training = np.random.default_rng(0).integers(4, size=200)
    distribution = WittenBell(training, 6, order=5).distribution(np.array(context, np.int64))
    assert distribution.shape == (6,)
    assert (distribution > 0).all()
    assert distribution.sum() == pytest.approx(1, rel=1e-12)


def test_a_large_vocabulary_does_not_overflow():
    """Codes of 6 characters over 100,000 symbols would need 100 bits if they were numbers."""
    training = np.random.default_rng(0).integers(100_000, size=500)
    result = WittenBell(training, 100_000, order=6).probabilities(training)
    for place in (5, 250, 499):
        expected = by_dictionaries(training, 100_000, 6, training[:place], training[place])
        assert result[5, place] == pytest.approx(expected, rel=1e-12)


# The text grows with Python and gets harder: 1.905 in 3.11, 1.963 in 3.12, 1.978 in 3.13.
MARK = 1.95 if sys.version_info < (3, 12) else 2.0


def test_the_default_text_reaches_its_mark():
    """In bits per character on the last tenth of the documentation that Python brings."""
    from rnnfast.cli.text import Corpus, default_text

    corpus = Corpus(default_text(), 32, 64)
    model = WittenBell(corpus.tokens[: corpus.cut], len(corpus.vocabulary))
    assert model.bits_per_character(corpus.tokens, corpus.cut).min() <= MARK


@pytest.mark.parametrize("order", [0, 4])
def test_words(order):
    with pytest.raises(ArgumentError, match=f"order is {order}, expected 1 <= order <= 3"):
        WittenBell(np.array([0, 1, 0]), 2, order)
