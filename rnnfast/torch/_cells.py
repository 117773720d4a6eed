"""`torch.nn.RNNCell`, `LSTMCell` and `GRUCell` on our kernels: a layer's call of one step."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ..cells import CELLS
from . import _cuda_device, _dispatch, _weights
from ._call import plain_call
from ._publish import publish
from ._scan import run
from ._weights import DeviceWeights, Weights

__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell"]

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(nn.modules.rnn.RNNCellBase):
    """The `forward` that runs on our kernels, to be mixed in before PyTorch's class."""

    @property
    def _name(self) -> str:
        if isinstance(self, nn.RNNCell):
            return f"rnn_{self.nonlinearity}"
        return "lstm" if isinstance(self, nn.LSTMCell) else "gru"

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run one step; arguments and results are those of PyTorch's."""
        if torch.compiler.is_compiling():
            # The compiler fuses a step itself. With our operator, which it cannot look into, 16
            # steps in one graph took 4 times as long (inference, B = 8, H = 64, AVX2, Zen 3).
            reason = "export" if torch.compiler.is_exporting() else "a cell in a compiled graph"
            _dispatch.count_traced(reason)
            return super().forward(input, hx)
        if "torch._dynamo" in sys.modules:
            return _dispatch.untraced(Cell._forward_eager)(self, input, hx)
        return self._forward_eager(input, hx)

    def _forward_eager(self, input: Any, hx: Any) -> Any:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return _dispatch.as_leaf(self, input, hx, {})
        weights = self._fitting(input, hx)
        if isinstance(weights, str):
            _dispatch.count("stock", weights)
            return super().forward(input, hx)
        call = plain_call(weights.cell, 1, 1, weights.bias, want_y=False)
        S = call.S
        states: tuple[Any, ...] = (None,) * S
        if hx is not None:
            states = (hx,) if S == 1 else tuple(hx)
        batched = input.dim() == 2
        # (T, B, I) of one step, and states (1, B, H).
        steps = input.unsqueeze(0) if batched else input[None, None]
        first = (
            None if s is None else (s.unsqueeze(0) if batched else s[None, None]) for s in states
        )
        outputs = run(call, weights, (steps, *first, *(None,) * S, *weights.tensors))
        last = tuple(s.squeeze(0) if batched else s[0, 0] for s in outputs[1:])
        return last[0] if S == 1 else last

    def _fitting(self, x: Any, hx: Any) -> Weights | DeviceWeights | str:
        """Return the weights where the kernels take a call, or why it goes to PyTorch."""
        reason = _dispatch.obstacle(getattr(x, "dtype", None), _cuda_device.kind_of(x))
        if reason is not None:
            return reason
        if not isinstance(x, Tensor) or self._name not in CELLS:
            return _dispatch.REFUSED
        states: Any = ()
        if hx is not None:
            S = CELLS[self._name].S
            states = hx if S > 1 else (hx,)
            if not isinstance(states, (tuple, list)) or len(states) != S:
                return _dispatch.REFUSED
        if any(s is None for s in states):
            return _dispatch.REFUSED
        reason = _dispatch.unfit((x, *states), x)
        if reason is not None:
            return reason
        bias = self.bias_ih is not None
        if bias is not (self.bias_hh is not None):
            return "one bias without the other"
        weights = _weights.find(self, self._name, _NAMES, 1, bias, self._weight_shapes)
        if isinstance(weights, str):
            return weights
        reason = _weights.apart(weights, x)
        if reason is not None:
            return reason
        shape = x.shape
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            return _dispatch.REFUSED
        if any(s.shape != (*shape[:-1], self.hidden_size) for s in states):
            return _dispatch.REFUSED
        return weights

    def _weight_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the weights."""
        H = self.hidden_size
        GH = CELLS[self._name].G * H
        shapes: list[tuple[int, ...]] = [(GH, self.input_size), (GH, H), (GH,), (GH,)]
        return shapes if self.bias_ih is not None else shapes[:2]

    def __prepare_scriptable__(self) -> nn.Module:
        """Give the scripting compiler PyTorch's own cell, on the same parameters."""
        _dispatch.count("stock", "scripting")
        plain: Any = next(
            base for base in type(self).__mro__ if base in (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
        )
        module = plain.__new__(plain)
        module.__dict__.update(self.__dict__)
        return module


class RNNCell(Cell, nn.RNNCell):
    """`torch.nn.RNNCell` on our kernels."""


class LSTMCell(Cell, nn.LSTMCell):
    """`torch.nn.LSTMCell` on our kernels."""


class GRUCell(Cell, nn.GRUCell):
    """`torch.nn.GRUCell` on our kernels."""


for _kind in (RNNCell, LSTMCell, GRUCell):
    publish(_kind)
