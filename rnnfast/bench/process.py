"""The driver's end of a worker: a process for one peer and number of threads."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .peers import Peer

__all__ = ["Process", "WorkerError"]

_WORKER = Path(__file__).resolve().with_name("worker.py")
_PACKAGE = _WORKER.parent.parent

# What one answer may take. The longest is that of a build: libraries compile, and in the largest
# row a slow peer takes seconds for the one call that it is checked by.
ANSWER_SECONDS = 300.0

# How libraries are told their number of threads where no argument does.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RNNFAST_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
# This suite is about the CPU; and a library that announces itself does so in the log.
_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


class WorkerError(RuntimeError):
    """A worker could not do what it was asked; the message is the reason to be printed."""


class Process:
    """A peer in a process of its own.

    Parameters
    ----------
    peer : Peer
    python : str
        The Python of its environment.
    threads : int
    cores : tuple of int
        Where it may run.

    Attributes
    ----------
    versions : dict of str to str

    Raises
    ------
    WorkerError
        If it does not start; says why.
    """

    def __init__(self, peer: Peer, python: str, threads: int, cores: tuple[int, ...]) -> None:
        self.peer = peer
        # Python's own, and libraries' log, of which the last line tells what a process died of.
        self._log = tempfile.TemporaryFile(  # noqa: SIM115 - closed with the process
            "w+", encoding="utf-8", errors="replace"
        )
        command = [python, "-I", str(_WORKER), str(peer.file), str(threads)]
        command += [",".join(map(str, cores)), *([str(_PACKAGE)] if peer.package else ())]
        environment = os.environ | dict.fromkeys(_THREADS, str(threads)) | _ENVIRONMENT
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
            )
        except OSError as error:
            self._log.close()
            raise WorkerError(f"{python} does not run: {error.strerror}") from error
        try:
            self.versions: dict[str, str] = self.answer()["versions"]
        except WorkerError:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request of `worker.py`.

        Raises
        ------
        WorkerError
            If there is none, or it is an error; says why.
        """
        self.send(**request)
        return self.answer()

    def send(self, **request: Any) -> None:
        """Make a request whose answer is fetched later.

        Raises
        ------
        WorkerError
            If the process has ended; says of what.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(self._end()) from error

    def rest(self, most: float) -> None:
        """Wait until none of its threads runs, and no longer than `most` seconds."""
        end, idle = time.monotonic() + most, 0
        while idle < 2 and time.monotonic() < end:  # one that spins with naps is not idle
            time.sleep(0.0005)
            idle = 0 if self._runs() else idle + 1

    def cpu_seconds(self) -> float:
        """Return the seconds that its threads have used of all cores; nan where it is not said."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return math.nan
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def _runs(self) -> bool:
        """Whether a thread of it runs; where the system does not say, it is taken to."""
        states = []
        for path in Path(f"/proc/{self._process.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread that ended meanwhile
                states.append(path.read_text().rpartition(")")[2].split()[0])
        return not states or "R" in states

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):  # it has ended already
                self._process.stdin.close()  # it ends by itself, unless it hangs
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def answer(self) -> dict[str, Any]:
        """Wait for an answer, and no longer than one may take.

        Raises
        ------
        WorkerError
            If there is none, or it is an error; says why.
        """
        assert self._process.stdout is not None
        file, line, end = self._process.stdout.fileno(), b"", time.monotonic() + ANSWER_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(file, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    self._process.kill()
                    raise WorkerError(f"no answer within {ANSWER_SECONDS:.0f} seconds")
                part = os.read(file, 1 << 16)
                if not part:
                    raise WorkerError(self._end())
                line += part
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _end(self) -> str:
        """Say what the process died of."""
        status = self._process.wait()
        self._log.seek(0)
        said = self._log.read().strip().splitlines()
        return f"its process ended with status {status}: {said[-1] if said else 'no message'}"
