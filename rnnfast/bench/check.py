"""Whether a result is right: by the project's yardstick, before anything is timed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .._scan_options import ScanOptions
from ..cells import CELLS
from ..reference import engine
from ..reference.yardstick import excess
from .grid import DROPOUT, Row
from .problem import SEED, Problem

__all__ = ["ALLOWED", "ALLOWED_PEERS", "Judge"]

Arrays = Mapping[str, np.ndarray]

ALLOWED = 1.0
"""What rnnfast may take of what the yardstick grants, as everywhere in the project."""
ALLOWED_PEERS = 4.0
"""What others may: how coarse their sigmoid and tanh are is their choice; the worst in the grid
took 1.5. A gate in the wrong place, or a product in half precision, is thousands of times that."""


class Judge:
    """The reference's results for one problem, and what they say about others.

    float32 is judged by float64, and float64 by long double. An array is judged as a whole, and
    those of parameters gate block by gate block.
    """

    def __init__(self, problem: Problem, backward: bool) -> None:
        self._row = problem.row
        narrow = np.dtype(self._row.dtype)
        wide = np.dtype(np.float64 if narrow == np.float32 else np.longdouble)
        self._plain = reference(problem, narrow, backward)
        self._ref = reference(problem, wide, backward)

    def error(self, found: Arrays, backward: bool, complete: bool = True) -> float:
        """Return the worst error as a share of what is granted; at most 1 is as good as NumPy.

        Parameters
        ----------
        found : mapping of str to array
            Named as `reference` does.
        backward : bool
            Whether gradients must be there; without them they must not.
        complete : bool, default True
            Whether bR's gradient must be there; where a system adds both biases it is not.

        Raises
        ------
        ValueError
            If an array is missing, unknown, or of another shape; says which.
        """
        expected = [name for name in self._ref if backward or not name.startswith("d")]
        lacking = [
            name
            for name in expected
            if name not in found and (complete or not name.startswith("dbias_hh"))
        ]
        unknown = [name for name in found if name not in expected]
        if lacking or unknown:
            text = [f"no {', '.join(lacking)}"] if lacking else []
            text += [f"unexpected {', '.join(unknown)}"] if unknown else []
            raise ValueError(f"it returned {' and '.join(text)}")
        worst = 0.0
        for name, array in found.items():
            ref, plain = self._ref[name], self._plain[name]
            if array.shape != ref.shape or array.dtype != plain.dtype:
                raise ValueError(
                    f"{name} is {array.dtype} of shape {array.shape}, expected {plain.dtype} of "
                    f"shape {ref.shape}"
                )
            blocks = CELLS[self._row.cell].G if name.startswith(("dweight", "dbias")) else 1
            mine, theirs, exact = (a.reshape(blocks, -1) for a in (array, plain, ref))
            worst = max(worst, excess(mine, theirs, exact, self._row.I + self._row.H))
        return worst


def reference(problem: Problem, dtype: np.dtype, backward: bool) -> dict[str, np.ndarray]:
    """Compute a problem by the reference, in any element type.

    Returns
    -------
    dict of str to array
        ``y`` (T, B, H), under the option "states" ``c`` (1, T, B, H), ``h_n`` and ``c_n`` (L, B,
        H). With `backward` ``dx``, ``dh0``, ``dc0``, and the gradients of parameters by name.
    """
    row, spec = problem.row, CELLS[problem.row.cell]
    arrays = {
        name: array.astype(dtype) if array.dtype.kind == "f" else array
        for name, array in problem.arrays.items()
    }
    parameters = {name: array.astype(dtype) for name, array in problem.parameters.items()}
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    options = _options(row, arrays)
    values, finals, tapes = arrays["x"], [], []
    keep = backward or row.option == "states"
    for layer in range(row.L):
        weights = tuple(parameters[f"{kind}_l{layer}"] for kind in kinds)
        initial = tuple(arrays[f"{s}0"][layer : layer + 1] for s in spec.states)
        values, last, tape = engine.forward(
            row.cell, values, (weights,), initial, None, keep, None, options
        )
        finals.append(last)
        tapes.append(tape)
    found = {"y": values}
    for k, state in enumerate(spec.states):
        found[f"{state}_n"] = np.concatenate([last[k] for last in finals])
    dstates = None
    if row.option == "states":
        found["c"] = tapes[0].states()[1]
        dstates = (None, arrays["dc"])
    if not backward:
        return found
    dvalues = arrays["dy"]
    for layer in reversed(range(row.L)):
        dvalues, (gradients,), firsts, _ = engine.backward(
            tapes[layer], dvalues, None, True, None, dstates
        )
        for kind, gradient in zip(kinds, gradients, strict=True):
            found[f"d{kind}_l{layer}"] = gradient
        for state, first in zip(spec.states, firsts, strict=True):
            below = found.get(f"d{state}0", first[:0])
            found[f"d{state}0"] = np.concatenate([first, below])
    found["dx"] = dvalues
    return found


def _options(row: Row, arrays: Arrays) -> ScanOptions | None:
    if row.option == "reset":
        return ScanOptions(reset=arrays["reset"])
    if row.option == "lengths":
        return ScanOptions(lengths=arrays["lengths"])
    if row.option == "recurrent_dropout":
        return ScanOptions(recurrent_dropout=DROPOUT, training=True, seed=SEED)
    return None
