"""Per-step Jacobians of the recurrence, and spectral radii."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy import ndarray

from ..errors import DTypeError, ShapeError
from ..layers import Recurrent
from ._run import Run, RunOptions, Scan

__all__ = ["jacobians", "jacobians_of", "spectral_radius"]


def jacobians(
    layer: Recurrent, x: ndarray, state: Any = None, **options: Unpack[RunOptions]
) -> ndarray:
    """Differentiate the state that leaves each step by the state that entered it.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    x : (T, B, I), or (T, B) of an integer dtype
        In any form that a call of the layer takes, except flat.
    state : in the form of the layer's state, optional
        Zero, or the learned state, if omitted.
    **options
        `lengths`, `mask`, `reset`, `reset_to`, `reset_state` of a plain call, see
        `rnnfast.options.LayerCallOptions`.

    Returns
    -------
    (D*L, T, B, S*H, S*H)
        ``[..., i, j]`` is the derivative of state i after the step by state j before it, of each
        layer by itself. For the LSTM the state is h and then c: ``[..., :H, :H]`` is dh_t/dh_{t-1}
        with c_{t-1} held. In the reverse direction before is t+1. The identity at unused steps, 0
        where a reset stands between. (D*L, B, T, ...) under `batch_first`, (D*L, T, ...) unbatched.

    Raises
    ------
    ShapeError, DTypeError, IndexRangeError, ArgumentError
        As in a call of the layer.

    Notes
    -----
    All steps are run at once, each from the state that enters it, as rows of one batch; S*H
    backward passes then give a row of every Jacobian each. The array takes T*B*(S*H)**2 numbers.
    """
    run = Run("jacobians", layer, x, state, options)
    return run.leave(np.stack([jacobians_of(run, scan, slice(0, run.T)) for scan in run.scans]))


def jacobians_of(run: Run, scan: Scan, steps: slice) -> ndarray:
    """Return the Jacobians (T', B, S*H, S*H) of some steps of a scan."""
    S, H, B = run.stack.spec.S, run.stack.H, run.B
    x = scan.x[steps]
    T = len(x)
    rows = x.reshape(1, T * B, *x.shape[2:])
    entered = tuple(state[steps].reshape(T * B, H) for state in scan.entered)
    options = run.options(run.used[steps].reshape(1, T * B), clip=False)
    tape = run.step(scan, rows, entered, options)
    result = np.empty((T * B, S * H, S * H), run.stack.dtype)
    for i in range(S * H):
        seed = np.zeros((S, 1, T * B, H), run.stack.dtype)
        seed[i // H, ..., i % H] = 1
        row = run.stack.agreed(run.engine.backward(tape, None, tuple(seed), False, None))
        for s, d in enumerate(row[2]):
            result[:, i, s * H : (s + 1) * H] = d[0]
    result[scan.cut[steps].reshape(T * B)] = 0
    return result.reshape(T, B, S * H, S * H)


def spectral_radius(of: Recurrent | ndarray) -> ndarray:
    """Return the largest modulus of an eigenvalue.

    Parameters
    ----------
    of : RNN, LSTM or GRU, or array (..., N, N)
        A layer stands for its recurrent weights, a block (H, H) per gate; an array for each matrix
        on its last two axes, such as `jacobians`.

    Returns
    -------
    (D*L, G) for a layer, gates in the order of ``layer.cell``; (...) for an array
        In float64; NaN for a matrix with NaN or infinities in it. About the state 0 a plain tanh
        RNN forgets where the radius of its weights is below 1; the gates of other cells change what
        is multiplied, so that only the radii of their Jacobians tell.

    Raises
    ------
    DTypeError
        If `of` is neither.
    ShapeError
        If the last two axes are not square.
    """
    who = "rnnfast.inspect.spectral_radius"
    if isinstance(of, Recurrent):
        H = of.hidden_size
        names = [name for name in of.parameters if name.startswith("weight_hh")]
        matrices = np.stack([of.parameters[name].reshape(-1, H, H) for name in names])
    elif isinstance(of, ndarray) and of.dtype.kind in "fiu":
        matrices = of
    else:
        came = of.dtype if isinstance(of, ndarray) else f"of type {type(of).__qualname__}"
        raise DTypeError(f"{who}: of is {came}, expected a layer, or an array of real numbers.")
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2]:
        raise ShapeError(f"{who}: of has shape {matrices.shape}, expected (..., N, N).")
    if matrices.shape[-1] == 0:
        return np.zeros(matrices.shape[:-2])
    finite = np.isfinite(matrices).all((-2, -1))
    solvable = np.where(finite[..., None, None], matrices, 0).astype(np.float64)
    return np.where(finite, np.abs(np.linalg.eigvals(solvable)).max(-1), np.nan)
