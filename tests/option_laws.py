"""What options promise to the bit, as laws that hold for any call of the compiled back end.

Each law takes an `OptionProblem`, raises AssertionError where it does not hold, and tells whether
it had anything to say: of a call without a step, or without the option, most have not. `LAWS` lists
them; `test_options_bits.py` runs them on a sample, `option_bits_long.py` on as many as one likes.

Comparisons take -0 for 0: where a whole call adds a sum that is zero, its parts may add nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from option_judge import decided
from option_problems import OptionProblem, run
from yardstick import check

from rnnfast import _core as core
from rnnfast.reference import engine
from rnnfast.reference.plan import Flat

__all__ = ["LAWS", "assert_same", "cut", "directions", "pieces", "rows", "same"]

Results = dict[str, Any]

# What `core` does in plain arithmetic, and eps of what its products take where that is not its
# dtype. A test of another back end puts its own here.
plainly: Callable[[OptionProblem], Results] = functools.partial(run, engine)
eps: float | None = None


def same(a: np.ndarray, b: np.ndarray) -> bool:
    # A sum with 0 makes 0 of -0 and changes nothing else.
    return a.shape == b.shape and a.dtype == b.dtype and (a + 0.0).tobytes() == (b + 0.0).tobytes()


def assert_same(a: Results, b: Results, what: str, only: Callable[[str], bool] | None = None):
    assert a.keys() == b.keys()
    for name in a:
        if only is not None and not only(name):
            continue
        assert (a[name] is None) == (b[name] is None), f"{what}: {name}"
        assert a[name] is None or same(a[name], b[name]), f"{what}: {name}"


def of_row(name: str) -> bool:
    """Whether a result belongs to one row, which parameter gradients do not."""
    return name[:2] not in ("dW", "dR", "db")


def of_forward(name: str) -> bool:
    return not name.startswith("d")


def law_threads(p: OptionProblem, rng: np.random.Generator) -> bool:
    """Every result, parameter gradients too, is the same with any number of threads."""
    one = run(core, p, 1)
    for threads in rng.choice([2, 3, 4, 7], 2, replace=False):
        assert_same(one, run(core, p, int(threads)), f"{threads} threads")
    return bool(p.used().any())


def law_runs(p: OptionProblem, rng: np.random.Generator) -> bool:
    """A second call and a second backward give the same, with or without a tape, into any `out`."""
    args = (p.spec.name, p.x, p.params, p.state)
    first = run(core, p, 2)
    assert_same(first, run(core, p, 2), "again")
    y, state_n, tape = core.forward(*args, None, True, 2, p.options)
    back = (tape, p.dy, p.dstate, True, 2, p.dstates, p.dgates)
    whole, again = (core.backward(*back) for _ in range(2))
    a, b = list(leaves(whole)), list(leaves(again))
    assert len(a) == len(b)
    assert all(same(u, v) for u, v in zip(a, b, strict=True)), "second backward"
    without = core.backward(tape, p.dy, p.dstate, False, 2, p.dstates, p.dgates)
    assert without[0] is None
    rest = list(leaves(without))
    assert all(same(u, v) for u, v in zip(a[len(a) - len(rest) :], rest, strict=True)), "no dx"
    dx, grads, first, dreset = core.backward(*back, False)
    assert first == (None,) * p.spec.S
    found, expected = leaves((dx, grads, dreset)), leaves((whole[0], whole[1], whole[3]))
    assert all(same(u, v) for u, v in zip(found, expected, strict=True)), "no dstate0"
    room = rng.standard_normal((*y.shape[:-1], y.shape[-1] + 3)).astype(y.dtype)
    out = room[..., 1:-2]
    outside = room.copy()
    z, state_z, none = core.forward(*args, out, False, 2, p.options)
    assert z is out
    assert none is None
    assert same(y, np.ascontiguousarray(out)), "without a tape"
    assert all(same(u, v) for u, v in zip(state_n, state_z, strict=True)), "without a tape"
    assert (room[..., :1] == outside[..., :1]).all()
    assert (room[..., -2:] == outside[..., -2:]).all()
    return bool(p.used().any())


def law_prepared(p: OptionProblem, rng: np.random.Generator) -> bool:
    """Packed weights give what plain ones do."""
    if p.options.weight_drop:
        return False
    rest = (p.state, None, False, 2, p.options)
    packed = core.prepare(p.spec.name, p.params)
    y, state_n, _ = core.forward(p.spec.name, p.x, p.params, *rest)
    z, state_z, _ = core.forward(p.spec.name, p.x, packed, *rest)
    assert same(y, z)
    assert all(same(u, v) for u, v in zip(state_n, state_z, strict=True))
    return bool(p.used().any())


def law_rows(p: OptionProblem, rng: np.random.Generator) -> bool:
    """A row alone, or among others, equals the row in the batch."""
    if p.B == 0:
        return False
    whole = run(core, p, 1)
    for count in {1, int(rng.integers(1, p.B + 1))}:
        picks = [int(b) for b in rng.permutation(p.B)[:count]]
        part = run(core, rows(p, picks), int(rng.integers(1, 4)))
        assert_same(rows_of_results(p, whole, picks), part, f"rows {picks}", of_row)
    return p.B > 1 and bool(p.used().any())


def law_lengths(p: OptionProblem, rng: np.random.Generator) -> bool:
    """A row with a length equals the row cut there."""
    o = p.options
    if o.lengths is None:
        return False
    for b in range(p.B):
        n = int(o.lengths[b])
        row = rows(p, [b])
        if o.hold:
            # What flows into the held state behind the end has no place in the row cut there.
            row.dy[n:] = 0
            for array in row.dstates or ():
                if array is not None:
                    array[:, n:] = 0
        whole = run(core, row, 1)
        short = replace(steps(row, 0, n), options=steps(row, 0, n).options._replace(lengths=None))
        part = run(core, short, 2)
        assert_same(steps_of_results(p, whole, 0, n), part, f"row {b} of {n} steps", of_row)
        if o.hold and not o.reverse and p.D == 1:
            assert (whole["y"][n:] == whole["h_n"][:, :]).all()
        if not o.hold:
            assert not whole["y"][n:].any()
            assert not any(whole[f"states_{s}"][:, n:].any() for s in p.spec.states)
        assert not whole["gates"][:, n:].any()
        assert whole["dx"] is None or not whole["dx"][n:].any()
        if n == 0:
            # Nothing runs: the state goes through, and its gradient.
            for s, d in zip(p.spec.states, row.dstate, strict=True):
                k = p.spec.states.index(s)
                start = None if row.state is None else row.state[k]
                assert (whole[f"{s}_n"] == (0 if start is None else start)).all()
                assert (whole[f"d{s}0"] == (0 if o.burn_in else d)).all()
            assert all(whole[k] is None or not whole[k].any() for k in whole if not of_row(k))
    return bool(((o.lengths > 0) & (o.lengths < p.T)).any())


def law_flat(p: OptionProblem, rng: np.random.Generator) -> bool:
    """Flat input equals padded input with lengths, parameter gradients too."""
    if p.options.cu_seqlens is None:
        return False
    flat = Flat(p.options.cu_seqlens)
    other = run(core, with_padding(p), int(rng.integers(1, 4)))
    assert_same(run(core, p, 1), unpadded(p, other, flat), "flat")
    return bool(p.used().any())


def law_directions(p: OptionProblem, rng: np.random.Generator) -> bool:
    """Two directions equal a forward and a reversed call; dx is their sum."""
    if p.D == 1:
        return False
    whole, H = run(core, p, int(rng.integers(1, 4))), p.H
    parts = [run(core, part, 1) for part in directions(p)]
    for d, part in enumerate(parts):
        for name, value in part.items():
            if name == "dx":
                continue
            if name == "y":
                mine = np.ascontiguousarray(whole["y"][..., d * H : (d + 1) * H])
            elif not of_row(name):
                mine = whole[f"{name[:-1]}{d}"]
            else:
                mine = None if whole[name] is None else whole[name][d : d + 1]
            assert (mine is None) == (value is None), f"direction {d}: {name}"
            assert mine is None or same(mine, value), f"direction {d}: {name}"
    if whole["dx"] is not None:
        assert same(whole["dx"], parts[0]["dx"] + parts[1]["dx"]), "dx of two directions"
    return bool(p.used().any())


def law_pieces(p: OptionProblem, rng: np.random.Generator) -> bool:
    """A sequence in pieces with carried state equals the whole."""
    o = p.options
    if p.D > 1 or o.burn_in or o.tbptt or p.T < 2:
        return False
    p = with_padding(p)
    cuts = sorted(set(rng.integers(0, p.T + 1, 2).tolist()))
    whole = run(core, p, 1)
    threads = int(rng.integers(1, 4))

    def parts(p: OptionProblem) -> Results:
        return pieces(p, [0, *cuts, p.T], threads)

    assert_same(whole, parts(p), f"cut at {cuts}", lambda name: comparable(p, name))
    judge_sums(p, parts)
    return bool(p.used().any()) and any(0 < t < p.T for t in cuts)


def law_resets(p: OptionProblem, rng: np.random.Generator) -> bool:
    """A reset equals a sequence cut there by hand."""
    o = p.options
    if p.D > 1 or o.burn_in or o.tbptt or o.reset is None or p.T < 1 or p.B < 1:
        return False
    p = with_padding(p)
    row = rows(p, [int(rng.integers(p.B))])
    threads = int(rng.integers(1, 4))

    def parts(row: OptionProblem) -> Results:
        return cut(row, threads)

    assert_same(run(core, row, 1), parts(row), "cut at resets", lambda name: comparable(p, name))
    judge_sums(row, parts)
    return any(_resets(row, t).any() for t in range(1, p.T))


def law_cuts(p: OptionProblem, rng: np.random.Generator) -> bool:
    """Truncation and burn-in equal calls that hand on the state as a constant."""
    if p.D > 1 or p.options.reverse or p.T < 2 or p.B == 0:
        return False
    o = p.options
    if not (o.tbptt or o.burn_in):
        o = o._replace(**{str(rng.choice(["tbptt", "burn_in"])): int(rng.integers(1, p.T))})
    p = with_padding(replace(p, options=o))
    if p.options.lengths is not None:
        # A row that has ended is cut no more, and pieces of the whole would cut it. But it equals
        # the row cut to its length, by the law of lengths, so one row of that kind says it all.
        b = int(np.argmax(p.options.lengths))
        p = steps(rows(p, [b]), 0, int(p.options.lengths[b]))
        p = replace(p, options=p.options._replace(lengths=None))
        if p.T < 2:
            return False
    whole = run(core, p, 1)
    k = o.tbptt or p.T
    borders = sorted({0, *range(k, p.T, k), min(o.burn_in, p.T), p.T})
    threads = int(rng.integers(1, 4))

    def parts(p: OptionProblem) -> Results:
        uncut = replace(p, options=p.options._replace(tbptt=0, burn_in=0))
        return pieces(uncut, borders, threads, constant=True, burn_in=o.burn_in)

    # Gradients of parameters are sums that run on from chunk to chunk, of 256 places or 1024. Each
    # piece begins a sum, so those of a truncation are in another order. A burn-in leaves the sum of
    # its last piece alone, which is that of the whole where all is one chunk. (And where the piece
    # begins with a chunk: they are counted from the first step of a call.)
    one_chunk = not o.tbptt and p.T * p.B <= 256
    assert_same(
        whole,
        parts(p),
        f"cut at {borders}",
        lambda name: comparable(p, name if of_row(name) or not one_chunk else "dx"),
    )
    judge_sums(p, parts)
    return bool(p.used().any()) and len(borders) > 2


def law_garbage(p: OptionProblem, rng: np.random.Generator) -> bool:
    """What stands at unused steps has no effect, and unused results are zero."""
    used = p.used()
    if used.all():
        return False
    first = run(core, p, 1)
    again = copied(p)
    hollow = [again.x] if p.options.hold else [again.x, again.dy]
    for array in hollow:
        array[~used] = -5 if array.dtype.kind == "i" else 3e30
    behind = [] if p.options.hold else [a for a in again.dstates or () if a is not None]
    for array in behind if again.dgates is None else [*behind, again.dgates]:
        array[:, ~used] = np.inf
    assert_same(first, run(core, again, 2), "garbage")
    assert all(value is None or np.isfinite(value).all() for value in first.values())
    assert not first["gates"][:, ~used].any()
    assert first["dx"] is None or not first["dx"][~used].any()
    if not p.options.hold:
        assert not first["y"][~used].any()
    return bool(used.any())


def law_none(p: OptionProblem, rng: np.random.Generator) -> bool:
    """Options that say nothing equal no options."""
    o = p.options
    lead = p.x.shape[:1] if o.cu_seqlens is not None else (p.T, p.B)
    nothing: dict[str, Any] = {}
    if o.mask is None:
        nothing["mask"] = np.ones(lead, bool)
    if o.lengths is None and o.cu_seqlens is None:
        nothing["lengths"] = np.full(p.B, p.T, np.int64)
    if o.reset is None and o.reset_state is None:
        nothing["reset"] = np.zeros(lead, bool)
    if o.zoneout is None:
        nothing["zoneout"] = (0.0,) * p.spec.S
    if o.row_ids is None:
        nothing["row_ids"] = np.arange(p.B, dtype=np.uint32)
    # A held state that is never held.
    if o.mask is None and o.lengths is None:
        nothing["hold"] = True
    chosen = {name: value for name, value in nothing.items() if rng.random() < 0.7}
    other = replace(p, options=o._replace(**chosen))
    assert_same(run(core, p, 1), run(core, other, 2), f"nothing in {sorted(chosen)}")
    return bool(chosen) and bool(p.used().any())


LAWS: dict[str, Callable[[OptionProblem, np.random.Generator], bool]] = {
    name.removeprefix("law_"): law
    for name, law in list(globals().items())
    if name.startswith("law_")
}


# Parts of a problem ------------------------------------------------------------------------------


def leaves(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, tuple):
        for entry in value:
            yield from leaves(entry)
    elif value is not None:
        yield value


def copied(p: OptionProblem) -> OptionProblem:
    def copy(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(copy(entry) for entry in value)
        return None if value is None else value.copy()

    return replace(p, x=copy(p.x), dy=copy(p.dy), dstates=copy(p.dstates), dgates=copy(p.dgates))


def mapped(p: OptionProblem, of_steps: Callable, of_batch: Callable, **options: Any):
    """Map all arrays over steps, of_steps(array, axis of the steps), and over the batch."""

    def each(arrays: Any, f: Callable, *args: int) -> Any:
        return None if arrays is None else tuple(a if a is None else f(a, *args) for a in arrays)

    o = p.options
    flat = o.cu_seqlens is not None
    reset_state = o.reset_state
    if reset_state is not None:
        reset_state = tuple(
            a
            if a is None
            # One for all steps has a batch only.
            else (
                of_batch(a, 2)
                if a.ndim == 4 and (flat or a.shape[1] == 1 != p.T)
                else of_steps(a, 1)
            )
            for a in reset_state
        )
    return replace(
        p,
        x=of_steps(p.x, 0),
        state=each(p.state, of_batch, 1),
        options=o._replace(
            mask=None if o.mask is None else of_steps(o.mask, 0),
            reset=None if o.reset is None else of_steps(o.reset, 0),
            reset_state=reset_state,
            **options,
        ),
        dy=of_steps(p.dy, 0),
        dstate=each(p.dstate, of_batch, 1),
        dstates=each(p.dstates, of_steps, 1),
        dgates=None if p.dgates is None else of_steps(p.dgates, 1),
    )


def rows(p: OptionProblem, picks: list[int]) -> OptionProblem:
    """The problem of some rows, which keep their numbers for the masks."""
    o = p.options
    ids = np.arange(p.B, dtype=np.uint32) if o.row_ids is None else o.row_ids
    given: dict[str, Any] = {"row_ids": ids[picks]}
    if o.lengths is not None:
        given["lengths"] = o.lengths[picks]
    if o.cu_seqlens is not None:
        lengths = np.diff(o.cu_seqlens)[picks]
        given["cu_seqlens"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return mapped(
        p,
        lambda a, axis: _rows_of_steps(p, a, axis, picks),
        lambda a, axis: np.ascontiguousarray(np.take(a, picks, axis)),
        **given,
    )


def _rows_of_steps(p: OptionProblem, a: np.ndarray, axis: int, picks: list[int]) -> np.ndarray:
    cu = p.options.cu_seqlens
    if cu is None:
        return np.ascontiguousarray(np.take(a, picks, axis + 1))
    index = np.concatenate([np.arange(cu[b], cu[b + 1]) for b in picks])
    return np.ascontiguousarray(np.take(a, index, axis))


def rows_of_results(p: OptionProblem, results: Results, picks: list[int]) -> Results:
    flat = p.options.cu_seqlens is not None
    out: Results = {}
    for name, value in results.items():
        if value is None or not of_row(name):
            out[name] = value
        elif name in ("y", "dx"):
            out[name] = _rows_of_steps(p, value, 0, picks)
        elif name.endswith(("_n", "0")):
            out[name] = np.ascontiguousarray(value[:, picks])
        elif name.startswith("dreset_") and value.ndim == 4 and flat:
            out[name] = np.ascontiguousarray(value[:, :, picks])
        else:
            out[name] = _rows_of_steps(p, value, 1, picks)
    return out


def steps(p: OptionProblem, start: int, end: int) -> OptionProblem:
    """The problem of steps start ... end-1, padded form; state and dstate are left as they are."""
    o = p.options
    given: dict[str, Any] = {"t0": (o.t0 + start) % 2**32}
    if o.lengths is not None:
        given["lengths"] = np.clip(o.lengths - start, 0, end - start)

    def take(a: np.ndarray, axis: int) -> np.ndarray:
        return np.ascontiguousarray(a[(slice(None),) * axis + (slice(start, end),)])

    return mapped(p, take, lambda a, axis: a, **given)


def steps_of_results(p: OptionProblem, results: Results, start: int, end: int) -> Results:
    out: Results = {}
    for name, value in results.items():
        if value is None or not of_row(name) or name.endswith(("_n", "0")):
            out[name] = value
        elif name in ("y", "dx"):
            out[name] = np.ascontiguousarray(value[start:end])
        elif name.startswith("dreset_") and value.shape[1] == 1 != p.T:
            out[name] = value
        else:
            out[name] = np.ascontiguousarray(value[:, start:end])
    return out


def with_padding(p: OptionProblem) -> OptionProblem:
    """Flat input as padded input with lengths."""
    if p.options.cu_seqlens is None:
        return p
    flat = Flat(p.options.cu_seqlens)

    def pad(a: np.ndarray, axis: int) -> np.ndarray:
        return np.stack([flat.pad(part) for part in a]) if axis else flat.pad(a)

    padded = mapped(p, pad, lambda a, axis: a, cu_seqlens=None, lengths=flat.lengths)
    # What is not there in flat input must not be read.
    padded.x[np.arange(flat.T)[:, None] >= flat.lengths] = -7 if p.x.dtype.kind == "i" else np.nan
    return padded


def unpadded(p: OptionProblem, results: Results, flat: Flat) -> Results:
    """Results in the form of the flat problem p."""
    given = dict(zip(p.spec.states, p.options.reset_state or (), strict=False))
    out = dict(results)
    for name, value in results.items():
        if value is None or not of_row(name) or name.endswith(("_n", "0")):
            continue
        if name in ("y", "dx"):
            out[name] = flat.unpad(value)
        elif not name.startswith("dreset_") or given[name[-1]].ndim == 3:
            out[name] = np.stack([flat.unpad(part) for part in value])
    return out


def directions(p: OptionProblem) -> list[OptionProblem]:
    """Each direction as a call of its own."""
    H = p.H

    def one(arrays: Any, d: int) -> Any:
        if arrays is None:
            return None
        return tuple(None if a is None else np.ascontiguousarray(a[d : d + 1]) for a in arrays)

    return [
        replace(
            p,
            params=p.params[d : d + 1],
            state=one(p.state, d),
            options=p.options._replace(reverse=d == 1, reset_state=one(p.options.reset_state, d)),
            dy=np.ascontiguousarray(p.dy[..., d * H : (d + 1) * H]),
            dstate=one(p.dstate, d),
            dstates=one(p.dstates, d),
            dgates=None if p.dgates is None else np.ascontiguousarray(p.dgates[d : d + 1]),
        )
        for d in range(2)
    ]


# Cutting by hand ---------------------------------------------------------------------------------


def pieces(
    p: OptionProblem,
    borders: list[int],
    threads: int,
    by_hand: bool = False,
    constant: bool = False,
    burn_in: int = 0,
) -> Results:
    """Run pieces with carried state, and put their results together; one direction, padded form.

    `by_hand` takes the option `reset` away and replaces the state at each border instead, where all
    rows have one. `constant` takes the carried state for a constant, and no gradient comes into
    pieces that begin within the burn-in.
    """
    o, S, reverse = p.options, p.spec.S, p.options.reverse
    letters, cell = p.spec.states, p.spec.name
    spans = list(itertools.pairwise(borders))
    order = spans[::-1] if reverse else spans
    state, kept = p.state, {}
    zeros = np.zeros((1, p.B, p.H), p.params[0][1].dtype)
    if state is None:
        state = (None,) * S
    for start, end in order:
        piece = steps(p, start, end)
        border = end if reverse else start
        flags = _resets(p, border)
        # Over the first border the reversed direction enters nothing.
        replaced = bool(flags.any()) and (not reverse or border > 0)
        if by_hand:
            piece = replace(piece, options=piece.options._replace(reset=None, reset_state=None))
            if replaced:
                state = _replacement(p, border)
        elif reverse and replaced:
            # A reversed piece does not know the border behind its last step.
            new = _replacement(p, border)
            state = tuple(
                np.where(flags[None, :, None], zeros if n is None else n, zeros if s is None else s)
                for n, s in zip(new, state, strict=True)
            )
        y, state_n, tape = core.forward(
            cell, piece.x, piece.params, state, None, True, threads, piece.options
        )
        kept[start, end] = (piece, y, tape, replaced, border)
        state = state_n
    results: Results = {"y": np.concatenate([kept[span][1] for span in spans])}
    results.update((f"{s}_n", a) for s, a in zip(letters, state, strict=True))
    parts = [kept[span][2].states() for span in spans]
    for k, s in enumerate(letters):
        results[f"states_{s}"] = np.concatenate([part[k] for part in parts], 1)
    results["gates"] = np.concatenate([kept[span][2].gates() for span in spans], 1)

    dstate, dx, dreset = p.dstate, {}, None
    sums: dict[str, Any] = {}
    if o.reset_state is not None:
        dreset = tuple(None if a is None else np.zeros_like(a) for a in o.reset_state)
    for start, end in order[::-1]:
        piece, _, tape, replaced, border = kept[start, end]
        if start < burn_in or (constant and end < p.T):
            dstate = tuple(np.zeros_like(d) for d in p.dstate)
        if start < burn_in:
            piece = replace(piece, dy=np.zeros_like(piece.dy), dstates=None, dgates=None)
        dx[start, end], grads, dstate, dparts = core.backward(
            tape, piece.dy, dstate, True, threads, piece.dstates, piece.dgates
        )
        dW, *rest = grads[0]
        if isinstance(dW, tuple):
            indices, columns = dW
            dW = np.zeros_like(p.params[0][0])
            dW[:, indices] = columns.T
        for name, value in zip(("dW_0", "dR_0", "dbW_0", "dbR_0"), (dW, *rest), strict=True):
            old = sums.get(name)
            sums[name] = value if old is None or value is None else old + value
        for k in range(S):
            if dparts is not None and dparts[k] is not None:
                one = o.reset_state[k].shape[1] == 1 != p.T
                dreset[k][:, slice(None) if one else slice(start, end)] += dparts[k]
        if replaced and (by_hand or reverse):
            flags = _resets(p, border)
            for k in range(S):
                if dreset is not None and dreset[k] is not None:
                    one = o.reset_state[k].shape[1] == 1 != p.T
                    dreset[k][:, 0 if one else border][:, flags] += dstate[k][:, flags]
            dstate = tuple(np.where(flags[None, :, None], np.zeros_like(d), d) for d in dstate)
    results["dx"] = None if p.x.dtype.kind == "i" else np.concatenate([dx[span] for span in spans])
    results.update(sums)
    results.update((f"d{s}0", a) for s, a in zip(letters, dstate, strict=True))
    dreset = (None,) * S if dreset is None else dreset
    results.update((f"dreset_{s}", a) for s, a in zip(letters, dreset, strict=True))
    return results


def cut(p: OptionProblem, threads: int) -> Results:
    """Run one row as pieces from reset to reset, without the option."""
    o = p.options
    n = p.T if o.lengths is None else int(o.lengths[0])
    at = [t for t in range(p.T) if o.reset[t, 0] and t < n]
    # Where nothing is left of the first piece, an empty one carries what came before.
    borders = [0, *at, p.T]
    if o.reverse:
        borders = [0, *[t for t in at if t > 0], p.T]
    return pieces(p, borders, threads, by_hand=True)


def _resets(p: OptionProblem, t: int) -> np.ndarray:
    """Which rows are reset at the border before step t."""
    o = p.options
    if o.reset is None or t >= p.T:
        return np.zeros(p.B, bool)
    return o.reset[t] & (True if o.lengths is None else t < o.lengths)


def _replacement(p: OptionProblem, t: int) -> tuple[np.ndarray | None, ...]:
    given = p.options.reset_state
    if given is None:
        return (None,) * p.spec.S
    return tuple(
        None if a is None else np.ascontiguousarray(a[:, 0 if a.shape[1] == 1 else t])
        for a in given
    )


def comparable(p: OptionProblem, name: str) -> bool:
    """Whether pieces give this result to the bit, and not only as another order of a sum."""
    if not of_row(name):
        return False
    if of_forward(name):
        return True
    # What comes in at unused steps is added to the gradient of the state held there: in one sum.
    unused = not p.used().all()
    if p.options.hold and unused:
        return False
    # A gradient of one replacement for all steps is a sum over the steps.
    one = p.options.reset_state is not None and any(
        a is not None and a.shape[1] == 1 != p.T for a in p.options.reset_state
    )
    return not (one and name.startswith("dreset_"))


def judge_sums(p: OptionProblem, parts: Callable[[OptionProblem], Results]) -> None:
    """Judge the parameter gradients of pieces, which are sums in another order, by the yardstick.

    A gate block may have a handful of numbers, and plain arithmetic be nearly exact in all of them
    by chance: then pieces that are as near the truth over many such calls are beyond twice its
    error in this one. So a call beyond it is judged again with 63 like it, as one, as
    `option_judge.judge` judges blocks of few numbers.
    """
    try:
        _judge_sums([p], parts)
    except AssertionError:
        _judge_sums([p, *like(p, 63)], parts)


def _judge_sums(draws: list[OptionProblem], parts: Callable[[OptionProblem], Results]) -> None:
    p = draws[0]
    dtype = p.params[0][1].dtype.type
    wider = np.float64 if dtype is np.float32 else np.longdouble
    draws = [draw for draw in draws if decided(draw, dtype)]
    calls = [(parts(d), plainly(d), run(engine, d.astype(wider))) for d in draws]
    for name in ("dW_0", "dR_0", "dbW_0", "dbR_0"):
        arrays = [[results[name] for results in call] for call in calls]
        if arrays and arrays[0][0] is not None:
            stacked = (np.stack(of_one_kind, -1) for of_one_kind in zip(*arrays, strict=True))
            check(name, *stacked, width=p.T * p.B, blocks=p.spec.G, eps=eps)


def like(p: OptionProblem, count: int) -> Iterator[OptionProblem]:
    """The same call with other numbers: x and dy drawn anew, parameters moved by up to a fifth."""
    rng = np.random.default_rng(0)

    def moved(a: np.ndarray | None) -> np.ndarray | None:
        return None if a is None else (a * rng.uniform(0.8, 1.2, a.shape)).astype(a.dtype)

    def anew(a: np.ndarray) -> np.ndarray:
        if a.dtype.kind != "f":
            return a
        # NaN stands where nothing must be read.
        return np.where(np.isnan(a), a, rng.standard_normal(a.shape).astype(a.dtype))

    for _ in range(count):
        params = tuple(tuple(moved(a) for a in arrays) for arrays in p.params)
        yield replace(p, x=anew(p.x), params=params, dy=anew(p.dy))
