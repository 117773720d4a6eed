"""Predictions are the same bits whatever the batch and the number of threads."""

import numpy as np
import pytest
from conftest import require

require("models")

import rnnfast  # noqa: E402
from rnnfast import _backend  # noqa: E402
from rnnfast.models import SequenceClassifier, SequenceRegressor  # noqa: E402

pytestmark = pytest.mark.skipif(
    not _backend.compiled, reason="the promise is the compiled module's"
)

rng = np.random.default_rng(0)
ROWS = [rng.standard_normal((rng.integers(0, 30), 3)) for _ in range(67)]
TOKENS = [rng.integers(9, size=rng.integers(1, 12)).tolist() for _ in range(67)]
Y = rng.standard_normal(67)


def flat(result):
    """Any prediction as one array."""
    return np.concatenate([np.ravel(part) for part in result])


def check_bits(model, X, predict):
    """Compare predictions of `predict(model, X)`, one entry for each row of X."""
    expected = predict(model, X)
    threads = rnnfast.get_num_threads()
    try:
        for batch_size, n in ((1, 1), (3, 2), (16, 1), (33, 2), (1000, 1), (1000, 2)):
            rnnfast.set_num_threads(n)
            again = predict(model.set_params(batch_size=batch_size), X)
            np.testing.assert_array_equal(flat(again), flat(expected))
    finally:
        rnnfast.set_num_threads(threads)
    order = np.random.default_rng(1).permutation(len(X))
    mixed = predict(model, [X[k] for k in order])
    for k, row in zip(order, mixed, strict=True):
        np.testing.assert_array_equal(row, expected[k])


@pytest.mark.parametrize("cell", rnnfast.CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_for_each_row(cell, dtype):
    common = {"cell": cell, "dtype": dtype, "max_epochs": 1, "random_state": 0, "hidden_size": 33}
    model = SequenceRegressor(num_layers=2, bidirectional=True, **common).fit(ROWS, Y)
    check_bits(model, ROWS, lambda model, X: model.predict(X))
    model = SequenceClassifier(input="tokens", embedding_size=5, **common).fit(TOKENS, Y > 0)
    check_bits(model, TOKENS, lambda model, X: model.predict_proba(X))
