"""Kernels judged by `rnnfast.reference.yardstick`; no test has a tolerance of its own."""

from __future__ import annotations

import numpy as np

from rnnfast.reference.yardstick import judge

__all__ = ["check", "check_all", "check_options"]


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
    eps: float | None = None,
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
    eps : float, optional
        Of the numbers that products take, where they have fewer bits than the dtype.
    """
    assert kernel.shape == plain.shape == ref.shape, f"{name}: {kernel.shape}, {ref.shape}"
    assert kernel.dtype == plain.dtype, f"{name}: {kernel.dtype}, {plain.dtype}"
    assert ref.itemsize > kernel.itemsize, f"{name}: {kernel.dtype}, ref {ref.dtype}"
    if ref.size == 0:
        return
    groups = ref.shape[0] if time else blocks
    parts = (a.reshape(groups, -1) for a in (kernel, plain, ref))
    off, bound = judge(*parts, width, (-1 if backward else 1) if time else 0, eps)
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


def check_options(
    kernel: dict[str, list],
    plain: dict[str, list],
    ref: dict[str, list],
    *,
    G: int,
    D: int,
    reverse: bool,
    width: int,
    eps: float | None = None,
) -> None:
    """Judge calls of one shape with options, several draws as one.

    Each dictionary has what `option_problems.run` returns, with flat arrays padded, and by name a
    list with one entry per draw. Sequences are judged step by step in each direction, and gates
    block by block there; parameters gate block by gate block; dx of two directions as a whole, for
    it has no order of steps.
    """
    assert kernel.keys() == plain.keys() == ref.keys()
    for name in ref:
        given = [i for i, value in enumerate(ref[name]) if value is not None]
        for values in (kernel[name], plain[name]):
            assert given == [i for i, value in enumerate(values) if value is not None], name
        if not given:
            continue
        arrays = [np.stack([v[name][i] for i in given], -1) for v in (kernel, plain, ref)]
        for label, parts, way in _directions(name, arrays, D, reverse):
            if way:
                options = {"time": True, "backward": way < 0}
            else:
                options = {"blocks": G if name[:2] in ("dW", "dR", "db") else 1}
            check(label, *parts, width=width, eps=eps, **options)


def _directions(name, arrays, D, reverse):
    """Yield what is judged by itself: a name, the arrays, and 1 or -1 where axis 0 is time and the
    pass ran along it or against it."""
    H = arrays[0].shape[2] // D if name == "y" else 0
    backward = name.startswith("d")
    if name == "y":
        split = [[a[:, :, d * H : (d + 1) * H] for a in arrays] for d in range(D)]
    elif name == "dx":
        split = [arrays]
        if D > 1:
            yield name, arrays, 0
            return
    elif name == "gates" or name.startswith(("states_", "dreset_")):
        split = [[a[d] for a in arrays] for d in range(D)]
    else:
        yield name, arrays, 0
        return
    for d, parts in enumerate(split):
        way = -1 if backward != (reverse or d == 1) else 1
        # One replacement for all steps has no time.
        way *= name[:6] != "dreset" or len(parts[0]) > 1
        label = name if D == 1 else f"{name} of direction {d}"
        if name == "gates":
            for g in range(parts[0].shape[2]):
                yield f"{label}, gate {g}", [a[:, :, g] for a in parts], way
        else:
            yield label, parts, way
