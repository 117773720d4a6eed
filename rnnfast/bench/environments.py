"""Environments for peers, each of its own: two OpenMP runtimes in one process ruin both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ArgumentError
from . import machine
from .peers import OURS, PEERS
from .process import Process, WorkerError

__all__ = ["REQUIREMENTS", "given", "make"]

REQUIREMENTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "peers"
"""The pinned lists, one file per peer, where the package lies in a clone; not part of a wheel."""


def make(folder: Path, names: Sequence[str], requirements: Path, say: Callable[[str], None]) -> int:
    """Make an environment for each peer in a folder, and start the peer once.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        Peers; all of them if empty.
    requirements : Path
        Folder with a file of pinned packages for each peer, ``torch.txt``.
    say : callable
        Gets a line per peer.

    Returns
    -------
    int
        How many do not work.

    Raises
    ------
    ArgumentError
        If a peer is unknown, or has no file.
    """
    chosen = list(names) or list(PEERS)
    for name in chosen:
        _known(name)
        if not (requirements / f"{name}.txt").is_file():
            raise ArgumentError(
                f"rnnfast bench peers: {requirements / name}.txt is not there. The lists are in "
                "benchmarks/peers of a clone; --requirements says where."
            )
    bad = 0
    for name in chosen:
        environment = folder / name
        python = environment / "bin" / "python"
        try:
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet"]
            install += ["--requirement", str(requirements / f"{name}.txt")]
            subprocess.run(install, check=True)
            process = Process(PEERS[name], str(python), 1, machine.cores(1))
            process.close()
        except (subprocess.CalledProcessError, WorkerError) as error:
            bad += 1
            say(f"{name:<12} FAILED: {error}")
        else:
            versions = " ".join(f"{n} {v}" for n, v in process.versions.items() if n != "python")
            say(f"{name:<12} --peer {name}={python}   {versions}")
    return bad


def given(peers: Sequence[str], folder: Path | None, without: Sequence[str]) -> dict[str, str]:
    """Return the Python of each peer that takes part, by name; rnnfast first.

    Parameters
    ----------
    peers : sequence of str
        ``NAME=PYTHON`` each; they come before what a folder has.
    folder : Path, optional
        Of environments that `make` made.
    without : sequence of str
        Names of peers that take no part. NumPy's loop does by default, in this Python.

    Raises
    ------
    ArgumentError
        If a word is not of that form, names no peer, or the folder has no environment at all.
    """
    pythons = {OURS.name: sys.executable, "numpy": sys.executable}
    if folder is not None:
        found = {name: folder / name / "bin" / "python" for name in PEERS}
        found = {name: python for name, python in found.items() if python.exists()}
        if not found:
            raise ArgumentError(
                f"rnnfast bench run: {folder} has no environment of a peer; `rnnfast bench peers "
                f"{folder}` makes them."
            )
        pythons |= {name: str(python) for name, python in found.items()}
    for word in peers:
        name, equals, python = word.partition("=")
        if not (equals and python):
            raise ArgumentError(
                f"rnnfast bench run: --peer is {word!r}, expected NAME=PYTHON, the Python of that "
                "peer's environment."
            )
        _known(name)
        pythons[name] = python
    for name in without:
        _known(name)
        pythons.pop(name, None)
    return pythons


def _known(name: str) -> None:
    if name not in PEERS:
        raise ArgumentError(f"rnnfast bench: {name!r} is no peer; there are {', '.join(PEERS)}.")
