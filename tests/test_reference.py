"""The specification: its values by hand, its gradients by central differences, its twins'
signatures."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import require
from option_problems import NOT_A_GRADIENT, draw, run
from problems import CELL_NAMES, Problem, make

import rnnfast
from rnnfast import reference
from rnnfast.reference import engine, scan
from rnnfast.reference._math import sigmoid

SHAPES = [(0, 2), (1, 1), (2, 0), (2, 3), (17, 1), (17, 3)]  # T, B


def loss(problem: Problem) -> float:
    """A number whose gradients are what backward is given."""
    y, states, _ = problem.forward(device="numpy")
    ends = sum(float((s * d).sum()) for s, d in zip(states, problem.dstate, strict=True))
    return float((y * problem.dy).sum()) + ends


def slope(problem: Problem, replaced, array: np.ndarray, direction: np.ndarray) -> float:
    """Central difference of the loss along a direction of one array."""
    step = 1e-6
    up = loss(replaced(problem, array + step * direction))
    down = loss(replaced(problem, array - step * direction))
    return (up - down) / (2 * step)


def at(tup: tuple, k: int, value: np.ndarray) -> tuple:
    return (*tup[:k], value, *tup[k + 1 :])


def assert_gradients_hold(problem: Problem) -> None:
    results = problem.run(device="numpy")
    rng = np.random.default_rng(1)
    entries = []
    if problem.x.dtype.kind == "f":
        entries.append(("dx", problem.x, lambda p, a: replace(p, x=a)))
    for k, name in enumerate(("dW", "dR", "dbW", "dbR")):
        if problem.row[k] is None:
            assert results[name] is None
            continue
        entries.append((name, problem.row[k], lambda p, a, k=k: replace(p, row=at(p.row, k, a))))
    for k, letter in enumerate(problem.spec.states):
        start = problem.state[k]
        start = np.zeros_like(problem.dstate[k]) if start is None else start
        entries.append(
            (f"d{letter}0", start, lambda p, a, k=k: replace(p, state=at(p.state, k, a)))
        )
    for name, array, replaced in entries:
        assert results[name].shape == array.shape
        for _ in range(3):
            direction = rng.standard_normal(array.shape)
            expected = slope(problem, replaced, array, direction)
            assert float((results[name] * direction).sum()) == pytest.approx(
                expected, rel=1e-6, abs=1e-7
            ), name


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize(("T", "B"), SHAPES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "back"])
def test_gradients_are_central_differences(cell: str, T: int, B: int, reverse: bool) -> None:
    assert_gradients_hold(make(cell, T, B, 3, 4, reverse=reverse))


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("state", [False, True], ids=["zero", "given"])
@pytest.mark.parametrize("indices", [False, True], ids=["dense", "indices"])
def test_gradients_with_and_without_options(
    cell: str, bias: bool, state: bool, indices: bool
) -> None:
    assert_gradients_hold(make(cell, 5, 2, 3, 4, bias=bias, state=state, indices=indices))


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_every_entry_of_a_gradient(cell: str) -> None:
    problem = make(cell, 3, 2, 2, 3)
    dR = problem.run(device="numpy")["dR"]
    R = problem.row[1]
    for place in np.ndindex(R.shape):
        direction = np.zeros_like(R)
        direction[place] = 1

        def replaced(p: Problem, a: np.ndarray) -> Problem:
            return replace(p, row=at(p.row, 1, a))

        assert dR[place] == pytest.approx(
            slope(problem, replaced, R, direction), rel=1e-6, abs=1e-7
        )


def by_hand(cell: str, x: list[float], w: list[float], r: list[float], bw, br, state) -> list:
    """One unit and one input, in Python's own floats."""

    def sig(a: float) -> float:
        return 1 / (1 + math.exp(-a))

    states = [list(state)]
    for value in x:
        h = states[-1][0]
        gx = [wk * value + b for wk, b in zip(w, bw, strict=True)]
        gh = [rk * h + b for rk, b in zip(r, br, strict=True)]
        a = [p + q for p, q in zip(gx, gh, strict=True)]
        if cell == "rnn_tanh":
            states.append([math.tanh(a[0])])
        elif cell == "rnn_relu":
            states.append([max(a[0], 0.0)])
        elif cell == "lstm":
            c = sig(a[1]) * states[-1][1] + sig(a[0]) * math.tanh(a[2])
            states.append([sig(a[3]) * math.tanh(c), c])
        else:
            reset, z = sig(a[0]), sig(a[1])
            n = math.tanh(gx[2] + reset * gh[2])
            states.append([(1 - z) * n + z * h])
    return states[1:]


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_values_by_hand(cell: str) -> None:
    problem = make(cell, 6, 1, 1, 1, seed=3)
    flat = [a.ravel().tolist() for a in (problem.x, *problem.row)]
    start = [float(s[0, 0]) for s in problem.state]
    expected = by_hand(cell, *flat, start)
    y, states, _ = problem.forward(device="numpy")
    np.testing.assert_allclose(y[:, 0, 0], [s[0] for s in expected], rtol=0, atol=1e-14)
    np.testing.assert_allclose([float(s[0, 0]) for s in states], expected[-1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_torch_differentiates_the_same_forward(cell: str) -> None:
    """The reference's forward on tensors, against its own backward."""
    torch = require("torch")
    problem = make(cell, 5, 3, 4, 6)
    module = rnnfast.reference.engine._cell(cell)
    tensors = [torch.tensor(a, requires_grad=True) for a in (problem.x, *problem.row)]
    start = tuple(torch.tensor(s, requires_grad=True) for s in problem.state)
    y, states, _ = scan.forward(*module, *tensors, start, xp=torch)
    pairs = zip((y, *states), (problem.dy, *problem.dstate), strict=True)
    sum((a * torch.tensor(d)).sum() for a, d in pairs).backward()
    results = problem.run(device="numpy")
    np.testing.assert_allclose(y.detach().numpy(), results["y"], rtol=0, atol=1e-14)
    names = ["dx", "dW", "dR", "dbW", "dbR", *(f"d{s}0" for s in problem.spec.states)]
    for name, tensor in zip(names, [*tensors, *start], strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), results[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("seed", range(12))
def test_torch_differentiates_the_forward_with_options(cell: str, seed: int) -> None:
    """NaN at unused steps must not come back through a gradient either."""
    torch = require("torch")
    p = draw(seed, cell, without=("flat", *NOT_A_GRADIENT), T=5, B=3, D=1)
    results = run(engine, p)
    _, _, tape = engine.forward(cell, p.x, p.params, p.state, None, True, None, p.options)
    (plan,), module = tape.plans, engine._cell(cell)[0]
    back = slice(None, None, -1) if p.options.reverse else slice(None)

    def tensor(a: np.ndarray | None) -> object:
        return None if a is None else torch.tensor(a.copy(), requires_grad=a.dtype.kind == "f")

    x, *row = map(tensor, (p.x[back], *p.params[0]))
    start = (None,) * p.spec.S if p.state is None else p.state
    start = [tensor(np.zeros((3, p.H)) if s is None else s[0]) for s in start]
    replacement = [None if a is None else tensor(a) for a in plan.replacement or ()] or None
    y, states, kept = scan.forward(
        module,
        tape.cell_options,
        x,
        *row,
        tuple(start),
        xp=torch,
        plan=plan._replace(replacement=replacement),
    )
    np.testing.assert_allclose(y.detach().numpy()[back], results["y"], rtol=0, atol=1e-13)
    pairs = [(y, p.dy[back]), *zip(states, (d[0] for d in p.dstate), strict=True)]
    if p.dgates is not None:
        gates = torch.stack(list(kept.slots[: p.spec.G]), 2)
        pairs.append((gates, p.dgates[0][back]))
    for k, d in enumerate(p.dstates or ()):
        if d is not None:
            pairs.append((kept.states[k][1:], d[0][back]))
    # NaN stands where backward reads nothing.
    terms = (a * torch.tensor(np.nan_to_num(d)) for a, d in pairs)
    sum(term.sum() for term in terms).backward()
    names = ["dW_0", "dR_0", "dbW_0", "dbR_0", *(f"d{s}0" for s in p.spec.states)]
    leaves = dict(zip(names, (*row, *start), strict=True))
    if x.requires_grad:
        leaves["dx"] = x
    for name, leaf in leaves.items():
        if leaf is not None:
            expected = results[name][0] if name in ("dh0", "dc0") else results[name]
            # None where the states cannot be reached at all.
            grad = np.zeros_like(expected) if leaf.grad is None else leaf.grad.numpy()
            grad = grad[back] if name == "dx" else grad
            np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-12, err_msg=name)
    for s, leaf in zip(p.spec.states, replacement or (), strict=False):
        if leaf is not None and leaf.grad is not None:
            # In scan order, of which only the sum is as in the call.
            expected = results[f"dreset_{s}"][0].sum(0)
            np.testing.assert_allclose(leaf.grad.numpy().sum(0), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("suffix", ["", "_forward", "_backward"])
def test_twins_have_the_signature(cell: str, suffix: str) -> None:
    name = rnnfast.CELLS[cell].function + suffix
    public, twin = getattr(rnnfast, name), getattr(reference, name)
    assert inspect.signature(public) == inspect.signature(twin)
    assert twin.__doc__ == public.__doc__


def test_twins_run_on_numpy_alone() -> None:
    p = make("lstm", 3, 2, 4, 5)
    expected, _ = rnnfast.lstm(p.x, *p.row, *p.state, device="numpy")
    y, _, tape = reference.lstm_forward(p.x, *p.row, *p.state)
    assert rnnfast.last_kernel() == "lstm.forward.f64.numpy"
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(
        reference.lstm_backward(tape, p.dy).dW, rnnfast.lstm_backward(tape, p.dy).dW
    )
    assert rnnfast.last_kernel() == "lstm.backward.f64.numpy"
    with pytest.raises(rnnfast.ArgumentError, match="the reference runs nowhere else"):
        reference.lstm(p.x, *p.row, device="cpu")


def test_twins_refuse_a_compiled_tape() -> None:
    require("core")
    p = make("gru", 3, 2, 4, 5)
    _, _, tape = p.forward(device="cpu")
    with pytest.raises(rnnfast.TapeError, match="tape came from the compiled module"):
        reference.gru_backward(tape, p.dy)


def test_sigmoid_has_no_overflow_and_its_limits() -> None:
    with np.errstate(all="raise"):
        values = sigmoid(np, np.array([-1e4, -800.0, 0.0, 800.0, 1e4]))
    np.testing.assert_array_equal(values, [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_float32_stays_float32(cell: str) -> None:
    results = make(cell, 3, 2, 4, 5).astype(np.float32).run(device="numpy")
    assert {a.dtype for a in results.values() if a is not None} == {np.dtype(np.float32)}
