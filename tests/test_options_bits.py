"""What options promise to the bit: every law of `option_laws.py` on each option and on random
combinations.

The instruction set is the one this process runs (RNNFAST_ISA); test_isas.py repeats this file for
the others. `option_bits_long.py` does the same with as many combinations as one likes.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import require
from problems import CELL_NAMES, make
from yardstick import check

import rnnfast

core = require("core")

# Below the line above, for they need the compiled module.
from option_bits_long import FAVOURS  # noqa: E402
from option_bits_long import check as hold_to_laws  # noqa: E402
from option_laws import LAWS, cut, judge_sums, pieces, rows, same, with_padding  # noqa: E402
from option_problems import SINGLES, build, fits, run, single  # noqa: E402

from rnnfast.reference import engine  # noqa: E402


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("law", LAWS)
def test_each_option(law, cell):
    rng = np.random.default_rng(1)
    for D in (1, 2):
        for name in SINGLES:
            if fits(name, cell, D):
                for seed, dtype in enumerate((np.float32, np.float64)):
                    problem = single(name, seed, cell, dtype, D=D, H=9)
                    try:
                        LAWS[law](problem, rng)
                    except AssertionError as error:
                        raise AssertionError(f"{name}, {D} directions: {error}") from error


@pytest.mark.parametrize("first", range(0, 300, 20))
def test_combinations(first):
    for seed in range(first, first + 20):
        hold_to_laws(seed)


# More rows than one member takes, more places than a chunk of either pass; rows and units split.
@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize(
    "features",
    [
        "lengths",
        "flat mask hold dstates",
        "mask reset reset_state",
        "lengths reset recurrent_dropout per_step",
        "reset zoneout training recurrent_dropout",
    ],
)
def test_threads_over_several_chunks(features, cell):
    for T, B, H in ((40, 30, 20), (40, 13, 17), (300, 3, 18)):
        problem = build(features.split(), 1, cell, np.float32, T=T, B=B, I=5, H=H)
        one = run(core, problem, 1)
        for threads in (2, 3, 4, 7):
            more = run(core, problem, threads)
            for name, value in one.items():
                assert value is None or same(value, more[name]), (threads, name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("reverse", ["", "reverse"])
@pytest.mark.parametrize("name", ["reset", "reset to states", "reset to one state", "zoneout"])
def test_parameter_gradients_of_pieces(name, reverse, cell, dtype):
    """The sum over pieces, cut anywhere or at every reset, is that of the whole."""
    features = SINGLES[name] | ({reverse} if reverse else set())
    problem = build(features, 3, cell, dtype, T=12, B=5, I=4, H=17)
    wider = np.float64 if dtype is np.float32 else np.longdouble
    plain, ref = run(engine, problem), run(engine, problem.astype(wider))
    parts = [run(core, problem, 2), pieces(problem, [0, 1, 5, 12], 2)]
    if problem.options.reset is not None:
        by_row = [cut(rows(problem, [b]), 1) for b in range(problem.B)]
        parts.append({k: sum(p[k] for p in by_row) for k in ("dW_0", "dR_0", "dbW_0", "dbR_0")})
    for part in parts:
        for k in ("dW_0", "dR_0", "dbW_0", "dbR_0"):
            check(k, part[k], plain[k], ref[k], width=problem.T * problem.B, blocks=problem.spec.G)


def test_sums_of_pieces_where_plain_arithmetic_is_exact_by_chance():
    """Of the 32 numbers of one block of dW the kernel is off by 8.7 eps of the largest in one, and
    NumPy by 1.2 at most. In 400 calls whose numbers differ by a millionth, both are off in that one
    by as much: 3.7 and 3.5 in the mean of squares, 12 and 12 at worst."""
    assert "cuts" in hold_to_laws(53319, FAVOURS[4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wrong_sums_of_pieces_are_found(dtype):
    """Over calls with other numbers too, what is off by more than rounding is."""
    problem = build(set(), 3, "gru", dtype, T=6, B=1, I=2, H=16)
    judge_sums(problem, lambda p: pieces(p, [0, 3, 6], 1))
    for wrong in ("dW_0", "dR_0", "dbW_0", "dbR_0"):

        def parts(p, wrong=wrong):
            results = pieces(p, [0, 3, 6], 1)
            results[wrong] = results[wrong] * dtype(1 + 32 * np.finfo(dtype).eps)
            return results

        with pytest.raises(AssertionError, match=f"{wrong}: gate block"):
            judge_sums(problem, parts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("H", [1, 7, 17, 33])
def test_between_layers(H, dtype):
    """Dropout and the residual sum are the reference's, on any threads, rows and steps."""
    rng = np.random.default_rng(H)
    T, B, start = 6, 7, 2**32 - 4
    ids = rng.integers(0, 2**32, B, dtype=np.uint32)
    cu = np.array([0, 6, 6, 9, 10, 15, 18, 21])
    many = itertools.cycle((2, 3, 7))

    def between(back_end, x, add, p, t0, row_ids, ends, threads):
        y = back_end.between_layers(x, add, H, p, 9, 2, t0, row_ids, ends, threads)
        return y.shape, y.dtype, y.tobytes()

    for D, p, plus in itertools.product((1, 2), (0.0, 0.25, 1.0), (False, True)):
        x, add = (rng.standard_normal((T, B, D * H)).astype(dtype) for _ in range(2))
        if not plus:
            add = None
        for ends, row_ids in ((None, ids), (cu, None)):
            args = [x, add]
            if ends is not None:
                args = [a if a is None else a.reshape(-1, D * H)[: ends[-1]] for a in args]
            expected = between(engine, *args, p, start, row_ids, ends, None)
            for threads in (1, next(many)):
                found = between(core, *args, p, start, row_ids, ends, threads)
                assert found == expected, (D, p, plus, threads)
        # Some rows of some steps, as a call of its own.
        y = core.between_layers(x, add, H, p, 9, 2, start, ids, None, 1)
        for steps, picks in ((slice(2, 5), [4, 0, 5]), (slice(5, 6), [6])):
            part = [a if a is None else a[steps][:, picks] for a in (x, add)]
            t0 = (start + steps.start) % 2**32
            found = core.between_layers(*part, H, p, 9, 2, t0, ids[picks], None, 1)
            assert found.tobytes() == y[steps][:, picks].tobytes(), (D, p, plus)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", ["", "reverse"])
@pytest.mark.parametrize("to", ["", "reset_state"])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_no_gradient_crosses_a_reset(cell, to, reverse, dtype):
    """It is exactly zero on the other side, and in the initial state, and is not on this side."""
    features = {"reset", "recurrent_dropout", "zoneout"} | ({to, reverse} - {""})
    problem = build(features, 5, cell, dtype, T=8, B=3, H=9)
    flags = np.zeros((8, 3), bool)
    border = 4
    flags[border, 1] = True
    dy = np.zeros_like(problem.dy)
    # A loss on this side: steps 4 ... 7 forward, 0 ... 3 reversed.
    here = slice(0, border) if reverse else slice(border, 8)
    there = slice(border, 8) if reverse else slice(0, border)
    dy[here] = 1
    none = tuple(np.zeros_like(d) for d in problem.dstate)
    problem = replace(problem, options=problem.options._replace(reset=flags), dy=dy, dstate=none)
    results = run(core, problem, 2)
    assert not results["dx"][there, 1].any()
    assert results["dx"][there, 0].any()
    assert results["dx"][here].any()
    for s in problem.spec.states:
        assert not results[f"d{s}0"][:, 1].any()
    dreset = results["dreset_h"]
    if dreset is not None:
        assert dreset[0, border, 1].any()
        dreset[0, border, 1] = 0
        assert not dreset.any()


@pytest.mark.parametrize("T", [0, 3])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_rows_of_no_steps(cell, T):
    """Where no row has a step the states go through and every other gradient is zero."""
    for features in ("lengths dstates dgates", "lengths hold", "mask", "flat", "flat hold reset"):
        for D in (1, 2):
            problem = build(features.split(), 2, cell, np.float32, T=T, B=4, D=D)
            o = problem.options
            if o.mask is not None:
                problem = replace(problem, options=o._replace(mask=np.zeros_like(o.mask)))
            elif o.lengths is not None:
                problem = replace(problem, options=o._replace(lengths=np.zeros_like(o.lengths)))
            else:
                problem = rows(problem, [0])
                n = int(problem.options.cu_seqlens[-1])
                if n:
                    continue  # the empty row is another one
            x = problem.x
            x[:] = np.nan
            hold, results = problem.options.hold, run(core, problem, 2)
            for k, s in enumerate(problem.spec.states):
                assert same(results[f"{s}_n"], problem.state[k])
                expected = problem.dstate[k]
                if hold and k == 0 and len(x):
                    expected = None  # dy flows to the held state too
                assert expected is None or same(results[f"d{s}0"], expected)
            for name, value in results.items():
                if value is None or (
                    name.endswith(("_n", "0")) and name[:2] in ("h_", "c_", "dh", "dc")
                ):
                    continue
                if hold and (name == "y" or name.startswith("states")):
                    continue
                assert not value.any(), name


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_the_tape_keeps_copies(cell):
    """What a caller does to masks, lengths, resets and replacements after forward has no effect."""
    features = ["lengths", "mask", "reset", "reset_state", "rows", "recurrent_dropout", "per_step"]
    for extra in ([], ["hold", "dstates"]):
        problem = build(features + extra, 4, cell, np.float32)
        o = problem.options
        expected = run(core, problem, 1)
        changing = [np.array(a) for a in (o.lengths, o.mask, o.reset, o.row_ids)]
        states = tuple(None if a is None else a.copy() for a in o.reset_state)
        names = ("lengths", "mask", "reset", "row_ids")
        given = o._replace(**dict(zip(names, changing, strict=True)), reset_state=states)
        p = problem
        _, _, tape = core.forward(cell, p.x, p.params, p.state, None, True, 2, given)
        for array in (*changing, *(a for a in states if a is not None)):
            array[:] = 0
        dx, _, dstate0, dreset = core.backward(tape, p.dy, p.dstate, True, 2, p.dstates, p.dgates)
        assert same(dx, expected["dx"])
        for s, a in zip(p.spec.states, dstate0, strict=True):
            assert same(a, expected[f"d{s}0"])
        for s, a in zip(p.spec.states, dreset, strict=True):
            assert a is None or same(a, expected[f"dreset_{s}"])
        assert all(
            same(a, expected[f"states_{s}"])
            for s, a in zip(p.spec.states, tape.states(), strict=True)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_options_that_say_nothing_equal_the_plain_call(cell, dtype):
    """At the functions: every result, parameter gradients too."""
    problem = make(cell, 9, 5, 4, 17).astype(dtype)
    plain = problem.run(device="cpu", threads=2)
    T, B = 9, 5
    for options in (
        {"lengths": np.full(B, T)},
        {"mask": np.ones((T, B), bool)},
        {"mask": np.ones((T, B), bool), "pad_output": "hold"},
        {"reset": np.zeros((T, B), bool)},
        {"recurrent_dropout": 0.0, "zoneout": 0.0, "weight_drop": 0.0, "seed": 3},
        {"recurrent_dropout": 0.5, "weight_drop": 0.5, "seed": 3, "training": False},
        {"burn_in": 0, "tbptt": None, "clip_state_gradient": None},
        {"tbptt": T},
        {"clip_state_gradient": 1e30},
        *([{"cell_clip": 1e30}] if cell == "lstm" else []),
    ):
        other = problem.run(device="cpu", threads=3, **options)
        for name, value in plain.items():
            assert (value is None) == (other[name] is None)
            assert value is None or same(value, other[name]), (options, name)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_a_reversed_scan_is_the_forward_scan_of_the_flipped_arrays(cell):
    """Without random masks, whose counters know the direction: every result."""
    features = [
        "mask",
        "reset",
        "reset_state",
        "hold",
        "dstates",
        "dgates",
        "gradient_clip",
        "zoneout",
    ]
    problem = build([*features, "reverse"], 6, cell, np.float32, T=40, B=9, H=17)
    o = problem.options
    flip = np.ascontiguousarray
    reset = np.zeros_like(o.reset)
    # The border between t-1 and t is the one between T-1-t and T-t.
    reset[1:] = o.reset[:0:-1]
    replacement = tuple(None if a is None else np.zeros_like(a) for a in o.reset_state)
    for new, a in zip(replacement, o.reset_state, strict=True):
        if a is not None:
            new[:, 1:] = a[:, :0:-1]
    flipped = replace(
        problem,
        x=flip(problem.x[::-1]),
        dy=flip(problem.dy[::-1]),
        dstates=tuple(None if a is None else flip(a[:, ::-1]) for a in problem.dstates),
        dgates=flip(problem.dgates[:, ::-1]),
        options=o._replace(
            mask=flip(o.mask[::-1]), reset=reset, reset_state=replacement, reverse=False
        ),
    )
    a, b = run(core, problem, 2), run(core, flipped, 3)
    for name, value in a.items():
        other = b[name]
        if value is None:
            assert other is None
        elif name in ("y", "dx"):
            assert same(value, flip(other[::-1])), name
        elif name == "gates" or name.startswith("states"):
            assert same(value, flip(other[:, ::-1])), name
        elif name.startswith("dreset"):
            assert same(value[:, 1:], flip(other[:, :0:-1])), name
            assert not value[:, 0].any()
        else:
            assert same(value, other), name


def test_padded_form_has_the_same_used_steps():
    """What `law_flat` compares with is not the flat call itself."""
    problem = single("flat", 1, "gru")
    padded = with_padding(problem)
    assert padded.options.cu_seqlens is None
    assert padded.x.ndim == 3
    assert padded.used().sum() == len(problem.x)
    assert rnnfast.backends()["cpu"] is None
