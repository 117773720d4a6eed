"""What points.py times: a layer with its input, in rnnfast.torch and in its peers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import rnnfast.torch

CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}
DTYPES = {
    "f32": torch.float32,
    "tf32": torch.float32,  # with PyTorch's switches on
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}
# The tests rehearse these files without a GPU.
DEVICE = "cuda"


def set_precision(dtype: str) -> None:
    """Set PyTorch's switches, which all that is timed here follows."""
    precision = "tf32" if dtype == "tf32" else "ieee"
    torch.backends.cudnn.rnn.fp32_precision = precision
    torch.backends.cuda.matmul.fp32_precision = precision


def epsilon(dtype: str) -> float:
    """Return the distance of the numbers around 1 that products take."""
    return 2.0**-10 if dtype == "tf32" else torch.finfo(DTYPES[dtype]).eps


@dataclass(frozen=True)
class Point:
    """What is timed."""

    cell: str
    B: int
    H: int
    dtype: str
    layers: int = 1
    directions: int = 1
    feature: str = ""  # "resets": 3 % of the steps; "lengths": uniform in 1 ... T
    T: int = 512  # of the longer call
    loop: bool = False  # whether the compiled loop is timed too, which takes long to compile

    @property
    def id(self) -> str:
        """Name in the results."""
        more = (
            f".{self.layers}x{self.directions}" if (self.layers, self.directions) != (1, 1) else ""
        )
        more += f".{self.feature}" if self.feature else ""
        more += f".t{self.T}" if self.T != Point.T else ""
        return f"{self.cell}.{self.dtype}.b{self.B}.h{self.H}{more}"

    @property
    def plain(self) -> bool:
        """Whether it is one layer in one direction without an option."""
        return (self.layers, self.directions, self.feature) == (1, 1, "")

    @property
    def peers(self) -> dict[str, type[Subject]]:
        """All that is timed at this point, by name."""
        found: dict[str, type[Subject]] = {"rnnfast": Ours, "torch": Torch}
        if self.loop:
            found["loop"] = Loop
        if self.plain and importlib.util.find_spec("flashrnn") is not None:
            found["flashrnn"] = Flash
        return found


class Subject:
    """A layer with its input and the gradient that comes in."""

    library: Any = torch.nn
    checked = True  # whether its results can be compared with those of torch.nn

    def __init__(self, point: Point, T: int, device: str, dtype: torch.dtype) -> None:
        self.point = point
        torch.manual_seed(0)
        kind = getattr(self.library, CELLS[point.cell])
        self.layer = kind(point.H, point.H, point.layers, bidirectional=point.directions == 2).to(
            device, dtype
        )
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(T, point.B, point.H, generator=generator)
        dy = torch.randn(T, point.B, point.H * point.directions, generator=generator)
        self.x = x.to(device, dtype).requires_grad_()
        self.dy = dy.to(device, dtype)
        self.lengths = torch.randint(1, T + 1, (point.B,), generator=generator)
        self.lengths[0] = T
        self.resets = (torch.rand(T, point.B, generator=generator) < 0.03).to(device)

    def forward(self) -> torch.Tensor:
        """Return y."""
        raise NotImplementedError

    def both(self) -> list[torch.Tensor]:
        """Forward and backward: y and the gradients."""
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        y = self.forward()
        y.backward(self.dy)
        return [y.detach(), self.x.grad, *(p.grad for p in self.layer.parameters())]

    def inference(self) -> torch.Tensor:
        """Return y, and keep nothing."""
        with torch.inference_mode():
            return self.forward()

    def passes(self) -> dict[str, Callable[[], Any]]:
        """Return what is timed."""
        return {"inference": self.inference, "forward+backward": self.both}


class Ours(Subject):
    """rnnfast.torch."""

    library = rnnfast.torch

    def forward(self) -> torch.Tensor:
        """Lengths and resets are tensors on the device."""
        options = {}
        if self.point.feature == "lengths":
            options["lengths"] = self.lengths.to(self.x.device)
        elif self.point.feature == "resets":
            options["reset"] = self.resets
        return self.layer(self.x, **options)[0]


class Torch(Subject):
    """torch.nn: cuDNN on a GPU."""

    def forward(self) -> torch.Tensor:
        """Lengths by a PackedSequence, resets by a call a step: what its users do."""
        if self.point.feature == "lengths":
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                self.x, self.lengths, enforce_sorted=False
            )
            y, _ = self.layer(packed)
            return torch.nn.utils.rnn.pad_packed_sequence(y, total_length=len(self.x))[0]
        if self.point.feature == "resets":
            return self._by_steps()
        return self.layer(self.x)[0]

    def _by_steps(self) -> torch.Tensor:
        keep = (~self.resets).to(self.x.dtype)[:, :, None]
        state: Any = None
        steps = []
        for t in range(len(self.x)):
            if isinstance(state, tuple):
                state = tuple(s * keep[t] for s in state)
            elif state is not None:
                state = state * keep[t]
            y, state = self.layer(self.x[t : t + 1], state)
            steps.append(y)
        return torch.cat(steps)


def _lstm(gx: Any, h: Any, c: Any, R: Any, bR: Any) -> Any:
    i, f, g, o = (gx + torch.nn.functional.linear(h, R, bR)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(gx: Any, h: Any, c: Any, R: Any, bR: Any) -> Any:
    xr, xz, xn = gx.chunk(3, -1)
    hr, hz, hn = torch.nn.functional.linear(h, R, bR).chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    return (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * h, c


def _rnn(gx: Any, h: Any, c: Any, R: Any, bR: Any) -> Any:
    return torch.tanh(gx + torch.nn.functional.linear(h, R, bR)), c


class Loop(Subject):
    """A loop over the steps whose body is compiled by PyTorch; the input product before it."""

    _steps: dict[str, Callable[..., Any]] = {}  # noqa: RUF012, one for all points

    def forward(self) -> torch.Tensor:
        """Weights are those of a layer of torch.nn."""
        body = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn}[self.point.cell]
        step = self._steps.setdefault(self.point.cell, torch.compile(body, dynamic=False))
        W, R, bW, bR = self.layer.all_weights[0]
        gx = torch.nn.functional.linear(self.x, W, bW)
        h = c = torch.zeros(self.x.shape[1:], dtype=self.x.dtype, device=self.x.device)
        steps = []
        for t in range(len(gx)):
            h, c = step(gx[t], h, c, R, bR)
            steps.append(h)
        return torch.stack(steps)


class Flash(Subject):
    """FlashRNN's fused kernels, with the input product that it leaves to the caller.

    Its gates have an order and biases of its own, so its numbers are not compared.
    """

    checked = False

    def forward(self) -> torch.Tensor:
        """Arrays are (B, T, G, heads, H) and (G, heads, H, H), with one head."""
        from flashrnn import flashrnn

        H = self.point.H
        W, R, bW, _ = self.layer.all_weights[0]
        G = len(W) // H
        gx = torch.nn.functional.linear(self.x, W).view(len(self.x), self.point.B, G, 1, H)
        states, _ = flashrnn(
            gx.transpose(0, 1).contiguous(),
            R.view(G, 1, H, H),
            bW.view(G, 1, H),
            function={"rnn_tanh": "elman"}.get(self.point.cell, self.point.cell),
            backend="cuda_fused",
            dtype=str(self.x.dtype).removeprefix("torch."),
        )
        return states[0][:, :, 0].transpose(0, 1)

    def both(self) -> list[torch.Tensor]:
        """One of the biases takes no part."""
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        self.forward().backward(self.dy)
        return []


class Products(Subject):
    """The products over all steps alone, as torch.mm does them: what is left is the recurrence."""

    def forward(self) -> torch.Tensor:
        """Return W x."""
        return self.x.flatten(0, 1).detach() @ self.layer.all_weights[0][0].detach().T

    def both(self) -> list[torch.Tensor]:
        """Return W x, and dx, dW and dR of gate gradients that it is taken for."""
        d = self.forward()
        W, x, h = (
            self.layer.all_weights[0][0].detach(),
            self.x.flatten(0, 1).detach(),
            self.dy.flatten(0, 1),
        )
        return [d, d @ W, d.T @ x, d.T @ h]
