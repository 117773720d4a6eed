"""Arrays of other libraries that lie on a GPU, through the layers and functions.

The kernels are those of test_cuda_layers.py: here the same numbers go in as NumPy arrays and as
arrays on the device, and the same bits must come out. On the twin (tests/simt) the device's memory
is the host's; a class of the tests' own stands for CuPy.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from problems import CELL_NAMES, make

import rnnfast
from rnnfast import ArgumentError, DeviceError, DTypeError, IndexRangeError, ShapeError, _backend
from rnnfast.cuda import DeviceArray
from rnnfast.cuda._arrays import host
from rnnfast.cuda._checker import DeviceChecker

T, B, I, H = 6, 3, 4, 9


class Theirs:
    """An array of another library: a NumPy array, of any strides, with its memory on the device."""

    def __init__(self, module: ModuleType, array: np.ndarray, stream: int | None = None) -> None:
        whole = array
        while whole.base is not None:
            whole = whole.base
        self.block = module.DeviceArray(whole if whole.flags.c_contiguous else whole.T)
        self.offset = array.ctypes.data - whole.ctypes.data
        self.array, self.stream, self.module = array, stream, module

    @property
    def pointer(self) -> int:
        return self.block.pointer + self.offset if self.array.size else 0


class Interface(Theirs):
    """As CuPy and Numba say it."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.pointer, False),
            "strides": None if self.array.flags.c_contiguous else self.array.strides,
            "stream": self.stream,
            "version": 3,
        }


class DlTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class DlManaged(ctypes.Structure):
    pass


Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(DlManaged))
DlManaged._fields_ = (("tensor", DlTensor), ("context", ctypes.c_void_p), ("deleter", Deleter))
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
in_capsule = ctypes.pythonapi.PyCapsule_GetPointer
in_capsule.restype = ctypes.c_void_p
in_capsule.argtypes = (ctypes.py_object, ctypes.c_char_p)


class Dlpack(Theirs):
    """As everybody says it, by a struct that is written here from the standard's page."""

    code: int | None = None
    released = 0
    exported: ClassVar[list[Any]] = []  # what is handed out, until a test ends

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.asked = stream
        array, n = self.array, self.array.ndim
        sizes = (ctypes.c_int64 * n)(*array.shape)
        steps = (ctypes.c_int64 * n)(*(s // array.itemsize for s in array.strides))
        kind = {"i": 0, "u": 1, "f": 2, "b": 6}[array.dtype.kind]

        def release(managed: Any) -> None:
            self.released += 1

        tensor = DlTensor(
            self.block.pointer if array.size else None,
            (2, 0),
            n,
            kind if self.code is None else self.code,
            array.itemsize * 8,
            1,
            sizes,
            None if array.flags.c_contiguous else steps,
            self.offset,
        )
        managed = DlManaged(tensor, None, Deleter(release))
        self.exported.append((self, sizes, steps, managed))
        return new_capsule(ctypes.addressof(managed), b"dltensor", None)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, cuda_module: ModuleType) -> Iterator[ModuleType]:
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (cuda_module, None))
    yield cuda_module
    gc.collect()
    Dlpack.exported.clear()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, cuda: ModuleType) -> Iterator[list[tuple[int, int]]]:
    """Which stream has waited for which, in turn."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(
        cuda.Stream, "wait_for", lambda self, other: calls.append((self.pointer, other))
    )
    return calls


def there(kind: type[Theirs], module: ModuleType, value: Any) -> Any:
    """Bring all arrays in a value to the device."""
    if isinstance(value, np.ndarray):
        return kind(module, value)
    if isinstance(value, rnnfast.States):
        return rnnfast.States(*(there(kind, module, v) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(there(kind, module, v) for v in value)
    return value


def leaves(value: Any) -> list[Any]:
    """All arrays in a value."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [] if value is None else [value]


def same(ours: Any, numpys: Any) -> None:
    found, expected = leaves(ours), leaves(numpys)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, rnnfast.IndexedRows):
            b = b.dense()
        a = host(a)
        assert a.shape == b.shape
        # A sum of nothing may be 0 or -0.
        np.testing.assert_array_equal(a, b)


def on_gpu(*arrays: Any) -> None:
    for array in leaves(arrays):
        assert isinstance(array, DeviceArray)
        assert array.device == 0


# Functions ---------------------------------------------------------------------------------------


def run_function(cell: str, place: Any, **options: Any) -> Any:
    p = make(cell, T, B, I, H).astype(np.float32)
    function = rnnfast.CELLS[cell].function
    more = {k: place(v) for k, v in options.items()}
    if function == "rnn":
        more["nonlinearity"] = cell.removeprefix("rnn_")
    forward = getattr(rnnfast, f"{function}_forward")
    backward = getattr(rnnfast, f"{function}_backward")
    burn_in = {} if options.get("reverse") else {"burn_in": 2}
    given = [place(a) for a in (p.x, *p.row, *p.state)]
    y, state, tape = forward(*given, **more, **burn_in)
    last = [place(s) for s in p.dstate]
    gradients = backward(tape, place(p.dy), *last)
    plain, _ = getattr(rnnfast, function)(*given, **more)
    return y, state, tape.states(), gradients, plain


@pytest.mark.parametrize("kind", [Interface, Dlpack])
@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("reverse", [False, True])
def test_functions(cuda: ModuleType, cell: str, kind: type[Theirs], reverse: bool) -> None:
    ours = run_function(cell, lambda a: there(kind, cuda, a), reverse=reverse)
    assert rnnfast.last_kernel() == f"{cell}.forward.f32.cuda.k0"
    on_gpu(*ours)
    same(ours, run_function(cell, lambda a: a, reverse=reverse, device="cuda"))


def test_options_of_a_function(cuda: ModuleType) -> None:
    rng = np.random.default_rng(0)
    options = {
        "lengths": np.array([4, 0, 6]),
        "mask": rng.random((T, B)) < 0.8,
        "reset": rng.random((T, B)) < 0.4,
        "reset_state": (rng.random((T, B, H)).astype("f4"), rng.random((T, B, H)).astype("f4")),
        "recurrent_dropout": 0.3,
        "zoneout": 0.2,
        "weight_drop": 0.1,
        "seed": 5,
        "pad_output": "hold",
    }
    ours = run_function("lstm", lambda a: there(Interface, cuda, a), **options)
    on_gpu(*ours)
    same(ours, run_function("lstm", lambda a: a, **options, device="cuda"))


def test_arrays_that_lie_anyhow(cuda: ModuleType) -> None:
    """As views, of which only what kernels cannot read is copied."""
    p = make("gru", T, B, I, H).astype(np.float32)
    room = np.zeros((B, 2 * T, I + 3), np.float32)
    x = room.swapaxes(0, 1)[::-2, :, 1 : 1 + I]
    W = np.asfortranarray(p.row[0])
    h0 = np.ascontiguousarray(p.state[0][:, ::-1])[:, ::-1]
    x[...], h0[...] = p.x, p.state[0]
    given = x, W, *p.row[1:], h0
    expected = rnnfast.gru(*given, device="cuda")
    for kind in (Interface, Dlpack):
        same(rnnfast.gru(*there(kind, cuda, given)), expected)
    sparse = np.repeat(p.x, 2, -1)[..., ::2]
    same(rnnfast.gru(*there(Interface, cuda, (sparse, *given[1:]))), expected)


def test_out_is_written_where_it_lies(cuda: ModuleType) -> None:
    p = make("gru", T, B, I, H).astype(np.float32)
    given = there(Interface, cuda, (p.x, *p.row, *p.state))
    out = Interface(cuda, np.zeros((T, B, 2 * H), np.float32)[..., H:])
    y, _ = rnnfast.gru(*given, out=out)
    assert y is out
    expected, _ = rnnfast.gru(p.x, *p.row, *p.state, device="cuda")
    np.testing.assert_array_equal(out.block.numpy()[..., H:], expected)
    assert not out.block.numpy()[..., :H].any()
    x = there(Interface, cuda, np.zeros((T, B, H), np.float32))
    W = there(Interface, cuda, np.zeros((3 * H, H), np.float32))
    with pytest.raises(ArgumentError, match="out overlaps x, expected memory of its own"):
        rnnfast.gru(x, W, given[2], out=x)
    with pytest.raises(ArgumentError, match="out has strides"):
        rnnfast.gru(x, W, W, out=Interface(cuda, np.zeros((T, B, 2 * H), np.float32)[..., ::2]))


# Layers ------------------------------------------------------------------------------------------


def run_layer(layer: Any, place: Any, x: Any, state: Any, options: dict[str, Any]) -> Any:
    y, last, tape = layer.forward(
        place(x),
        place(state),
        training=True,
        seed=3,
        **{k: v if k in ("cu_seqlens", "row_ids") else place(v) for k, v in options.items()},
    )
    dy = np.random.default_rng(1).standard_normal(host(y).shape).astype(np.float32)
    dlast = [np.full(host(s).shape, 0.5, np.float32) for s in leaves(last)]
    dlast = tuple(dlast) if len(dlast) > 1 else dlast[0]
    states = tape.states()
    into = rnnfast.States(h=host(states.h) * 0.25, gates=host(states.gates) * 0.125)
    gradients = layer.backward(tape, place(dy), place(dlast), dstates=place(into))
    return (y, last, states, gradients.x, gradients.state, gradients.reset_state), (
        gradients.parameters
    )


rng = np.random.default_rng(2)
X = rng.standard_normal((T, B, I)).astype(np.float32)
FORMS: dict[str, tuple[np.ndarray, dict[str, Any], dict[str, Any]]] = {
    "time first": (X, {}, {}),
    "batch first": (X.swapaxes(0, 1).copy(), {"batch_first": True}, {}),
    "unbatched": (X[:, 0].copy(), {}, {}),
    "flat": (X.reshape(-1, I), {}, {"cu_seqlens": np.array([0, 5, 5, 18])}),
}


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stateful", [False, True])
def test_layers(cuda: ModuleType, form: str, kind: str, stateful: bool) -> None:
    x, given, options = FORMS[form]
    sizes, settings = (I, H, 2), {"bidirectional": True, "dropout": 0.4, "seed": 0, **given}
    settings |= {"recurrent_dropout": 0.2, "initial_state": "learned"}
    layer = getattr(rnnfast, kind)(*sizes, **settings)
    steps = x.shape[:-1]
    options = {**options, "reset": rng.random(steps) < 0.4, "row_ids": np.array([7, 0, 9])}
    if form == "unbatched":
        options["row_ids"] = np.array([7])
    if stateful:
        shape = (4, H) if form == "unbatched" else (4, B, H)
        state: Any = rng.standard_normal((2, *shape)).astype(np.float32)
        state = tuple(state) if kind == "LSTM" else state[0]
        options["mask"] = rng.random(steps) < 0.7
        options["pad_output"] = "hold"
        replaced = rng.standard_normal((2, 4, *steps, H)).astype(np.float32)
        options["reset_state"] = tuple(replaced) if kind == "LSTM" else replaced[0]
    else:
        state = None
        options["reset_to"] = "learned"
    on_device, parameters = run_layer(layer, lambda a: there(Interface, cuda, a), x, state, options)
    on_gpu(*on_device)
    assert all(isinstance(p, np.ndarray) for p in parameters.values())
    numpys = getattr(rnnfast, kind)(*sizes, **settings, device="cuda")
    same((on_device, parameters), run_layer(numpys, lambda a: a, x, state, options))


def test_a_residual_stack_and_lengths(cuda: ModuleType) -> None:
    given: dict[str, Any] = {"num_layers": 3, "residual": True, "batch_first": True, "seed": 0}
    x = np.random.default_rng(0).standard_normal((B, T, H)).astype(np.float32)
    options = {"lengths": np.array([6, 2, 0])}
    results = []
    for device, place in (("auto", lambda a: there(Dlpack, cuda, a)), ("cuda", lambda a: a)):
        layer = rnnfast.GRU(H, H, device=device, **given)
        results.append(run_layer(layer, place, x, None, options))
    on_gpu(results[0][0])
    same(*results)


def test_a_prepared_layer(cuda: ModuleType) -> None:
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    layer = rnnfast.LSTM(I, H, 2, device="cuda", seed=0)
    same(layer.prepare()(Interface(cuda, x)), layer(x))
    prepared = rnnfast.LSTM(I, H, device="cpu" if _backend.compiled else "numpy").prepare()
    with pytest.raises(ArgumentError, match='x lies on a GPU; expected "auto" or "cuda"'):
        prepared(Interface(cuda, x))
    if _backend.compiled:
        with pytest.raises(ArgumentError, match="was prepared for the CPU"):
            rnnfast.LSTM(I, H).prepare()(Interface(cuda, x))


def test_indices(cuda: ModuleType) -> None:
    x = np.random.default_rng(0).integers(0, I, (T, B))
    x[-1, 1] = 999
    options = {"lengths": np.array([6, 5, 2])}
    results = []
    for device, place in (("auto", lambda a: there(Interface, cuda, a)), ("cuda", lambda a: a)):
        layer = rnnfast.GRU(I, H, seed=0, device=device)
        results.append(run_layer(layer, place, x, None, options))
    same(*results)
    with pytest.raises(IndexRangeError, match=r"x holds the index 999 at \[5, 1\]"):
        rnnfast.GRU(I, H)(Interface(cuda, x))
    with pytest.raises(DTypeError, match=r"x is int32, expected int64: nothing is converted"):
        rnnfast.GRU(I, H)(Interface(cuda, x.astype(np.int32)))


def test_lengths_that_nobody_looks_at_stay_within_the_arrays(cuda: ModuleType) -> None:
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    reset = np.random.default_rng(1).random((T, B)) < 0.5
    layer = rnnfast.GRU(I, H, bidirectional=True, seed=0)
    options = {"reset": reset, "lengths": np.array([99, -1, 3])}
    found = layer(Interface(cuda, x), **{k: Interface(cuda, v) for k, v in options.items()})
    expected = rnnfast.GRU(I, H, bidirectional=True, seed=0, device="cuda")
    same(found, expected(x, reset=reset, lengths=np.array([6, 0, 3])))
    check = DeviceChecker("rnnfast.gru")
    lengths = check.counts("lengths", Interface(cuda, options["lengths"]), "B", T, "x")
    assert lengths.numpy().tolist() == [6, 0, 3]


# Streams -----------------------------------------------------------------------------------------


def test_work_is_put_on_the_stream_of_x(cuda: ModuleType, waits: list[tuple[int, int]]) -> None:
    first, second = cuda.Stream(), cuda.Stream()
    p = make("gru", T, B, I, H).astype(np.float32)
    x = Interface(cuda, p.x, first.pointer)
    W = Interface(cuda, p.row[0], second.pointer)
    R = Interface(cuda, p.row[1], first.pointer)
    y, h_n, tape = rnnfast.gru_forward(x, W, R)
    # What W's stream has still to do comes first, and what comes to it later waits.
    assert waits == [(first.pointer, second.pointer), (second.pointer, first.pointer)]
    for array in (y, h_n):
        assert array.__cuda_array_interface__["stream"] == first.pointer
    del waits[:]
    gradients = rnnfast.gru_backward(tape, Interface(cuda, p.dy, second.pointer))
    assert waits == [(first.pointer, second.pointer), (second.pointer, first.pointer)]
    assert gradients.dx.stream == first.pointer
    # No stream: the default one, as the number that both protocols give it.
    assert rnnfast.gru(*there(Interface, cuda, (p.x, *p.row)))[0].stream == 1


def test_a_layer_waits_too(cuda: ModuleType, waits: list[tuple[int, int]]) -> None:
    first, second = cuda.Stream(), cuda.Stream()
    there, back = (first.pointer, second.pointer), (second.pointer, first.pointer)
    x = Interface(cuda, np.zeros((T, B, I), np.float32), first.pointer)
    h0 = Interface(cuda, np.zeros((1, B, H), np.float32), second.pointer)
    layer = rnnfast.GRU(I, H)
    y, _, tape = layer.forward(x, h0)
    assert waits == [there, back]
    assert y.stream == first.pointer
    del waits[:]
    gradients = layer.backward(tape, Interface(cuda, np.zeros((T, B, H), "f4"), second.pointer))
    assert waits == [there, back]
    assert gradients.x.stream == first.pointer


def test_dlpack_is_told_which_stream_waits(cuda: ModuleType, waits: list[tuple[int, int]]) -> None:
    p = make("gru", T, B, I, H).astype(np.float32)
    x, *rest = there(Dlpack, cuda, (p.x, *p.row))
    y, _ = rnnfast.gru(x, *rest)
    assert x.asked == 1
    assert waits == []
    stream = cuda.Stream()
    y.__dlpack__(stream=stream.pointer)
    assert waits == [(stream.pointer, 1)]
    y.__dlpack__(stream=-1)
    assert len(waits) == 1


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_with_both_protocols(cuda: ModuleType, version: int) -> None:
    """The first of them says nothing of streams before its third version, as PyTorch has it."""

    class Both(Dlpack, Interface):
        asked: int | None = None

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return super().__cuda_array_interface__ | {"version": version}

    p = make("gru", T, B, I, H).astype(np.float32)
    x, *rest = there(Both, cuda, (p.x, *p.row))
    same(rnnfast.gru(x, *rest), rnnfast.gru(p.x, *p.row, device="cuda"))
    assert x.asked == (1 if version == 2 else None)
    masked = Interface(cuda, p.x)
    interface = masked.__cuda_array_interface__ | {"mask": masked}
    with pytest.raises(DTypeError, match="x is a masked array"):
        rnnfast.gru(SimpleNamespace(__cuda_array_interface__=interface), *rest)


def test_streams_really_wait(cuda: ModuleType) -> None:
    cuda.Stream().wait_for(cuda.Stream().pointer)


@pytest.mark.parametrize(
    "call", ["cudaEventCreateWithFlags", "cudaEventRecord", "cudaStreamWaitEvent"]
)
def test_a_wait_that_fails_is_named(
    twin: ModuleType, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = twin.Stream(), twin.Stream()
    monkeypatch.setenv("SIMT_FAIL", f"{call}=400")
    with pytest.raises(DeviceError, match=f"{call} failed: invalid resource handle"):
        first.wait_for(second.pointer)


# What the results say of themselves --------------------------------------------------------------


def test_a_result_through_dlpack(cuda: ModuleType) -> None:
    p = make("gru", T, B, I, H).astype(np.float32)
    y, _ = rnnfast.gru(*there(Interface, cuda, (p.x, *p.row)))
    assert y.__dlpack_device__() == (2, 0)
    view = y.swapaxes(0, 1)[:, 1:, ::2]
    capsule = view.__dlpack__(max_version=(1, 0))
    tensor = DlManaged.from_address(in_capsule(capsule, b"dltensor")).tensor
    assert list(tensor.device) == [2, 0]
    assert (tensor.code, tensor.bits, tensor.lanes, tensor.byte_offset) == (2, 32, 1, 0)
    assert tensor.shape[: tensor.ndim] == list(view.shape) == [B, T - 1, 5]
    assert tensor.strides[: tensor.ndim] == [H, B * H, 2]
    assert tensor.data == y.pointer + B * H * 4
    # Whoever takes it keeps the memory alive, and gives it back once.
    owner, pointer, shape, strides, dtype = cuda.from_dlpack(capsule)
    assert (pointer, shape, strides) == (view.pointer, view.shape, view.strides)
    assert dtype == np.float32
    expected = host(view)
    del y, view
    again = DeviceArray(cuda, owner, pointer, shape, strides, dtype, 0, 1)
    np.testing.assert_array_equal(host(again), expected)
    with pytest.raises(ValueError, match="incorrect name"):
        cuda.from_dlpack(capsule)
    with pytest.raises(BufferError, match="without a copy"):
        again.__dlpack__(copy=True)


def test_what_was_taken_is_released_once(cuda: ModuleType) -> None:
    p = make("gru", T, B, I, H).astype(np.float32)
    given = there(Dlpack, cuda, (p.x, *p.row))
    _, _, tape = rnnfast.gru_forward(*given)
    assert not any(array.released for array in given)
    rnnfast.gru_backward(tape)
    del tape
    assert [array.released for array in given] == [1] * len(given)


def test_views_are_those_of_numpy(cuda: ModuleType) -> None:
    array = np.arange(2 * 3 * 5, dtype=np.float64).reshape(2, 3, 5)
    device = rnnfast.cuda._place.Place.own(cuda, array.dtype).put(array)
    for key in (0, -1, slice(None, None, -1), (slice(1), None, 2), (..., )[:0], (1, 2, 3),
                (slice(None), slice(3, 0, -2)), (slice(5, 9),)):  # fmt: skip
        np.testing.assert_array_equal(host(device[key]), array[key])
    np.testing.assert_array_equal(host(device.swapaxes(0, 2)), array.swapaxes(0, 2))
    np.testing.assert_array_equal(host(device.reshape(6, 5)), array.reshape(6, 5))
    with pytest.raises(ValueError, match="do not lie one after the other"):
        device.swapaxes(0, 2).reshape(30)
    with pytest.raises(IndexError, match="index 2 is outside an axis of 2"):
        device[2]
    assert len(device) == 2
    assert repr(device) == "<rnnfast array (2, 3, 5) float64 on GPU 0>"
    interface = device[:, ::2].__cuda_array_interface__
    assert interface["strides"] == array[:, ::2].strides
    assert device.__cuda_array_interface__ == {
        "shape": (2, 3, 5),
        "typestr": "<f8",
        "data": (device.pointer, False),
        "strides": None,
        "stream": device.stream,
        "version": 3,
    }


# What is refused ---------------------------------------------------------------------------------


def test_arrays_in_two_places_are_refused_by_name(cuda: ModuleType) -> None:
    p = make("lstm", T, B, I, H).astype(np.float32)
    x, W, R, h0 = p.x, *p.row[:2], p.state[0]
    with pytest.raises(DTypeError) as caught:
        rnnfast.lstm(Interface(cuda, x), W, Interface(cuda, R))
    assert str(caught.value) == (
        "rnnfast.lstm: W is of type ndarray in the host's memory, but x lies on a GPU; expected "
        "all arrays of a call in one place."
    )
    with pytest.raises(DTypeError, match="R lies on a GPU, and what decides where the call runs"):
        rnnfast.lstm(x, W, Interface(cuda, R))
    with pytest.raises(DTypeError, match="h0 lies on a GPU"):
        rnnfast.LSTM(I, H)(x, (Interface(cuda, h0[None]), Interface(cuda, h0[None])))
    with pytest.raises(DTypeError, match="mask is of type ndarray in the host's memory"):
        rnnfast.LSTM(I, H)(Interface(cuda, x), mask=np.ones((T, B), bool))
    with pytest.raises(DTypeError, match="cu_seqlens lies on a GPU, expected a NumPy array"):
        rnnfast.LSTM(I, H)(
            Interface(cuda, x.reshape(-1, I)), cu_seqlens=Interface(cuda, np.array([0, 18]))
        )
    _, _, tape = rnnfast.LSTM(I, H).forward(Interface(cuda, x))
    with pytest.raises(DTypeError, match=r"dy is of type ndarray .* but the tape lies on a GPU"):
        tape._stack.backward(tape, np.zeros((T, B, H), np.float32), None, True)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_another_device_asked_for_by_name(cuda: ModuleType, device: str) -> None:
    if device == "cpu" and not _backend.compiled:
        pytest.skip("the compiled module is absent")
    with pytest.raises(ArgumentError, match=f'device is "{device}", but x lies on a GPU'):
        rnnfast.GRU(I, H, device=device)(Interface(cuda, np.zeros((T, B, I), np.float32)))


def test_shapes_and_types_have_the_words_of_numpys(cuda: ModuleType) -> None:
    layer = rnnfast.GRU(I, H)
    with pytest.raises(ShapeError, match=r"x has shape \(6, 3, 5\), expected \(T, B, I\)"):
        layer(Interface(cuda, np.zeros((T, B, I + 1), np.float32)))
    with pytest.raises(DTypeError, match="the layer is float32 but x is float64"):
        layer(Interface(cuda, np.zeros((T, B, I))))
    bfloat = Dlpack(cuda, np.zeros((T, B, I), np.uint16))
    bfloat.code = 4
    with pytest.raises(DTypeError, match="x is a DLPack type of code 4, 16 bits and 1 lanes"):
        layer(bfloat)
    assert bfloat.released == 0


def test_no_gpu_to_run_on(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    x = Interface(cuda, np.zeros((T, B, I), np.float32))
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (None, "there is no CUDA module"))
    with pytest.raises(DeviceError, match="x lies on a GPU, but there is no CUDA module"):
        rnnfast.GRU(I, H)(x)


def test_two_devices(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMT_DEVICES", "2")
    p = make("gru", T, B, I, H).astype(np.float32)

    class There(Interface):
        def __init__(self, array: np.ndarray, device: int) -> None:
            super().__init__(twin, array)
            self.block = twin.DeviceArray(array, device)

    given = [There(a, 1) for a in (p.x, *p.row)]
    y, _ = rnnfast.gru(*given)
    assert y.device == 1
    np.testing.assert_array_equal(y.numpy(), rnnfast.gru(p.x, *p.row, device="cuda")[0])
    given[1] = There(p.row[0], 0)
    with pytest.raises(ArgumentError, match="W lies on GPU 0, but x on GPU 1"):
        rnnfast.gru(*given)
