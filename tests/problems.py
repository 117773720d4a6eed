"""Random calls of a cell, the same numbers in any dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import rnnfast
from rnnfast.cells import CELLS, CellSpec

CELL_NAMES = list(CELLS)


@dataclass(frozen=True)
class Problem:
    """One forward and backward call: arguments and the gradients that flow in."""

    spec: CellSpec
    x: np.ndarray
    row: tuple[np.ndarray | None, ...]  # W, R, bW, bR
    state: tuple[np.ndarray | None, ...]
    dy: np.ndarray
    dstate: tuple[np.ndarray, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def H(self) -> int:
        return self.row[1].shape[1]

    @property
    def I(self) -> int:
        return self.row[0].shape[1]

    def astype(self, dtype: Any) -> Problem:
        def cast(a: np.ndarray | None) -> np.ndarray | None:
            return a if a is None or a.dtype.kind == "i" else a.astype(dtype)

        return replace(
            self,
            x=cast(self.x),
            row=tuple(map(cast, self.row)),
            state=tuple(map(cast, self.state)),
            dy=cast(self.dy),
            dstate=tuple(map(cast, self.dstate)),
        )

    def function(self, suffix: str = "") -> Callable[..., Any]:
        return getattr(rnnfast, self.spec.function + suffix)

    def forward(self, **options: Any) -> tuple[Any, ...]:
        """y, the states as a tuple, and the tape."""
        given = {**self.spec.options, **self.options, **options}
        y, state, tape = self.function("_forward")(self.x, *self.row, *self.state, **given)
        return y, (state if isinstance(state, tuple) else (state,)), tape

    def run(self, **options: Any) -> dict[str, np.ndarray | None]:
        """All results of forward and backward by name."""
        y, state, tape = self.forward(**options)
        results = {"y": y}
        results.update(zip((f"{s}_n" for s in self.spec.states), state, strict=True))
        threads = options.get("threads")
        gradients = self.function("_backward")(tape, self.dy, *self.dstate, threads=threads)
        results.update(gradients._asdict())
        if isinstance(gradients.dW, rnnfast.IndexedRows):
            results["dW"] = gradients.dW.dense()
        return results


def make(
    cell: str,
    T: int,
    B: int,
    I: int,
    H: int,
    *,
    seed: int = 0,
    bias: bool = True,
    state: bool = True,
    indices: bool = False,
    **options: Any,
) -> Problem:
    """Draw a problem in float64 whose numbers are exact in float32, spectral radius of R below
    1."""
    rng = np.random.default_rng(seed)
    spec = CELLS[cell]
    G = spec.G

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)

    # The circular law: a random (H, H) block has spectral radius about sqrt(H) times its scale; a
    # small one may have far more, and is scaled back, as the yardstick holds for radii up to 1.
    blocks = [draw(H, H, scale=0.8 / np.sqrt(H)) for _ in range(G)]
    if 0 < H <= 64:
        radii = [np.abs(np.linalg.eigvals(block)).max() for block in blocks]
        blocks = [b / max(1.0, r / 0.9) for b, r in zip(blocks, radii, strict=True)]
    R = np.concatenate(blocks).astype(np.float32).astype(np.float64)
    W = draw(G * H, I, scale=1 / np.sqrt(max(I, 1)))
    biases = (draw(G * H, scale=0.3), draw(G * H, scale=0.3)) if bias else (None, None)
    return Problem(
        spec,
        rng.integers(0, I, (T, B)) if indices else draw(T, B, I),
        (W, R, *biases),
        tuple(draw(B, H, scale=0.5) if state else None for _ in spec.states),
        draw(T, B, H),
        tuple(draw(B, H) for _ in spec.states),
        options,
    )
