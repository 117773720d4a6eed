"""The functions: one layer and direction over a whole sequence, forward and back in time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from . import _backend
from ._indexed import IndexedRows
from ._shapes import Checker, check_index_range, is_index_array
from .cells import CELLS, CellSpec
from .errors import ArgumentError, DTypeError, ShapeError, TapeError

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


class Gradients(NamedTuple):
    """What a function's backward pass returns, each entry in the shape of what it belongs to.

    `dx` is None for index input and under ``need_dx=False``; `dbW` and `dbR` are None where there
    was no bias; `dc0` is None but for the LSTM. Under index input `dW` is an `IndexedRows`.
    """

    dx: ndarray | None
    dW: ndarray | IndexedRows  # noqa: N815
    dR: ndarray  # noqa: N815
    dbW: ndarray | None  # noqa: N815
    dbR: ndarray | None  # noqa: N815
    dh0: ndarray
    dc0: ndarray | None = None


class Tape:
    """What a forward call keeps for its backward pass, which can run any number of times.

    It borrows x, y and the parameters: backward raises if one of them has changed since.
    """

    __slots__ = ("_engine", "_kept", "_reverse", "_shape_W")

    def __init__(self, engine: Any, kept: Any, reverse: bool, shape_W: tuple[int, int]) -> None:
        self._engine, self._kept, self._reverse, self._shape_W = engine, kept, reverse, shape_W

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
        """Steps."""
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

    def __repr__(self) -> str:
        return f"<rnnfast tape of {self.cell} (T={self.T}, B={self.B}, I={self.I}, H={self.H})>"


# The one road of all forward functions -----------------------------------------------------------


def _lift(state: Any) -> Any:
    """(B, H) as the (D, B, H) of the contract; what is no array goes to the checker as it is."""
    return state[None] if isinstance(state, ndarray) else state


def _forward(cell, who, x, row, state, reverse, out, threads, device, keep_tape):
    """Quick road first: the compiled module refuses with None, and only then Python checks."""
    core = _compiled.get(device)
    if core is not None and out is None and type(x) is ndarray and x.ndim == 3:
        steps = x[::-1] if reverse else x
        result = core.forward(cell, steps, (row,), state, None, keep_tape, threads)
        if result is not None:
            _ran.engine = core
            y, state_n, kept = result
            if keep_tape:
                kept = Tape(core, kept, reverse, row[0].shape)
            return (y[::-1] if reverse else y), state_n, kept
    return _forward_checked(cell, who, x, row, state, reverse, out, threads, device, keep_tape)


def _forward_checked(cell, who, x, row, state, reverse, out, threads, device, keep_tape):
    engine = _backend.resolve(device, who)
    x, row, state, target, threads = _check_forward(who, CELLS[cell], x, row, state, out, threads)
    back = slice(None, None, -1) if reverse else slice(None)
    # Kernels take strides of any sign in time, but index arrays dense.
    steps = np.ascontiguousarray(x[back]) if x.ndim == 2 else x[back]
    written = None if target is None else target[back]
    result = engine.forward(cell, steps, (row,), state, written, keep_tape, threads)
    if result is None:
        raise RuntimeError(
            f"{who}: internal error: the kernel refused arguments that were checked."
        )
    _ran.engine = engine
    y, state_n, kept = result
    y = y[back]
    if out is not None:
        if target is not out:
            out[...] = y
        y = out
    return y, state_n, Tape(engine, kept, reverse, row[0].shape) if keep_tape else None


def _check_forward(who: str, spec: CellSpec, x, row, state, out, threads):
    """Check in the order in which letters get bound: x, the states, R, W, the biases, out."""
    check = Checker(who, G=(spec.G, "the cell"))
    indices = is_index_array(x)
    given = {"x": x, "W": row[0], "R": row[1], "bW": row[2], "bR": row[3]}
    if not indices:
        x = check.sequence("x", x, "T B I")
    elif x.ndim == 3:
        raise DTypeError(
            f"{who}: x is {x.dtype} with shape {x.shape}; an integer dtype means indices (T, B). "
            "For dense input use x.astype(W.dtype)."
        )
    else:
        x = check.indices("x", x, "T B")
    lifted = []
    for letter, array in zip(spec.states, state or (None,) * spec.S, strict=True):
        name = f"{letter}0"
        if array is not None:
            given[name] = array
            bare = array[0] if isinstance(array, ndarray) else array
            array = check.block(name, bare, "B P" if letter == "h" else "B H")[None]
        lifted.append(array)
    R = check.block("R", row[1], "G*H P")
    W = check.block("W", row[0], "G*H I")
    bW = None if row[2] is None else check.block("bW", row[2], "G*H")
    bR = None if row[3] is None else check.block("bR", row[3], "G*H")
    if indices:
        x = check_index_range(who, "x", x, check["I"], check.source("I"))
    target = None if out is None else check.out(out, "T B H", given)
    if check["H"] < 1:
        raise ShapeError(f"{who}: R has shape {R.shape}, expected at least one hidden unit.")
    return x, (W, R, bW, bR), tuple(lifted), target, check.threads(threads)


# The one road of all backward functions ----------------------------------------------------------


def _backward(cells, who, tape, dy, dstate, need_dx, threads):
    if type(tape) is not Tape:
        raise DTypeError(
            f"{who}: tape is of type {type(tape).__qualname__}, expected the tape that "
            f"{who.removesuffix('_backward')}_forward returned."
        )
    engine, kept, reverse = tape._engine, tape._kept, tape._reverse
    if kept.cell not in cells:
        raise TapeError(
            f"{who}: tape came from {CELLS[kept.cell].function} (T={kept.T}, B={kept.B}), expected "
            f"one of {who.removesuffix('_backward')}_forward."
        )
    need_dx = bool(need_dx)  # the compiled module knows True from False, and nothing else
    try:
        result = None
        if engine is _compiled.get("cpu") and (dy is None or type(dy) is ndarray):
            steps = dy[::-1] if reverse and dy is not None and dy.ndim else dy
            result = engine.backward(kept, steps, dstate, need_dx, threads)
        if result is None:
            dy, dstate, threads = _check_backward(who, tape, dy, dstate, threads)
            steps = dy[::-1] if reverse and dy is not None else dy
            result = engine.backward(kept, steps, dstate, need_dx, threads)
    except RuntimeError as error:
        raise TapeError(f"{who}: {str(error).removeprefix(f'rnnfast.{kept.cell}: ')}") from error
    if result is None:
        raise RuntimeError(
            f"{who}: internal error: the kernel refused arguments that were checked."
        )
    _ran.engine = engine
    dx, ((dW, dR, dbW, dbR),), dstate0 = result
    if reverse and dx is not None:
        dx = dx[::-1]
    if type(dW) is tuple:
        indices, rows = dW
        dW = IndexedRows(indices, rows, tape._shape_W)
    return Gradients(dx, dW, dR, dbW, dbR, *(d[0] for d in dstate0))


def _check_backward(who: str, tape: Tape, dy, dstate, threads):
    sizes = {letter: (getattr(tape, letter), "the tape") for letter in "TBH"}
    check = Checker(who, (tape.dtype, "the tape"), **sizes)
    spec = CELLS[tape.cell]
    if dy is not None:
        dy = check.sequence("dy", dy, "T B H")
    lifted = []
    for letter, array in zip(spec.states, dstate or (None,) * spec.S, strict=True):
        if array is not None:
            bare = array[0] if isinstance(array, ndarray) else array
            array = check.block(f"d{letter}_n", bare, "B H")[None]
        lifted.append(array)
    return dy, tuple(lifted), check.threads(threads)


# rnn ---------------------------------------------------------------------------------------------

_NONLINEARITIES = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


def rnn_cell(nonlinearity: str, who: str) -> str:
    """Return the registry name of the plain cell with this nonlinearity."""
    cell = _NONLINEARITIES.get(nonlinearity)
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
) -> tuple[ndarray, ndarray]:
    """Run a plain (Elman) recurrent layer over a whole sequence.

        h <- phi(W x + bW + R h + bR)        phi = tanh or relu

    Parameters
    ----------
    x : (T, B, I) float32 or float64, or (T, B) of an integer dtype
        Input sequence, time first. Integers are indices: the same as one-hot rows of length I, to
        the bit.
    W : (H, I)
        Input weights.
    R : (H, H)
        Recurrent weights.
    bW, bR : (H,), optional
        Biases, zero if omitted; only their sum matters.
    h0 : (B, H), optional
        Initial state, zero if omitted.
    nonlinearity : {"tanh", "relu"}
        phi, default tanh.
    reverse : bool
        Run from the last step to the first; y stays in the order of x, and `h_n` is the state after
        step 0.
    out : (T, B, H), optional
        Written and returned as y; must not overlap an argument.
    threads : int, optional
        At most so many; default `get_num_threads()`. Results do not depend on it.
    device : {"auto", "cpu", "cuda", "numpy"}
        Back end; one asked for by name runs or raises.

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
        cell, "rnnfast.rnn", x, (W, R, bW, bR), state, reverse, out, threads, device, False
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
) -> tuple[ndarray, ndarray, Tape]:
    """Run `rnn` and keep a tape for `rnn_backward`.

    Parameters are those of `rnn`.

    Returns
    -------
    y : (T, B, H)
    h_n : (B, H)
    tape : Tape
        Borrows x, y and the parameters; leave them as they are until the last backward call.
    """
    cell = rnn_cell(nonlinearity, "rnnfast.rnn_forward")
    state = None if h0 is None else (_lift(h0),)
    y, (h_n,), tape = _forward(
        cell, "rnnfast.rnn_forward", x, (W, R, bW, bR), state, reverse, out, threads, device, True
    )
    return y, h_n[0], tape


def rnn_backward(
    tape: Tape,
    dy: ndarray | None = None,
    dh_n: ndarray | None = None,
    *,
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
    need_dx : bool
        Whether to compute the gradient of x.
    threads : int, optional
        As in `rnn`.

    Returns
    -------
    Gradients
        ``dx, dW, dR, dbW, dbR, dh0, dc0`` with `dc0` None.

    Raises
    ------
    TapeError
        If the tape came from another function, or an array that it borrows has changed.
    ShapeError, DTypeError
        If a gradient does not fit the tape.
    """
    dstate = None if dh_n is None else (_lift(dh_n),)
    return _backward(
        ("rnn_tanh", "rnn_relu"), "rnnfast.rnn_backward", tape, dy, dstate, need_dx, threads
    )


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
) -> tuple[ndarray, tuple[ndarray, ndarray]]:
    """Run an LSTM over a whole sequence.

        i = sigmoid(W_i x + bW_i + R_i h + bR_i)        f = sigmoid(W_f x + bW_f + R_f h + bR_f)
        g = tanh(W_g x + bW_g + R_g h + bR_g)     o = sigmoid(W_o x + bW_o + R_o h + bR_o)
        c <- f * c + i * g                         h <- o * tanh(c)

    Parameters
    ----------
    x : (T, B, I) float32 or float64, or (T, B) of an integer dtype
        Input sequence, time first. Integers are indices: the same as one-hot rows of length I, to
        the bit.
    W : (4H, I)
        Input weights; gate blocks in the order i, f, g, o (as `torch.nn.LSTM`).
    R : (4H, H)
        Recurrent weights, same order.
    bW, bR : (4H,), optional
        Biases, zero if omitted; only their sum matters.
    h0, c0 : (B, H), optional
        Initial states, zero if omitted.
    reverse : bool
        Run from the last step to the first; y stays in the order of x, and the final states are
        those after step 0.
    out : (T, B, H), optional
        Written and returned as y; must not overlap an argument.
    threads : int, optional
        At most so many; default `get_num_threads()`. Results do not depend on it.
    device : {"auto", "cpu", "cuda", "numpy"}
        Back end; one asked for by name runs or raises.

    Returns
    -------
    y : (T, B, H)
        Every hidden state h.
    state : (h_n, c_n), each (B, H)
        The last states.

    Raises
    ------
    ShapeError, DTypeError, IndexRangeError, ArgumentError, DeviceError
        Name the array or option, what came, what was expected, and what fixed the expectation.

    References
    ----------
    Hochreiter and Schmidhuber 1997, Neural Computation 9(8); forget gate: Gers, Schmidhuber and
    Cummins 2000, Neural Computation 12(10). No peepholes.
    """
    state = None if h0 is None and c0 is None else (_lift(h0), _lift(c0))
    y, (h_n, c_n), _ = _forward(
        "lstm", "rnnfast.lstm", x, (W, R, bW, bR), state, reverse, out, threads, device, False
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
) -> tuple[ndarray, tuple[ndarray, ndarray], Tape]:
    """Run `lstm` and keep a tape for `lstm_backward`.

    Parameters are those of `lstm`.

    Returns
    -------
    y : (T, B, H)
    state : (h_n, c_n), each (B, H)
    tape : Tape
        Borrows x, y and the parameters; leave them as they are until the last backward call.
    """
    state = None if h0 is None and c0 is None else (_lift(h0), _lift(c0))
    y, (h_n, c_n), tape = _forward(
        "lstm",
        "rnnfast.lstm_forward",
        x,
        (W, R, bW, bR),
        state,
        reverse,
        out,
        threads,
        device,
        True,
    )
    return y, (h_n[0], c_n[0]), tape


def lstm_backward(
    tape: Tape,
    dy: ndarray | None = None,
    dh_n: ndarray | None = None,
    dc_n: ndarray | None = None,
    *,
    need_dx: bool = True,
    threads: int | None = None,
) -> Gradients:
    """Run `lstm` back through time.

    Parameters
    ----------
    tape : Tape
        From `lstm_forward`; not changed, so a second call gives the same bits.
    dy : (T, B, H), optional
        Gradient with respect to y, zero if omitted.
    dh_n, dc_n : (B, H), optional
        Gradients with respect to the final states, zero if omitted.
    need_dx : bool
        Whether to compute the gradient of x.
    threads : int, optional
        As in `lstm`.

    Returns
    -------
    Gradients
        ``dx, dW, dR, dbW, dbR, dh0, dc0``.

    Raises
    ------
    TapeError
        If the tape came from another function, or an array that it borrows has changed.
    ShapeError, DTypeError
        If a gradient does not fit the tape.
    """
    dstate = None if dh_n is None and dc_n is None else (_lift(dh_n), _lift(dc_n))
    return _backward(("lstm",), "rnnfast.lstm_backward", tape, dy, dstate, need_dx, threads)


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
) -> tuple[ndarray, ndarray]:
    """Run a GRU over a whole sequence.

        r = sigmoid(W_r x + bW_r + R_r h + bR_r)
        z = sigmoid(W_z x + bW_z + R_z h + bR_z)
        n = tanh(W_n x + bW_n + r * (R_n h + bR_n))
        h <- (1 - z) * n + z * h

    Parameters
    ----------
    x : (T, B, I) float32 or float64, or (T, B) of an integer dtype
        Input sequence, time first. Integers are indices: the same as one-hot rows of length I, to
        the bit.
    W : (3H, I)
        Input weights; gate blocks in the order r, z, n (as `torch.nn.GRU`).
    R : (3H, H)
        Recurrent weights, same order.
    bW, bR : (3H,), optional
        Biases, zero if omitted. They are not interchangeable: `bR` of gate n is inside the reset
        product.
    h0 : (B, H), optional
        Initial state, zero if omitted.
    reverse : bool
        Run from the last step to the first; y stays in the order of x, and `h_n` is the state after
        step 0.
    out : (T, B, H), optional
        Written and returned as y; must not overlap an argument.
    threads : int, optional
        At most so many; default `get_num_threads()`. Results do not depend on it.
    device : {"auto", "cpu", "cuda", "numpy"}
        Back end; one asked for by name runs or raises.

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
    Cho et al. 2014, arXiv:1406.1078, in the reset-after form of cuDNN and PyTorch.
    """
    state = None if h0 is None else (_lift(h0),)
    y, (h_n,), _ = _forward(
        "gru", "rnnfast.gru", x, (W, R, bW, bR), state, reverse, out, threads, device, False
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
) -> tuple[ndarray, ndarray, Tape]:
    """Run `gru` and keep a tape for `gru_backward`.

    Parameters are those of `gru`.

    Returns
    -------
    y : (T, B, H)
    h_n : (B, H)
    tape : Tape
        Borrows x, y and the parameters; leave them as they are until the last backward call.
    """
    state = None if h0 is None else (_lift(h0),)
    y, (h_n,), tape = _forward(
        "gru", "rnnfast.gru_forward", x, (W, R, bW, bR), state, reverse, out, threads, device, True
    )
    return y, h_n[0], tape


def gru_backward(
    tape: Tape,
    dy: ndarray | None = None,
    dh_n: ndarray | None = None,
    *,
    need_dx: bool = True,
    threads: int | None = None,
) -> Gradients:
    """Run `gru` back through time.

    Parameters
    ----------
    tape : Tape
        From `gru_forward`; not changed, so a second call gives the same bits.
    dy : (T, B, H), optional
        Gradient with respect to y, zero if omitted.
    dh_n : (B, H), optional
        Gradient with respect to `h_n`, zero if omitted.
    need_dx : bool
        Whether to compute the gradient of x.
    threads : int, optional
        As in `gru`.

    Returns
    -------
    Gradients
        ``dx, dW, dR, dbW, dbR, dh0, dc0`` with `dc0` None.

    Raises
    ------
    TapeError
        If the tape came from another function, or an array that it borrows has changed.
    ShapeError, DTypeError
        If a gradient does not fit the tape.
    """
    dstate = None if dh_n is None else (_lift(dh_n),)
    return _backward(("gru",), "rnnfast.gru_backward", tape, dy, dstate, need_dx, threads)
