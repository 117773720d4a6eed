"""The course of a fit: gradients, seeds, weights, early stopping, going on, what is shown."""

import numpy as np
import pytest
from conftest import require

require("models")

from matplotlib.figure import Figure  # noqa: E402

import rnnfast  # noqa: E402
from rnnfast.models import SequenceClassifier, SequenceRegressor  # noqa: E402
from rnnfast.models._networks import Examples  # noqa: E402
from rnnfast.models._training import Course, evaluate, train  # noqa: E402
from rnnfast.training import Adam  # noqa: E402


def ragged(N=40, F=2, seed=0, longest=7):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((rng.integers(0, longest), F)) for _ in range(N)]


X = ragged()
SUMS = np.array([row.sum() for row in X])
LABELS = np.where(SUMS > 0, "above", "below")
TOKENS = [[int(v > 0) for v in row[:, 0]] for row in X]


def check_gradients(model, X, y, **fit):
    """Central differences along random directions, in float64, with the masks of dropout fixed."""
    model.set_params(dtype="float64", max_epochs=1, learning_rate=1e-3).fit(X, y, **fit)
    batch = model._examples(X, y, learn=False, **{"sample_weight": None, **fit})
    loss, weight, gradients = model.network_.gradients(batch, 7)
    assert weight > 0
    parameters = model.network_.parameters
    assert gradients.keys() == parameters.keys()
    rng, step = np.random.default_rng(1), 1e-6
    for name, array in parameters.items():
        gradient = gradients[name]
        if isinstance(gradient, rnnfast.IndexedRows):
            gradient = gradient.dense()
        kept, direction = array.copy(), rng.standard_normal(array.shape)
        losses = []
        for sign in (1, -1):
            array[...] = kept + sign * step * direction
            losses.append(model.network_.gradients(batch, 7)[0])
        array[...] = kept
        slope = (losses[0] - losses[1]) / (2 * step)
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-5, abs=1e-8), name
    if model.dropout == 0:
        assert model.network_.loss(batch)[0] == pytest.approx(loss, rel=1e-12)


VARIANTS = [
    {},
    {"cell": "lstm", "num_layers": 2, "bidirectional": True},
    {"cell": "rnn_tanh", "num_layers": 3, "residual": True},
    {"cell": "rnn_relu", "num_layers": 2, "dropout": 0.3, "bidirectional": True},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients(variant):
    weights = np.linspace(0, 2, len(X))
    model = SequenceRegressor(hidden_size=5, random_state=0, **variant)
    check_gradients(model, X, np.stack([SUMS, -SUMS], 1), sample_weight=weights)
    model = SequenceClassifier(
        hidden_size=5, random_state=0, input="tokens", class_weight="balanced", **variant
    )
    check_gradients(model, TOKENS, LABELS)
    check_gradients(model.set_params(embedding_size=3), TOKENS, LABELS)


def test_what_the_parameters_make():
    model = SequenceClassifier(
        cell="lstm",
        hidden_size=6,
        num_layers=3,
        bidirectional=True,
        residual=True,
        dropout=0.25,
        dtype="float64",
        device="numpy",
        max_epochs=1,
    ).fit(X, LABELS)
    layer = model.network_.encoder.layer
    assert repr(layer) == (
        "LSTM(2, 6, num_layers=3, dropout=0.25, bidirectional=True, residual=True, "
        "dtype='float64', device='numpy')"
    )
    assert repr(model.network_.head.linear) == "Linear(12, 2, dtype='float64', device='numpy')"
    assert model.network_.head.dropout == 0.25


def test_what_is_said_of_a_sequence():
    """The head reads the last y of the forward direction, and the first of the reverse."""
    model = SequenceRegressor(bidirectional=True, hidden_size=5, max_epochs=1, random_state=0)
    model.set_params(standardize=False).fit(X, SUMS)
    layer, head = model.network_.encoder.layer, model.network_.head.linear
    for row, predicted in zip(X, model.predict(X), strict=True):
        features = np.zeros(10, np.float32)
        if len(row):
            y, _ = layer(row[:, None].astype(np.float32))
            features = np.concatenate([y[-1, 0, :5], y[0, 0, 5:]])
        assert predicted == head(features)[0]


def test_dropout_before_the_head():
    from rnnfast.models._networks import Head, Shape

    head = Head(3, 2, Shape("gru", 3, 1, False, False, 0.25, "float32", "auto"), 0)
    head.linear.parameters["weight"][...] = np.eye(2, 3)
    head.linear.parameters["bias"][...] = 0
    kept, _ = head.forward(np.ones((10_000, 3), np.float32), 0)
    assert set(np.unique(kept)) == {0, np.float32(1 / 0.75)}
    assert kept.mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(head(np.ones((1, 3), np.float32)), [[1, 1]])


def test_every_epoch_has_an_order_of_its_own():
    """Each row once per epoch, in batches of nearly equal size, masks never the same."""

    class Watched:
        def __init__(self):
            self.parameters = {"w": np.zeros(1, np.float32)}
            self.batches, self.seeds = [], []

        def gradients(self, batch, seed):
            self.batches.append(batch.x.tolist())
            self.seeds.append(seed)
            return 0.0, 1.0, {"w": np.ones(1, np.float32)}

    network, history = Watched(), {"loss": [], "validation_loss": []}
    examples = Examples(np.arange(33), np.arange(33), np.ones(33))
    course = Course("test", 2, 16, 0.1, None, 5, 10, False)
    train(network, Adam(network.parameters), examples, None, history, course)
    assert [len(batch) for batch in network.batches] == [11] * 6
    first = [row for batch in network.batches[:3] for row in batch]
    second = [row for batch in network.batches[3:] for row in batch]
    assert sorted(first) == sorted(second) == list(range(33))
    assert first != second
    assert first != sorted(first)
    assert len(set(network.seeds)) == 6
    assert history["loss"] == [0.0, 0.0]


def test_every_cell_learns():
    for cell in rnnfast.CELLS:
        model = SequenceRegressor(cell=cell, max_epochs=40, random_state=0).fit(X, SUMS)
        assert model.score(X, SUMS) > 0.9, cell
        assert model.network_.encoder.layer.cell == cell


def test_the_same_seed_gives_the_same_bits():
    def model(random_state, threads=1):
        rnnfast.set_num_threads(threads)
        try:
            fitted = SequenceRegressor(max_epochs=2, dropout=0.2, random_state=random_state)
            return fitted.fit(X, SUMS).predict(X)
        finally:
            rnnfast.set_num_threads(before)

    before = rnnfast.get_num_threads()
    np.testing.assert_array_equal(model(3), model(3, threads=2))
    np.testing.assert_array_equal(model(np.random.RandomState(3)), model(3))
    assert not np.array_equal(model(3), model(4))
    assert not np.array_equal(model(None), model(None))


def test_going_on():
    """Two fits with a warm start are one of twice the length; a cold one begins anew."""
    whole = SequenceRegressor(max_epochs=6, dropout=0.1, random_state=0).fit(X, SUMS)
    parts = SequenceRegressor(max_epochs=3, dropout=0.1, random_state=0, warm_start=True)
    parts.fit(X, SUMS).fit(X, SUMS)
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))
    assert parts.history_ == whole.history_
    assert len(whole.history_["loss"]) == 6
    single = SequenceRegressor(max_epochs=3, dropout=0.1, random_state=0)
    for _ in range(6):
        single.partial_fit(X, SUMS)
    np.testing.assert_array_equal(single.predict(X), whole.predict(X))
    parts.set_params(warm_start=False, max_epochs=6).fit(X, SUMS)
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))


def test_partial_fit_of_classes_to_come():
    model = SequenceClassifier(random_state=0)
    first = LABELS == "above"
    above = [row for row, is_first in zip(X, first, strict=True) if is_first]
    model.partial_fit(above, LABELS[first], classes=["below", "above"])
    assert list(model.classes_) == ["above", "below"]
    for _ in range(30):
        model.partial_fit(X, LABELS)
    assert model.score(X, LABELS) > 0.9
    with pytest.raises(ValueError, match=r'class_weight is "balanced" in partial_fit'):
        SequenceClassifier(class_weight="balanced").partial_fit(X, LABELS)


def test_sample_weights_decide_between_contradictions():
    twice, y = [*X, *X], np.concatenate([SUMS, -SUMS])
    weights = np.repeat([1.0, 0.0], len(X))
    model = SequenceRegressor(max_epochs=40, random_state=0)
    assert model.fit(twice, y, sample_weight=weights).score(X, SUMS) > 0.9
    assert model.fit(twice, y).score(X, SUMS) < 0.5
    labels = np.concatenate([LABELS, np.where(LABELS == "above", "below", "above")])
    model = SequenceClassifier(max_epochs=40, random_state=0)
    assert model.fit(twice, labels, sample_weight=weights).score(X, LABELS) > 0.9


def test_class_weights_move_the_border():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 190), rng.normal(1, 1, 10)])[:, None]
    rare = np.arange(200) >= 190

    def share(class_weight):
        model = SequenceClassifier(max_epochs=20, random_state=0, class_weight=class_weight)
        return model.fit(values, rare).predict(values).mean()

    assert share(None) < 0.1
    assert share("balanced") > 0.2
    assert share({True: 19.0}) == pytest.approx(share("balanced"), abs=0.1)
    assert share({False: 0.0}) == 1


def test_early_stopping_keeps_the_best_epoch():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((60, 4))  # nothing to learn: the loss held out soon grows
    y = rng.standard_normal(60)
    model = SequenceRegressor(
        early_stopping=True, patience=3, validation_fraction=0.25, max_epochs=200, random_state=0
    ).fit(noise, y)
    held_out = model.history_["validation_loss"]
    assert len(held_out) == len(model.history_["loss"]) < 200
    assert int(np.argmin(held_out)) == len(held_out) - 1 - 3
    examples = model._examples(noise, y, None, learn=False)
    train, validation = model._hold_out(examples)
    assert (len(train.x), len(validation.x)) == (45, 15)
    assert evaluate(model.network_, validation, 32) == min(held_out)
    with pytest.raises(ValueError, match="X has 1 rows, expected at least 2"):
        model.fit(noise[:1], y[:1])


def test_gradients_are_clipped():
    """Targets without a unit of their own would throw the parameters far away in one step."""
    far = {"standardize": False, "max_epochs": 1, "random_state": 0, "batch_size": 100}
    seen = []
    from rnnfast.models import _training

    real = _training.clip_by_global_norm
    with pytest.MonkeyPatch.context() as patch:

        def watched(gradients, limit):
            norm = real(gradients, limit)
            after = real(gradients, np.inf)
            seen.append((norm, after, limit))
            return norm

        patch.setattr(_training, "clip_by_global_norm", watched)
        SequenceRegressor(**far).fit(X, SUMS * 1e4)
        SequenceRegressor(clip_norm=None, **far).fit(X, SUMS * 1e4)
    (norm, after, limit), (free, same, no_limit) = seen
    assert limit == 1.0
    assert norm > 100
    assert after == pytest.approx(1)
    assert no_limit == np.inf
    assert free == same == pytest.approx(norm)


def test_divergence_is_said():
    with pytest.raises(FloatingPointError, match=r"in epoch \d the loss is .*lower learning_rate"):
        SequenceRegressor(learning_rate=1e30).fit(X, SUMS)


def test_progress_and_picture(capsys):
    model = SequenceRegressor(max_epochs=3, random_state=0, early_stopping=True)
    model.fit(X, SUMS)
    assert capsys.readouterr().err == ""
    model.set_params(verbose=True).fit(X, SUMS)
    shown = capsys.readouterr().err
    assert "rnnfast.models.SequenceRegressor: 100%" in shown
    assert "loss=" in shown
    assert "validation=" in shown
    ax = Figure().subplots()
    assert model.plot_history(ax) is ax
    training, validation = ax.get_lines()
    np.testing.assert_array_equal(training.get_ydata(), model.history_["loss"])
    np.testing.assert_array_equal(validation.get_ydata(), model.history_["validation_loss"])
    np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3])
    from matplotlib import pyplot

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "agg")
        pyplot.switch_backend("agg")
        alone = SequenceRegressor(max_epochs=2).fit(X, SUMS).plot_history()
        assert len(alone.get_lines()) == 1
        pyplot.close(alone.figure)


def test_every_model_on_every_device(device):
    """Trained and run there; writing runs step by step."""
    from rnnfast.models import Forecaster, Seq2Seq, SequenceGenerator, SequenceTagger

    common = {"device": device, "max_epochs": 2, "hidden_size": 4, "random_state": 0}
    some, tags = X[:8], [np.sign(row[:, 0]) for row in X[:8]]
    assert SequenceClassifier(**common).fit(X, LABELS).predict(X).shape == LABELS.shape
    assert SequenceRegressor(**common).fit(X, SUMS).predict(X).shape == SUMS.shape
    assert len(SequenceTagger(**common).fit(some, tags).predict(some)) == 8
    assert Forecaster(**common).fit(np.arange(40.0)).predict(np.arange(9.0), steps=2).shape == (2,)
    for strategy in ("greedy", "sample", "beam"):
        writing = {**common, "strategy": strategy, "cell": "lstm", "tokenizer": "characters"}
        assert len(SequenceGenerator(**writing).fit(["a", "b"], ["xy", "z"]).predict(["b"])) == 1
        assert len(Seq2Seq(**writing).fit(some[:2], ["xy", "z"]).predict(some)) == 8
