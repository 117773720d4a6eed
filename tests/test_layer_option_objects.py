"""Copies and attributes of layers with options, and what they pass on to the back end."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from layer_problems import LENGTHS, B, H, I, T, build, draw, equal, marks
from problems import make

import rnnfast
from rnnfast._scan_options import ScanOptions
from rnnfast.reference import engine

# The object --------------------------------------------------------------------------------------

EVERYTHING = {
    "num_layers": 2,
    "dropout": 0.5,
    "recurrent_dropout": 0.25,
    "recurrent_dropout_mode": "step",
    "zoneout": (0.1, 0.2),
    "weight_drop": 0.3,
    "residual": True,
    "cell_clip": 3.0,
    "clip_state_gradient": 1.5,
}


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_copies_have_the_options(device: str, copied: Any) -> None:
    layer = build("lstm", device, **EVERYTHING)
    layer.zoneout = 0.125
    twin = copied(layer)
    assert repr(twin) == repr(layer)
    x, drawn = draw(T, B, I), {"training": True, "seed": 1}
    y, last, tape = layer.forward(x, **drawn)
    y2, last2, tape2 = twin.forward(x, **drawn)
    equal((y2, last2), (y, last))
    equal(twin.backward(tape2, y), layer.backward(tape, y))
    twin.weight_drop = 0.0
    assert layer.weight_drop == 0.3
    equal(layer.forward(x, **drawn)[0], y)
    assert not np.array_equal(twin.forward(x, **drawn)[0], y)


def test_repr_and_attributes() -> None:
    layer = rnnfast.LSTM(3, 5, device="numpy", **EVERYTHING)
    assert repr(layer) == (
        "LSTM(3, 5, num_layers=2, dropout=0.5, recurrent_dropout=0.25, "
        "recurrent_dropout_mode='step', zoneout=(0.1, 0.2), weight_drop=0.3, residual=True, "
        "cell_clip=3.0, clip_state_gradient=1.5, device='numpy')"
    )
    for name, value in EVERYTHING.items():
        assert getattr(layer, name) == value
    layer.zoneout = 0.0
    layer.cell_clip = None
    assert "zoneout" not in repr(layer)
    assert "cell_clip" not in repr(layer)
    with pytest.raises(
        rnnfast.ArgumentError, match=r"rnnfast.LSTM: zoneout is 2, expected 0 <= zon"
    ):
        layer.zoneout = 2
    assert layer.zoneout == 0.0
    with pytest.raises(rnnfast.ArgumentError, match="cell_clip is -1, expected a finite number"):
        layer.cell_clip = -1
    assert isinstance(rnnfast.LSTM.zoneout.__doc__, str)


def test_a_prepared_layer_has_options_of_its_own(device: str) -> None:
    layer = build("lstm", device, num_layers=2, zoneout=0.2, learn=True, cell_clip=0.3)
    prepared, x = layer.prepare(), draw(T, B, I)
    given = {"lengths": LENGTHS, "reset": marks(0.4, 3), "reset_to": "learned"}
    expected = layer(x, **given)
    equal(prepared(x, **given), expected)
    layer.zoneout, layer.cell_clip = 0.0, None
    assert not np.array_equal(layer(x, **given)[0], expected[0])
    equal(prepared(x, **given), expected)
    text = "rnnfast.LSTM: return_states is given to a prepared layer, which keeps nothing of a call"
    with pytest.raises(TypeError, match=text):
        prepared(x, return_states=True)


def test_setting_an_option_takes_the_quick_road_away_and_gives_it_back(device: str) -> None:
    layer, x = build("gru", device), draw(T, B, I)
    plain, _ = layer(x)
    layer.zoneout = 0.4
    assert not np.array_equal(layer(x)[0], plain)
    layer.zoneout = 0.0
    equal(layer(x)[0], plain)


ENDS = np.concatenate([[0], np.cumsum(LENGTHS)])
SHORT_ROADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "learned": ({"initial_state": "learned"}, {}),
    "reset": ({}, {"reset": marks(0.3, 1)}),
    "reset_state": ({}, {"reset": marks(0.3, 1), "reset_state": draw(1, T, B, H)}),
    "reset_to": ({"initial_state": "learned"}, {"reset": marks(0.3, 1), "reset_to": "learned"}),
    "mask": ({}, {"mask": marks(0.7, 1), "pad_output": "hold"}),
    "lengths": ({"zoneout": 0.2}, {"lengths": LENGTHS, "burn_in": 1, "tbptt": 2}),
    "flat": ({}, {"cu_seqlens": ENDS}),
    "flat, all": (
        {"initial_state": "learned", "recurrent_dropout": 0.25},
        {
            "cu_seqlens": ENDS,
            "reset": marks(0.3, 1).ravel()[: ENDS[-1]],
            "reset_to": "learned",
            "t0": 3,
        },
    ),
}


@pytest.mark.parametrize("options", SHORT_ROADS)
def test_the_short_road_gives_what_the_long_one_gives(options: str) -> None:
    config, call = SHORT_ROADS[options]
    x = draw(ENDS[-1], I) if "cu_seqlens" in call else draw(T, B, I)
    drawn = config.keys() & {"zoneout", "recurrent_dropout"}
    random = {"training": True, "seed": 1} if drawn else {}
    results = []
    for core in ("kept", None):
        layer = rnnfast.GRU(I, H, seed=0, dtype=np.float64, **config)
        if core is None:
            layer._stack._core = layer._stack._quick = None
        else:
            if layer._stack._core is None:
                pytest.skip("the compiled module is absent")
            layer._stack._checker = None  # whoever checks at leisure falls over it
        if config.get("initial_state") == "learned":
            layer.h_0[:] = draw(1, H)
        y, last, tape = layer.forward(x, **call, **random)
        results.append((y, last, layer.backward(tape, np.cos(y), np.sin(last))))
    equal(*results)


def test_return_states(device: str) -> None:
    layer = build("lstm", device, num_layers=2, bidirectional=True)
    x, given = draw(T, B, I), {"lengths": LENGTHS}
    for options in ({}, given):
        y, state, states = layer(x, return_states=True, **options)
        equal((y, state), layer(x, **options))
        equal(states, layer.forward(x, **options)[2].states())
        assert states.h.shape == states.c.shape == (4, T, B, H)
        assert states.gates.shape == (4, T, B, 4, H)
        equal(np.concatenate([states.h[2], states.h[3]], -1), y)


# What reaches the back end ------------------------------------------------------------------------


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[ScanOptions | None]:
    """The options of every call of the NumPy back end, in order."""
    seen: list[ScanOptions | None] = []
    forward = engine.forward

    def recording(*args: Any) -> Any:
        seen.append(args[7] if len(args) > 7 else None)
        return forward(*args)

    monkeypatch.setattr(engine, "forward", recording)
    return seen


def fields(scan: ScanOptions | None) -> dict[str, Any]:
    """Those that differ from a plain call, arrays as lists."""
    if scan is None:
        return {}
    plain = ScanOptions()._asdict()
    listed = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in scan._asdict().items()
    }
    return {name: value for name, value in listed.items() if value != plain[name]}


SETTINGS = {
    "recurrent_dropout": 0.25,
    "recurrent_dropout_mode": "step",
    "zoneout": 0.125,
    "weight_drop": 0.5,
    "cell_clip": 3,
    "clip_state_gradient": 2,
}
ALWAYS = {"zoneout": (0.125, 0.125), "cell_clip": 3.0}
DRAWN = {
    "recurrent_dropout": 0.25,
    "per_step": True,
    "weight_drop": 0.5,
    "training": True,
    "seed": 9,
    "t0": 4,
    "row_ids": [3, 1],
}


def test_what_a_function_passes_on(received: list[ScanOptions | None]) -> None:
    p = make("lstm", 3, 2, I, H)
    drawn = {"seed": 9, "t0": 4, "row_ids": np.array([3, 1])}
    run = {"device": "numpy", **SETTINGS, **drawn}
    rnnfast.lstm(p.x, *p.row, **run)
    p.forward(**run, burn_in=1, tbptt=2)
    p.forward(**run, training=False, reverse=True)
    p.forward(device="numpy", recurrent_dropout=0.5, seed=1)
    p.forward(device="numpy", lengths=np.array([3, 1], np.int16), pad_output="hold")
    clip = {"gradient_clip": 2.0}
    assert [fields(scan) for scan in received] == [
        ALWAYS | DRAWN,
        ALWAYS | DRAWN | clip | {"burn_in": 1, "tbptt": 2},
        ALWAYS | clip | {"reverse": True},
        {"recurrent_dropout": 0.5, "seed": 1},
        {"lengths": [3, 1], "hold": True},
    ]
    for scan in received:
        for value in scan:
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous
    assert received[0].row_ids.dtype == np.uint32
    assert received[-1].lengths.dtype == np.int64


def test_what_a_layer_passes_on(received: list[ScanOptions | None]) -> None:
    layer = build("lstm", "numpy", num_layers=2, **SETTINGS)
    x, drawn = draw(3, 2, I), {"seed": 9, "t0": 4, "row_ids": np.array([3, 1])}
    layer(x)
    layer.forward(x)
    layer.forward(x, training=True, **drawn, burn_in=1, tbptt=2)
    clip = {"gradient_clip": 2.0}
    training = ALWAYS | DRAWN | clip | {"burn_in": 1, "tbptt": 2}
    assert [fields(scan) for scan in received] == [
        ALWAYS,
        ALWAYS | {"layer": 1},
        ALWAYS | clip,
        ALWAYS | clip | {"layer": 1},
        training,
        training | {"layer": 1},
    ]


def test_nothing_is_passed_on_for_nothing(received: list[ScanOptions | None]) -> None:
    """Dropout between layers, and bounds of a gradient without a tape, are none of its business."""
    layer = build("gru", "numpy", num_layers=2, dropout=0.5, residual=True, clip_state_gradient=1)
    layer(draw(3, 2, I), pad_output="zero", reset_to="zero", return_states=False)
    layer.clip_state_gradient = None
    layer.forward(draw(3, 2, I), training=True)
    p = make("gru", 3, 2, I, H)
    p.forward(device="numpy", zoneout=0.0, recurrent_dropout=0, seed=4, reverse=True)
    assert received == [None] * 5
