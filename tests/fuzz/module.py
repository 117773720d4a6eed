"""The compiled module with whatever may come: it answers, refuses with None, or raises as it says.

Its contract is rnnfast/_core.pyi.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hostile import Choices, alter_in_place, arrays_in, let_go_of, mutate, mutate_arguments
from numpy.lib.stride_tricks import as_strided
from option_problems import run
from problems_of_bytes import CELL_NAMES, fresh, problem_of

from rnnfast import _core
from rnnfast.cells import CELLS

try:
    import torch
except ImportError:  # run.py says so
    torch = None  # type: ignore[assignment]

_REFUSED = object()
GUARD = 7.25


def _call(function: Any, *args: Any) -> Any:
    """What the module answers; `_REFUSED` for the exceptions that it may raise."""
    try:
        return function(*args)
    except IndexError as error:
        assert "outside [0, I)" in str(error), error  # noqa: PT017
    except RuntimeError as error:
        assert "has changed since the forward pass" in str(error), error  # noqa: PT017
    except TypeError as error:
        # What pybind11 says of an object that is no tape, or a number that is no bool.
        assert "incompatible function arguments" in str(error), error  # noqa: PT017
    return _REFUSED


def _expect(what: str, array: Any, shape: tuple[int, ...], dtype: Any) -> None:
    assert type(array) is np.ndarray, (what, type(array))
    came, expected = (array.shape, array.dtype), (shape, dtype)
    assert came == expected, (what, came, expected)


def _finite(results: Any) -> None:
    for array in arrays_in(results):
        assert np.isfinite(array).all(), array


class _Guarded:
    """An `out` with guard values all around it, those between its strides included."""

    def __init__(self, y_shape: tuple[int, ...], dtype: Any, b: Choices) -> None:
        spare = b.next(3)
        self.memory = np.full([n + 2 * spare for n in y_shape], GUARD, dtype)
        inside = tuple(slice(spare, spare + n) for n in y_shape)
        self.out = self.memory[inside]

    def check(self, out: Any) -> None:
        if not isinstance(out, np.ndarray) or not np.shares_memory(out, self.memory):
            return
        if out.dtype != self.memory.dtype:
            return
        numbers = np.arange(self.memory.size).reshape(self.memory.shape)
        size = out.dtype.itemsize
        at = (
            out.__array_interface__["data"][0] - self.memory.__array_interface__["data"][0]
        ) // size
        scaled = tuple(s // size * 8 for s in out.strides)
        first = numbers.reshape(-1)[at:]
        written = as_strided(first, out.shape, scaled) if out.size else first[:0]
        kept = np.delete(self.memory.reshape(-1), np.unique(written))
        assert (kept == GUARD).all(), "written outside out"


def _scan(b: Choices) -> None:
    p = problem_of(b)
    dtype = p.params[0][0].dtype
    rows = p.x.shape if p.x.dtype == np.int64 else p.x.shape[:-1]
    options: Any = p.options
    if not b.next(3) and options.cu_seqlens is None:
        options = None if b.next(2) else tuple(options)
    params: Any = p.params
    keep, threads = b.next(4) > 0 or None, b.one_of([None, None, None, 1, 2, 3])
    guarded = _Guarded((*rows, p.D * p.H), dtype, b) if b.next(3) == 1 else None
    if b.next(5) == 1:
        params = _core.prepare(p.spec.name, params)
        keep = False
    args = (
        *(p.spec.name, p.x, params, p.state, None if guarded is None else guarded.out),
        *(keep is True, threads, options),
    )
    changes = b.next(4)
    let_go_of(arrays_in(args))
    for _ in range(changes):
        args = mutate_arguments(args, b)
    answer = _call(_core.forward, *args)
    if guarded is not None:
        guarded.check(args[4])
    if answer is None or answer is _REFUSED:
        assert changes or options is None or isinstance(params, _core.Prepared), "refused"
        return
    tame = not changes and options is not None
    x, params, options = args[1], args[2], args[7]
    y, state_n, tape = answer
    if isinstance(params, tuple):
        D, H = len(params), params[0][1].shape[1]
        dtype = params[0][0].dtype
    else:
        D, H, dtype = params.D, params.H, params.dtype
    dense = x.dtype == dtype
    rows = x.shape[:-1] if dense else x.shape
    ends = None if options is None else options[2]
    B = x.shape[1] if ends is None else len(ends) - 1
    spec = CELLS[args[0]]
    _expect("y", y, (*rows, D * H), dtype)
    assert args[4] is None or y is args[4]
    assert len(state_n) == spec.S
    for s in state_n:
        _expect("state_n", s, (D, B, H), dtype)
    if tame:
        _finite((y, state_n))
    assert (tape is not None) == (args[5] is True)
    if tape is not None:
        _back(b, p, args, (D, B, H, dtype, rows, spec, dense), tape, y, tame)


def _back(b: Choices, p: Any, args: Any, sizes: Any, tape: Any, y: Any, tame: bool) -> None:
    D, B, H, dtype, rows, spec, dense = sizes
    assert (tape.B, tape.H, tape.D, tape.dtype) == (B, H, D, dtype)
    altered = b.next(4) == 1
    if altered:
        held = [*arrays_in(args), y]
        for _ in range(1 + b.next(2)):
            alter_in_place(held[b.next(256) % len(held)], b)
    for k in range(1 + b.next(2)):
        given = (tape, p.dy, p.dstate, b.next(4) < 3, b.one_of([None, None, 1, 2]), p.dstates)
        given = (*given, p.dgates)[: 5 + b.next(3)] if k else (*given, p.dgates)
        changes = b.next(3)
        let_go_of(arrays_in((given, args)))
        for _ in range(changes):
            given = mutate_arguments(given, b)
        answer = _call(_core.backward, *given)
        good = tame and not changes and not altered
        if answer is None or answer is _REFUSED:
            assert not good, "refused"
            continue
        x, options = args[1], args[7]
        dx, grads, dstate0, dreset = answer
        if altered:
            continue  # its shape may say anything now
        if given[3] is True and dense:
            _expect("dx", dx, x.shape, dtype)
        else:
            assert dx is None
        assert len(grads) == D
        for (dW, dR, dbW, dbR), (W, R, bW, bR) in zip(grads, args[2], strict=True):
            if dense:
                _expect("dW", dW, W.shape, dtype)
            else:
                _expect("indices", dW[0], (len(dW[0]),), np.int64)
                _expect("rows", dW[1], (len(dW[0]), len(W)), dtype)
            _expect("dR", dR, R.shape, dtype)
            for d, array in ((dbW, bW), (dbR, bR)):
                assert (d is None) == (array is None)
                if d is not None:
                    _expect("db", d, array.shape, dtype)
        for d in dstate0:
            _expect("dstate0", d, (D, B, H), dtype)
        replaces = None if options is None else options[4]
        if replaces is not None and any(a is not None for a in replaces):
            for d, array in zip(dreset, replaces, strict=True):
                assert (d is None) == (array is None)
                if d is not None:
                    _expect("dreset", d, array.shape, dtype)
        else:
            assert dreset is None
        if good:
            _finite(answer)
    states = _call(tape.states)
    if states is not _REFUSED:
        for s in states:
            _expect("states", s, (D, *rows, H), dtype)
    _expect("gates", tape.gates(), (D, *rows, spec.G, H), dtype)
    if tame and not altered:
        _finite((states, tape.gates()))


def _between(b: Choices) -> None:
    p = problem_of(b)
    flat, x = p.options.cu_seqlens, np.nan_to_num(p.dy)
    add = x.copy() if b.next(2) else None
    args = (
        *(x, add, p.H, b.one_of([0.5, 0.0, 1.0, 0.25]), p.options.seed, p.options.layer),
        *(p.options.t0, p.options.row_ids, flat, b.one_of([None, 1, 2])),
    )
    changes = b.next(3)
    let_go_of(arrays_in(args))
    for _ in range(changes):
        args = mutate_arguments(args, b)
    answer = _call(_core.between_layers, *args)
    if answer is None or answer is _REFUSED:
        assert changes, "refused"
    else:
        _expect("between", answer, args[0].shape, args[0].dtype)
        if not changes:
            _finite(answer)


def _prepare(b: Choices) -> None:
    p = problem_of(b)
    args = (p.spec.name, p.params)
    let_go_of(arrays_in(args))
    changes = b.next(3)
    for _ in range(changes):
        args = mutate_arguments(args, b)
    answer = _call(_core.prepare, *args)
    if answer is None or answer is _REFUSED:
        assert changes, "refused"
        return
    assert (answer.D, answer.cell) == (len(args[1]), args[0])
    assert answer.dtype in (np.float32, np.float64)
    assert answer.I >= 0
    assert answer.H > 0


def _linear(b: Choices) -> None:
    p = problem_of(b)
    W, b_ = p.params[0][0], p.params[0][2]
    rng = np.random.default_rng(b.next(4))
    x = rng.standard_normal((b.next(9), W.shape[1])).astype(W.dtype)
    dy = rng.standard_normal((len(x), len(W))).astype(W.dtype)
    threads = b.one_of([None, 1, 2])
    for name, args in (
        ("linear_forward", (x, W, b_, threads)),
        ("linear_backward", (x, W, dy, b.next(2) == 0, b.next(2) == 0, threads)),
    ):
        changes = b.next(3)
        let_go_of(arrays_in(args))
        given: Any = args
        for _ in range(changes):
            given = mutate_arguments(given, b)
        answer = _call(getattr(_core, name), *given)
        if answer is None or answer is _REFUSED:
            assert changes, "refused"
        elif name == "linear_forward":
            _expect("y", answer, (len(given[0]), len(given[1])), given[0].dtype)
        else:
            _expect("dW", answer[1], given[1].shape, given[0].dtype)
        if not changes:
            _finite(answer)


def _stream(b: Choices) -> None:
    p = problem_of(b)
    W = p.params[0][0]
    B, I, H = b.one_of([2, 1, 3, None]), W.shape[1], p.H
    rows = () if B is None else (B,)
    stream = _core.Stream()
    initial = None if b.next(2) else tuple(np.full((1, H), 0.5, W.dtype) for _ in p.spec.states)
    clip = p.options.cell_clip
    batch_first, residual = b.next(4) == 3, b.next(4) == 3
    args: Any = (p.spec.name, p.params[:1], B, batch_first, residual, p.options.zoneout, clip)
    args = (*args, initial, b.one_of([1, 1, None, 2]))
    changes = int(b.next(4) == 3)
    let_go_of(arrays_in(args))
    if changes:
        if (k := b.next(len(args))) == 2:
            return  # a huge batch is no error but a matter of memory
        args = (*args[:k], mutate(args[k], b), *args[k + 1 :])
    try:
        opened = stream._open(*args)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        assert changes  # Python's own words for arguments that only `rnnfast.Stream` makes
        return
    if opened is not True:
        assert changes or I == 0, "refused"
        return
    rng = np.random.default_rng(b.next(4))
    rows_n = 1 if B is None else B
    odd = bool(changes)  # the state carries what odd input there was
    for _ in range(1 + b.next(5)):
        what, now = b.next(6), int(b.next(3) == 2)
        odd |= bool(now)
        if what < 4:
            whole = what % 2 == 1
            T = b.next(5) if whole else 1
            shape = ((T,) if whole else ()) + rows
            if whole and batch_first and B is not None:
                shape = (B, T)
            x = rng.standard_normal((*shape, I)).astype(W.dtype)
            if what > 1:
                x = rng.integers(0, I, shape) if shape or b.next(2) else int(I - 1)
            guarded = _Guarded((*shape, H), W.dtype, b) if b.next(2) else None
            given: Any = ("run" if whole else "step", x, None if guarded is None else guarded.out)
            let_go_of(arrays_in(given))
            if now:
                k = 1 + b.next(2)
                given = (*given[:k], mutate(given[k], b), *given[k + 1 :])
            y = _call(stream._take, *given)
            if guarded is not None:
                guarded.check(given[2])
            if y is None or y is _REFUSED:
                assert changes or now, "refused"
            elif changes or now:
                assert type(y) is np.ndarray
            else:
                _expect("y", y, (*shape, H), W.dtype)
                if not odd:
                    _finite(y)
        elif what == 4:
            flags = None if B is None or b.next(2) else rng.random(B) < 0.5
            _call(stream._restart, mutate(flags, b) if now else flags)
        else:
            states = tuple(rng.standard_normal((1, rows_n, H)).astype(W.dtype) for _ in "ab")
            states = states[: p.spec.S]
            _call(stream._write, mutate(states, b) if now else states)
        if not changes:
            read = stream._read()
            for s in read:
                _expect("state", s, (1, rows_n, H), W.dtype)
        assert stream.t >= 0


def _tensors(b: Choices) -> None:
    p = problem_of(b)
    stems = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    (W, R, *_), D, B = p.params[0], p.D, p.B
    dtype, I = R.dtype, W.shape[1]
    parameters: dict[str, Any] = {}
    rows = []
    for row, suffix in zip(p.params, ("", "_reverse"), strict=False):
        tensors = [None if a is None else torch.nn.Parameter(torch.from_numpy(a)) for a in row]
        parameters |= zip((stem + suffix for stem in stems), tensors, strict=True)
        rows.append(tuple(None if t is None else t.detach().numpy() for t in tensors))
    args = (
        *(torch.Tensor, p.spec.name, tuple(parameters), tuple(parameters.values())),
        (tuple(rows),),
    )
    changes = b.next(3)
    for _ in range(changes):
        args = mutate_arguments(args, b)
    stack = _call(_core.tensor_stack, *args)
    if stack is None or stack is _REFUSED:
        assert changes or I == 0, "refused"  # PyTorch makes no layer of no inputs
        return
    T, batch_first = b.one_of([3, 0, 1, 17]), b.next(2) == 1
    x = torch.ones((B, T, I) if batch_first else (T, B, I), dtype=getattr(torch, str(dtype)))
    state = tuple(torch.full((D, B, p.H), 0.5, dtype=x.dtype) for _ in p.spec.states)
    hx = None if b.next(2) else state if len(state) > 1 else state[0]
    packed = (_core.prepare(p.spec.name, tuple(rows)),)
    given = (packed, parameters, x, hx, batch_first, b.next(4) == 3, b.one_of([1, 2]))
    now = b.next(3)
    for _ in range(now):
        given = mutate_arguments(given, b)
    # What has no truth value raises as it likes.
    answer = _call(stack.run, *given[:4], batch_first, *given[5:])
    if type(answer) is not tuple:
        assert answer is None or answer is _REFUSED or type(answer) is bool
    else:
        y, last = answer
        assert type(y) is torch.Tensor
        if not changes and not now:
            assert y.shape == (*x.shape[:2], D * p.H)
            for s in last if type(last) is tuple else (last,):
                assert s.shape == (D, B, p.H)
                assert torch.isfinite(s).all()


def one_input(data: bytes) -> None:
    b = Choices(data)
    kind = b.next(16 if torch is None else 18)
    if kind < 9:
        _scan(b)
    elif kind > 15:
        _tensors(b)
    else:
        others = (_stream, _stream, _between, _prepare, _linear, _between, _linear)
        others[kind - 9](b)


CORPUS_FRONT = [bytes([k]) for k in (0, 0, 0, 0, 9, 10, 11, 12, 13, 16)]
CORPUS_BACK = [
    b"\1\0\1\0\2\0\0\0\0\0\0\0",
    b"\1\0\1\0\1\0\1\2\0\0\0\0",
    b"\1\0\1\3\0\0\1\1\2\3\4\0",
    b"\1\0\1\1\2\0\1\1\1\4\0\0\0\1\2\1\2",
    b"\1\0\1\0\1\0\1\2\0\0\1\5\2\3\0\1\2\3\4\5\6\7",
]


_good: dict[str, dict[str, bytes]] = {}
_problems: dict[str, Any] = {}


def steady() -> None:
    """A fixed good call gives the bits it gave at first."""
    for cell in CELL_NAMES:
        if cell not in _problems:
            header = bytes([CELL_NAMES.index(cell), 0, 0, 0, 0, 5, 0, 3, 0b0101, 0b10, 0b10, 0])
            _problems[cell] = problem_of(Choices(header))
        results = run(_core, fresh(_problems[cell]))
        now = {name: a.tobytes() for name, a in results.items() if a is not None}
        assert _good.setdefault(cell, now) == now, "a good call has other bits than at first"
