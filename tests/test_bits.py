"""Results that are the same to the bit, whatever the batch, the chunking, the threads, the run, the
form of the weights.

The instruction set is the one this process runs (RNNFAST_ISA); test_isas.py repeats this file for
the others.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import require
from problems import CELL_NAMES, Problem, make
from yardstick import check

import rnnfast

core = require("core")


def run(problem: Problem, **options) -> dict[str, np.ndarray]:
    return problem.run(device="cpu", **options)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_same(a: dict, b: dict, names=None) -> None:
    for name in names or a:
        if a[name] is not None:
            assert same(a[name], b[name]), name


# Around every switch of path: rows 1 to 7 and more than a tile, T*B of 15, 16 and 17 (up to 16
# backward packs on the way), of 192 and 193 (up to 192 forward does), batch and unit split, one
# and several chunks.
SHAPES = [
    (1, 1, 8, 33),
    (15, 1, 8, 33),
    (16, 1, 8, 33),
    (17, 1, 8, 33),
    (5, 3, 17, 64),
    (1, 16, 5, 40),
    (192, 1, 8, 33),
    (193, 1, 8, 33),
    (40, 30, 9, 20),
    (210, 3, 3, 65),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_threads(cell, shape, dtype):
    """Everything, parameter gradients too."""
    problem = make(cell, *shape).astype(dtype)
    one = run(problem, threads=1)
    for threads in (2, 3, 4, 7):
        assert_same(one, run(problem, threads=threads))


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_runs(cell):
    problem = make(cell, 9, 5, 7, 40).astype(np.float32)
    first = run(problem, threads=2)
    for _ in range(5):
        assert_same(first, run(problem, threads=2))


def rows_of(problem: Problem, rows) -> Problem:
    take = [None if s is None else np.ascontiguousarray(s[rows]) for s in problem.state]
    return replace(
        problem,
        x=np.ascontiguousarray(problem.x[:, rows]),
        state=tuple(take),
        dy=np.ascontiguousarray(problem.dy[:, rows]),
        dstate=tuple(np.ascontiguousarray(d[rows]) for d in problem.dstate),
    )


PER_ROW = ("y", "h_n", "dx", "dh0")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch(dtype, cell, threads):
    """A row alone equals the row in any batch: outputs, states, dx, dh0, dc0."""
    # The largest in one dtype: it takes most of the time.
    shapes = ((1, 33), (5, 16), (33, 70), (3, 600))[: 4 if dtype is np.float32 else 3]
    for T, H in shapes:
        problem = make(cell, T, 23, 6, H).astype(dtype)
        whole = run(problem, threads=threads)
        names = [n for n in (*PER_ROW, "c_n", "dc0") if whole.get(n) is not None]
        for rows in (
            [0],
            [22],
            [3, 4],
            list(range(3)),
            list(range(7, 11)),
            list(range(4, 9)),
            list(range(6)),
            list(range(5, 12)),
            list(range(8)),
        ):
            part = run(rows_of(problem, rows), threads=threads)
            for name in names:
                axis = 1 if name in ("y", "dx") else 0
                assert same(part[name], np.ascontiguousarray(np.take(whole[name], rows, axis))), (
                    name,
                    rows,
                )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_tape_past_the_caches(cell, threads):
    """A tape of 3 MiB, which is written past the caches, holds what a small one does."""
    problem = make(cell, 24, 140, 6, 250).astype(np.float32)
    whole = run(problem, threads=threads)
    rows = slice(60, 70)
    part = run(rows_of(problem, rows), threads=threads)
    for name in (n for n in (*PER_ROW, "c_n", "dc0") if whole.get(n) is not None):
        of_whole = whole[name][:, rows] if name in ("y", "dx") else whole[name][rows]
        assert same(part[name], np.ascontiguousarray(of_whole)), name


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_chunks(cell):
    """A sequence in pieces with carried state equals the whole: y, states, dx, dh0, dc0 to the bit.

    The parameter gradients are the sum over pieces, by the yardstick.
    """
    for B in (1, 5, 30):
        drawn = make(cell, 40, B, 6, 33)
        problem, truth = drawn.astype(np.float32), drawn.run(device="numpy")
        whole = run(problem)
        # 16 and 17 steps too: a single row takes another road for each.
        cuts = [0, 1, 2, 18, 35, 40]
        state, pieces = problem.state, []
        for t0, t1 in itertools.pairwise(cuts):
            piece = replace(problem, x=problem.x[t0:t1], dy=problem.dy[t0:t1], state=state)
            y, state, tape = piece.forward(device="cpu")
            pieces.append((piece, y, tape))
        assert same(np.concatenate([y for _, y, _ in pieces]), whole["y"])
        for name, s in zip(problem.spec.states, state, strict=True):
            assert same(s, whole[f"{name}_n"])
        dstate, dx, sums = problem.dstate, [], None
        for piece, _, tape in reversed(pieces):
            g = problem.function("_backward")(tape, piece.dy, *dstate)
            dstate = tuple(d for d in (g.dh0, g.dc0) if d is not None)
            dx.insert(0, g.dx)
            parts = [g.dW, g.dR, g.dbW, g.dbR]
            sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
        assert same(np.concatenate(dx), whole["dx"])
        assert same(dstate[0], whole["dh0"])
        if len(dstate) > 1:
            assert same(dstate[1], whole["dc0"])
        plain = problem.run(device="numpy")
        for total, name in zip(sums, ("dW", "dR", "dbW", "dbR"), strict=True):
            ref = truth[name]
            check(name, total, plain[name], ref, width=40 * B, blocks=problem.spec.G)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_prepared_equals_plain(cell):
    for shape in SHAPES:
        problem = make(cell, *shape).astype(np.float32)
        state = tuple(s[None] for s in problem.state)
        x = problem.x
        prepared = core.prepare(cell, (problem.row,))
        y, state_n, _ = core.forward(cell, x, (problem.row,), state, None, False, None)
        z, state_p, tape = core.forward(cell, x, prepared, state, None, False, None)
        assert tape is None
        assert same(y, z)
        assert all(same(a, b) for a, b in zip(state_n, state_p, strict=True))
        kept, _, tape = core.forward(cell, x, (problem.row,), state, None, True, None)
        assert same(y, kept)  # keeping a tape changes no bit
        del tape


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_index_input_equals_one_hot(cell):
    for T, B, I, H in ((1, 1, 5, 9), (6, 4, 12, 33), (30, 9, 700, 16)):
        problem = make(cell, T, B, I, H, indices=True).astype(np.float32)
        one_hot = replace(problem, x=np.eye(I, dtype=np.float32)[problem.x])
        a, b = run(problem), run(one_hot)
        assert a["dx"] is None
        assert_same(a, b, [n for n in a if n != "dx"])
        state = tuple(s[None] for s in problem.state)
        prepared = core.prepare(cell, (problem.row,))
        y, _, _ = core.forward(cell, problem.x, prepared, state, None, False, None)
        assert same(y, a["y"])


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_second_backward(cell):
    """The tape is read only: a second backward gives the same bits, whatever ran in between."""
    problem = make(cell, 7, 3, 5, 18).astype(np.float32)
    _, _, tape = problem.forward(device="cpu")
    backward = problem.function("_backward")
    first = backward(tape, problem.dy, *problem.dstate)
    backward(tape, -3 * problem.dy)
    second = backward(tape, problem.dy, *problem.dstate)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or same(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("K", "M"), [(600, 45), (45, 600), (257, 257), (64, 64)])
def test_linear_rows(dtype, K, M):
    """Of one panel of W and of many, even and uneven: members share the panels or the rows."""
    rng = np.random.default_rng(0)
    x, W, b, dy = (rng.standard_normal(s).astype(dtype) for s in ((37, K), (M, K), (M,), (37, M)))
    y = core.linear_forward(x, W, b, 1)
    dx = core.linear_backward(x, W, dy, True, False, 1)[0]
    for rows in (slice(0, 1), slice(3, 5), slice(10, 17), slice(0, 37)):
        for threads in (1, 2, 3):
            assert same(core.linear_forward(np.ascontiguousarray(x[rows]), W, b, threads), y[rows])
            got = core.linear_backward(
                np.ascontiguousarray(x[rows]),
                W,
                np.ascontiguousarray(dy[rows]),
                True,
                True,
                threads,
            )
            assert same(got[0], dx[rows])
    whole = core.linear_backward(x, W, dy, True, True, 1)
    for threads in (2, 3, 5):
        for a, b in zip(whole, core.linear_backward(x, W, dy, True, True, threads), strict=True):
            assert same(a, b)


@pytest.mark.parametrize("layer", [rnnfast.LSTM, rnnfast.GRU, rnnfast.RNN])
def test_bidirectional_layers_and_threads(layer):
    model = layer(6, 20, 2, bidirectional=True, seed=0)
    x = np.random.default_rng(0).standard_normal((11, 9, 6)).astype(np.float32)
    y, _, tape = model.forward(x)
    g = model.backward(tape, np.ones_like(y))
    before = rnnfast.get_num_threads()
    try:
        for n in (1, 2, 4):
            rnnfast.set_num_threads(n)
            z, _, tape = model.forward(x)
            assert same(y, z)
            h = model.backward(tape, np.ones_like(y))
            assert same(g.x, h.x)
            assert all(same(g.parameters[k], h.parameters[k]) for k in g.parameters)
    finally:
        rnnfast.set_num_threads(before)
