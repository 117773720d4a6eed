"""The layers `RNN`, `LSTM` and `GRU`, with the arguments and parameters of `torch.nn`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from . import _backend, initializers
from ._indexed import IndexedRows
from ._parameters import Parameters, layout
from ._random import Masks
from ._stack import LayerTape, Stack
from .cells import find
from .errors import ArgumentError, DTypeError, TapeError
from .ops import rnn_cell

__all__ = ["GRU", "LSTM", "RNN", "LayerGradients", "PreparedLayer", "Recurrent"]

State = ndarray | tuple[ndarray, ...]


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
    """

    x: ndarray | None
    state: State
    parameters: dict[str, ndarray | IndexedRows]


class Recurrent:
    """What the layers share; use `RNN`, `LSTM` or `GRU`.

    A call takes x as (T, B, I), as (B, T, I) under `batch_first`, or unbatched as (T, I); an
    integer dtype means indices, with the last axis left out. The state is an array (D*L, B, H), for
    the LSTM a tuple (h, c) of two; (D*L, H) each for unbatched input; zero, or the learned one, if
    omitted.
    """

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
            config["dropout"],
            dtype,
            config["device"],
        )
        learned = config["initial_state"] == "learned"
        shapes, names = layout(stack.spec, stack.I, stack.H, L, D, config["bias"], learned)
        if arrays is None:
            arrays = {name: np.empty(shape, dtype) for name, shape in shapes.items()}
        parameters = Parameters(who, dtype, shapes, names, arrays)
        self.__dict__.update(_config=config, _stack=stack, _names=names, parameters=parameters)

    def _start(self, cell: str, seed: int | None, **config: Any) -> None:
        """Check the constructor's arguments, build, and draw the parameters."""
        who = f"rnnfast.{type(self).__name__}"
        for name in ("input_size", "hidden_size", "num_layers"):
            _positive(who, name, config[name])
            config[name] = int(config[name])
        for name in ("bias", "batch_first", "bidirectional"):
            if not isinstance(config[name], (bool, np.bool_)):
                came = type(config[name]).__qualname__
                raise DTypeError(f"{who}: {name} is of type {came}, expected bool.")
        config["dropout"] = _probability(who, config["dropout"])
        if config["dropout"] > 0 and config["num_layers"] == 1:
            warnings.warn(
                f"{who}: dropout is between layers, so dropout={config['dropout']} does nothing "
                "with num_layers=1.",
                UserWarning,
                stacklevel=3,
            )
        if config["initial_state"] not in ("zero", "learned"):
            raise ArgumentError(
                f"{who}: initial_state is {config['initial_state']!r}, "
                'expected "zero" or "learned".'
            )
        dtype = np.dtype(config["dtype"])
        if dtype not in (np.float32, np.float64):
            raise DTypeError(f"{who}: dtype is {dtype}, expected float32 or float64.")
        config["dtype"] = dtype.name
        _backend.resolve(config["device"], who)
        self._build({"cell": cell, **config}, None)
        initializers.uniform(self, seed)

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

    @property
    def dropout(self) -> float:
        """Probability of a zero between layers while training; may be set."""
        return self._stack.dropout

    @dropout.setter
    def dropout(self, p: float) -> None:
        self._stack.dropout = self._config["dropout"] = _probability(self._stack.who, p)

    def __repr__(self) -> str:
        given = [str(self.input_size), str(self.hidden_size)]
        for name, default in _DEFAULTS.items():
            value = self._config.get(name, default)
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

    def __call__(self, x: ndarray, state: State | None = None) -> tuple[ndarray, State]:
        """Run over a sequence, without dropout and without a tape.

        Parameters
        ----------
        x : (T, B, I), or (T, B) of an integer dtype; (B, T, ...) under batch_first; (T, I)
        unbatched state : (D*L, B, H), for the LSTM (h, c) of that shape each; optional
            Zero, or the learned state, if omitted.

        Returns
        -------
        y : (T, B, D*H)
            The last layer's h at every step, both directions side by side.
        state : in the form of the argument
            After the last step; for the reverse direction, after step 0.
        """
        parameters = self.parameters
        y, state, _ = self._stack.forward(parameters.rows, parameters.initial, x, state)
        return y, state

    def forward(
        self,
        x: ndarray,
        state: State | None = None,
        *,
        training: bool = False,
        seed: int | None = None,
        t0: int = 0,
        row_ids: ndarray | None = None,
    ) -> tuple[ndarray, State, LayerTape]:
        """Run over a sequence and keep a tape for `backward`.

        Parameters
        ----------
        x, state
            As in a plain call.
        training : bool
            Whether dropout between layers is on.
        seed : int, optional
            64-bit seed of the dropout masks; drawn from the operating system if omitted. The tape
            keeps it.
        t0 : int
            Number of the first step, for masks that do not depend on how a sequence is cut.
        row_ids : (B,) integers, optional
            Numbers of the batch rows, for masks that do not depend on the batch; 0 ... B-1 if
            omitted.

        Returns
        -------
        y : (T, B, D*H)
        state : (D*L, B, H), for the LSTM (h, c)
        tape : LayerTape
            Borrows x, y and the parameters; leave them as they are until the last backward call.
        """
        parameters = self.parameters
        masks = None
        if training and self._stack.dropout > 0 and self._stack.L > 1:
            masks = self._masks(x, seed, t0, row_ids)
        return self._stack.forward(parameters.rows, parameters.initial, x, state, True, masks)

    def backward(
        self,
        tape: LayerTape,
        dy: ndarray | None = None,
        dstate: State | None = None,
        *,
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
        need_dx : bool
            Whether to compute the gradient of x.

        Returns
        -------
        LayerGradients
            ``x, state, parameters``.

        Raises
        ------
        TapeError
            If the tape came from another layer, or an array that it borrows has changed.
        ShapeError, DTypeError
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
        dx, first, dstate0, grads = stack.backward(tape, dy, dstate, bool(need_dx))
        named = stack.named(self._names, grads, first, tape._learned, self.parameters.initial)
        return LayerGradients(dx, dstate0, named)

    def prepare(self) -> PreparedLayer:
        """Return a frozen copy for inference, its parameters packed as the kernels read them."""
        return PreparedLayer(self)

    def _masks(self, x: Any, seed: int | None, t0: int, row_ids: ndarray | None) -> Masks:
        who = f"{self._stack.who}.forward"
        if seed is None:
            seed = int.from_bytes(os.urandom(8), "little")
        seed = _below(who, "seed", seed, 64)
        t0 = _below(who, "t0", t0, 32)
        if row_ids is not None:
            whole = isinstance(row_ids, ndarray) and row_ids.dtype.kind in "iu"
            if not whole or row_ids.ndim != 1:
                raise DTypeError(f"{who}: row_ids must be an integer array (B,).")
            axis = 0 if self.batch_first else 1
            B = x.shape[axis] if isinstance(x, ndarray) and x.ndim > axis else len(row_ids)
            if len(row_ids) != B or (B and (row_ids.min() < 0 or row_ids.max() >= 2**32)):
                raise ArgumentError(
                    f"{who}: row_ids has shape {row_ids.shape}, expected (B,) = ({B},) with values "
                    f"in 0 ... 2**32-1; B={B} from x."
                )
            row_ids = row_ids.copy()
        return Masks(self._stack.dropout, seed, t0, row_ids)


class PreparedLayer:
    """A layer frozen for inference: later writes into the layer's parameters do not reach it.

    Made by `layer.prepare()`, called like the layer.
    """

    def __init__(self, layer: Recurrent) -> None:
        self._stack, self._text = layer._stack, repr(layer)
        engine = _backend.resolve(self._stack.device, self._stack.who)
        prepared = [engine.prepare(self._stack.name, row) for row in layer.parameters.rows]
        self._rows = [self._stack.agreed(row) for row in prepared]
        initial = layer.parameters.initial
        self._initial = None if initial is None else tuple(p.copy() for p in initial)

    def __call__(self, x: ndarray, state: State | None = None) -> tuple[ndarray, State]:
        """Run over a sequence; arguments and results are those of the layer."""
        y, state, _ = self._stack.forward(self._rows, self._initial, x, state)
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

    Parameters
    ----------
    input_size : int
        I, features of x, or the size of the vocabulary for index input.
    hidden_size : int
        H, hidden units per direction.
    num_layers : int
        L, stacked layers; each reads the y of the one before.
    nonlinearity : {"tanh", "relu"}
    bias : bool
        Whether to have `bias_ih` and `bias_hh`.
    batch_first : bool
        x and y are (B, T, ...) instead of (T, B, ...); states are not affected.
    dropout : float
        Probability of a zero between layers, in `forward(training=True)` only.
    bidirectional : bool
        A second direction runs from the end; y holds both side by side.
    initial_state : {"zero", "learned"}
        What an omitted state is; "learned" adds the parameter `h_0` (D*L, H).
    dtype : {"float32", "float64"}
    seed : int, optional
        Of the initial parameters; drawn from the operating system if omitted.
    device : {"auto", "cpu", "cuda", "numpy"}
        Back end; one asked for by name runs or raises.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes: ``weight_ih_l0`` (H, I), ``weight_hh_l0`` (H, H),
        ``bias_ih_l0``, ``bias_hh_l0`` (H,), then ``_l0_reverse``, ``_l1`` ...; U(-1/sqrt(H),
        1/sqrt(H)) at first. Writes into the arrays are seen by the next call. Also readable and
        settable as attributes.

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
        *,
        initial_state: str = "zero",
        dtype: Any = "float32",
        seed: int | None = None,
        device: str = "auto",
    ) -> None:
        self._start(
            rnn_cell(nonlinearity, "rnnfast.RNN"),
            seed,
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            nonlinearity=nonlinearity,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            initial_state=initial_state,
            dtype=dtype,
            device=device,
        )

    @property
    def nonlinearity(self) -> str:
        """The function phi: "tanh" or "relu"."""
        return self._config["nonlinearity"]


class LSTM(Recurrent):
    """Long short-term memory layers with a forget gate, without peepholes.

        i, f, o = sigmoid(W x + bW + R h + bR)      g = tanh(W_g x + bW_g + R_g h + bR_g)
        c <- f * c + i * g                          h <- o * tanh(c)

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
        Probability of a zero between layers, in `forward(training=True)` only.
    bidirectional : bool
        A second direction runs from the end; y holds both side by side.
    proj_size : int
        As in PyTorch; refused unless 0, since there is no kernel for it yet.
    initial_state : {"zero", "learned"}
        What an omitted state is; "learned" adds the parameters `h_0` and `c_0` (D*L, H).
    dtype : {"float32", "float64"}
    seed : int, optional
        Of the initial parameters; drawn from the operating system if omitted.
    device : {"auto", "cpu", "cuda", "numpy"}
        Back end; one asked for by name runs or raises.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes, gates in the order i, f, g, o: ``weight_ih_l0`` (4H, I),
        ``weight_hh_l0`` (4H, H), ``bias_ih_l0``, ``bias_hh_l0`` (4H,), then ``_l0_reverse``,
        ``_l1`` ...; U(-1/sqrt(H), 1/sqrt(H)) at first. Writes into the arrays are seen by the next
        call. Also readable and settable as attributes.

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
        *,
        initial_state: str = "zero",
        dtype: Any = "float32",
        seed: int | None = None,
        device: str = "auto",
    ) -> None:
        if proj_size != 0:
            raise ArgumentError(
                f"rnnfast.LSTM: proj_size is {proj_size!r}, expected 0: projections have no "
                "kernel yet."
            )
        self._start(
            find("lstm").name,
            seed,
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            initial_state=initial_state,
            dtype=dtype,
            device=device,
        )


class GRU(Recurrent):
    """Gated recurrent units, the reset gate after the recurrent product.

        r, z = sigmoid(W x + bW + R h + bR)      n = tanh(W_n x + bW_n + r * (R_n h + bR_n))
        h <- (1 - z) * n + z * h

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
        Probability of a zero between layers, in `forward(training=True)` only.
    bidirectional : bool
        A second direction runs from the end; y holds both side by side.
    initial_state : {"zero", "learned"}
        What an omitted state is; "learned" adds the parameter `h_0` (D*L, H).
    dtype : {"float32", "float64"}
    seed : int, optional
        Of the initial parameters; drawn from the operating system if omitted.
    device : {"auto", "cpu", "cuda", "numpy"}
        Back end; one asked for by name runs or raises.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes, gates in the order r, z, n: ``weight_ih_l0`` (3H, I),
        ``weight_hh_l0`` (3H, H), ``bias_ih_l0``, ``bias_hh_l0`` (3H,), then ``_l0_reverse``,
        ``_l1`` ...; U(-1/sqrt(H), 1/sqrt(H)) at first. Writes into the arrays are seen by the next
        call. Also readable and settable as attributes.

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
        *,
        initial_state: str = "zero",
        dtype: Any = "float32",
        seed: int | None = None,
        device: str = "auto",
    ) -> None:
        self._start(
            find("gru").name,
            seed,
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            initial_state=initial_state,
            dtype=dtype,
            device=device,
        )


# What a repr leaves out.
_DEFAULTS: dict[str, Any] = {
    "num_layers": 1,
    "nonlinearity": "tanh",
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "initial_state": "zero",
    "dtype": "float32",
    "device": "auto",
}


def _whole(who: str, name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise DTypeError(f"{who}: {name} is of type {type(value).__qualname__}, expected int.")
    return int(value)


def _positive(who: str, name: str, value: Any) -> None:
    if _whole(who, name, value) < 1:
        raise ArgumentError(f"{who}: {name} is {value}, expected at least 1.")


def _below(who: str, name: str, value: Any, bits: int) -> int:
    if not 0 <= _whole(who, name, value) < 2**bits:
        raise ArgumentError(f"{who}: {name} is {value}, expected 0 <= {name} < 2**{bits}.")
    return int(value)


def _probability(who: str, p: Any) -> float:
    number = isinstance(p, (int, float, np.integer, np.floating)) and not isinstance(p, bool)
    if not number:
        raise DTypeError(f"{who}: dropout is of type {type(p).__qualname__}, expected a number.")
    if not 0 <= p <= 1:
        raise ArgumentError(f"{who}: dropout is {p}, expected 0 <= dropout <= 1.")
    return float(p)
