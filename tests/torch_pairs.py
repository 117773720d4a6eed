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


# How far two float64 computations of one function may be apart, by the largest number or by 1.
# There is no wider third that PyTorch could run; that the kernels are right to the last bits in
# float64 too is for test_kernels.py to say, which has long double. This is 4500 roundings: more
# than the sums of these few terms over these few steps cost in any order, and less than a 50000th
# of what one number rounded to float32 costs.
FLOAT64 = 1e-12


def pair(
    kind: str, *args: Any, suffix: str = "", into: str = "theirs", **options: Any
) -> tuple[Any, Any]:
    """Our module and PyTorch's, with the same weights, which were loaded `into` one of them."""
    name, own = KINDS[kind]
    torch.manual_seed(1)
    mine = getattr(ours, name + suffix)(*args, **own, **options)
    theirs = getattr(torch.nn, name + suffix)(*args, **own, **options)
    giver, taker = {"theirs": (mine, theirs), "ours": (theirs, mine)}[into]
    taker.load_state_dict(giver.state_dict(), strict=True)
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


def alike(mine: torch.Tensor, theirs: torch.Tensor, name: str = "result") -> None:
    """Two float64 computations of one tensor."""
    assert mine.shape == theirs.shape, name
    assert mine.dtype == theirs.dtype == torch.float64, name
    scale = max(1.0, float(theirs.detach().abs().max())) if theirs.numel() else 1.0
    torch.testing.assert_close(mine, theirs, rtol=0, atol=FLOAT64 * scale, msg=name)


def close(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Two float64 computations of one function."""
    assert list(mine) == list(theirs)
    for name, expected in theirs.items():
        alike(mine[name], expected, name)


def judge(mine: dict[str, Any], plain: dict[str, Any], ref: dict[str, Any], width: int) -> None:
    """Judge float32 results by the yardstick, stock's in float32 and float64 beside them."""
    assert list(mine) == list(ref)
    for name, expected in ref.items():
        arrays = (r[name].detach().numpy() for r in (mine, plain))
        yardstick.check(name, *arrays, expected.detach().numpy(), width=width)


def runs_again(module: Any, inputs: list[Any], call: Any, first: dict[str, Any]) -> None:
    """Run what ran once, with and without gradients: a shorter road finds what the first left."""
    with taken("fused"):
        again = results(module, inputs, call)
    torch.manual_seed(3)
    with torch.no_grad(), taken("fused"):
        out = tensors_in(call(module, *inputs))
    again |= {f"plain output {k}": t for k, t in enumerate(out)}
    for key, value in again.items():
        assert torch.equal(value, first[key.removeprefix("plain ")]), key


def in_both(
    kind: str,
    sizes: tuple[int, int],
    shapes: list[Any],
    call: Any,
    *args: Any,
    draws: int = 1,
    **options: Any,
) -> None:
    """Compare a module of `sizes` (I, H) with PyTorch's, on inputs drawn in these shapes.

    Runs in float64 are compared with each other, and those in float32 by the yardstick, which
    judges several `draws` as one. Further arguments are those of `pair`.
    """
    made: dict[Any, Any] = {}
    weights = None
    for dtype in (torch.float32, torch.float64):
        mine, theirs = pair(kind, *sizes, *args, dtype=dtype, **options)
        if weights is not None:
            # The float32 weights in float64.
            for module in (mine, theirs):
                module.load_state_dict(weights)
        weights = {k: v.double() for k, v in mine.state_dict().items()}
        for name, module in (("mine", mine), ("theirs", theirs)):
            runs = []
            for seed in range(0, 1000 * draws, 1000):
                inputs = [draw(shape, seed + k, dtype) for k, shape in enumerate(shapes)]
                with taken("fused", int(name == "mine")):
                    runs.append(results(module, inputs, call))
                if name == "mine":
                    runs_again(module, inputs, call, runs[-1])
            made[name, dtype] = {key: torch.stack([r[key] for r in runs], -1) for key in runs[0]}
    close(made["mine", torch.float64], made["theirs", torch.float64])
    judge(
        made["mine", torch.float32],
        made["theirs", torch.float32],
        made["theirs", torch.float64],
        sum(sizes),
    )


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
def taken(way: str, n: int = 1, **others: int) -> Iterator[None]:
    """Assert that what runs here takes this way, n times, and no other but those `others`."""
    before = ours.dispatch_counts()
    yield
    after = ours.dispatch_counts()
    came = {key: after[key] - before[key] for key in after}
    expected = {"fused": 0, "composed": 0, "stock": 0} | {way: n} | others
    assert came == expected, ours.last_reason()
