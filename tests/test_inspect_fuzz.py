"""Random bad input to rnnfast.inspect: results, or errors of rnnfast in words."""

from __future__ import annotations

import numpy as np
import pytest
from test_options_fuzz import B, Form, H, I, T, junk, options_of, problem, quick, run_or_refuse

import rnnfast
from rnnfast import inspect

pytest.importorskip("hypothesis", reason="the test extra brings it")
from hypothesis import given
from hypothesis import strategies as st

STEPS = ["lengths", "mask", "reset", "reset_state", "reset_to"]
FUNCTIONS = {
    "gradient_flow": [*STEPS, "dy", "dstate", "dstates"],
    "jacobians": STEPS,
    "activations": STEPS,
    "saturation": [*STEPS, "margin"],
    "lyapunov_exponents": ["count", "skip"],
}


@given(st.data())
@quick
def test_inspect(data):
    kind = data.draw(st.sampled_from([rnnfast.RNN, rnnfast.LSTM, rnnfast.GRU]))
    L, D = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    learned = data.draw(st.booleans())
    layer = kind(
        I,
        H,
        L,
        bidirectional=D == 2,
        initial_state="learned" if learned else "zero",
        device=data.draw(st.sampled_from(["cpu", "numpy"])),
        seed=0,
    )

    def mostly(good):
        return data.draw(junk) if data.draw(st.integers(0, 5)) == 0 else good

    x, state = mostly(problem["gru"].x), mostly(None)
    name = data.draw(st.sampled_from(sorted(FUNCTIONS)))
    form = Form(S=2 if kind is rnnfast.LSTM else 1, places=(D * L,), learned=learned)
    options = data.draw(options_of(FUNCTIONS[name], form))
    if name == "gradient_flow":
        options["dy"] = mostly(np.ones((T, B, H * D), np.float32))
        if data.draw(st.booleans()):
            options["dstates"] = data.draw(st.builds(rnnfast.States, junk, junk, junk))
    run_or_refuse(getattr(inspect, name), layer, x, state, **options)
    run_or_refuse(inspect.spectral_radius, data.draw(junk))
