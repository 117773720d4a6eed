"""Time series."""

import numpy as np
import pytest
from conftest import require
from test_models_bits import check_bits
from test_models_saving import same
from test_models_training import check_gradients

require("models")

from sklearn.model_selection import TimeSeriesSplit, cross_val_score  # noqa: E402

from rnnfast import _backend  # noqa: E402
from rnnfast.models import Forecaster  # noqa: E402

WAVE = 50 + 10 * np.sin(np.arange(150) / 3)
TWO = np.stack([np.sin(np.arange(120) / 4), 100 * np.cos(np.arange(120) / 4)], 1)


def test_one_and_many_steps_ahead():
    model = Forecaster(max_epochs=60, random_state=0).fit(WAVE[:120])
    assert model.score(WAVE[100:]) > 0.95
    assert model.predict(WAVE[:120]).shape == (1,)
    far = model.predict(WAVE[:120], steps=20)
    assert np.abs(far - WAVE[120:140]).max() < 3
    at_once = Forecaster(horizon=6, max_epochs=60, random_state=0).fit(WAVE[:120])
    ahead = at_once.predict(WAVE[:120])
    assert np.abs(ahead - WAVE[120:126]).max() < 1
    assert at_once.score(WAVE[90:]) > 0.98
    # Farther than the horizon the forecast is read as if it had come true.
    longer = at_once.predict(WAVE[:120], steps=8)
    np.testing.assert_array_equal(longer[:6], ahead)
    by_hand = at_once.predict(np.concatenate([WAVE[:120], ahead]))[:2]
    np.testing.assert_allclose(longer[6:], by_hand, atol=1e-4)


def test_several_variables():
    model = Forecaster(horizon=2, window=12, max_epochs=80, random_state=0).fit([TWO[:100]])
    ahead = model.predict([TWO[:100]], steps=4)
    assert ahead.shape == (1, 4, 2)
    assert np.abs((ahead[0] - TWO[100:104]) / [1, 100]).max() < 0.1


def test_forms_of_series():
    def shape(X, **parameters):
        model = Forecaster(horizon=3, max_epochs=1, random_state=0, **parameters)
        return model.fit(X).predict(X).shape

    assert shape(WAVE) == shape(WAVE.tolist()) == (3,)
    assert shape(np.stack([WAVE, WAVE])) == shape([WAVE, WAVE[:50]]) == (2, 3)
    assert shape(np.stack([TWO, TWO, TWO])) == shape([TWO, TWO[:30], TWO]) == (3, 3, 2)
    assert shape([WAVE[:5], WAVE[:4]], window=24) == (2, 3)  # shorter than the window


def test_windows():
    """Each window meets the changes that follow it, and none reaches into another series."""
    model = Forecaster(horizon=2, window=3, standardize=False, max_epochs=1)
    model.fit([[1.0, 2, 4, 8, 16, 32], [5, 6, 8.0]])
    examples = model._examples([[1.0, 2, 4, 8, 16, 32], [5, 6, 8.0]], None, [1, 2], learn=False)
    rows = [row[:, 0].tolist() for row in examples.x]
    assert rows == [[1, 2, 4], [2, 4, 8], [5]]
    changes = examples.y * np.tile(model._y_scale, 2)
    np.testing.assert_allclose(changes, [[4, 12], [8, 24], [1, 3]], rtol=1e-6)
    np.testing.assert_array_equal(examples.weights, [1, 1, 2])


def test_the_score():
    """Against repeating the last value, over every window; variables in their own units."""
    model = Forecaster(horizon=2, window=6, max_epochs=3, random_state=0).fit([TWO[:40]])
    series, units = TWO[60:90] * [0.3, 2], TWO[:40].var(axis=0)
    left, naive = 0.0, 0.0
    for end in range(6, 29):
        ahead, true = model.predict([series[:end]])[0], series[end : end + 2]
        left += (np.square(ahead - true) / units).sum()
        naive += (np.square(series[end - 1] - true) / units).sum()
    assert model.score([series]) == pytest.approx(1 - left / naive, rel=1e-4)
    two = [series, -series]
    assert model.score(two, sample_weight=[1, 0]) == pytest.approx(model.score([series]))
    assert model.score(two) != pytest.approx(model.score([series]))


def test_it_sets_out_from_the_naive_forecast():
    model = Forecaster(max_epochs=1, learning_rate=1e-12, horizon=2).fit([TWO])
    np.testing.assert_allclose(model.predict([TWO])[0], TWO[[-1, -1]], rtol=1e-5)
    assert model.score([TWO]) == pytest.approx(0, abs=1e-5)


def test_the_end_is_held_out():
    model = Forecaster(horizon=2, window=3, max_epochs=1, early_stopping=True)
    model.set_params(validation_fraction=0.25).fit([np.arange(16.0), [1.0, 2, 4]])
    examples = model._examples([np.arange(16.0), [1.0, 2, 4]], None, None, learn=False)
    train, validation = model._hold_out(examples)
    # 12 windows: the last 3 are held out, and the one before would show the first one's target.
    assert (len(train.x), len(validation.x)) == (8 + 1, 3)
    last = validation.x.values.reshape(3, 3) * model._x_scale + model._x_mean
    np.testing.assert_allclose(last[:, -1], [11, 12, 13], rtol=1e-6)
    with pytest.raises(ValueError, match="all series are too short to hold out their ends"):
        model.fit([[1.0, 2, 4]])


def test_gradients():
    model = Forecaster(horizon=2, window=5, hidden_size=4, random_state=0)
    check_gradients(model, [TWO[:20], TWO[50:60]], None, sample_weight=[1, 2])


@pytest.mark.skipif(not _backend.compiled, reason="the promise is the compiled module's")
def test_bits():
    X = [np.sin(np.arange(n)) for n in range(3, 40)]
    model = Forecaster(horizon=2, max_epochs=1, random_state=0).fit(X)
    check_bits(model, X, lambda model, X: model.predict(X, steps=5))


def test_saving(tmp_path):
    model = Forecaster(horizon=2, max_epochs=2, random_state=0).fit([TWO])
    same(model, tmp_path / "model", [TWO], None)


def test_cross_validation():
    X = [WAVE[k : k + 60] for k in range(0, 90, 10)]
    model = Forecaster(max_epochs=10, random_state=0)
    assert cross_val_score(model, X, cv=TimeSeriesSplit(2)).min() > 0.5


def test_words():
    with pytest.raises(ValueError, match=r"X\[1\] has 2 steps, expected more than 2; horizon=2"):
        Forecaster(horizon=2).fit([WAVE, [1.0, 2]])
    with pytest.raises(ValueError, match="y is given, expected None"):
        Forecaster().fit(WAVE, WAVE)
    with pytest.raises(ValueError, match="input is 'tokens', expected \"numbers\""):
        Forecaster(input="tokens").fit(WAVE)
    with pytest.raises(ValueError, match="horizon is 0, expected at least 1"):
        Forecaster(horizon=0).fit(WAVE)
    model = Forecaster(max_epochs=1).fit(WAVE)
    with pytest.raises(ValueError, match="steps is 0, expected at least 1"):
        model.predict(WAVE, steps=0)
    with pytest.raises(ValueError, match="a series of no step"):
        model.predict([WAVE, []])
    with pytest.raises(ValueError, match="X has 2 features"):
        model.predict([TWO])
