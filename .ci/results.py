"""Save what every kernel of this process's instruction set computes on small problems.

Usage: results.py FILE.npz. Run on an emulated CPU and on the real one with the same RNNFAST_ISA,
the files must hold the same bits: IEEE arithmetic leaves an emulator no freedom.
"""

import sys

import numpy as np

import rnnfast

# T, B, I, H: one row and several, whole vectors and tails, the direct road and the packed one.
SHAPES = ((1, 1, 3, 16), (3, 1, 9, 17), (2, 7, 5, 33), (9, 3, 16, 8))


def uniform(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    """Return numbers in [-0.5, 0.5) made without the mathematical library, which may differ."""
    return (rng.random(shape) - 0.5).astype(dtype)


def main(file: str) -> None:
    """Run forward and backward of every cell, and save all results."""
    results = {}
    for spec in rnnfast.CELLS.values():
        forward = getattr(rnnfast, f"{spec.function}_forward")
        backward = getattr(rnnfast, f"{spec.function}_backward")
        for T, B, I, H in SHAPES:
            for dtype in ("float32", "float64"):
                rng = np.random.default_rng(0)
                rows = spec.G * H
                shapes = [(T, B, I), (rows, I), (rows, H), (rows,), (rows,), *[(B, H)] * spec.S]
                arrays = [uniform(rng, dtype, *shape) for shape in shapes]
                y, state, tape = forward(*arrays, **spec.options, threads=1, device="cpu")
                name = rnnfast.last_kernel()
                final = state if isinstance(state, tuple) else (state,)
                gradients = backward(tape, uniform(rng, dtype, T, B, H), threads=1)
                for k, array in enumerate((y, *final, *gradients)):
                    if array is not None:
                        results[f"{name} {T} {B} {I} {H} {k}"] = array
    np.savez(file, **results)


if __name__ == "__main__":
    main(sys.argv[1])
