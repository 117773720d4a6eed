"""Which units the compiled kernels drop, in rows of every width, against the generator's words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import require

import rnnfast
from rnnfast import _random

require("core")

SEED, T0, ROWS, P = 2**40 + 3, 7, np.array([5, 2**31 + 1, 0]), 0.4
# A row's words are taken in groups, and a mask noted in vectors of bits: every number of units up
# to several groups, and numbers around those that fill a vector of notes, on every instruction set.
WIDTHS = [*range(1, 140), *(n + d for n in (192, 256, 320, 512) for d in (-1, 0, 1))]


def layer_of(H: int, dtype: str, **options: Any) -> rnnfast.RNN:
    """h' = tanh(h), but for the masks."""
    layer = rnnfast.RNN(1, H, dtype=dtype, seed=0, **options)
    for name, array in layer.parameters.items():
        array[...] = np.eye(H) if name == "weight_hh_l0" else 0
    return layer


def call(layer: rnnfast.RNN, H: int, dtype: str) -> tuple[np.ndarray, Any]:
    """One step from h = 1 of three rows: y, the tape."""
    rows = ROWS.size
    x, h0 = np.zeros((1, rows, 1), dtype), np.ones((1, rows, H), dtype)
    y, _, tape = layer.forward(x, h0, training=True, seed=SEED, t0=T0, row_ids=ROWS)
    return y[0], tape


def of_rows(purpose: int, step: int, H: int) -> np.ndarray:
    """(B, H): whether a word is below the threshold."""
    words = _random.words(SEED, purpose, 0, 0, np.array([[step]]), ROWS, H)[0]
    return words < round(P * 2**32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zoneout(dtype: str) -> None:
    for H in WIDTHS:
        layer = layer_of(H, dtype, zoneout=P)
        y, tape = call(layer, H, dtype)
        kept = of_rows(3, T0, H)
        np.testing.assert_array_equal(y == 1, kept, err_msg=f"H = {H}")
        # A unit that kept its value hands on its gradient, and the cell has none of it.
        dh0 = layer.backward(tape, np.ones((1, *y.shape), dtype)).state[0]
        np.testing.assert_array_equal(dh0 == 1, kept, err_msg=f"H = {H}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["sequence", "step"])
def test_recurrent_dropout(dtype: str, mode: str) -> None:
    for H in WIDTHS:
        layer = layer_of(H, dtype, recurrent_dropout=P, recurrent_dropout_mode=mode)
        y, tape = call(layer, H, dtype)
        dropped = of_rows(2, T0 if mode == "step" else 0, H)
        np.testing.assert_array_equal(y == 0, dropped, err_msg=f"H = {H}")
        dh0 = layer.backward(tape, np.ones((1, *y.shape), dtype)).state[0]
        np.testing.assert_array_equal(dh0 == 0, dropped, err_msg=f"H = {H}")
