"""The shortest road of `rnnfast.torch`: what it takes, what it leaves to the general one, and what
it makes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from typing import Any

import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import rnnfast  # noqa: E402
import rnnfast.torch as ours  # noqa: E402
from rnnfast import _core  # noqa: E402
from rnnfast.torch import _weights  # noqa: E402

pytestmark = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
    reason="this PyTorch has no functions for the exchange of tensors; 2.10 has",
)
kinds = pytest.mark.parametrize("kind", list(pairs.KINDS))
T, B, I, H = 3, 2, 5, 8


class Spy:
    """In the place of a layer's stack: what it was given, and what it answered."""

    def __init__(self, layer: Any) -> None:
        self.kept = _weights.kept_of(layer)
        self.stack = self.kept.stack
        self.kept.stack = self
        self.answers: list[Any] = []
        self.given: tuple[Any, ...] = ()

    def run(self, *args: Any) -> Any:
        self.given = args
        self.answers.append(self.stack.run(*args))
        return self.answers[-1]


def tensors(kind: str, dtype: Any = torch.float32, rows: int = 1) -> tuple[Any, Any]:
    """Draw x and hx."""
    n = 2 if kind == "lstm" else 1
    states = tuple(pairs.draw((rows, B, H), k + 1, dtype, False) for k in range(n))
    return pairs.draw((T, B, I), 0, dtype, False), states if n == 2 else states[0]


def known(kind: str = "lstm", *args: Any, **options: Any) -> tuple[Any, Spy]:
    """A layer whose weights have been seen, and its spy."""
    layer, _ = pairs.pair(kind, I, H, *args, **options)
    with torch.no_grad():
        layer(torch.zeros(T, B, I, dtype=layer.weight_ih_l0.dtype))
    return layer, Spy(layer)


# What it takes -----------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("L", "D"), [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_bits_are_those_of_the_general_road(
    kind: str, dtype: Any, batch_first: bool, given: bool, L: int, D: int, bias: bool
) -> None:
    layer, spy = known(
        kind, L, bias=bias, bidirectional=D == 2, batch_first=batch_first, dtype=dtype
    )
    x, hx = tensors(kind, dtype, L * D)
    if batch_first:
        x = x.transpose(0, 1).contiguous()
    if not given:
        hx = None
    with torch.no_grad(), pairs.taken("fused", 2):
        found = layer(x, hx)
        expected = layer._forward_eager(x, hx, {})
    assert type(spy.answers[-1]) is tuple
    assert type(found[1]) is type(expected[1])
    for a, b in zip(pairs.tensors_in(found), pairs.tensors_in(expected), strict=True):
        assert type(a) is torch.Tensor
        assert torch.equal(a, b)
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert not a.requires_grad


@kinds
def test_it_is_taken_with_gradients_too(kind: str) -> None:
    layer, spy = known(kind)
    x, hx = tensors(kind)
    layer(x, hx)[0].sum().backward()
    assert spy.answers == [True]
    layer.requires_grad_(False)
    assert not layer(x, hx)[0].requires_grad
    assert type(spy.answers[-1]) is tuple
    for t in (x, *pairs.tensors_in(hx)):
        t.requires_grad_()
        assert layer(x, hx)[0].requires_grad
        assert spy.answers[-1] is True
        with torch.no_grad():
            assert not layer(x, hx)[0].requires_grad
        t.requires_grad_(False)


def test_only_dense_sizes_count_for_strides() -> None:
    layer, spy = known()
    x = torch.randn(T, 1, I)
    with torch.no_grad():
        layer(x.as_strided((T, 1, I), (I, 777, 1)))
        assert type(spy.answers[-1]) is tuple


def test_each_call_asks_for_pytorch_s_threads() -> None:
    layer, spy = known()
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            with torch.no_grad():
                layer(torch.randn(T, B, I))
            assert spy.given[-1] == n
    finally:
        torch.set_num_threads(before)


def test_packed_copies_that_are_stale_are_made_anew() -> None:
    layer, spy = known()
    x = torch.randn(T, B, I)
    with torch.no_grad():
        layer(x)
        layer.weight_hh_l0.data.mul_(2)
        y = layer(x)[0]
        assert spy.answers[-2] is False
        assert torch.equal(y, layer._forward_eager(x, None, {})[0])
        # Those of another layer are none of this one's.
        other, _ = known("gru")
        args = layer._parameters, x, None, False, False, 1
        for packed in (_weights.kept_of(other).prepared, (None,), (), (1,), None):
            assert spy.stack.run(packed, *args) is False


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
def test_a_single_step_reads_the_weights_as_they_lie(kind: str, dtype: Any, bias: bool) -> None:
    layer, _ = pairs.pair(kind, I, H, 2, bias=bias, bidirectional=True, dtype=dtype)
    x, hx = tensors(kind, dtype, 4)
    step = x[:1, :1].contiguous()
    hx = tuple(t[:, :1].contiguous() for t in pairs.tensors_in(hx))
    hx = hx if kind == "lstm" else hx[0]
    with torch.no_grad(), pairs.taken("fused", 5):
        layer(step, hx)
        spy = Spy(layer)
        for _ in range(2):
            y, state = layer(step, hx)
            assert type(spy.answers[-1]) is tuple
            assert spy.kept.prepared == (None, None)
            general = layer._forward_eager(step, hx, {})
            for a, b in zip(pairs.tensors_in((y, state)), pairs.tensors_in(general), strict=True):
                assert torch.equal(a, b)
            layer.weight_hh_l1_reverse.data.mul_(2)
    assert not torch.equal(y, layer(step, hx)[0])


# What it leaves to the general road --------------------------------------------------------------


class Sub(torch.Tensor):
    pass


def negative(t: Any) -> Any:
    return torch._neg_view(t.neg())


ODD: dict[str, Callable[[Any], Any]] = {
    "a negative view": negative,
    "a subclass": lambda t: t.as_subclass(Sub),
    "a parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
    "another dtype": lambda t: t.double(),
    "integers": lambda t: t.int(),
    "not dense": lambda t: torch.cat([t, t], 2)[:, :, : t.shape[2]],
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "nested": lambda t: torch.nested.nested_tensor(list(t)),
    "an axis less": lambda t: t[0],
    "an axis more": lambda t: t[None],
    "a wider row": lambda t: torch.cat([t, t], 2),
    "empty": lambda t: t[:, :0],
    "no rows": lambda t: t[:0],
    "an array": lambda t: t.numpy(),
    "nothing": lambda t: None,
    "a number": lambda t: 3,
}


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("odd", list(ODD))
@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Sparse invariant checks.*:UserWarning")
def test_odd_tensors(odd: str, which: int) -> None:
    layer, spy = known()
    x, (h, c) = tensors("lstm")
    given = [x, h, c]
    args = spy.kept.prepared, layer._parameters
    rest = False, False, 1
    assert type(spy.stack.run(*args, x, (h, c), *rest)) is tuple
    given[which] = ODD[odd](given[which])
    assert spy.stack.run(*args, given[0], (given[1], given[2]), *rest) is None


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_odd_forms_of_the_state(kind: str) -> None:
    layer, spy = known(kind)
    x, hx = tensors(kind)
    h = pairs.tensors_in(hx)[0]
    args = spy.kept.prepared, layer._parameters, x
    forms = [[h, h], (h,), (h, h, h), [h], ()]
    for odd in [*forms, h] if kind == "lstm" else [*forms, (h, h)]:
        assert spy.stack.run(*args, odd, False, False, 1) is None
    assert spy.stack.run(*args, hx, True, False, 1) is None  # its batch is another one now


@kinds
@pytest.mark.parametrize("which", [0, 1])
def test_a_negative_view_has_the_right_result(kind: str, which: int) -> None:
    layer, _ = known(kind)
    x, hx = tensors(kind)
    expected = layer(x, hx)
    if which == 0:
        x = negative(x)
    else:
        hx = (negative(hx[0]), hx[1]) if kind == "lstm" else negative(hx)
    for grad in (False, True):
        with torch.set_grad_enabled(grad), pairs.taken("fused"):
            found = layer(x, hx)
        for a, b in zip(pairs.tensors_in(found), pairs.tensors_in(expected), strict=True):
            assert torch.equal(a, b)


def other_parameter(layer: Any) -> None:
    layer.weight_hh_l0 = torch.nn.Parameter(layer.weight_hh_l0.detach())  # on the same memory


def none_there(layer: Any) -> None:
    layer.bias_hh_l0 = None


def gone(layer: Any) -> None:
    del layer._parameters["bias_hh_l0"]


def elsewhere(layer: Any) -> None:
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.clone()


def transposed(layer: Any) -> None:
    with torch.no_grad():
        layer.weight_ih_l0.t_()


def strides(layer: Any) -> None:
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.as_strided((4 * H, H), (1, 4 * H))


def bit_view(layer: Any) -> None:
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.view(torch.int32)


def shorter(layer: Any) -> None:
    layer.bias_hh_l0.data = layer.bias_hh_l0.data[:1]


def freed(layer: Any) -> None:
    layer.weight_hh_l0.untyped_storage().resize_(0)


@pytest.mark.parametrize(
    "change",
    [other_parameter, none_there, gone, elsewhere, transposed, strides, bit_view, shorter, freed],
    ids=lambda f: f.__name__,
)
@pytest.mark.filterwarnings("ignore:.*resize_.*:UserWarning")
def test_parameters_that_are_others_than_they_were(change: Any) -> None:
    layer, spy = known()
    layer.requires_grad_(False)
    x, hx = tensors("lstm")
    rest = x, hx, False, False, 1
    assert type(spy.stack.run(spy.kept.prepared, layer._parameters, *rest)) is tuple
    change(layer)
    assert spy.stack.run(spy.kept.prepared, layer._parameters, *rest) is None
    assert spy.stack.run(spy.kept.prepared, None, *rest) is None


def test_a_bias_that_appears() -> None:
    layer, spy = known(bias=False)
    parameters = dict(layer._parameters)
    rest = torch.randn(T, B, I), None, False, False, 1
    assert type(spy.stack.run(spy.kept.prepared, parameters, *rest)) is tuple
    parameters.pop("weight_hh_l0")
    assert spy.stack.run(spy.kept.prepared, parameters, *rest) is None


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("state", ["autocast", "a mode", "forward", "functorch", "tracing"])
def test_states_of_pytorch_that_keep_calls_from_it(state: str) -> None:
    layer, spy = known()
    x = torch.randn(T, B, I)
    with torch.no_grad():
        if state == "autocast":
            # Not all CPUs are enough for PyTorch's own layer there.
            with torch.autocast("cpu"), contextlib.suppress(RuntimeError):
                layer(x)
        elif state == "a mode":
            with Mode():
                layer(x)
        elif state == "forward":
            with forward_ad.dual_level():
                layer(x)
        elif state == "functorch":
            torch.func.vmap(lambda a: a + layer(x)[0].sum())(torch.zeros(2))
        else:
            layer.requires_grad_(False)
            torch.jit.trace(lambda a: layer(a)[0], x, check_trace=False)
    assert spy.answers == []


@pytest.mark.parametrize("what", ["an option", "an attribute", "dropout"])
def test_calls_that_ask_for_more_than_it_has(what: str) -> None:
    layer, spy = known("lstm", 2, dropout=0.5)
    layer.eval()
    x = torch.randn(T, B, I)
    with torch.no_grad():
        layer(x)
        assert len(spy.answers) == 1
        if what == "an option":
            layer(x, lengths=torch.tensor([1, 2]))
        elif what == "an attribute":
            layer.zoneout = 0.1
            layer(x)
        else:
            layer.train()(x)
    assert len(spy.answers) == 1


# Where PyTorch has no such functions, or they fail -----------------------------------------------


class Exchange(ctypes.Structure):
    _fields_ = (
        *(("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("older", ctypes.c_void_p)),
        *(("allocate", ctypes.c_void_p), ("share", ctypes.c_void_p)),
        *(("to_object", ctypes.c_void_p), ("look", ctypes.c_void_p), ("stream", ctypes.c_void_p)),
    )


def exchange_of(kind: Any) -> Exchange:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get(kind.__dlpack_c_exchange_api__, b"dlpack_exchange_api")
    return Exchange.from_buffer_copy(Exchange.from_address(address))


def class_with(exchange: Exchange, name: bytes = b"dlpack_exchange_api") -> Any:
    """A class of tensors that offers these functions."""
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = new(ctypes.addressof(exchange), name, None)
    return type("Offering", (torch.Tensor,), {"__dlpack_c_exchange_api__": capsule})


# Returns -1 with an error set, whatever it is given that is no capsule.
FAILING = ctypes.cast(ctypes.pythonapi.PyCapsule_SetName, ctypes.c_void_p).value


def stack_of(kind: Any, layer: Any) -> Any:
    kept = _weights.kept_of(layer)
    return _core.tensor_stack(kind, kept.cell, kept.names, kept.known, kept.rows)


def test_other_functions_are_not_called() -> None:
    layer, _ = known()
    good = exchange_of(torch.Tensor)
    assert stack_of(class_with(good), layer) is not None
    for change in ({"major": 2}, {"major": 0}, {"look": None}, {"to_object": None}):
        other = exchange_of(torch.Tensor)
        for name, value in change.items():
            setattr(other, name, value)
        assert stack_of(class_with(other), layer) is None
    assert stack_of(class_with(good, b"of another kind"), layer) is None
    assert stack_of(type("Older", (), {}), layer) is None
    assert stack_of(3, layer) is None


@pytest.mark.parametrize("which", ["look", "to_object"])
def test_functions_that_fail(which: str) -> None:
    layer, spy = known()
    exchange = exchange_of(torch.Tensor)
    kind = class_with(exchange)
    # `_core` keeps the address of the functions, not what stands there.
    stack = stack_of(kind, layer)
    x, hx = tensors("lstm")
    args = (
        *(spy.kept.prepared, layer._parameters, x.as_subclass(kind)),
        *(tuple(s.as_subclass(kind) for s in hx), False, False, 1),
    )
    assert type(stack.run(*args)) is tuple
    setattr(exchange, which, FAILING)
    assert stack.run(*args) is None
    assert stack_of(kind, layer) is None or which == "to_object"


def test_an_older_pytorch_takes_the_general_road(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_weights, "Tensor", type("Older", (), {}))
    layer, stock = pairs.pair("lstm", I, H)
    x, hx = tensors("lstm")
    for _ in range(3):
        with torch.no_grad(), pairs.taken("fused"):
            y = layer(x, hx)[0]
    assert _weights.noted[id(layer)][1].stack is None
    torch.testing.assert_close(y, stock(x, hx)[0].detach())


# What it makes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 20, 20_000])  # the last ones have a block of their own
def test_results_own_their_memory(steps: int) -> None:
    layer, spy = known()
    x = torch.randn(steps, 1, I)
    with torch.no_grad():
        y, (h, c) = layer(x)
        assert type(spy.answers[-1]) is tuple
        was = [t.clone() for t in (y, h, c)]
        again = pairs.tensors_in(layer(x))
    del spy, layer, x
    gc.collect()
    for t, w, other in zip((y, h, c), was, again, strict=True):
        assert t.data_ptr() % 64 == 0
        assert t._base is None
        assert t.untyped_storage().nbytes() == t.numel() * t.element_size()
        other.zero_()
        assert torch.equal(t, w)
        assert torch.equal(torch.from_numpy(t.numpy()), w)
    y.add_(1).requires_grad_()
    y.sum().backward()
    assert len({t.untyped_storage().data_ptr() for t in (y, h, c, *again)}) == 6
    h.share_memory_()
    assert torch.equal(h, was[1])


def test_in_inference_mode_they_are_its_tensors() -> None:
    layer, spy = known()
    with torch.inference_mode():
        found = pairs.tensors_in(layer(torch.randn(T, B, I)))
    assert type(spy.answers[-1]) is tuple
    assert all(t.is_inference() for t in found)
    with torch.no_grad():
        found = pairs.tensors_in(layer(torch.randn(T, B, I)))
    assert not any(t.is_inference() for t in found)
    assert [t._version for t in found] == [0, 0, 0]


def test_nothing_is_held_longer_than_the_call() -> None:
    layer, spy = known()
    x, (h, c) = tensors("lstm")
    hx = (h, c)
    held = [x, h, c, hx, layer._parameters, spy.kept.prepared, spy.kept.prepared[0], None, True]
    held += [*layer.parameters(), *spy.kept.names]

    def calls() -> None:
        for _ in range(1000):
            spy.stack.run(spy.kept.prepared, layer._parameters, x, hx, False, False, 1)
            spy.stack.run(spy.kept.prepared, layer._parameters, x, hx, False, True, 1)
            spy.stack.run((None,), layer._parameters, x, hx, False, False, 1)
            spy.stack.run(spy.kept.prepared, layer._parameters, x, (h, None), False, False, 1)
            spy.stack.run(spy.kept.prepared, {}, x, hx, False, False, 1)

    calls()
    before = [sys.getrefcount(t) for t in held]
    calls()
    after = [sys.getrefcount(t) for t in held]
    # Of None and True others hold a few.
    assert all(abs(b - a) < 20 for a, b in zip(before, after, strict=True))
    exact = [k for k, t in enumerate(held) if t is not None and t is not True]
    assert [before[k] for k in exact] == [after[k] for k in exact]


@pytest.mark.parametrize("steps", [100, 20_000])
def test_memory_comes_back(steps: int) -> None:
    layer, spy = known()
    x = torch.randn(steps, 1, I)

    def peak() -> int:
        for _ in range(200):
            with torch.no_grad():
                layer(x)
        spy.answers.clear()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    first = peak()
    for _ in range(10):
        last = peak()
    # 2000 results of 3 or 640 kB.
    assert last - first < 200 * steps * H * 4
    rows = sys.getrefcount(spy.kept.rows)
    stacks = [stack_of(torch.Tensor, layer) for _ in range(10)]
    more = sys.getrefcount(spy.kept.rows)
    del stacks
    after = sys.getrefcount(spy.kept.rows)
    assert (more, after) == (rows + 10, rows)


def test_it_counts_and_names_its_kernel() -> None:
    layer, spy = known("gru")
    ours.dispatch_counts()
    with torch.no_grad(), pairs.taken("fused"):
        layer(torch.randn(T, B, I))
    assert type(spy.answers[-1]) is tuple
    assert rnnfast.last_kernel().startswith("gru.forward.f32.")
