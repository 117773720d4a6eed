"""How the reference's options are run, cut into pieces and compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from option_problems import OptionProblem
from problems import CELL_NAMES

from rnnfast.reference import engine

EVERY_CELL = pytest.mark.parametrize("cell", CELL_NAMES)


def forward(p: OptionProblem, tape: bool = True) -> tuple:
    return engine.forward(p.spec.name, p.x, p.params, p.state, None, tape, None, p.options)


def with_options(p: OptionProblem, **changes: object) -> OptionProblem:
    return replace(p, options=p.options._replace(**changes))


def assert_same(a: dict, b: dict, tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] is None) == (b[name] is None), name
        if a[name] is not None:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance, err_msg=name)


def piece(
    p: OptionProblem, start: int, stop: int, state: tuple | None, last: bool
) -> OptionProblem:
    """Steps start ... stop of a padded problem of one direction, as a call of its own."""
    o = p.options
    part = slice(start, stop)
    full = (None,) * p.spec.S
    return replace(
        p,
        x=p.x[part],
        state=state,
        dy=p.dy[part],
        dstate=p.dstate if last else tuple(np.zeros_like(d) for d in p.dstate),
        dstates=tuple(None if d is None else d[:, part] for d in p.dstates or full),
        dgates=None if p.dgates is None else p.dgates[:, part],
        options=o._replace(
            lengths=None if o.lengths is None else np.clip(o.lengths - start, 0, stop - start),
            mask=None if o.mask is None else o.mask[part],
            reset=None if o.reset is None else o.reset[part],
            reset_state=None
            if o.reset_state is None
            else tuple(None if a is None else _at_steps(a, part) for a in o.reset_state),
            t0=(o.t0 + start) % 2**32,
            burn_in=0,
            tbptt=0,
            gradient_clip=0.0,
        ),
    )


def _at_steps(reset_state: np.ndarray, part: slice) -> np.ndarray:
    return reset_state if reset_state.shape[1] == 1 else reset_state[:, part]
