"""What the tests share: the back ends present, and optional packages with the reason of a skip.

RNNFAST_REQUIRE=torch,cli,core names what must be there; the run then stops at once where it is not,
so that nothing is skipped for its absence. RNNFAST_TEST_TWIN names the folder of the CUDA module
that was compiled for the CPU (tests/simt), which the CUDA tests run on where there is no device.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import memory
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
    # What PyTorch's ONNX exporter, tried in test_torch_compile.py, is made of.
    "onnxscript": ("onnxscript",),
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


@functools.cache
def _twin() -> ModuleType | None:
    """The CUDA module compiled for the CPU."""
    folder = os.environ.get("RNNFAST_TEST_TWIN")
    if not folder:
        return None
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(folder) / f"_cuda{suffix}"
        if path.exists():
            spec = importlib.util.spec_from_file_location("_cuda", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise pytest.UsageError(f"RNNFAST_TEST_TWIN={folder}: no _cuda module for this Python there.")


def _cuda() -> tuple[ModuleType | None, str | None]:
    """What CUDA tests run on, the device or its twin, or why there is neither."""
    module, why = _backend.cuda_module()
    if why is None:
        return module, None
    twin = _twin()
    return twin, None if twin else f"{why}; RNNFAST_TEST_TWIN names no twin"


def _missing(name: str) -> str | None:
    """Why an optional part cannot be used, or None."""
    if name == "cuda":
        return _cuda()[1]
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
    config.add_cleanup(memory.begin())
    names = [name for name in os.environ.get("RNNFAST_REQUIRE", "").split(",") if name]
    for name in names:
        known = (*_PACKAGES, "cuda")
        if name not in known:
            raise pytest.UsageError(f"RNNFAST_REQUIRE: {name!r} is none of {', '.join(known)}.")
        reason = _missing(name)
        if reason is not None:
            raise pytest.UsageError(f"RNNFAST_REQUIRE={name}: {reason}")
    if not _backend.compiled:
        # Tests of device="auto" then run on NumPy; test_backend.py tests the warning itself.
        config.addinivalue_line("filterwarnings", "ignore::rnnfast.FallbackWarning")


def pytest_report_header() -> list[str]:
    module, why = _cuda()
    on = why or ("its twin" if module is _twin() else module.devices()[0]["name"])
    return [
        *(
            f"rnnfast back end {name}: {'tested' if why is None else why}"
            for name, why in rnnfast.backends().items()
        ),
        f"CUDA tests: {on}",
    ]


@pytest.fixture(scope="session")
def cuda_module() -> ModuleType:
    """`rnnfast._cuda` where a device can run it, else its twin."""
    module, why = _cuda()
    if why is not None:
        pytest.skip(why)
    return module


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The twin, in the place of `rnnfast._cuda`: for what a test cannot ask of a real device."""
    module = _twin()
    if module is None:
        pytest.skip("RNNFAST_TEST_TWIN names no twin")
    monkeypatch.setattr(_backend, "_load_cuda", lambda: (module, None))
    return module


@pytest.fixture(params=[name for name, why in rnnfast.backends().items() if why is None])
def device(request: pytest.FixtureRequest) -> str:
    """Every back end present."""
    return request.param
