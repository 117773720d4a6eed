"""How far a kernel may be from the truth.

Per time step and gate block, with `ref` the reference in a longer element type and `plain` the
same reference in the kernel's own:

    max|kernel - ref| <= 2 max|plain - ref| + 4 eps max|ref| + N tiny

where the maxima on the right run over the time steps done so far. The first term grants twice the
error of plain arithmetic, the second a few roundings where plain happened to be exact, the third
what flushing denormals to zero may cost in a sum of N terms.
"""

from __future__ import annotations

import numpy as np


def judge(
    kernel: np.ndarray,
    plain: np.ndarray,
    ref: np.ndarray,
    terms: int,
    time: int = 0,
    eps: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the error and what is allowed, one number per entry of the first axis.

    Parameters
    ----------
    kernel, plain : (steps or blocks, ...) float32 or float64
        The array to judge, and the reference's in the same element type. Each entry of the first
        axis is judged by itself.
    ref : the same shape, a longer element type
        The reference's: float64 judges float32, long double judges float64.
    terms : int
        N, the terms of a sum: I + H.
    time : {0, 1, -1}, default 0
        Whether the first axis is time, and then in which direction the pass went through it.
    eps : float, optional
        Of the numbers that products take, where they have fewer bits than the array.
    """
    rows = len(ref)
    error, granted, scale = (
        np.abs(array).reshape(rows, -1).max(axis=1) for array in (kernel - ref, plain - ref, ref)
    )
    if time:
        way = slice(None, None, time)
        granted, scale = (np.maximum.accumulate(array[way])[way] for array in (granted, scale))
    limits = np.finfo(kernel.dtype)
    return error, 2 * granted + 4 * (eps or limits.eps) * scale + terms * limits.tiny


def excess(
    kernel: np.ndarray, plain: np.ndarray, ref: np.ndarray, terms: int, time: int = 0
) -> float:
    """Return the largest ratio of a kernel's error to what it may be; at most 1 is a pass.

    Parameters as of `judge`. NaN in the kernel where the reference has a number counts as infinite.
    """
    if ref.size == 0:
        return 0.0
    error, allowed = judge(kernel, plain, ref, terms, time)
    ratio = error / allowed
    return float(np.where(np.isnan(ratio), np.inf, ratio).max())
