"""The grid, and the limit of its rows by examples worked by hand."""

import itertools
from dataclasses import replace

import pytest

import rnnfast
from rnnfast.bench.grid import GRID, OPTIONS, TRAINING, Row, select
from rnnfast.bench.limit import flops, limit
from rnnfast.bench.machine import Peaks

CACHES = {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}
READ = {"L1": 4e11, "L2": 2e11, "L3": 1e11, "L3 edge": 8e10, "DRAM": 4e10}
ONE = Peaks(1, {"float32": 1e11, "float64": 5e10}, READ, CACHES)
TWO = Peaks(2, {"float32": 2e11, "float64": 1e11}, READ, CACHES)


def microseconds(row, peaks, used=None):
    return limit(row, peaks, used).seconds * 1e6


def test_arithmetic_bounds():
    """2 * 100 * 256 * 128 flops against 100 * 65,536 bytes; 5 activations a unit; 100 steps."""
    row = Row("lstm", 100, 1, 64, 64)
    assert flops(row) == 6_553_600
    expected = 65.536 + 100 * 64 * 5 * 0.15e-3 + 100 * 0.025
    assert microseconds(row, ONE) == pytest.approx(expected)
    assert limit(row, ONE).bound == "flops"


def test_weights_bound():
    """R of an LSTM at H=256 is a MiB, more than three quarters of L2."""
    row = Row("lstm", 100, 1, 1, 256)
    assert flops(row) == 2 * 100 * 1024 * 257
    expected = 100 * 1_048_576 / 1e5 + 100 * 256 * 5 * 0.15e-3 + 100 * 0.025
    assert microseconds(row, ONE) == pytest.approx(expected)
    assert limit(row, ONE).bound == "weights in L3"


def test_a_single_step_reads_w_and_costs_a_call():
    """W and R of an RNN at H=I=256: 2 * 262,144 bytes in L2."""
    row = Row("rnn_tanh", 1, 1, 256, 256)
    expected = 524_288 / 2e5 + 256 * 0.15e-3 + 0.025 + 0.25
    assert microseconds(row, ONE) == pytest.approx(expected)
    # On two threads half of them each, an exchange, and 0.42 to fork and to join.
    expected = 524_288 / 2e5 + 128 * 0.15e-3 + 0.115 + 0.25 + 0.42
    assert microseconds(replace(row, threads=2), TWO) == pytest.approx(expected)


def test_backward_triples_products_and_doubles_reads():
    row = Row("lstm", 100, 1, 64, 64, passed=TRAINING)
    assert flops(row) == 3 * 6_553_600
    assert microseconds(row, ONE) == pytest.approx(3 * 65.536 + 4.8 + 2.5)
    large = Row("lstm", 100, 1, 1, 256, passed=TRAINING)
    assert microseconds(large, ONE) == pytest.approx(2 * 100 * 1_048_576 / 1e5 + 19.2 + 2.5)


def test_threads_share_weights_and_activations_and_exchange():
    """Half of 65,536 bytes is in a thread's L1; a step costs 90 ns more."""
    row = Row("lstm", 100, 1, 64, 64, threads=2)
    assert microseconds(row, TWO) == pytest.approx(32.768 + 2.4 + 100 * 0.115)
    assert TWO.level_of(65_536) == "L1"
    assert ONE.level_of(65_536) == "L2"


@pytest.mark.parametrize(
    ("size", "level"),
    [
        (36 << 10, "L1"),
        ((36 << 10) + 1, "L2"),
        (768 << 10, "L2"),
        ((768 << 10) + 1, "L3"),
        (24 << 20, "L3"),
        ((24 << 20) + 1, "L3 edge"),
        (48 << 20, "L3 edge"),
        ((48 << 20) + 1, "DRAM"),
    ],
)
def test_levels(size, level):
    assert ONE.level_of(size) == level


def test_layers_and_used_rows():
    row = Row("rnn_tanh", 64, 64, 96, 256, 2)
    products = 2 * 64 * 64 * 256 * (96 + 256) + 2 * 64 * 64 * 256 * 512
    assert flops(row) == products
    expected = products / 1e5 + 2 * 64 * 64 * 256 * 0.15e-3 + 2 * 64 * 0.025
    assert microseconds(row, ONE) == pytest.approx(expected)
    assert flops(row, used=1024) == products / 4


def test_float64_has_its_own_peak_and_twice_the_bytes():
    row = Row("gru", 100, 1, 64, 64, dtype="float64")
    assert microseconds(row, ONE) == pytest.approx(4_915_200 / 5e4 + 2.88 + 2.5)
    assert limit(Row("gru", 100, 1, 1, 256, dtype="float64"), ONE).bound == "weights in L3"


def test_the_page_shows_the_worked_example():
    assert round(microseconds(Row("lstm", 100, 1, 64, 64), ONE), 1) == 72.8


def test_the_grid():
    ids = [row.id for row in GRID]
    assert len(set(ids)) == len(ids) == 272
    assert {row.cell for row in GRID} <= set(rnnfast.CELLS)
    assert {row.option for row in GRID} == {"", *OPTIONS}
    assert {row.threads for row in GRID} == {1, 2}
    plain = [row for row in GRID if row.dtype == "float32" and not row.option]
    assert len(plain) == 16 * 3 * 2 * 2
    for row in (Row("lstm", 1, 1, 64, 64), Row("gru", 64, 64, 96, 256, 2, TRAINING, threads=2)):
        assert row in plain
    problems = [row.problem for row in GRID]
    borders = sum(a != b for a, b in itertools.pairwise(problems))
    assert borders == len(set(problems)) - 1  # rows of one problem stand side by side


def test_ids():
    row = Row("lstm", 128, 8, 64, 64, 2, TRAINING, "float64", 2, "reset")
    assert row.id == "lstm+reset.forward+backward.f64.128x8x64x64x2.t2"
    assert Row("gru", 1, 1, 64, 64).id == "gru.inference.f32.1x1x64x64.t1"


def test_select():
    assert select() == list(GRID)
    chosen = select(rows=["lstm.*"], passes=["inf*"], dtypes=["float32"], threads=[2])
    assert len(chosen) == 16
    assert {(r.cell, r.passed, r.threads, r.option) for r in chosen} == {
        ("lstm", "inference", 2, "")
    }
    assert select(cells=["gru"], rows=["*+lengths*", "*f64*"]) == [
        row for row in GRID if row.cell == "gru" and (row.option == "lengths" or "f64" in row.id)
    ]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rows": ["nothing*"]}, "rows is 'nothing*', which fits no row"),
        ({"cells": ["lstm", "x"]}, "cell is 'x', which fits no row; there are gru, lstm, rnn_tanh"),
        ({"threads": [3]}, "threads is '3', which fits no row; there are 1, 2"),
        (
            {"rows": ["*f64*"], "dtypes": ["float32"]},
            "no row fits all of rows *f64*, dtype float32",
        ),
    ],
)
def test_select_refuses(given, named):
    with pytest.raises(rnnfast.ArgumentError) as error:
        select(**given)
    assert named in str(error.value)
