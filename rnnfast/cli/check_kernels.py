"""Judge the kernels of the instruction set that this process runs; the worker of ``rnnfast check``.

Prints one line of JSON per kernel: name, number of cases, worst ratio to the yardstick, its shape.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import CELLS, CellSpec, IndexedRows, last_kernel, ops
from ..training import Linear
from .yardstick import excess

# T, B, I, H: tails of every vector width, the direct and the packed road, more rows than a tile.
SHAPES = (
    (1, 1, 5, 16),
    (5, 3, 7, 9),
    (15, 1, 33, 33),
    (9, 17, 16, 64),
    (20, 4, 65, 70),
    (3, 40, 1, 1),
    (40, 2, 8, 130),
)


class Finding(NamedTuple):
    """One array of one kernel's results."""

    kernel: str
    ratio: float
    shape: tuple[int, ...]


def main() -> int:
    """Judge all kernels and print the findings."""
    worst: dict[str, Finding] = {}
    cases: dict[str, int] = {}
    for finding in _findings():
        cases[finding.kernel] = cases.get(finding.kernel, 0) + 1
        if finding.kernel not in worst or finding.ratio > worst[finding.kernel].ratio:
            worst[finding.kernel] = finding
    for kernel, finding in worst.items():
        T, B, I, H = finding.shape  # noqa: E741
        where = f"T={T} B={B} I={I} H={H}"
        print(json.dumps([kernel, cases[kernel], finding.ratio, where]))
    return 0


def _findings() -> Iterator[Finding]:
    isa = sys.argv[1]
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        for spec in CELLS.values():
            for shape in SHAPES:
                for reverse in (False, True):
                    for indices in (False, True):
                        yield from _of_cell(spec, shape, dtype, reverse, indices, isa)
        for shape in SHAPES:
            yield from _of_linear(shape, dtype, isa)


def _of_cell(
    spec: CellSpec,
    shape: tuple[int, int, int, int],
    dtype: np.dtype,
    reverse: bool,
    indices: bool,
    isa: str,
) -> Iterator[Finding]:
    T, B, I, H = shape  # noqa: E741
    rng = np.random.default_rng([T, B, I, H])
    bound = 1 / np.sqrt(H)
    x = rng.integers(I, size=(T, B)) if indices else rng.standard_normal((T, B, I))
    row = [rng.uniform(-bound, bound, (spec.G * H, n)) for n in (I, H)]
    row += [rng.uniform(-bound, bound, spec.G * H) for _ in range(2)]
    states = [rng.standard_normal((B, H)) for _ in spec.states]
    dy, dstates = rng.standard_normal((T, B, H)), [rng.standard_normal((B, H)) for _ in states]

    def run(kind: np.dtype, device: str) -> tuple[dict[str, np.ndarray], str, dict[str, Any], str]:
        """Run forward and backward on values that the kernel's type can hold."""

        def cast(array: np.ndarray) -> np.ndarray:
            return array if array.dtype.kind == "i" else array.astype(dtype).astype(kind)

        forward = getattr(ops, f"{spec.function}_forward")
        backward = getattr(ops, f"{spec.function}_backward")
        arrays = [cast(a) for a in (x, *row, *states)]
        y, state, tape = forward(*arrays, **spec.options, reverse=reverse, device=device)
        of_forward = last_kernel()
        results = {"y": y}
        final = state if isinstance(state, tuple) else (state,)
        results |= {f"{name}_n": array for name, array in zip(spec.states, final, strict=True)}
        gradients = backward(tape, cast(dy), *(cast(d) for d in dstates))
        return results, of_forward, gradients._asdict(), last_kernel()

    y_kernel, forward_id, d_kernel, backward_id = run(dtype, "cpu")
    y_plain, _, d_plain, _ = run(dtype, "numpy")
    y_ref, _, d_ref, _ = run(np.dtype(np.float64), "numpy")
    short = "f32" if dtype == np.float32 else "f64"
    for kernel, passed in ((forward_id, "forward"), (backward_id, "backward")):
        if kernel != f"{spec.name}.{passed}.{short}.{isa}":
            raise RuntimeError(f"{spec.name}.{passed}.{short}.{isa} was called, {kernel} ran")
    for kernel, triple, against_time in (
        (forward_id, (y_kernel, y_plain, y_ref), reverse),
        (backward_id, (d_kernel, d_plain, d_ref), not reverse),
    ):
        for name in triple[2]:
            if triple[2][name] is not None:
                parts = [_blocks(name, results[name], spec.G) for results in triple]
                yield Finding(kernel, excess(*parts, I + H, against_time), shape)


def _blocks(name: str, array: np.ndarray | IndexedRows, gates: int) -> np.ndarray:
    """Arrange an array so that its first axis is time, or gates, or nothing."""
    if isinstance(array, IndexedRows):
        array = array.dense()
    if name in ("y", "dx"):
        return array
    return array.reshape(gates if name in ("dW", "dR", "dbW", "dbR") else 1, -1)


def _of_linear(shape: tuple[int, int, int, int], dtype: np.dtype, isa: str) -> Iterator[Finding]:
    T, B, K, M = shape
    rng = np.random.default_rng([*shape, 1])
    x, dy = rng.standard_normal((T, B, K)), rng.standard_normal((T, B, M))

    def run(kind: np.dtype, device: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        layer = Linear(K, M, dtype=kind, seed=0, device=device)
        start = Linear(K, M, dtype=dtype, seed=0, device=device).state_dict()
        layer.load_state_dict({name: array.astype(kind) for name, array in start.items()})
        y, tape = layer.forward(x.astype(dtype).astype(kind))
        gradients = layer.backward(tape, dy.astype(dtype).astype(kind))
        return {"y": y}, {"dx": gradients.x, **gradients.parameters}

    kernel, plain, ref = run(dtype, "cpu"), run(dtype, "numpy"), run(np.dtype("f8"), "numpy")
    short = "f32" if dtype == np.float32 else "f64"
    for place, passed in enumerate(("forward", "backward")):
        for name in ref[place]:
            parts = [results[place][name].reshape(1, -1) for results in (kernel, plain, ref)]
            yield Finding(f"linear.{passed}.{short}.{isa}", excess(*parts, K + T * B), shape)


if __name__ == "__main__":
    sys.exit(main())
