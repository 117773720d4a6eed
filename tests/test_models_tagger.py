"""A label for each step."""

import numpy as np
import pytest
from conftest import require
from test_models_bits import ROWS, TOKENS, check_bits
from test_models_saving import same
from test_models_training import VARIANTS, check_gradients

require("models")

from sklearn.model_selection import cross_val_score  # noqa: E402

from rnnfast import _backend  # noqa: E402
from rnnfast.models import SequenceTagger  # noqa: E402

rng = np.random.default_rng(0)
X = [rng.standard_normal((n, 2)) for n in rng.integers(0, 9, 50)]
PAST = [np.where(np.cumsum(row[:, 0]) > 0, "up", "down") for row in X]
FUTURE = [tags[::-1] for tags in (np.cumsum(row[::-1, 0]) > 0 for row in X)]


def fitted(y, **parameters):
    model = SequenceTagger(**{"max_epochs": 60, "random_state": 0, **parameters})
    return model.fit(X, y)


def test_it_learns_and_which_way_it_looks():
    assert fitted(PAST).score(X, PAST) > 0.95
    assert fitted(FUTURE).score(X, FUTURE) > 0.95
    assert fitted(PAST, bidirectional=False).score(X, PAST) > 0.95
    ahead = fitted(FUTURE, bidirectional=False)
    assert ahead.score(X, FUTURE) < 0.9
    # What comes later changes nothing, to the bit.
    np.testing.assert_array_equal(
        ahead.predict_proba([X[0][:3]])[0], ahead.predict_proba([X[0]])[0][:3]
    )


def test_forms():
    model = fitted(PAST, max_epochs=2)
    assert list(model.classes_) == ["down", "up"]
    shares, tags = model.predict_proba(X), model.predict(X)
    for row, row_shares, row_tags in zip(X, shares, tags, strict=True):
        assert row_shares.shape == (len(row), 2)
        np.testing.assert_allclose(row_shares.sum(1), 1, rtol=1e-12)
        np.testing.assert_array_equal(row_tags, model.classes_[row_shares.argmax(1)])
    array = np.stack([row[:3] for row in X if len(row) >= 3])
    assert model.predict(array).shape == array.shape[:2]
    assert model.predict_proba(array).shape == (*array.shape[:2], 2)
    np.testing.assert_array_equal(model.predict(list(array)), model.predict(array))
    labels = array[:, :, 0] > 0
    model.fit(array, labels)
    again = model.predict_proba(array)
    np.testing.assert_array_equal(
        model.fit(list(array), labels.tolist()).predict_proba(array), again
    )


def test_weights():
    twice, y = [*X, *X], [*PAST, *(np.where(tags == "up", "down", "up") for tags in PAST)]
    weights = np.repeat([1.0, 0.0], len(X))
    model = SequenceTagger(max_epochs=40, random_state=0).fit(twice, y, sample_weight=weights)
    assert model.score(X, PAST) > 0.9
    assert model.score(twice, y, sample_weight=weights) == model.score(X, PAST)
    ups = fitted(PAST, max_epochs=2, class_weight={"down": 0.0}).predict(X)
    assert all((tags == "up").all() for tags in ups)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients(variant):
    weights = np.linspace(0, 2, len(X))
    model = SequenceTagger(hidden_size=5, random_state=0, class_weight="balanced", **variant)
    check_gradients(model, X, PAST, sample_weight=weights)


@pytest.mark.skipif(not _backend.compiled, reason="the promise is the compiled module's")
def test_bits():
    model = SequenceTagger(max_epochs=1, random_state=0).fit(ROWS, [row[:, 0] > 0 for row in ROWS])
    check_bits(model, ROWS, lambda model, X: model.predict_proba(X))
    model = SequenceTagger(max_epochs=1, input="tokens", random_state=0).fit(TOKENS, TOKENS)
    check_bits(model, TOKENS, lambda model, X: model.predict_proba(X))


def test_saving(tmp_path):
    X = ["ab", "ba"]
    model = SequenceTagger(input="tokens", tokenizer="characters", max_epochs=2, random_state=0)
    y = [["one", "two"], ["two", "one"]]
    copy = same(model.fit(X, y), tmp_path / "model", X, y)
    assert copy.bidirectional


def test_cross_validation_over_ragged_targets():
    assert cross_val_score(SequenceTagger(max_epochs=40, random_state=0), X, PAST, cv=3).min() > 0.8


def test_words():
    with pytest.raises(ValueError, match="requires y to be passed"):
        SequenceTagger().fit(X)
    with pytest.raises(ValueError, match=r"y\[1\] has shape \(2,\), expected \(3,\); T=3 from X"):
        SequenceTagger().fit([[1.0], [1, 2, 3]], [[0], [0, 1]])
    with pytest.raises(ValueError, match="X has 2 rows and y has 1"):
        SequenceTagger().fit([[1.0], [2.0]], [[0]])
    with pytest.raises(ValueError, match="X has no step"):
        SequenceTagger().fit([np.zeros((0, 2))], [[]])
    model = fitted(PAST, max_epochs=1)
    with pytest.raises(ValueError, match="y holds 'left', expected one of the 2 classes"):
        model.partial_fit(X, [["left"] * len(row) for row in X])
