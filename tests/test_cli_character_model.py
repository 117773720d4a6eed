"""The character model: its gradients, its validation, and what it writes."""

import math
from itertools import islice

import numpy as np
import pytest
from conftest import require

from rnnfast import ArgumentError, IndexedRows

require("cli")

from rnnfast.cli.character_model import CELLS, CharacterModel  # noqa: E402


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("layers", "dropout"), [(1, 0.0), (2, 0.4)])
def test_gradients(cell, layers, dropout):
    """The slope along the gradient is its squared norm; masks stay as the seed is the same."""
    model = CharacterModel(7, cell, 24, layers, dropout, seed=3)
    rng = np.random.default_rng(0)
    x, targets = rng.integers(7, size=(2, 6, 5))
    _, gradients, _ = model.gradients(x, targets, None, (1, 2))
    dense = {k: g.dense() if isinstance(g, IndexedRows) else g for k, g in gradients.items()}
    assert dense.keys() == model.parameters.keys()

    def loss_at(distance, name):
        parameter = model.parameters[name]
        kept = parameter.copy()
        parameter += np.float32(distance) * dense[name]
        loss, _, _ = model.gradients(x, targets, None, (1, 2))
        parameter[...] = kept
        return loss

    for name, gradient in dense.items():
        square = float(np.square(gradient, dtype=np.float64).sum())
        distance = 1e-2 / math.sqrt(square)
        slope = (loss_at(distance, name) - loss_at(-distance, name)) / (2 * distance)
        assert slope == pytest.approx(square, rel=0.02), name


def test_the_state_is_carried():
    """Two windows with the state carried predict what one long window does."""
    model = CharacterModel(5, "lstm", 8, seed=1)
    tokens = np.random.default_rng(0).integers(5, size=(21, 2))
    whole, _, last = model.gradients(tokens[:20], tokens[1:], None, (0, 0))
    first, _, state = model.gradients(tokens[:10], tokens[1:11], None, (0, 0))
    second, _, state = model.gradients(tokens[10:20], tokens[11:], state, (0, 0))
    assert (first + second) / 2 == pytest.approx(whole, rel=1e-6)
    np.testing.assert_allclose(state[1], last[1], rtol=1e-5)


def by_hand(model, tokens, start):
    """One character after the other, the state carried from the text's beginning."""
    state, bits = None, []
    for place in range(1, len(tokens)):
        y, state = model.rnn(tokens[place - 1].reshape(1, 1), state)
        logits = model.output(y)[0, 0].astype(np.float64)
        bits.append((np.log(np.exp(logits).sum()) - logits[tokens[place]]) / math.log(2))
    return np.mean(bits[start - 1 :])


@pytest.mark.parametrize("length", [301, 302, 700])
def test_bits_per_character_is_the_plain_loop(length):
    model = CharacterModel(6, "gru", 8, seed=1)
    tokens = np.random.default_rng(0).integers(6, size=length)
    one_piece = model.bits_per_character(tokens, 40, rows=1, warm=1000)
    assert one_piece == pytest.approx(by_hand(model, tokens, 40), rel=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 32])
@pytest.mark.parametrize("stop", [None, 60, 101])
def test_every_character_is_counted_once(rows, stop):
    """A model that knows nothing but frequencies gives the same bits however the text is cut."""
    model = CharacterModel(4, "rnn", 3, seed=0)
    model.output.parameters["weight"][...] = 0
    model.output.parameters["bias"][...] = np.log([0.5, 0.25, 0.125, 0.125])
    tokens = np.random.default_rng(0).integers(4, size=130)
    expected = np.array([1, 2, 3, 3])[tokens[50:stop]].mean()
    assert model.bits_per_character(tokens, 50, stop, rows=rows) == pytest.approx(expected)


def test_the_drawn_frequencies_are_the_probabilities():
    model = CharacterModel(4, "rnn", 3, seed=0)
    model.output.parameters["weight"][...] = 0
    model.output.parameters["bias"][...] = np.log([0.1, 0.2, 0.3, 0.4])
    start = np.array([0])

    def frequencies(temperature):
        drawn = model.generate(start, temperature, np.random.default_rng(1), never=3)
        return np.bincount(list(islice(drawn, 4000)), minlength=4) / 4000

    # Without the fourth: 1, 2, 3 sixths; at temperature 1/2 their squares.
    np.testing.assert_allclose(frequencies(1.0), [1 / 6, 2 / 6, 3 / 6, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(0.5), [1 / 14, 4 / 14, 9 / 14, 0], atol=0.03)
    np.testing.assert_array_equal(frequencies(0), [0, 0, 1, 0])
    np.testing.assert_array_equal(frequencies(1e-300), [0, 0, 1, 0])


def test_what_is_drawn_follows_the_prompt():
    """Generation is the plain loop: prompt first, then each drawn character."""
    model = CharacterModel(6, "rnn", 16, seed=5)
    model.rnn.parameters["weight_hh_l0"] *= 4  # chaos: it writes more than one character
    prompt = np.array([1, 4, 2])
    drawn = list(islice(model.generate(prompt, 0, np.random.default_rng(0), never=5), 12))
    text = list(prompt)
    for _ in range(12):
        y, _ = model.rnn(np.array(text)[:, None])
        text.append(int(model.output(y[-1])[0, :5].argmax()))
    assert drawn == text[3:]
    assert len(set(drawn)) > 2


def test_parameters_are_the_layers_own():
    model, other = CharacterModel(5, "gru", 4, seed=0), CharacterModel(5, "gru", 4, seed=1)
    other.load({**model.parameters, "optimizer.steps": np.array(3)})
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(other.parameters[name], array)
    other.parameters["output.bias"][...] = 9
    assert (other.output.parameters["bias"] == 9).all()
    assert not (model.parameters["output.bias"] == 9).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cell": "elman"}, "cell is 'elman', expected one of rnn, relu-rnn"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 <= dropout < 1"),
    ],
)
def test_words(options, words):
    with pytest.raises(ArgumentError, match=words):
        CharacterModel(5, **{"hidden": 4, **options})
