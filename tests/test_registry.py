"""The registry of cells: equal to the C++ table, complete, and right about other systems' gate
orders."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from conftest import require

import rnnfast
from rnnfast.cells import CELLS, find

DOCS = Path(__file__).resolve().parent.parent / "docs" / "cells"


def test_rows_equal_the_compiled_table() -> None:
    core = require("core")
    rows = [
        {
            "name": spec.name,
            "gates": list(spec.gates),
            "states": list(spec.states),
            "tape": list(spec.tape),
        }
        for spec in CELLS.values()
    ]
    assert rows == list(core.cells())


@pytest.mark.parametrize("name", list(CELLS))
def test_a_cell_is_complete(name: str) -> None:
    spec = CELLS[name]
    assert spec.name == name
    assert (len(spec.gates), len(spec.states)) == (spec.G, spec.S)
    for suffix in ("", "_forward", "_backward"):
        assert callable(getattr(rnnfast, spec.function + suffix))
        assert callable(getattr(rnnfast.reference, spec.function + suffix))
    module = importlib.import_module(f"rnnfast.reference.{spec.function}")
    assert callable(module.forward)
    assert callable(module.backward)
    layer = getattr(rnnfast, spec.function.upper())(3, 4, **spec.options, device="numpy")
    assert layer.cell == name
    assert (DOCS / f"{spec.function}.md").is_file()
    assert find(spec.function, **spec.options) is spec


@pytest.mark.parametrize("name", list(CELLS))
def test_the_reference_keeps_the_slots_of_the_tape(name: str) -> None:
    spec = CELLS[name]
    layer = getattr(rnnfast, spec.function.upper())(3, 4, **spec.options, device="numpy")
    _, _, tape = layer.forward(np.zeros((2, 1, 3), np.float32))
    (kept,) = tape._kept[0].kept
    assert len(kept.slots) == len(spec.tape)
    assert len(kept.states) == spec.S


@pytest.mark.parametrize("name", list(CELLS))
def test_gates_fill_their_ranges_and_no_more(name: str) -> None:
    spec = CELLS[name]
    options = {**spec.options, "dtype": "float64", "device": "numpy", "seed": 0}
    layer = getattr(rnnfast, spec.function.upper())(1, 50, **options)
    x = np.linspace(-99, 99, 100)[:, None, None]
    *_, states = layer(x, return_states=True)
    assert len(spec.ranges) == spec.G
    for g, (low, high) in enumerate(spec.ranges):
        gate = states.gates[:, :, :, g]
        assert low <= gate.min() < low + 0.01
        assert 0.99 * min(high, 2) < gate.max() <= high


@pytest.mark.parametrize(
    ("cell", "system", "letters"),
    [
        ("lstm", "pytorch", "ifgo"),
        ("lstm", "keras", "ifgo"),
        ("lstm", "onnx", "iofg"),
        ("lstm", "haste", "igfo"),
        ("lstm", "cs231n", "ifog"),
        ("gru", "pytorch", "rzn"),
        ("gru", "keras", "zrn"),
        ("gru", "onnx", "zrn"),
        ("rnn_relu", "onnx", "h"),
    ],
)
def test_permutations_to_other_systems(cell: str, system: str, letters: str) -> None:
    spec = CELLS[cell]
    ours = np.array(spec.gates)
    assert "".join(ours[list(spec.permutation(system))]) == letters


@pytest.mark.parametrize("name", list(CELLS))
def test_every_order_has_every_gate_once(name: str) -> None:
    spec = CELLS[name]
    for system in spec.orders:
        assert sorted(spec.permutation(system)) == list(range(spec.G)), system


def test_unknown_names() -> None:
    with pytest.raises(KeyError, match="no gate order of 'theano' for lstm; known: cs231n, cudnn"):
        CELLS["lstm"].permutation("theano")
    with pytest.raises(KeyError, match="no cell 'rnn' with options"):
        find("rnn", nonlinearity="sine")
