"""Gradients of which only some rows or columns are nonzero."""

from __future__ import annotations

import numpy as np
import pytest

from rnnfast import IndexedRows

ROWS = np.arange(1.0, 7.0).reshape(2, 3)


@pytest.mark.parametrize("axis", [0, 1])
def test_dense(axis: int) -> None:
    shape = (5, 3) if axis == 0 else (3, 5)
    gradient = IndexedRows(np.array([1, 4]), ROWS, shape, axis)
    expected = np.zeros((5, 3))
    expected[1], expected[4] = ROWS
    np.testing.assert_array_equal(gradient.dense(), expected if axis == 0 else expected.T)
    assert gradient.dtype == np.float64


def test_dense_of_nothing() -> None:
    gradient = IndexedRows(np.empty(0, np.int64), np.empty((0, 3), np.float32), (3, 5))
    assert not gradient.dense().any()
    assert gradient.dense().dtype == np.float32
