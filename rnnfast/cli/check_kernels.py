"""Judge the kernels of the instruction set that this process runs; the worker of ``rnnfast check``.

Prints one line of JSON per kernel: name, number of arrays judged, the worst ratio of an error to
what the yardstick grants, and where that was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import CELLS, CellSpec, IndexedRows, last_kernel, ops
from .._scan_options import ScanOptions
from ..reference import engine
from ..reference.yardstick import excess
from ..training import Linear

# T, B, I, H: tails of every vector width, the direct and the packed road, more rows than a tile.
SHAPES = (
    (1, 1, 5, 16),
    (5, 3, 7, 9),
    (15, 1, 33, 33),
    (9, 17, 16, 64),
    (20, 4, 65, 70),
    (3, 40, 1, 1),
    (12, 6, 40, 130),
)
Results = dict[str, np.ndarray]
Finding = tuple[str, float, str]


def main() -> int:
    """Judge all kernels and print the findings."""
    isa = sys.argv[1]
    worst: dict[str, tuple[float, str]] = {}
    arrays: dict[str, int] = {}
    for kernel, ratio, where in _findings(isa):
        arrays[kernel] = arrays.get(kernel, 0) + 1
        worst[kernel] = max(worst.get(kernel, (0.0, where)), (ratio, where))
    for kernel, (ratio, where) in worst.items():
        print(json.dumps([kernel, arrays[kernel], ratio, where]))
    return 0


def _findings(isa: str) -> Iterator[Finding]:
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        for shape in SHAPES:
            for spec in CELLS.values():
                for kind in (
                    "plain",
                    "reverse",
                    "indices",
                    *(("options",) if shape[3] > 9 else ()),
                ):
                    call = _Cell(spec, shape, dtype, kind)
                    yield from _judge(call, spec.name, shape, dtype, isa)
            yield from _judge(_Linear(shape, dtype), "linear", shape, dtype, isa)


def _judge(
    call: _Cell | _Linear, name: str, shape: tuple[int, ...], dtype: np.dtype, isa: str
) -> Iterator[Finding]:
    """Compare one kind of call, forward and backward, on as many draws as its size needs."""
    T, B, I, H = shape
    # The yardstick compares maxima, step by step: of a handful of numbers they say nothing.
    numbers = B * min(I, H)
    draws = 1 if numbers >= 200 else min(40, -(-600 // numbers))
    wide = np.dtype(np.float64 if dtype == np.float32 else np.longdouble)
    runs = []
    for seed in range(draws):
        call.draw(np.random.default_rng([*shape, seed]))
        runs.append((call.kernel(isa), call.reference(dtype), call.reference(wide)))
    short = f"f{8 * dtype.itemsize}"
    for passed in (0, 1):
        kernel = f"{name}.{('forward', 'backward')[passed]}.{short}.{isa}"
        for array in runs[0][2][passed]:
            pooled = [
                np.stack([call.blocks(array, run[k][passed][array]) for run in runs], axis=1)
                for k in range(3)
            ]
            ratio = excess(*pooled, call.terms, call.way(array))
            yield kernel, ratio, f"{array} of T={T} B={B} I={I} H={H}"


class _Cell:
    """Calls of one cell: all its arguments given, all its results compared."""

    def __init__(
        self,
        spec: CellSpec,
        shape: tuple[int, int, int, int],
        dtype: np.dtype,
        kind: str,
    ) -> None:
        self.spec, self.shape, self.dtype = spec, shape, dtype
        self.reverse, self.indices = kind == "reverse", kind == "indices"
        self.options = kind == "options"
        self.terms = shape[2] + shape[3]

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the arguments, in the kernel's element type."""
        T, B, I, H = self.shape
        rows, bound = self.spec.G * H, 1 / np.sqrt(H)

        def uniform(*size: int) -> np.ndarray:
            return rng.uniform(-bound, bound, size).astype(self.dtype)

        def normal(*size: int) -> np.ndarray:
            return rng.standard_normal(size).astype(self.dtype)

        self.x = rng.integers(I, size=(T, B)) if self.indices else normal(T, B, I)
        self.row = (uniform(rows, I), uniform(rows, H), uniform(rows), uniform(rows))
        self.states = [normal(B, H) for _ in self.spec.states]
        self.dy, self.dstates = normal(T, B, H), [normal(B, H) for _ in self.spec.states]
        # What moves rows, and what the cell's epilogue must know.
        self.steps = {"lengths": rng.integers(T // 2, T + 1, B), "reset": rng.random((T, B)) < 0.1}
        self.chance, self.seed = 0.25, int(rng.integers(2**32))

    def kernel(self, isa: str) -> tuple[Results, Results]:
        """Run the compiled kernels by their public functions."""
        short = f"f{8 * self.dtype.itemsize}.{isa}"
        options = {**self.spec.options, "reverse": self.reverse, "device": "cpu"}
        if self.options:
            options |= {**self.steps, "seed": self.seed}
            options |= {"recurrent_dropout": self.chance, "zoneout": self.chance}
        y, state, tape = self._function("forward")(self.x, *self.row, *self.states, **options)
        _expect(f"{self.spec.name}.forward.{short}")
        states = state if isinstance(state, tuple) else (state,)
        gradients = self._function("backward")(tape, self.dy, *self.dstates)._asdict()
        _expect(f"{self.spec.name}.backward.{short}")
        if isinstance(gradients["dW"], IndexedRows):
            gradients["dW"] = gradients["dW"].dense()
        return self._named(y, states), {k: a for k, a in gradients.items() if a is not None}

    def reference(self, dtype: np.dtype) -> tuple[Results, Results]:
        """Run the reference in any element type, a longer one than kernels have too."""

        def cast(array: np.ndarray) -> np.ndarray:
            return array if array.dtype.kind == "i" else array.astype(dtype)

        back = slice(None, None, -1 if self.reverse else 1)
        row = tuple(cast(array) for array in self.row)
        states, dstates = (
            tuple(cast(array)[None] for array in arrays) for arrays in (self.states, self.dstates)
        )
        x, dy = cast(self.x)[back], cast(self.dy)[back]
        options = None
        if self.options:
            options = ScanOptions(
                **self.steps,
                recurrent_dropout=self.chance,
                zoneout=(self.chance,) * self.spec.S,
                training=True,
                seed=self.seed,
            )
        given = (self.spec.name, x, (row,), states, None, True, None, options)
        y, last, tape = engine.forward(*given)
        dx, ((dW, dR, dbW, dbR),), dstate0, _ = engine.backward(tape, dy, dstates, True, None)
        if self.indices:
            dW = IndexedRows(*dW, self.row[0].shape).dense()
        gradients = {"dW": dW, "dR": dR, "dbW": dbW, "dbR": dbR}
        if dx is not None:
            gradients["dx"] = dx[back]
        for letter, array in zip(self.spec.states, dstate0, strict=True):
            gradients[f"d{letter}0"] = array[0]
        return self._named(y[back], [array[0] for array in last]), gradients

    def blocks(self, name: str, array: np.ndarray) -> np.ndarray:
        """Arrange a result so that its first axis is time, or gate blocks, or nothing."""
        if name in ("y", "dx"):
            return array
        return array.reshape(self.spec.G if name in ("dW", "dR", "dbW", "dbR") else 1, -1)

    def way(self, name: str) -> int:
        """Return how the pass went along the first axis of `blocks`, as the yardstick takes it."""
        ahead = -1 if self.reverse else 1
        return {"y": ahead, "dx": -ahead}.get(name, 0)

    def _function(self, passed: str) -> Callable[..., Any]:
        return getattr(ops, f"{self.spec.function}_{passed}")

    def _named(self, y: np.ndarray, states: Any) -> Results:
        finals = {f"{s}_n": array for s, array in zip(self.spec.states, states, strict=True)}
        return {"y": y, **finals}


class _Linear:
    """Calls of the linear layer, (T, B, I) to (T, B, H)."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.terms = shape[0] * shape[1] + shape[2] + shape[3]

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the arguments, in the kernel's element type."""
        T, B, I, H = self.shape
        self.layer = Linear(I, H, dtype=self.dtype, seed=int(rng.integers(2**32)), device="cpu")
        self.x = rng.standard_normal((T, B, I)).astype(self.dtype)
        self.dy = rng.standard_normal((T, B, H)).astype(self.dtype)

    def kernel(self, isa: str) -> tuple[Results, Results]:
        """Run the compiled kernels by the layer."""
        y, tape = self.layer.forward(self.x)
        gradients = self.layer.backward(tape, self.dy)
        dW, db = gradients.parameters["weight"], gradients.parameters["bias"]
        return {"y": y}, {"dx": gradients.x, "dW": dW, "db": db}

    def reference(self, dtype: np.dtype) -> tuple[Results, Results]:
        """Compute the same in any element type."""
        T, B, I, H = self.shape
        x, dy = self.x.reshape(-1, I).astype(dtype), self.dy.reshape(-1, H).astype(dtype)
        W, b = (a.astype(dtype) for a in self.layer.parameters.values())
        dx = (dy @ W).reshape(T, B, I)
        return {"y": (x @ W.T + b).reshape(T, B, H)}, {"dx": dx, "dW": dy.T @ x, "db": dy.sum(0)}

    def blocks(self, name: str, array: np.ndarray) -> np.ndarray:
        """Arrange a result so that each entry of its first axis is judged by itself: as one."""
        return array.reshape(1, -1)

    def way(self, name: str) -> int:
        """Return 0: no pass goes through time."""
        return 0


def _expect(kernel: str) -> None:
    if last_kernel() != kernel:
        raise RuntimeError(f"{kernel} was called, {last_kernel()} ran")


if __name__ == "__main__":
    sys.exit(main())
