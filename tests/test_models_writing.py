"""Models that write: generator, sequence to sequence, and how tokens are chosen."""

import itertools

import numpy as np
import pytest
from conftest import require
from test_models_bits import ROWS, check_bits
from test_models_saving import same
from test_models_training import VARIANTS, check_gradients

require("models")

from sklearn.model_selection import GridSearchCV  # noqa: E402

import rnnfast  # noqa: E402
from rnnfast import _backend  # noqa: E402
from rnnfast.models import Seq2Seq, SequenceGenerator  # noqa: E402
from rnnfast.models._decoding import beam, greedy, one_by_one, sampler  # noqa: E402
from rnnfast.models._ragged import Ragged  # noqa: E402
from rnnfast.models.vocabulary import END  # noqa: E402

compiled = pytest.mark.skipif(not _backend.compiled, reason="the promise is the compiled module's")

LABELS = ["up", "down", "up", "down"]
TUNES = ["abcd", "dcba", "abcd", "dcba"]
CHARACTERS = {"tokenizer": "characters", "random_state": 0}


def test_from_a_class():
    model = SequenceGenerator(**CHARACTERS).fit(LABELS, TUNES)
    assert model.predict(["down", "up", "down"]) == ["dcba", "abcd", "dcba"]
    assert list(model.classes_) == ["down", "up"]
    assert model.score(LABELS, TUNES) > -0.1
    assert model.score(LABELS, TUNES[::-1]) < -1
    lists = SequenceGenerator(random_state=0).fit([3, 4], [[60, 62, 64], [64, 62, 60]])
    assert lists.predict(np.array([4, 3])) == [[64, 62, 60], [60, 62, 64]]


def test_from_a_vector():
    vectors = np.array([[1.0, 0.0], [0.0, 100.0], [1.0, 100.0]])
    y = ["one", "two", "one two"]
    model = SequenceGenerator(input="vectors", random_state=0).fit(vectors, y)
    assert model.predict(vectors[::-1]) == y[::-1]
    assert model.n_features_in_ == 2


def test_from_its_own_beginning():
    model = SequenceGenerator(input="tokens", **CHARACTERS)
    model.fit(["a", "d", "", "ab"], ["bcd", "cba", "bb", "cd"])
    assert model.predict(["d", "a", "ab", ""]) == ["cba", "bcd", "cd", "bb"]
    assert model.predict([["a"]]) == ["bcd"]
    # What stands before y is read, but it is y that is learned.
    np.testing.assert_allclose(
        model.log_proba(["a"], ["bcd"]),
        model.log_proba(["ab"], ["cd"]) + model.log_proba(["a"], ["b"]) - ends(model, ["ab"]),
        rtol=1e-5,
    )


def ends(model, X):
    """The log-probability that nothing follows."""
    return model.log_proba(X, [""] * len(X))


def test_prompts_are_no_targets():
    model = SequenceGenerator(input="tokens", max_epochs=1, **CHARACTERS)
    model.fit(["ab", ""], ["c", "abc"])
    examples = model._examples(["ab", ""], ["c", "abc"], [2, 1], learn=False)
    assert [row.tolist() for row in examples.weights] == [[0, 0, 2, 2], [1, 1, 1, 1]]


DATES = ["three", "one plus one", "one", "two plus one"]
NUMBERS = ["iii", "ii", "i", "iii"]


def test_from_a_sequence():
    model = Seq2Seq(input="tokens", target_tokenizer="characters", random_state=0)
    model.fit(DATES, NUMBERS)
    assert model.predict(DATES) == NUMBERS
    assert model.score(DATES, NUMBERS) == 1
    assert model.score(DATES, ["iii", "ii", "i", "iv"]) == 0.75
    assert model.score(DATES, ["iii", "ii", "i", "iv"], sample_weight=[1, 1, 1, 0]) == 1
    numbers = [np.full((n, 2), n) for n in (3, 2, 1)]
    model = Seq2Seq(random_state=0).fit(numbers, [["i"] * len(row) for row in numbers])
    assert model.predict(numbers) == [["i"] * 3, ["i"] * 2, ["i"]]


def wild(y=("abc", "ba", "c", "aab"), **parameters):
    """A model that is unsure."""
    parameters = {"max_epochs": 2, "max_length": 3, **CHARACTERS, **parameters}
    model = SequenceGenerator(**parameters)
    return model.fit(list("wxyz"), list(y))


@pytest.mark.parametrize("cell", rnnfast.CELLS)
def test_a_wide_beam_finds_the_likeliest(cell):
    model = wild(cell=cell, num_layers=2, embedding_size=3, max_epochs=30, max_length=6)
    texts = ["".join(t) for n in range(6) for t in itertools.product("abc", repeat=n)]
    model.set_params(strategy="beam", beam_width=len(texts))
    for label, found in zip("wxyz", model.predict(list("wxyz")), strict=True):
        scores = model.log_proba([label] * len(texts), texts)
        assert found == texts[int(scores.argmax())]


def test_a_beam_of_one_is_greedy():
    model = wild()
    greedy = model.predict(list("wxyz"))
    assert model.set_params(strategy="beam", beam_width=1).predict(list("wxyz")) == greedy


def test_a_beam_beats_greed():
    """`a` is likelier than `b` at first, but what follows it is uncertain."""
    y = ["ac"] * 2 + ["ad"] * 2 + ["ae"] * 2 + ["bf"] * 5
    model = SequenceGenerator(input="tokens", max_epochs=150, **CHARACTERS)
    model.fit([""] * len(y), y)
    assert model.predict([""])[0][0] == "a"
    assert model.set_params(strategy="beam", beam_width=2).predict([""]) == ["bf"]
    shares = np.exp(model.log_proba([""] * 2, ["ac", "bf"]))
    np.testing.assert_allclose(shares, [2 / 11, 5 / 11], atol=0.05)


class Told:
    """A pen that reads its probabilities from a table made up for each beginning.

    The state (1, R, 1) has the number of the beginning: what was written, read as digits.
    """

    V = 7

    def begin(self, features, rows):
        state = features.reshape(1, -1, 1)
        return self.next(state), state

    def step(self, tokens, state):
        state = state * self.V + tokens[None, :, None] + 1
        return self.next(state), state

    def next(self, state):
        return np.stack([self.log_p(int(number)) for number in state[0, :, 0]])

    def log_p(self, number):
        p = np.random.default_rng(number).dirichlet(np.full(self.V, 0.5))
        with np.errstate(divide="ignore"):
            return np.log(p)


def by_hand(pen, start, length, width):
    """A beam search in plain words, one row at a time."""
    beams = [(0.0, [], start)]
    for _ in range(length):
        longer = []
        for score, tokens, state in beams:
            if END in tokens:
                longer.append((score, tokens, state))
                continue
            for token, log_p in enumerate(pen.log_p(state)):
                longer.append((score + log_p, [*tokens, token], state * pen.V + token + 1))
        beams = sorted(longer, key=lambda entry: -entry[0])[:width]
    best = beams[0][1]
    return best[: best.index(END)] if END in best else best


@pytest.mark.parametrize("width", [1, 2, 3, 5, 50])
def test_a_beam_of_any_width(width):
    pen, starts = Told(), np.arange(40)
    begin = Ragged(np.full(40, 2), np.arange(41))
    for length in (1, 2, 6):
        found = beam(pen, starts, begin, length, width)
        expected = [by_hand(pen, int(start), length, width) for start in starts]
        assert [row.tolist() for row in found] == expected
    if width == 1:
        again = one_by_one(pen, starts, begin, 6, greedy)
        assert [row.tolist() for row in again] == expected


def test_the_score_of_a_generator():
    model = wild()
    X, y, weights = ["w", "x"], ["abc", "b"], np.array([1.0, 3.0])
    of_rows = model.log_proba(X, y)
    assert model.score(X, y) == pytest.approx(of_rows.sum() / (4 + 2))
    weighted = (of_rows @ weights) / (4 + 3 * 2)
    assert model.score(X, y, sample_weight=weights) == pytest.approx(weighted)


def test_sampling():
    p = np.array([0.5, 0.3, 0.2, 0.0])
    with np.errstate(divide="ignore"):
        log_p = np.log(np.tile(p, (20_000, 1)))
    uniforms = np.random.default_rng(0).random((20_000, 1))
    rows = np.arange(20_000)

    def shares(temperature, top_k):
        drawn = sampler(temperature, top_k, uniforms)(log_p, rows, 0)
        return np.bincount(drawn, minlength=4) / 20_000

    np.testing.assert_allclose(shares(1.0, None), p, atol=0.015)
    np.testing.assert_allclose(shares(0.5, None), p**2 / (p**2).sum(), atol=0.015)
    np.testing.assert_allclose(shares(1.0, 2), [0.625, 0.375, 0, 0], atol=0.015)
    np.testing.assert_allclose(shares(1.0, 1), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(1.0, 9), p, atol=0.015)


def test_samples_follow_the_seed():
    model = wild(strategy="sample", max_length=8)
    X = list("wxyz") * 10
    drawn = model.predict(X)
    assert len(set(drawn)) > 5
    assert model.predict(X) == drawn
    assert model.set_params(random_state=1).predict(X) != drawn
    assert model.set_params(batch_size=7, random_state=0).predict(X) == drawn
    bold = model.set_params(temperature=1e-6).predict(X)
    assert bold == model.set_params(strategy="greedy").predict(X)
    assert model.set_params(strategy="sample", temperature=1.0, top_k=1).predict(X) == bold


def test_lengths():
    model = wild()
    assert all(len(text) <= 3 for text in model.predict(list("wxyz")))
    longest = SequenceGenerator(max_epochs=1, **CHARACTERS).fit(["w"], ["abab"])
    assert len(longest.predict(["w"])[0]) <= 4
    assert len(longest.set_params(max_length=1).predict(["w"])[0]) <= 1


def test_unknown_words_are_read_but_never_written():
    model = SequenceGenerator(input="tokens", vocabulary_size=1, max_epochs=5, random_state=0)
    model.fit(["a a b", "b c"], ["c d a", "d"])
    assert model.target_vocabulary_.tokens[4:] == ("a",)
    model.set_params(strategy="sample", max_length=30)
    assert set(" ".join(model.predict(["b"] * 20)).split()) <= {"a"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients(variant):
    one = {**variant, "bidirectional": False}
    model = SequenceGenerator(hidden_size=4, **one, **CHARACTERS)
    check_gradients(model, LABELS, TUNES, sample_weight=[1, 2, 0.5, 0])
    model.set_params(input="vectors", embedding_size=3)
    check_gradients(model, np.random.default_rng(0).standard_normal((4, 3)), TUNES)
    check_gradients(model.set_params(input="tokens"), ["", "a", "ab", "b"], TUNES)
    model = Seq2Seq(input="tokens", hidden_size=4, random_state=0, **variant)
    check_gradients(model, DATES, NUMBERS)


@compiled
def test_bits():
    y = [["a", "b", "c"][: 1 + k % 3] for k in range(len(ROWS))]
    common = {"max_epochs": 1, "random_state": 0, "max_length": 6}
    model = Seq2Seq(**common).fit(ROWS, y)
    probabilities = np.array(model.log_proba(ROWS, y))
    for strategy in ("greedy", "beam"):
        model.set_params(strategy=strategy)
        check_bits(model, ROWS, lambda model, X: np.array(["".join(t) for t in model.predict(X)]))
    for batch_size in (1, 7, 1000):
        again = model.set_params(batch_size=batch_size).log_proba(ROWS, y)
        np.testing.assert_array_equal(again, probabilities)


@pytest.mark.parametrize("cell", ["lstm", "rnn_relu"])
def test_saving(tmp_path, cell):
    path = tmp_path / "model"
    model = SequenceGenerator(cell=cell, max_epochs=2, **CHARACTERS).fit(LABELS, TUNES)
    same(model, path, LABELS, TUNES)
    model = SequenceGenerator(input="vectors", max_epochs=2, random_state=0)
    same(model.fit(np.eye(4), TUNES), path, np.eye(4), TUNES)
    model = SequenceGenerator(input="tokens", max_epochs=2, random_state=0)
    same(model.fit([[1], [2]], [[3], [4, 5]]), path, [[1], [2]], [[3], [4, 5]])
    model = Seq2Seq(input="tokens", cell=cell, max_epochs=2, random_state=0)
    same(model.fit(DATES, NUMBERS), path, DATES, NUMBERS)


def test_a_search():
    X, y = DATES * 6, NUMBERS * 6
    search = GridSearchCV(
        Seq2Seq(input="tokens", max_epochs=30, random_state=0), {"hidden_size": [1, 32]}, cv=2
    )
    assert search.fit(X, y).best_params_ == {"hidden_size": 32}


def test_words():
    def fit(X=LABELS, y=TUNES, **parameters):
        return SequenceGenerator(**{**CHARACTERS, "max_epochs": 1, **parameters}).fit(X, y)

    for parameters, words in (
        ({"strategy": "best"}, 'strategy is \'best\', expected "greedy" or "sample" or "beam"'),
        ({"temperature": 0}, "temperature is 0, expected a finite number above 0"),
        ({"temperature": None}, "temperature is None"),
        ({"top_k": 0}, "top_k is 0, expected at least 1"),
        ({"beam_width": 0}, "beam_width is 0, expected at least 1"),
        ({"max_length": 0}, "max_length is 0, expected at least 1"),
        ({"bidirectional": True}, "bidirectional is True, expected False"),
        ({"input": "numbers"}, "input is 'numbers', expected \"classes\""),
        ({"y": None}, "requires y to be passed"),
        ({"y": TUNES[:2]}, "X has 4 rows and y has 2"),
        ({"y": "abcd"}, "y is of type str"),
        ({"X": None}, "X has shape (), expected (N,): a label for each sequence"),
        ({"X": None, "input": "tokens"}, "X is of type NoneType, expected a sequence of texts"),
        ({"X": np.ones(4), "input": "vectors"}, "Reshape your data"),
    ):
        with pytest.raises((ValueError, TypeError)) as error:
            fit(**parameters)
        assert words in str(error.value)
    with pytest.raises(ValueError, match="X holds 'left', expected one of the 2 classes"):
        fit().predict(["left"])
    with pytest.raises(ValueError, match=r"X has 2 features.*F=4 from fit"):
        fit(X=np.eye(4), input="vectors").predict(np.ones((1, 2)))
    with pytest.raises(ValueError, match="target_tokenizer is 'lines'"):
        Seq2Seq(target_tokenizer="lines").fit([[1.0]], ["a"])
