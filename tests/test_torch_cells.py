"""`rnnfast.torch`'s cells where their input lies otherwise in memory, or is of another kind; what
they share with the layers stands beside those in test_torch_modules.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402

import rnnfast.torch as ours  # noqa: E402

kinds = pytest.mark.parametrize("kind", list(pairs.KINDS))
B, I, H = 4, 5, 8


def transposed(t: Any) -> Any:
    return t.t().contiguous().t()


def strided(t: Any) -> Any:
    return torch.stack([t, t], -1).flatten(-2)[..., ::2]


def sliced(t: Any) -> Any:
    return torch.cat([t, t], -1)[:, : t.shape[1]]


def every_other_row(t: Any) -> Any:
    return torch.cat([t, t])[1::2]


def expanded(t: Any) -> Any:
    return t[:1].expand(B, -1)


def one_number(t: Any) -> Any:
    return t[0, 0].expand(t.shape)


def negative_bit(t: Any) -> Any:
    negative = torch.complex(t, t).conj().imag
    assert negative.is_neg()
    return negative


VIEWS = [transposed, strided, sliced, every_other_row, expanded, one_number, negative_bit]


@kinds
@pytest.mark.parametrize("view", VIEWS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("of", ["x", "state"])
def test_non_contiguous_inputs(kind: str, view: Callable[[Any], Any], of: str) -> None:
    n = 2 if kind == "lstm" else 1

    def call(m: Any, x: Any, *states: Any) -> Any:
        given = view(x if of == "x" else states[0])
        assert not given.is_contiguous() or given.is_neg()
        x, states = (given, states) if of == "x" else (x, (given, *states[1:]))
        return m(x, states if n == 2 else states[0])

    pairs.in_both(kind, (I, H), [(B, I), *[(B, H)] * n], call, suffix="Cell")


@kinds
def test_a_single_row_and_an_unbatched_one_are_the_same(kind: str) -> None:
    cell, _ = pairs.pair(kind, I, H, suffix="Cell")
    x, h = torch.randn(1, I), torch.randn(1, H)
    state, row = ((h, h), (h[0], h[0])) if kind == "lstm" else (h, h[0])
    with pairs.taken("fused", 2):
        batched, unbatched = pairs.tensors_in(cell(x, state)), pairs.tensors_in(cell(x[0], row))
    for a, b in zip(batched, unbatched, strict=True):
        assert torch.equal(a[0], b)


@kinds
def test_sparse_input_is_stock_s(kind: str) -> None:
    mine, theirs = pairs.pair(kind, I, H, suffix="Cell")
    x = torch.randn(B, I)
    mine(x)  # so that its weights are known
    with pairs.taken("stock"):
        found = pairs.tensors_in(mine(x.to_sparse()))
    assert ours.last_reason() == "a sparse or nested tensor"
    for a, b in zip(found, pairs.tensors_in(theirs(x.to_sparse())), strict=True):
        assert torch.equal(a, b)
