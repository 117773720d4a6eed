"""One peer in a process of its own: builds rows, and times them when told to.

Run by path, by the Python of the peer's environment, which need have nothing but NumPy and the
peer: so nothing of rnnfast is imported here, and nothing newer than Python 3.9 used. The driver's
end is `process.py`.

    python -I worker.py PEER_FILE THREADS CORES [PACKAGE]

CORES are numbers with commas between, the only ones this process will run on. PACKAGE is the folder
of the rnnfast to import, for a peer that is part of it. A request is a line of JSON on standard
input, its answer one on standard output:

    {"do": "build", "row": {...}, "arrays": FILE, "folder": FOLDER}
        {"ways": {"": {"results": FILE, "kernel": ID or null}, ...}} or {"lacks": REASON}
    {"do": "time", "way": "", "calls": 10, "warm": 1}
        {"wall": SECONDS, "cpu": SECONDS}
    {"do": "drop"}
        {}

The first answer comes unasked, {"versions": {...}}. {"error": TEXT} is an answer to anything.
"""

import contextlib
import gc
import importlib.util
import itertools
import json
import os
import sys
import time
from pathlib import Path


def load(name, path, package=False):
    """Import a file, or a package from its folder, under a name."""
    folder = {"submodule_search_locations": [str(path)]} if package else {}
    file = path / "__init__.py" if package else path
    spec = importlib.util.spec_from_file_location(name, file, **folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def build(peer, request):
    """Build all ways of a row and run each once."""
    import numpy as np

    reason = peer.lacks(request["row"])
    if reason is not None:
        return {}, {"lacks": reason}
    with np.load(request["arrays"]) as file:
        given = {name: file[name] for name in file.files}
    weights = {name[2:]: given.pop(name) for name in list(given) if name.startswith("w:")}
    built = peer.build(request["row"], given, weights)
    answer = {}
    for number, (way, (call, results)) in enumerate(built.items()):
        found = results(call())
        path = str(Path(request["folder"]) / f"results{number}.npz")
        np.savez(path, **{name: np.asarray(array) for name, array in found.items()})
        answer[way] = {
            "results": path,
            "kernel": peer.kernel() if hasattr(peer, "kernel") else None,
        }
    return {way: call for way, (call, _) in built.items()}, {"ways": answer}


def clock_of(thread):
    """Return the clock of a thread, as Linux numbers them."""
    return ~thread << 3 | 6


def cpu_seconds():
    """Return the seconds of all threads.

    The clock of the process has what another running thread used only up to its last tick, some
    milliseconds ago, unless that thread's own clock has just been read.
    """
    mine = time.thread_time()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile, and is counted
            time.clock_gettime(clock_of(int(thread.name)))
    return time.process_time() - (time.thread_time() - mine)  # without this function


def timed(call, calls, warm):
    """Time so many calls after others; the collector of garbage waits."""
    for _ in range(warm):
        call()
    gc.disable()
    cpu, wall = cpu_seconds(), time.perf_counter()
    for _ in itertools.repeat(None, calls):
        call()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    gc.enable()
    return {"wall": wall, "cpu": cpu}


def main():
    """Serve until standard input ends."""
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    file, threads, cores, *package = sys.argv[1:]
    calls = {}
    try:
        # Before any library counts the cores.
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
        if package:
            load("rnnfast", Path(package[0]), package=True)
        peer = load("_rnnfast_bench_peer", Path(file))
        say({"versions": {"python": sys.version.split()[0], **peer.start(int(threads))}})
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return 1
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "build":
                calls = {}  # the memory of the row before
                calls, answer = build(peer, request)
            elif request["do"] == "time":
                answer = timed(calls[request["way"]], request["calls"], request["warm"])
            else:
                calls, answer = {}, {}
                gc.collect()
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
