"""Which back end exists, and which one a call runs on.

device="auto"   the compiled module, or NumPy where it is not built or not loadable (said once);
                for arrays that lie on a GPU, and where `rnnfast.cuda.costs` says that it pays,
                the CUDA module
device="cpu"    the compiled module, or DeviceError
device="numpy"  the reference, the same results but not the same bits
device="cuda"   the CUDA module, or DeviceError naming the cause: no module, driver or device
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import threading
import warnings
from pathlib import Path
from typing import Any

from ._shapes import Checker, check_threads
from .cuda import costs
from .cuda._arrays import lies_on_gpu
from .errors import ArgumentError, DeviceError, FallbackWarning

__all__ = [
    "backends",
    "checker",
    "compiled",
    "cuda_module",
    "cuda_module_on",
    "get_num_threads",
    "last_kernel",
    "ran",
    "resolve",
    "set_num_threads",
    "settled",
]

_log = logging.getLogger("rnnfast")
_log.addHandler(logging.NullHandler())


def _load() -> tuple[Any, str | None]:
    """Return the compiled module, or None and the reason."""
    try:
        return importlib.import_module("rnnfast._core"), None
    except ModuleNotFoundError as error:
        if error.name != "rnnfast._core":
            raise
        where = Path(__file__).parent
        return None, f"it is not built (no rnnfast._core beside {where}); `pip install .` builds it"
    except ImportError as error:
        # Who names an instruction set asks for compiled kernels, and what is asked for by name runs
        # or raises.
        if "RNNFAST_ISA" in os.environ:
            raise
        return None, f"it does not load ({error})"


_core, _why_not = _load()

compiled: dict[str, Any] = {} if _core is None else {"auto": _core, "cpu": _core}
"""Devices that the compiled module serves, all that the quick road asks; empty without it."""

ran = threading.local()
"""`ran.engine` is the back end of the last call in this thread."""

_announced: set[str] = set()
_numpy_threads = 1


def _numpy_engine() -> Any:
    # Loaded on first use: with the compiled module there, most processes never need it.
    return importlib.import_module("rnnfast.reference.engine")


@functools.cache
def _load_cuda() -> tuple[Any, str | None]:
    """Return rnnfast._cuda, or None and the reason; loaded on first use, for few processes do."""
    try:
        return importlib.import_module("rnnfast._cuda"), None
    except ModuleNotFoundError as error:
        if error.name != "rnnfast._cuda":
            raise
        if _core is None:
            return None, f"rnnfast is not compiled: {_why_not}"
        built, _, why = _core.build_info()["cuda"].partition(": ")
        if built == "no":
            return None, f"this build of rnnfast has no CUDA module: {why} when it was built"
        return None, f"rnnfast._cuda was built, but is not beside {Path(__file__).parent}"
    except ImportError as error:
        return None, f"rnnfast._cuda does not load ({error})"


def cuda_module() -> tuple[Any, str | None]:
    """Return rnnfast._cuda, or None where it is absent; and why no device can run it, or None."""
    module, why = _load_cuda()
    return module, why if module is None else module.why_none()


@functools.cache
def _why_not_on(module: Any, number: int) -> str | None:
    why = module.why_none()
    if why is not None:
        return why
    device = module.devices()[number]
    if device["runs"]:
        return None
    built_for = ", ".join(module.architectures())
    return f"no code for {device['name']} in this build, which is for {built_for}"


def cuda_module_on(number: int) -> tuple[Any, str | None]:
    """Return rnnfast._cuda, or None where it is absent; and why this device cannot run it, or None.

    For each call: what the devices are is asked for once.
    """
    module, why = _load_cuda()
    return module, why if module is None else _why_not_on(module, number)


def resolve(device: str, who: str, x: Any = None) -> Any:
    """Return the back end of a device, for a call on `x`, which may lie on a GPU.

    Raises
    ------
    DeviceError
        If it was asked for by name and cannot run; names the cause and the remedy.
    ArgumentError
        If there is no such device.
    """
    if not (isinstance(device, str) and device in ("auto", "cpu", "cuda", "numpy")):
        raise ArgumentError(
            f'{who}: device is {device!r}, expected "auto", "cpu", "cuda" or "numpy".'
        )
    if lies_on_gpu(x):
        engine = _engine_on_device(device, who)
    elif device in compiled:
        engine = compiled[device]
    elif device == "numpy":
        engine = _numpy_engine()
    elif device == "auto":
        if "fallback" not in _announced:
            _announced.add("fallback")
            warnings.warn(
                f"rnnfast runs on NumPy, for the compiled module is absent: {_why_not}. "
                "Results are the same, many times slower. "
                'device="numpy" asks for that without this warning.',
                FallbackWarning,
                stacklevel=3,
            )
        engine = _numpy_engine()
    elif device == "cpu":
        raise DeviceError(
            f'{who}: device="cpu" was asked for, but the compiled module is absent: {_why_not}. '
            'device="numpy" runs without it.'
        )
    else:
        why = cuda_module()[1]
        if why is not None:
            raise DeviceError(
                f'{who}: device="cuda" was asked for, but {why}. Use device="cpu" or "auto".'
            )
        engine = importlib.import_module("rnnfast.cuda.engine")
    if device not in _announced:
        _announced.add(device)
        cuda = engine.__name__.startswith("rnnfast.cuda")
        name = f"cpu ({engine.isa()})" if engine is _core else "cuda" if cuda else "numpy"
        _log.debug("device=%s runs on %s", device, name)
    return engine


def settled(device: str, cell: str, dtype: str, I: int, H: int, L: int) -> str:
    """Return the device of a layer's calls on NumPy arrays: "cuda" where "auto" means that."""
    if device != "auto" or not costs.pays(cell, dtype, I, H, L):
        return device
    why = cuda_module()[1]
    layer = f"{cell}, {dtype}, I={I}, H={H}, L={L}"
    if why is not None:
        _log.debug("device=auto: a GPU would pay for %s, but %s", layer, why)
        return device
    _log.debug("device=auto runs on cuda: it pays for %s", layer)
    return "cuda"


def _engine_on_device(device: str, who: str) -> Any:
    """Return the back end of arrays that lie on a GPU, whom "auto" follows."""
    if device not in ("auto", "cuda"):
        raise ArgumentError(
            f'{who}: device is "{device}", but x lies on a GPU; expected "auto" or "cuda", or a '
            "copy of x in the host's memory."
        )
    why = cuda_module()[1]
    if why is not None:
        raise DeviceError(f"{who}: x lies on a GPU, but {why}.")
    return importlib.import_module("rnnfast.cuda.on_device")


def checker(engine: Any) -> type[Checker]:
    """Return what checks the arrays of a call of a back end, None one of NumPy arrays."""
    if engine is None or engine.__name__ != "rnnfast.cuda.on_device":
        return Checker
    return importlib.import_module("rnnfast.cuda._checker").DeviceChecker


def backends() -> dict[str, str | None]:
    """Back ends by device name, with the reason why one is absent, or None where it runs."""
    return {"cpu": _why_not, "cuda": cuda_module()[1], "numpy": None}


def last_kernel() -> str:
    """Return the id of this thread's last kernel, as ``gru.backward.f32.avx512``; "" before one."""
    engine = getattr(ran, "engine", None)
    return "" if engine is None else engine.last_kernel()


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use where `threads` is not given; bits do not depend on it.

    Parameters
    ----------
    n : int
        1 ... 1024. The NumPy back end leaves threads to NumPy's own BLAS.

    Raises
    ------
    DTypeError, ArgumentError
        If `n` is not an integer, or outside.
    """
    global _numpy_threads
    n = check_threads("rnnfast.set_num_threads", "n", n)
    if _core is None:
        _numpy_threads = n
    else:
        _core.set_num_threads(n)


def get_num_threads() -> int:
    """Return how many threads a call may use where its `threads` is not given."""
    return _numpy_threads if _core is None else _core.get_num_threads()
