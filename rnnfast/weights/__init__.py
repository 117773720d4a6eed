"""Weights of a layer in the form of another system, and back.

Gate orders come from `rnnfast.CELLS`, the form of the arrays from one row per system;
docs/weights.md shows each. Not a part of the weights, and so left to the caller: states, dropout
and what else a layer was made with; `settings` refuses where another system cannot have it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
from numpy import ndarray

from .._parameters import Parameters, layout
from .._shapes import Checker
from ..cells import CELLS, CellSpec
from ..errors import ArgumentError, DTypeError, ShapeError
from ..layers import Recurrent
from ._convert import Conversion
from ._systems import SYSTEMS, Form

__all__ = ["carry", "export", "load", "settings", "systems"]


def systems(cell: str | None = None) -> tuple[str, ...]:
    """Return the names of the systems.

    Parameters
    ----------
    cell : str, optional
        Only those that have this cell, by its name in `rnnfast.CELLS`.
    """
    if cell is None:
        return tuple(SYSTEMS)
    spec = _spec("rnnfast.weights.systems", cell)
    return tuple(name for name in SYSTEMS if name in spec.orders)


def export(
    source: Recurrent | Mapping[str, ndarray],
    system: str,
    *,
    cell: str | None = None,
    **settings: Any,
) -> Any:
    """Return the weights as another system keeps them.

    In the shapes, I is the width of the layer's input (D*H above the first layer), G the number of
    gates, D that of directions, L that of layers.

    Parameters
    ----------
    source : RNN, LSTM, GRU or mapping of str to ndarray
        The layer, or its parameters by name (PyTorch's names); number of layers, directions and
        biases then follow from the names, the cell from the shapes where they say it.
    system : str
        One of `systems()`.
    cell : str, optional
        Name of the cell in `rnnfast.CELLS`; needed for the parameters of an RNN without the layer,
        which do not tell tanh from relu.
    **settings
        Settings of the other system's layer, to be checked: anything but what
        `rnnfast.weights.settings` returns is refused. ``forget_bias`` of TensorFlow 1 may have any
        value, 1.0 if omitted, and is taken off the bias.

    Returns
    -------
    pytorch : dict of str to array
        ``weight_ih_l0`` (G*H, I), ``weight_hh_l0`` (G*H, H), ``bias_ih_l0``, ``bias_hh_l0`` (G*H,),
        then ``_l0_reverse``, ``_l1``, ...
    keras : list (L) of list of array
        Per layer what `set_weights` takes: kernel (I, G*H), recurrent_kernel (H, G*H), bias (G*H,),
        for the GRU (2, G*H); of both directions one after the other for `Bidirectional`.
    onnx : list (L) of dict
        Per node ``W`` (D, G*H, I), ``R`` (D, G*H, H), ``B`` (D, 2*G*H).
    cudnn : array (n,)
        W and R of layer 0 forward, layer 0 reverse, layer 1 ..., then bW and bR of each.
    onednn : list (L) of dict
        ``weights_layer`` (1, D, I, G, H), ``weights_iter`` (1, D, H, G, H), ``bias`` (1, D, G, H),
        for the GRU (1, D, G+1, H).
    flax_linen, flax_nnx, flax_nnx_split, haiku, tensorflow1, haste, cs231n, mlx, equinox
        List (L*D) of dict, layer 0 forward, layer 0 reverse, layer 1 ...; names and shapes of each
        in docs/weights.md.

        All arrays are copies in the dtype of the layer.

    Raises
    ------
    ArgumentError
        If the system has no such cell, cannot hold these values, or a setting does not fit.

    Notes
    -----
    Exact to the bit where the system keeps two biases; one rounding, that of bW + bR, where it
    keeps one, and none where bR is 0; that of bW + bR - 1 where it adds 1 to the forget gate at
    run time, summed in a wider type. A system without ``bias=False`` gets zeros.

    Examples
    --------
    >>> import rnnfast
    >>> gru = rnnfast.GRU(3, 4, device="numpy")
    >>> [[array.shape for array in arrays] for arrays in rnnfast.weights.export(gru, "keras")]
    [[(3, 12), (4, 12), (2, 12)]]
    """
    who = "rnnfast.weights.export"
    form, parameters = _form(who, "source", source, cell)
    if "h_0" in parameters:
        raise ArgumentError(
            f"{who}: the initial state of the layer is learned, and no other system keeps one with "
            "its weights. Leave it out: {name: array for name, array in layer.parameters.items() "
            'if name not in ("h_0", "c_0")}.'
        )
    conversion = Conversion(who, system, form)
    conversion.settle(settings, defaults=False)
    return conversion.export(parameters)


def load(
    target: Recurrent | MutableMapping[str, ndarray],
    system: str,
    arrays: Any,
    *,
    cell: str | None = None,
    **settings: Any,
) -> None:
    """Write another system's weights into a layer.

    Parameters
    ----------
    target : RNN, LSTM, GRU or mapping of str to ndarray
        As `source` of `export`; its arrays are written. A learned initial state stays as it is.
    system : str
        One of `systems()`.
    arrays
        In the structure that `export` returns, NumPy arrays in the dtype of the layer.
    cell : str, optional
        As in `export`.
    **settings
        How the other system's layer was made, as far as its function depends on it. What is omitted
        is that system's default, and is refused too where it means another function: an ONNX GRU
        needs ``linear_before_reset=1``, an RNN with relu ``nonlinearity="relu"`` or what that is
        called there. All attributes of an ONNX node can be passed on.

    Raises
    ------
    ArgumentError, ShapeError, DTypeError
        If an array is missing, unexpected or does not fit, or the weights stand for a function that
        the layer does not compute; nothing is written then.

    Notes
    -----
    One bias becomes ``bias_ih``; ``bias_hh`` becomes 0, or what the system adds at run time to its
    forget gate. So `export` gives back the same bits. A layer with ``bias=False`` takes biases that
    are zero.

    Examples
    --------
    >>> import rnnfast
    >>> ours, other = rnnfast.LSTM(3, 4, device="numpy"), rnnfast.LSTM(3, 4, device="numpy")
    >>> rnnfast.weights.load(other, "onnx", rnnfast.weights.export(ours, "onnx"))
    >>> bool((other.weight_hh_l0 == ours.weight_hh_l0).all())
    True
    """
    who = "rnnfast.weights.load"
    form, parameters = _form(who, "target", target, cell)
    conversion = Conversion(who, system, form)
    conversion.settle(settings, defaults=True)
    values = conversion.read(arrays)
    if isinstance(target, Recurrent):
        target.load_state_dict({**target.parameters, **values})
        return
    shapes, names = layout(form.spec, form.I, form.H, form.L, form.D, form.bias, False)
    for name, array in parameters.items():
        if not array.flags.writeable:
            raise ArgumentError(f"{who}: {name} is read-only, expected a writable array.")
    Parameters(who, form.dtype, shapes, names, parameters).load(values)


def settings(
    source: Recurrent | Mapping[str, ndarray], system: str, *, cell: str | None = None
) -> dict[str, Any]:
    """Return the settings under which the other system's layer computes the same function.

    Parameters
    ----------
    source : RNN, LSTM, GRU or mapping of str to ndarray
        As in `export`.
    system : str
        One of `systems()`.
    cell : str, optional
        As in `export`.

    Returns
    -------
    dict
        By the names of that system's arguments (ONNX: attributes), functions by their name. What
        makes no difference to an evaluation is not in it: axes, dropout, weight drop.

    Raises
    ------
    ArgumentError
        If the system has no such cell, or the layer an option that no setting of the system stands
        for: `zoneout`, `residual` with more than one layer, `cell_clip` but for ``tensorflow1``.
        The parameters alone, ``layer.parameters``, have no options.

    Examples
    --------
    >>> import rnnfast
    >>> rnn = rnnfast.RNN(3, 4, nonlinearity="relu", device="numpy")
    >>> rnnfast.weights.settings(rnn, "keras")
    {'activation': 'relu', 'go_backwards': False}
    """
    who = "rnnfast.weights.settings"
    needed = Conversion(who, system, _form(who, "source", source, cell)[0]).needed()
    if isinstance(source, Recurrent):
        for name, value, off in _options(source):
            if value != off and name not in needed:
                raise ArgumentError(
                    f"{who}: {name} of the layer is {value!r}, expected {off!r}: no setting of "
                    f"{system!r} stands for it. Take layer.parameters for settings of the weights "
                    "alone."
                )
    return needed


def _options(layer: Recurrent) -> list[tuple[str, Any, Any]]:
    """List what an evaluation depends on beside weights: name, value, value if there is none."""
    return [
        ("cell_clip", layer.cell_clip, None),
        ("zoneout", layer.zoneout if layer._stack.settings.zoneout else 0.0, 0.0),
        ("residual", layer.residual and layer.num_layers > 1, False),
    ]


def carry(cell: str, system: str) -> tuple[str, ...]:
    """Return the states in another system's order: ``("c", "h")`` for an LSTM of Flax.

    Parameters
    ----------
    cell : str
        Name of the cell in `rnnfast.CELLS`.
    system : str
        One of `systems(cell)`.

    Returns
    -------
    tuple of str
        The letters of the states in `rnnfast.CELLS`; what an rnnfast layer calls (h, c).

    Raises
    ------
    ArgumentError
        If the system has no such cell.
    """
    who = "rnnfast.weights.carry"
    spec = _spec(who, cell)
    Conversion(who, system, Form(spec, 1, 1, 1, 1, True, np.dtype(np.float32)))
    return tuple(letter for letter in SYSTEMS[system].carry.split() if letter in spec.states)


def _spec(who: str, cell: Any) -> CellSpec:
    if not isinstance(cell, str) or cell not in CELLS:
        raise ArgumentError(f"{who}: cell is {cell!r}, expected one of {', '.join(CELLS)}.")
    return CELLS[cell]


def _form(
    who: str, argument: str, source: Any, cell: str | None
) -> tuple[Form, Mapping[str, ndarray]]:
    """Return what is fixed about a layer or a mapping, and its parameters by name."""
    if isinstance(source, Recurrent):
        # An array among others has no truth to compare by.
        if cell is not None and not (isinstance(cell, str) and cell == source.cell):
            raise ArgumentError(
                f"{who}: cell is {cell!r}, expected {source.cell!r}, that of the layer, or nothing."
            )
        spec = CELLS[source.cell]
        D = 2 if source.bidirectional else 1
        sizes = source.input_size, source.hidden_size, source.num_layers, D
        form = Form(spec, *sizes, source.bias, source.dtype, source.cell_clip)
        return form, source.parameters
    if not isinstance(source, Mapping):
        raise DTypeError(
            f"{who}: {argument} is of type {type(source).__qualname__}, expected an RNN, LSTM or "
            "GRU of rnnfast, or its parameters by name."
        )
    return _inferred(who, source, cell)


def _inferred(
    who: str, parameters: Mapping[str, ndarray], cell: str | None
) -> tuple[Form, Mapping[str, ndarray]]:
    """Read the form of a layer from the names and shapes of its parameters."""
    check = Checker(who)
    ends = {}
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in parameters:
            raise ArgumentError(
                f"{who}: {name} is missing among {', '.join(map(str, parameters))}."
            )
        ends[name] = check.real(name, parameters[name])
        if ends[name].ndim != 2 or 0 in ends[name].shape:
            raise ShapeError(f"{who}: {name} has shape {ends[name].shape}, expected two axes.")
    I, (rows, H) = ends["weight_ih_l0"].shape[1], ends["weight_hh_l0"].shape
    if cell is None:
        fitting = [spec for spec in CELLS.values() if rows == spec.G * H]
        if len(fitting) != 1:
            names = ", ".join(spec.name for spec in fitting) or "no cell"
            raise ArgumentError(
                f"{who}: weight_hh_l0 with shape {(rows, H)} fits {names}; say which by cell=."
            )
        spec = fitting[0]
    else:
        spec = _spec(who, cell)
    L = 1
    while f"weight_hh_l{L}" in parameters:
        L += 1
    D = 2 if "weight_hh_l0_reverse" in parameters else 1
    form = Form(spec, I, H, L, D, "bias_ih_l0" in parameters, check.dtype)
    shapes, _ = layout(spec, I, H, L, D, form.bias, False)
    missing = [name for name in shapes if name not in parameters]
    unexpected = [str(name) for name in parameters if name not in shapes]
    if missing or unexpected:
        text = [f"missing {', '.join(missing)}"] if missing else []
        text += [f"unexpected {', '.join(unexpected)}"] if unexpected else []
        raise ArgumentError(
            f"{who}: the names are not those of {L} layers with {D} directions: {'; '.join(text)}."
        )
    for name, shape in shapes.items():
        check.exactly(name, check.real(name, parameters[name]), shape)
    return form, parameters
