"""``rnnfast info``: what runs here and why; the first thing to paste into an issue."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, _backend, get_num_threads


def info() -> int:
    """Print CPU, kernels, threads, back ends and versions; return the exit status 0."""
    for name, value in _entries():
        print(f"{name:<14}{value}")
    return 0


def _entries() -> list[tuple[str, str]]:
    entries = [
        ("rnnfast", f"{__version__} in {Path(__file__).resolve().parent.parent}"),
        ("Python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("NumPy", np.__version__),
        ("system", f"{platform.platform()}"),
        ("CPU", f"{_cpu_name()}, {_usable_cpus()} usable of {os.cpu_count()}"),
        ("threads", f"at most {get_num_threads()} per call"),
    ]
    core = _backend.compiled.get("cpu")
    if core is not None:
        others = ", ".join(core.isas())
        asked = os.environ.get("RNNFAST_ISA")
        why = f"RNNFAST_ISA={asked}" if asked else "the best of this CPU"
        entries.append(("ISA", f"{core.isa()}, {why}; it can run {others}"))
        built = ", ".join(f"{name} {value}" for name, value in core.build_info().items())
        entries.append(("build", built))
    entries += _cuda_entries()
    for name, reason in _backend.backends().items():
        entries.append((f"device {name}", "runs" if reason is None else f"absent: {reason}"))
    entries.append(("extras", ", ".join(_version(name) for name in _EXTRAS)))
    return entries


def _cuda_entries() -> list[tuple[str, str]]:
    module, _ = _backend.cuda_module()
    if module is None:
        return []
    driver = module.driver_version()
    served = f"driver for {_cuda_version(driver)}" if driver else "no driver"
    built = ", ".join(module.architectures())
    versions = f"runtime {_cuda_version(module.runtime_version())}, {served}; code for {built}"
    return [("CUDA", versions), *(_device_entry(device) for device in module.devices())]


def _device_entry(device: dict[str, Any]) -> tuple[str, str]:
    major, minor = device["capability"]
    what = (
        f"{device['name']}, compute capability {major}.{minor}, {device['multiprocessors']} "
        f"multiprocessors, {device['memory'] / 2**30:.1f} GiB"
    )
    return f"GPU {device['number']}", what if device["runs"] else f"{what}; no code for it"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


_EXTRAS = ("typer", "tqdm", "matplotlib", "safetensors", "torch")


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no {package}"


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
