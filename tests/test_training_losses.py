"""Losses: values by hand, gradients by central differences, words for what does not fit."""

import math

import numpy as np
import pytest

from rnnfast import DTypeError, IndexRangeError, ShapeError
from rnnfast.training import softmax_cross_entropy, squared_error


def central_differences(function, array, step=1e-6):
    """The gradient of a scalar function of a float64 array, element by element."""
    gradient = np.empty_like(array)
    for place in np.ndindex(*array.shape):
        kept = array[place]
        array[place] = kept + step
        above = function(array)
        array[place] = kept - step
        below = function(array)
        array[place] = kept
        gradient[place] = (above - below) / (2 * step)
    return gradient


def test_cross_entropy_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    loss, dlogits = softmax_cross_entropy(logits, np.array([0, 2]))
    assert loss == pytest.approx(-(math.log(0.5) + math.log(0.7)) / 2, rel=1e-15)
    np.testing.assert_allclose(dlogits, [[-0.25, 0.125, 0.125], [0.05, 0.1, -0.15]], rtol=1e-14)


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 2, 5), (2, 3, 1)])
def test_cross_entropy_gradient(shape):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal(shape)
    targets = rng.integers(shape[-1], size=shape[:-1])
    kept = logits.copy()
    _, dlogits = softmax_cross_entropy(logits, targets)
    np.testing.assert_array_equal(logits, kept)
    expected = central_differences(lambda a: softmax_cross_entropy(a, targets)[0], logits)
    np.testing.assert_allclose(dlogits, expected, atol=1e-9)


def test_cross_entropy_of_huge_logits_is_finite():
    logits = np.array([[3e38, -3e38, 0.0]], np.float32)
    with np.errstate(over="ignore"):  # the distance of the first two has no float32: minus infinity
        loss, dlogits = softmax_cross_entropy(logits, np.array([0]))
    assert loss == 0.0
    np.testing.assert_array_equal(dlogits, [[0.0, 0.0, 0.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_keep_the_dtype(dtype):
    logits = np.zeros((2, 3), dtype)
    assert softmax_cross_entropy(logits, np.array([0, 1]))[1].dtype == dtype
    assert squared_error(logits, logits)[1].dtype == dtype


def test_losses_of_nothing_are_zero():
    loss, dlogits = softmax_cross_entropy(np.zeros((0, 4, 5)), np.zeros((0, 4), np.int64))
    assert loss == 0.0
    assert dlogits.shape == (0, 4, 5)
    loss, dy = squared_error(np.zeros((0, 3)), np.zeros((0, 3)))
    assert loss == 0.0
    assert dy.shape == (0, 3)


def test_squared_error():
    y = np.array([[1.0, 2.0], [3.0, 5.0]])
    targets = np.array([[0.0, 2.0], [4.0, 3.0]])
    loss, dy = squared_error(y, targets)
    assert loss == 1.5
    np.testing.assert_array_equal(dy, [[0.5, 0.0], [-0.5, 1.0]])
    expected = central_differences(lambda a: squared_error(a, targets)[0], y)
    np.testing.assert_allclose(dy, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: softmax_cross_entropy(np.zeros((2, 3)), np.zeros(3, np.int64)),
            ShapeError,
            r"targets has shape \(3,\), expected \(2,\), .*logits \(2, 3\)",
        ),
        (
            lambda: softmax_cross_entropy(np.zeros((2, 3)), np.zeros(2)),
            DTypeError,
            "targets is float64, expected an integer array",
        ),
        (
            lambda: softmax_cross_entropy(np.zeros((2, 3), np.float16), np.zeros(2, np.int64)),
            DTypeError,
            "logits is float16, expected float32 or float64",
        ),
        (
            lambda: softmax_cross_entropy(np.zeros((2, 3)), np.array([0, 3])),
            IndexRangeError,
            r"targets holds the index 3 at \[1\], expected 0 <= index < 3",
        ),
        (
            lambda: softmax_cross_entropy(np.zeros((2, 3)), np.array([-1, 0])),
            IndexRangeError,
            r"targets holds the index -1 at \[0\]",
        ),
        (
            lambda: squared_error(np.zeros((2, 3)), np.zeros(3)),
            ShapeError,
            r"targets has shape \(3,\), expected \(2, 3\), the shape of y",
        ),
        (
            lambda: squared_error(np.zeros(3), np.zeros(3, np.float32)),
            DTypeError,
            "y is float64 but targets is float32",
        ),
    ],
)
def test_words(call, error, words):
    with pytest.raises(error, match=words):
        call()
