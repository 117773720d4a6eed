"""`accelerate` and `restore`: the class of a module, and nothing else, is exchanged.

So parameters, hooks, parametrizations, optimizers and whoever holds the module stay as they are.
"""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from ..errors import FallbackWarning
from ._cells import Cell, GRUCell, LSTMCell, RNNCell
from ._layers import GRU, LSTM, RNN, Recurrent

__all__ = ["accelerate", "restore"]

_Model = TypeVar("_Model", bound=nn.Module)
_OURS: dict[type, type] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}
_THEIRS: dict[type, type] = {ours: theirs for theirs, ours in _OURS.items()}
_made: dict[type, type] = {}
"""Classes made here, by the subclass of PyTorch's layer that they derive from."""


def accelerate(model: _Model) -> _Model:
    """Run every recurrent layer and cell of a model on our kernels, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or a bare layer. Each layer of `torch.nn` in it becomes one of `rnnfast.torch`,
        the same object with the same parameters.

    Returns
    -------
    torch.nn.Module
        `model` itself.

    Warns
    -----
    FallbackWarning
        Naming each layer left as it is, for its class or the layer itself has a `forward` of its
        own.
    """
    for name, module in model.named_modules():
        if not isinstance(module, tuple(_OURS)) or isinstance(module, (Recurrent, Cell)):
            continue
        kind: Any = type(module)
        stock = _stock_of(kind)
        if "forward" in module.__dict__ or kind.forward is not stock.forward:
            whose = "it" if "forward" in module.__dict__ else kind.__qualname__
            warnings.warn(
                f"rnnfast.torch.accelerate: {name or 'the model'} ({kind.__qualname__}) is left "
                f"as it is, for {whose} has a forward of its own.",
                FallbackWarning,
                stacklevel=2,
            )
            continue
        if parametrize.is_parametrized(module):
            # PyTorch made this class, and goes back to its first base in the end.
            module.__class__ = _rebased(kind, _accelerated(kind.__bases__[0]))
        else:
            module.__class__ = _accelerated(kind)
    return model


def restore(model: _Model) -> _Model:
    """Undo `accelerate`: every layer of `rnnfast.torch` in a model becomes PyTorch's, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or a bare layer; also one built of layers of `rnnfast.torch`. Keyword arguments
        that PyTorch does not have are no more taken.

    Returns
    -------
    torch.nn.Module
        `model` itself.

    Warns
    -----
    FallbackWarning
        Naming each layer left as it is, for its class was derived from one of `rnnfast.torch`.
    """
    for name, module in model.named_modules():
        if not isinstance(module, (Recurrent, Cell)):
            continue
        kind: Any = type(module)
        parametrized = parametrize.is_parametrized(module)
        mine = kind.__bases__[0] if parametrized else kind
        theirs = _THEIRS.get(mine) or vars(mine).get("_accelerated_from")
        if theirs is None:
            warnings.warn(
                f"rnnfast.torch.restore: {name or 'the model'} ({mine.__qualname__}) is left as "
                f"it is, for {mine.__qualname__} derives from rnnfast.torch."
                f"{_OURS[_stock_of(mine)].__qualname__}.",
                FallbackWarning,
                stacklevel=2,
            )
            continue
        module.__class__ = _rebased(kind, theirs) if parametrized else theirs
    return model


def _stock_of(kind: type) -> Any:
    return next(base for base in kind.__mro__ if base in _OURS)


def _rebased(kind: type, base: type) -> type:
    """Return a class as `kind`, with another base."""
    body = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    return type(kind.__name__, (base,), body)


def _accelerated(kind: type) -> type:
    """Return the class of ours that a layer of this class gets."""
    return _OURS.get(kind) or _derived(kind)


def _derived(kind: type) -> Any:
    """Return the subclass of a user's layer class that has our forward; the same each time."""
    if kind not in _made:
        body = {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__reduce_ex__": _reduce,
            "_accelerated_from": kind,
        }
        _made[kind] = type(kind.__name__, (_OURS[_stock_of(kind)], kind), body)
    return _made[kind]


def _reduce(self: Any, protocol: int) -> Any:
    """Pickle by the user's class, for the one made here cannot be imported."""
    reduced: Any = object.__reduce_ex__(self, max(protocol, 2))
    return _again, (type(self)._accelerated_from,), *reduced[2:]


def _again(kind: type) -> Any:
    made: Any = _derived(kind)
    return made.__new__(made)
