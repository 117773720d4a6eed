"""The exact words of every refusal: which array, what came, what was expected, what fixed it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnfast
from rnnfast import ArgumentError, DTypeError, IndexRangeError, ShapeError
from rnnfast._shapes import Checker

F32 = np.float32


def arrays(G: int = 3, T: int = 5, B: int = 32, I: int = 64, H: int = 256) -> dict[str, Any]:
    return {
        "x": np.zeros((T, B, I), F32),
        "W": np.zeros((G * H, I), F32),
        "R": np.zeros((G * H, H), F32),
        "bW": np.zeros(G * H, F32),
        "bR": np.zeros(G * H, F32),
        "h0": np.zeros((B, H), F32),
    }


def refused(
    error: type[Exception], text: str, call: Callable[..., Any], *args: Any, **kw: Any
) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$") as caught:
        call(*args, **kw)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"R": np.zeros((512, 256), F32)},
            "rnnfast.gru: R has shape (512, 256), expected (G*H, P) = (768, 256); "
            "H=256 from h0, G=3 from the cell.",
        ),
        (
            {"h0": np.zeros((16, 256), F32)},
            "rnnfast.gru: h0 has shape (16, 256), expected (B, P) = (32, 256); B=32 from x.",
        ),
        (
            {"h0": np.zeros((1, 32, 256), F32)},
            "rnnfast.gru: h0 has shape (1, 32, 256), expected (B, P) = (32, P); B=32 from x.",
        ),
        (
            {"h0": None, "R": np.zeros((512, 256), F32)},
            "rnnfast.gru: R has shape (512, 256), expected (G*H, P) = (768, 256); "
            "H=256 from R, G=3 from the cell.",
        ),
        (
            {"W": np.zeros((768, 65), F32)},
            "rnnfast.gru: W has shape (768, 65), expected (G*H, I) = (768, 64); "
            "H=256 from h0, I=64 from x, G=3 from the cell.",
        ),
        (
            {"bW": np.zeros(256, F32)},
            "rnnfast.gru: bW has shape (256,), expected (G*H,) = (768,); "
            "H=256 from h0, G=3 from the cell.",
        ),
        (
            {"bR": np.zeros((1, 768), F32)},
            "rnnfast.gru: bR has shape (1, 768), expected (G*H,) = (768,); "
            "H=256 from h0, G=3 from the cell.",
        ),
        ({"x": np.zeros((5, 64), F32)}, "rnnfast.gru: x has shape (5, 64), expected (T, B, I)."),
        (
            {"x": np.zeros((), F32)},
            "rnnfast.gru: x has shape (), expected (T, B, I).",
        ),
        (
            {"out": np.zeros((5, 32, 64), F32)},
            "rnnfast.gru: out has shape (5, 32, 64), expected (T, B, H) = (5, 32, 256); "
            "T=5 from x, B=32 from x, H=256 from h0.",
        ),
        (
            {
                "h0": None,
                "R": np.zeros((0, 0), F32),
                "W": np.zeros((0, 64), F32),
                "bW": None,
                "bR": None,
            },
            "rnnfast.gru: R has shape (0, 0), expected at least one hidden unit.",
        ),
    ],
)
def test_shapes(device: str, change: dict[str, Any], text: str) -> None:
    refused(ShapeError, text, rnnfast.gru, **{**arrays(), **change}, device=device)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"R": np.zeros((768, 256))},
            "rnnfast.gru: x is float32 but R is float64; all arrays must share one dtype. "
            "Use R.astype(x.dtype).",
        ),
        (
            {"x": np.zeros((5, 32, 64), np.float16)},
            "rnnfast.gru: x is float16, expected float32 or float64. Use x.astype(np.float32).",
        ),
        (
            {"h0": np.zeros((32, 256), np.complex64)},
            'rnnfast.gru: h0 is complex64, expected float32 or float64. Use h0.astype("float32").',
        ),
        (
            {"W": np.zeros((768, 64), np.int64)},
            'rnnfast.gru: W is int64, expected float32 or float64. Use W.astype("float32").',
        ),
        (
            {"x": np.zeros((5, 32, 64), bool)},
            "rnnfast.gru: x is bool, expected float32 or float64. Use x.astype(np.float32).",
        ),
        (
            {"bW": np.zeros(768, object)},
            'rnnfast.gru: bW is object, expected float32 or float64. Use bW.astype("float32").',
        ),
        (
            {"x": np.zeros((5, 32, 64), np.int32)},
            "rnnfast.gru: x is int32 with shape (5, 32, 64); an integer dtype means indices "
            "(T, B). For dense input use x.astype(W.dtype).",
        ),
        (
            {"x": [[[0.0]]]},
            "rnnfast.gru: x is of type list, expected a NumPy array. Use np.asarray(x).",
        ),
        (
            {"h0": [[0.0]]},
            "rnnfast.gru: h0 is of type list, expected a NumPy array. Use np.asarray(h0).",
        ),
        (
            {"R": re.compile("")},
            "rnnfast.gru: R is of type re.Pattern, expected a NumPy array. Use np.asarray(R).",
        ),
        (
            {"bR": np.ma.zeros(768, F32)},
            "rnnfast.gru: bR is a masked array, and its mask would be ignored. "
            "Use bR.filled(value).",
        ),
        (
            {"W": np.zeros((768, 64), ">f4")},
            "rnnfast.gru: W is float32 in big-endian byte order (>f4), expected this machine's "
            'little-endian order. Use W.astype(W.dtype.newbyteorder("=")).',
        ),
        (
            {"x": np.zeros((5, 32), ">i8")},
            "rnnfast.gru: x is int64 in big-endian byte order (>i8), expected this machine's "
            'little-endian order. Use x.astype(x.dtype.newbyteorder("=")).',
        ),
        ({"threads": 1.5}, "rnnfast.gru: threads is of type float, expected int."),
    ],
)
def test_types(device: str, change: dict[str, Any], text: str) -> None:
    refused(DTypeError, text, rnnfast.gru, **{**arrays(), **change}, device=device)


def test_values(device: str) -> None:
    given = {**arrays(), "device": device}
    text = "rnnfast.gru: threads is {}, expected 1 ... 1024."
    for n in (0, -1, 1025):
        refused(ArgumentError, text.format(n), rnnfast.gru, **given, threads=n)
    text = 'rnnfast.rnn: nonlinearity is \'sigmoid\', expected "tanh" or "relu".'
    refused(ArgumentError, text, rnnfast.rnn, **given, nonlinearity="sigmoid")


def test_output(device: str) -> None:
    given = {**arrays(T=5, B=2, I=8, H=8), "device": device}
    frozen = np.zeros((5, 2, 8), F32)
    frozen.flags.writeable = False
    text = "rnnfast.gru: out is read-only, expected a writable array."
    refused(ArgumentError, text, rnnfast.gru, **given, out=frozen)
    for name in ("x", "h0"):
        shared = given[name] if name == "x" else np.zeros((5, 2, 8), F32)
        if name == "h0":
            given["h0"] = shared[3]
        text = (
            f"rnnfast.gru: out overlaps {name}, expected memory of its own; {name} would be "
            "overwritten while it is read. Use np.empty_like."
        )
        refused(ArgumentError, text, rnnfast.gru, **given, out=shared)
    flat = np.lib.stride_tricks.as_strided(np.zeros(64, F32), (5, 2, 8), (0, 32, 4))
    text = "rnnfast.gru: out overlaps itself: an axis has stride 0. Use np.empty."
    refused(ArgumentError, text, rnnfast.gru, **given, out=flat)
    text = (
        "rnnfast.gru: x is float32 but out is float64; all arrays must share one dtype. "
        "Use out.astype(x.dtype)."
    )
    refused(DTypeError, text, rnnfast.gru, **given, out=np.zeros((5, 2, 8)))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint64])
@pytest.mark.parametrize("value", [-1, 64, 100])
def test_index_out_of_range(device: str, dtype: type, value: int) -> None:
    x = np.zeros((5, 32), dtype)
    if value < 0 and dtype is np.uint64:
        x[2, 7] = value = 2**64 - 1
    else:
        x[2, 7] = value
    text = (
        f"rnnfast.gru: x holds the index {value} at [2, 7], expected 0 <= index < 64; I=64 from W."
    )
    refused(IndexRangeError, text, rnnfast.gru, **{**arrays(), "x": x}, device=device)
    assert issubclass(IndexRangeError, IndexError)


def test_backward_gradients(device: str) -> None:
    a = arrays(G=4, T=5, B=2, I=3, H=8)
    _, _, tape = rnnfast.lstm_forward(**a, device=device)
    text = (
        "rnnfast.lstm_backward: dy has shape (5, 2, 9), expected (T, B, H) = (5, 2, 8); "
        "T=5 from the tape, B=2 from the tape, H=8 from the tape."
    )
    refused(ShapeError, text, rnnfast.lstm_backward, tape, np.zeros((5, 2, 9), F32))
    text = (
        "rnnfast.lstm_backward: dc_n has shape (8,), expected (B, H) = (2, 8); "
        "B=2 from the tape, H=8 from the tape."
    )
    refused(ShapeError, text, rnnfast.lstm_backward, tape, None, None, np.zeros(8, F32))
    text = (
        "rnnfast.lstm_backward: the tape is float32 but dh_n is float64; all arrays must share one "
        'dtype. Use dh_n.astype("float32").'
    )
    refused(DTypeError, text, rnnfast.lstm_backward, tape, None, np.zeros((2, 8)))
    text = (
        "rnnfast.lstm_backward: tape is of type int, expected the tape that rnnfast.lstm_forward "
        "returned."
    )
    refused(DTypeError, text, rnnfast.lstm_backward, 7)


def test_a_failed_call_leaves_out_alone(device: str) -> None:
    out = np.ones((5, 32, 256), F32)
    with pytest.raises(ShapeError):
        rnnfast.gru(**{**arrays(), "bW": np.zeros(3, F32)}, out=out, device=device)
    assert (out == 1).all()


def test_symbols_of_what_is_not_known_yet() -> None:
    check = Checker("me")
    with pytest.raises(ShapeError, match=r"^me: a has shape \(2,\), expected \(T, D\*L\)\.$"):
        check.shape("a", np.zeros(2), "T D*L")
