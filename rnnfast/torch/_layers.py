"""`torch.nn.RNN`, `LSTM` and `GRU` on our kernels.

Each is a subclass of PyTorch's own, which keeps the parameters, their names and all conduct of a
module; only `forward` is ours. What the kernels do not take goes on to PyTorch's `forward`, and so
do arguments that are wrong: the words are PyTorch's.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import Parameter
from torch.nn.utils.rnn import PackedSequence

from .. import _values
from ..cells import CELLS, CellSpec
from ..errors import ArgumentError
from . import (
    _composed,
    _cuda_device,
    _dispatch,
    _in_graph,
    _options,
    _quick,
    _weights,
)
from ._call import Call, plain_call
from ._options import States
from ._packed import Packing
from ._publish import publish
from ._scan import run
from ._weights import DeviceWeights, Weights

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]

_CELLS = {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu", "LSTM": "lstm", "GRU": "gru"}
_OWN = (*_options.CELL, "initial_state")
_is_compiling = torch.compiler.is_compiling


class Recurrent(nn.RNNBase):
    """The `forward` that runs on our kernels, to be mixed in before PyTorch's class.

    Keyword arguments of the constructor beyond PyTorch's, kept as attributes: `recurrent_dropout`,
    `recurrent_dropout_mode`, `zoneout`, `weight_drop`, `cell_clip`, as `rnnfast.options` says, and
    ``initial_state="learned"``, which adds the parameters `h_0` and, for the LSTM, `c_0`, (D*L, H),
    in place of an omitted state.
    """

    recurrent_dropout: float = 0.0
    recurrent_dropout_mode: str = "sequence"
    zoneout: float | tuple[float, ...] = 0.0
    weight_drop: float = 0.0
    cell_clip: float | None = None
    initial_state: str = "zero"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own = {name: kwargs.pop(name) for name in _OWN if name in kwargs}
        super().__init__(*args, **kwargs)
        if not own:
            return
        for name, value in own.items():
            setattr(self, name, value)
        _options.settings(self._who, self._spec, own)
        _values.choice(self._who, "initial_state", self.initial_state, "zero", "learned")
        if self.proj_size:
            self._refuse_projection(", ".join(own))
        if self.initial_state == "learned":
            like = self._flat_weights[0]
            rows = self.num_layers * (1 + self.bidirectional)
            for letter in self._spec.states:
                zero = torch.zeros(rows, self.hidden_size, dtype=like.dtype, device=like.device)
                setattr(self, f"{letter}_0", Parameter(zero))

    def reset_parameters(self) -> None:
        """Draw the weights anew, as PyTorch does; learned initial states become zero."""
        super().reset_parameters()
        for name in ("h_0", "c_0"):
            if name in self._parameters:
                nn.init.zeros_(self._parameters[name])

    def extra_repr(self) -> str:
        """Arguments of the constructor that are not the default."""
        own = (f"{n}={getattr(self, n)!r}" for n in _OWN if n in self.__dict__)
        return ", ".join([super().extra_repr(), *own])

    def __prepare_scriptable__(self) -> nn.Module:
        """Give the scripting compiler PyTorch's own layer, on the same parameters."""
        if self._wants_own():
            raise ArgumentError(
                f"{self._who}: a layer with options of its own has no scripted form."
            )
        _dispatch.count("stock", "scripting")
        plain = _stock_class(type(self))
        module = plain.__new__(plain)
        module.__dict__.update(self.__dict__)
        return module

    # What the layer is ---------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return _CELLS[self.mode]

    @property
    def _spec(self) -> CellSpec:
        return CELLS[self._name]

    @property
    def _who(self) -> str:
        return f"rnnfast.torch.{_stock_class(type(self)).__name__}"

    def _wants_own(self) -> bool:
        if self.recurrent_dropout or self.zoneout or self.weight_drop or self.cell_clip:
            return True
        return self.initial_state != "zero"

    def _weights(self) -> list[Any]:
        """Weights as they are now; PyTorch's flat list is not yet what functional_call put in."""
        return [getattr(self, name) for name in self._flat_weights_names]

    def _refuse_projection(self, what: str) -> None:
        raise ArgumentError(
            f"{self._who}: {what} is given in a layer with proj_size={self.proj_size}, expected "
            "proj_size=0: projections run in PyTorch's layer, which has no such argument."
        )

    # Calls ---------------------------------------------------------------------------------------

    def forward(self, input: Any, hx: Any = None, **options: Any) -> Any:
        """Run the layer; arguments and results are those of PyTorch's, and these keywords.

        Parameters
        ----------
        input, hx
            As in `torch.nn`.
        lengths : (B,) integers, optional
            Steps used of each row, in any order, zero allowed.
        mask : (T, B) bool, optional
            True where a step is used.
        reset : (T, B) bool, optional
            Where a new sequence begins: the state that enters the step is replaced.
        reset_state : tensor or (h, c), optional
            What a reset puts in place, (D*L, T or 1, B, H); zero if left out.
        reset_to : "zero" or "learned"
            "learned": the learned initial state.
        pad_output : "zero" or "hold"
            y at unused steps.
        return_states : bool
            Return a third result, the `States` of all steps.
        recurrent_dropout, recurrent_dropout_mode, zoneout, weight_drop, cell_clip
            In place of the layer's attributes.
        seed, t0, row_ids
            The key of the random masks; the seed comes from `torch.manual_seed` if left out.

        `rnnfast.options` says what each means. Under `batch_first` (T, B) is (B, T).
        """
        if _is_compiling():
            return self._forward_compiled(input, hx, options)
        if "torch._dynamo" in sys.modules:
            return _dispatch.untraced(_quick.run)(self, input, hx, options)
        return _quick.run(self, input, hx, options)

    def _forward_eager(self, input: Any, hx: Any, options: dict[str, Any]) -> Any:
        """Run a call that may be anything."""
        if type(input) is not Tensor and isinstance(input, Proxy):
            return _dispatch.as_leaf(self, input, hx, options)
        if options or self._wants_own():
            return self._forward_extended(input, hx, options)
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        weights = self._fitting(input, x, hx, packed)
        if isinstance(weights, str):
            _dispatch.count("stock", weights)
            return super().forward(input, hx)
        call = plain_call(
            self._name,
            self.num_layers,
            1 + self.bidirectional,
            self.bias,
            self.batch_first and not packed,
            self.dropout if self.training and self.num_layers > 1 else 0.0,
        )
        if packed:
            call = replace(call, packing=Packing(input.batch_sizes))
        return self._run(call, weights, input, x, hx, (None,) * call.S, packed)

    def _fitting(self, input: Any, x: Any, hx: Any, packed: bool) -> Weights | DeviceWeights | str:
        """Return the weights where the kernels take a call, or why it goes to PyTorch."""
        reason = _dispatch.obstacle(getattr(x, "dtype", None), _cuda_device.kind_of(x))
        if reason is not None:
            return reason
        if self.proj_size > 0:
            return "proj_size"
        if not isinstance(x, Tensor):
            return _dispatch.REFUSED
        states: Any = ()
        if hx is not None:
            S = 2 if self.mode == "LSTM" else 1
            states = hx if S > 1 else (hx,)
            if not isinstance(states, (tuple, list)) or len(states) != S:
                return _dispatch.REFUSED
        if any(s is None for s in states):
            return _dispatch.REFUSED
        reason = _dispatch.unfit((x, *states), x)
        if reason is not None:
            return reason
        weights = self._found()
        if isinstance(weights, str):
            return weights
        reason = _weights.apart(weights, x)
        if reason is not None:
            return reason
        if not self._shapes_fit(input, x, states, packed):
            return _dispatch.REFUSED
        return weights

    def _found(self) -> Weights | DeviceWeights | str:
        cell, D = self._name, 1 + self.bidirectional
        names, shapes = self._flat_weights_names, self._weight_shapes
        return _weights.find(self, cell, names, D, self.bias, shapes)

    def _weight_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the flat list of weights."""
        H, D = self.hidden_size, 1 + self.bidirectional
        GH = self._spec.G * H
        shapes: list[tuple[int, ...]] = []
        for k in range(self.num_layers):
            row = ((GH, D * H if k else self.input_size), (GH, H), (GH,), (GH,))
            shapes += (row if self.bias else row[:2]) * D
        return shapes

    def _shapes_fit(self, input: Any, x: Tensor, states: Any, packed: bool) -> bool:
        shape = x.shape
        if packed:
            if len(shape) != 2:
                return False
            row: tuple[int, ...] = (int(input.batch_sizes[0]),)
        elif len(shape) == 3:
            row = (shape[0 if self.batch_first else 1],)
        elif len(shape) == 2:
            row = ()
        else:
            return False
        # PyTorch refuses a sequence without steps.
        if (
            shape[-1] != self.input_size
            or shape[1 if len(shape) == 3 and self.batch_first else 0] == 0
        ):
            return False
        if states:
            state = (self.num_layers * (1 + self.bidirectional), *row, self.hidden_size)
            return all(s.shape == state for s in states)
        return True

    def _run(
        self,
        call: Call,
        weights: Weights | DeviceWeights | str,
        input: Any,
        x: Tensor,
        hx: Any,
        resets: tuple[Any, ...],
        packed: bool,
    ) -> Any:
        """Run a call whose arguments are checked, and give its results the form of PyTorch's.

        `weights` may be why no kernel takes it: it is composed.
        """
        S = call.S
        states: tuple[Any, ...] = (None,) * S
        if hx is not None:
            states = (hx,) if S == 1 else tuple(hx)
        unbatched = not packed and x.dim() == 2
        if unbatched:
            x = x.unsqueeze(0 if self.batch_first else 1)
            states = tuple(None if s is None else s.unsqueeze(1) for s in states)
        elif packed and input.sorted_indices is not None:
            order = input.sorted_indices
            states = tuple(None if s is None else s.index_select(1, order) for s in states)
        if isinstance(weights, str):
            _dispatch.count("composed", weights)
            tensors = x, *states, *resets, *self._weights()
            outputs = _composed.run(call, tensors, by_steps=weights in _dispatch.TRANSFORMS)
        else:
            outputs = run(call, weights, (x, *states, *resets, *weights.tensors))
        y, last, everything = outputs[0], outputs[1 : 1 + S], outputs[1 + S :]
        if packed:
            y = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            if input.unsorted_indices is not None:
                last = tuple(s.index_select(1, input.unsorted_indices) for s in last)
        elif unbatched:
            row = 0 if self.batch_first else 1
            y = y.squeeze(row)
            last = tuple(s.squeeze(1) for s in last)
            everything = tuple(a.squeeze(row + 1) for a in everything)
        final = last[0] if S == 1 else last
        if not everything:
            return y, final
        h, *c, gates = everything
        return y, final, States(h, c[0] if c else None, gates)

    def _forward_compiled(self, input: Any, hx: Any, options: dict[str, Any]) -> Any:
        """Lay a call into the graph of a compiler: as our operator, or as PyTorch's layer."""
        if isinstance(input, PackedSequence) and not torch.compiler.is_exporting():
            # PyTorch's layer cannot be traced with one, for its number of rows is a value of a
            # tensor. So the graph breaks, and the call is an eager one.
            return torch.compiler.disable(_quick.run)(self, input, hx, options)
        result = _in_graph.run(self, input, hx, options)
        return super().forward(input, hx) if result is None else result

    # Calls with keywords of ours -----------------------------------------------------------------

    def _forward_extended(self, input: Any, hx: Any, given: dict[str, Any]) -> Any:
        """Run a call that PyTorch has not; where the kernels cannot take it, it is composed."""
        if self.proj_size > 0:
            self._refuse_projection(", ".join(given) or "an option")
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        kind = _cuda_device.kind_of(x)
        if torch.is_autocast_enabled(kind):
            # There is no composed form in lower precision; the kernels compute in the weights'.
            with torch.autocast(kind, enabled=False):
                x = x.to(self._weights()[0].dtype)
                input = input._replace(data=x) if packed else x
                return self._forward_extended(input, hx, given)
        _options.refuse_unknown(self._who, given)
        sizes = input.batch_sizes if packed else None
        self._check_extended(x, hx, sizes)
        weights = self._fitting_extended(x, hx, given)
        cell = {name: getattr(self, name) for name in _options.CELL}
        cell.update((k, v) for k, v in given.items() if k in cell)
        batched = packed or x.dim() == 3
        read = _options.read(
            *(self._who, self._spec, self, cell, given, x, batched),
            None if sizes is None else int(sizes[0]),
            isinstance(weights, DeviceWeights),
        )
        call = Call(
            self._name,
            self.num_layers,
            1 + self.bidirectional,
            self.bias,
            self.batch_first and not packed,
            self.dropout if self.training and self.num_layers > 1 else 0.0,
            Packing(sizes) if packed else None,
            read.scan,
            want_states=read.return_states,
        )
        learned = self._learned(x, sizes, batched, hx is None, read.reset_to)
        resets = read.resets
        if learned is not None:
            if hx is None:
                hx = learned[0] if call.S == 1 else learned
            if read.reset_to == "learned" and given.get("reset") is not None:
                # (D*L, B, H), the same at every step.
                resets = tuple((s if batched else s.unsqueeze(1)).unsqueeze(1) for s in learned)
        return self._run(call, weights, input, x, hx, resets, packed)

    def _fitting_extended(
        self, x: Tensor, hx: Any, given: dict[str, Any]
    ) -> Weights | DeviceWeights | str:
        """Return the weights where the kernels take a call with keywords, or why not."""
        tensors = [x]
        for entry in (hx, given.get("reset_state")):
            tensors += entry if isinstance(entry, (tuple, list)) else (entry,)
        if self.initial_state == "learned":
            tensors += (getattr(self, f"{letter}_0") for letter in self._spec.states)
        reason = _dispatch.obstacle(x.dtype, _cuda_device.kind_of(x)) or _dispatch.unfit(tensors, x)
        weights = reason or self._found()
        if not isinstance(weights, str):
            weights = _weights.apart(weights, x) or weights
        return weights

    def _check_extended(self, x: Any, hx: Any, sizes: Any) -> None:
        """Check input and state by PyTorch's own checks, in its words."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{self._who}: input is of type {type(x).__qualname__}, expected a tensor or a "
                "PackedSequence."
            )
        if sizes is None and x.dim() not in (2, 3):
            name = _stock_class(type(self)).__name__
            raise ValueError(f"{name}: Expected input to be 2D or 3D, got {x.dim()}D instead")
        if sizes is None and x.dim() == 2:
            x = x.unsqueeze(0 if self.batch_first else 1)
            if hx is not None:
                hx = tuple(s.unsqueeze(1) for s in hx) if self._spec.S > 1 else hx.unsqueeze(1)
        self._update_flat_weights()
        if hx is None:
            self.check_input(x, sizes)
        else:
            self.check_forward_args(x, hx, sizes)

    def _learned(
        self, x: Tensor, sizes: Any, batched: bool, omitted: bool, reset_to: str
    ) -> tuple[Tensor, ...] | None:
        """Learned initial states as those of a batch, (D*L, B, H), where the call needs them."""
        if self.initial_state != "learned":
            if reset_to == "learned":
                raise ArgumentError(
                    f'{self._who}: reset_to is "learned", but the layer has no learned state; '
                    'expected "zero", or a layer with initial_state="learned".'
                )
            return None
        if not (omitted or reset_to == "learned"):
            return None
        rows = [getattr(self, f"{letter}_0") for letter in self._spec.states]
        if not batched:
            return tuple(rows)
        B = int(sizes[0]) if sizes is not None else x.shape[0 if self.batch_first else 1]
        return tuple(p.unsqueeze(1).expand(-1, B, -1) for p in rows)


def _stock_class(kind: type) -> Any:
    """Return PyTorch's class of a layer."""
    for base in kind.__mro__:
        if base in (nn.RNN, nn.LSTM, nn.GRU):
            return base
    raise TypeError(f"rnnfast.torch: {kind.__qualname__} derives from no layer of torch.nn.")


class RNN(Recurrent, nn.RNN):
    """`torch.nn.RNN` on our kernels; see `Recurrent`."""


class LSTM(Recurrent, nn.LSTM):
    """`torch.nn.LSTM` on our kernels; see `Recurrent`."""


class GRU(Recurrent, nn.GRU):
    """`torch.nn.GRU` on our kernels; see `Recurrent`."""


for _kind in (RNN, LSTM, GRU):
    publish(_kind)
