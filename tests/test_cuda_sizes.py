"""The CUDA kernels on what 32 bits do not count, and on batches around the tiles of a step.

On the twin (tests/simt) alone, whose device memory is the host's: arrays that reach over gigabytes
are pages that nobody touches but at a few places.
"""

from __future__ import annotations

import functools
import math
import mmap
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from problems import make

from rnnfast._scan_options import ScanOptions
from rnnfast.cuda import DeviceArray, _layer, engine, on_device
from rnnfast.cuda._place import Place
from rnnfast.reference import engine as reference

NO_RESERVE = 0x4000  # Linux: pages that are not touched are not counted
T, B, I, H = 3, 2, 3, 5
APART = 2**31 + 24, 2**32 + 8  # strides of time and batch, in elements


def sparse(shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that far apart."""
    dtype = np.dtype(dtype)
    reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    room = np.frombuffer(mmap.mmap(-1, reach * dtype.itemsize, flags=flags), dtype)
    steps = tuple(s * dtype.itemsize for s in strides)
    return np.lib.stride_tricks.as_strided(room, shape, steps)


def on_twin(twin: ModuleType, array: np.ndarray) -> DeviceArray:
    """An array of the host as one of the device."""
    steps = tuple(s // array.itemsize for s in array.strides)
    where = array.ctypes.data, array.shape, steps, array.dtype, 0, 1
    return DeviceArray(twin, array, *where)


def far_apart(array: np.ndarray) -> np.ndarray:
    far = sparse(array.shape, (*APART, 1), array.dtype)
    far[...] = array
    return far


@pytest.fixture(params=["k0", "steps"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    forward = functools.partial(_layer.forward, family=request.param)
    monkeypatch.setattr(_layer, "forward", forward)
    return request.param


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_strides_beyond_32_bits(
    twin: ModuleType, family: str, cell: str, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = make(cell, T, B, I, H).astype(np.float32)
    options = ScanOptions(reverse=reverse, zoneout=(0.3,) * len(p.state))
    state = tuple(s[None] for s in p.state)
    y, _, tape = engine.forward(cell, p.x, (p.row,), state, None, True, None, options)
    dx, grads, *_ = engine.backward(tape, p.dy, None, True, None)

    place = Place.own(twin, np.dtype("f4"))
    far_y, far_dx = (sparse((T, B, n), (*APART, 1), "f4") for n in (H, I))
    zeros = Place.zeros

    def dx_far_apart(self: Place, shape: tuple[int, ...], wide: bool = False) -> DeviceArray:
        return on_twin(twin, far_dx) if shape == (T, B, I) else zeros(self, shape, wide)

    monkeypatch.setattr(Place, "zeros", dx_far_apart)
    params = (tuple(place.put(w) for w in p.row),)
    start = tuple(place.put(s) for s in state)
    x, out, dy = (on_twin(twin, a) for a in (far_apart(p.x), far_y, far_apart(p.dy)))
    _, _, tape = on_device.forward_at(place, cell, x, params, start, out, True, options)
    assert _layer.last_kernel() == f"{cell}.forward.f32.cuda.{family}"
    np.testing.assert_array_equal(far_y, y)
    found = on_device.backward_at(place, tape, dy, None, True, None, None)
    np.testing.assert_array_equal(far_dx, dx)
    for ours, expected in zip(found[1][0], grads[0], strict=True):
        np.testing.assert_array_equal(ours.numpy(), expected)


def test_a_vocabulary_beyond_32_bits(twin: ModuleType, family: str) -> None:
    """W has 2**32 elements, of which two columns are read."""
    G, I = 4, 2**30
    W = sparse((G, I), (I, 1), "f4")
    few = np.array([[0.5], [-0.25], [1.0], [2.0]], np.float32) * np.array([1, -1], np.float32)
    W[:, [7, I - 1]] = few
    R = np.array([[0.5], [1.0], [-1.0], [0.25]], np.float32)
    x = np.array([[7, I - 1], [I - 1, 7]])
    place = Place.own(twin, np.dtype("f4"))
    params = ((on_twin(twin, W), place.put(R), None, None),)
    y, *_ = on_device.forward_at(place, "lstm", place.put(x), params, None, None, False, None)
    small = ((few, R, None, None),)
    expected, *_ = engine.forward("lstm", (x > 7).astype(int), small, None, None, False, None)
    np.testing.assert_array_equal(y.numpy(), expected)


def test_copies_beyond_32_bits(twin: ModuleType) -> None:
    array = np.arange(T * B * I, dtype=np.float32).reshape(T, B, I)
    far = on_twin(twin, far_apart(array))
    np.testing.assert_array_equal(far.numpy(), array)
    np.testing.assert_array_equal(far[::-1, 1:].numpy(), array[::-1, 1:])


# A launch for each step takes a minute.
@pytest.mark.parametrize(
    "family", ["k0", pytest.param("steps", marks=pytest.mark.slow)], indirect=True
)
def test_more_steps_than_16_bits_count(twin: ModuleType, family: str) -> None:
    """A grid has no more than 65,535 blocks along its second and third axis."""
    steps = 65_600
    p = make("rnn_tanh", steps, 1, 1, 1).astype(np.float32)
    state = (p.state[0][None],)
    y, last, tape = engine.forward("rnn_tanh", p.x, (p.row,), state, None, True, None)
    dx, *_ = engine.backward(tape, p.dy, None, True, None)
    half = steps // 2
    first, last_first, tape_first = engine.forward(
        "rnn_tanh", p.x[:half], (p.row,), state, None, True, None
    )
    second, last_second, tape_second = engine.forward(
        "rnn_tanh", p.x[half:], (p.row,), last_first, None, True, None
    )
    np.testing.assert_array_equal(y, np.concatenate([first, second]))
    np.testing.assert_array_equal(last[0], last_second[0])
    dsecond, _, dh, _ = engine.backward(tape_second, p.dy[half:], None, True, None)
    dfirst, *_ = engine.backward(tape_first, p.dy[:half], dh, True, None)
    np.testing.assert_array_equal(dx, np.concatenate([dfirst, dsecond]))
    assert math.isfinite(float(np.abs(dx).max()))


# A minute too: forward is a single sum of millions of terms.
@pytest.mark.slow
def test_more_columns_of_W_than_16_bits_count_tiles(twin: ModuleType) -> None:
    """Each of a hundred columns is a tile's first, last, or in the tiles beyond the 65,535th."""
    columns = 65_600 * 64 + 3
    p = make("rnn_tanh", 1, 1, 1, 1).astype(np.float32)
    W, x = np.zeros((1, columns), np.float32), np.zeros((1, 1, columns), np.float32)
    used = np.r_[0:34, columns - 66 : columns]
    rng = np.random.default_rng(0)
    W[0, used], x[0, 0, used] = rng.standard_normal((2, 100), np.float32)
    y, _, tape = engine.forward("rnn_tanh", x, ((W, *p.row[1:]),), None, None, True, None)
    few = np.ascontiguousarray(x[..., used]), ((W[:, used].copy(), *p.row[1:]),)
    expected, *_ = reference.forward("rnn_tanh", *few, None, None, False, None)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    dx, ((dW, _, dbW, _),), *_ = engine.backward(tape, np.ones_like(y), None, True, None)
    np.testing.assert_array_equal(dx[0, 0], W[0] * dbW)
    np.testing.assert_array_equal(dW[0], x[0, 0] * dbW)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_rows_have_the_same_bits_in_a_batch_of_any_size(
    twin: ModuleType, family: str, cell: str
) -> None:
    """Of one row, of a tile of the steps and one more, and of more than a large tile."""
    steps, rows, n = 3, 70, 18
    p = make(cell, steps, rows, I, n).astype(np.float32)

    def run(chosen: slice) -> list[np.ndarray]:
        state = tuple(np.ascontiguousarray(s[None, chosen]) for s in p.state)
        x, dy = (np.ascontiguousarray(a[:, chosen]) for a in (p.x, p.dy))
        y, last, tape = engine.forward(cell, x, (p.row,), state, None, True, None)
        dx, _, first, _ = engine.backward(tape, dy, last, True, None)
        return [y, dx, *(s.swapaxes(0, 1) for s in (*last, *first))]

    whole = run(slice(None))
    for chosen in (slice(0, 1), slice(0, 16), slice(0, 17), slice(5, 69)):
        for found, expected in zip(run(chosen), whole, strict=True):
            kept = expected[:, chosen] if len(expected) == steps else expected[chosen]
            np.testing.assert_array_equal(found, kept)
