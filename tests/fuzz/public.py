"""The public functions and layers with whatever may come: a result, or an error in words.

Errors are those of `rnnfast.errors`; TypeError for a keyword that there is not, and where Python
itself finds that arguments do not fit a signature.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from hostile import VALUES, Choices, alter_in_place, arrays_in, mutate
from module import _finite, _Guarded
from module import steady as steady
from option_problems import OptionProblem
from problems_of_bytes import problem_of

import rnnfast
from rnnfast import errors

_REFUSED = object()
_last: list[BaseException] = []  # why the last call was refused
_EXPECTED = tuple(
    kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), Exception)
)
_SIGNATURE = re.compile(
    r"no option|unexpected keyword argument|missing \d+ required|positional arguments? but"
    r"|multiple values for|expected the arguments? "
)


def _call(function: Any, *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except _EXPECTED as error:
        _last[:] = [error]
        assert str(error).startswith("rnnfast."), error  # noqa: PT017
    except TypeError as error:
        _last[:] = [error]
        if not _SIGNATURE.search(str(error)):
            raise
    except (ValueError, ZeroDivisionError) as error:
        # What an object itself says when it is asked whether it is true.
        if not re.search("truth value|asked", str(error)):
            raise
    except MemoryError:  # sizes that no machine has
        return _REFUSED
    return _REFUSED


def _changed(args: tuple[Any, ...], options: dict[str, Any], b: Choices) -> Any:
    """Put something else into one argument or option, or give one more."""
    k = b.next(len(args) + len(options) + 1)
    if k < len(args):
        return (*args[:k], mutate(args[k], b), *args[k + 1 :]), options
    names = sorted(options)
    name = names[k - len(args)] if k - len(args) < len(names) else None
    if name is None:
        name = b.one_of(_NAMES)
        return args, {**options, name: b.one_of(VALUES)()}
    return args, {**options, name: mutate(options[name], b)}


_NAMES = sorted(
    {
        *rnnfast.options.LayerForwardOptions.__annotations__,
        *rnnfast.options.FunctionForwardOptions.__annotations__,
        *("nonlinearity", "out", "threads", "device", "state", "nonsense", "return_states"),
    }
)


# Problems in the words of the public calls -------------------------------------------------------


def _step_options(p: OptionProblem) -> dict[str, Any]:
    """The options that functions and layers share, as a caller writes them."""
    o = p.options
    given: dict[str, Any] = {}
    for name in ("lengths", "mask", "cu_seqlens", "reset", "row_ids"):
        if getattr(o, name) is not None:
            given[name] = getattr(o, name)
    if o.hold and (o.cu_seqlens is None or o.mask is not None):
        given["pad_output"] = "hold"
    if o.burn_in:
        given["burn_in"] = o.burn_in
    if o.tbptt:
        given["tbptt"] = o.tbptt
    if o.seed % 2:
        given["seed"] = o.seed
    if o.t0:
        given["t0"] = o.t0
    return given


def _settings(p: OptionProblem) -> dict[str, Any]:
    o = p.options
    given: dict[str, Any] = {}
    if o.recurrent_dropout:
        given["recurrent_dropout"] = o.recurrent_dropout
        given["recurrent_dropout_mode"] = "step" if o.per_step else "sequence"
    if o.zoneout is not None:
        given["zoneout"] = o.zoneout if p.spec.S > 1 else o.zoneout[0]
    if o.weight_drop:
        given["weight_drop"] = o.weight_drop
    if o.cell_clip:
        given["cell_clip"] = o.cell_clip
    if o.gradient_clip:
        given["clip_state_gradient"] = o.gradient_clip
    return given


def _function(b: Choices) -> None:
    p = problem_of(b)
    name, H = p.spec.function, p.H
    keep, device = b.next(4) > 0, b.one_of(["auto", "auto", "cpu", "numpy"])
    state = p.state or (None,) * p.spec.S
    args = (p.x, *p.params[0], *(None if s is None else s[0] for s in state))
    options = {**p.spec.options, **_step_options(p), **_settings(p), "device": device}
    options["training"] = p.options.training
    if p.options.reset is not None and p.options.reset_state is not None:
        given = tuple(None if s is None else s[0] for s in p.options.reset_state)
        options["reset_state"] = given if p.spec.S > 1 else given[0]
    if p.options.reverse or b.next(4) == 3:
        options["reverse"] = True
        options.pop("burn_in", None)
        options.pop("tbptt", None)
    if not keep:
        options.pop("burn_in", None)
        options.pop("tbptt", None)
    plain = b.next(4) == 3
    if plain:
        # The plain call, which takes another road; what must not be read is NaN.
        options = {**p.spec.options, "reverse": options.get("reverse", False)}
        if p.x.dtype.kind == "f":
            args = (np.nan_to_num(p.x), *args[1:])
        else:
            args = (p.x % max(args[1].shape[1], 1), *args[1:])
        if p.options.cu_seqlens is not None:
            options["cu_seqlens"] = p.options.cu_seqlens
    rows = p.x.shape if p.x.dtype.kind == "i" else p.x.shape[:-1]
    guarded = None
    if b.next(3) == 1:
        guarded = _Guarded((*rows, H), args[1].dtype, b)
        options["out"] = guarded.out
    changes = b.next(3)
    for _ in range(changes):
        args, options = _changed(args, options, b)
    answer = _call(getattr(rnnfast, name + ("_forward" if keep else "")), *args, **options)
    if guarded is not None:
        guarded.check(options.get("out"))
    if answer is _REFUSED:
        assert changes, _last
        return
    y, state_n, *tapes = answer
    x, W, R = args[0], args[1], args[2]
    dense = x.dtype.kind == "f"
    _shape(y, (*(x.shape[:-1] if dense else x.shape), R.shape[1]), W.dtype)
    if not changes:
        _finite((y, state_n))
    if not keep:
        return
    (tape,) = tapes
    altered = b.next(4) == 3
    if altered:
        held = [*arrays_in((args, options)), y]
        alter_in_place(held[b.next(256) % len(held)], b, views=True)
    for _ in range(1 + b.next(2)):
        dstate = tuple(d[0] for d in p.dstate)
        dy = p.dy[..., :H]
        given_back = (tape, np.nan_to_num(dy) if plain else dy, *dstate)
        more = _dstates(p, lambda a: np.nan_to_num(a[0]) if plain else a[0])
        more["need_dx"] = b.next(3) > 0
        now = b.next(3)
        for _ in range(now):
            given_back, more = _changed(given_back, more, b)
        gradients = _call(getattr(rnnfast, f"{name}_backward"), *given_back, **more)
        if gradients is _REFUSED:
            assert changes or now or altered, _last
        elif not altered:
            dW = gradients.dW if isinstance(gradients.dW, np.ndarray) else gradients.dW.dense()
            _shape(dW, W.shape, W.dtype)
            _shape(gradients.dR, R.shape, W.dtype)
            if gradients.dx is not None:
                _shape(gradients.dx, x.shape, W.dtype)
            if not (changes or now):
                _finite(tuple(gradients))
    states = _call(tape.states)
    if states is not _REFUSED and not (changes or altered):
        _finite(tuple(states))


def _dstates(p: OptionProblem, part: Any) -> dict[str, Any]:
    sequences = p.dstates or (None,) * p.spec.S
    parts = [None if a is None else part(a) for a in (*sequences, p.dgates)]
    if all(a is None for a in parts):
        return {}
    states = dict(zip(p.spec.states, parts, strict=False))
    return {"dstates": rnnfast.States(**states, gates=parts[-1])}


def _shape(array: Any, shape: tuple[int, ...], dtype: Any) -> None:
    assert isinstance(array, np.ndarray), type(array)
    came, expected = (array.shape, array.dtype), (tuple(shape), dtype)
    assert came == expected, (came, expected)


# Layers ------------------------------------------------------------------------------------------

_SIZES = ("input_size", "hidden_size", "num_layers")


def _affordable(args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether a layer of these sizes, if it can be made at all, is small."""
    sizes = [*args, *(options.get(name) for name in _SIZES)]
    return not any(isinstance(s, (int, np.integer)) and 100 < s < 2**62 for s in sizes) and (
        not isinstance(options.get("num_layers", 1), (int, np.integer))
        or options.get("num_layers", 1) < 100
    )


def _layer(b: Choices) -> None:
    p = problem_of(b)
    kind = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}[p.spec.function]
    L, I = 1 + b.next(2), p.params[0][0].shape[1]
    if I == 0:
        return
    form = b.one_of(["time", "time", "batch", "unbatched"])
    flat = p.options.cu_seqlens is not None
    learned, residual = b.next(4) == 3, b.next(4) == 3
    dtype = p.params[0][0].dtype.name
    args: tuple[Any, ...] = (I, p.H)
    options: dict[str, Any] = {
        **p.spec.options,
        **_settings(p),
        **({"num_layers": L} if L > 1 else {}),
        **({"dropout": 0.5} if L > 1 and b.next(2) else {}),
        **({"bidirectional": True} if p.D > 1 else {}),
        **({"batch_first": True} if form == "batch" else {}),
        **({"initial_state": "learned"} if learned else {}),
        **({"residual": True} if residual else {}),
        **({"bias": False} if p.params[0][2] is None else {}),
        **({"device": "numpy"} if b.next(4) == 3 else {}),
        "dtype": dtype,
        "seed": 1,
    }
    changes = int(b.next(4) == 3)
    if changes:
        args, options = _changed(args, options, b)
        if not _affordable(args, options):
            return
    layer = _call(kind, *args, **options)
    if layer is _REFUSED:
        assert changes, _last
        return
    if changes:
        return  # the problem may have no place in it
    assert repr(layer)
    if b.next(6) == 5:
        name = b.one_of(sorted({*layer.parameters, *rnnfast.layers._SETTINGS, "nonsense"}))
        if name in layer.parameters:
            parameter = layer.parameters[name]
            if b.next(2):
                state = mutate(layer.state_dict(), b)
                if isinstance(state, dict):
                    _call(layer.load_state_dict, state)
            else:
                _call(setattr, layer, name, mutate(parameter, b))
        elif name != "nonsense":
            _call(setattr, layer, name, b.one_of(VALUES)())
        changes += 1
    _use(b, p, layer, L, form if not flat else "flat", changes)


def _use(b: Choices, p: OptionProblem, layer: Any, L: int, form: str, changes: int) -> None:
    first = 1 if p.x.dtype.kind == "f" else 0
    batch = p.x.shape[1] if form != "flat" else 0
    if form == "unbatched" and batch == 0:
        return

    def steps(a: Any, axis: int = 0) -> Any:
        if form == "batch":
            return a.swapaxes(axis, axis + 1)
        return a.take(0, axis + 1) if form == "unbatched" else a

    def rows(s: Any) -> Any:
        s = np.concatenate([s] * L)
        return s[:, 0] if form == "unbatched" else s

    def stacked(a: Any) -> Any:
        return steps(np.concatenate([a] * L), 1)

    single = p.spec.S == 1

    def of(states: Any) -> Any:
        return states[0] if single else states

    given = _step_options(p)
    for name in ("mask", "reset"):
        if name in given and form != "flat":
            given[name] = steps(given[name])
    if form == "unbatched":
        given.pop("lengths", None)
        if "row_ids" in given:
            given["row_ids"] = given["row_ids"][:1]
    if p.options.reset is not None and p.options.reset_state is not None:
        replaces = p.options.reset_state
        given["reset_state"] = of(tuple(None if s is None else stacked(s) for s in replaces))
    elif layer.initial_state == "learned" and b.next(2):
        given["reset_to"] = "learned"
    x = p.x
    shown = form == "unbatched"  # what lengths would hide is hidden no more
    state: Any = None
    if p.state is not None and all(s is not None for s in p.state):
        state = of(tuple(rows(s) for s in p.state))
    keep = b.next(4) > 0
    if keep:
        given["training"] = p.options.training
    else:
        for name in ("burn_in", "tbptt", "seed", "t0", "row_ids"):
            given.pop(name, None)
    if b.next(4) == 3:
        given = {name: given[name] for name in ("cu_seqlens",) if name in given}
        shown = True
    if shown:
        x = np.nan_to_num(x) if first else x % layer.input_size
    x = steps(x)
    call = layer.forward if keep else layer
    if not keep and b.next(3) == 2:
        call = layer.prepare()
    args: tuple[Any, ...] = (x, state)
    now = b.next(3)
    for _ in range(now):
        args, given = _changed(args, given, b)
    changes += now
    answer = _call(call, *args, **given)
    if answer is _REFUSED:
        assert changes, _last
        return
    y, state_n, *rest = answer
    x = args[0]
    wide = p.D * layer.hidden_size
    _shape(y, (*x.shape[: x.ndim - (x.dtype.kind == "f")], wide), layer.dtype)
    if not changes:
        _finite((y, state_n))
    if not keep:
        return
    (tape,) = rest
    altered = b.next(4) == 3
    if altered:
        held = [*arrays_in((args, given)), y, *layer.parameters.values()]
        alter_in_place(held[b.next(256) % len(held)], b, views=True)
    dy = steps(np.nan_to_num(p.dy) if shown else p.dy)
    back: tuple[Any, ...] = (tape, dy, of(tuple(rows(d) for d in p.dstate)))
    more = _dstates(p, lambda a: stacked(np.nan_to_num(a) if shown else a))
    more["need_dx"] = b.next(3) > 0
    now = b.next(3)
    for _ in range(now):
        back, more = _changed(back, more, b)
    gradients = _call(layer.backward, *back, **more)
    if gradients is _REFUSED:
        assert changes or now or altered, _last
        return
    if altered:
        return
    for name, gradient in gradients.parameters.items():
        dense = gradient if isinstance(gradient, np.ndarray) else gradient.dense()
        _shape(dense, layer.parameters[name].shape, layer.dtype)
    if gradients.x is not None:
        _shape(gradients.x, x.shape, layer.dtype)
    states = _call(tape.states)
    if not (changes or now):
        _finite((gradients.x, gradients.state, dict(gradients.parameters)))
        if states is not _REFUSED:
            _finite(tuple(states))


def _stream(b: Choices) -> None:
    p = problem_of(b)
    kind = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}[p.spec.function]
    L, I, H, dtype = 1 + b.next(2), p.params[0][0].shape[1], p.H, p.params[0][0].dtype
    if I == 0:
        return
    layer = kind(
        I,
        H,
        L,
        **p.spec.options,
        **_settings(p),
        batch_first=b.next(4) == 3,
        residual=b.next(4) == 3,
        initial_state="learned" if b.next(4) == 3 else "zero",
        device="numpy" if b.next(4) == 3 else "auto",
        dtype=dtype.name,
        seed=1,
    )
    B = b.one_of([2, 1, 3, None])
    args: tuple[Any, ...] = (layer,)
    options: dict[str, Any] = {"batch_size": B, "threads": b.one_of([1, None, 2])}
    changes = int(b.next(4) == 3)
    if changes:
        args, options = _changed(args, options, b)
        size = options.get("batch_size")
        if isinstance(size, (int, np.integer)) and 1000 < size < 2**31:
            return  # a matter of memory
    stream = _call(rnnfast.Stream, *args, **options)
    if stream is _REFUSED:
        assert changes, _last
        return
    if changes:
        B = stream.batch_size
    assert repr(stream)
    rng = np.random.default_rng(b.next(4))
    odd = bool(changes)  # the state carries what odd input there was
    for _ in range(1 + b.next(5)):
        what, now = b.next(7), int(b.next(3) == 2)
        odd |= bool(now)
        if what < 4:
            whole = what % 2 == 1
            T = b.next(5) if whole else 1
            shape = ((T,) if whole else ()) + (() if B is None else (B,))
            if whole and layer.batch_first and B is not None:
                shape = (B, T)
            x: Any = rng.standard_normal((*shape, I)).astype(dtype)
            if what > 1:
                x = rng.integers(0, I, shape) if shape or b.next(2) else int(I - 1)
            given: dict[str, Any] = {}
            guarded = _Guarded((*shape, H), dtype, b) if b.next(2) else None
            if guarded is not None:
                given["out"] = guarded.out
            call_args: tuple[Any, ...] = (x,)
            if now:
                call_args, given = _changed(call_args, given, b)
            y = _call(stream.run if whole else stream.step, *call_args, **given)
            if guarded is not None:
                guarded.check(given.get("out"))
            if y is _REFUSED:
                assert now, _last
            elif not now:
                _shape(y, (*shape, H), dtype)
                if not odd:
                    _finite(y)
        elif what == 4:
            rows: Any = None if B is None or b.next(2) else rng.random(B) < 0.5
            _call(stream.reset, mutate(rows, b) if now else rows)
        else:
            state = stream.state
            if what == 5:
                _call(setattr, stream, "state", mutate(state, b) if now else state)
        for s in arrays_in(stream.state):
            _shape(s, (L, H) if B is None else (L, B, H), dtype)


def one_input(data: bytes) -> None:
    b = Choices(data)
    b.one_of([_layer, _function, _layer, _function, _stream])(b)


CORPUS_FRONT = [b"\0", b"\1", b"\4"]
CORPUS_BACK = [
    bytes(20),
    b"\1\0\0\0\0\0\0\1\1\2\3\4\5\6\7\1\2\3",
    b"\1\1\0\0\0\0\0\0\0\0\1\0\0\0\0\1\2\3\1\1\1",
    b"\1\0\0\0\0\1\2\3\0\0\3\1\2\0\0\1\5\6\7\1\2\3",
    b"\0\1\2\0\1\0\0\0\0\1\1\1\5\6\0\0\0\1\2\3\4\5",
    b"\0\2\0\3\0\0\0\0\0\0\1\2\1\3\3\0\1\2\3\4\5",
]
