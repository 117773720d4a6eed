"""CUDA tensors through `rnnfast.torch`.

Without a GPU the tests run on the twin (tests/simt), whose device memory is the host's: tensors of
the CPU then count as lying on a device as long as `on_gpu` is entered.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import require

torch = require("torch")
require("core")

import torch_pairs as pairs  # noqa: E402
from tf32 import to_tf32  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

import rnnfast  # noqa: E402
import rnnfast.torch as ours  # noqa: E402
from rnnfast import _backend  # noqa: E402
from rnnfast.cells import CELLS  # noqa: E402
from rnnfast.cuda import _layer  # noqa: E402
from rnnfast.reference import scan  # noqa: E402
from rnnfast.torch import _cuda_device, _dispatch, _weights  # noqa: E402

kinds = pytest.mark.parametrize("kind", list(pairs.KINDS))
D64 = torch.float64
T, B, I, H = 5, 3, 2, 5
NAMES = {"rnn": "rnn_tanh", "relu-rnn": "rnn_relu", "lstm": "lstm", "gru": "gru"}
OWN = {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.1, "initial_state": "learned"}


class Gpu:
    """Where the tests run: `there` puts things on it, and within `on` they count as there."""

    def __init__(self, device: str, on: Callable[[], Any]) -> None:
        self.device, self.on = device, on

    @property
    def real(self) -> bool:
        return self.device != "cpu"

    def there(self, value: Any) -> Any:
        """A copy on the device: of a tensor a leaf like it, of a module all of it."""
        if isinstance(value, torch.nn.Module):
            return copy.deepcopy(value).to(self.device)
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().clone().to(self.device).requires_grad_(value.requires_grad)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, cuda_module: ModuleType) -> Gpu:
    # By default PyTorch lets recurrent layers multiply in tf32.
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    if _backend.cuda_module()[1] is None:
        if not torch.cuda.is_available():
            pytest.skip("there is a GPU, but this PyTorch is not built for it")
        return Gpu("cuda", contextlib.nullcontext)

    @contextlib.contextmanager
    def on() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(_backend, "_load_cuda", lambda: (cuda_module, None))
            is_cpu = torch.Tensor.is_cpu.__get__
            patch.setattr(
                _cuda_device, "lies_on", lambda t: isinstance(t, torch.Tensor) and is_cpu(t)
            )
            patch.setattr(_cuda_device, "_place", lambda t: (0, 0))
            yield

    return Gpu("cpu", on)


def results(
    gpu: Gpu | None, module: Any, inputs: list[Any], call: Any, way: str = "fused"
) -> dict[str, Any]:
    """Outputs and gradients by name, on the CPU; computed there where `gpu` is None."""
    if gpu is not None:
        module, inputs = gpu.there(module), [gpu.there(t) for t in inputs]
    names = [f"input {k}" for k in range(len(inputs))]
    names += [name for name, _ in module.named_parameters()]
    wanted = [*inputs, *module.parameters()]
    torch.manual_seed(3)
    counted = pairs.taken(way) if isinstance(module, ours.RNN | ours.LSTM | ours.GRU) else None
    with contextlib.ExitStack() as stack:
        if gpu is not None:
            stack.enter_context(gpu.on())
        if counted is not None:
            stack.enter_context(counted)
        out = pairs.tensors_in(call(module, *inputs))
        if gpu is not None and way == "fused":
            assert ".cuda." in rnnfast.last_kernel()
        into = [pairs.draw(t.shape, 100 + k, t.dtype, False) for k, t in enumerate(out)]
        found = torch.autograd.grad(
            out, wanted, [g.to(t.device) for g, t in zip(into, out, strict=True)], allow_unused=True
        )
    named = {f"output {k}": t.detach().cpu() for k, t in enumerate(out)}
    for name, t, g in zip(names, wanted, found, strict=True):
        named[name] = torch.zeros_like(t).cpu().detach() if g is None else g.cpu()
    return named


def start_of(kind: str, count: int, rows: tuple[int, ...], dtype: Any = D64) -> list[Any]:
    S = 2 if kind == "lstm" else 1
    return [pairs.draw((count, *rows, H), k + 1, dtype) for k in range(S)]


def run_plain(module: Any, x: Any, *hx: Any) -> Any:
    return module(x, (tuple(hx) if len(hx) > 1 else hx[0]) if hx else None)


# The layer as it is in torch.nn --------------------------------------------------------------


@kinds
@pytest.mark.parametrize("form", ["time first", "batch first", "unbatched"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"bidirectional": True, "bias": False}],
    ids=["plain", "both ways", "no bias"],
)
@pytest.mark.parametrize("given", [True, False])
def test_as_torch_nn(gpu: Gpu, kind: str, form: str, options: Any, given: bool) -> None:
    shape = {"time first": (T, B, I), "batch first": (B, T, I), "unbatched": (T, I)}[form]
    rows = () if form == "unbatched" else (B,)
    count = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    mine, theirs = pairs.pair(kind, I, H, batch_first=form == "batch first", **options)

    def run(place: Gpu | None, module: Any, dtype: Any) -> Any:
        inputs = [pairs.draw(shape, 0, dtype), *(start_of(kind, count, rows, dtype) * given)]
        return results(place, copy.deepcopy(module).to(dtype), inputs, run_plain)

    ref = run(None, theirs, D64)
    pairs.close(run(gpu, mine, D64), ref)
    plain = run(None, theirs, torch.float32)
    pairs.judge(run(gpu, mine, torch.float32), plain, ref, I + H)


@kinds
@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 5, 4]], ids=["sorted", "unsorted"])
def test_packed_sequences(gpu: Gpu, kind: str, lengths: list[int]) -> None:
    mine, theirs = pairs.pair(kind, I, H, 2, bidirectional=True, dtype=D64)

    def call(module: Any, x: Any, *hx: Any) -> Any:
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        y, last = run_plain(module, packed, *hx)
        return pad_packed_sequence(y)[0], last

    inputs = [pairs.draw((T, B, I), 0), *start_of(kind, 4, (B,))]
    pairs.close(results(gpu, mine, inputs, call), results(None, theirs, inputs, call))


@kinds
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_between_layers(
    gpu: Gpu, kind: str, packed: bool, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With masks that are the same on every device."""

    def dropout(ones: Any, p: float, train: bool) -> Any:
        assert train
        assert bool((ones == 1).all())
        kept = np.random.default_rng(len(drawn)).random(tuple(ones.shape)) >= p
        drawn.append(kept)
        return torch.tensor(kept / (1 - p), dtype=ones.dtype, device=ones.device)

    monkeypatch.setattr(torch, "dropout", dropout)
    module, _ = pairs.pair(kind, I, H, 3, dropout=0.4, batch_first=batch_first, dtype=D64)

    def call(module: Any, x: Any) -> Any:
        if not packed:
            return module(x)
        y, last = module(pack_padded_sequence(x, [5, 3, 1], batch_first=batch_first))
        return y.data, last

    x = pairs.draw((B, T, I) if batch_first else (T, B, I), 0)
    found = []
    for place in (gpu, None):
        drawn: list[Any] = []
        found.append(results(place, module, [x], call))
        assert len(drawn) == 2
    pairs.close(*found)
    with gpu.on(), torch.no_grad():
        evaluated = gpu.there(module).eval()(gpu.there(x))[0].cpu()
    torch.testing.assert_close(evaluated, copy.deepcopy(module).eval()(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("rows", [(), (B,)])
def test_cells(gpu: Gpu, name: str, rows: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    mine = getattr(ours, name)(I, H, dtype=D64)
    theirs = getattr(torch.nn, name)(I, H, dtype=D64)
    theirs.load_state_dict(mine.state_dict())
    S = 2 if name == "LSTMCell" else 1
    inputs = [pairs.draw((*rows, I), 0), *(pairs.draw((*rows, H), k) for k in range(1, S + 1))]
    before = ours.dispatch_counts()
    found = results(gpu, mine, inputs, run_plain)
    assert ours.dispatch_counts() == before | {"fused": before["fused"] + 1}
    pairs.close(found, results(None, theirs, inputs, run_plain))


@kinds
def test_views_of_other_tensors(gpu: Gpu, kind: str) -> None:
    """Inputs whose features, steps or rows lie apart, and gradients that are expanded."""
    module, theirs = pairs.pair(kind, I, H, 2, bidirectional=True, dtype=D64)
    inputs = [pairs.draw((B, 2 * T, 3 * I + 1), 0), pairs.draw((H, B, 4), 1)]
    forms = [
        lambda x: x[:, :T, 1 : I + 1].transpose(0, 1),
        lambda x: x[:, ::2, ::3].transpose(0, 1)[..., :I],
        lambda x: x[:1, :1, :I].expand(T, B, I),
    ]
    for form in forms:

        def call(module: Any, x: Any, h: Any, form: Any = form) -> Any:
            h = h.permute(2, 1, 0)
            y, _ = module(form(x), (h, 2 * h) if kind == "lstm" else h)
            return y.sum()

        pairs.close(results(gpu, module, inputs, call), results(None, theirs, inputs, call))


# Sixteen bits --------------------------------------------------------------------------------


def rounded(array: np.ndarray, dtype: Any) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype).to(torch.float32).numpy()


def by_reference(kind: str, module: Any, x: Any, dy: Any, kind_of: type, store: Any) -> Any:
    """y, last state and gradients by the reference; each array that a kernel stores is `store`d."""
    spec = CELLS[NAMES[kind]]
    cell = __import__(f"rnnfast.reference.{spec.function}", fromlist=["forward"])
    W, R, bW, bR = (p.detach().double().numpy().astype(kind_of) for p in module.parameters())
    x, dy = (t.detach().double().numpy().astype(kind_of) for t in (x, dy))
    I, H = W.shape[1], R.shape[1]
    zero = tuple(np.zeros((x.shape[1], H), kind_of) for _ in spec.states)
    y, last, kept = scan.forward(cell, spec.options, x, W, R, bW, bR, zero)
    h, *c = kept.states
    kept = kept._replace(
        slots=tuple(map(store, kept.slots)),
        states=(store(h), *c),
    )
    nothing = tuple(np.zeros_like(s) for s in zero)
    dgx, dgh, _, _ = scan.backward(cell, spec.options, kept, x, W, R, dy, nothing)
    flat_x, flat_h = x.reshape(-1, I), kept.states[0][:-1].reshape(-1, H)
    flat_gx, flat_gh = dgx.reshape(-1, dgx.shape[-1]), dgh.reshape(-1, dgh.shape[-1])
    sums = [flat_gx.T @ flat_x, flat_gh.T @ flat_h, flat_gx.sum(0), flat_gh.sum(0)]
    return [store(a) for a in (y, *last, dgx @ W, *sums)]


@pytest.fixture(params=["k0", "steps"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each family of kernels, asked for by name."""
    run = _layer._run

    def run_by_name(device: Any, memory: Any, call: Any, backward: bool) -> None:
        run(device, memory, call | {"family": request.param}, backward)

    monkeypatch.setattr(_layer, "_run", run_by_name)
    return request.param


# Within a tile of the products; lines that lie on 16 bytes and sums of several blocks; more rows
# than a tile has, lines that do not, and a tail.
@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("T", "B", "I", "H"),
    [(17, 3, 2, 5), (3, 5, 136, 72), (2, 67, 37, 33)],
    ids=["few", "by 8", "odd"],
)
def test_sixteen_bits_are_float32_arithmetic_rounded_where_it_is_stored(
    gpu: Gpu, family: str, kind: str, dtype: Any, T: int, B: int, I: int, H: int
) -> None:
    module, _ = pairs.pair(kind, I, H, dtype=dtype)
    x = pairs.draw((T, B, I), 0, dtype)
    dy = pairs.draw((T, B, H), 1, dtype, False)
    mine, there = gpu.there(module), gpu.there(x)
    with gpu.on(), pairs.taken("fused"):
        y, last = mine(there)
        assert rnnfast.last_kernel().endswith(family)
        y.backward(gpu.there(dy))
    assert all(t.dtype is dtype for t in (y, there.grad, *(p.grad for p in mine.parameters())))
    found = [y, *pairs.tensors_in(last), there.grad, *(p.grad for p in mine.parameters())]
    plain = by_reference(kind, module, x, dy, np.float32, lambda a: rounded(a, dtype))
    ref = by_reference(kind, module, x, dy, np.float64, lambda a: a)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for k, (a, b, c) in enumerate(zip(found, plain, ref, strict=True)):
        got = a.detach().cpu().double().numpy().reshape(c.shape)
        allowed = 2 * np.abs(b - c).max() + 4 * eps * np.abs(c).max() + (I + H) * tiny
        assert np.abs(got - c).max() <= allowed, k


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gate_gradients_keep_their_bits_in_products(gpu: Gpu, family: str, dtype: Any) -> None:
    """They are floats, whatever is stored: dx is what is left of two that nearly cancel."""
    module = ours.RNN(1, 2, nonlinearity="relu", dtype=dtype)
    small = 2.0**-14
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.tensor([[1.0], [-1.0]]))
        module.weight_hh_l0.copy_(torch.tensor([[small, 0.0], [0.0, 0.0]]))
        module.bias_ih_l0.fill_(4)
    mine, x = gpu.there(module), gpu.there(torch.ones(2, 1, 1, dtype=dtype).requires_grad_())
    with gpu.on():
        mine(x)[0].backward(gpu.there(torch.tensor([[[1, 1]], [[1, 0]]], dtype=dtype)))
    assert x.grad.flatten().tolist() == [small, 1]


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bits_of_sixteen_do_not_depend_on_other_rows_or_cuts(
    gpu: Gpu, family: str, kind: str, dtype: Any
) -> None:
    module = gpu.there(pairs.pair(kind, 37, 70, dtype=dtype)[0])
    x = gpu.there(pairs.draw((4, 67, 37), 0, dtype))
    dy = gpu.there(pairs.draw((4, 67, 70), 1, dtype, False))

    def run(rows: slice, end: int = 4) -> Any:
        part = x[:end, rows].detach().clone().requires_grad_()
        y, last = module(part)
        (dx,) = torch.autograd.grad(y, part, dy[:end, rows])
        return y, dx, pairs.tensors_in(last)

    with gpu.on():
        y, dx, last = run(slice(None))
        for rows in (slice(3, 4), slice(40, 67)):
            y_rows, dx_rows, last_rows = run(rows)
            assert torch.equal(y_rows, y[:, rows])
            assert torch.equal(dx_rows, dx[:, rows])
            for a, b in zip(last_rows, last, strict=True):
                assert torch.equal(a, b[:, rows])
        assert torch.equal(run(slice(None), 2)[0], y[:2])


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_options_in_sixteen_bits(gpu: Gpu, kind: str, dtype: Any) -> None:
    """Near the CPU's float32; tapes of two widths, and gradients of replacements."""
    torch.manual_seed(2)
    name, own = pairs.KINDS[kind]
    wide = getattr(ours, name)(I, H, 2, bidirectional=True, **own, **OWN)
    wide.load_state_dict({k: v.to(dtype).float() for k, v in wide.state_dict().items()})
    narrow = copy.deepcopy(wide).to(dtype)
    rng = np.random.default_rng(1)
    given = {
        "mask": torch.from_numpy(rng.random((T, B)) > 0.2),
        "reset": torch.from_numpy(rng.random((T, B)) > 0.6),
        "reset_to": "learned",
        "return_states": True,
        "seed": 7,
    }

    def call(module: Any, x: Any) -> Any:
        return module(x, **given)

    x = pairs.draw((T, B, I), 0, dtype)
    found = results(gpu, narrow, [x], call)
    expected = results(None, wide, [x.detach().float().requires_grad_()], call)
    for name, value in expected.items():
        assert found[name].dtype is dtype
        scale = max(1.0, float(value.abs().max()))
        atol = 32 * torch.finfo(dtype).eps * scale
        torch.testing.assert_close(found[name].float(), value, rtol=0, atol=atol, msg=name)


# Keywords ------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("form", ["time first", "batch first", "unbatched"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reset_to", ["zero", "learned", "each step", "once", "mixed"])
@pytest.mark.parametrize("where", ["device", "host"])
def test_all_options_together(
    gpu: Gpu, kind: str, form: str, training: bool, reset_to: str, where: str
) -> None:
    """As the CPU's kernels, with masks and lengths on the device or on the host."""
    if reset_to == "mixed" and kind != "lstm":
        pytest.skip("one state")
    clip = {"cell_clip": 0.5} if kind == "lstm" else {}
    name, own = pairs.KINDS[kind]
    torch.manual_seed(2)
    module = getattr(ours, name)(
        *(I, H, 2),
        bidirectional=True,
        batch_first=form == "batch first",
        dtype=D64,
        **own,
        **OWN,
        **clip,
    ).train(training)
    for name in module.state_dict():
        if name in ("h_0", "c_0"):
            torch.nn.init.normal_(getattr(module, name))
    steps = {"time first": (T, B), "batch first": (B, T), "unbatched": (T,)}[form]
    once = {"time first": (1, B), "batch first": (B, 1), "unbatched": (1,)}[form]
    rows = () if form == "unbatched" else (B,)
    rng = np.random.default_rng(1)
    given: dict[str, Any] = {
        "mask": torch.from_numpy(rng.random(steps) > 0.2),
        "reset": torch.from_numpy(rng.random(steps) > 0.6),
        "pad_output": "hold" if training else "zero",
        "seed": 7,
        "t0": 3,
        "return_states": True,
    }
    if rows:
        given |= {"lengths": torch.tensor([2, 0, 5]), "row_ids": torch.tensor([4, 2**32 - 1, 9])}
    S = 2 if kind == "lstm" else 1
    shapes = {
        "each step": [(4, *steps, H)] * S,
        "once": [(4, *once, H)] * S,
        "mixed": [(4, *steps, H), (4, *once, H)],
    }.get(reset_to, [])
    inputs = [pairs.draw((*steps, I), 0)]
    inputs += [] if reset_to == "learned" else start_of(kind, 4, rows)
    inputs += [pairs.draw(shape, k + 3) for k, shape in enumerate(shapes)]

    def call(m: Any, x: Any, *rest: Any) -> Any:
        options = dict(given)
        if where == "device" and gpu.real and x.is_cuda:
            options = {name: gpu.there(value) for name, value in given.items()}
        elif where == "host":
            for name in ("mask", "reset", "lengths", "row_ids"):
                if name in options:
                    options[name] = options[name].numpy()
        hx, replacement = rest[:S], rest[S:]
        if reset_to == "learned":
            options["reset_to"] = "learned"
        if replacement:
            options["reset_state"] = replacement if S == 2 else replacement[0]
        return m(x, (hx if S == 2 else hx[0]) if hx else None, **options)

    pairs.close(results(gpu, module, inputs, call), results(None, module, inputs, call))


ONE = {
    "lengths": {"lengths": torch.tensor([5, 0, 2], dtype=torch.int32)},
    "mask": {"mask": torch.arange(T * B).reshape(T, B) % 3 > 0},
    "hold": {"lengths": torch.tensor([1, 0, 2]), "pad_output": "hold"},
    "reset": {"reset": torch.arange(T * B).reshape(T, B) % 4 == 0},
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "per step": {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "step"},
    "zoneout": {"zoneout": 0.3},
    "weight drop": {"weight_drop": 0.3},
    "states": {"return_states": True},
}


@kinds
@pytest.mark.parametrize("what", list(ONE))
@pytest.mark.parametrize("batch_first", [False, True])
def test_each_option_alone(gpu: Gpu, kind: str, what: str, batch_first: bool) -> None:
    module, _ = pairs.pair(kind, I, H, 2, batch_first=batch_first, dtype=D64)

    def call(module: Any, x: Any) -> Any:
        options = dict(ONE[what])
        for name in ("mask", "reset"):
            if name in options and batch_first:
                options[name] = options[name].T
        if gpu.real and x.is_cuda:
            options = {name: gpu.there(value) for name, value in options.items()}
        return module(x, **options)

    x = pairs.draw((B, T, I) if batch_first else (T, B, I), 0)
    # From the same seed of PyTorch's, masks are the same ones.
    pairs.close(results(gpu, module, [x], call), results(None, module, [x], call))


@kinds
def test_packed_input_takes_the_options_of_the_cell(gpu: Gpu, kind: str) -> None:
    module, _ = pairs.pair(kind, I, H, 2, bidirectional=True, dtype=D64)

    def call(module: Any, x: Any) -> Any:
        packed = pack_padded_sequence(x, [2, 5, 1], enforce_sorted=False)
        y, last = module(packed, weight_drop=0.2, zoneout=0.3, recurrent_dropout=0.2, seed=3)
        return y.data, last

    x = [pairs.draw((T, B, I), 0)]
    pairs.close(results(gpu, module, x, call), results(None, module, x, call))


def test_nothing_waits_for_the_device(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value of a tensor on the device is asked for, forward and backward."""
    lstm = ours.LSTM(I, H, 2, bidirectional=True, batch_first=True, dropout=0.5, **OWN)
    module, x = gpu.there(lstm), gpu.there(pairs.draw((B, T, I), 0, torch.float32))
    given = {
        "lengths": torch.tensor([5, 2, 0]),
        "mask": torch.ones(B, T, dtype=torch.bool),
        "reset": torch.zeros(B, T, dtype=torch.bool),
        "row_ids": torch.tensor([4, 1, 7]),
    }
    given = {name: gpu.there(value) for name, value in given.items()}

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("the host waits")

    with gpu.on(), monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        if gpu.real:
            module(x, reset_to="learned", return_states=True, seed=1, **given)
            before = torch.cuda.get_sync_debug_mode()
            stack.callback(torch.cuda.set_sync_debug_mode, before)
            torch.cuda.set_sync_debug_mode("error")
        else:
            # The number of a seed that PyTorch draws is the host's own, so one is given.
            for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__"):
                patch.setattr(torch.Tensor, name, forbidden)
        y, _, states = module(x, reset_to="learned", return_states=True, seed=1, **given)
        (y.sum() + states.gates.sum()).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_arrays_may_change_after_the_call(gpu: Gpu) -> None:
    """A call has copies of lengths, masks and resets, as on the CPU."""
    module, x = gpu.there(ours.GRU(I, H)), gpu.there(pairs.draw((T, B, I), 0, torch.float32))
    found = []
    for change in (False, True):
        given = {
            "lengths": gpu.there(torch.tensor([5, 2, 0])),
            "mask": gpu.there(torch.ones(T, B, dtype=torch.bool)),
            "reset": gpu.there(torch.arange(T * B).reshape(T, B) % 4 == 0),
        }
        with gpu.on():
            y, _ = module(x, **given)
            for value in given.values() if change else ():
                value.zero_()
            found.append(torch.autograd.grad(y.sum(), x)[0])
    assert torch.equal(*found)
    assert found[0].any()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"lengths": torch.tensor([1, 2])}, ValueError, r"lengths has shape \(2,\)"),
        ({"lengths": torch.tensor([1.0, 2, 3])}, TypeError, "lengths is float32, expected integ"),
        (
            {"lengths": torch.ones(B, dtype=torch.bfloat16)},
            TypeError,
            "lengths is bfloat16, expected integers",
        ),
        ({"mask": torch.ones(T, B)}, TypeError, "mask is float32, expected bool"),
        ({"reset": torch.ones(B, T) > 0}, ValueError, r"reset has shape \(3, 5\)"),
        ({"zoneout": 0.1, "row_ids": torch.ones(2, dtype=int)}, ValueError, "row_ids has shape"),
    ],
)
def test_refusals_speak(gpu: Gpu, options: Any, error: type, text: str) -> None:
    module, x = gpu.there(ours.GRU(I, H)), gpu.there(torch.zeros(T, B, I))
    options = {name: gpu.there(value) for name, value in options.items()}
    with gpu.on(), pytest.raises(error, match=text) as caught:
        module(x, **options)
    assert str(caught.value).startswith("rnnfast.torch.GRU: ")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lengths": torch.tensor([1, 2, T + 1])}, "lengths holds a value outside 0 ... 5"),
        ({"lengths": torch.tensor([1, -1, 2])}, "lengths holds a value outside 0 ... 5"),
        ({"row_ids": torch.tensor([1, -1, 2]), "zoneout": 0.1}, "row_ids holds a value outside"),
    ],
)
def test_values_that_kernels_cannot_take_are_refused_on_the_device(
    gpu: Gpu, options: Any, text: str
) -> None:
    if gpu.real:
        pytest.skip("a failed assertion ends the process's use of a GPU")
    with gpu.on(), pytest.raises(RuntimeError, match=text):
        ours.GRU(I, H)(torch.zeros(T, B, I), **options)


# As a module of PyTorch's --------------------------------------------------------------------


def test_the_way_is_counted_and_named(gpu: Gpu) -> None:
    lstm = gpu.there(ours.LSTM(I, H))
    before = {name: value.clone() for name, value in lstm.state_dict().items()}
    with gpu.on(), pairs.taken("fused"), torch.no_grad():
        lstm(gpu.there(torch.randn(T, B, I)))
    assert rnnfast.last_kernel().startswith("lstm.forward.f32.cuda.")
    assert list(before) == list(torch.nn.LSTM(I, H).state_dict())
    assert all(torch.equal(before[name], value) for name, value in lstm.state_dict().items())
    with gpu.on(), pairs.taken("fused"), torch.autocast(gpu.device):
        y, _ = gpu.there(lstm)(gpu.there(torch.randn(T, B, I)), zoneout=0.1)
    assert y.dtype is torch.float32
    with gpu.on(), torch.autocast(gpu.device):
        pairs.stock_result(lambda: gpu.there(torch.nn.LSTM(I, H))(gpu.there(torch.randn(T, B, I))))
    with gpu.on(), pairs.taken("stock"), torch.autocast(gpu.device):
        gpu.there(lstm)(gpu.there(torch.randn(T, B, I)))
    assert ours.last_reason() == "autocast"


def test_without_a_module_the_reason_is_said(gpu: Gpu) -> None:
    module, x = gpu.there(ours.GRU(I, H)), gpu.there(torch.randn(T, B, I))
    stock = torch.nn.GRU(I, H).to(gpu.device)
    stock.load_state_dict(module.state_dict())
    with gpu.on(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backend, "_load_cuda", lambda: (None, "there is no module"))
        with pairs.taken("stock"):
            y, _ = module(x)
        assert ours.last_reason() == f"device {x.device}: there is no module"
        with pairs.taken("composed"):
            module(x, lengths=gpu.there(torch.tensor([5, 2, 0])))
        assert ours.last_reason() == f"device {x.device}: there is no module"
    assert torch.equal(y, stock(x)[0])


def test_a_device_that_the_build_has_no_code_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(ModuleType):
        def why_none(self) -> None:
            return None

        def devices(self) -> list[dict[str, Any]]:
            return [{"name": "Old", "runs": False}, {"name": "New", "runs": True}]

        def architectures(self) -> list[str]:
            return ["80-real", "90-virtual"]

    module = Old("old")
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (module, None))
    why = _backend.cuda_module_on(0)[1]
    assert why == "no code for Old in this build, which is for 80-real, 90-virtual"
    assert _backend.cuda_module_on(1) == (module, None)


def test_tensors_of_two_devices(gpu: Gpu) -> None:
    x = gpu.there(torch.randn(T, B, I))
    with gpu.on():
        assert _dispatch.unfit((x, x.clone()), x) is None
        assert _dispatch.unfit((x, x.to("meta")), x) == f"mixed devices, {x.device} and meta"
        weights = _weights.DeviceWeights("gru", True, (x.to("meta"),))
        assert _weights.apart(weights, x) == f"mixed devices, {x.device} and meta"


@kinds
@pytest.mark.parametrize("what", ["x", "weight", "state", "y"])
def test_a_change_before_backward_is_refused(gpu: Gpu, kind: str, what: str) -> None:
    module, x = gpu.there(pairs.pair(kind, I, H, dtype=D64)[0]), gpu.there(pairs.draw((T, B, I), 0))
    (h, *c) = [gpu.there(s).clone() for s in start_of(kind, 1, (B,))]
    x = x.clone()
    with gpu.on():
        y, _ = module(x, (h, *c) if c else h)
        changed = {"x": x, "weight": module.weight_hh_l0, "state": h, "y": y}[what]
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@kinds
def test_saved_tensors_may_be_elsewhere_and_used_twice(gpu: Gpu, kind: str) -> None:
    module, _ = pairs.pair(kind, I, H, 2, bidirectional=True, dtype=D64)
    mine, x = gpu.there(module), gpu.there(pairs.draw((T, B, I), 0))
    wanted = [x, *mine.parameters()]
    with gpu.on():
        y, _ = mine(x, reset=[[True] * B] * T, return_states=False)
        once = torch.autograd.grad(y.sum(), wanted, retain_graph=True)
        twice = torch.autograd.grad(y.sum(), wanted)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()):
            y, _ = mine(x, reset=[[True] * B] * T)
        moved = torch.autograd.grad(y.sum(), wanted)
        y = torch.utils.checkpoint.checkpoint(
            lambda x: mine(x, reset=[[True] * B] * T)[0], x, use_reentrant=False
        )
        again = torch.autograd.grad(y.sum(), wanted)
    for others in (twice, moved, again):
        assert all(torch.equal(a, b) for a, b in zip(once, others, strict=True))


@kinds
def test_only_what_is_asked_for_gets_a_gradient(gpu: Gpu, kind: str) -> None:
    module, _ = pairs.pair(kind, I, H, 2, dtype=D64)
    frozen = copy.deepcopy(module)
    for name in ("weight_ih_l0", "weight_hh_l1", "bias_ih_l1"):
        getattr(frozen, name).requires_grad_(False)
    x = pairs.draw((T, B, I), 0, D64, False)
    grads = []
    for each in (module, frozen):
        mine = gpu.there(each)
        with gpu.on():
            mine(gpu.there(x))[1][0].sum().backward()
        grads.append({name: p.grad for name, p in mine.named_parameters()})
    for name, g in grads[1].items():
        if name in ("weight_ih_l0", "weight_hh_l1", "bias_ih_l1"):
            assert g is None
        else:
            assert torch.equal(g, grads[0][name])


@kinds
@pytest.mark.parametrize("options", [False, True])
def test_second_derivatives(gpu: Gpu, kind: str, options: bool) -> None:
    """By PyTorch's operators, never zero without a word."""
    module, theirs = pairs.pair(kind, 2, 3, dtype=D64)
    given = {"lengths": torch.tensor([3, 1])} if options else {}

    def penalty(module: Any, x: Any, **given: Any) -> Any:
        y, _ = module(x, **given)
        (dx,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        return torch.autograd.grad(dx.pow(2).sum(), module.weight_hh_l0)[0].cpu()

    x = pairs.draw((3, 2, 2), 0)
    before = ours.dispatch_counts()
    with gpu.on():
        there = {name: gpu.there(value) for name, value in given.items()}
        found = penalty(gpu.there(module), gpu.there(x), **there)
    way = "composed" if options else "stock"
    after = ours.dispatch_counts()
    assert after[way] == before[way] + 1
    assert after["fused"] == before["fused"] + 1
    assert ours.last_reason() == "second derivatives (create_graph=True)"
    expected = penalty(module, x, **given) if options else penalty(theirs, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert found.any()


@kinds
def test_several_gradients_at_once(gpu: Gpu, kind: str) -> None:
    module, x = gpu.there(pairs.pair(kind, I, H, dtype=D64)[0]), gpu.there(pairs.draw((T, B, I), 0))
    with gpu.on():
        y, _ = module(x)
        into = gpu.there(pairs.draw((2, T, B, H), 1, D64, False))
        both = torch.autograd.grad(y, x, into, is_grads_batched=True, retain_graph=True)[0]
        assert ours.last_reason() == "a functorch transform"
        for one, g in zip(both, into, strict=True):
            torch.testing.assert_close(one, torch.autograd.grad(y, x, g, retain_graph=True)[0])


@kinds
def test_gradcheck(gpu: Gpu, kind: str) -> None:
    module = gpu.there(pairs.pair(kind, 2, 3, 2, bidirectional=True, dtype=D64)[0])
    x = gpu.there(pairs.draw((3, 2, 2), 0))

    def f(x: Any) -> Any:
        return tuple(pairs.tensors_in(module(x, recurrent_dropout=0.3, seed=1)))

    with gpu.on():
        assert torch.autograd.gradcheck(f, (x,), fast_mode=True)


@kinds
@pytest.mark.parametrize("batch_first", [False, True])
def test_strides_of_y_are_stock_s(gpu: Gpu, kind: str, batch_first: bool) -> None:
    mine, theirs = pairs.pair(kind, I, H, batch_first=batch_first)
    x = torch.randn(3, 4, I)
    with gpu.on():
        y = gpu.there(mine)(gpu.there(x))[0]
    assert y.stride() == theirs(x)[0].stride()
    assert not y._is_view()


@kinds
def test_an_empty_batch(gpu: Gpu, kind: str) -> None:
    module, theirs = pairs.pair(kind, I, H, dtype=D64)
    x = [pairs.draw((T, 0, I), 0)]
    pairs.close(results(gpu, module, x, run_plain), results(None, theirs, x, run_plain))


def test_a_call_is_captured_in_a_graph_of_the_device(gpu: Gpu) -> None:
    if not gpu.real:
        pytest.skip("only a GPU has CUDA graphs")
    module = ours.LSTM(I, H, 2, bidirectional=True, device="cuda")
    x = torch.randn(T, B, I, device="cuda", requires_grad=True)
    mask = torch.ones(T, B, dtype=torch.bool, device="cuda")

    def step() -> Any:
        y, _ = module(x, mask=mask)
        return y, torch.autograd.grad(y.sum(), [x, *module.parameters()])

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.normal_()
        mask[2, 1] = False
    graph.replay()
    expected = step()
    for a, b in zip(pairs.tensors_in(captured), pairs.tensors_in(expected), strict=True):
        assert torch.equal(a, b)


# tf32 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["ieee", "tf32", "older"])
def test_tf32_is_pytorchs_switch(gpu: Gpu, switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In forward and in backward, each as the switch stands then."""
    on = switch != "ieee"
    if switch == "older":
        # Before PyTorch 2.9 there was no other.
        monkeypatch.setattr(_cuda_device.torch.backends, "cudnn", SimpleNamespace(allow_tf32=True))
    else:
        monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", switch)
    torch.manual_seed(0)
    module, x = gpu.there(ours.GRU(37, 24)), gpu.there(pairs.draw((4, 3, 37), 0, torch.float32))
    wide = gpu.there(ours.GRU(3, 4, dtype=D64))
    name = "tf32" if on else "f32"
    with gpu.on():
        y, _ = module(x)
        assert rnnfast.last_kernel() == f"gru.forward.{name}.cuda.k0"
        y.sum().backward()
        assert rnnfast.last_kernel() == f"gru.backward.{name}.cuda.k0"
        wide(gpu.there(pairs.draw((2, 1, 3), 0)))
        assert rnnfast.last_kernel() == "gru.forward.f64.cuda.k0"


def test_tf32_is_what_products_round_to(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, x = gpu.there(ours.GRU(37, 24)), gpu.there(pairs.draw((4, 3, 37), 0, torch.float32))
    rounded = copy.deepcopy(module)
    with torch.no_grad():
        rounded.weight_ih_l0.copy_(torch.tensor(to_tf32(module.weight_ih_l0.cpu().numpy())))
    with gpu.on(), torch.no_grad():
        assert not torch.equal(module(x)[0], rounded(x)[0])
        monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "tf32")
        assert torch.equal(module(x)[0], rounded(x)[0])
