"""What a back end takes beside the arrays of a plain call: one layer's options, checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["ScanOptions"]


class ScanOptions(NamedTuple):
    """Options of one call of a back end, in the order in which the compiled module reads them.

    Arrays are C-contiguous and of exactly the dtypes named. With `cu_seqlens` the input is flat,
    (N, I), and every array said to be (T, B, ...) here is (N, ...).
    """

    lengths: np.ndarray | None = None
    """(B,) int64, each in 0 ... T."""
    mask: np.ndarray | None = None
    """(T, B) bool, True where the step is used."""
    cu_seqlens: np.ndarray | None = None
    """(B+1,) int64, ascending from 0 to N."""
    reset: np.ndarray | None = None
    """(T, B) bool, the border between steps t-1 and t."""
    reset_state: tuple[np.ndarray | None, ...] | None = None
    """What a reset puts in place: S arrays (D, T or 1, B, H), flat (D, N, H) or (D, 1, B, H); None
    is zero."""
    hold: bool = False
    """Whether unused steps give the held state as output instead of zero."""
    recurrent_dropout: float = 0.0
    """Probability of a zero in the operand of R."""
    per_step: bool = False
    """Whether that mask is new at each step instead of one per sequence."""
    zoneout: tuple[float, ...] | None = None
    """Per state, the probability of keeping the old value."""
    training: bool = False
    """Whether zoneout draws masks; else it takes its expectation. Dropout is given as 0 then."""
    weight_drop: float = 0.0
    """Probability of a zero in R."""
    cell_clip: float = 0.0
    """Bound of the cell state; 0 is none."""
    gradient_clip: float = 0.0
    """Bound of what a step sends back to its incoming state; 0 is none."""
    burn_in: int = 0
    """Steps at the start without gradient."""
    tbptt: int = 0
    """The gradient is cut every so many steps; 0 is never."""
    seed: int = 0
    """64 bits, the key of all masks."""
    layer: int = 0
    """Number of the layer, for the masks."""
    t0: int = 0
    """Number of the first step, for the masks, below 2**32."""
    row_ids: np.ndarray | None = None
    """(B,) uint32, number of each batch row, for the masks; 0 ... B-1 if None."""
    reverse: bool = False
    """Whether the only direction (D=1) runs reversed in time, in all as a layer's second one: in
    the order of steps, at resets, and in its masks (the direction of their counter is 1). Arrays
    stay in the order of x."""
