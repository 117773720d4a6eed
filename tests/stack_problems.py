"""Random stacks of layers with everything at once, and their calls by the public names."""

from __future__ import annotations

from typing import Any

import numpy as np

import rnnfast
from rnnfast import States


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def whole(entries: Any) -> Any:
    entries = tuple(entries)
    return entries[0] if len(entries) == 1 else entries


def draw_stack(
    seed: int,
    *,
    T: int | None = None,
    B: int | None = None,
    I: int = 6,
    H: int = 13,
    L: int | None = None,
    form: str | None = None,
) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Draw a cell, settings of a stack of it, and the options and arrays of a call; sizes and the
    form of x too, where they are not given."""
    rng = np.random.default_rng([seed, 5])
    cell = list(rnnfast.CELLS)[seed % len(rnnfast.CELLS)]
    letters = rnnfast.CELLS[cell].states
    some_L, D = int(rng.integers(2, 4)), int(rng.integers(1, 3))
    some_T, some_B = int(rng.choice([1, 3, 8, 17])), int(rng.choice([3, 4, 7]))
    L, T, B = L or some_L, T or some_T, B or some_B

    def some(p: float = 0.4) -> bool:
        return bool(rng.random() < p)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    settings: dict[str, Any] = {"input_size": I, "hidden_size": H, "num_layers": L, "seed": seed}
    settings |= {"bidirectional": D == 2, "residual": some(), "dropout": 0.3 * some(0.6) * (L > 1)}
    settings |= {"recurrent_dropout": 0.2 * some(), "weight_drop": 0.2 * some()}
    settings |= {"recurrent_dropout_mode": str(rng.choice(["sequence", "step"]))}
    if some():
        settings["zoneout"] = 0.3
    if some():
        settings["clip_state_gradient"] = 1.0  # some are above it
    if some() and "c" in letters:
        settings["cell_clip"] = 0.3
    if some():
        settings["initial_state"] = "learned"

    some_form = str(rng.choice(["time first", "batch first", "lengths", "flat"]))
    form = form or some_form
    settings["batch_first"] = form == "batch first"
    lengths = rng.integers(0, T + 1, B)
    # Someone has a step.
    lengths[rng.integers(B)] = T
    steps: tuple[int, ...] = (B, T) if form == "batch first" else (T, B)
    given: dict[str, Any] = {"training": some(0.8), "seed": seed, "t0": int(rng.choice([0, 7]))}
    if form == "lengths":
        given["lengths"] = lengths
    elif form == "flat":
        given["cu_seqlens"], steps = np.cumsum([0, *lengths]), (int(lengths.sum()),)
    if some():
        given["mask"] = rng.random(steps) < 0.8
        given["pad_output"] = str(rng.choice(["zero", "hold"]))
    if some(0.6):
        given["reset"] = rng.random(steps) < 0.2
        if "initial_state" in settings and some(0.6):
            given["reset_to"] = "learned"
        elif some(0.6):
            given["reset_state"] = whole(normal(D * L, *steps, H) for _ in letters)
    if some():
        given["row_ids"] = rng.integers(0, 2**32, B)
    if D == 1 and some():
        given["burn_in"] = int(rng.integers(0, T))
    if D == 1 and some():
        given["tbptt"] = int(rng.integers(1, T + 1))
    indices = some(0.2)
    arrays: dict[str, Any] = {
        "x": rng.integers(0, I, steps) if indices else normal(*steps, I),
        "state": whole(normal(D * L, B, H) for _ in letters) if some(0.6) else None,
        "learned": normal(D * L, H),
        "dy": normal(*steps, D * H),
        "dlast": whole(normal(D * L, B, H) for _ in letters),
        "dstates": States(*(normal(D * L, *steps, H) for _ in letters)) if some(0.6) else None,
    }
    return cell, settings, given, arrays


def run_stack(
    drawn: tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]],
    device: str,
    dtype: type,
    parameters: dict[str, np.ndarray] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All results of forward and backward by name, and the parameters."""
    cell, settings, given, arrays = drawn
    spec = rnnfast.CELLS[cell]

    def cast(value: Any) -> Any:
        if isinstance(value, States):
            return States(*map(cast, value))
        if isinstance(value, tuple):
            return tuple(map(cast, value))
        return value if value is None or value.dtype.kind != "f" else value.astype(dtype)

    kind = getattr(rnnfast, spec.function.upper())
    layer = kind(**spec.options, **settings, device=device, dtype=np.dtype(dtype).name)
    for name, array in layer.parameters.items():
        if parameters is not None:
            array[...] = parameters[name]
        elif name in ("h_0", "c_0"):
            array[...] = arrays["learned"]
    if "reset_state" in given:
        given = given | {"reset_state": cast(given["reset_state"])}
    a = {name: cast(value) for name, value in arrays.items()}
    y, last, tape = layer.forward(a["x"], a["state"], **given)
    states = tape.states()
    g = layer.backward(tape, a["dy"], a["dlast"], dstates=a["dstates"])
    found = {"y": y, "gates": states.gates, "x": g.x, **g.parameters}
    for k, s in enumerate(spec.states):
        found |= {f"{s}_n": parts(last)[k], f"states {s}": states[k], f"d{s}0": parts(g.state)[k]}
        found[f"reset {s}"] = None if g.reset_state is None else parts(g.reset_state)[k]
    dense = {n: v.dense() if isinstance(v, rnnfast.IndexedRows) else v for n, v in found.items()}
    return dense, layer.parameters


def run_function(drawn: tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    """Forward and backward of a stack of one layer by the function, x not batch first."""
    cell, settings, given, a = drawn
    spec, I, H = rnnfast.CELLS[cell], settings["input_size"], settings["hidden_size"]
    known = rnnfast.options.FunctionForwardOptions.__annotations__
    options = {n: value for n, value in {**settings, **given}.items() if n in known}
    options |= {**spec.options, "reverse": settings["bidirectional"]}

    def one(arrays: Any) -> Any:
        return whole(array[0] for array in parts(arrays))

    if "reset_state" in options:
        options["reset_state"] = one(options["reset_state"])
    rng = np.random.default_rng(settings["seed"])
    sizes = ((spec.G * H, I), (spec.G * H, H), (spec.G * H,), (spec.G * H,))
    row = [(rng.standard_normal(size) / H).astype(np.float32) for size in sizes]
    state = () if a["state"] is None else parts(one(a["state"]))
    y, _, tape = getattr(rnnfast, f"{spec.function}_forward")(a["x"], *row, *state, **options)
    inner = a["dstates"]
    getattr(rnnfast, f"{spec.function}_backward")(
        tape,
        a["dy"][..., :H],
        *parts(one(a["dlast"])),
        dstates=inner and States(*(None if d is None else d[0] for d in inner)),
        need_dx=bool(rng.integers(2)),
    )
    plain = rnnfast.options.FunctionOptions.__annotations__
    options = {n: value for n, value in options.items() if n in plain or n not in known}
    getattr(rnnfast, spec.function)(a["x"], *row, *state, **options, out=y)


def run_stream(drawn: tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    """A stream of the stack and its prepared layer, over what of x has a batch, time first."""
    cell, settings, _, a = drawn
    spec, x = rnnfast.CELLS[cell], a["x"]
    settings = {**settings, "bidirectional": False, "batch_first": False}
    layer = getattr(rnnfast, spec.function.upper())(**spec.options, **settings, device="cpu")
    flat = x.ndim == 1 if x.dtype.kind == "i" else x.ndim == 2
    stream = rnnfast.Stream(layer, None if flat else x.shape[1])
    y = stream.run(x)
    stream.reset()
    for t in range(min(len(x), 5)):
        stream.step(x[t], out=y[t])
    stream.state = stream.state
    layer.prepare()(x)
