"""Kernels judged by `rnnfast.cli.yardstick`; no test of a kernel has a tolerance of its own."""

from __future__ import annotations

import numpy as np

from rnnfast.cli.yardstick import judge

__all__ = ["check", "check_all"]


def check(
    name: str,
    kernel: np.ndarray,
    plain: np.ndarray,
    ref: np.ndarray,
    *,
    width: int,
    time: bool = False,
    backward: bool = False,
    blocks: int = 1,
) -> None:
    """Assert that a kernel's result is as good as its dtype allows.

    Parameters
    ----------
    name : str
        What stands in the message.
    kernel, plain, ref : arrays of one shape
        `kernel` and `plain` of one dtype, `ref` of a wider one.
    width : int
        I + H, the terms of the longest sum.
    time : bool
        Axis 0 is time, and every step is judged by the steps before it.
    backward : bool
        The pass ran from the last step to the first.
    blocks : int
        Axis 0 holds so many gate blocks, each judged alone.
    """
    assert kernel.shape == plain.shape == ref.shape, f"{name}: {kernel.shape}, {ref.shape}"
    assert kernel.dtype == plain.dtype, f"{name}: {kernel.dtype}, {plain.dtype}"
    assert ref.itemsize > kernel.itemsize, f"{name}: {kernel.dtype}, ref {ref.dtype}"
    if ref.size == 0:
        return
    groups = ref.shape[0] if time else blocks
    parts = (a.reshape(groups, -1) for a in (kernel, plain, ref))
    off, bound = judge(*parts, width, (-1 if backward else 1) if time else 0)
    # Written so that NaN fails.
    wrong = np.flatnonzero(~(off <= bound))
    if wrong.size:
        k = int(wrong[0])
        place = "step" if time else "gate block"
        raise AssertionError(
            f"{name}: {place} {k} is off by {off[k]:.3e}, allowed {bound[k]:.3e}; "
            f"{wrong.size} of {groups} are too far off"
        )


def check_all(kernel, plain, ref, *, G: int, width: int) -> None:
    """Judge a whole forward and backward call, as `problems.Problem.run` returns it.

    Sequences are judged step by step, parameters gate block by gate block, states as a whole.
    """
    for name, value in ref.items():
        if value is None:
            assert kernel[name] is None, name
            continue
        if name in ("y", "dx"):
            options = {"time": True, "backward": name == "dx"}
        else:
            options = {"blocks": G if name in ("dW", "dR", "dbW", "dbR") else 1}
        check(name, kernel[name], plain[name], value, width=width, **options)
