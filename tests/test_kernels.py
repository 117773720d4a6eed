"""Every kernel against the reference, by the yardstick, at awkward shapes.

The instruction set is the one this process runs (RNNFAST_ISA); test_isas.py repeats this file for
the others.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from conftest import require
from memory import remembered
from problems import CELL_NAMES, make
from yardstick import check, check_all

import rnnfast
from rnnfast import reference
from rnnfast._scan_options import ScanOptions
from rnnfast.reference import engine

core = require("core")

# T, B, I, H: lane counts of every vector width and one more or less; the direct road (T*B <= 16)
# and the packed one; one row, a tile of rows, more than a tile; I and H beyond one block of k; more
# steps than a chunk.
SHAPES = [
    (0, 3, 4, 5),
    (2, 0, 4, 5),
    (1, 1, 1, 1),
    (1, 3, 16, 16),
    (2, 1, 7, 7),
    (2, 3, 1, 8),
    (2, 32, 9, 9),
    (17, 1, 513, 15),
    (17, 3, 16, 17),
    (17, 32, 5, 64),
    (15, 1, 3, 33),
    (16, 1, 3, 33),
    (5, 7, 64, 130),
    (300, 1, 9, 18),
    (40, 11, 3, 20),
]
LARGE = [
    (2, 1, 1, 513),
    (3, 33, 513, 64),
    (2, 2, 5, 1030),
    (1, 1, 1030, 1030),
    # Weight gradients: more rows than a block in a chunk, as there are where weights take over a
    # megabyte, of columns that are copied ahead, and of fewer; more columns than ever are.
    (9, 33, 300, 400),
    (9, 33, 200, 216),
    (2, 2, 8200, 9),
]
GRID = [
    (T, B, I, H)
    for T in (0, 1, 2, 17)
    for B in (0, 1, 3, 32)
    for H in (1, 7, 8, 9, 15, 16, 17, 64)
    for I in sorted({1, H, 5, 513})
]


def by_reference(problem, dtype, reverse: bool = False) -> dict[str, np.ndarray | None]:
    """What problem.run returns, by the reference in any dtype, long double too."""
    p = problem.astype(dtype)
    back = slice(None, None, -1) if reverse else slice(None)
    state = tuple(None if s is None else s[None] for s in p.state)
    y, state_n, tape = engine.forward(p.spec.name, p.x[back], (p.row,), state, None, True, None)
    dstate = tuple(d[None] for d in p.dstate)
    dx, ((dW, *rest),), dstate0, _ = engine.backward(tape, p.dy[back], dstate, True, None)
    results = {"y": y[back]}
    results.update((f"{s}_n", a[0]) for s, a in zip(p.spec.states, state_n, strict=True))
    if isinstance(dW, tuple):
        dW = rnnfast.IndexedRows(*dW, problem.row[0].shape).dense()
    results.update(dx=None if dx is None else dx[back], dW=dW)
    results.update(zip(("dR", "dbW", "dbR"), rest, strict=True))
    results.update(dh0=dstate0[0][0], dc0=dstate0[1][0] if len(dstate0) > 1 else None)
    results["reset_state"] = None
    return results


def compare(
    cell: str, shape: tuple[int, ...], dtype: type, threads: tuple[int, ...], **options
) -> None:
    """Judge the kernels on each number of threads."""
    T, B, I, H = shape
    reverse = options.get("reverse", False)
    wider = np.float64 if dtype is np.float32 else np.longdouble
    # The yardstick compares maxima. Over a handful of numbers they say nothing, so where a step or
    # a gate block has few, several draws are judged as one.
    draws = max(1, min(24, 64 // min(H, B * I))) if T * B else 1
    pools: dict[Any, dict[str, list]] = {key: {} for key in (*threads, "plain", "ref")}
    for seed in range(draws):
        problem = make(cell, *shape, seed=seed, **options)
        key = cell, shape, seed, sorted(options.items())
        results = {
            name: remembered(
                (*key, of.__name__), functools.partial(by_reference, problem, of, reverse)
            )
            for name, of in (("plain", dtype), ("ref", wider))
        }
        for n in threads:
            results[n] = problem.astype(dtype).run(device="cpu", threads=n)
            bits = np.dtype(dtype).itemsize * 8
            assert rnnfast.last_kernel() == f"{cell}.backward.f{bits}.{core.isa()}"
        for key, pool in pools.items():
            for name in results[threads[0]]:
                value = results[key][name]
                if reverse and name in ("y", "dx") and value is not None:
                    value = value[::-1]  # the yardstick runs with the pass
                pool.setdefault(name, []).append(value)
    whole = {
        key: {n: None if v[0] is None else np.stack(v, -1) for n, v in pool.items()}
        for key, pool in pools.items()
    }
    for n in threads:
        check_all(
            whole[n], whole["plain"], whole["ref"], G=problem.spec.G, width=problem.I + problem.H
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_is_as_good_as_the_reference(cell, shape, dtype):
    compare(cell, shape, dtype, (1, 2, 3))


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_sums_of_more_than_one_block(cell, shape):
    compare(cell, shape, np.float32, (2,))


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {"reverse": True},
        {"bias": False},
        {"state": False},
        {"indices": True},
        {"indices": True, "reverse": True},
    ],
    ids=str,
)
def test_kernel_options(cell, options):
    for shape in ((1, 1, 6, 9), (23, 5, 12, 33), (9, 21, 300, 16)):
        compare(cell, shape, np.float32, (2,), **options)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("shape", GRID, ids=str)
def test_full_grid(cell, shape):
    for dtype in (np.float32, np.float64):
        compare(cell, shape, dtype, (1, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_is_as_good_as_numpy(dtype):
    rng = np.random.default_rng(0)
    for N, K, M in ((0, 3, 4), (1, 1, 1), (3, 17, 5), (40, 513, 33), (200, 64, 130)):
        x, W, b, dy = (rng.standard_normal(s) for s in ((N, K), (M, K), (M,), (N, M)))
        x, W, b, dy = (a.astype(np.float32).astype(np.float64) for a in (x, W, b, dy))

        def numpy_results(x, W, b, dy):
            return x @ W.T + b, dy @ W, dy.T @ x, dy.sum(0)

        wider = np.float64 if dtype is np.float32 else np.longdouble
        ref = numpy_results(*(a.astype(wider) for a in (x, W, b, dy)))
        cast = [a.astype(dtype) for a in (x, W, b, dy)]
        plain = numpy_results(*cast)
        for threads in (1, 2):
            y = core.linear_forward(*cast[:3], threads)
            kernel = (y, *core.linear_backward(cast[0], cast[1], cast[3], True, True, threads))
            for name, *arrays in zip(("y", "dx", "dW", "db"), kernel, plain, ref, strict=True):
                check(name, *(a.reshape(1, -1) for a in arrays), width=K + N)
            assert core.linear_backward(cast[0], cast[1], cast[3], False, False, threads)[::2] == (
                None,
                None,
            )


def test_nan_and_infinity_pass_through():
    """A NaN or an infinity appears in its row's results as in the reference, in no other row."""
    for cell in CELL_NAMES:
        for bad in (np.nan, np.inf):
            problem = make(cell, 4, 3, 5, 9).astype(np.float32)
            problem.x[1, 1, 2] = bad
            kernel = problem.run(device="cpu")["y"]
            plain = problem.run(device="numpy")["y"]
            assert (np.isnan(kernel) == np.isnan(plain)).all()
            assert np.isfinite(kernel[:, [0, 2]]).all()


def test_denormals_are_flushed_inside_and_the_callers_mode_returns():
    """In both passes what comes in below the smallest normal is zero, and what would leave so."""
    tiny = np.finfo(np.float32).smallest_normal
    for cell in CELL_NAMES:
        problem = make(cell, 3, 2, 4, 5, bias=False).astype(np.float32)
        problem.x[:] = tiny / 4
        for state in problem.state:
            state[:] = tiny / 4
        assert not problem.forward(device="cpu", threads=2)[0].any()
        assert problem.forward(device="numpy")[0].any()

        for T, gradient in ((3, tiny / 4), (1, tiny)):
            if (cell, T) == ("rnn_relu", 1):
                continue  # its derivative is 1, and makes nothing smaller
            problem = make(cell, T, 2, 4, 5).astype(np.float32)
            problem.dy[:] = gradient
            for dstate in problem.dstate:
                dstate[:] = gradient if T > 1 else 0
            for device, all_zero in (("cpu", True), ("numpy", False)):
                found = problem.run(device=device, threads=2 if all_zero else None)
                gradients = [a for n, a in found.items() if n.startswith("d") and a is not None]
                assert all(not a.any() for a in gradients) == all_zero, (cell, T, device)
    assert tiny / np.float32(4) * np.float32(1) != 0


def test_out_is_written_in_place_with_any_strides():
    for cell in CELL_NAMES:
        problem = make(cell, 6, 4, 5, 7).astype(np.float32)
        y, _, _ = problem.forward(device="cpu")
        wide = np.full((4, 6, 9), 7, np.float32)
        out = wide.transpose(1, 0, 2)[:, :, 1:8]
        z, _, _ = problem.forward(device="cpu", out=out)
        assert z is out
        assert (out == y).all()
        assert (wide[:, :, [0, 8]] == 7).all()


def test_guard_bytes_around_every_array():
    """Inputs may lie unaligned in a larger buffer; nothing outside the outputs is written."""
    rng = np.random.default_rng(1)
    for cell in CELL_NAMES:
        problem = make(cell, 3, 2, 5, 9).astype(np.float32)

        def odd(a):
            buffer = rng.standard_normal(a.size + 3).astype(np.float32)
            view = buffer[1 : 1 + a.size].reshape(a.shape)
            view[...] = a
            return view

        function = problem.function()
        arrays = [odd(a) for a in (problem.x, *problem.row, *problem.state)]
        guarded = np.full(3 * 2 * 9 + 34, -5, np.float32)
        out = guarded[17:-17].reshape(3, 2, 9)
        function(*arrays, **problem.spec.options, out=out, device="cpu")
        assert (out == problem.forward(device="cpu")[0]).all()
        assert (guarded[:17] == -5).all()
        assert (guarded[-17:] == -5).all()


def test_reference_twins_have_the_public_signatures():
    import inspect

    for name in ("rnn", "lstm", "gru"):
        for suffix in ("", "_forward", "_backward"):
            ours = list(inspect.signature(getattr(rnnfast, name + suffix)).parameters)
            twin = list(inspect.signature(getattr(reference, name + suffix)).parameters)
            assert twin == [p for p in ours if p != "device"] or twin == ours


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_a_tuple_asks_for_at_most_so_many_threads(cell: str) -> None:
    p = make(cell, 7, 3, 5, 9)
    dy = p.x[..., :1].repeat(9, 2)
    one = core.forward(cell, p.x, (p.row,), None, None, True, 1)
    two = core.forward(cell, p.x, (p.row,), None, None, True, (2,))
    np.testing.assert_array_equal(one[0], two[0])
    for a, b in zip(
        core.backward(one[2], dy, None, True, 1)[1][0],
        core.backward(two[2], dy, None, True, (2,))[1][0],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    for wrong in ((0,), (1025,), (), (1, 2), (1.0,), -2):
        assert core.forward(cell, p.x, (p.row,), None, None, False, wrong) is None


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("of", ["compiled", "reference"])
def test_prepared_weights_know_what_they_were_made_from(cell: str, of: str) -> None:
    back_end = core if of == "compiled" else engine
    rows = tuple(make(cell, 1, 1, 3, 4, seed=seed).astype(np.float32).row for seed in (1, 2))
    copy = tuple(tuple(a.copy() for a in row) for row in rows)
    prepared = back_end.prepare(cell, rows)
    assert prepared.made_from(rows)
    assert prepared.made_from(copy)
    for row in copy:
        for array in row:
            for k in range(array.size):
                was = array.flat[k]
                array.flat[k] = np.nextafter(was, np.inf)
                assert not prepared.made_from(copy)
                array.flat[k] = was
            # Two that are neighbours in one word of the checksum change places.
            array.reshape(-1)[:2] = array.reshape(-1)[1::-1].copy()
            assert not prepared.made_from(copy)
            array.reshape(-1)[:2] = array.reshape(-1)[1::-1].copy()
    assert prepared.made_from(copy)
    assert not prepared.made_from(rows[:1])
    assert not prepared.made_from(rows[::-1])
    assert not prepared.made_from(tuple((W, R, None, bR) for W, R, _, bR in rows))
    # Without biases is not with zeros.
    zeros = tuple((W, R, np.zeros_like(b), np.zeros_like(b)) for W, R, b, _ in rows)
    bare = tuple((W, R, None, None) for W, R, *_ in rows)
    assert not back_end.prepare(cell, bare).made_from(zeros)
    assert not back_end.prepare(cell, zeros).made_from(bare)


WATCHED = {
    "plain": {},
    "lengths": {"lengths": lambda T, B: np.minimum(np.arange(B) + 1, T).astype(np.int64)},
    "nothing used": {"lengths": lambda T, B: np.zeros(B, np.int64)},
    "resets": {"reset": lambda T, B: np.ones((T, B), np.bool_)},
    "burn-in": {"burn_in": lambda T, B: T},
    "weight drop": {"weight_drop": lambda T, B: 0.5},
}


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("how", list(WATCHED))
# The direct road of one row and of a few, the packed one; W alone and both packed.
@pytest.mark.parametrize("shape", [(1, 1, 5, 33), (1, 3, 5, 9), (5, 1, 9, 9), (17, 2, 5, 18)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_change_of_a_weight_is_noticed(
    cell: str, how: str, shape: tuple[int, ...], threads: int
) -> None:
    T, B, _, H = shape
    p = make(cell, *shape).astype(np.float32)
    fields = {name: make_field(T, B) for name, make_field in WATCHED[how].items()}
    options = ScanOptions(**fields) if fields else None
    D = 1 if how == "burn-in" else 2  # which runs in one direction only
    params = (p.row,) * D
    _, _, tape = core.forward(cell, p.x, params, None, None, True, threads, options)
    dy = np.ones((T, B, D * H), np.float32)
    for need_dx in (True, False):
        assert core.backward(tape, dy, None, need_dx, threads) is not None
    for name, array in zip("WR", p.row, strict=False):
        flat = array.reshape(-1)
        for k in range(0, flat.size, max(1, flat.size // 29)):
            was = flat[k]
            flat[k] = np.nextafter(was, np.float32(np.inf))
            with pytest.raises(RuntimeError, match=f": {name} has changed since"):
                core.backward(tape, dy, None, name == "W" or bool(k % 2), threads)
            flat[k] = was
        # Rows that change places, within a unit vector and beyond it.
        for other in (1, len(array) // 2):
            array[[0, other]] = array[[other, 0]]
            with pytest.raises(RuntimeError, match=f": {name} has changed since"):
                core.backward(tape, dy, None, True, threads)
            array[[0, other]] = array[[other, 0]]
        # Whole unit vectors of all gates.
        for lanes in (4, 8, 16):
            if 2 * lanes > H:
                continue
            gates, was = array.reshape(-1, H, array.shape[1]), array.copy()
            gates[:, : 2 * lanes] = np.roll(gates[:, : 2 * lanes], lanes, axis=1)
            with pytest.raises(RuntimeError, match=f": {name} has changed since"):
                core.backward(tape, dy, None, True, threads)
            array[:] = was
    assert core.backward(tape, dy, None, True, threads) is not None
    # Without the gradient of x none depends on W.
    before = core.backward(tape, dy, None, False, threads)
    was, p.row[0][0, 0] = p.row[0][0, 0], 1
    found = core.backward(tape, dy, None, False, threads)
    p.row[0][0, 0] = was
    assert found[0] is None
    for a, b in zip(found[1], before[1], strict=True):
        assert all(one.tobytes() == other.tobytes() for one, other in zip(a, b, strict=True))
    # Where no gradient of initial states is asked for, that of a single step does not depend on R.
    back = (tape, dy, None, True, threads, None, None, False)
    before = core.backward(*back)
    p.row[1][0, 0] += 1
    if T > 1:
        with pytest.raises(RuntimeError, match=": R has changed since"):
            core.backward(*back)
    else:
        found = core.backward(*back)
        assert found[2] == before[2] == (None,) * p.spec.S
        for row, row_before in zip(found[1], before[1], strict=True):
            for a, b in zip(row, row_before, strict=True):
                assert a.tobytes() == b.tobytes()
