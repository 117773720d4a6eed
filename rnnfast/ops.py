"""The functions: one layer and direction over a whole sequence, forward and back in time.

`rnn`, `rnn_forward` and `rnn_backward` have the full documentation; `lstm` and `gru` differ from
them in what their pages say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy import ndarray

from . import _backend, _call, _values
from ._call import Call
from ._forms import FLAT, TIME_FIRST, Form, States
from ._indexed import IndexedRows
from ._scan_options import ScanOptions
from ._shapes import Checker, is_index_array
from .cells import CELLS, CellSpec
from .cuda import costs
from .cuda._arrays import dense
from .errors import ArgumentError, DTypeError, ShapeError, TapeError
from .options import FunctionForwardOptions, FunctionOptions

__all__ = [
    "Gradients",
    "Tape",
    "gru",
    "gru_backward",
    "gru_forward",
    "lstm",
    "lstm_backward",
    "lstm_forward",
    "rnn",
    "rnn_backward",
    "rnn_forward",
]

_compiled = _backend.compiled
_ran = _backend.ran
_KINDS = {False: FunctionOptions, True: FunctionForwardOptions}
"""The options of a function, by whether it keeps a tape."""

_PLAIN = Call()


class Gradients(NamedTuple):
    """What a function's backward pass returns, each entry in the shape of what it belongs to.

    `dx` is None for index input and under ``need_dx=False``; `dbW` and `dbR` are None where there
    was no bias; `dc0` is None but for the LSTM; `reset_state` is the gradient of that option, None
    where it was not given. Under index input `dW` is an `IndexedRows`.
    """

    dx: ndarray | None
    dW: ndarray | IndexedRows  # noqa: N815
    dR: ndarray  # noqa: N815
    dbW: ndarray | None  # noqa: N815
    dbR: ndarray | None  # noqa: N815
    dh0: ndarray
    dc0: ndarray | None = None
    reset_state: ndarray | tuple[ndarray | None, ...] | None = None


class Tape:
    """What a forward call keeps for its backward pass, which can run any number of times.

    It borrows x, y and the parameters: backward raises if one that it reads has changed since.
    """

    __slots__ = ("_call", "_engine", "_flipped", "_kept", "_shape_W")

    def __init__(
        self, engine: Any, kept: Any, flipped: bool, shape_W: tuple[int, int], call: Call
    ) -> None:
        self._engine, self._kept, self._shape_W, self._call = engine, kept, shape_W, call
        # Whether the back end ran forward over arrays turned round, as it does without options.
        self._flipped = flipped

    @property
    def cell(self) -> str:
        """Registry name of the cell."""
        return self._kept.cell

    @property
    def dtype(self) -> np.dtype:
        """Element type of the call."""
        return np.dtype(self._kept.dtype)

    @property
    def T(self) -> int:
        """Steps; those of the longest row for flat input."""
        return self._kept.T

    @property
    def B(self) -> int:
        """Batch."""
        return self._kept.B

    @property
    def I(self) -> int:
        """Input features, or the size of the vocabulary."""
        return self._kept.I

    @property
    def H(self) -> int:
        """Hidden units."""
        return self._kept.H

    @property
    def seed(self) -> int | None:
        """The seed of the random masks, None where none were drawn."""
        return None if self._call.draws is None else self._call.draws.seed

    def states(self) -> States:
        """Return the states and gates at every step.

        Returns
        -------
        States
            ``h, c, gates`` with (T, B, H), (T, B, G, H); flat (N, ...). Made at each call, and the
            caller's own.

        Raises
        ------
        TapeError
            If y has changed since.
        """
        back = slice(None, None, -1 if self._flipped else None)
        try:
            kept = self._kept.states()
        except RuntimeError as error:
            who = f"rnnfast.{CELLS[self.cell].function}_forward"
            text = str(error).removeprefix(f"rnnfast.{self.cell}: ")
            raise TapeError(f"{who}: {text}") from error
        sequences = [sequence[0][back] for sequence in kept]
        named = dict(zip(CELLS[self.cell].states, sequences, strict=True))
        return States(**named, gates=self._kept.gates()[0][back])

    def __repr__(self) -> str:
        return f"<rnnfast tape of {self.cell} (T={self.T}, B={self.B}, I={self.I}, H={self.H})>"


# The one road of all forward functions -----------------------------------------------------------


def _lift(state: Any) -> Any:
    """(B, H) as the (D, B, H) of the contract; what is no array goes to the checker as it is."""
    return state[None] if isinstance(state, ndarray) else state


def _forward(cell, who, x, row, state, reverse, out, threads, device, options, keep_tape):
    """Quick road first: the compiled module refuses with None, and only then Python checks."""
    if costs.TABLE:
        device = _settled(device, cell, row)
    core = _compiled.get(device) if type(device) is str else None
    if type(reverse) is not bool:
        reverse = _values.switch(who, "reverse", reverse)
    if options:
        options = _call.that_ask(options, _KINDS[keep_tape])
    if core is not None and not options and out is None and type(x) is ndarray and x.ndim == 3:
        steps = x[::-1] if reverse else x
        result = core.forward(cell, steps, (row,), state, None, keep_tape, threads)
        if result is not None:
            _ran.engine = core
            y, state_n, kept = result
            if keep_tape:
                kept = Tape(core, kept, reverse, row[0].shape, _PLAIN)
            return (y[::-1] if reverse else y), state_n, kept
    return _forward_checked(
        cell, who, x, row, state, reverse, out, threads, device, options, keep_tape
    )


def _settled(device, cell, row):
    """Look "auto" up for arrays that can be one of a call; what else they are is checked later."""
    W, R = row[:2]
    if not all(isinstance(a, ndarray) and a.ndim == 2 for a in (W, R)):
        return device
    return _backend.settled(device, cell, R.dtype.name, W.shape[1], R.shape[1], 1)


def _forward_checked(cell, who, x, row, state, reverse, out, threads, device, options, keep_tape):
    spec = CELLS[cell]
    engine = _backend.resolve(device, who, x)
    _call.check_names(who, options, _KINDS[keep_tape])
    check = _backend.checker(engine)(who, G=(spec.G, "the cell"))
    x = check.entered("x", x)
    flat = _call.enter_flat(check, options)
    form = TIME_FIRST if flat is None else FLAT
    indices = is_index_array(x)
    x, row, state, target = _check_arrays(check, form, spec, x, row, state, out)
    fields, call = _check_options(check, form, spec, options, flat, reverse, keep_tape)
    if indices:
        used = _call.used_steps(check, fields)
        x = check.in_range("x", x, check["I"], check.source("I"), used)
    threads = check.threads(threads)
    # Without options the back end runs forward over arrays turned round; on a GPU they stay as they
    # are, for not every library reads arrays whose strides are negative.
    flipped = bool(reverse) and not fields and isinstance(x, ndarray)
    plain = not fields and (flipped or not reverse)
    scan = () if plain else (ScanOptions(**fields, reverse=bool(reverse)),)
    back = slice(None, None, -1 if flipped else None)
    # Kernels take strides of any sign in time, but index arrays dense.
    steps = dense(x[back]) if indices else x[back]
    written = None if target is None else target[back]
    result = engine.forward(cell, steps, (row,), state, written, keep_tape, threads, *scan)
    if result is None:
        raise RuntimeError(
            f"{who}: internal error: the kernel refused arguments that were checked."
        )
    _ran.engine = engine
    y, state_n, kept = result
    y = y[back]
    check.leave()
    if out is not None:
        if target is not out and isinstance(out, ndarray):  # on a GPU it has been written
            out[...] = y
        y = out
    return y, state_n, Tape(engine, kept, flipped, row[0].shape, call) if keep_tape else None


def _check_arrays(check: Checker, form: Form, spec: CellSpec, x, row, state, out):
    """Check in the order in which letters get bound: x, the states, R, W, the biases, out."""
    who = check.who
    given = {"x": x, "W": row[0], "R": row[1], "bW": row[2], "bR": row[3]}
    if is_index_array(x):
        x = check.indices("x", x, form.steps)
    else:
        x = check.sequence("x", x, f"{form.steps} I")
    lifted = []
    for letter, array in zip(spec.states, state or (None,) * spec.S, strict=True):
        name = f"{letter}0"
        if array is not None:
            bare = given[name] = array[0] if isinstance(array, ndarray) else array
            array = check.block(name, bare, "B P" if letter == "h" else "B H")[None]
        lifted.append(array)
    R = check.block("R", row[1], "G*H P")
    W = check.block("W", row[0], "G*H I")
    bW = None if row[2] is None else check.block("bW", row[2], "G*H")
    bR = None if row[3] is None else check.block("bR", row[3], "G*H")
    target = None if out is None else check.out(out, f"{form.steps} H", given)
    if check["H"] < 1:
        raise ShapeError(f"{who}: R has shape {R.shape}, expected at least one hidden unit.")
    return x, (W, R, bW, bR), tuple(lifted), target


def _check_options(
    check: Checker,
    form: Form,
    spec: CellSpec,
    options: Mapping[str, Any],
    flat: ndarray | None,
    reverse: bool,
    keep_tape: bool,
) -> tuple[dict[str, Any], Call]:
    """Fields in which `ScanOptions` differ from a plain call, and what the tape keeps of it."""
    if not options:
        return {}, _PLAIN
    who = check.who
    fields = _call.check_steps(check, form, options, flat)
    replacement = _call.check_replacement(check, form, options, spec.states, "")
    if replacement is not None:
        fields["reset_state"] = replacement
    fields |= _call.check_time(who, options, "reverse=True" if reverse else None)
    settings = _call.check_settings(who, spec, options)
    training = _values.switch(who, "training", options.get("training", True))
    fields |= _call.scan_fields(settings, training, keep_tape)
    draws = None
    if training and settings.random:
        draws = _call.check_draws(who, options, _call.check_row_ids(check, options))
        fields |= draws._asdict()
    replaced = None if replacement is None else "given"
    return fields, Call(form, replaced=replaced, draws=draws, cu_seqlens=flat)


# The one road of all backward functions ----------------------------------------------------------


def _backward(cells, who, tape, dy, dstate, dstates, need_dx, threads):
    if type(tape) is not Tape:
        raise DTypeError(
            f"{who}: tape is of type {type(tape).__qualname__}, expected the tape that "
            f"{who.removesuffix('_backward')}_forward returned."
        )
    engine, kept, flipped, call = tape._engine, tape._kept, tape._flipped, tape._call
    if kept.cell not in cells:
        raise TapeError(
            f"{who}: tape came from {CELLS[kept.cell].function} (T={kept.T}, B={kept.B}), expected "
            f"one of {who.removesuffix('_backward')}_forward."
        )
    if type(need_dx) is not bool:  # the compiled module knows True from False, and nothing else
        need_dx = _values.switch(who, "need_dx", need_dx)
    quick = engine is _compiled.get("cpu") and call.form is TIME_FIRST and dstates is None
    try:
        result = None
        if quick and (dy is None or type(dy) is ndarray):
            steps = dy[::-1] if flipped and dy is not None and dy.ndim else dy
            result = engine.backward(kept, steps, dstate, need_dx, threads)
        if result is None:
            dy, dstate, inner, check = _check_backward(who, tape, dy, dstate, dstates)
            threads = check.threads(threads)
            steps = dy[::-1] if flipped and dy is not None else dy
            result = engine.backward(kept, steps, dstate, need_dx, threads, *inner)
            check.leave()
    except RuntimeError as error:
        raise TapeError(f"{who}: {str(error).removeprefix(f'rnnfast.{kept.cell}: ')}") from error
    if result is None:
        raise RuntimeError(
            f"{who}: internal error: the kernel refused arguments that were checked."
        )
    _ran.engine = engine
    dx, ((dW, dR, dbW, dbR),), dstate0, dreset = result
    if flipped and dx is not None:
        dx = dx[::-1]
    if type(dW) is tuple:
        indices, rows = dW
        dW = IndexedRows(indices, rows, tape._shape_W)
    first = tuple(d[0] for d in dstate0)
    dc0 = first[1] if len(first) == 2 else None
    if call.replaced is None:
        return Gradients(dx, dW, dR, dbW, dbR, first[0], dc0)
    replaced = tuple(None if d is None else d[0] for d in dreset)
    return Gradients(
        dx, dW, dR, dbW, dbR, first[0], dc0, replaced[0] if len(replaced) == 1 else replaced
    )


def _check_backward(who: str, tape: Tape, dy, dstate, dstates):
    spec, call = CELLS[tape.cell], tape._call
    form = call.form
    sizes = {letter: (getattr(tape, letter), "the tape") for letter in "TBH"}
    kind = _backend.checker(tape._engine)
    check = kind(who, (tape.dtype, "the tape"), G=(spec.G, "the cell"), **sizes)
    check.beside(tape._kept)
    if call.cu_seqlens is not None:
        check.bind("the tape", N=int(call.cu_seqlens[-1]))
    if dy is not None:
        dy = check.sequence("dy", dy, f"{form.steps} H")
    lifted = []
    for letter, array in zip(spec.states, dstate or (None,) * spec.S, strict=True):
        if array is not None:
            bare = array[0] if isinstance(array, ndarray) else array
            array = check.block(f"d{letter}_n", bare, "B H")[None]
        lifted.append(array)
    inner = _call.check_dstates(check, form, dstates, spec, "")
    if tape._flipped:
        inner = _flip(inner)
    return dy, tuple(lifted), inner, check


def _flip(inner):
    """Turn gradients into states and gates round in time."""
    if not inner:
        return inner
    sequences, gates = inner

    def flip(array):
        return None if array is None else np.ascontiguousarray(array[:, ::-1])

    return (None if sequences is None else tuple(map(flip, sequences))), flip(gates)


# rnn ---------------------------------------------------------------------------------------------

_NONLINEARITIES = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


def rnn_cell(nonlinearity: str, who: str) -> str:
    """Return the registry name of the plain cell with this nonlinearity."""
    cell = _NONLINEARITIES.get(nonlinearity) if isinstance(nonlinearity, str) else None
    if cell is None:
        raise ArgumentError(f'{who}: nonlinearity is {nonlinearity!r}, expected "tanh" or "relu".')
    return cell


def rnn(
    x: ndarray,
    W: ndarray,
    R: ndarray,
    bW: ndarray | None = None,
    bR: ndarray | None = None,
    h0: ndarray | None = None,
    *,
    nonlinearity: str = "tanh",
    reverse: bool = False,
    out: ndarray | None = None,
    threads: int | None = None,
    device: str = "auto",
    **options: Unpack[FunctionOptions],
) -> tuple[ndarray, ndarray]:
    """Run a plain (Elman) recurrent layer over a whole sequence.

        h <- phi(W x + bW + R h + bR)        phi = tanh or relu

    Parameters
    ----------
    x : (T, B, I) float32 or float64, or (T, B) of an integer dtype
        Input sequence, time first. Integers are indices: the same as one-hot rows of length I, to
        the bit. With `cu_seqlens` flat, (N, I) or (N,); then y and `out` are flat too.
    W : (G*H, I)
        Input weights; G = 1.
    R : (G*H, H)
        Recurrent weights.
    bW, bR : (G*H,), optional
        Biases, zero if omitted; only their sum matters.
    h0 : (B, H), optional
        Initial state, zero if omitted.
    nonlinearity : {"tanh", "relu"}
        phi, default tanh.
    reverse : bool
        Run from the last step to the first; y stays in the order of x, and the final state is the
        one after step 0.
    out : (T, B, H), optional
        Written and returned as y; must not overlap an argument.
    threads : int, optional
        At most so many; default `get_num_threads()`. Results do not depend on it.
    device : {"auto", "cpu", "cuda", "numpy"}
        Back end; one asked for by name runs or raises. "auto" follows arrays that lie on a GPU:
        `docs/cuda.md`.
    **options
        See `rnnfast.options.FunctionOptions`: `lengths`, `mask`, `cu_seqlens`, `reset`,
        `reset_state`, `pad_output`, `recurrent_dropout`, `recurrent_dropout_mode`, `zoneout`,
        `weight_drop`, `cell_clip`, `clip_state_gradient`, `training`, `seed`, `t0`, `row_ids`.

    Returns
    -------
    y : (T, B, H)
        Every hidden state.
    h_n : (B, H)
        The last one.

    Raises
    ------
    ShapeError, DTypeError, IndexRangeError, ArgumentError, DeviceError
        Name the array or option, what came, what was expected, and what fixed the expectation.

    References
    ----------
    Elman 1990, "Finding Structure in Time", Cognitive Science 14.
    """
    cell = rnn_cell(nonlinearity, "rnnfast.rnn")
    state = None if h0 is None else (_lift(h0),)
    y, (h_n,), _ = _forward(
        cell, "rnnfast.rnn", x, (W, R, bW, bR), state, reverse, out, threads, device, options, False
    )
    return y, h_n[0]


def rnn_forward(
    x: ndarray,
    W: ndarray,
    R: ndarray,
    bW: ndarray | None = None,
    bR: ndarray | None = None,
    h0: ndarray | None = None,
    *,
    nonlinearity: str = "tanh",
    reverse: bool = False,
    out: ndarray | None = None,
    threads: int | None = None,
    device: str = "auto",
    **options: Unpack[FunctionForwardOptions],
) -> tuple[ndarray, ndarray, Tape]:
    """Run `rnn` and keep a tape for `rnn_backward`.

    Parameters are those of `rnn`, and of its options also `burn_in` and `tbptt`, see
    `rnnfast.options.FunctionForwardOptions`.

    Returns
    -------
    y : (T, B, H)
    h_n : (B, H)
    tape : Tape
        Borrows x, y and the parameters; leave them as they are until the last backward call.
        ``tape.states()`` has the states and gates of every step.
    """
    who, row = "rnnfast.rnn_forward", (W, R, bW, bR)
    cell = rnn_cell(nonlinearity, who)
    state = None if h0 is None else (_lift(h0),)
    y, (h_n,), tape = _forward(
        cell, who, x, row, state, reverse, out, threads, device, options, True
    )
    return y, h_n[0], tape


def rnn_backward(
    tape: Tape,
    dy: ndarray | None = None,
    dh_n: ndarray | None = None,
    *,
    dstates: States | None = None,
    need_dx: bool = True,
    threads: int | None = None,
) -> Gradients:
    """Run `rnn` back through time.

    Parameters
    ----------
    tape : Tape
        From `rnn_forward`; not changed, so a second call gives the same bits.
    dy : (T, B, H), optional
        Gradient with respect to y, zero if omitted.
    dh_n : (B, H), optional
        Gradient with respect to `h_n`, zero if omitted.
    dstates : States, optional
        Gradients with respect to ``tape.states()``, zero where None.
    need_dx : bool
        Whether to compute the gradient of x.
    threads : int, optional
        As in `rnn`.

    Returns
    -------
    Gradients
        ``dx, dW, dR, dbW, dbR, dh0, dc0, reset_state`` with `dc0` None.

    Raises
    ------
    TapeError
        If the tape came from another function, or an array that it borrows has changed.
    ShapeError, DTypeError, ArgumentError
        If a gradient does not fit the tape.
    """
    dstate = None if dh_n is None else (_lift(dh_n),)
    cells = ("rnn_tanh", "rnn_relu")
    return _backward(cells, "rnnfast.rnn_backward", tape, dy, dstate, dstates, need_dx, threads)


# lstm --------------------------------------------------------------------------------------------


def lstm(
    x: ndarray,
    W: ndarray,
    R: ndarray,
    bW: ndarray | None = None,
    bR: ndarray | None = None,
    h0: ndarray | None = None,
    c0: ndarray | None = None,
    *,
    reverse: bool = False,
    out: ndarray | None = None,
    threads: int | None = None,
    device: str = "auto",
    **options: Unpack[FunctionOptions],
) -> tuple[ndarray, tuple[ndarray, ndarray]]:
    """Run an LSTM over a whole sequence.

        i = sigmoid(W_i x + bW_i + R_i h + bR_i)        f = sigmoid(W_f x + bW_f + R_f h + bR_f)
        g = tanh(W_g x + bW_g + R_g h + bR_g)     o = sigmoid(W_o x + bW_o + R_o h + bR_o)
        c <- f * c + i * g                         h <- o * tanh(c)

    Parameters, options and errors are those of `rnn`, less `nonlinearity`, with G = 4: gate blocks
    in the order i, f, g, o, as `torch.nn.LSTM`. There is a second state, c: its initial one is `c0`
    (B, H), zero if omitted.

    Returns
    -------
    y : (T, B, H)
        Every hidden state h.
    state : (h_n, c_n), each (B, H)
        The last states.

    References
    ----------
    Hochreiter and Schmidhuber 1997, Neural Computation 9(8); forget gate: Gers, Schmidhuber and
    Cummins 2000, Neural Computation 12(10). No peepholes.
    """
    who, row = "rnnfast.lstm", (W, R, bW, bR)
    state = None if h0 is None and c0 is None else (_lift(h0), _lift(c0))
    y, (h_n, c_n), _ = _forward(
        "lstm", who, x, row, state, reverse, out, threads, device, options, False
    )
    return y, (h_n[0], c_n[0])


def lstm_forward(
    x: ndarray,
    W: ndarray,
    R: ndarray,
    bW: ndarray | None = None,
    bR: ndarray | None = None,
    h0: ndarray | None = None,
    c0: ndarray | None = None,
    *,
    reverse: bool = False,
    out: ndarray | None = None,
    threads: int | None = None,
    device: str = "auto",
    **options: Unpack[FunctionForwardOptions],
) -> tuple[ndarray, tuple[ndarray, ndarray], Tape]:
    """Run `lstm` and keep a tape for `lstm_backward`: y, (h_n, c_n) and the tape.

    Parameters are those of `lstm`, the rest is as in `rnn_forward`.
    """
    who, row = "rnnfast.lstm_forward", (W, R, bW, bR)
    state = None if h0 is None and c0 is None else (_lift(h0), _lift(c0))
    y, (h_n, c_n), tape = _forward(
        "lstm", who, x, row, state, reverse, out, threads, device, options, True
    )
    return y, (h_n[0], c_n[0]), tape


def lstm_backward(
    tape: Tape,
    dy: ndarray | None = None,
    dh_n: ndarray | None = None,
    dc_n: ndarray | None = None,
    *,
    dstates: States | None = None,
    need_dx: bool = True,
    threads: int | None = None,
) -> Gradients:
    """Run `lstm` back through time.

    Parameters, results and errors are those of `rnn_backward`, and the gradients `dc_n` (B, H) with
    respect to the final c, zero if omitted, and `dc0`.
    """
    dstate = None if dh_n is None and dc_n is None else (_lift(dh_n), _lift(dc_n))
    who = "rnnfast.lstm_backward"
    return _backward(("lstm",), who, tape, dy, dstate, dstates, need_dx, threads)


# gru ---------------------------------------------------------------------------------------------


def gru(
    x: ndarray,
    W: ndarray,
    R: ndarray,
    bW: ndarray | None = None,
    bR: ndarray | None = None,
    h0: ndarray | None = None,
    *,
    reverse: bool = False,
    out: ndarray | None = None,
    threads: int | None = None,
    device: str = "auto",
    **options: Unpack[FunctionOptions],
) -> tuple[ndarray, ndarray]:
    """Run a GRU over a whole sequence.

        r = sigmoid(W_r x + bW_r + R_r h + bR_r)
        z = sigmoid(W_z x + bW_z + R_z h + bR_z)
        n = tanh(W_n x + bW_n + r * (R_n h + bR_n))
        h <- (1 - z) * n + z * h

    Parameters, options, results and errors are those of `rnn`, less `nonlinearity`, with G = 3:
    gate blocks in the order r, z, n, as `torch.nn.GRU`. The biases are not interchangeable: `bR` of
    gate n is inside the reset product.

    References
    ----------
    Cho et al. 2014, arXiv:1406.1078, in the reset-after form of cuDNN and PyTorch.
    """
    who, row = "rnnfast.gru", (W, R, bW, bR)
    state = None if h0 is None else (_lift(h0),)
    y, (h_n,), _ = _forward(
        "gru", who, x, row, state, reverse, out, threads, device, options, False
    )
    return y, h_n[0]


def gru_forward(
    x: ndarray,
    W: ndarray,
    R: ndarray,
    bW: ndarray | None = None,
    bR: ndarray | None = None,
    h0: ndarray | None = None,
    *,
    reverse: bool = False,
    out: ndarray | None = None,
    threads: int | None = None,
    device: str = "auto",
    **options: Unpack[FunctionForwardOptions],
) -> tuple[ndarray, ndarray, Tape]:
    """Run `gru` and keep a tape for `gru_backward`: y, h_n and the tape.

    Parameters are those of `gru`, the rest is as in `rnn_forward`.
    """
    who, row = "rnnfast.gru_forward", (W, R, bW, bR)
    state = None if h0 is None else (_lift(h0),)
    y, (h_n,), tape = _forward(
        "gru", who, x, row, state, reverse, out, threads, device, options, True
    )
    return y, h_n[0], tape


def gru_backward(
    tape: Tape,
    dy: ndarray | None = None,
    dh_n: ndarray | None = None,
    *,
    dstates: States | None = None,
    need_dx: bool = True,
    threads: int | None = None,
) -> Gradients:
    """Run `gru` back through time.

    Parameters, results and errors are those of `rnn_backward`.
    """
    dstate = None if dh_n is None else (_lift(dh_n),)
    who = "rnnfast.gru_backward"
    return _backward(("gru",), who, tape, dy, dstate, dstates, need_dx, threads)
