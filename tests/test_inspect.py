"""rnnfast.inspect: its numbers against central differences, by hand, and against known systems."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import require

import rnnfast
from rnnfast import inspect
from rnnfast.cells import CELLS
from rnnfast.initializers import orthogonal_recurrent
from rnnfast.inspect import _lyapunov

T, B, I, H = 5, 3, 2, 4
CELLS_ONCE = list(CELLS)


def make(cell: str, **options: Any) -> Any:
    spec = CELLS[cell]
    kind = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}[spec.function]
    settings = {"dtype": "float64", "seed": 1, **spec.options, **options}
    return kind(options.pop("I", I), H, **{k: v for k, v in settings.items() if k != "I"})


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def as_state(spec: Any, arrays: list[np.ndarray]) -> Any:
    return arrays[0] if spec.S == 1 else tuple(arrays)


# What a layer computes, one step at a time by the reference: where a state may be moved -----------


def steps_by_hand(layer, x, state, *, mask, reset, replacement=None, move=None):
    """y, the final states and all states, (D*L, T, B, H) each, from single steps.

    `replacement` is what resets put in place, S arrays (D*L, T, B, H). `move` = (place, t, letter,
    delta) adds delta to the state that leaves that step.
    """
    spec, D = CELLS[layer.cell], 2 if layer.bidirectional else 1
    step = getattr(rnnfast.reference, spec.function)
    settings = {"zoneout": layer.zoneout, "training": False, **spec.options}
    if spec.function == "lstm":
        settings["cell_clip"] = layer.cell_clip
    read, final, everything = x, [], []
    for k in range(layer.num_layers):
        parts = []
        for d in range(D):
            now = [s[k * D + d] for s in state]
            row = layer.parameters.rows[k][d]
            left = [None] * T
            for t in range(T) if d == 0 else reversed(range(T)):
                border = t + d
                if border < T:
                    new = [0] * spec.S
                    if replacement is not None:
                        new = [r[k * D + d, border] for r in replacement]
                    here = reset[border][:, None]
                    now = [np.where(here, n, s) for n, s in zip(new, now, strict=True)]
                _, new = step(read[t : t + 1], *row, *now, **settings)
                new = [new] if spec.S == 1 else list(new)
                now = [np.where(mask[t][:, None], n, s) for n, s in zip(new, now, strict=True)]
                if move is not None and move[:2] == (k * D + d, t):
                    now[spec.states.index(move[2])] = now[spec.states.index(move[2])] + move[3]
                left[t] = now
            final.append(now)
            everything.append([np.stack(s) for s in zip(*left, strict=True)])
            parts.append(everything[-1][0])
        y = np.concatenate(parts, -1) * mask[:, :, None]
        read = y + read if layer.residual and k > 0 else y
    return read, *(
        [np.stack(part) for part in zip(*rows, strict=True)] for rows in (final, everything)
    )


VARIANTS = {
    "plain": {},
    "stack": {"num_layers": 3, "bidirectional": True, "residual": True},
    "settings": {"num_layers": 2, "zoneout": 0.2},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("gaps", [False, True], ids=["every step", "mask and reset"])
@pytest.mark.parametrize("cell", CELLS_ONCE)
def test_gradient_flow_by_central_differences(cell, gaps, variant, device):
    options = dict(VARIANTS[variant])
    if cell == "lstm" and variant == "settings":
        options["cell_clip"] = 0.2
    layer, spec = make(cell, device=device, **options), CELLS[cell]
    D = 2 if layer.bidirectional else 1
    x = draw(T, B, I)
    state = [0.5 * draw(D * layer.num_layers, B, H, seed=s) for s in range(spec.S)]
    mask, reset = np.ones((T, B), bool), np.zeros((T, B), bool)
    if gaps:
        mask[[1, 4, 0, 2, 4], [0, 0, 1, 2, 2]] = False
        reset[[1, 3, 2, 4], [0, 1, 2, 2]] = True
    dy = draw(T, B, D * H, seed=3)
    dlast = [draw(D * layer.num_layers, B, H, seed=4 + s) for s in range(spec.S)]
    dinner = [draw(D * layer.num_layers, T, B, H, seed=6 + s) for s in range(spec.S)]
    replacement = [draw(D * layer.num_layers, T, B, H, seed=8 + s) for s in range(spec.S)]
    steps = {"mask": mask, "reset": reset}

    def loss(move: Any) -> float:
        y, final, states = steps_by_hand(
            layer, x, state, **steps, replacement=replacement, move=move
        )
        total = (y * dy).sum() + sum((a * b).sum() for a, b in zip(final, dlast, strict=True))
        used = mask[None, :, :, None]
        return total + sum((a * b * used).sum() for a, b in zip(states, dinner, strict=True))

    flow = inspect.gradient_flow(
        layer,
        x,
        as_state(spec, state),
        dy=dy,
        dstate=as_state(spec, dlast),
        dstates=rnnfast.States(**dict(zip(spec.states, dinner, strict=True))),
        **steps,
        reset_state=as_state(spec, replacement),
    )
    assert (flow.c is None) == (spec.S == 1)
    direction, eps = draw(B, H, seed=9), 1e-5
    for place in range(D * layer.num_layers):
        for t in range(T):
            for letter in spec.states:
                ends = [loss((place, t, letter, s * eps * direction)) for s in (1, -1)]
                expected = (ends[0] - ends[1]) / (2 * eps)
                came = (getattr(flow, letter)[place, t] * direction).sum()
                # The error of a central difference: of third order, and rounding over eps.
                assert came == pytest.approx(expected, rel=1e-7, abs=1e-8), (place, t, letter)
    both = flow.h**2 if flow.c is None else flow.h**2 + flow.c**2
    assert flow.norms == pytest.approx(np.sqrt(both.sum((2, 3))), rel=1e-12)


@pytest.mark.parametrize("cell", CELLS_ONCE)
def test_gradient_flow_has_the_bits_of_the_layer(cell, device):
    """What reaches a state is what a backward pass of the rest of the sequence gives to it."""
    layer = make(cell, device=device, dtype="float32", clip_state_gradient=0.5)
    x, dy = draw(T, B, I).astype(np.float32), draw(T, B, H, seed=1).astype(np.float32)
    flow = inspect.gradient_flow(layer, x, dy=dy)
    for t in range(T - 1):
        _, state = layer(x[: t + 1])
        _, _, tape = layer.forward(x[t + 1 :], state)
        rest = layer.backward(tape, dy[t + 1 :]).state
        rest = rest if isinstance(rest, tuple) else (rest,)
        assert np.array_equal(flow.h[0, t], rest[0][0] + dy[t])
        if flow.c is not None:
            assert np.array_equal(flow.c[0, t], rest[1][0])


def test_gradient_into_gates_and_through_lengths(device):
    layer = make("lstm", device=device)
    x, dgates = draw(T, B, I), draw(1, T, B, 4, H, seed=1)
    lengths = np.array([5, 2, 0])
    flow = inspect.gradient_flow(
        layer, x, dstates=rnnfast.States(gates=dgates), lengths=lengths, dy=np.ones((T, B, H))
    )
    assert not flow.h[:, :, 2].any()
    assert not flow.h[:, 2:, 1].any()
    cut = inspect.gradient_flow(
        layer,
        x[:2, 1:2],
        dstates=rnnfast.States(gates=dgates[:, :2, 1:2]),
        dy=np.ones((2, 1, H)),
    )
    # NumPy's products of other shapes round otherwise.
    assert flow.h[:, :2, 1:2] == pytest.approx(cut.h, rel=1e-12)
    without = inspect.gradient_flow(layer, x, lengths=lengths, dy=np.ones((T, B, H)))
    assert not np.allclose(flow.h, without.h)


def test_resets_behind_the_end_of_a_row_do_nothing(device):
    layer = make("gru", device=device, bidirectional=True)
    x, lengths = draw(T, B, I), np.array([5, 2, 0])
    reset = np.arange(T)[:, None] >= lengths
    given = {"lengths": lengths, "dstate": np.ones((2, B, H))}
    flow, plain = (inspect.gradient_flow(layer, x, **given, **k) for k in ({"reset": reset}, {}))
    assert np.array_equal(flow.h, plain.h)
    assert flow.h[:, :, :2].all()


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_a_linear_recurrence_scales_the_norm_by_its_factor(factor, device):
    layer = make("rnn_tanh", device=device, bias=False)
    orthogonal_recurrent(layer, seed=2, gain=factor)
    steps = 60
    x = np.zeros((steps, 1, I))  # the state stays 0, where tanh has slope 1
    dy = np.zeros((steps, 1, H))
    dy[-1] = draw(H)
    flow = inspect.gradient_flow(layer, x, dy=dy)
    back = np.arange(steps)[::-1]
    assert flow.norms[0] == pytest.approx(np.linalg.norm(dy[-1]) * factor**back, rel=1e-10)
    assert inspect.spectral_radius(layer) == pytest.approx(factor, rel=1e-12)


# Jacobians ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", CELLS_ONCE)
def test_jacobians_by_central_differences(cell, variant, device):
    options = dict(VARIANTS[variant])
    if cell == "lstm" and variant == "settings":
        options["cell_clip"] = 0.2
    # The bound acts on gradients of a loss; a Jacobian is none.
    layer, spec = make(cell, device=device, clip_state_gradient=1e-3, **options), CELLS[cell]
    D, S = 2 if layer.bidirectional else 1, spec.S
    x = draw(T, B, I)
    mask, reset = np.ones((T, B), bool), np.zeros((T, B), bool)
    mask[[1, 3], [0, 2]] = False
    reset[[2, 2], [0, 1]] = True
    J = inspect.jacobians(layer, x, mask=mask, reset=reset)
    assert J.shape == (D * layer.num_layers, T, B, S * H, S * H)
    zero = [np.zeros((D * layer.num_layers, B, H)) for _ in range(S)]
    eps = 1e-6

    def run(move: Any) -> np.ndarray:
        *_, states = steps_by_hand(layer, x, zero, mask=mask, reset=reset, move=move)
        return np.concatenate(states, -1)

    for place in range(D * layer.num_layers):
        way = 1 if place % D == 0 else -1
        for t in range(T)[1:] if way == 1 else range(T)[:-1]:
            for j in range(S * H):
                delta = np.zeros((B, H))
                delta[:, j % H] = eps
                ends = [run((place, t - way, spec.states[j // H], s * delta)) for s in (1, -1)]
                expected = (ends[0] - ends[1])[place, t] / (2 * eps)
                assert J[place, t, :, :, j] == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert np.array_equal(J[0, 1, 0], np.eye(S * H)), "an unused step"
    assert not J[0, 2, 1].any(), "a reset"


def test_spectral_radius_of_matrices_and_of_blocks():
    layer = make("gru", num_layers=2, bidirectional=True, dtype="float32")
    radii = inspect.spectral_radius(layer)
    assert radii.shape == (4, 3)
    names = ["weight_hh_l0", "weight_hh_l0_reverse", "weight_hh_l1", "weight_hh_l1_reverse"]
    for place, name in enumerate(names):
        for g in range(3):
            block = layer.parameters[name][g * H : (g + 1) * H].astype(np.float64)
            expected = max(abs(value) for value in np.linalg.eigvals(block))
            assert radii[place, g] == pytest.approx(expected, rel=1e-12)
    turn = np.array([[0.0, -2.0], [2.0, 0.0]])  # eigenvalues 2i and -2i
    assert inspect.spectral_radius(np.stack([turn, np.diag([0.5, -3.0])])) == pytest.approx([2, 3])
    assert inspect.spectral_radius(np.zeros((3, 0, 0))).shape == (3,)
    lost = np.stack([turn, np.full((2, 2), np.nan), np.full((2, 2), np.inf)]).astype(np.float32)
    np.testing.assert_allclose(inspect.spectral_radius(lost), [2, np.nan, np.nan])


# Lyapunov exponents -------------------------------------------------------------------------------


def test_lyapunov_exponents_of_a_linear_recurrence(device, monkeypatch):
    layer = make("rnn_tanh", device=device, bias=False)
    factors = np.array([0.5, -1.2, 0.9, 0.1])
    basis = rnnfast.initializers.orthogonal(H, H, np.random.default_rng(0))
    layer.weight_hh_l0[...] = basis @ np.diag(factors) @ basis.T
    x = np.zeros((400, 2, I))
    all_of_them = inspect.lyapunov_exponents(layer, x, skip=200)
    expected = np.log([1.2, 0.9, 0.5, 0.1])
    assert all_of_them.exponents.shape == (1, 2, H)
    assert all_of_them.local.shape == (1, 200, 2, H)
    # Symmetric and skipped until the directions have turned: nothing is left to converge.
    assert all_of_them.exponents[0, 1] == pytest.approx(expected, rel=1e-9)
    two = inspect.lyapunov_exponents(layer, x, count=2, skip=200)
    assert two.exponents[0, 0] == pytest.approx(expected[:2], rel=1e-9)
    monkeypatch.setattr(_lyapunov, "_HELD", 7 * 2 * H * H)  # seven steps at once
    again = inspect.lyapunov_exponents(layer, x, skip=200)
    assert again.local == pytest.approx(all_of_them.local, rel=1e-12)


def test_lyapunov_exponent_of_the_tent_map(device):
    """Chaos whose exponent is known: the slope of this map is 1.9 or -1.9 everywhere."""
    layer = rnnfast.RNN(1, 2, nonlinearity="relu", dtype="float64", device=device, seed=0)
    # v -> 1.9 min(v, 1 - v) with h = (relu(v), relu(v - 1/2)) and v = 1.9 h_1 - 3.8 h_2
    layer.weight_ih_l0[...] = 0
    layer.weight_hh_l0[...] = [[1.9, -3.8], [1.9, -3.8]]
    layer.bias_ih_l0[...], layer.bias_hh_l0[...] = [0, -0.5], 0
    steps = 2000
    x, start = np.zeros((steps, 1, 1)), np.array([[[0.3, 0.0]]])
    found = inspect.lyapunov_exponents(layer, x, start)
    # The directions' own lengths are bounded, so the mean is off by a constant over T at most.
    assert found.exponents[0, 0, 0] == pytest.approx(np.log(1.9), abs=10 / steps)
    assert found.exponents[0, 0, 1] == -np.inf
    v = layer(x, start)[0][:, 0] @ [1.9, -3.8]
    assert np.unique(v.round(6)).size > steps / 2, "this is no cycle"


@pytest.mark.parametrize("cell", CELLS_ONCE)
def test_lyapunov_exponents_at_a_fixed_point_are_those_of_its_jacobian(cell, device):
    layer = make(cell, device=device, bidirectional=True)
    steps, skip = 400, 200
    x = np.full((steps, 1, I), 0.3)
    found = inspect.lyapunov_exponents(layer, x, skip=skip).exponents[:, 0]
    J = inspect.jacobians(layer, x)
    for d, last in enumerate((-1, 0)):
        moduli = np.sort(np.abs(np.linalg.eigvals(J[d, last, 0])))[::-1]
        # Where the step wipes a direction out the exponent is -inf, but for rounding.
        kept = int((moduli > 1e-12).sum())
        sums, expected = np.cumsum(found[d]), np.cumsum(np.log(moduli[:kept]))
        # Two eigenvalues of one modulus, as a complex pair, share what they have: only their sum
        # settles.
        for n in range(kept):
            if n == len(moduli) - 1 or moduli[n + 1] < 0.98 * moduli[n]:
                assert sums[n] == pytest.approx(expected[n], abs=1 / (steps - skip)), (d, n)
        assert (found[d][kept:] < -20).all()


# Activations and saturation -----------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS_ONCE)
def test_activations_are_those_of_the_layer(cell, device):
    layer, spec = make(cell, device=device, num_layers=2, bidirectional=True), CELLS[cell]
    x = draw(T, B, I)
    record = inspect.activations(layer, x)
    assert set(record.values) == {*spec.gates, *spec.states}
    *_, states = layer(x, return_states=True)
    for letter in spec.states:
        assert np.array_equal(record[letter], getattr(states, letter))
    for g, letter in enumerate(spec.gates):
        assert np.array_equal(record[letter], states.gates[:, :, :, g])
    with pytest.raises(KeyError, match=r"no gate or state 'q'; there are"):
        record["q"]


@pytest.mark.parametrize("cell", CELLS_ONCE)
def test_saturation_by_hand(cell, device):
    layer, spec = make(cell, device=device, num_layers=2), CELLS[cell]
    for name in layer.parameters:
        layer.parameters[name] *= 6
    x, lengths = 3 * draw(50, B, I), np.array([50, 20, 0])
    found = inspect.saturation(layer, x, lengths=lengths, margin=0.2)
    *_, states = layer(x, return_states=True, lengths=lengths)
    used = np.arange(50)[:, None] < lengths
    ends = {"tanh": (-0.6, 0.6), "sigmoid": (0.2, 0.8), "relu": (0.0, np.inf)}
    kinds = {"rnn_tanh": ["tanh"], "rnn_relu": ["relu"], "gru": ["sigmoid", "sigmoid", "tanh"]}
    kinds["lstm"] = ["sigmoid", "sigmoid", "tanh", "sigmoid"]
    seen = set()
    for k in range(2):
        for g in range(spec.G):
            low, high = ends[kinds[cell][g]]
            for unit in range(H):
                values = states.gates[k, :, :, g, unit][used]
                assert found.low[k, g, unit] == pytest.approx(np.mean(values <= low))
                assert found.high[k, g, unit] == pytest.approx(np.mean(values >= high))
                seen |= {found.low[k, g, unit] > 0, found.high[k, g, unit] > 0}
    assert seen == {True, False} or cell != "rnn_relu"
    assert (found.low > 0).any()
    assert (found.high > 0).any() == (cell != "rnn_relu")
    nothing = inspect.saturation(layer, x, lengths=np.zeros(B, int))
    assert np.isnan(nothing.low).all()
    assert np.isnan(nothing.high).all()


# Forms of x, options, and what is refused ---------------------------------------------------------


def test_forms_of_x(device):
    first = make("lstm", device=device, num_layers=2)
    x, dy = draw(T, B, I), draw(T, B, H, seed=1)
    second = rnnfast.LSTM(I, H, 2, batch_first=True, dtype="float64", device=device)
    second.load_state_dict(first.state_dict())
    flow, swapped = (
        inspect.gradient_flow(first, x, dy=dy),
        inspect.gradient_flow(second, x.swapaxes(0, 1), dy=dy.swapaxes(0, 1)),
    )
    assert np.array_equal(swapped.c, flow.c.swapaxes(1, 2))
    assert np.array_equal(swapped.norms, flow.norms)
    J = inspect.jacobians(first, x)
    assert np.array_equal(inspect.jacobians(second, x.swapaxes(0, 1)), J.swapaxes(1, 2))
    start = 0.1 * np.ones((2, H))
    alone = inspect.gradient_flow(first, x[:, 1], (start, None), dy=dy[:, 1], dstate=(start, start))
    rows = (start[:, None], np.zeros((2, 1, H)))
    same = inspect.gradient_flow(
        first, x[:, 1:2], rows, dy=dy[:, 1:2], dstate=(start[:, None], start[:, None])
    )
    assert alone.h.shape == (2, T, H)
    assert np.array_equal(alone.h, same.h[:, :, 0])
    assert inspect.activations(first, x[:, 1])["i"].shape == (2, T, H)
    assert inspect.jacobians(first, x[:, 1]).shape == (2, T, 2 * H, 2 * H)


class Subclass(np.ndarray):
    """Holds what its base holds."""


@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_arrays_that_lie_oddly_in_memory(kind, device):
    layer = make("gru", device=device)
    x = draw(T, B, I).astype(kind) if kind is np.float64 else np.ones((T, B), kind)
    dy, state = draw(T, B, H, seed=1), draw(1, B, H, seed=2)

    def oddly(array: np.ndarray) -> list[np.ndarray]:
        room = np.zeros(array.nbytes + 1, np.uint8)[1:]  # off by one byte
        unaligned = room.view(array.dtype).reshape(array.shape)
        unaligned[...] = array
        wide = np.repeat(array, 2, -1)[..., ::2]
        return [unaligned, wide, np.asfortranarray(array), array.view(Subclass)]

    flow, J = inspect.gradient_flow(layer, x, state, dy=dy), inspect.jacobians(layer, x, state)
    for odd in zip(oddly(x), oddly(state), oddly(dy), strict=True):
        again = inspect.gradient_flow(layer, odd[0], odd[1], dy=odd[2], dstate=0 * odd[1])
        assert np.array_equal(again.h, flow.h)
        assert np.array_equal(inspect.jacobians(layer, odd[0], odd[1]), J)


def test_indices_are_one_hot_rows_and_unused_ones_are_not_read(device):
    layer = make("gru", device=device, num_layers=2)
    tokens = np.random.default_rng(0).integers(0, I, (T, B))
    lengths = np.array([5, 3, 1])
    rows = np.eye(I)[tokens]
    padded = np.where(np.arange(T)[:, None] < lengths, tokens, 99)
    for function in (inspect.jacobians, inspect.saturation):
        for a, b in zip(
            function(layer, padded, lengths=lengths),
            function(layer, rows, lengths=lengths),
            strict=True,
        ):
            assert a == pytest.approx(b, rel=1e-12)
    for kind in (np.uint8, np.int32, np.uint64):
        other = inspect.jacobians(layer, padded.astype(kind), lengths=lengths)
        assert np.array_equal(other, inspect.jacobians(layer, padded, lengths=lengths))
    dy = np.ones((T, B, H))
    flows = [inspect.gradient_flow(layer, a, dy=dy, lengths=lengths).h for a in (padded, rows)]
    assert flows[0] == pytest.approx(flows[1], rel=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_replaced_and_learned_states_are_where_steps_start(bidirectional, device):
    """A Jacobian tells from which state its step started."""
    layer = make("gru", device=device, initial_state="learned", bidirectional=bidirectional)
    D = 2 if bidirectional else 1
    layer.h_0[...] = draw(D, H)
    x = draw(T, B, I)
    learned = np.repeat(layer.h_0[:, None], B, 1)
    assert np.array_equal(inspect.jacobians(layer, x), inspect.jacobians(layer, x, learned))
    reset = np.zeros((T, B), bool)
    reset[2] = True
    replacement = draw(D, T, B, H, seed=2)
    pieces = [x[:2], x[2:]]
    for options, middle in (
        ({"reset_to": "learned"}, learned),
        ({"reset_state": replacement}, replacement[:, 2]),
        ({"reset_state": replacement[:, 2:3]}, replacement[:, 2]),
        ({}, np.zeros((D, B, H))),
    ):
        J = inspect.jacobians(layer, x, reset=reset, **options)
        # Each direction enters one of the pieces from its own initial state, the other by the
        # reset.
        starts = (np.stack([learned[0], middle[-1]]), np.stack([middle[0], learned[-1]]))
        parts = [
            inspect.jacobians(
                layer, piece, np.ascontiguousarray(start[:D] if D == 2 else start[:1])
            )
            for piece, start in zip(pieces, starts, strict=True)
        ]
        by_hand = np.concatenate(parts, 1)
        by_hand[0, 2] = 0
        if bidirectional:
            by_hand[1, 1] = 0
        np.testing.assert_allclose(J, by_hand, rtol=1e-12)
        flow = inspect.gradient_flow(layer, x, reset=reset, dstate=np.ones((D, B, H)), **options)
        assert not flow.h[0, :2].any()
        assert flow.h[0, 2:].all()


def test_empty_sequences_and_batches(device):
    layer = make("lstm", device=device)
    for shape in ((0, B, I), (T, 0, I)):
        x = np.zeros(shape)
        flow = inspect.gradient_flow(layer, x, dy=np.zeros((*shape[:2], H)))
        assert flow.h.shape == (1, *shape[:2], H)
        assert flow.norms.shape == (1, shape[0])
        assert inspect.jacobians(layer, x).shape == (1, *shape[:2], 2 * H, 2 * H)
        assert inspect.activations(layer, x)["c"].shape == (1, *shape[:2], H)


def test_what_is_refused_in_words():
    layer, x = make("gru"), draw(T, B, I)
    flow = inspect.gradient_flow
    with pytest.raises(rnnfast.ArgumentError, match=r"dy, dstate and dstates are all None"):
        flow(layer, x)
    with pytest.raises(rnnfast.ShapeError, match=r"gradient_flow: dy has shape \(5, 3, 3\)"):
        flow(layer, x, dy=np.zeros((T, B, 3)))
    with pytest.raises(rnnfast.ShapeError, match=r"x has shape"):
        flow(layer, x[:, :, :1], dy=np.zeros((T, B, H)))
    with pytest.raises(rnnfast.ArgumentError, match=r"dstates.c is given"):
        flow(layer, x, dstates=rnnfast.States(c=np.zeros((1, T, B, H))))
    with pytest.raises(TypeError, match=r"no option 'cu_seqlens'; there are lengths, mask"):
        inspect.jacobians(layer, x, cu_seqlens=np.array([0, 2]))
    with pytest.raises(
        rnnfast.DTypeError, match=r"layer is of type builtins.int, expected rnnfast"
    ):
        inspect.activations(3, x)
    with pytest.raises(rnnfast.ArgumentError, match=r"count is 5, expected at most 4"):
        inspect.lyapunov_exponents(layer, x, count=5)
    with pytest.raises(rnnfast.ArgumentError, match=r"count is 0, expected at least 1"):
        inspect.lyapunov_exponents(layer, x, count=0)
    with pytest.raises(rnnfast.ArgumentError, match=r"skip is 5, expected less than 5; T=5"):
        inspect.lyapunov_exponents(layer, x, skip=5)
    for margin in (0, 0.5, True, "wide", float("nan")):
        with pytest.raises(rnnfast.ArgumentError, match=r"margin is .*, expected 0 < margin < 0.5"):
            inspect.saturation(layer, x, margin=margin)
    with pytest.raises(rnnfast.DTypeError, match=r"of is of type list"):
        inspect.spectral_radius([1.0])
    with pytest.raises(rnnfast.DTypeError, match=r"of is complex128"):
        inspect.spectral_radius(np.zeros((2, 2), complex))
    with pytest.raises(rnnfast.ShapeError, match=r"shape \(2, 3\), expected \(..., N, N\)"):
        inspect.spectral_radius(np.zeros((2, 3)))


# Pictures -----------------------------------------------------------------------------------------


def test_pictures_hold_the_numbers():
    require("cli")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layer, text = make("lstm", num_layers=2, I=26), "teddy"
    tokens = np.array([[ord(c) - 97] for c in text])
    record = inspect.activations(layer, tokens)
    for letter, ends in {"f": (0, 1), "g": (-1, 1), "h": (-1, 1)}.items():
        ax = record.plot(letter, layer=1, labels=list(text))
        (image,) = ax.images
        assert np.array_equal(image.get_array(), record[letter][1, :, 0].T)
        assert image.get_clim() == ends
        assert [label.get_text() for label in ax.get_xticklabels()] == list(text)
    low, high = record.plot("c").images[0].get_clim()
    assert -low == high == np.abs(record["c"][0]).max()
    swapped = rnnfast.LSTM(26, H, batch_first=True, seed=0)
    both = inspect.activations(swapped, np.concatenate([tokens.T, tokens.T[:, ::-1]]))
    (image,) = both.plot("i", row=1).images
    assert np.array_equal(image.get_array(), both["i"][0, 1].T)

    _, given = pyplot.subplots()
    flow = inspect.gradient_flow(layer, tokens, dy=np.ones((len(text), 1, H)))
    assert flow.plot(given) is given
    assert given.get_yscale() == "log"
    assert [line.get_ydata().tolist() for line in given.lines] == flow.norms.tolist()
    spectrum = inspect.lyapunov_exponents(layer, tokens)
    lines = spectrum.plot().lines
    assert lines[0].get_ydata()[-1] == pytest.approx(spectrum.exponents[0, 0, 0])

    with pytest.raises(rnnfast.ArgumentError, match=r"labels has 2 entries, expected 5"):
        record.plot("f", labels=["a", "b"])
    with pytest.raises(rnnfast.ShapeError, match=r"values has shape \(5,\), expected \(T, H\)"):
        inspect.heat_map(np.zeros(5))
    with pytest.raises(rnnfast.DTypeError, match=r"values is of type list"):
        inspect.heat_map([[1.0]])
    pyplot.close("all")


def test_matplotlib_is_imported_for_pictures_only_and_named_where_it_is_missing():
    code = """
import sys
import numpy as np
import rnnfast
from rnnfast import inspect
layer, x = rnnfast.GRU(2, 3, seed=0), np.zeros((4, 1, 2), np.float32)
record = inspect.activations(layer, x)
inspect.lyapunov_exponents(layer, x), inspect.saturation(layer, x), inspect.spectral_radius(layer)
assert not any(name.startswith("matplotlib") for name in sys.modules)
sys.modules["matplotlib"] = None
try:
    record.plot("z")
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 'pip install "rnnfast[inspect]"' in run.stdout
    project = Path(__file__).parent.parent / "pyproject.toml"
    extras = tomllib.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]
    assert any(line.startswith("matplotlib") for line in extras["inspect"])
