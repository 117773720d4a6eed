"""Run on a machine without libgomp: the wheel must import, compute and use more than one core."""

import ctypes.util
import os
from pathlib import Path

import numpy as np

import rnnfast
import rnnfast._core

assert ctypes.util.find_library("gomp") is None, "this machine has libgomp, so it proves nothing"
assert len(os.sched_getaffinity(0)) > 1, "this machine has one core, so it proves nothing"
print(rnnfast._core.build_info(), rnnfast.get_num_threads(), "threads")

rng = np.random.default_rng(0)
T, B, I, H = 64, 32, 128, 256
x = rng.standard_normal((T, B, I), np.float32)
W = rng.standard_normal((4 * H, I), np.float32) / 16
R = rng.standard_normal((4 * H, H), np.float32) / 16
alone, _ = rnnfast.lstm(x, W, R, threads=1)
for _ in range(60):
    y, _ = rnnfast.lstm(x, W, R)
assert np.array_equal(y, alone)
assert "gomp" not in Path("/proc/self/maps").read_text()

# User and system time of each thread: fields 14 and 15; the name in brackets is the second.
lines = [task.joinpath("stat").read_text() for task in Path("/proc/self/task").iterdir()]
ticks = sorted(sum(map(int, line.rsplit(")", 1)[1].split()[11:13])) for line in lines)
print("processor time of each thread:", ticks)
assert ticks[-2] >= ticks[-1] / 4, "one thread did all the work"
