"""A model in a file: what comes back, what is refused, and what a crash leaves."""

import json
import os
import pickle
import subprocess
import time

import numpy as np
import pytest
from conftest import require
from processes import PYTHON, environment

require("models")

from safetensors import safe_open  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from rnnfast.models import (  # noqa: E402
    Forecaster,
    SequenceClassifier,
    SequenceRegressor,
    Vocabulary,
)

TEXTS = ["good film", "bad film", "good day", "Größe ß"]
SERIES = np.random.default_rng(0).standard_normal((6, 4))


def same(model, path, X, y, predict="predict"):
    """Save, load, and compare predictions, parameters, and how training goes on."""
    model.save(path)
    copy = type(model).load(path)
    assert copy.get_params() == model.get_params()
    assert copy.history_ == model.history_
    for _ in range(2):
        for mine, theirs in zip(getattr(copy, predict)(X), getattr(model, predict)(X), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for name, array in model._arrays().items():
            np.testing.assert_array_equal(copy._arrays()[name], array)
        for one in (model, copy):
            one.partial_fit(X, y)
    return copy


@pytest.mark.parametrize(
    "labels", [[0, 1, 0, 2], ["a", "b", "a", "ü"], [True, False, True, False], [0.0, 1.0, 2.0, 1.0]]
)
def test_classifiers_come_back(tmp_path, labels):
    weights = {label: 2.0 for label in labels}
    model = SequenceClassifier(
        input="tokens", max_epochs=2, dropout=0.1, random_state=0, class_weight=weights
    ).fit(TEXTS, labels)
    copy = same(model, tmp_path / "model.safetensors", TEXTS, labels, "predict_proba")
    assert copy.classes_.dtype == model.classes_.dtype
    np.testing.assert_array_equal(copy.predict(TEXTS), model.predict(TEXTS))
    model.set_params(class_weight=None)
    objects = model.fit(TEXTS, np.array(["a", "b", "a", "c"], object))
    objects.save(tmp_path / "objects")
    assert SequenceClassifier.load(tmp_path / "objects").classes_.dtype == object


def test_a_vocabulary_comes_back(tmp_path):
    model = SequenceClassifier(input="tokens", vocabulary=Vocabulary(["good", "Größe"]))
    model.set_params(max_epochs=1).fit(TEXTS, [0, 1, 0, 1])
    same(model, tmp_path / "model", TEXTS, [0, 1, 0, 1], "predict_proba")


def test_regressors_come_back(tmp_path):
    path = tmp_path / "model.safetensors"
    y = SERIES[:, :2] * 100
    model = SequenceRegressor(max_epochs=2, early_stopping=True, random_state=0).fit(SERIES, y)
    assert same(model, str(path), SERIES, y).predict(SERIES).shape == (6, 2)
    y = y[:, 0]
    same(SequenceRegressor(max_epochs=2, cell="lstm").fit(SERIES, y), path, SERIES, y)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64")])
def test_dtypes_come_back(tmp_path, dtype):
    model = SequenceRegressor(max_epochs=1, dtype=dtype).fit(SERIES, SERIES[:, 0])
    model.save(tmp_path / "model")
    copy = SequenceRegressor.load(tmp_path / "model")
    assert copy.network_.parameters["head.weight"].dtype == np.float64
    np.testing.assert_array_equal(copy.predict(SERIES), model.predict(SERIES))


def test_parameters_set_after_the_fit_are_for_the_next_one(tmp_path):
    """The network there is stays as it was made: in predictions, pickles, files and warm starts."""
    model = SequenceRegressor(max_epochs=1, random_state=0).fit(SERIES, SERIES[:, 0])
    expected = model.predict(SERIES)
    model.set_params(hidden_size=5, cell="lstm", dtype="float64", num_layers=2, input="tokens")
    np.testing.assert_array_equal(model.predict(SERIES), expected)
    model.save(tmp_path / "model")
    for copy in (SequenceRegressor.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copy.predict(SERIES), expected)
        assert copy.hidden_size == 5
        copy.partial_fit(SERIES, SERIES[:, 0])
        assert copy.network_.encoder.layer.hidden_size == 64
        copy.set_params(input="numbers").fit(SERIES, SERIES[:, 0])
        assert copy.network_.encoder.layer.hidden_size == 5
    forecaster = Forecaster(max_epochs=1).fit(np.arange(40.0))
    assert forecaster.set_params(horizon=3).predict(np.arange(40.0)).shape == (1,)
    assert forecaster.fit(np.arange(40.0)).predict(np.arange(40.0)).shape == (3,)


def test_the_file_is_safetensors_and_json(tmp_path):
    model = SequenceRegressor(max_epochs=1, hidden_size=3).fit(SERIES, SERIES[:, 0])
    model.save(tmp_path / "model")
    with safe_open(tmp_path / "model", framework="numpy") as file:
        description = json.loads(file.metadata()["rnnfast.models"])
        assert file.get_tensor("network.layer.weight_hh_l0").shape == (9, 3)
    assert description["model"] == "SequenceRegressor"
    assert description["parameters"]["hidden_size"] == 3


def test_what_has_no_place_in_a_file(tmp_path):
    model = SequenceRegressor(max_epochs=1, random_state=np.random.RandomState(0))
    with pytest.raises(ValueError, match="not fitted"):
        model.save(tmp_path / "model")
    model.fit(SERIES, SERIES[:, 0])
    with pytest.raises(ValueError, match=r"cannot be saved: RandomState.*is of type RandomState"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_words_about_files(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(FileNotFoundError):
        SequenceRegressor.load(path)
    with pytest.raises(IsADirectoryError):
        SequenceRegressor.load(tmp_path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="model cannot be read"):
        SequenceRegressor.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"holds arrays, but no model"):
        SequenceRegressor.load(path)
    model = SequenceRegressor(max_epochs=1).fit(SERIES, SERIES[:, 0])
    model.save(path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="holds a SequenceRegressor, expected a SequenceClass"):
        SequenceClassifier.load(path)
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="cannot be read"):
            SequenceRegressor.load(path)


def edited(path, change):
    """Rewrite a file with its description and arrays changed."""
    with safe_open(path, framework="numpy") as file:
        description = json.loads(file.metadata()["rnnfast.models"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(description, arrays)
    save_file(arrays, path, metadata={"rnnfast.models": json.dumps(description)})


class Pairs:
    """A dictionary as the file has it: a list of pairs."""

    def __init__(self, pairs):
        self.pairs = pairs

    def update(self, **values):
        for pair in self.pairs:
            pair[1] = values.get(pair[0], pair[1])


def made(description):
    return Pairs(description["fitted"]["_made"]["pairs"])


CHANGES = {
    "format": (lambda d, a: d.update(format=2), "has format 2, expected 1"),
    "parameter": (lambda d, a: d["parameters"].update(strange=1), "strange"),
    "value": (lambda d, a: d["parameters"].update(cell="x"), "cell is 'x'"),
    "no parameters": (lambda d, a: d.pop("parameters"), "parameters"),
    "attribute": (lambda d, a: d["fitted"].update(predict=1), "entry 'predict' is unknown"),
    "no attribute": (lambda d, a: d["fitted"].pop("_y_mean"), "_y_mean"),
    "no seed": (lambda d, a: d["fitted"].pop("_seed"), "_seed"),
    "not made": (lambda d, a: d["fitted"].pop("_made"), "_made"),
    "no history": (lambda d, a: d["fitted"].pop("history_"), "history_"),
    "array": (lambda d, a: a.pop("network.head.weight"), "missing weight"),
    "more arrays": (lambda d, a: a.update({"network.head.x": np.ones(1)}), "unexpected x"),
    "shape": (lambda d, a: a.update({"network.head.bias": np.ones(2, np.float32)}), "bias has sha"),
    "dtype": (lambda d, a: a.update({"network.head.bias": np.ones(1)}), "float64"),
    "size": (lambda d, a: made(d).update(hidden_size=5), "shape"),
    "made of": (lambda d, a: made(d).update(cell="x"), "'x'"),
    "input": (lambda d, a: made(d).update(input="tokens"), "_x_mean"),
    "optimizer": (lambda d, a: a.pop("optimizer.steps"), "lack steps"),
    "array kind": (
        lambda d, a: d["fitted"].update(_y_mean={"array": [1], "dtype": "no"}),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_words_about_damage(tmp_path, name):
    path = tmp_path / "model"
    SequenceRegressor(max_epochs=1).fit(SERIES, SERIES[:, 0]).save(path)
    change, words = CHANGES[name]
    edited(path, lambda d, a: None)
    SequenceRegressor.load(path)
    edited(path, change)
    with pytest.raises(ValueError, match=words):
        SequenceRegressor.load(path)


class Crash(BaseException):
    """The process ends here."""


def test_a_crash_at_every_single_action(tmp_path, monkeypatch):
    """Whichever action is the last one, the file holds the old model or the new one, whole."""
    path, y = tmp_path / "model", SERIES[:, 0]
    old = SequenceRegressor(max_epochs=1, random_state=0).fit(SERIES, y)
    new = SequenceRegressor(max_epochs=1, random_state=1).fit(SERIES, y)
    before, after = old.predict(SERIES), new.predict(SERIES)
    outcomes = []
    for until in range(10):
        old.save(path)
        count = iter(range(until))

        def watch(real, count=count):
            def action(*args, **kwargs):
                if next(count, None) is None:
                    raise Crash
                return real(*args, **kwargs)

            return action

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace"):
                patch.setattr(os, name, watch(getattr(os, name)))
            try:
                new.save(path)
                crashed = False
            except Crash:
                crashed = True
        read = SequenceRegressor.load(path).predict(SERIES)
        outcomes.append("old" if np.array_equal(read, before) else "new")
        np.testing.assert_array_equal(read, before if outcomes[-1] == "old" else after)
        if not crashed:
            break
    assert outcomes == ["old", "old", "new", "new"]


def test_kill_9_at_random_moments(tmp_path):
    script = (
        "import numpy as np\n"
        "from rnnfast.models import SequenceRegressor\n"
        "X = np.arange(12.0).reshape(3, 4)\n"
        "model = SequenceRegressor(max_epochs=1, hidden_size=200).fit(X, X[:, 0])\n"
        "while True: model.save('model')\n"
    )
    path, rng = tmp_path / "model", np.random.default_rng()
    for _ in range(3):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([*PYTHON, "-c", script], cwd=tmp_path, env=environment())
        limit = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None, "the writer ended by itself"
            assert time.monotonic() < limit
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        assert np.isfinite(SequenceRegressor.load(path).predict(SERIES)).all()
