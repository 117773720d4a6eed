"""`rnnfast.Stream` and memory: a step allocates nothing, and neither long runs nor many streams
keep any."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import require
from processes import PEAK, PYTHON, environment, own_allocator, peak_is_told

require("core")

COUNTER = r"""
#include <stdatomic.h>
#include <stddef.h>
#include <errno.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
static atomic_long taken, given;
void *malloc(size_t n) { taken++; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { taken++; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { taken++; return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { taken++; return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { taken++; return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
  taken++;
  *p = __libc_memalign(a, n);
  return *p ? 0 : ENOMEM;
}
void free(void *p) { given += p != NULL; __libc_free(p); }
long blocks_taken(void) { return taken; }
long blocks_given(void) { return given; }
"""

MEMORY = r"""
import ctypes, itertools, sys
import numpy as np
import rnnfast

library = ctypes.CDLL(None)
for name in ("blocks_taken", "blocks_given"):
    getattr(library, name).restype = ctypes.c_long

def cost(call, times):
    "Blocks taken and given back, of `times` calls, beside what counting itself costs."
    def count(n):
        taken, given = library.blocks_taken(), library.blocks_given()
        for _ in itertools.repeat(None, n):
            call()
        return library.blocks_taken() - taken, library.blocks_given() - given
    count(times)  # grows what grows once
    nothing, all_of_them = count(0), count(times)
    return [a - b for a, b in zip(all_of_them, nothing)]

times = 1000
# The counter counts: an array of 1 MiB is a block of its own.
taken, given = cost(lambda: np.empty(1 << 20, np.uint8), times)
assert taken >= times and given >= times, (taken, given)

common = {"num_layers": 2, "residual": True, "zoneout": 0.1, "seed": 0}
kinds = {
    "RNN": {},
    "RNN, relu": {"nonlinearity": "relu"},
    "LSTM": {},
    "LSTM, cell_clip": {"cell_clip": 0.05},
    "GRU": {},
}
# H, B (None for a single row without that axis), whether the layer is batch_first.
forms = ((64, 1, False), (64, None, False), (64, 3, True), (256, 8, False))
found = {}
for (kind, more), dtype, form in itertools.product(kinds.items(), ("float32", "float64"), forms):
    H, B, batch_first = form
    layer = getattr(rnnfast, kind.split(",")[0])(
        8, H, **common, **more, batch_first=batch_first, dtype=dtype
    )
    stream = rnnfast.Stream(layer, B)
    rows = () if B is None else (B,)
    steps = (B, 5) if batch_first else (5, *rows)
    x, y = np.ones((*rows, 8), dtype), np.empty((*rows, H), dtype)
    xs, ys = np.ones((*steps, 8), dtype), np.empty((*steps, H), dtype)
    ids, all_ids, flags = np.zeros(rows, int), np.zeros(steps, int), np.zeros(rows, bool)
    calls = {
        "step": lambda: stream.step(x, y),
        "step by name": lambda: stream.step(x, out=y),
        "indices": lambda: stream.step(ids, y),
        "run": lambda: stream.run(xs, ys),
        "run of indices": lambda: stream.run(all_ids, ys),
        "reset": stream.reset,
    }
    if B is None:
        calls["number"] = lambda: stream.step(7, y)
    else:
        calls["reset of rows"] = lambda: stream.reset(flags)
    for name, call in calls.items():
        found[kind, dtype, *form, name] = cost(call, 20 if H == 256 else times)
wrong = {key: blocks for key, blocks in found.items() if blocks != [0, 0]}
sys.exit(f"blocks taken and given back: {wrong}" if wrong else 0)
"""


@pytest.mark.parametrize("allocator", ["pymalloc", "malloc"])
def test_a_step_allocates_nothing(allocator: str, tmp_path: Path) -> None:
    """No block taken and none given back, by the C library's own entrances.

    With PYTHONMALLOC=malloc Python's small objects are such blocks too, so nothing hides in its
    pools: a call with `out` makes no Python object either.
    """
    own_allocator()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler is installed: the counter of allocations is written in C")
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("not glibc: the counter passes calls on to its entrances")
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    command = [compiler, "-shared", "-fPIC", "-O1", "-fno-builtin", "-o", library, source]
    subprocess.run(command, check=True)
    more = {"LD_PRELOAD": str(library), "PYTHONMALLOC": allocator}
    run = subprocess.run(
        [*PYTHON, "-c", MEMORY], env=environment(**more), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


GROWTH = r"""
import numpy as np
import rnnfast

layer = rnnfast.LSTM(64, 64, 3, residual=True, seed=0)
x, y = np.ones((40000, 1, 64), np.float32), np.ones((40000, 1, 64), np.float32)
stream = rnnfast.Stream(layer)
stream.run(x[:200], y[:200])
before = peak()
stream.run(x, y)
grown = peak() - before
assert grown < 2 << 20, f"a run took {grown} bytes"  # one array between two layers: 10 MiB

for count in (50, 1000):
    for _ in range(count):
        rnnfast.Stream(layer, state=stream.state).step(x[0])
    if count == 50:
        before = peak()
grown = peak() - before
assert grown < 8 << 20, f"a thousand streams kept {grown} bytes"  # each has 0.4 MiB of weights
"""


def test_memory_does_not_grow() -> None:
    """Neither with the length of a run, whose layers pass it on in pieces, nor with streams that
    are gone."""
    peak_is_told()
    run = subprocess.run(
        [*PYTHON, "-c", PEAK + GROWTH], env=environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
