"""The models among scikit-learn's own tools: its checks, clone, pipelines, searches, joblib."""

import pickle
import subprocess
import warnings

import numpy as np
import pytest
from conftest import require
from processes import PYTHON, environment

require("models")

import joblib  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils import estimator_checks  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from rnnfast import models  # noqa: E402
from rnnfast.models import SequenceClassifier, SequenceRegressor  # noqa: E402

ALL = [
    getattr(models, name) for name in models.__all__ if hasattr(getattr(models, name), "predict")
]

SERIES = "a 2-D array is N series of one feature, so n_features_in_ is 1 and any length is welcome"
NOT_OURS = {
    "check_n_features_in": SERIES,
    "check_n_features_in_after_fitting": SERIES,
    "check_estimators_partial_fit_n_features": SERIES,
    "check_classifiers_train": SERIES + "; its other demands are in test_learns_blobs",
    "check_sample_weight_equivalence_on_dense_data": "batches are drawn at random",
}


@parametrize_with_checks(
    [
        SequenceClassifier(max_epochs=30, learning_rate=0.01),
        SequenceRegressor(max_epochs=30, learning_rate=0.01),
    ],
    expected_failed_checks=lambda estimator: NOT_OURS,
)
def test_scikit_learn_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some checks provoke them on purpose
        check(estimator)


def test_learns_blobs():
    """What `check_classifiers_train` demands besides a fixed length."""
    from sklearn.datasets import make_blobs

    X, y = make_blobs(n_samples=300, random_state=0)
    y = np.array(["one", "two", "three"])[y]
    model = SequenceClassifier(max_epochs=30, learning_rate=0.01, random_state=0).fit(X, y)
    assert list(model.classes_) == ["one", "three", "two"]
    assert model.score(X, y) > 0.83
    shares = model.predict_proba(X)
    assert shares.shape == (300, 3)
    np.testing.assert_array_equal(model.predict(X), model.classes_[shares.argmax(1)])
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="Reshape your data"):
        model.predict(X[0])
    with pytest.raises(ValueError, match="inconsistent"):
        model.fit(X, y[:-1])


@pytest.mark.parametrize("kind", ALL)
def test_parameters(kind):
    """By name, all settable, kept as they are, and cloned."""
    model = kind()
    names = set(model.get_params())
    assert {"cell", "hidden_size", "num_layers", "dropout", "random_state", "max_epochs"} <= names
    values = {name: object() for name in names}
    model.set_params(**values)
    assert model.get_params(deep=False) == values
    weights = kind(hidden_size=7)
    assert clone(weights).get_params() == weights.get_params()
    assert repr(weights) == f"{kind.__name__}(hidden_size=7)"
    with pytest.raises(TypeError):
        kind(hidden=7)
    with pytest.raises(TypeError):
        kind(7)


@pytest.mark.parametrize("kind", ALL)
def test_scikit_learn_checks_without_data(kind):
    """Those that ask nothing of X; the shapes of some models are not scikit-learn's."""
    names = (
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    )
    for name in names:
        getattr(estimator_checks, name)(kind.__name__, kind())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cell", "transformer", 'cell is \'transformer\', expected "rnn_tanh" or "rnn_relu"'),
        ("hidden_size", 0, "hidden_size is 0, expected at least 1"),
        ("max_epochs", 1.5, "max_epochs is of type float, expected int"),
        ("dropout", 1.0, "dropout is 1, expected less"),
        ("learning_rate", -1, "learning_rate is -1, expected a finite number above 0"),
        ("learning_rate", None, "learning_rate is None, expected a number above 0"),
        ("clip_norm", 0, "clip_norm is 0, expected a finite number above 0"),
        ("input", "words", 'input is \'words\', expected "numbers" or "tokens"'),
        ("tokenizer", None, 'tokenizer is None, expected "words" or "characters"'),
        ("embedding_size", 0, "embedding_size is 0, expected at least 1"),
        ("class_weight", "even", "class_weight is 'even', expected \"balanced\""),
        ("class_weight", {7: 1.0}, "class_weight holds 7, which is no class"),
    ],
)
def test_words_about_parameters(name, value, words):
    X, y = np.zeros((4, 3)), [0, 1, 0, 1]
    with pytest.raises(
        (ValueError, TypeError), match=r"^rnnfast\.models\.SequenceClassifier: "
    ) as e:
        SequenceClassifier(**{name: value}).fit(X, y)
    assert words in str(e.value)


def sums(N=60, seed=0):
    """Ragged sequences, and whether their sum is above zero."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((rng.integers(1, 8), 2)) for _ in range(N)]
    return X, np.array([row.sum() > 0 for row in X])


def test_searches_over_ragged_sequences():
    X, y = sums()
    model = SequenceClassifier(max_epochs=15, random_state=0)
    search = GridSearchCV(model, {"hidden_size": [1, 16], "cell": ["lstm"]}, cv=2)
    search.fit(X, y)
    assert search.best_params_["hidden_size"] == 16
    assert search.best_score_ > 0.8
    scores = cross_val_score(model, X, y, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.8


def test_a_pipeline():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 6)) * 100 + 1000
    y = X[:, 0] + X[:, -1]
    model = SequenceRegressor(standardize=False, max_epochs=60, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model)
    y = (y - y.mean()) / y.std()
    assert pipeline.fit(X, y).score(X, y) > 0.9
    assert pipeline.set_params(sequenceregressor__max_epochs=1).fit(X, y).score(X, y) < 0.9


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_search_by_joblib_is_the_search(backend):
    """Over processes and over threads, by the same call; the same scores to the bit."""
    X, y = sums(30)
    search = GridSearchCV(
        SequenceClassifier(max_epochs=3, random_state=0), {"hidden_size": [2, 5]}, cv=2
    )
    alone = search.fit(X, y).cv_results_["mean_test_score"]
    with joblib.parallel_config(backend, n_jobs=2):
        together = clone(search).fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(alone, together)


def test_a_search_on_dask(tmp_path):
    """On the processes of a cluster, by joblib's back end for it; the same scores to the bit."""
    require("dask")
    script = tmp_path / "search.py"
    script.write_text(
        "import os, joblib, numpy as np\n"
        "from distributed import Client\n"
        "from sklearn.model_selection import GridSearchCV\n"
        "from rnnfast.models import SequenceClassifier\n"
        "def process(model, X, y):\n"
        "    return float(os.getpid())\n"
        "if __name__ == '__main__':\n"
        "    X = np.random.default_rng(0).standard_normal((30, 5, 2))\n"
        "    y = X.sum((1, 2)) > 0\n"
        "    model = SequenceClassifier(max_epochs=3, random_state=0)\n"
        "    scores = {'right': 'accuracy', 'process': process}\n"
        "    grid = {'hidden_size': [2, 5]}\n"
        "    search = GridSearchCV(model, grid, scoring=scores, cv=2, refit=False)\n"
        "    alone = search.fit(X, y).cv_results_['mean_test_right']\n"
        "    with Client(n_workers=1, dashboard_address=None):\n"
        "        with joblib.parallel_config('dask'):\n"
        "            together = search.fit(X, y).cv_results_\n"
        "    assert (alone == together['mean_test_right']).all(), (alone, together)\n"
        "    assert os.getpid() not in together['split0_test_process']\n"
        "    print('done')\n"
    )
    run = subprocess.run(
        [*PYTHON, str(script)], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "done\n"


def test_pickled_models_go_on_as_they_were():
    X, y = sums()
    model = SequenceClassifier(max_epochs=2, dropout=0.2, random_state=0).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    for one in (model, copy):
        one.partial_fit(X, y)
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    assert pickle.loads(pickle.dumps(SequenceClassifier(cell="lstm"))).cell == "lstm"


def test_one_to_one():
    """Sequences of one step: a class of a vector, here whether its signs differ."""
    x = np.random.default_rng(0).uniform(-1, 1, (400, 1, 2))
    y = (x[:, 0, 0] > 0) != (x[:, 0, 1] > 0)
    model = SequenceClassifier(learning_rate=0.02, max_epochs=40, random_state=0)
    assert model.fit(x[:300], y[:300]).score(x[300:], y[300:]) > 0.9
