"""What the tests of `rnnfast.torch` share: our module beside PyTorch's, and how they are judged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import yardstick
from torch.nn.utils.rnn import PackedSequence

import rnnfast.torch as ours

KINDS = {
    "rnn": ("RNN", {}),
    "relu-rnn": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
}


def pair(kind: str, *args: Any, suffix: str = "", **options: Any) -> tuple[Any, Any]:
    """Our module and PyTorch's, with the same weights."""
    name, own = KINDS[kind]
    torch.manual_seed(1)
    mine = getattr(ours, name + suffix)(*args, **own, **options)
    theirs = getattr(torch.nn, name + suffix)(*args, **own, **options)
    theirs.load_state_dict(mine.state_dict(), strict=True)
    return mine, theirs


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors with gradients in a result."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, (tuple, list)):
        return [t for entry in value for t in tensors_in(entry)]
    return [] if value is None else [value]


def draw(shape: Any, seed: int, dtype: torch.dtype = torch.float64, grad: bool = True) -> Any:
    """Draw a leaf whose numbers are exact in float32."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return torch.tensor(values, dtype=dtype, requires_grad=grad)


def results(module: Any, inputs: list[torch.Tensor], call: Any) -> dict[str, torch.Tensor]:
    """Outputs of ``call(module, *inputs)`` and the gradients of inputs and parameters, by name."""
    torch.manual_seed(3)
    out = tensors_in(call(module, *inputs))
    into = [draw(t.shape, 100 + k, t.dtype, False) for k, t in enumerate(out)]
    names = [f"input {k}" for k in range(len(inputs))]
    names += [name for name, _ in module.named_parameters()]
    gradients = torch.autograd.grad(out, [*inputs, *module.parameters()], into)
    named = {f"output {k}": t.detach() for k, t in enumerate(out)}
    return named | dict(zip(names, gradients, strict=True))


def close(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Two float64 computations of one function: a few hundred roundings apart at most."""
    assert list(mine) == list(theirs)
    for name, expected in theirs.items():
        assert mine[name].shape == expected.shape, name
        assert mine[name].dtype == expected.dtype, name
        scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        torch.testing.assert_close(mine[name], expected, rtol=0, atol=1e-12 * scale, msg=name)


def judge(mine: dict[str, Any], plain: dict[str, Any], ref: dict[str, Any], width: int) -> None:
    """Judge float32 results by the yardstick, stock's in float32 and float64 beside them."""
    assert list(mine) == list(ref)
    for name, expected in ref.items():
        arrays = (r[name].detach().numpy() for r in (mine, plain))
        yardstick.check(name, *arrays, expected.detach().numpy(), width=width)


def stock_result(call: Callable[[], Any]) -> Any:
    """What PyTorch's own layer gives; the test is skipped where this CPU is not enough for it."""
    try:
        return call()
    except RuntimeError as error:
        if "could not create a primitive" not in str(error):
            raise
        pytest.skip(f"PyTorch's own layer does not run on this CPU: {error}")


def words(module: Any, *args: Any) -> tuple[type, str]:
    """What a call raises, and its words."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever stock raises
        module(*args)
    return caught.type, str(caught.value)


@contextlib.contextmanager
def taken(way: str, n: int = 1) -> Iterator[None]:
    """Assert that what runs here takes this way, n times, and no other."""
    before = ours.dispatch_counts()
    yield
    after = ours.dispatch_counts()
    came = {key: after[key] - before[key] for key in after}
    assert came == {"fused": 0, "composed": 0, "stock": 0} | {way: n}, ours.last_reason()
