"""A look inside a layer: what flows back through its steps, and what its gates and states do.

Functions take an `rnnfast.RNN`, `LSTM` or `GRU` and return arrays. The `plot` methods of what they
return need matplotlib, ``pip install "rnnfast[inspect]"``; nothing else here does.

Each call is an evaluation of the layer: random masks are off, zoneout is its expectation.
"""

from ._activations import Activations, Saturation, activations, saturation
from ._draw import heat_map
from ._gradients import GradientFlow, gradient_flow
from ._jacobians import jacobians, spectral_radius
from ._lyapunov import LyapunovExponents, lyapunov_exponents

__all__ = [
    "Activations",
    "GradientFlow",
    "LyapunovExponents",
    "Saturation",
    "activations",
    "gradient_flow",
    "heat_map",
    "jacobians",
    "lyapunov_exponents",
    "saturation",
    "spectral_radius",
]
