"""What the tests share: the back ends present, and optional packages with the reason of a skip.

RNNFAST_REQUIRE=torch,cli,core names what must be there; the run then stops at once where it is not,
so that nothing is skipped for its absence.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest

import rnnfast
from rnnfast import _backend

# What a name of RNNFAST_REQUIRE stands for.
_PACKAGES = {
    "torch": ("torch",),
    "cli": ("typer", "tqdm", "matplotlib", "safetensors"),
    "models": ("sklearn", "safetensors", "tqdm", "matplotlib"),
    # What test_models_estimators.py hands joblib's work to.
    "dask": ("distributed",),
    # What test_models_inputs.py, and scikit-learn's own checks, give the models.
    "pandas": ("pandas",),
    "core": ("rnnfast._core",),
    # What test_weights_frameworks.py compares with.
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "keras": ("keras",),
    "jax": ("jax",),
    "flax": ("flax", "flax.linen", "flax.nnx"),
    "haiku": ("haiku",),
    "equinox": ("equinox",),
    "mlx": ("mlx.core", "mlx.nn"),
    "tensorflow": ("tensorflow",),
    "haste": ("haste_pytorch",),
}
# Keras runs on another framework; this one the tests need anyway.
os.environ.setdefault("KERAS_BACKEND", "torch")


def _missing(name: str) -> str | None:
    """Why an optional part cannot be used, or None."""
    for package in _PACKAGES[name]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            return f"{package} is not usable here: {error}"
    return None


def require(name: str) -> ModuleType:
    """Return the first package of a name in `_PACKAGES`, or skip with the reason."""
    reason = _missing(name)
    if reason is not None:
        pytest.skip(reason, allow_module_level=True)
    return importlib.import_module(_PACKAGES[name][0])


def pytest_configure(config: pytest.Config) -> None:
    names = [name for name in os.environ.get("RNNFAST_REQUIRE", "").split(",") if name]
    for name in names:
        if name not in _PACKAGES:
            raise pytest.UsageError(f"RNNFAST_REQUIRE: {name!r} is none of {', '.join(_PACKAGES)}.")
        reason = _missing(name)
        if reason is not None:
            raise pytest.UsageError(f"RNNFAST_REQUIRE={name}: {reason}")
    if not _backend.compiled:
        # Tests of device="auto" then run on NumPy; test_backend.py tests the warning itself.
        config.addinivalue_line("filterwarnings", "ignore::rnnfast.FallbackWarning")


def pytest_report_header() -> list[str]:
    return [
        f"rnnfast back end {name}: {'tested' if why is None else why}"
        for name, why in rnnfast.backends().items()
    ]


@pytest.fixture(params=[name for name, why in rnnfast.backends().items() if why is None])
def device(request: pytest.FixtureRequest) -> str:
    """Every back end present."""
    return request.param
