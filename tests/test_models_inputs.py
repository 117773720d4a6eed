"""What the models take as X and y, and what they say of the rest."""

import numpy as np
import pytest
from conftest import require

require("models")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402

from rnnfast.models import (  # noqa: E402
    Forecaster,
    SequenceClassifier,
    SequenceGenerator,
    SequenceRegressor,
    SequenceTagger,
    Vocabulary,
    words,
)

rng = np.random.default_rng(0)
SERIES = rng.standard_normal((12, 5, 3))
Y = SERIES[:, -1, 0]
QUICK = {"max_epochs": 3, "hidden_size": 4, "random_state": 0}


def predicted(X, y=Y, **parameters):
    model = SequenceRegressor(**{**QUICK, **parameters})
    return model.fit(X, y).predict(X)


def test_one_meaning_in_every_form():
    expected = predicted(SERIES)
    np.testing.assert_array_equal(predicted(list(SERIES)), expected)
    np.testing.assert_array_equal(predicted(tuple(SERIES.tolist())), expected)
    np.testing.assert_array_equal(predicted(np.asfortranarray(SERIES)), expected)
    rows = np.empty(12, object)
    rows[:] = list(SERIES)
    np.testing.assert_array_equal(predicted(rows), expected)


def test_two_axes_are_series_of_one_feature():
    X = SERIES[:, :, 0]
    expected = predicted(X[:, :, None])
    np.testing.assert_array_equal(predicted(X), expected)
    np.testing.assert_array_equal(predicted(list(X)), expected)
    whole = np.round(X * 10).astype(int)  # integers are numbers, not tokens
    np.testing.assert_array_equal(predicted(whole), predicted(whole.astype(float)))
    model = SequenceRegressor(**QUICK).fit(X, Y)
    assert model.n_features_in_ == 1
    assert model.predict(X[:, :2]).shape == (12,)  # of any length


def test_padding_is_no_part_of_a_sequence():
    """A short row's prediction is the same alone and beside a long one."""
    X = [SERIES[0], SERIES[1, :2], np.zeros((0, 3)), SERIES[2, :1]]
    model = SequenceRegressor(bidirectional=True, num_layers=2, **QUICK).fit(X, Y[:4])
    together = model.predict(X)
    np.testing.assert_array_equal(together, np.concatenate([model.predict([row]) for row in X]))
    assert np.isfinite(together).all()


def test_standardized_inputs_and_targets_have_no_unit():
    expected = predicted(SERIES)
    scaled = predicted(SERIES * [1e3, 1e-3, 1] + [1, 1e2, -3], Y * 1e4 - 7)
    np.testing.assert_allclose((scaled + 7) / 1e4, expected, atol=1e-5)
    plain = predicted(SERIES * 10, standardize=False)
    assert not np.allclose(plain, expected, atol=1e-5)
    constant = np.ones((4, 3, 2))
    assert np.isfinite(predicted(constant, np.full(4, 5.0))).all()


def test_several_targets():
    table = np.stack([Y, -Y], axis=1)
    assert predicted(SERIES, table).shape == (12, 2)
    assert predicted(SERIES, table[:, :1]).shape == (12, 1)


def test_tables_of_pandas():
    """A row is a series; an index of its own changes nothing."""
    pandas = require("pandas")
    X = SERIES[:, :, 0]
    rows = pandas.Index(range(100, 112))
    table = pandas.DataFrame(X, index=rows, columns=list("abcde"))
    np.testing.assert_array_equal(
        predicted(table, pandas.Series(Y, index=rows), num_layers=2), predicted(X, num_layers=2)
    )
    column = pandas.Series(list(X), index=rows)
    np.testing.assert_array_equal(predicted(column), predicted(X))
    texts = pandas.Series(TEXTS, index=rows[:4])
    np.testing.assert_array_equal(
        classified(texts).predict_proba(texts), classified(TEXTS).predict_proba(TEXTS)
    )
    model = SequenceTagger(**QUICK)
    tags = model.fit(table, table > 0).predict(table)
    np.testing.assert_array_equal(tags, model.fit(X, X > 0).predict(X))
    model = SequenceGenerator(tokenizer="characters", **QUICK)
    labels = pandas.Series(["x", "y", "x", "y"], index=rows[:4])
    assert model.fit(labels, texts).predict(labels) == model.fit(labels.tolist(), TEXTS).predict(
        ["x", "y", "x", "y"]
    )
    model = Forecaster(**QUICK)
    wave = np.sin(np.arange(40.0))
    days = pandas.Series(wave, index=pandas.date_range("2020-01-01", periods=40))
    np.testing.assert_array_equal(model.fit(days).predict(days), model.fit(wave).predict(wave))
    assert model.fit(table).predict(table).shape == (12, 1)


TEXTS = ["good film", "bad film", "good day", "bad day"]


def classified(X, **parameters):
    model = SequenceClassifier(input="tokens", **{**QUICK, **parameters})
    return model.fit(X, [1, 0, 1, 0])


def test_tokens_in_every_form():
    model = classified(TEXTS)
    expected = model.predict_proba(TEXTS)
    cut = [text.split() for text in TEXTS]
    np.testing.assert_array_equal(classified(cut).predict_proba(cut), expected)
    np.testing.assert_array_equal(classified(np.array(TEXTS)).predict_proba(TEXTS), expected)
    assert model.vocabulary_.tokens[4:] == ("bad", "day", "film", "good")
    assert not hasattr(model, "n_features_in_")
    whole = np.array([[3, 5], [4, 5], [3, 6], [4, 6]])
    numbers = classified(whole)
    assert set(numbers.vocabulary_.tokens[4:]) == {3, 4, 5, 6}
    lists = classified(whole.tolist())
    np.testing.assert_array_equal(
        numbers.predict_proba(whole), lists.predict_proba(whole.astype(np.int8))
    )


def test_tokenizers():
    assert words("He isn't here, Teddy.") == ["He", "isn't", "here", ",", "Teddy", "."]
    assert len(classified(TEXTS, tokenizer="characters").vocabulary_) == 4 + len(
        set("".join(TEXTS))
    )


def test_a_vocabulary_of_their_own():
    model = classified(TEXTS, vocabulary=["good", "bad"])
    assert model.vocabulary_.tokens[4:] == ("good", "bad")
    np.testing.assert_array_equal(
        model.predict_proba(["good film"]), model.predict_proba(["good strange"])
    )
    shared = Vocabulary(["good", "bad"])
    same = classified(TEXTS, vocabulary=shared)
    assert same.vocabulary_ is shared
    np.testing.assert_array_equal(same.predict_proba(TEXTS), model.predict_proba(TEXTS))
    assert clone(same).vocabulary == shared != Vocabulary(["bad", "good"])
    assert classified([*TEXTS[:3], "bad bad"], vocabulary_size=1).vocabulary_.tokens[4:] == ("bad",)


@pytest.mark.parametrize("embedding_size", [None, 3])
def test_what_was_never_seen_says_nothing(embedding_size):
    """An unknown word is heard as a step without input, not as a random one."""
    model = classified(TEXTS, embedding_size=embedding_size)
    parameters = model.network_.parameters
    if embedding_size is None:
        assert not parameters["layer.weight_ih_l0"][:, :2].any()
        assert parameters["layer.weight_ih_l0"][:, 4:].any(0).all()
    else:
        assert parameters["embedding.weight"].shape == (8, 3)
        assert not parameters["embedding.weight"][:2].any()


def test_one_hot_is_looked_up():
    """The one-hot input of a large vocabulary is never written out, nor is its gradient."""
    from rnnfast import IndexedRows
    from rnnfast.models._networks import Examples

    texts = [[f"w{k}", f"w{k + 1}"] for k in range(0, 10_000, 2)]
    model = SequenceClassifier(input="tokens", vocabulary=[f"w{k}" for k in range(10_000)], **QUICK)
    model.set_params(max_epochs=1).fit(texts[:4], [0, 1, 0, 1])
    x = model._read_rows(texts[:2])
    assert x.values.shape == (4,)
    examples = Examples(x, np.array([0, 1]), np.ones(2))
    gradient = model.network_.gradients(examples, 0)[2]["layer.weight_ih_l0"]
    assert isinstance(gradient, IndexedRows)
    assert gradient.rows.shape == (4, 12)


def test_vocabulary():
    vocabulary = Vocabulary.learn([["b", "a", "b"], ["c"]])
    assert vocabulary.tokens == ("<PAD>", "<UNK>", "<BEGIN>", "<END>", "b", "a", "c")
    np.testing.assert_array_equal(vocabulary.encode(["a", "x", "<END>"]), [5, 1, 3])
    assert vocabulary.decode([4, 1]) == ["b", "<UNK>"]
    assert "b" in vocabulary
    assert "x" not in vocabulary
    indices, lengths = vocabulary.encode_batch([["a"], [], ["b", "c"]])
    np.testing.assert_array_equal(indices, [[5, 0, 4], [0, 0, 6]])
    np.testing.assert_array_equal(lengths, [1, 0, 2])
    assert Vocabulary.learn([["a", "b", "b"]], size=1).tokens[4:] == ("b",)
    assert Vocabulary([np.int64(3), np.str_("a")]).tokens[4:] == (3, "a")
    assert type(Vocabulary([np.int64(3)]).tokens[4]) is int
    with pytest.raises(ValueError, match=r"holds 'a' twice"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(ValueError, match=r"holds '<UNK>' twice, or one of"):
        Vocabulary(["<UNK>"])
    with pytest.raises(TypeError, match=r"tokens is a str"):
        Vocabulary("abc")
    with pytest.raises(TypeError, match=r"token is 1.5 of type float, expected str or int"):
        Vocabulary([1.5])


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (SERIES[0, 0], "Reshape your data"),
        (SERIES[None], r"X has shape \(1, 12, 5, 3\), expected \(N, T, F\)"),
        ([SERIES[0], SERIES[1, :, :2]], r"X\[1\] has 2 features, expected 3; F=3 from X\[0\]"),
        ([SERIES[0], SERIES], r"X\[1\] has shape \(12, 5, 3\), expected \(T, F\)"),
        ([1.0, 2.0], r"X\[0\] has shape \(\), expected \(T, F\)"),
        ([[np.nan]], r"Input X\[0\] contains NaN"),
        ([], "X is empty"),
        ([[]], None),
        (["text"], r'X\[0\] is a text, expected numbers .* input="tokens" reads texts'),
        (np.array(["text", "two"]), "Reshape your data|could not convert"),
    ],
)
def test_words_about_numbers(X, words):
    if words is None:
        assert predicted(X, [1.0]).shape == (1,)
        return
    with pytest.raises((ValueError, TypeError), match=words):
        predicted(X, np.zeros(len(X)))


@pytest.mark.parametrize(
    ("X", "words"),
    [
        ("text", r"X is of type str, expected a sequence of texts.*A single text is \[text\]"),
        (SERIES, "X is float64, expected tokens: texts or integers"),
        ([1, 2, 3, 4], r"X\[0\] is of type int, expected a text"),
        (iter(["text"]), "X is of type list_iterator, expected a sequence of texts"),
        ([[1.5]] * 4, "a token is 1.5 of type float"),
        ([], "X is empty"),
    ],
)
def test_words_about_tokens(X, words):
    with pytest.raises((ValueError, TypeError), match=words):
        classified(X)


def test_words_about_targets_and_weights():
    X = SERIES
    with pytest.raises(ValueError, match=r"requires y to be passed, but the target y is None"):
        SequenceRegressor().fit(X)
    with pytest.raises(ValueError, match=r"X has 12 rows and y has 3"):
        SequenceRegressor().fit(X, Y[:3])
    for wrong, words_ in (
        (np.ones(3), r"sample_weight has shape \(3,\), expected \(12,\)"),
        (-np.ones(12), "holds a negative number"),
        (np.zeros(12), "zeros only"),
    ):
        with pytest.raises(ValueError, match=words_):
            SequenceRegressor().fit(X, Y, sample_weight=wrong)
    model = SequenceRegressor(**QUICK).fit(X, Y)
    with pytest.raises(ValueError, match=r"X has 2 features.*F=3 from fit"):
        model.predict(X[:, :, :2])
    with pytest.raises(ValueError, match=r"y has shape \(12, 2\), expected"):
        model.partial_fit(X, np.stack([Y, Y], 1))
    labels = SequenceClassifier(**QUICK).fit(X, Y > 0)
    with pytest.raises(ValueError, match=r"y holds 'known', expected one of the 2 classes"):
        labels.partial_fit(X, np.where(Y > 0, "strange", "known"))
    with pytest.raises(NotFittedError):
        SequenceRegressor().predict(X)


def test_without_the_extra_it_says_what_to_install():
    import subprocess

    from processes import PYTHON, environment

    script = "import sys; sys.modules['sklearn'] = None\nimport rnnfast.models"
    run = subprocess.run(
        [*PYTHON, "-c", script], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert "rnnfast.models needs sklearn" in run.stderr
    assert 'pip install "rnnfast[models]"' in run.stderr
