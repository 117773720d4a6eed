"""A linear layer on the last axis: ``y = x W^T + b``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _backend, _values
from .._shapes import Checker
from ..errors import DeviceError, ShapeError
from ._layer import Layer, check_sizes

_WHO = "rnnfast.training.Linear"

_SPECS = {1: "K", 2: "N K", 3: "T B K"}


@dataclass(frozen=True)
class LinearTape:
    """What the backward pass needs; x and the weight are borrowed, leave them as they are."""

    x: np.ndarray
    W: np.ndarray
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LinearGradients:
    """The result of `Linear.backward`; `x` is None under ``need_dx=False``."""

    x: np.ndarray | None
    parameters: dict[str, np.ndarray]


class Linear(Layer):
    """A linear layer: ``y = x W^T + b`` on the last axis.

    Parameters
    ----------
    in_features : int
        K.
    out_features : int
        M.
    bias : bool, default True
        Whether there is a b.
    dtype : {"float32", "float64"}, default "float32"
    seed : int, optional
        Of the initial values; default unpredictable.
    device : {"auto", "cpu", "numpy", "cuda"}, default "auto"
        On "cpu" the compiled GEMM runs: a row of y depends on that row of x alone, to the bit, and
        nothing depends on the number of threads. "numpy" gives the same results, not the same bits.

    Attributes
    ----------
    parameters : dict
        ``"weight"`` (M, K) and ``"bias"`` (M,), from U(-1/sqrt(K), 1/sqrt(K)), as
        ``torch.nn.Linear``.

    Raises
    ------
    DTypeError, ArgumentError
        If a size is not an integer of 1 or more, `seed` not one of 0 or more, or `dtype` another.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: Any = "float32",
        seed: int | None = None,
        device: str = "auto",
    ) -> None:
        check_sizes(_WHO, in_features=in_features, out_features=out_features)
        rng = _values.generator(_WHO, seed)
        bound = 1 / math.sqrt(in_features)
        arrays = {"weight": rng.uniform(-bound, bound, (out_features, in_features))}
        if bias:
            arrays["bias"] = rng.uniform(-bound, bound, out_features)
        self._start(dtype, arrays)
        self.device = device

    def __repr__(self) -> str:
        M, K = self.parameters["weight"].shape
        bias = "" if "bias" in self.parameters else ", bias=False"
        dtype = self.parameters["weight"].dtype.name
        return f"Linear({K}, {M}{bias}, dtype={dtype!r}, device={self.device!r})"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Apply without a tape: as `forward`, only y."""
        return self.forward(x)[0]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, LinearTape]:
        """Apply and keep the tape.

        Parameters
        ----------
        x : (K,), (N, K) or (T, B, K)
            In the dtype of the weight. Copied only where it is not contiguous.

        Returns
        -------
        y : the shape of x with M in place of K
        tape : LinearTape
            Borrows x and the weight.

        Raises
        ------
        ShapeError, DTypeError
            If `x` does not fit the weight.
        DeviceError
            If the device cannot run here.
        """
        who = f"{_WHO}.forward"
        weight = self.parameters["weight"]
        check = Checker(who, (weight.dtype, "weight"), K=(weight.shape[1], "weight"))
        if isinstance(x, np.ndarray) and x.ndim not in _SPECS:
            raise ShapeError(f"{who}: x has shape {x.shape}, expected (K,), (N, K) or (T, B, K).")
        x = check.block("x", x, _SPECS[getattr(x, "ndim", 2)])
        W = np.ascontiguousarray(weight)
        rows = x.reshape(-1, W.shape[1])
        forward, _ = self._kernels(who)
        y = forward(rows, W, self.parameters.get("bias"), None)
        return y.reshape(*x.shape[:-1], W.shape[0]), LinearTape(rows, W, x.shape)

    def backward(
        self, tape: LinearTape, dy: np.ndarray, *, need_dx: bool = True
    ) -> LinearGradients:
        """Return the gradients of x and of the parameters.

        Parameters
        ----------
        tape : LinearTape
            Of the forward call; used any number of times.
        dy : the shape of y
            The gradient of y.
        need_dx : bool, default True
            Whether the gradient of x is wanted.

        Returns
        -------
        LinearGradients

        Raises
        ------
        ShapeError, DTypeError
            If `dy` has not the shape and dtype of y.
        DeviceError
            If the device cannot run here.
        """
        who = f"{_WHO}.backward"
        M = tape.W.shape[0]
        spec = _SPECS[len(tape.shape)].replace("K", "M")
        sizes = {
            letter: (n, "the tape") for letter, n in zip(spec.split(), tape.shape, strict=True)
        }
        check = Checker(who, (tape.W.dtype, "weight"), **{**sizes, "M": (M, "weight")})
        dy = check.block("dy", dy, spec)
        _, backward = self._kernels(who)
        bias = "bias" in self.parameters
        dx, dW, db = backward(tape.x, tape.W, dy.reshape(-1, M), need_dx, bias, None)
        parameters = {"weight": dW, "bias": db} if bias else {"weight": dW}
        return LinearGradients(None if dx is None else dx.reshape(tape.shape), parameters)

    def _kernels(self, who: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        engine = _backend.resolve(self.device, who)
        if self.device == "cuda":
            raise DeviceError(
                f'{who}: device is "cuda", and there is no linear layer for it yet. Use "auto" or '
                '"cpu" here; the recurrent layers beside it may be on the GPU.'
            )
        compiled = _backend.compiled.get("cpu")
        if compiled is not None and engine is compiled:
            return compiled.linear_forward, compiled.linear_backward
        return _forward, _backward


# The NumPy twins of the compiled functions, with the same signatures.


def _forward(x: np.ndarray, W: np.ndarray, b: np.ndarray | None, threads: int | None) -> np.ndarray:
    y = x @ W.T
    if b is not None:
        y += b
    return y


def _backward(
    x: np.ndarray, W: np.ndarray, dy: np.ndarray, need_dx: bool, need_db: bool, threads: int | None
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    return dy @ W if need_dx else None, dy.T @ x, dy.sum(axis=0) if need_db else None
