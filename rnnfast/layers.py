"""The layers `RNN`, `LSTM` and `GRU`, with the arguments and parameters of `torch.nn`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar, Unpack, overload

import numpy as np
from numpy import ndarray

from . import _backend, _call, _values, initializers
from ._forms import States
from ._indexed import IndexedRows
from ._parameters import Parameters, layout
from ._stack import LayerTape, Stack
from .cells import find
from .errors import ArgumentError, DTypeError, TapeError
from .ops import rnn_cell
from .options import CellOptions, LayerCallOptions, LayerForwardOptions, LayerOptions

__all__ = ["GRU", "LSTM", "RNN", "LayerGradients", "PreparedLayer", "Recurrent"]

State = ndarray | tuple[ndarray, ...]
_Value = TypeVar("_Value")


class LayerGradients(NamedTuple):
    """What a layer's backward pass returns.

    Attributes
    ----------
    x : in the shape of x, or None
        None for index input and under ``need_dx=False``.
    state : in the form of the state
        Gradient of the initial state, given or not.
    parameters : dict of str to array or IndexedRows
        By the names of `layer.parameters`; under index input ``weight_ih_l0`` is an `IndexedRows`.
    reset_state : in the form of the option, or None
        Gradient of `reset_state`, None where it was not given; an entry of the tuple is None where
        that one was.
    """

    x: ndarray | None
    state: State
    parameters: dict[str, ndarray | IndexedRows]
    reset_state: ndarray | tuple[ndarray | None, ...] | None = None


class _Setting(Generic[_Value]):
    """An option of the constructor that may be set later, and is checked again then."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, layer: None, owner: type) -> _Setting[_Value]: ...
    @overload
    def __get__(self, layer: Recurrent, owner: type) -> _Value: ...
    def __get__(self, layer: Recurrent | None, owner: type) -> _Setting[_Value] | _Value:
        return self if layer is None else layer._config[self._name]

    def __set__(self, layer: Recurrent, value: _Value) -> None:
        layer._config.update(layer._configured(layer._stack, {self._name: value}))


class Recurrent:
    """What the layers share; use `RNN`, `LSTM` or `GRU`.

    A call takes x as (T, B, I), as (B, T, I) under `batch_first`, or unbatched as (T, I); an
    integer dtype means indices, with the last axis left out; with `cu_seqlens` x is flat, (N, I).
    The state is an array (D*L, B, H), for the LSTM a tuple (h, c) of two; (D*L, H) each for
    unbatched input; zero, or the learned one, if omitted.

    Parameters
    ----------
    input_size : int
        I, features of x, or the size of the vocabulary for index input.
    hidden_size : int
        H, hidden units per direction.
    num_layers : int
        L, stacked layers; each reads the y of the one before.
    bias : bool
        Whether to have `bias_ih` and `bias_hh`.
    batch_first : bool
        x and y are (B, T, ...) instead of (T, B, ...); states are not affected.
    dropout : float
        Probability of a zero between layers, in `forward(training=True)` only; what stays is scaled
        by 1 / (1 - p).
    bidirectional : bool
        A second direction runs from the end; y holds both side by side.
    **options
        See `rnnfast.options.LayerOptions`: `recurrent_dropout`, `recurrent_dropout_mode`,
        `zoneout`, `weight_drop`, `residual`, `cell_clip`, `clip_state_gradient`, `initial_state`,
        `dtype`, `seed`, `device`.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes: ``weight_ih_l0`` (G*H, I), ``weight_hh_l0`` (G*H, H),
        ``bias_ih_l0``, ``bias_hh_l0`` (G*H,), then ``_l0_reverse``, ``_l1`` ...; the classes say
        how many gates G a cell has, and in which order. U(-1/sqrt(H), 1/sqrt(H)) at first. Writes
        into the arrays are seen by the next call. Also readable and settable as attributes.

    Raises
    ------
    DTypeError, ArgumentError, DeviceError
        Name the option, what came and what was expected.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        **options: Unpack[LayerOptions],
    ) -> None:
        who = f"rnnfast.{type(self).__name__}"
        _call.check_names(who, options, LayerOptions)
        config: dict[str, Any] = {
            name: value for name, value in _DEFAULTS.items() if name in LayerOptions.__annotations__
        }
        config.update(options)
        seed = config.pop("seed", None)
        if seed is not None:
            seed = _values.at_least(who, "seed", seed, 0)
        config.update(
            cell=cell,
            input_size=_values.at_least(who, "input_size", input_size, 1),
            hidden_size=_values.at_least(who, "hidden_size", hidden_size, 1),
            num_layers=_values.at_least(who, "num_layers", num_layers, 1),
            bias=_values.switch(who, "bias", bias),
            batch_first=_values.switch(who, "batch_first", batch_first),
            dropout=dropout,
            bidirectional=_values.switch(who, "bidirectional", bidirectional),
        )
        _values.choice(who, "initial_state", config["initial_state"], "zero", "learned")
        config["dtype"] = _values.element(who, config["dtype"]).name
        _backend.resolve(config["device"], who)
        self._build(config, None)
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"{who}: dropout is between layers, so dropout={self.dropout} does nothing with "
                "num_layers=1.",
                UserWarning,
                stacklevel=3,
            )
        initializers.uniform(self, seed)

    def _build(self, config: dict[str, Any], arrays: Mapping[str, ndarray] | None) -> None:
        """Set up from the constructor's arguments; parameters are `arrays`, or empty ones."""
        who, L = f"rnnfast.{type(self).__name__}", config["num_layers"]
        D = 2 if config["bidirectional"] else 1
        dtype = np.dtype(config["dtype"])
        stack = Stack(
            who,
            config["cell"],
            config["input_size"],
            config["hidden_size"],
            L,
            D,
            config["batch_first"],
            dtype,
            config["device"],
        )
        self.__dict__["_config"] = config
        config.update(self._configured(stack, {}))
        learned = config["initial_state"] == "learned"
        shapes, names = layout(stack.spec, stack.I, stack.H, L, D, config["bias"], learned)
        if arrays is None:
            try:
                arrays = {name: np.empty(shape, dtype) for name, shape in shapes.items()}
            except (ValueError, OverflowError) as error:
                raise ArgumentError(
                    f"{who}: input_size is {stack.I} and hidden_size is {stack.H}, expected sizes "
                    f"of which NumPy makes arrays: {error}."
                ) from error
        parameters = Parameters(who, dtype, shapes, names, arrays)
        self.__dict__.update(_stack=stack, _names=names, parameters=parameters)

    def _configured(self, stack: Stack, changes: dict[str, Any]) -> dict[str, Any]:
        """Check the options that may change, set them in the stack, and return them."""
        new = {name: self._config[name] for name in _SETTINGS} | changes
        settings = _call.check_settings(stack.who, stack.spec, new)
        new["dropout"] = _values.probability(stack.who, "dropout", new["dropout"])
        new["residual"] = _values.switch(stack.who, "residual", new["residual"])
        stack.configure(settings, new["dropout"], new["residual"])
        return new

    # What the layer is ---------------------------------------------------------------------------

    parameters: Parameters
    _config: dict[str, Any]
    _stack: Stack
    _names: list[list[tuple[str | None, ...]]]

    @property
    def cell(self) -> str:
        """Registry name of the cell."""
        return self._stack.name

    @property
    def input_size(self) -> int:
        """I: input features, or the size of the vocabulary."""
        return self._stack.I

    @property
    def hidden_size(self) -> int:
        """H: hidden units per direction."""
        return self._stack.H

    @property
    def num_layers(self) -> int:
        """L: stacked layers."""
        return self._stack.L

    @property
    def bias(self) -> bool:
        """Whether there are biases."""
        return self._config["bias"]

    @property
    def batch_first(self) -> bool:
        """Whether x and y are (B, T, ...)."""
        return self._stack.batch_first

    @property
    def bidirectional(self) -> bool:
        """Whether a second direction runs from the end."""
        return self._stack.D == 2

    @property
    def initial_state(self) -> str:
        """What an omitted state is: "zero" or "learned"."""
        return self._config["initial_state"]

    @property
    def dtype(self) -> np.dtype:
        """Element type of parameters and arrays."""
        return self._stack.dtype

    @property
    def device(self) -> str:
        """The device asked for."""
        return self._stack.device

    dropout = _Setting[float]("Probability of a zero between layers while training; may be set.")
    recurrent_dropout = _Setting[float](
        "Probability of a zero in the operand of R while training; may be set."
    )
    recurrent_dropout_mode = _Setting[str](
        'One mask of recurrent dropout per "sequence" or "step"; may be set.'
    )
    zoneout = _Setting[float | tuple[float, ...]](
        "Probability that a unit keeps its old value, of all states or of each; may be set."
    )
    weight_drop = _Setting[float]("Probability of a zero in R while training; may be set.")
    residual = _Setting[bool]("Whether layers from the second on add what they read; may be set.")
    cell_clip = _Setting[float | None]("Bound of the cell state, None for none; may be set.")
    clip_state_gradient = _Setting[float | None](
        "Bound of what a step sends back to its incoming state, None for none; may be set."
    )

    def __repr__(self) -> str:
        given = [str(self.input_size), str(self.hidden_size)]
        config = {**self._config, **self._stack.spec.options}
        for name, default in _DEFAULTS.items():
            value = config.get(name, default)
            if value != default:
                given.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    # Parameters as attributes, as in PyTorch: layer.weight_ih_l0
    def __getattr__(self, name: str) -> ndarray:
        parameters = self.__dict__.get("parameters", {})
        if name in parameters:
            return parameters[name]
        raise AttributeError(f"{type(self).__name__} has no attribute or parameter {name!r}.")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("parameters", ()):
            self.parameters[name] = value
        else:
            super().__setattr__(name, value)

    def state_dict(self) -> dict[str, ndarray]:
        """Return copies of the parameters by name; `parameters` has the arrays themselves."""
        return {name: array.copy() for name, array in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, ndarray]) -> None:
        """Copy values into the parameters.

        Parameters
        ----------
        state : mapping of str to ndarray
            Exactly the names of `parameters`, in their shapes and element type.

        Raises
        ------
        ArgumentError, ShapeError, DTypeError
            Name what is missing, unexpected or does not fit; nothing is written then.
        """
        self.parameters.load(state)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_config", "_stack", "_names", "parameters")
        extra = {name: value for name, value in self.__dict__.items() if name not in own}
        return {"config": self._config, "arrays": dict(self.parameters), "extra": extra}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._build(dict(state["config"]), state["arrays"])
        self.__dict__.update(state["extra"])

    # Running -------------------------------------------------------------------------------------

    @overload
    def __call__(
        self,
        x: ndarray,
        state: State | None = None,
        *,
        return_states: Literal[False] = False,
        **options: Unpack[LayerCallOptions],
    ) -> tuple[ndarray, State]: ...
    @overload
    def __call__(
        self,
        x: ndarray,
        state: State | None = None,
        *,
        return_states: Literal[True],
        **options: Unpack[LayerCallOptions],
    ) -> tuple[ndarray, State, States]: ...
    def __call__(self, x, state=None, *, return_states=False, **options):
        """Run over a sequence as an evaluation: random masks are off.

        Parameters
        ----------
        x : (T, B, I), or (T, B) of an integer dtype
            (B, T, ...) under `batch_first`; (T, I) unbatched; (N, I) with `cu_seqlens`.
        state : (D*L, B, H), for the LSTM (h, c) of that shape each; optional
            Zero, or the learned state, if omitted; a None in (h, c) is zero in any layer.
        return_states : bool
            Whether to return the states and gates of every step as well.
        **options
            See `rnnfast.options.LayerCallOptions`: `lengths`, `mask`, `cu_seqlens`, `reset`,
            `reset_to`, `reset_state`, `pad_output`.

        Returns
        -------
        y : (T, B, D*H)
            The last layer's h at every step, both directions side by side.
        state : in the form of the argument
            After the last step; for the reverse direction, after step 0.
        states : States
            Under ``return_states=True`` only.

        Raises
        ------
        ShapeError, DTypeError, IndexRangeError, ArgumentError
            Name the array or option, what came, what was expected, and what fixed the expectation.
        """
        stack, parameters = self._stack, self.parameters
        if options:
            options = _call.that_ask(options, LayerCallOptions)
        if not options and return_states is False:
            y, state, _ = stack.forward(parameters.rows, parameters.initial, x, state)
            return y, state
        _call.check_names(stack.who, options, LayerCallOptions)
        keep = _values.switch(stack.who, "return_states", return_states)
        y, state, tape = stack.forward_with(
            options, parameters.rows, parameters.initial, x, state, keep
        )
        return (y, state, tape.states()) if keep else (y, state)

    def forward(
        self,
        x: ndarray,
        state: State | None = None,
        *,
        training: bool = False,
        seed: int | None = None,
        t0: int = 0,
        row_ids: ndarray | None = None,
        **options: Unpack[LayerForwardOptions],
    ) -> tuple[ndarray, State, LayerTape]:
        """Run over a sequence and keep a tape for `backward`.

        Parameters
        ----------
        x, state
            As in a plain call.
        training : bool
            Whether random masks are on: dropout between layers, recurrent dropout, zoneout and
            weight drop.
        seed : int, optional
            64-bit seed of the masks; drawn from the operating system if omitted. The tape keeps it.
            This and the next two are read only where masks are drawn.
        t0 : int
            Number of the first step, for masks that do not depend on how a sequence is cut.
        row_ids : (B,) integers, optional
            Numbers of the batch rows, for masks that do not depend on the batch; 0 ... B-1 if
            omitted.
        **options
            See `rnnfast.options.LayerForwardOptions`: those of a plain call, `burn_in` and `tbptt`.

        Returns
        -------
        y : (T, B, D*H)
        state : (D*L, B, H), for the LSTM (h, c)
        tape : LayerTape
            Borrows x, y and the parameters; leave them as they are until the last backward call.
            ``tape.states()`` has the states and gates of every step.

        Raises
        ------
        ShapeError, DTypeError, IndexRangeError, ArgumentError
            As in a plain call.
        """
        stack, parameters = self._stack, self.parameters
        if type(training) is not bool:
            training = _values.switch(f"{stack.who}.forward", "training", training)
        if options:
            options = _call.that_ask(options, LayerForwardOptions)
        if not options and not (training and stack.random):
            return stack.forward(parameters.rows, parameters.initial, x, state, True)
        _call.check_names(f"{stack.who}.forward", options, LayerForwardOptions)
        given = {**options, "seed": seed, "t0": t0, "row_ids": row_ids}
        return stack.forward_with(
            given, parameters.rows, parameters.initial, x, state, True, training
        )

    def backward(
        self,
        tape: LayerTape,
        dy: ndarray | None = None,
        dstate: State | None = None,
        *,
        dstates: States | None = None,
        need_dx: bool = True,
    ) -> LayerGradients:
        """Run back through time; any number of times per tape, with the same bits.

        Parameters
        ----------
        tape : LayerTape
            From this layer's `forward`.
        dy : in the shape of y, optional
            Gradient with respect to y, zero if omitted.
        dstate : in the form of the state, optional
            Gradient with respect to the final state, zero if omitted; an entry of the tuple may be
            None.
        dstates : States, optional
            Gradients with respect to ``tape.states()``, zero where None.
        need_dx : bool
            Whether to compute the gradient of x.

        Returns
        -------
        LayerGradients
            ``x, state, parameters, reset_state``.

        Raises
        ------
        TapeError
            If the tape came from another layer, or an array that it borrows has changed.
        ShapeError, DTypeError, ArgumentError
            If a gradient does not fit the tape.
        """
        stack = self._stack
        if type(tape) is not LayerTape:
            raise DTypeError(
                f"{stack.who}.backward: tape is of type {type(tape).__qualname__}, expected the "
                "tape that forward returned."
            )
        if tape._stack is not stack:
            other = tape._stack
            raise TapeError(
                f"{stack.who}.backward: tape came from another layer, {other.who}({other.I}, "
                f"{other.H}) with T={tape.T}, B={tape.B}; expected one of this {self!r}."
            )
        if type(need_dx) is not bool:
            need_dx = _values.switch(f"{stack.who}.backward", "need_dx", need_dx)
        dx, first, dstate0, grads, dreset = stack.backward(tape, dy, dstate, need_dx, dstates)
        named = stack.named(self._names, grads, first, dreset, tape, self.parameters.initial)
        if dreset is None:
            return LayerGradients(dx, dstate0, named)
        return LayerGradients(dx, dstate0, named, stack.reset_gradient(tape, dreset))

    def prepare(self) -> PreparedLayer:
        """Return a frozen copy for inference, its parameters packed as the kernels read them."""
        return PreparedLayer(self)


class PreparedLayer:
    """A layer frozen for inference: later writes into the layer do not reach it.

    Made by `layer.prepare()`, called like the layer.
    """

    def __init__(self, layer: Recurrent) -> None:
        self._stack, self._text = copy.copy(layer._stack), repr(layer)
        engine = _backend.resolve(self._stack.settled, self._stack.who)
        prepared = [engine.prepare(self._stack.name, row) for row in layer.parameters.rows]
        self._rows = [self._stack.agreed(row) for row in prepared]
        initial = layer.parameters.initial
        self._initial = None if initial is None else tuple(p.copy() for p in initial)

    def __call__(
        self, x: ndarray, state: State | None = None, **options: Unpack[LayerCallOptions]
    ) -> tuple[ndarray, State]:
        """Run over a sequence; arguments and results are those of the layer.

        There is no `return_states`: a prepared layer keeps nothing of a call.
        """
        if options:
            options = _call.that_ask(options, LayerCallOptions)
        if not options:
            y, state, _ = self._stack.forward(self._rows, self._initial, x, state)
        else:
            if "return_states" in options:
                raise TypeError(
                    f"{self._stack.who}: return_states is given to a prepared layer, which keeps "
                    "nothing of a call; expected a call of the layer itself."
                )
            _call.check_names(self._stack.who, options, LayerCallOptions)
            y, state, _ = self._stack.forward_with(options, self._rows, self._initial, x, state)
        return y, state

    def __repr__(self) -> str:
        return f"<prepared {self._text}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "rnnfast: a prepared layer cannot be copied or pickled: its form belongs to this "
            "machine. Pickle the layer and prepare it again."
        )


class RNN(Recurrent):
    """Plain (Elman) recurrent layers with tanh or relu.

        h <- phi(W x + bW + R h + bR)

    Parameters are those of `Recurrent`, and `nonlinearity`: "tanh", the default, or "relu". G = 1.
    ``initial_state="learned"`` adds the parameter `h_0` (D*L, H).

    References
    ----------
    Elman 1990, "Finding Structure in Time".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
            rnn_cell(nonlinearity, "rnnfast.RNN"),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            **options,
        )

    @property
    def nonlinearity(self) -> str:
        """The function phi: "tanh" or "relu"."""
        return self._stack.spec.options["nonlinearity"]


class LSTM(Recurrent):
    """Long short-term memory layers with a forget gate, without peepholes.

        i, f, o = sigmoid(W x + bW + R h + bR)      g = tanh(W_g x + bW_g + R_g h + bR_g)
        c <- f * c + i * g                          h <- o * tanh(c)

    Parameters are those of `Recurrent`, and `proj_size` as in PyTorch; refused unless 0, since
    there is no kernel for it yet. G = 4, gates in the order i, f, g, o.
    ``initial_state="learned"`` adds the parameters `h_0` and `c_0` (D*L, H).

    References
    ----------
    Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        **options: Unpack[LayerOptions],
    ) -> None:
        if _values.whole("rnnfast.LSTM", "proj_size", proj_size) != 0:
            raise ArgumentError(
                f"rnnfast.LSTM: proj_size is {proj_size!r}, expected 0: projections have no "
                "kernel yet."
            )
        super().__init__(
            find("lstm").name,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            **options,
        )


class GRU(Recurrent):
    """Gated recurrent units, the reset gate after the recurrent product.

        r, z = sigmoid(W x + bW + R h + bR)      n = tanh(W_n x + bW_n + r * (R_n h + bR_n))
        h <- (1 - z) * n + z * h

    Parameters are those of `Recurrent`. G = 3, gates in the order r, z, n.
    ``initial_state="learned"`` adds the parameter `h_0` (D*L, H).

    References
    ----------
    Cho et al. 2014, arXiv:1406.1078, in the reset-after form of cuDNN and PyTorch.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
            find("gru").name,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            **options,
        )


# What may be left out of a constructor's call, and what a repr leaves out.
_DEFAULTS: dict[str, Any] = {
    "num_layers": 1,
    "nonlinearity": "tanh",
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "recurrent_dropout": 0.0,
    "recurrent_dropout_mode": "sequence",
    "zoneout": 0.0,
    "weight_drop": 0.0,
    "residual": False,
    "cell_clip": None,
    "clip_state_gradient": None,
    "initial_state": "zero",
    "dtype": "float32",
    "device": "auto",
}
# What may be set later.
_SETTINGS = ("dropout", "residual", *CellOptions.__annotations__)
