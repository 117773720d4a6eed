"""Losses: values by hand, gradients by central differences, words for what does not fit."""

import math

import numpy as np
import pytest

from rnnfast import ArgumentError, DTypeError, IndexRangeError, ShapeError
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_are_a_weighted_mean(dtype):
    """A position of weight 2 counts as two, one of weight 0 as none."""
    rng = np.random.default_rng(3)
    weights = np.array([1, 0, 2, 1], dtype)
    repeated = np.repeat(np.arange(4), weights.astype(int))
    logits, classes = rng.standard_normal((4, 3)).astype(dtype), np.array([0, 2, 1, 1])
    values = rng.standard_normal((4, 3)).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    for function, targets in ((softmax_cross_entropy, classes), (squared_error, values)):
        loss, gradient = function(logits, targets, weights)
        expected, parts = function(logits[repeated], targets[repeated])
        summed = np.zeros_like(logits)
        np.add.at(summed, repeated, parts)
        assert loss == pytest.approx(expected, rel=8 * eps)
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, summed, rtol=0, atol=4 * eps)


def test_weights_of_zero_are_no_loss_and_no_gradient():
    logits = np.ones((2, 3), np.float32)
    for function, targets in ((softmax_cross_entropy, np.array([0, 1])), (squared_error, -logits)):
        loss, gradient = function(logits, targets, np.zeros(2, np.float32))
        assert loss == 0
        assert not gradient.any()


def test_weights_of_inner_axes():
    rng = np.random.default_rng(4)
    y, targets = rng.standard_normal((2, 2, 3, 2))
    weights = rng.uniform(0.5, 2, (2, 3))
    loss, gradient = squared_error(y, targets, weights)
    assert loss == pytest.approx(np.average(np.square(y - targets).mean(-1), weights=weights))
    expected = central_differences(lambda a: squared_error(a, targets, weights)[0], y)
    np.testing.assert_allclose(gradient, expected, atol=1e-9)


def test_words_about_weights():
    y = np.ones((2, 3), np.float32)
    with pytest.raises(ShapeError, match=r"weights has shape \(3,\), expected \(2,\)"):
        squared_error(y, y, np.ones(3))
    with pytest.raises(ShapeError, match=r"weights has shape \(2, 3\), expected \(2,\)"):
        softmax_cross_entropy(y, np.array([0, 1]), np.ones((2, 3)))
    with pytest.raises(DTypeError, match="weights is int64"):
        squared_error(y, y, np.ones(2, np.int64))
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ArgumentError, match="negative or not finite"):
            squared_error(y, y, np.array([1.0, wrong]))
