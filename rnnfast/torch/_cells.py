"""`torch.nn.RNNCell`, `LSTMCell` and `GRUCell` on our kernels: a layer's call of one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..cells import CELLS
from . import _dispatch
from ._scan import Call, Scan, run_without_tape

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
            # One step in a compiled graph is fused by the compiler itself.
            return super().forward(input, hx)
        return self._forward_eager(input, hx)

    @_dispatch.eagerly
    def _forward_eager(self, input: Any, hx: Any) -> Any:
        weights = [getattr(self, name) for name in _NAMES]
        reason = self._why_stock(input, hx, weights)
        if reason is not None:
            _dispatch.count("stock", reason)
            return super().forward(input, hx)
        name = self._name
        S = CELLS[name].S
        bias = weights[2] is not None
        states: tuple[Any, ...] = (None,) * S
        if hx is not None:
            states = (hx,) if S == 1 else tuple(hx)
        batched = input.dim() == 2
        # (T, B, I) of one step, and states (1, B, H).
        steps = input.unsqueeze(0) if batched else input[None, None]
        first = (
            None if s is None else (s.unsqueeze(0) if batched else s[None, None]) for s in states
        )
        call = Call(name, 1, 1, bias, want_y=False)
        tensors = (steps, *first, *(None,) * S, *(weights if bias else weights[:2]))
        _dispatch.count_fused()
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            outputs = Scan.apply(call, *tensors)
        else:
            outputs = run_without_tape(call, tensors)
        last = tuple(s.squeeze(0) if batched else s[0, 0] for s in outputs[1:])
        return last[0] if S == 1 else last

    def _why_stock(self, x: Any, hx: Any, weights: list[Any]) -> str | None:
        """Why a call goes to PyTorch; None where the kernels take it."""
        reason = _dispatch.obstacle()
        if reason is not None:
            return reason
        refused = "PyTorch refuses the call"
        if not isinstance(x, Tensor) or self._name not in CELLS:
            return refused
        states: Any = ()
        if hx is not None:
            states = hx if CELLS[self._name].S > 1 else (hx,)
            if not isinstance(states, (tuple, list)) or len(states) != CELLS[self._name].S:
                return refused
        reason = _dispatch.unfit((x, *weights, *states), x.dtype)
        if reason is not None:
            return reason
        I, H, GH = self.input_size, self.hidden_size, CELLS[self._name].G * self.hidden_size
        if x.dim() not in (1, 2) or x.shape[-1] != I:
            return refused
        if any(s.shape != (*x.shape[:-1], H) for s in states):
            return refused
        if (weights[2] is None) != (weights[3] is None):
            return "one bias without the other"
        expected = ((GH, I), (GH, H), (GH,), (GH,))
        if any(w is not None and w.shape != e for w, e in zip(weights, expected, strict=True)):
            return refused
        return None

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
    _kind.__module__ = "rnnfast.torch"
