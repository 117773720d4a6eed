"""Random bad input: only errors of rnnfast with words, never a crash, and nothing left behind.

Public calls either run or raise an error of `rnnfast.errors` that names who speaks. The compiled
module either runs or returns None. After each, a good call gives the bits that it gave before.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import require
from option_problems import build, run
from problems import CELL_NAMES, make

import rnnfast
from rnnfast import errors

pytest.importorskip("hypothesis", reason="the test extra brings it")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

core = require("core")

OURS = tuple(getattr(errors, n) for n in errors.__all__ if n.endswith("Error"))
T, B, I, H = 3, 2, 4, 5

common = settings(
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
quick = settings(common, max_examples=300)
few = settings(common, max_examples=60)
many = settings(common, max_examples=5000)


class Odd:
    """An object that is no number, and says so loudly."""

    def __repr__(self) -> str:
        return "Odd()"

    def __bool__(self) -> bool:
        raise ValueError("Odd has no truth")

    def __eq__(self, other: object) -> Any:
        return NotImplemented

    __hash__ = object.__hash__


DTYPES = ("f4", "f8", "f2", "i1", "i4", "i8", "u1", "u4", "u8", "?", "c8", ">f4", ">i8", "O", "U3")
DTYPES += ("M8[s]", "S2", [("a", "f4")])


@st.composite
def arrays(draw: Any) -> np.ndarray:
    """Any dtype, any small shape, any layout, and values at the ends of what there is."""
    # Mostly the sizes that a good call has, so that more than the first check is met.
    size = st.sampled_from([T, B, I, H, T * B, B + 1, 0, 1, 6, 4 * H])
    shape = tuple(draw(st.lists(size, max_size=5)))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    wide = tuple(2 * n for n in shape)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    kind = draw(st.sampled_from(["zero", "small", "huge", "negative", "nan"]))
    values = rng.integers(0, 3, wide)
    if kind == "zero" or dtype.kind in "OUMSV":
        array = np.zeros(wide, dtype)
    elif kind == "small":
        array = values.astype(dtype)
    else:
        array = np.zeros(wide, dtype)
        ends = {
            "f": {"huge": np.inf, "negative": -3.0, "nan": np.nan},
            "c": {"huge": np.inf, "negative": -3.0, "nan": np.nan},
            "b": {"huge": True, "negative": True, "nan": False},
        }
        whole = np.iinfo(dtype) if dtype.kind in "iu" else None
        of_kind = ends.get(dtype.kind) or {
            "huge": whole.max,
            "negative": whole.min,
            "nan": 7,
        }
        array[...] = of_kind[kind]
    halves = tuple(slice(0, n) for n in shape)
    layout = draw(st.sampled_from(["c", "c", "strided", "fortran", "backwards", "view", "locked"]))
    if layout == "strided":
        return array[tuple(slice(None, None, 2) for _ in shape)]
    array = array[halves] if layout == "view" else np.ascontiguousarray(array[halves])
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "backwards":
        return array[tuple(slice(None, None, -1) for _ in shape)]
    if layout == "locked":
        array.flags.writeable = False
    return array


SCALARS = [None, True, False, 0, 1, -1, 2, 3, 7, 1000, 2**31, 2**32, 2**63, 2**64, -(2**63), 0.0]
SCALARS += [0.5, 1.0, -0.5, 1.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), 1j]
SCALARS += ["", "zero", "hold", "learned", "step", "cpu", b"", (), [], {}, (None,), (None, None)]
SCALARS += [(0.5, 0.5), (0.5, "x"), [1, 2], [0.5, 0.5], Odd(), Odd, np.float32(0.25), np.int8(-1)]
SCALARS += [np.float64("nan"), np.bool_(True), np.str_("zero"), range(2), {"h": 0}, ...]
junk = st.one_of(
    st.sampled_from(SCALARS), arrays(), st.tuples(arrays()), st.tuples(arrays(), arrays())
)

CALL = ["lengths", "mask", "cu_seqlens", "reset", "reset_state", "pad_output"]
MASKS = ["recurrent_dropout", "recurrent_dropout_mode", "zoneout", "weight_drop"]
BOUNDS = ["cell_clip", "clip_state_gradient"]
KEY = ["seed", "t0", "row_ids"]
CUTS = ["burn_in", "tbptt"]


# What an option asks for beside it.
NEEDS = {"reset_state": "reset", "reset_to": "reset", "pad_output": "mask"}


class Form(NamedTuple):
    """What the right shape of an option follows from."""

    steps: tuple[int, ...] = (T, B)
    """Of what has a time axis: (T, B), (B, T) or flat (N,)."""
    S: int = 1
    places: tuple[int, ...] = ()
    """(D*L,) in front of the states of a layer."""
    learned: bool = False

    @property
    def flat(self) -> bool:
        return len(self.steps) == 1

    def x(self, x: np.ndarray) -> np.ndarray:
        """Bring x (T, B, I) into this form."""
        x = x.swapaxes(0, 1) if self.steps == (B, T) else x
        return np.ascontiguousarray(x.reshape(*self.steps, I))

    def always(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options with what x of this form cannot be without."""
        return {"cu_seqlens": good("cu_seqlens", self), **options} if self.flat else options


STEPS = {"time first": (T, B), "batch first": (B, T), "flat": (T * B,)}


def good(name: str, form: Form) -> Any:
    """What is right for an option, so that the junk of another is reached."""
    states = tuple(np.ones((*form.places, *form.steps, H), np.float32) for _ in range(form.S))
    return {
        "lengths": None if form.flat else np.array([2, 3]),
        "mask": np.arange(T * B).reshape(form.steps) % 3 > 0,
        "cu_seqlens": np.array([0, 2, T * B]) if form.flat else None,
        "reset": np.ones(form.steps, bool),
        "reset_state": states if form.S > 1 else states[0],
        "reset_to": "learned" if form.learned else "zero",
        "pad_output": "hold",
        "recurrent_dropout": 0.5,
        "recurrent_dropout_mode": "step",
        "zoneout": 0.25,
        "weight_drop": 0.5,
        "cell_clip": 0.5 if form.S > 1 else None,
        "clip_state_gradient": 1.0,
        "seed": 3,
        "t0": 5,
        "row_ids": np.array([3, 9], np.uint32),
        "burn_in": 1,
        "tbptt": 2,
        "training": False,
        "threads": 2,
        "out": np.empty((*form.steps, H), np.float32),
        "reverse": True,
        "dropout": 0.5,
        "residual": True,
        "initial_state": "learned",
        "num_layers": 2,
        "return_states": True,
        # Of `rnnfast.inspect`; of its gradients any may be left out.
        **{"margin": 0.1, "count": 1, "skip": 1, "dy": None, "dstate": None, "dstates": None},
    }[name]


def mostly(right: Any) -> Any:
    """This, and once in four times junk."""
    # `one_of` would choose evenly among all kinds of junk.
    return st.sampled_from(range(4)).flatmap(lambda n: junk if n == 3 else st.just(right))


def options_of(names: list[str], form: Form) -> Any:
    """Some options, of which each is good or junk, and what they need beside them."""

    def of(some: list[str]) -> Any:
        some = [*some, *(NEEDS[name] for name in some if name in NEEDS)]
        return st.fixed_dictionaries({name: mostly(good(name, form)) for name in some})

    return st.lists(st.sampled_from(names), max_size=4, unique=True).flatmap(of)


def gradients_of(form: Form, G: int) -> Any:
    """Gradients into states and gates, of which each is right, absent or junk."""
    arrays = [np.ones((*form.places, *form.steps, H), np.float32)] * form.S
    gates = np.ones((*form.places, *form.steps, G, H), np.float32)
    entries = [st.none() | mostly(a) for a in (*arrays, *[None] * (2 - form.S), gates)]
    return st.booleans().flatmap(
        lambda w: st.builds(rnnfast.States, *entries) if w else mostly(None)
    )


def run_or_refuse(call: Any, *args: Any, **kw: Any) -> Any:
    """The result of a call, or None where it refuses in words."""
    words = ""
    try:
        return call(*args, **kw)
    except OURS as error:
        words = str(error)
    assert re.match(r"rnnfast\.", words), words
    assert words.endswith((".", "`")), words
    return None


problem = {cell: make(cell, T, B, I, H).astype(np.float32) for cell in CELL_NAMES}
expected = {cell: p.run(device="cpu") for cell, p in problem.items()}


def unharmed(cell: str) -> None:
    """A good call, with all that the one before it may have left behind."""
    now = problem[cell].run(device="cpu")
    for name, value in expected[cell].items():
        assert value is None or value.tobytes() == now[name].tobytes(), name


FUNCTION = [*CALL, *MASKS, *BOUNDS, *KEY, *CUTS, "training", "threads", "out", "reverse"]


def fuzz_functions(data: Any) -> None:
    cell = data.draw(st.sampled_from(CELL_NAMES))
    p = problem[cell]
    form = Form(data.draw(st.sampled_from([STEPS["time first"], STEPS["flat"]])), p.spec.S)
    args = [form.x(p.x), *p.row, *p.state]
    # One argument of three may be junk; the options more often are.
    for place in data.draw(st.lists(st.integers(0, len(args) - 1), max_size=2, unique=True)):
        if data.draw(st.booleans()):
            args[place] = data.draw(junk)
    options = form.always(data.draw(options_of(FUNCTION, form)))
    given = {**p.spec.options, "device": data.draw(st.sampled_from(["cpu", "numpy"])), **options}
    result = run_or_refuse(p.function("_forward"), *args, **given)
    if result is not None:
        y, _, tape = result
        assert y.dtype in (np.float32, np.float64)
        dy = data.draw(st.none() | mostly(np.ones_like(y)))
        gradients = [data.draw(st.none() | mostly(d)) for d in p.dstate]
        given = {
            "dstates": data.draw(gradients_of(form, p.spec.G)),
            "need_dx": data.draw(mostly(False)),
            "threads": data.draw(mostly(2)),
        }
        given = {name: given[name] for name in given if data.draw(st.booleans())}
        found = run_or_refuse(p.function("_backward"), tape, dy, *gradients, **given)
        if found is not None and (found.dx is None) == bool(given.get("need_dx", True)):
            assert args[0].dtype.kind in "iu"  # indices have no gradient
    unharmed(cell)


def fuzz_layers(data: Any) -> None:
    name = data.draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    spec = rnnfast.CELLS["rnn_tanh" if name == "RNN" else name.lower()]
    kind = data.draw(st.sampled_from(sorted(STEPS)))
    form = Form(STEPS[kind], spec.S)
    names = [*MASKS, *BOUNDS, "dropout", "residual", "initial_state", "num_layers", "seed"]
    made = data.draw(options_of(names, form))
    if not isinstance(made.get("num_layers", 1), int) or made.get("num_layers", 1) > 3:
        made.pop("num_layers")  # a million layers are not refused, but made
    if made.get("num_layers", 1) == 1:
        made.pop("dropout", None)  # which warns that it does nothing
    D = data.draw(st.sampled_from([1, 2]))
    made = {"bidirectional": D == 2, "batch_first": kind == "batch first", **made}
    layer = run_or_refuse(getattr(rnnfast, name), I, H, **made)
    if layer is None:
        return
    places, learned = (D * layer.num_layers,), layer.initial_state == "learned"
    form = form._replace(places=places, learned=learned)
    x = data.draw(mostly(form.x(problem["gru"].x)))
    state = data.draw(mostly(None))
    options = data.draw(options_of([*CALL, "reset_to", "return_states"], form))
    run_or_refuse(layer, x, state, **form.always(options))
    options = form.always(data.draw(options_of([*CALL, *KEY, *CUTS, "reset_to"], form)))
    options["training"] = data.draw(st.booleans())
    result = run_or_refuse(layer.forward, x, state, **options)
    if result is not None:
        y, _, tape = result
        dy = data.draw(st.none() | mostly(np.ones_like(y)))
        dstate = data.draw(mostly(None))
        dstates = data.draw(gradients_of(form, spec.G))
        need_dx = data.draw(mostly(False))
        run_or_refuse(layer.backward, tape, dy, dstate, dstates=dstates, need_dx=need_dx)
    unharmed("gru")


option_problems = {
    (cell, features): build(features.split(), 3, cell, np.float32, T=T, B=B, I=I, H=H)
    for cell in CELL_NAMES
    for features in ("", "lengths mask reset reset_state", "flat zoneout training", "indices rows")
}
option_results = {key: run(core, p) for key, p in option_problems.items()}


def fuzz_core(data: Any) -> None:
    """Below the checks in words: arguments that are not as contracted give None."""
    key = data.draw(st.sampled_from(sorted(option_problems)))
    p = option_problems[key]
    fields = data.draw(st.dictionaries(st.sampled_from(p.options._fields), junk, max_size=2))
    args = [p.spec.name, p.x, p.params, p.state, None, True, 1, p.options._replace(**fields)]
    places = data.draw(st.lists(st.integers(0, 7), max_size=2, unique=True))
    for place in places:
        # A row of parameters with one of them wrong, or anything.
        if place == 2 and data.draw(st.booleans()):
            row = list(p.params[0])
            row[data.draw(st.integers(0, 3))] = data.draw(junk)
            args[2] = (tuple(row),)
        elif place not in (5, 6):
            args[place] = data.draw(junk)
    words, result = None, None
    try:
        result = core.forward(*args)
    except IndexError as error:
        words = str(error)
    assert words is None or "outside [0, I)" in words
    if result is not None and result[2] is not None:
        tape = result[2]
        back = [p.dy, p.dstate, True, 1, p.dstates, p.dgates]
        for place in data.draw(st.lists(st.sampled_from([0, 1, 4, 5]), max_size=2)):
            back[place] = data.draw(junk)
        core.backward(tape, *back)
        tape.states()
        tape.gates()
    other = run(core, p)
    for name, value in option_results[key].items():
        assert value is None or value.tobytes() == other[name].tobytes(), name


streamed = rnnfast.LSTM(I, H, 2, residual=True, initial_state="learned", seed=1)
steps_of = np.random.default_rng(2).standard_normal((T, B, I)).astype(np.float32)


def stream_results() -> list[bytes]:
    stream = rnnfast.Stream(streamed, B)
    y = [stream.step(steps_of[0]), stream.run(steps_of), *stream.state]
    return [array.tobytes() for array in y]


streamed_once = stream_results()


def fuzz_streams(data: Any) -> None:
    good_state = tuple(np.ones((2, B, H), np.float32) for _ in range(2))
    made = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "batch_size": st.sampled_from([B, B, 1, None]) | junk,
                "state": st.just(good_state) | junk,
                "threads": st.sampled_from([1, 2, None]) | junk,
            },
        )
    )
    stream = run_or_refuse(rnnfast.Stream, streamed, **made)
    if stream is None:
        return
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(["step", "run", "reset", "state"]))
        if name == "state":
            value = data.draw(st.just(good_state) | junk)
            run_or_refuse(setattr, stream, "state", value)
        elif name == "reset":
            run_or_refuse(stream.reset, data.draw(st.just(np.array([True, False])) | junk))
        else:
            x = steps_of[0] if name == "step" else steps_of
            args = [data.draw(st.just(x) | junk)]
            if data.draw(st.booleans()):
                args.append(data.draw(st.just(np.empty((*x.shape[:-1], H), np.float32)) | junk))
            run_or_refuse(getattr(stream, name), *args)
    assert all(s.dtype == np.float32 for s in stream.state)
    assert stream_results() == streamed_once


prepared = streamed.prepare()


def fuzz_prepared(data: Any) -> None:
    """The frozen form of a layer is as careful as the layer."""
    x = data.draw(mostly(steps_of))
    state = data.draw(mostly(None))
    form = Form(S=2, places=(2,), learned=True)
    run_or_refuse(prepared, x, state, **data.draw(options_of([*CALL, "reset_to"], form)))
    assert stream_results() == streamed_once
    unharmed("gru")


WEIGHTS = {
    (kind, system): rnnfast.weights.export(getattr(rnnfast, kind)(I, H, seed=0), system)
    for kind in ("LSTM", "GRU")
    for system in ("pytorch", "onnx", "keras")
}


def spoiled(tree: Any, data: Any) -> Any:
    """A tree of arrays with junk in the place of one of them, or of a branch."""
    if isinstance(tree, (dict, list)) and len(tree) and data.draw(st.integers(0, 4)):
        tree = tree.copy()
        keys = sorted(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = data.draw(st.sampled_from(keys))
        tree[key] = spoiled(tree[key], data)
        return tree
    return data.draw(junk)


def fuzz_weights(data: Any) -> None:
    kind, system = data.draw(st.sampled_from(sorted(WEIGHTS)))
    layer = getattr(rnnfast, kind)(I, H, seed=1)
    before = {name: array.copy() for name, array in layer.parameters.items()}
    arrays = spoiled(WEIGHTS[kind, system], data)
    system_given = data.draw(st.sampled_from([system] * 4) | junk)
    settings_given = data.draw(
        st.dictionaries(st.sampled_from(["cell", "reset_after", "activation"]), junk, max_size=1)
    )

    def load() -> bool:
        rnnfast.weights.load(layer, system_given, arrays, **settings_given)
        return True

    if not run_or_refuse(load):
        # All of it or nothing.
        for name, array in layer.parameters.items():
            assert array.tobytes() == before[name].tobytes(), name
    run_or_refuse(rnnfast.weights.export, layer, system_given, **settings_given)
    run_or_refuse(rnnfast.weights.export, data.draw(junk), system)
    unharmed("gru")


def fuzz_between_layers(data: Any) -> None:
    """Below the checks in words, as what prepares weights."""
    x, cu = np.ones((T, B, 2 * H), np.float32), np.array([0, 1, T])
    args = [x, None, H, 0.5, 3, 1, 0, np.arange(B, dtype=np.uint32), None, 1]
    if data.draw(st.booleans()):
        args[0], args[8] = x[:, 0].copy(), cu
    wanted = core.between_layers(*args).tobytes()
    bad = list(args)
    for place in data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=2)):
        bad[place] = data.draw(junk)
    y = core.between_layers(*bad)
    assert y is None or (y.shape, y.dtype) == (bad[0].shape, bad[0].dtype)
    assert core.between_layers(*args).tobytes() == wanted
    p = problem["lstm"]
    row = list(p.row)
    row[data.draw(st.integers(0, 3))] = data.draw(junk)
    given = data.draw(st.sampled_from([(tuple(row),), (tuple(row), p.row)]) | junk)
    form = core.prepare(data.draw(st.just("lstm") | junk), given)
    if form is not None:
        assert given[0][0].shape[1] == form.I
    unharmed("lstm")


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_what_is_good_is_taken(cell, device):
    """Each option with its good value, in each form, and the gradients into all of it."""
    p = problem[cell]
    kind = getattr(rnnfast, p.spec.function.upper())
    for steps, D in itertools.product(STEPS.values(), (1, 2)):
        form = Form(steps, p.spec.S)
        for name in FUNCTION if D == 1 and steps != STEPS["batch first"] else ():
            options = {n: good(n, form) for n in (name, NEEDS.get(name)) if n}
            options = form.always(options) | p.spec.options | {"device": device}
            y, _, tape = p.function("_forward")(form.x(p.x), *p.row, *p.state, **options)
            p.function("_backward")(tape, np.ones_like(y), *p.dstate, dstates=tape.states())
        settings = {"bidirectional": D == 2, "batch_first": steps == (B, T), "device": device}
        layer = kind(I, H, 2, initial_state="learned", **settings, **p.spec.options)
        form = form._replace(places=(2 * D,), learned=True)
        for name in [*CALL, *KEY, "reset_to", *(CUTS if D == 1 else [])]:
            options = {n: good(n, form) for n in (name, NEEDS.get(name)) if n}
            y, _, tape = layer.forward(form.x(p.x), **form.always(options), training=True)
            layer.backward(tape, np.ones_like(y), dstates=tape.states())


@given(st.data())
@few
def test_streams(data):
    fuzz_streams(data)


@given(st.data())
@few
def test_prepared_layers(data):
    fuzz_prepared(data)


@given(st.data())
@few
def test_weights_of_other_systems(data):
    fuzz_weights(data)


@given(st.data())
@few
def test_compiled_module_between_layers(data):
    fuzz_between_layers(data)


@given(st.data())
@quick
def test_functions(data):
    fuzz_functions(data)


@given(st.data())
@quick
def test_layers(data):
    fuzz_layers(data)


@given(st.data())
@quick
def test_compiled_module(data):
    fuzz_core(data)


@pytest.mark.slow
@given(st.data())
@many
@pytest.mark.parametrize(
    "fuzz",
    [fuzz_streams, fuzz_prepared, fuzz_weights, fuzz_between_layers],
    ids=lambda f: f.__name__,
)
def test_the_rest_at_length(fuzz, data):
    fuzz(data)


@pytest.mark.slow
@given(st.data())
@many
def test_functions_at_length(data):
    fuzz_functions(data)


@pytest.mark.slow
@given(st.data())
@many
def test_layers_at_length(data):
    fuzz_layers(data)


@pytest.mark.slow
@given(st.data())
@many
def test_compiled_module_at_length(data):
    fuzz_core(data)
