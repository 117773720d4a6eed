"""The exact words in which layers and functions refuse an option."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnfast
from rnnfast import ArgumentError, DTypeError, ShapeError, States, options

T, B, I, H = 5, 3, 4, 7
ENDS = np.array([0, 5, 12])
BORDERS = np.zeros((T, B), bool)


def zeros(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.zeros(shape, dtype)


def refused(
    error: type[Exception], text: str, call: Callable[..., Any], *args: Any, **kw: Any
) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$") as caught:
        call(*args, **kw)
    assert type(caught.value) is error


# Steps -------------------------------------------------------------------------------------------

# Each is refused by a function, and by a layer under its own name.
STEPS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"lengths": [1, 2, 3]},
        DTypeError,
        "lengths is of type list, expected a NumPy array. Use np.asarray(lengths).",
    ),
    (
        {"lengths": zeros(B)},
        DTypeError,
        "lengths is float64, expected integers. Use lengths.astype(np.int64).",
    ),
    (
        {"lengths": zeros(B, dtype=bool)},
        DTypeError,
        "lengths is bool, expected integers. Use lengths.astype(np.int64).",
    ),
    (
        {"lengths": zeros(2, dtype=int)},
        ShapeError,
        "lengths has shape (2,), expected (B,) = (3,); B=3 from x.",
    ),
    (
        {"lengths": np.array(3)},
        ShapeError,
        "lengths has shape (), expected (B,) = (3,); B=3 from x.",
    ),
    (
        {"lengths": np.array([1, 6, 2])},
        ArgumentError,
        "lengths holds 6 at [1], expected 0 <= length <= 5; T=5 from x.",
    ),
    (
        {"lengths": np.array([1, 5, -1], np.int8)},
        ArgumentError,
        "lengths holds -1 at [2], expected 0 <= length <= 5; T=5 from x.",
    ),
    (
        {"lengths": np.array([2**63, 0, 0], np.uint64)},
        ArgumentError,
        "lengths holds 9223372036854775808 at [0], expected 0 <= length <= 5; T=5 from x.",
    ),
    (
        {"mask": np.ones((T, B), int)},
        DTypeError,
        "mask is int64, expected bool, True where a step is used. Use mask != 0.",
    ),
    (
        {"mask": zeros(B, T, dtype=bool)},
        ShapeError,
        "mask has shape (3, 5), expected (T, B) = (5, 3); T=5 from x, B=3 from x.",
    ),
    (
        {"reset": zeros(T, B)},
        DTypeError,
        "reset is float64, expected bool, True where a new sequence begins. Use reset != 0.",
    ),
    (
        {"reset": zeros(T, dtype=bool)},
        ShapeError,
        "reset has shape (5,), expected (T, B) = (5, 3); T=5 from x, B=3 from x.",
    ),
    (
        {"reset": [True]},
        DTypeError,
        "reset is of type list, expected a NumPy array. Use np.asarray(reset).",
    ),
    ({"pad_output": "keep"}, ArgumentError, 'pad_output is \'keep\', expected "zero" or "hold".'),
    ({"pad_output": 0}, ArgumentError, 'pad_output is 0, expected "zero" or "hold".'),
    (
        {"reset_state": (None, None)},
        ArgumentError,
        "reset_state is given without reset, expected both: reset says where it takes the place of "
        "the state.",
    ),
    (
        {"reset": BORDERS, "reset_state": zeros(T, B, H)},
        DTypeError,
        "reset_state is of type ndarray, expected a tuple (h, c).",
    ),
    (
        {"reset": BORDERS, "reset_state": (None,)},
        DTypeError,
        "reset_state is a tuple of 1, expected a tuple (h, c).",
    ),
]
FLAT: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"cu_seqlens": ENDS, "lengths": np.array([5, 7])},
        ArgumentError,
        "lengths and cu_seqlens are both given, expected one: they say the same. cu_seqlens is for "
        "rows one after the other, lengths for padded ones.",
    ),
    (
        {"cu_seqlens": zeros(3)},
        DTypeError,
        "cu_seqlens is float64, expected integers. Use cu_seqlens.astype(np.int64).",
    ),
    (
        {"cu_seqlens": [0, 12]},
        DTypeError,
        "cu_seqlens is of type list, expected a NumPy array. Use np.asarray(cu_seqlens).",
    ),
    (
        {"cu_seqlens": zeros(3, 1, dtype=int)},
        ShapeError,
        "cu_seqlens has shape (3, 1), expected (B+1,).",
    ),
    (
        {"cu_seqlens": zeros(0, dtype=int)},
        ArgumentError,
        "cu_seqlens is empty, expected (B+1,) integers ascending from 0.",
    ),
    (
        {"cu_seqlens": np.array([1, 12])},
        ArgumentError,
        "cu_seqlens starts at 1, expected (B+1,) integers ascending from 0.",
    ),
    (
        {"cu_seqlens": np.array([0, 7, 5, 12], np.uint8)},
        ArgumentError,
        "cu_seqlens falls from 7 to 5 at [2], expected integers ascending from 0.",
    ),
    (
        {"cu_seqlens": np.array([0, 2**64 - 1], np.uint64)},
        ArgumentError,
        "cu_seqlens holds 18446744073709551615 at [1], expected at most the rows of x.",
    ),
    (
        {"cu_seqlens": ENDS, "pad_output": "hold"},
        ArgumentError,
        'pad_output is "hold", expected "zero" with cu_seqlens and no mask: there is no padding.',
    ),
    (
        {"cu_seqlens": ENDS, "mask": zeros(11, dtype=bool)},
        ShapeError,
        "mask has shape (11,), expected (N,) = (12,); N=12 from cu_seqlens.",
    ),
]


def run_lstm(x: np.ndarray, device: str, name: str = "lstm", **given: Any) -> Any:
    W, R = zeros(4 * H, I), zeros(4 * H, H)
    return getattr(rnnfast, name)(x, W, R, device=device, **given)


def layer(kind: str, device: str = "numpy", **given: Any) -> Any:
    return getattr(rnnfast, kind)(I, H, dtype="float64", device=device, **given)


@pytest.mark.parametrize(("given", "error", "text"), STEPS + FLAT)
def test_steps_in_words(device: str, given: dict[str, Any], error: Any, text: str) -> None:
    x = zeros(12, I) if "cu_seqlens" in given else zeros(T, B, I)
    for name in ("lstm", "lstm_forward"):
        refused(error, f"rnnfast.{name}: {text}", run_lstm, x, device, name, **given)
    for L in (1, 2):
        stack = layer("LSTM", device, num_layers=L)
        for call in (stack, stack.forward, stack.prepare()):
            refused(error, f"rnnfast.LSTM: {text}", call, x, **given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"mask": zeros(B, T, dtype=bool)}, None),
        (
            {"mask": zeros(T, B, dtype=bool)},
            "mask has shape (5, 3), expected (B, T) = (3, 5); B=3 from x, T=5 from x.",
        ),
        (
            {"reset": BORDERS.T, "reset_state": (None, zeros(1, T, B, H))},
            "reset_state[1] has shape (1, 5, 3, 7), expected (D*L, B, T, H) = (1, 3, 5, 7) or "
            "(D*L, B, 1, H) = (1, 3, 1, 7); D=1 from bidirectional, L=1 from num_layers, B=3 from "
            "x, T=5 from x, H=7 from hidden_size.",
        ),
    ],
)
def test_batch_first_in_words(device: str, given: dict[str, Any], text: str | None) -> None:
    call = layer("LSTM", device, batch_first=True)
    if text is None:
        call(zeros(B, T, I), **given)
    else:
        refused(ShapeError, f"rnnfast.LSTM: {text}", call, zeros(B, T, I), **given)


def test_unbatched_in_words(device: str) -> None:
    call, x = layer("GRU", device), zeros(T, I)
    text = (
        "rnnfast.GRU: lengths is given, but x is a single unbatched row; expected no lengths. "
        "Use x[:length]."
    )
    refused(ArgumentError, text, call, x, lengths=np.array(3))
    text = "rnnfast.GRU: mask has shape (5, 1), expected (T,) = (5,); T=5 from x."
    refused(ShapeError, text, call, x, mask=zeros(T, 1, dtype=bool))
    text = (
        "rnnfast.GRU: reset_state has shape (1, 5, 1, 7), expected (D*L, T, H) = (1, 5, 7) or "
        "(D*L, 1, H) = (1, 1, 7); D=1 from bidirectional, L=1 from num_layers, T=5 from x, H=7 "
        "from hidden_size."
    )
    given = {"reset": zeros(T, dtype=bool), "reset_state": zeros(1, T, 1, H)}
    refused(ShapeError, text, call, x, **given)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (zeros(11, I), "x has shape (11, 4), expected (N, I) = (12, 4); N=12 from cu_seqlens{}."),
        (
            zeros(T, B, I),
            "x has shape (5, 3, 4), expected (N, I) = (12, 4); N=12 from cu_seqlens{}.",
        ),
        (zeros(11, dtype=int), "x has shape (11,), expected (N,) = (12,); N=12 from cu_seqlens."),
    ],
)
def test_flat_input_in_words(device: str, x: np.ndarray, text: str) -> None:
    refused(
        ShapeError,
        f"rnnfast.LSTM: {text.format(', I=4 from input_size')}",
        layer("LSTM", device),
        x,
        cu_seqlens=ENDS,
    )
    if x.ndim == 3:  # then nothing says how wide the input is
        text = text.replace("(12, 4)", "(12, I)")
    text = text.format("")
    refused(ShapeError, f"rnnfast.lstm: {text}", run_lstm, x, device, cu_seqlens=ENDS)


def test_flat_input_of_functions_in_words(device: str) -> None:
    text = (
        "rnnfast.lstm: x is int64 with shape (5, 3); an integer dtype means indices (N,). "
        "For dense input use x.astype(W.dtype)."
    )
    refused(DTypeError, text, run_lstm, zeros(T, B, dtype=int), device, cu_seqlens=np.array([0, 5]))
    text = (
        "rnnfast.lstm: out has shape (11, 7), expected (N, H) = (12, 7); N=12 from cu_seqlens, "
        "H=7 from R."
    )
    x = zeros(12, I)
    refused(ShapeError, text, run_lstm, x, device, cu_seqlens=ENDS, out=zeros(11, H))
    text = "rnnfast.lstm: h0 has shape (3, 7), expected (B, P) = (2, 7); B=2 from cu_seqlens."
    refused(ShapeError, text, run_lstm, x, device, cu_seqlens=ENDS, h0=zeros(B, H))


# Replacements ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (
            zeros(1, T, B, 8),
            ShapeError,
            "reset_state has shape (1, 5, 3, 8), expected (D*L, T, B, H) = (1, 5, 3, 7) or "
            "(D*L, 1, B, H) = (1, 1, 3, 7); D=1 from bidirectional, L=1 from num_layers, T=5 from "
            "x, B=3 from x, H=7 from hidden_size.",
        ),
        (
            zeros(1, T, B, H, dtype=np.float32),
            DTypeError,
            "the layer is float64 but reset_state is float32; all arrays must share one dtype. "
            'Use reset_state.astype("float64").',
        ),
        (
            [1.0],
            DTypeError,
            "reset_state is of type list, expected a NumPy array. Use np.asarray(reset_state).",
        ),
    ],
)
def test_replacements_in_words(device: str, state: Any, error: Any, text: str) -> None:
    call = layer("GRU", device)
    given = {"reset": BORDERS, "reset_state": state}
    refused(error, f"rnnfast.GRU: {text}", call, zeros(T, B, I), **given)


def test_replacements_of_functions_in_words(device: str) -> None:
    text = (
        "rnnfast.lstm: reset_state[0] has shape (1, 5, 3, 7), expected (T, B, H) = (5, 3, 7) or "
        "(1, B, H) = (1, 3, 7); T=5 from x, B=3 from x, H=7 from R."
    )
    given: dict[str, Any] = {"reset": BORDERS, "reset_state": (zeros(1, T, B, H), None)}
    refused(ShapeError, text, run_lstm, zeros(T, B, I), device, **given)
    given = {"reset": zeros(12, dtype=bool), "reset_state": (None, zeros(2, H)), "cu_seqlens": ENDS}
    text = (
        "rnnfast.lstm: reset_state[1] has shape (2, 7), expected (N, H) = (12, 7) or (1, B, H) = "
        "(1, 2, 7); N=12 from cu_seqlens, H=7 from R, B=2 from cu_seqlens."
    )
    refused(ShapeError, text, run_lstm, zeros(12, I), device, **given)


def test_reset_to_in_words(device: str) -> None:
    call, x = layer("LSTM", device), zeros(T, B, I)
    text = 'rnnfast.LSTM: reset_to is \'random\', expected "zero" or "learned".'
    refused(ArgumentError, text, call, x, reset=BORDERS, reset_to="random")
    text = (
        'rnnfast.LSTM: reset_to is "learned", but the layer has no learned state; expected "zero", '
        'or a layer with initial_state="learned".'
    )
    refused(ArgumentError, text, call, x, reset=BORDERS, reset_to="learned")
    refused(ArgumentError, text, call.prepare(), x, reset_to="learned")
    call = layer("LSTM", device, initial_state="learned")
    text = (
        'rnnfast.LSTM: reset_to is "learned" and reset_state is given, expected one: each says '
        "what a reset puts in place of the state."
    )
    given = {"reset": BORDERS, "reset_to": "learned", "reset_state": (None, None)}
    refused(ArgumentError, text, call, x, **given)


# Where the gradient is cut -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"burn_in": -1}, ArgumentError, "burn_in is -1, expected at least 0."),
        ({"burn_in": 1.5}, DTypeError, "burn_in is of type float, expected int."),
        ({"burn_in": None}, DTypeError, "burn_in is of type NoneType, expected int."),
        ({"tbptt": 0}, ArgumentError, "tbptt is 0, expected at least 1."),
        ({"tbptt": True}, DTypeError, "tbptt is of type bool, expected int."),
    ],
)
def test_cuts_in_words(device: str, given: dict[str, Any], error: Any, text: str) -> None:
    x = zeros(T, B, I)
    refused(error, f"rnnfast.GRU.forward: {text}", layer("GRU", device).forward, x, **given)
    who = "lstm_forward"
    refused(error, f"rnnfast.{who}: {text}", run_lstm, x, device, who, **given)


@pytest.mark.parametrize(
    ("given", "text"),
    [({"burn_in": 2}, "burn_in is 2, expected 0"), ({"tbptt": 2}, "tbptt is 2, expected None")],
)
def test_cuts_in_the_reverse_direction(device: str, given: dict[str, Any], text: str) -> None:
    reason = (
        "the reverse direction meets the last steps first, and is not carried on from earlier ones."
    )
    both, x = layer("GRU", device, bidirectional=True), zeros(T, B, I)
    text_of_layer = f"rnnfast.GRU.forward: {text} with bidirectional=True: {reason}"
    refused(ArgumentError, text_of_layer, both.forward, x, **given)
    both.forward(x, burn_in=0, tbptt=None)
    who = "lstm_forward"
    text_of_function = f"rnnfast.{who}: {text} with reverse=True: {reason}"
    refused(ArgumentError, text_of_function, run_lstm, x, device, who, reverse=True, **given)


# What a cell does in the scan --------------------------------------------------------------------

CELL: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    (
        "gru",
        {"cell_clip": 3},
        ArgumentError,
        "cell_clip is 3, expected None: the gru cell has no cell state.",
    ),
    (
        "rnn",
        {"cell_clip": 3.0},
        ArgumentError,
        "cell_clip is 3.0, expected None: the rnn cell has no cell state.",
    ),
    (
        "lstm",
        {"cell_clip": float("inf")},
        ArgumentError,
        "cell_clip is inf, expected a finite number above 0, or None for no bound.",
    ),
    (
        "lstm",
        {"cell_clip": "a"},
        DTypeError,
        "cell_clip is of type str, expected a number or None.",
    ),
    (
        "gru",
        {"clip_state_gradient": 0},
        ArgumentError,
        "clip_state_gradient is 0, expected a finite number above 0, or None for no bound.",
    ),
    (
        "gru",
        {"clip_state_gradient": float("nan")},
        ArgumentError,
        "clip_state_gradient is nan, expected a finite number above 0, or None for no bound.",
    ),
    (
        "gru",
        {"zoneout": (0.1, 0.2)},
        DTypeError,
        "zoneout is a tuple of 2, expected a number or a tuple, one per state of the gru cell, "
        "(p_h,).",
    ),
    (
        "lstm",
        {"zoneout": [0.1, 0.2]},
        DTypeError,
        "zoneout is a list of 2, expected a number or a tuple, one per state of the lstm cell, "
        "(p_h, p_c).",
    ),
    (
        "lstm",
        {"zoneout": (0.1,)},
        DTypeError,
        "zoneout is a tuple of 1, expected a number or a tuple, one per state of the lstm cell, "
        "(p_h, p_c).",
    ),
    ("lstm", {"zoneout": (0.1, 1.5)}, ArgumentError, "zoneout is 1.5, expected 0 <= zoneout <= 1."),
    (
        "gru",
        {"weight_drop": -0.1},
        ArgumentError,
        "weight_drop is -0.1, expected 0 <= weight_drop <= 1.",
    ),
    ("gru", {"weight_drop": True}, DTypeError, "weight_drop is of type bool, expected a number."),
    (
        "gru",
        {"recurrent_dropout": "a"},
        DTypeError,
        "recurrent_dropout is of type str, expected a number.",
    ),
    (
        "gru",
        {"recurrent_dropout": float("nan")},
        ArgumentError,
        "recurrent_dropout is nan, expected 0 <= recurrent_dropout <= 1.",
    ),
    (
        "gru",
        {"recurrent_dropout_mode": "batch"},
        ArgumentError,
        'recurrent_dropout_mode is \'batch\', expected "sequence" or "step".',
    ),
]


@pytest.mark.parametrize(("cell", "given", "error", "text"), CELL)
def test_settings_in_words(
    device: str, cell: str, given: dict[str, Any], error: Any, text: str
) -> None:
    G = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    args = (zeros(T, B, I), zeros(G * H, I), zeros(G * H, H))
    for suffix in ("", "_forward"):
        function = getattr(rnnfast, cell + suffix)
        refused(error, f"rnnfast.{cell}{suffix}: {text}", function, *args, device=device, **given)
    who = f"rnnfast.{cell.upper()}"
    refused(error, f"{who}: {text}", layer, cell.upper(), **given)
    plain = layer(cell.upper())
    (name,) = given
    before = getattr(plain, name)
    refused(error, f"{who}: {text}", setattr, plain, name, given[name])
    assert getattr(plain, name) == before


def test_switches_in_words() -> None:
    text = "rnnfast.GRU: residual is of type int, expected bool."
    refused(DTypeError, text, layer, "GRU", residual=1)
    text = "rnnfast.lstm: training is of type int, expected bool."
    refused(DTypeError, text, run_lstm, zeros(T, B, I), "numpy", training=1)
    gru, x = rnnfast.GRU(3, 4, seed=0), np.zeros((2, 1, 3), np.float32)
    _, _, tape = gru.forward(x)
    row = gru.parameters.rows[0][0]
    _, _, tape_of_function = rnnfast.gru_forward(x, *row)
    for wrong, kind in ((1, "int"), (np.zeros(3), "ndarray"), ("no", "str")):
        text = f"is of type {kind}, expected bool."
        refused(DTypeError, f"rnnfast.GRU.forward: training {text}", gru.forward, x, training=wrong)
        refused(DTypeError, f"rnnfast.GRU: return_states {text}", gru, x, return_states=wrong)
        refused(DTypeError, f"rnnfast.gru: reverse {text}", rnnfast.gru, x, *row, reverse=wrong)
        backward = gru.backward, tape, np.zeros((2, 1, 4), np.float32)
        refused(DTypeError, f"rnnfast.GRU.backward: need_dx {text}", *backward, need_dx=wrong)
        backward = rnnfast.gru_backward, tape_of_function, *backward[2:]
        refused(DTypeError, f"rnnfast.gru_backward: need_dx {text}", *backward, need_dx=wrong)


# Random numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"seed": -1}, ArgumentError, "seed is -1, expected 0 <= seed < 2**64."),
        ({"seed": "1"}, DTypeError, "seed is of type str, expected int."),
        ({"t0": 2**32}, ArgumentError, "t0 is 4294967296, expected 0 <= t0 < 2**32."),
        (
            {"row_ids": [0, 1, 2]},
            DTypeError,
            "row_ids is of type list, expected a NumPy array. Use np.asarray(row_ids).",
        ),
        (
            {"row_ids": np.zeros(3)},
            DTypeError,
            "row_ids is float64, expected integers. Use row_ids.astype(np.int64).",
        ),
        (
            {"row_ids": np.ma.array([0, 1, 2], mask=[0, 1, 0])},
            DTypeError,
            "row_ids is a masked array, and its mask would be ignored. Use row_ids.filled(value).",
        ),
        (
            {"row_ids": np.zeros((3, 1), int)},
            ShapeError,
            "row_ids has shape (3, 1), expected (B,) = (3,); B=3 from x.",
        ),
        (
            {"row_ids": np.array([0, 2**32, 1])},
            ArgumentError,
            "row_ids holds 4294967296 at [1], expected 0 <= row_ids < 2**32.",
        ),
        (
            {"row_ids": np.array([0, 1, -1])},
            ArgumentError,
            "row_ids holds -1 at [2], expected 0 <= row_ids < 2**32.",
        ),
    ],
)
@pytest.mark.parametrize("option", ["recurrent_dropout", "zoneout", "weight_drop"])
def test_draws_in_words(
    device: str, option: str, given: dict[str, Any], error: Any, text: str
) -> None:
    x = zeros(T, B, I)
    refused(error, f"rnnfast.lstm: {text}", run_lstm, x, device, **{option: 0.5}, **given)
    call = layer("LSTM", device, **{option: 0.5}).forward
    who = "rnnfast.LSTM" if "row_ids" in given else "rnnfast.LSTM.forward"
    refused(error, f"{who}: {text}", call, x, training=True, **given)


def test_rows_of_other_forms_in_words(device: str) -> None:
    call = layer("GRU", device, zoneout=0.5).forward
    text = "rnnfast.GRU: row_ids has shape (4,), expected (B,) = ({0},); B={0} from {1}."
    for dtype in (np.int64, np.uint32):
        given = {"training": True, "row_ids": np.arange(4, dtype=dtype)}
        refused(ShapeError, text.format(1, "x"), call, zeros(T, I), **given)
        flat = {"cu_seqlens": ENDS, **given}
        refused(ShapeError, text.format(2, "cu_seqlens"), call, zeros(12, I), **flat)


# Gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dstates", "error", "text"),
    [
        (
            (1, 2, 3),
            DTypeError,
            "dstates is of type tuple, expected rnnfast.States(h, c, gates), in which an entry may "
            "be None.",
        ),
        (
            States(h=zeros(2, T, B, 8)),
            ShapeError,
            "dstates.h has shape (2, 5, 3, 8), expected (D*L, T, B, H) = (2, 5, 3, 7); D=1 from "
            "bidirectional, L=2 from num_layers, T=5 from the tape, B=3 from the tape, H=7 from "
            "hidden_size.",
        ),
        (
            States(gates=zeros(2, T, B, 4, H)),
            ShapeError,
            "dstates.gates has shape (2, 5, 3, 4, 7), expected (D*L, T, B, G, H) = (2, 5, 3, 3, 7);"
            " D=1 from bidirectional, L=2 from num_layers, T=5 from the tape, B=3 from the tape, "
            "H=7 from hidden_size, G=3 from the cell.",
        ),
        (
            States(h=zeros(2, T, B, H, dtype=np.float32)),
            DTypeError,
            "the layer is float64 but dstates.h is float32; all arrays must share one dtype. "
            'Use dstates.h.astype("float64").',
        ),
        (
            States(c=zeros(2, T, B, H)),
            ArgumentError,
            "dstates.c is given, expected None: the gru cell has no cell state.",
        ),
    ],
)
def test_gradients_into_states_in_words(device: str, dstates: Any, error: Any, text: str) -> None:
    stack = layer("GRU", device, num_layers=2)
    _, _, tape = stack.forward(zeros(T, B, I))
    refused(error, f"rnnfast.GRU.backward: {text}", stack.backward, tape, dstates=dstates)


def test_gradients_of_a_flat_call_in_words(device: str) -> None:
    _, _, tape = run_lstm(zeros(12, I), device, "lstm_forward", cu_seqlens=ENDS)
    text = (
        "rnnfast.lstm_backward: {} has shape (11, 7), expected (N, H) = (12, 7); N=12 from the "
        "tape, H=7 from the tape."
    )
    refused(ShapeError, text.format("dy"), rnnfast.lstm_backward, tape, zeros(11, H))
    dstates = States(c=zeros(11, H))
    refused(ShapeError, text.format("dstates.c"), rnnfast.lstm_backward, tape, dstates=dstates)


# Names -------------------------------------------------------------------------------------------

PLAIN = "lengths, mask, cu_seqlens, reset, reset_state, pad_output"
SETTINGS = (
    "recurrent_dropout, recurrent_dropout_mode, zoneout, weight_drop, cell_clip, "
    "clip_state_gradient"
)


def test_what_is_no_option(device: str) -> None:
    x, gru = zeros(T, B, I), layer("GRU", device)
    text = f"rnnfast.GRU: no option 'length'; there are {PLAIN}, reset_to."
    for call in (gru, gru.prepare()):
        refused(TypeError, text, call, x, length=np.array([1, 2, 3]))
    text = f"rnnfast.GRU: no option 'burn_in'; there are {PLAIN}, reset_to."
    refused(TypeError, text, gru, x, burn_in=1)
    text = f"rnnfast.GRU.forward: no option 'zoneout'; there are {PLAIN}, reset_to, burn_in, tbptt."
    refused(TypeError, text, gru.forward, x, zoneout=0.1)
    text = (
        f"rnnfast.GRU: no option 'zone_out'; there are {SETTINGS}, residual, initial_state, dtype, "
        "seed, device."
    )
    refused(TypeError, text, layer, "GRU", zone_out=0.1)
    last = "seed, t0, row_ids, training"
    text = f"rnnfast.lstm: no option 'reset_to'; there are {PLAIN}, {SETTINGS}, {last}."
    refused(TypeError, text, run_lstm, x, device, reset_to="zero")
    last += ", burn_in, tbptt"
    text = f"rnnfast.lstm_forward: no option 'a'; there are {PLAIN}, {SETTINGS}, {last}."
    refused(TypeError, text, run_lstm, x, device, "lstm_forward", a=1)


def test_every_option_is_documented_once() -> None:
    """Each key of a set of options has a string below it that names what it raises."""
    tree = ast.parse(inspect.getsource(options))
    seen: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node)
            keys = [entry for entry in node.body if isinstance(entry, ast.AnnAssign)]
            for key in keys:
                below = node.body[node.body.index(key) + 1]
                assert isinstance(below, ast.Expr), (node.name, key.target.id)
                # A layer's seed, which is refused by NumPy, is another than a call's.
                if (node.name, key.target.id) != ("LayerOptions", "seed"):
                    assert "Raises" in below.value.value, key.target.id
                    assert key.target.id not in seen
                seen.add(key.target.id)
    assert set(options.LayerForwardOptions.__annotations__) <= seen
    assert set(options.FunctionForwardOptions.__annotations__) <= seen
    assert sorted(options.__all__) == sorted(
        node.name for node in tree.body if isinstance(node, ast.ClassDef)
    )
