"""`rnnfast.Stream`: the bits of the layer's own call however a sequence is cut, the state in
between, what it refuses and in which words, threads."""

from __future__ import annotations

import copy
import pickle
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yardstick
from problems import CELL_NAMES
from processes import PYTHON, environment

import rnnfast
from rnnfast import Stream, _backend

cells = pytest.mark.parametrize("cell", CELL_NAMES)
compiled = pytest.mark.skipif(
    not _backend.compiled, reason="the compiled module is not built: it alone promises this"
)
I, H = 5, 19  # no vector divides them


def build(cell: str, layers: int = 1, **options: Any) -> Any:
    """A layer whose biases and learned states are not zero."""
    spec = rnnfast.CELLS[cell]
    kind = getattr(rnnfast, spec.function.upper())
    options = {"dtype": "float32", "input_size": I, "hidden_size": H, **options}
    layer = kind(num_layers=layers, seed=3, **spec.options, **options)
    rng = np.random.default_rng(4)
    for name, array in layer.parameters.items():
        if name in ("h_0", "c_0"):
            array[...] = rng.standard_normal(array.shape)
    return layer


def draw(layer: Any, T: int, B: int | None, *, indices: bool = False, seed: int = 0) -> np.ndarray:
    """x of a call: (T, B, I) or (T, B), without B if it is None."""
    rng = np.random.default_rng(seed)
    lead = (T,) if B is None else (T, B)
    if indices:
        return rng.integers(0, layer.input_size, lead)
    return rng.standard_normal((*lead, layer.input_size)).astype(layer.dtype)


def parts(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def equal(a: Any, b: Any) -> None:
    for left, right in zip(parts(a), parts(b), strict=True):
        np.testing.assert_array_equal(left, right, strict=True)


def alike(device: str, a: np.ndarray, b: np.ndarray) -> None:
    """Equal to the bit, but NumPy's product of other shapes may sum in another order."""
    if device == "cpu":
        np.testing.assert_array_equal(a, b, strict=True)
    else:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def in_pieces(stream: Stream, x: np.ndarray, sizes: list[int]) -> np.ndarray:
    """y of a sequence cut into pieces; 0 is one call of `step`."""
    done, ys = 0, []
    for size in sizes:
        if size == 0:
            ys.append(stream.step(x[done])[None])
        else:
            ys.append(stream.run(x[done : done + size]))
        done += size or 1
    assert done == len(x)
    return np.concatenate(ys)


# The bits ----------------------------------------------------------------------------------------

CUTS = {
    "steps": [0] * 11,
    "chunks": [3, 0, 1, 5, 0],
    "whole": [11],
}
SETTINGS = {
    "plain": {},
    "residual": {"residual": True},
    "zoneout": {"zoneout": 0.25},
    "learned": {"initial_state": "learned"},
    "all": {
        "residual": True,
        "zoneout": 0.25,
        "initial_state": "learned",
        # What a stream, an evaluation, does without.
        "recurrent_dropout": 0.5,
        "recurrent_dropout_mode": "step",
        "weight_drop": 0.5,
        "clip_state_gradient": 0.1,
    },
}


@compiled
@cells
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("indices", [False, True], ids=["dense", "indices"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_bits_of_the_layer_whatever_the_cut(
    cell: str, dtype: str, layers: int, indices: bool, setting: str
) -> None:
    options = dict(SETTINGS[setting])
    if setting == "all" and layers > 1:
        options["dropout"] = 0.5
    if setting == "all" and "c" in rnnfast.CELLS[cell].states:
        options |= {"cell_clip": 0.2, "zoneout": (0.25, 0.5)}
    layer = build(cell, layers, dtype=dtype, **options)
    for B in (1, 3, 8):
        x = draw(layer, 11, B, indices=indices)
        y, state = layer(x)
        for sizes in CUTS.values():
            stream = Stream(layer, B)
            equal(in_pieces(stream, x, sizes), y)
            equal(stream.state, state)
            assert stream.t == 11


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_with_a_clip_alone(dtype: str) -> None:
    layer = build("lstm", 2, dtype=dtype, cell_clip=0.05)
    x = draw(layer, 11, 3)
    y, state = layer(x)
    assert np.abs(state[1]).max() == np.array(0.05, dtype)
    for sizes in CUTS.values():
        stream = Stream(layer, 3)
        equal(in_pieces(stream, x, sizes), y)
        equal(stream.state, state)


@compiled
@cells
@pytest.mark.parametrize("B", [1, 3, 200, 400])
@pytest.mark.parametrize("indices", [False, True], ids=["dense", "indices"])
def test_the_bits_where_a_run_is_longer_than_a_piece(cell: str, B: int, indices: bool) -> None:
    """Layers pass on 192 rows at a time, and at least a step."""
    layer = build(cell, 2, residual=True)
    T = 400 // B + 3
    x = draw(layer, T, B, indices=indices)
    y, state = layer(x)
    stream = Stream(layer, B)
    first = T // 2
    equal(np.concatenate([stream.run(x[:first]), stream.run(x[first:])]), y)
    equal(stream.state, state)


@compiled
@cells
@pytest.mark.parametrize("threads", [2, 3, None])
def test_the_bits_do_not_depend_on_threads(cell: str, threads: int | None) -> None:
    layer = build(cell, 2, residual=True, hidden_size=64)
    for B in (1, 9):
        x = draw(layer, 7, B)
        y, state = layer(x)
        stream = Stream(layer, B, threads=threads)
        equal(in_pieces(stream, x, [0, 5, 0]), y)
        equal(stream.state, state)


@compiled
@pytest.mark.parametrize("isa", _backend.compiled and _backend.compiled["cpu"].isas())
def test_the_bits_on_every_instruction_set(isa: str) -> None:
    """In a process of its own, where it is not the one that this one runs."""
    if isa != _backend.compiled["cpu"].isa():
        command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
        wanted = "test_the_bits_of_the_layer_whatever_the_cut or longer_than_a_piece"
        run = subprocess.run(
            [*command, "-k", f"({wanted}) and not float64"],
            env=environment(RNNFAST_ISA=isa),
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert run.returncode == 0, run.stdout


@cells
@pytest.mark.parametrize("setting", SETTINGS)
def test_numpy_by_the_yardstick(cell: str, setting: str) -> None:
    """The reference's products depend on the number of rows, so bits are not promised there."""
    options = SETTINGS[setting]
    wide = build(cell, 2, dtype="float64", device="numpy", **options)
    layer = build(cell, 2, dtype="float32", device="numpy", **options)
    layer.load_state_dict({k: v.astype(np.float32) for k, v in wide.state_dict().items()})
    wide.load_state_dict({k: v.astype(np.float64) for k, v in layer.state_dict().items()})
    x = draw(layer, 11, 8)
    ref, plain = wide(x.astype(np.float64))[0], layer(x)[0]
    for sizes in CUTS.values():
        y = in_pieces(Stream(layer, 8), x, sizes)
        yardstick.check("y", y, plain, ref, width=2 * (I + H), time=True)


# Forms -------------------------------------------------------------------------------------------


@cells
@pytest.mark.parametrize("indices", [False, True], ids=["dense", "indices"])
def test_unbatched(cell: str, indices: bool, device: str) -> None:
    layer = build(cell, 2, device=device, batch_first=True)
    x = draw(layer, 6, None, indices=indices)
    stream = Stream(layer, None)
    y = in_pieces(stream, x, [0, 4, 0])
    expected, state = layer(x)
    alike(device, y, expected)
    for mine, theirs in zip(parts(stream.state), parts(state), strict=True):
        assert mine.shape == (2, H)
        alike(device, mine, theirs)
    assert stream.batch_size is None
    # A state in that form goes in again.
    other = Stream(layer, None, state=stream.state)
    equal(other.state, stream.state)
    equal(other.step(x[0]), stream.step(x[0]))


def test_an_unbatched_index_may_be_a_number(device: str) -> None:
    layer = build("gru", device=device)
    stream, same = Stream(layer, None), Stream(layer, None)
    for index in (0, 4, 2):
        y = stream.step(index)
        assert y.shape == (H,)
        equal(y, same.step(np.array(index)))
        equal(stream.step(np.int32(index)), same.step(np.array(index, np.uint8)))
    for wrong in (-1, I, 2**70):
        with pytest.raises(
            rnnfast.IndexRangeError, match=rf"x is the index {wrong}, .* < 5; I=5 from input_size"
        ):
            stream.step(wrong)
    with pytest.raises(rnnfast.DTypeError, match="x is of type bool"):
        stream.step(True)
    assert stream.t == same.t == 6


@cells
def test_batch_first(cell: str, device: str) -> None:
    layer = build(cell, 2, device=device, batch_first=True, residual=True)
    twin = build(cell, 2, device=device, residual=True)
    x = draw(layer, 7, 3)
    stream, other = Stream(layer, 3), Stream(twin, 3)
    y = stream.run(np.ascontiguousarray(x[:5].swapaxes(0, 1)))
    assert y.flags.c_contiguous
    equal(y.swapaxes(0, 1), other.run(x[:5]))
    equal(stream.step(x[5]), other.step(x[5]))
    out = np.empty((3, 1, H), np.float32)
    assert stream.run(x[6:].swapaxes(0, 1), out) is out
    equal(out.swapaxes(0, 1), other.run(x[6:]))
    indices = draw(layer, 4, 3, indices=True)
    equal(stream.run(indices.T).swapaxes(0, 1), other.run(indices))


def test_any_strides_and_integer_types(device: str) -> None:
    layer = build("lstm", 2, device=device)
    x = draw(layer, 6, 3)
    wide = np.zeros((12, 6, 2 * I), np.float32)
    wide[::2, ::2, ::2] = x
    some = np.zeros((6, 2, 3, I + 1), np.float32)
    some[:, 0, :, :I] = x
    y = Stream(layer, 3).run(x)
    for view in (wide[::2, ::2, ::2], some[:, 0, :, :I], np.asfortranarray(x), x[::-1][::-1]):
        equal(Stream(layer, 3).run(view), y)
        out = np.zeros((6, 2, 3, H + 2), np.float32)
        target = out[:, 1, :, 1:-1]
        assert Stream(layer, 3).run(view, target) is target
        equal(np.ascontiguousarray(target), y)
        assert not out[:, 0].any()
        assert not out[..., 0].any()
    transposed = np.empty((3, H, 6), np.float32).transpose(2, 0, 1)
    assert Stream(layer, 3).run(x, transposed) is transposed
    equal(np.ascontiguousarray(transposed), y)
    indices = draw(layer, 6, 3, indices=True)
    y = Stream(layer, 3).run(indices)
    for dtype in (np.int8, np.uint16, np.int32, np.uint64):
        equal(Stream(layer, 3).run(indices.astype(dtype)), y)
    equal(Stream(layer, 3).run(np.asfortranarray(indices)), y)


def test_out_may_lie_between_the_rows_of_x(device: str) -> None:
    """They share no element, though their extents meet."""
    layer = build("gru", device=device)
    both = np.zeros((6, 3, I + H), np.float32)
    x = draw(layer, 6, 3)
    both[..., :I] = x
    y = Stream(layer, 3).run(both[..., :I], both[..., I:])
    equal(np.ascontiguousarray(y), Stream(layer, 3).run(x))
    equal(np.ascontiguousarray(both[..., :I]), x)


def test_no_steps(device: str) -> None:
    layer = build("lstm", 2, device=device, initial_state="learned")
    stream = Stream(layer, 2)
    before = stream.state
    y = stream.run(np.empty((0, 2, I), np.float32))
    assert y.shape == (0, 2, H)
    assert stream.run(np.empty((0, 2), np.int64)).shape == (0, 2, H)
    assert stream.t == 0
    equal(stream.state, before)


# The state ---------------------------------------------------------------------------------------


@cells
@pytest.mark.parametrize("initial", ["zero", "learned"])
def test_reset(cell: str, initial: str, device: str) -> None:
    layer = build(cell, 2, device=device, initial_state=initial)
    x = draw(layer, 9, 4)
    stream = Stream(layer, 4)
    start = stream.state
    for s, name in zip(parts(start), ("h_0", "c_0"), strict=False):
        expected = layer.parameters[name][:, None] if initial == "learned" else 0
        equal(s, np.broadcast_to(expected, s.shape).astype(np.float32))
    stream.run(x[:4])
    moved = stream.state
    for rows in (
        np.array([False, True, False, True]),
        np.array([1, 3]),
        np.array([3, 1, 3], np.uint8),
    ):
        stream.state = moved
        stream.reset(rows)
        for now, old, new in zip(*map(parts, (stream.state, moved, start)), strict=True):
            equal(now[:, [0, 2]], old[:, [0, 2]])
            equal(now[:, [1, 3]], new[:, [1, 3]])
        assert stream.t == 4
    stream.reset(rows=2)
    for now, new in zip(parts(stream.state), parts(start), strict=True):
        equal(now[:, 2], new[:, 2])
    stream.reset(np.array([], np.int64))
    stream.reset(np.zeros(4, np.bool_))
    for now, old in zip(parts(stream.state), parts(moved), strict=True):
        equal(now[:, 0], old[:, 0])
    stream.reset()
    equal(stream.state, start)
    assert stream.t == 0
    equal(stream.run(x), Stream(layer, 4).run(x))


@cells
def test_a_reset_row_goes_on_like_a_new_one(cell: str, device: str) -> None:
    layer = build(cell, 2, device=device, initial_state="learned")
    x = draw(layer, 9, 2)
    stream = Stream(layer, 2)
    stream.run(x[:4])
    stream.reset(np.array([1]))
    y = stream.run(x[4:])
    alike(device, y[:, 0], layer(x)[0][4:, 0])
    alike(device, y[:, 1], layer(x[4:])[0][:, 1])
    # So does the layer's own reset, before the same step.
    reset = np.zeros((9, 2), bool)
    reset[4, 1] = True
    alike(device, y, layer(x, reset=reset, reset_to="learned")[0][4:])


@cells
def test_the_state_is_a_copy_both_ways(cell: str, device: str) -> None:
    layer = build(cell, 2, device=device)
    x = draw(layer, 6, 3)
    stream = Stream(layer, 3)
    stream.run(x[:3])
    state = stream.state
    y = stream.run(x[3:])
    ending = stream.state
    given = copy.deepcopy(state)
    stream.state = given
    for s in parts(given):
        s[...] = 7
    for s in parts(stream.state):
        s[...] = 7
    equal(stream.run(x[3:]), y)
    equal(stream.state, ending)
    equal(Stream(layer, 3, state=state).run(x[3:]), y)
    # What was given to start with is not what a reset goes back to.
    other = Stream(layer, 3, state=state)
    other.reset()
    equal(other.run(x), np.concatenate([Stream(layer, 3).run(x[:3]), y]))


def test_an_entry_of_the_state_may_be_missing(device: str) -> None:
    layer = build("lstm", device=device)
    h = np.ones((1, 2, H), np.float32)
    stream = Stream(layer, 2, state=(h, None))
    equal(stream.state, (h, np.zeros_like(h)))
    stream.state = (None, h)
    equal(stream.state, (np.zeros_like(h), h))


@cells
def test_parameters_and_options_are_frozen(cell: str, device: str) -> None:
    layer = build(cell, 2, device=device, initial_state="learned", zoneout=0.1)
    x = draw(layer, 5, 2)
    stream = Stream(layer, 2)
    y = Stream(layer, 2).run(x)
    for array in layer.parameters.values():
        array[...] = 9
    layer.residual, layer.zoneout = True, 0.9
    equal(stream.run(x), y)
    stream.reset()
    equal(stream.run(x), y)
    assert "residual" not in repr(stream)


# Errors ------------------------------------------------------------------------------------------


def error_of(kind: type[Exception], call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **options)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_stream_of_what(device: str) -> None:
    layer = build("gru", device=device)
    assert error_of(rnnfast.DTypeError, Stream, layer.prepare()) == (
        "rnnfast.Stream: layer is of type PreparedLayer, expected RNN, LSTM or GRU."
    )
    both = build("gru", device=device, bidirectional=True)
    assert error_of(rnnfast.ArgumentError, Stream, both) == (
        "rnnfast.Stream: the layer has bidirectional=True, expected one direction: the second one "
        "begins at the last step, which a stream has not seen."
    )
    assert error_of(rnnfast.ArgumentError, Stream, layer, 0) == (
        "rnnfast.Stream: batch_size is 0, expected at least 1."
    )
    assert error_of(rnnfast.DTypeError, Stream, layer, 1.5) == (
        "rnnfast.Stream: batch_size is of type float, expected int."
    )
    assert error_of(rnnfast.ArgumentError, Stream, layer, threads=0) == (
        "rnnfast.Stream: threads is 0, expected 1 ... 1024."
    )
    assert error_of(rnnfast.DTypeError, Stream, layer, threads=True) == (
        "rnnfast.Stream: threads is of type bool, expected int."
    )
    assert error_of(rnnfast.ShapeError, Stream, layer, 2, state=np.zeros((1, 3, H), "f4")) == (
        "rnnfast.Stream: h0 has shape (1, 3, 19), expected (D*L, B, P) = (1, 2, 19); "
        "D=1 from bidirectional, L=1 from num_layers, B=2 from batch_size, H=19 from hidden_size."
    )


def test_arrays_in_words(device: str) -> None:
    layer = build("lstm", device=device)
    stream = Stream(layer, 3)
    before = stream.state
    x, y = np.zeros((3, I), np.float32), np.empty((3, H), np.float32)
    frozen = y.copy()
    frozen.setflags(write=False)
    cases: list[tuple[type[Exception], tuple[Any, ...], str]] = [
        (
            rnnfast.ShapeError,
            (x[:2],),
            "x has shape (2, 5), expected (B, I) = (3, 5); B=3 from batch_size, I=5 from "
            "input_size.",
        ),
        (
            rnnfast.DTypeError,
            (x.astype("f8"),),
            "the layer is float32 but x is float64; all arrays must share one dtype. "
            'Use x.astype("float32").',
        ),
        (
            rnnfast.DTypeError,
            (x.tolist(),),
            "x is of type list, expected a NumPy array. Use np.asarray(x).",
        ),
        (
            rnnfast.IndexRangeError,
            (np.array([0, 5, 1]),),
            "x holds the index 5 at [1], expected 0 <= index < 5; I=5 from input_size.",
        ),
        (
            rnnfast.ShapeError,
            (x, y[:2]),
            "out has shape (2, 19), expected (B, H) = (3, 19); B=3 from batch_size, H=19 from "
            "hidden_size.",
        ),
        (
            rnnfast.DTypeError,
            (x, y.astype("f8")),
            "the layer is float32 but out is float64; all arrays must share one dtype. "
            'Use out.astype("float32").',
        ),
        (
            rnnfast.ArgumentError,
            (x, frozen),
            "out is read-only, expected a writable array.",
        ),
    ]
    for kind, args, text in cases:
        assert error_of(kind, stream.step, *args) == f"rnnfast.Stream.step: {text}"
    assert error_of(rnnfast.ShapeError, stream.run, x) == (
        "rnnfast.Stream.run: x has shape (3, 5), expected (T, B, I) = (T, 3, 5); "
        "B=3 from batch_size, I=5 from input_size."
    )
    fold = np.lib.stride_tricks.as_strided
    for call, args in (
        (stream.step, (x, fold(y, y.shape, (0, 4)))),
        (stream.run, (np.zeros((2, 3, I), "f4"), fold(y, (2, *y.shape), (0, 4 * H, 4)))),
    ):
        assert "out overlaps itself" in error_of(rnnfast.ArgumentError, call, *args)
    equal(stream.state, before)
    assert stream.t == 0


def test_an_index_out_of_range_anywhere_leaves_all_as_it_was(device: str) -> None:
    layer = build("gru", 2, device=device)
    stream = Stream(layer, 1)
    x = draw(layer, 500, 1, indices=True)
    stream.run(x[:3])
    before = stream.state
    for wrong in (-1, I, 2**62, -(2**63)):
        x[450, 0] = wrong
        text = error_of(rnnfast.IndexRangeError, stream.run, x)
        assert f"x holds the index {wrong} at [450, 0]" in text
    equal(stream.state, before)
    assert stream.t == 3


def test_out_over_x(device: str) -> None:
    layer = build("gru", device=device, input_size=H)
    stream = Stream(layer, 3)
    x = np.zeros((3, H), np.float32)
    text = "out overlaps x, expected memory of its own"
    assert text in error_of(rnnfast.ArgumentError, stream.step, x, x)
    row = np.zeros((4, H), np.float32)
    assert text in error_of(rnnfast.ArgumentError, stream.step, row[:3], row[1:])
    assert stream.t == 0


def test_the_state_in_words(device: str) -> None:
    stream = Stream(build("lstm", 2, device=device), 3)
    h = np.zeros((2, 3, H), np.float32)

    def put(state: Any) -> None:
        stream.state = state

    assert error_of(rnnfast.DTypeError, put, None) == (
        "rnnfast.Stream.state: the state is None, expected arrays. Use reset()."
    )
    assert error_of(rnnfast.DTypeError, put, h) == (
        "rnnfast.Stream.state: the state is of type ndarray, expected a tuple (h, c)."
    )
    assert error_of(rnnfast.ShapeError, put, (h, h[:, :2])) == (
        "rnnfast.Stream.state: c has shape (2, 2, 19), expected (D*L, B, H) = (2, 3, 19); "
        "D=1 from bidirectional, L=2 from num_layers, B=3 from batch_size, H=19 from hidden_size."
    )
    assert "is float64" in error_of(rnnfast.DTypeError, put, (h, h.astype("f8")))
    with pytest.raises(AttributeError):
        stream.t = 3


def test_rows_in_words(device: str) -> None:
    layer = build("gru", device=device)
    stream = Stream(layer, 3)
    assert error_of(rnnfast.ShapeError, stream.reset, np.array([True, False])) == (
        "rnnfast.Stream.reset: rows has shape (2,), expected (B,) = (3,); B=3 from batch_size."
    )
    assert error_of(rnnfast.IndexRangeError, stream.reset, np.array([0, 3])) == (
        "rnnfast.Stream.reset: rows holds the index 3 at [1], expected 0 <= index < 3; "
        "B=3 from batch_size."
    )
    assert error_of(rnnfast.DTypeError, stream.reset, np.array([0.5])) == (
        "rnnfast.Stream.reset: rows is float64, expected bool, True where a row is reset. "
        "Use rows != 0."
    )
    assert "of type list" in error_of(rnnfast.DTypeError, stream.reset, [0, 1])
    assert error_of(rnnfast.ArgumentError, Stream(layer, None).reset, np.array([0])) == (
        "rnnfast.Stream.reset: rows is given, expected None: with batch_size=None there is a "
        "single row."
    )


def test_arguments_that_are_none(device: str) -> None:
    stream = Stream(build("gru", device=device))
    x = np.zeros((1, I), np.float32)
    for call in (stream.step, stream.run):
        for args, options in (
            ((), {}),
            ((x, None, x), {}),
            ((x,), {"x": x}),
            ((x,), {"y": x}),
            ((), {"out": x}),
        ):
            with pytest.raises(TypeError):
                call(*args, **options)
    for args, options in (((x, x), {}), ((), {"row": x})):
        with pytest.raises(TypeError):
            stream.reset(*args, **options)
    equal(stream.step(out=None, x=x), Stream(build("gru", device=device)).step(x))
    assert stream.t == 1


def test_no_copy_and_no_pickle(device: str) -> None:
    stream = Stream(build("gru", device=device))
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"rnnfast\.Stream: a stream cannot be copied"):
            call(stream)


# What it is made of ------------------------------------------------------------------------------


@compiled
def test_a_step_is_a_call_of_the_compiled_module(device: str) -> None:
    stream = Stream(build("gru", device=device))
    assert isinstance(stream, Stream)
    assert type(stream).__name__ == "Stream"
    assert repr(stream).startswith("<rnnfast stream of GRU(5, 19")
    core = _backend.compiled["cpu"].Stream
    is_core = device != "numpy"
    assert isinstance(stream, core) == is_core
    for name in ("step", "run", "reset"):
        assert (getattr(type(stream), name) is vars(core)[name]) == is_core


def test_a_subclass_keeps_its_own_methods(device: str) -> None:
    class Doubled(Stream):
        def step(self, x: Any, out: Any = None) -> np.ndarray:
            return 2 * super().step(x, out)

    layer = build("gru", device=device)
    x = draw(layer, 1, 1)
    doubled = Doubled(layer)
    assert isinstance(doubled, Doubled)
    equal(doubled.step(x[0]), 2 * Stream(layer).step(x[0]))
    assert isinstance(type(doubled)(layer), Doubled)

    class Empty(Stream):
        def __init__(self, layer: Any) -> None:
            pass

    calls = (lambda s: s._take("step", x[0], None), lambda s: s.reset(), lambda s: s.state)
    for call in calls:
        with pytest.raises(RuntimeError, match=r"must call super\(\).__init__"):
            call(Empty(layer))
    assert Empty(layer).t == 0
    with pytest.raises(RuntimeError, match="__init__ was called again"):
        doubled.__init__(layer)


# Numbers below the smallest normal ---------------------------------------------------------------


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_denormals_are_flushed(dtype: str) -> None:
    """A state that decays towards zero becomes zero, as in the layer, and x below is zero."""
    layer = build("rnn_relu", 2, dtype=dtype, input_size=1, hidden_size=4, bias=False)
    layer.residual = True
    for array in layer.parameters.values():
        array[...] = 0
    for name in ("weight_hh_l0", "weight_hh_l1"):
        layer.parameters[name][...] = np.eye(4) / 16
    tiny = np.finfo(dtype).tiny
    stream = Stream(layer, state=np.full((2, 1, 4), 4 * tiny, dtype))
    stream.run(np.zeros((2, 1, 1), dtype))
    assert not np.any(stream.state)
    for name in ("weight_ih_l0", "weight_ih_l1"):
        layer.parameters[name][...] = 1
    stream = Stream(layer)
    assert not stream.step(np.full((1, 1), tiny / 2, dtype)).any()
    # The caller's own arithmetic keeps them.
    assert np.array([tiny], dtype)[0] / np.array([2], dtype)[0] > 0


# Threads -----------------------------------------------------------------------------------------


@cells
def test_made_here_and_used_there(cell: str, device: str) -> None:
    """Steps from changing threads give the bits of one."""
    layer = build(cell, 2, device=device)
    x = draw(layer, 8, 2)
    expected = Stream(layer, 2)
    stream = Stream(layer, 2)
    for t in range(8):
        got: list[np.ndarray] = []
        thread = threading.Thread(target=lambda t=t, got=got: got.append(stream.step(x[t])))
        thread.start()
        thread.join()
        equal(got[0], expected.step(x[t]))


@compiled
def test_two_threads_at_once_are_refused_in_words() -> None:
    """A long run lets go of the interpreter; a step from another thread meanwhile is an error."""
    layer = build("lstm", hidden_size=128, input_size=16)
    stream = Stream(layer, 4)
    x = draw(layer, 10000, 4)
    expected = Stream(layer, 4).run(x)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(stream.run(x)))
    thread.start()
    while not stream_is_busy(stream):
        assert thread.is_alive()
    for name, call in {
        "step": lambda: stream.step(x[0]),
        "reset": lambda: stream.reset(),
        "state": lambda: stream.state,
    }.items():
        assert error_of(RuntimeError, call) == (
            f"rnnfast.Stream.{name}: another thread is using this stream, expected one at a time: "
            "it carries one state. Use a stream for each thread, or a lock."
        )
    thread.join()
    equal(got[0], expected)
    equal(stream.step(x[0]), stream.state[0][0])


def stream_is_busy(stream: Stream) -> bool:
    """Whether a read is refused; it changes nothing where it is not."""
    try:
        stream._read()
    except RuntimeError:
        return True
    return False


@compiled
def test_streams_side_by_side() -> None:
    """Each thread its own stream, with an array of its own."""
    layer = build("gru", 2, hidden_size=64)
    x = draw(layer, 300, 2)
    expected = layer(x)[0]
    wrong: list[int] = []

    def work(number: int) -> None:
        stream, y = Stream(layer, 2), np.empty((2, 64), np.float32)
        for t in range(300):
            if not np.array_equal(stream.step(x[t], y), expected[t]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
