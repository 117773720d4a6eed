"""The least time that a row can take: a bound from the arithmetic and the memory of this machine.

    limit = max(flops / peak, weights / bandwidth) + activations + steps (+ call)

flops        2 * (rows used) * G*H * (I+H) per layer, three times that with the backward pass: the
             products of forward, those of dx and dh, those of dW and dR.
weights      R once per step, for its products follow each other in time and each reads all of R;
             twice with the backward pass. Their bandwidth is that of the level of memory they fit
             in. With T = 1, W has no other step to be shared with and is read like R.
activations  what the vector units need beside the product, spread over the threads.
steps        the chain of one step: the last product's sum, the cell, the first product. Threads
             that share a step exchange h once more.
call         with T = 1, the way from Python into compiled code and back; with several threads,
             to the others and back as well.

It is optimistic: arithmetic and memory overlap in it without loss, packing and the tape are free.
Time 1.1 to 1.2 times the limit is what good code reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..cells import CELLS
from .grid import Row
from .machine import Peaks

__all__ = ["Limit", "flops", "limit"]

# Measured once (AMD Zen 5, AVX-512, 4 GHz), 0.13 to 0.24 for sigmoid and tanh to a few ulp.
ACTIVATION_SECONDS = 0.15e-9
# A dozen dependent operations of 4 cycles and a tanh, there; and one cache line each way between
# cores, there 88 to 106 ns for up to 256 floats.
STEP_SECONDS = 25e-9
EXCHANGE_SECONDS = 90e-9
# A call that parses its arguments and allocates y; 0.2 to 0.3 there.
CALL_SECONDS = 0.25e-6
# OpenMP's fork and join while its threads still spin, there; 1 microsecond and more otherwise.
# Longer calls share it among their steps. What is quicker on one thread is free to stay on one:
# such a row may take less than this.
FORK_SECONDS = 0.42e-6


@dataclass(frozen=True)
class Limit:
    """The limit of a row, and what it is made of, in seconds.

    Attributes
    ----------
    arithmetic, memory : float
        Of these two the larger counts.
    activations, steps, call : float
    level : str
        The level of memory that holds the weights.
    weights : int
        Bytes of a layer that a step reads, of the last layer.
    """

    arithmetic: float
    memory: float
    activations: float
    steps: float
    call: float
    level: str
    weights: int

    @property
    def seconds(self) -> float:
        """The limit itself."""
        return max(self.arithmetic, self.memory) + self.activations + self.steps + self.call

    @property
    def bound(self) -> str:
        """What the largest part of it is: ``"flops"``, or ``"weights in L2"``."""
        return "flops" if self.arithmetic >= self.memory else f"weights in {self.level}"


def flops(row: Row, used: int | None = None) -> int:
    """Return the floating-point operations of a row's products.

    Parameters
    ----------
    row : Row
    used : int, optional
        Rows used, of T*B; all if omitted.
    """
    rows = row.T * row.B if used is None else used
    G = CELLS[row.cell].G
    inputs = [row.I] + [row.H] * (row.L - 1)
    products = sum(2 * rows * G * row.H * (width + row.H) for width in inputs)
    return products * (3 if row.backward else 1)


def limit(row: Row, peaks: Peaks, used: int | None = None) -> Limit:
    """Return the least time that a row can take with these peaks; `used` as of `flops`."""
    spec = CELLS[row.cell]
    rows = row.T * row.B if used is None else used
    itemsize = int(row.dtype[5:]) // 8
    arithmetic = flops(row, used) / peaks.flops[row.dtype]
    reads = row.T * (2 if row.backward else 1)
    memory, level, size = 0.0, "", 0
    for layer in range(row.L):
        width = row.H if row.T > 1 else row.H + (row.I if layer == 0 else row.H)
        size = spec.G * row.H * width * itemsize
        level = peaks.level_of(size)
        memory += reads * size / peaks.read[level]
    # A gate each; the LSTM has the tanh of c as well.
    activations = row.L * rows * row.H * (spec.G + ("c" in spec.states)) * ACTIVATION_SECONDS
    shared = peaks.threads > 1
    steps = row.L * row.T * (STEP_SECONDS + (EXCHANGE_SECONDS if shared else 0))
    call = (CALL_SECONDS + (FORK_SECONDS if shared else 0)) if row.T == 1 else 0.0
    return Limit(arithmetic, memory, activations / peaks.threads, steps, call, level, size)
