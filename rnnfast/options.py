"""The options of layers and functions: what each means, in every cell and in both passes.

They are keyword arguments. A class here is the set of options that one kind of call takes
(`typing.Unpack`), and has the one documentation of each.

==========================================  ====================================
``RNN(...)``, ``LSTM(...)``, ``GRU(...)``   `LayerOptions`
``layer(x, ...)``, prepared layers          `LayerCallOptions`
``layer.forward(x, ...)``                   `LayerForwardOptions`
``rnn``, ``lstm``, ``gru``                  `FunctionOptions`
``rnn_forward``, ...                        `FunctionForwardOptions`
==========================================  ====================================

Letters: T steps, B batch, I input, H hidden, L layers, D directions, S states (h; h and c for the
LSTM). *Scan order* is t = 0 ... T-1, in the reverse direction t = T-1 ... 0.

Shapes stand here for x (T, B, I). The other forms of x change them so:

- ``batch_first=True``, x (B, T, I): every (T, B) is (B, T); what has layers in front, (D*L, T, B,
  H), is (D*L, B, T, H).
- unbatched, x (T, I): B is left out. `lengths` and `cu_seqlens` are refused, for a single row is
  cut by slicing it.
- flat, with `cu_seqlens`, x (N, I): every (T, B) is (N,), and (D*L, T, B, H) is (D*L, N, H).
- index input: as x without its last axis.

Where T = 0 or B = 0 every option is accepted that would be with more: there is no step to act on,
the final states are the initial ones, and gradients of parameters are zero (those of the initial
states too after a `burn_in`).

An option that is left out, a probability of 0 and a bound of None give the plain call, to the bit.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict

from numpy import ndarray

__all__ = [
    "CellOptions",
    "FunctionForwardOptions",
    "FunctionOptions",
    "GradientOptions",
    "LayerCallOptions",
    "LayerForwardOptions",
    "LayerOptions",
    "RandomOptions",
    "StepOptions",
]

_States: TypeAlias = ndarray | tuple[ndarray | None, ...]


class StepOptions(TypedDict, total=False):
    """Which steps are used, and where the state starts anew.

    An unused step holds the state: x is not read there (NaN, or an index out of range, has no
    effect), dx is 0 there, and it adds nothing to a gradient of parameters. The final state is the
    one held after the last step in scan order; a row without a used step has h_n = h0 and dh0 =
    dh_n.
    """

    lengths: ndarray | None
    """(B,) integers in 0 ... T, in any order; default None, all T. Row b uses its steps t <
    lengths[b], and resets at t >= lengths[b] are ignored. The reverse direction starts at each
    row's own end, t = lengths[b] - 1. With `mask` a step is used where both say so. Not with
    `cu_seqlens`.

    Raises DTypeError if not of an integer dtype, ShapeError, ArgumentError outside 0 ... T."""

    mask: ndarray | None
    """(T, B) bool, True where the step is used, in any pattern; default None, everywhere. A reset
    on an unused step takes effect all the same.

    Raises DTypeError if not bool, ShapeError."""

    cu_seqlens: ndarray | None
    """(B+1,) integers, ascending from 0 to N: rows of different lengths one after the other,
    without padding. Row b is x[cu_seqlens[b] : cu_seqlens[b+1]] of x (N, I); T is the longest row;
    two equal entries are a row of length 0. y is (N, D*H), and so is everything else with a time
    axis; initial and final states keep B rows. Default None. Not with `lengths`.

    Raises DTypeError if not of an integer dtype, ShapeError, ArgumentError if not ascending from
    0."""

    reset: ndarray | None
    """(T, B) bool, default None: a new sequence begins. reset[t, b] is the border between the steps
    t-1 and t of row b: the state that enters step t is replaced; in the reverse direction the one
    that comes from step t and enters step t-1. So reset[0] discards the initial state of the
    forward direction, and does nothing in the reverse direction. The gradient is cut there, and
    flows to what replaced the state. The same as cutting the sequence by hand.

    Raises DTypeError if not bool, ShapeError."""

    reset_state: _States | None
    """What a reset puts in place of the state; default None, zero. An array (D*L, T, B, H), of
    which [:, t, b] belongs to reset[t, b] in both directions; or (D*L, 1, B, H), the same for all
    t, whose gradient is summed over t; flat (D*L, N, H) or (D*L, 1, B, H). For the LSTM a tuple (h,
    c), each in a form of its own, an entry None being zero. Functions: without D*L. Gradient:
    `reset_state` of what backward returns.

    Raises ArgumentError without `reset`; DTypeError, ShapeError."""

    pad_output: Literal["zero", "hold"]
    """y at unused steps. "zero", the default: 0, and dy there is ignored. "hold": the held h, and
    dy there flows to it; before the first used step in scan order that is the initial state. The
    same holds for h and c of `States`; its gates are 0 there in both.

    Raises ArgumentError for another value, and for "hold" with `cu_seqlens` unless there is a
    `mask`: without one there is no unused step."""


class GradientOptions(TypedDict, total=False):
    """Where the gradient is cut in time. Both count the steps of the call from its first, t = 0.

    Refused where a direction runs in reverse: what it meets first are the last steps, and a
    sequence is carried on, or warmed up, from its beginning.
    """

    burn_in: int
    """k steps at the start belong to the forward pass only; default 0. The state that leaves step
    k-1 is a constant: no gradient of x, dy, parameters or states at t < k, and none of the initial
    state. A reset at step k still passes gradient to its replacement. With k >= T all gradients are
    zero.

    Raises DTypeError if no integer, ArgumentError below 0, or in a reverse direction.

    Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning"."""

    tbptt: int | None
    """The gradient is cut between steps t-1 and t at every t = k, 2k, ...; default None, never. A
    reset there still passes gradient to its replacement. The same as calls of k steps each with
    carried state, in one. A row that has ended (`lengths`, `cu_seqlens`) is cut no more: its final
    state passes gradient to its last steps, however long the other rows are.

    Raises DTypeError if no integer, ArgumentError below 1, or in a reverse direction.

    Williams and Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of
    Recurrent Network Trajectories"."""


class CellOptions(TypedDict, total=False):
    """Regularisation and bounds inside the scan.

    Random masks are on while training only: in ``layer.forward(training=True)``, and in functions
    unless ``training=False``.
    """

    recurrent_dropout: float
    """Probability of a zero in the operand of R, default 0; what stays is scaled by 1 / (1 - p).
    The state itself stays as it is: z * h in the GRU, zoneout, held states, y. The gates of a step
    share the mask, and a reset does not change it. Evaluation: no mask.

    Raises DTypeError if no number, ArgumentError outside 0 ... 1.

    Gal and Ghahramani 2016, arXiv:1512.05287, with one mask for all gates."""

    recurrent_dropout_mode: Literal["sequence", "step"]
    """One mask of `recurrent_dropout` for all steps of a sequence, "sequence", the default; or a
    new one for each, "step".

    Raises ArgumentError for another value."""

    zoneout: float | tuple[float, ...]
    """Probability that a unit keeps its old value in a step, default 0: a number for all states, or
    for the LSTM (p_h, p_c). The old value is the state that entered the step, after a reset. For
    the LSTM h is o * tanh(c) of the c before its zoneout. Evaluation: the expectation, p * old + (1
    - p) * new.

    Raises DTypeError if no number or tuple of S numbers, ArgumentError outside 0 ... 1.

    Krueger et al. 2017, arXiv:1606.01305."""

    weight_drop: float
    """Probability of a zero in R, drawn once per call; default 0; what stays is scaled by 1 / (1 -
    p). Evaluation: R as it is.

    Raises DTypeError if no number, ArgumentError outside 0 ... 1.

    Merity, Keskar and Socher 2018, arXiv:1708.02182; Wan et al. 2013, "Regularization of Neural
    Networks using DropConnect"."""

    cell_clip: float | None
    """Bound v of the cell state: c = clamp(f * c + i * g, -v, v), before h is made of it. The
    gradient passes where the bound was not exceeded. Default None. In evaluation too.

    Raises DTypeError if no number, ArgumentError if not finite and above 0, or for a cell without
    c.

    Sak, Senior and Beaufays 2014, arXiv:1402.1128."""

    clip_state_gradient: float | None
    """Bound v of the gradient that flows back through time: what a used step sends to the state
    that entered it is clamped to -v ... v, element by element, each state apart; default None. What
    y receives is added after that, so not clamped; nor are dh_n and dc_n, which come from outside.
    What arrives at an initial state, or at what a reset put in place, was sent by a step.

    Raises DTypeError if no number, ArgumentError if not finite and above 0.

    Graves 2013, arXiv:1308.0850, section 2.1, there with the gradients of the gates."""


class RandomOptions(TypedDict, total=False):
    """The key of the random masks; see `rnnfast.layers.Recurrent.forward` for layers.

    A mask depends on the seed, layer, direction, step, row and unit alone, not on how a sequence is
    cut into calls, or a batch put together.
    They are read only where masks are drawn.
    """

    seed: int | None
    """64 bits; default None, drawn from the operating system. The tape keeps it as `tape.seed`.

    Raises DTypeError if no integer, ArgumentError outside 0 ... 2**64 - 1."""

    t0: int
    """Number of the step t = 0, default 0, so that chunks of a sequence continue each other's
    masks. Steps are numbered in time, in the reverse direction too.

    Raises DTypeError if no integer, ArgumentError outside 0 ... 2**32 - 1."""

    row_ids: ndarray | None
    """(B,) integers, the numbers of the batch rows, (1,) for unbatched input; default None, 0 ...
    B-1.

    Raises DTypeError if not of an integer dtype, ShapeError, ArgumentError outside 0 ... 2**32 -
    1."""


class LayerOptions(CellOptions, total=False):
    """What the constructors of `RNN`, `LSTM` and `GRU` take beside the arguments of `torch.nn`.

    All but `initial_state`, `dtype`, `seed` and `device` may be set later too, as attributes.
    """

    residual: bool
    """Whether each layer from the second on adds what it read: ``y_l = dropout(layer_l(y_{l-1})) +
    y_{l-1}``; default False. `States` hold what is inside the layers, before that sum.

    Raises DTypeError if no bool.

    He et al. 2016, arXiv:1512.03385; in recurrent stacks Wu et al. 2016, arXiv:1609.08144."""

    initial_state: Literal["zero", "learned"]
    """What an omitted state is; default "zero". "learned" adds the parameters `h_0` and, for the
    LSTM, `c_0`, (D*L, H) each.

    Raises ArgumentError for another value."""

    dtype: Any
    """"float32", the default, or "float64": of parameters and arrays.

    Raises DTypeError for another one."""

    seed: int | None
    """Of the initial parameters; default None, drawn from the operating system.

    Raises DTypeError if no integer, ArgumentError below 0."""

    device: str
    """"auto", the default, "cpu", "cuda" or "numpy"; one asked for by name runs or raises.

    Raises DeviceError where it cannot run, ArgumentError for another value."""


class LayerCallOptions(StepOptions, total=False):
    """What a plain call of a layer takes; it is an evaluation."""

    reset_to: Literal["zero", "learned"]
    """What a reset puts in place of the state: "zero", the default, or the layer's own learned
    initial state, whose gradient then has the sum over all resets in it.

    Raises ArgumentError for another value; for "learned" with `reset_state`, or in a layer
    without ``initial_state="learned"``."""


class LayerForwardOptions(LayerCallOptions, GradientOptions, total=False):
    """What `layer.forward` takes."""


class FunctionOptions(StepOptions, CellOptions, RandomOptions, total=False):
    """What `rnn`, `lstm` and `gru` take."""

    training: bool
    """Whether random masks are drawn, default True; else `zoneout` is its expectation, and dropout
    is off.

    Raises DTypeError if no bool."""


class FunctionForwardOptions(FunctionOptions, GradientOptions, total=False):
    """What `rnn_forward`, `lstm_forward` and `gru_forward` take."""
