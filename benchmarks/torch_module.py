#!/usr/bin/env python3
"""`rnnfast.torch` against `torch.nn` through whole module calls, and in models that train.

    python benchmarks/torch_module.py [--rows PATTERN]... [--out benchmarks/results/NAME.jsonl]

Rows: `module`, each shape of the grid, forward plus backward and inference, on one and two threads,
three of them in float64 too;
`step`, a call of one step beside `Stream.step`; `packed`, rows of unequal lengths; `update`, a
recurrent policy's update with resets inside the sequence, against the loop over steps that
reinforcement learning libraries write; `model`, two models trained on the text of our own pages,
with `accelerate` and without.
All pairs compute the same thing, and ours on our kernels, which is checked first, and are timed in
turns, the order swapped each round. Ratios are medians pair by pair, with the lower end of a 95 %
interval. Calls of more than half a second are timed three times only. One JSON line per row; the
first names machine, versions and commit.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch_models import Agent, Classifier, Tagger, Trainer, clipped_loss
from turns import Lines, header, in_turns, ratio_of

import rnnfast
import rnnfast.torch
from rnnfast.bench import grid

KINDS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}
# T, B, I, H and, where there is more than one, layers
TINY = [(1, 1, 64, 64), (128, 8, 64, 64), (10, 4, 8, 16, 2)]
LONG_CALL = 0.5
STEP_ALLOWED_US = 9.0
MODEL_STEPS = 100


def pair(cell: str, *sizes: int, **options: object) -> tuple[nn.Module, nn.Module]:
    """Our layer and PyTorch's, with the same weights."""
    torch.manual_seed(0)
    ours = getattr(rnnfast.torch, KINDS[cell])(*sizes, **options)
    theirs = getattr(nn, KINDS[cell])(*sizes, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def times_of(calls: list[Callable[[], object]], seconds: float) -> np.ndarray:
    """Time calls in turns, long ones a few times only."""
    start = time.perf_counter()
    for call in calls:
        call()
    if time.perf_counter() - start > LONG_CALL * len(calls):
        return in_turns(calls, 0, least=3, warm=0)
    return in_turns(calls, seconds)


def compared(times: np.ndarray, ours: int = 0, theirs: int = 1) -> dict:
    """Say in a row what times in turns came to."""
    ratio, bound = ratio_of(times, theirs, ours)
    return {
        "ours_us": round(float(np.median(times[:, ours])) * 1e6, 1),
        "torch_us": round(float(np.median(times[:, theirs])) * 1e6, 1),
        "torch_over_ours": round(ratio, 2),
        "bound_95": round(bound, 2),
        "rounds": len(times),
    }


def fused(call: Callable[[], object]) -> object:
    """Run our side of a pair once; all of it must have been on our kernels."""
    before = rnnfast.torch.dispatch_counts()
    result = call()
    after = rnnfast.torch.dispatch_counts()
    ran = {way: after[way] - before[way] for way in after}
    if not ran["fused"] or ran["composed"] or ran["stock"]:
        raise RuntimeError(f"not all was fused: {ran}, {rnnfast.torch.last_reason()}")
    return result


def largest_difference(found: list[list[Tensor]]) -> float:
    """Largest difference of two lists of tensors, by the largest number of each tensor.

    A check that both compute the same thing, not a test: tests judge by the yardstick.
    """
    off = max(
        float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1e-30))
        for a, b in zip(*found, strict=True)
    )
    if not off < 1e-3:
        raise RuntimeError(f"results differ by {off:.1e}")
    return float(f"{off:.1e}")


def backward_of(layer: nn.Module, run: Callable[[nn.Module], Tensor], dy: Tensor) -> Callable:
    """Return forward plus backward of a layer; it returns y and all gradients."""

    def both() -> list[Tensor]:
        layer.zero_grad()
        y = run(layer)
        y.backward(dy)
        return [y, *(p.grad for p in layer.parameters())]

    return both


def module_rows(
    cell: str, shape: tuple[int, ...], threads: int, seconds: float, dtype: str = "float32"
) -> list[dict]:
    """Time the whole call of a layer, in training and in inference."""
    T, B, I, H, L = shape = (*shape, 1)[:5]
    kind = getattr(torch, dtype)
    layers = pair(cell, I, H, L, dtype=kind)
    x = torch.randn(T, B, I, dtype=kind, requires_grad=True)
    dy = torch.randn(T, B, H, dtype=kind)
    training = [backward_of(layer, lambda m: m(x)[0], dy) for layer in layers]

    def inference(layer: nn.Module) -> Callable:
        def run() -> Tensor:
            with torch.inference_mode():
                return layer(x)[0]

        return run

    inferring = [inference(layer) for layer in layers]
    fused(inferring[0])
    off = largest_difference([fused(training[0]), training[1]()])
    fixed = {"row": "module", "cell": cell, "shape": shape, "threads": threads, "dtype": dtype}
    rows = []
    for what, calls in (("forward+backward", training), ("inference", inferring)):
        row = fixed | {"pass": what} | compared(times_of(calls, seconds))
        rows.append(row | {"largest_difference": off})
    return rows


def step_row(cell: str, seconds: float) -> dict:
    """Time a module's call of one step beside a step of a `Stream`, on one thread."""
    ours, theirs = pair(cell, 64, 64)
    kind = getattr(rnnfast, KINDS[cell])(64, 64)
    kind.load_state_dict({k: v.numpy() for k, v in ours.state_dict().items()})
    stream, out = rnnfast.Stream(kind), np.empty((1, 64), np.float32)
    x = torch.randn(1, 1, 64)
    row = x[0].numpy()

    # Calls of microseconds: a round times 100 of each.
    def many(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                for _ in range(100):
                    call()

        return run

    calls = [lambda: ours(x), lambda: theirs(x), lambda: stream.step(row, out)]
    with torch.inference_mode():
        fused(calls[0])
    times = in_turns([many(call) for call in calls], seconds) / 100
    over = np.median(times[:, 0] - times[:, 2]) * 1e6
    return {
        "row": "step",
        "cell": cell,
        "shape": (1, 1, 64, 64),
        **compared(times),
        "stream_us": round(float(np.median(times[:, 2])) * 1e6, 2),
        "over_stream_us": round(float(over), 2),
        "allowed_us": STEP_ALLOWED_US,
    }


def packed_row(cell: str, shape: tuple[int, ...], threads: int, seconds: float) -> dict:
    """Time forward plus backward of a PackedSequence, lengths uniform in 1 ... T, any order."""
    T, B, I, H = shape
    layers = pair(cell, I, H)
    lengths = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(0))
    x = pack_padded_sequence(torch.randn(T, B, I), lengths, enforce_sorted=False)
    dy = torch.randn(len(x.data), H)
    calls = [backward_of(layer, lambda m: m(x)[0].data, dy) for layer in layers]
    off = largest_difference([fused(calls[0]), calls[1]()])
    row = {"row": "packed", "cell": cell, "shape": shape, "threads": threads}
    row |= compared(times_of(calls, seconds))
    return row | {"used": round(int(lengths.sum()) / (T * B), 2), "largest_difference": off}


def update_row(cell: str, threads: int, seconds: float, T: int = 128, B: int = 8) -> dict:
    """Time an update of a recurrent policy: forward, loss, backward, a step of Adam.

    `torch` is the loop over steps on `torch.nn`, `accelerated` the same loop on our layers, `ours`
    one call that is told of the resets.
    """
    H, share = 64, 0.03
    torch.manual_seed(0)
    stock = Agent(getattr(nn, KINDS[cell]), H, H)
    x, begins = torch.randn(T, B, H), torch.rand(T, B) < share
    state = (torch.zeros(1, B, H),) * (2 if cell == "lstm" else 1)
    actions, gain = torch.randint(6, (T, B)), torch.randn(T, B)
    old = torch.full((T, B), -np.log(6))

    def update(agent: Agent, forward: Callable) -> Callable[[], list[Tensor]]:
        adam = torch.optim.Adam(agent.parameters(), lr=0.0)  # so that every call does the same

        def run() -> list[Tensor]:
            loss = clipped_loss(agent, forward(agent)(x, begins, state), actions, old, gain)
            adam.zero_grad()
            loss.backward()
            adam.step()
            return [loss, *(p.grad for p in agent.parameters())]

        return run

    ours, accelerated = (rnnfast.torch.accelerate(copy.deepcopy(stock)) for _ in range(2))
    calls = [
        update(ours, lambda agent: agent.at_once),
        update(stock, lambda agent: agent.step_by_step),
        update(accelerated, lambda agent: agent.step_by_step),
    ]
    results = [fused(calls[0]), calls[1](), fused(calls[2])]
    off = max(largest_difference([result, results[1]]) for result in (results[0], results[2]))
    times = times_of(calls, seconds)
    return {
        "row": "update",
        "cell": cell,
        "shape": (T, B, H, H),
        "resets": share,
        "threads": threads,
        **compared(times),
        "accelerated_loop_us": round(float(np.median(times[:, 2])) * 1e6, 1),
        "largest_difference": off,
    }


def model_row(kind: type[nn.Module], threads: int, seconds: float) -> dict:
    """Train a model twice, accelerated and not, on the same batches.

    The losses of both are compared with those of PyTorch's run in float64: ours may be twice as far
    away as PyTorch's own in float32, at the worst step so far, and a few roundings. Both must fall
    to half, for which the runs go on, untimed, where the time was not enough.
    """
    torch.manual_seed(0)
    stock = kind()
    ours = rnnfast.torch.accelerate(copy.deepcopy(stock))
    runs = [Trainer(ours), Trainer(stock)]
    before = rnnfast.torch.dispatch_counts()
    exact = Trainer(copy.deepcopy(stock).double())
    times = in_turns(runs, seconds)
    while len(runs[0].losses) < MODEL_STEPS:
        for run in runs:
            run()
    after = rnnfast.torch.dispatch_counts()
    if after["fused"] - before["fused"] != len(runs[0].losses) or after["stock"] != before["stock"]:
        raise RuntimeError(f"the accelerated model was not fused: {rnnfast.torch.last_reason()}")
    compared_steps = min(20, len(runs[0].losses))
    for _ in range(compared_steps):
        exact()
    ref = np.array(exact.losses)
    mine, plain = (np.abs(np.array(r.losses[:compared_steps]) - ref) for r in runs)
    allowed = 2 * np.maximum.accumulate(plain) + 16 * np.finfo(np.float32).eps * ref.max()
    if (mine > allowed).any():
        raise RuntimeError(f"{kind.__name__}: losses are off by {mine.max():.1e}")
    last = [float(np.mean(run.losses[-10:])) for run in runs]
    if not max(last) < runs[1].losses[0] / 2:
        raise RuntimeError(f"{kind.__name__}: losses fell to {last} only")
    accuracy = [round(run.accuracy(), 3) for run in runs]
    return {
        "row": "model",
        "model": kind.__name__,
        "threads": threads,
        "what": "a training step: batch, forward, loss, backward, Adam",
        **compared(times),
        "steps": len(runs[0].losses),
        "first_loss": round(runs[0].losses[0], 4),
        "last_loss_ours": round(last[0], 4),  # of ten steps
        "last_loss_torch": round(last[1], 4),
        "accuracy_ours": accuracy[0],
        "accuracy_torch": accuracy[1],
        "off_ours": float(f"{mine.max():.1e}"),
        "off_torch": float(f"{plain.max():.1e}"),
    }


def rows_of(
    tiny: bool, cores: int, seconds: float
) -> Iterator[tuple[str, int, Callable[[], list[dict]]]]:
    """Yield the name of each row, its threads, and what times it."""
    for cell in KINDS:
        yield f"step.{cell}", 1, partial(lambda c: [step_row(c, 2 * seconds)], cell)
    for threads in (1, 2) if cores >= 2 else (1,):
        for shape in TINY if tiny else grid.SHAPES:
            for cell in KINDS:
                name = f"module.{cell}.{'x'.join(map(str, shape))}.t{threads}"
                yield name, threads, partial(module_rows, cell, shape, threads, seconds)
        for cell, shape in () if tiny else grid.FLOAT64:
            name = f"module.{cell}.{'x'.join(map(str, shape))}.float64.t{threads}"
            yield name, threads, partial(module_rows, cell, shape, threads, seconds, "float64")
        packed = (20, 8, 16, 32) if tiny else (128, 64, 128, 256)
        for cell in KINDS:
            run = partial(packed_row, cell, packed, threads, seconds)
            yield f"packed.{cell}.t{threads}", threads, partial(lambda r: [r()], run)
        for cell in ("lstm", "gru"):
            run = partial(update_row, cell, threads, 3 * seconds, *((16, 4) if tiny else ()))
            yield f"update.{cell}.t{threads}", threads, partial(lambda r: [r()], run)
        for kind in (Tagger, Classifier):
            run = partial(model_row, kind, threads, (4 if tiny else 10) * seconds)
            yield f"model.{kind.__name__}.t{threads}", threads, partial(lambda r: [r()], run)


def main() -> int:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the JSON lines here too, behind what is")
    parser.add_argument("--rows", action="append", help="only rows whose name fits this pattern")
    parser.add_argument("--seconds", type=float, default=0.6, help="per pair (default 0.6)")
    parser.add_argument("--tiny", action="store_true", help="a few small shapes, as a rehearsal")
    options = parser.parse_args()
    put, first = Lines(), header(torch=torch.__version__)
    if options.out and options.out.exists():
        written = json.loads(options.out.read_text().splitlines()[0])
        if written != first:
            parser.error(f"{options.out} is of another run: {written}, this one is {first}")
    else:
        put(first)
    cores = len(os.sched_getaffinity(0))
    for name, threads, run in rows_of(options.tiny, cores, options.seconds):
        if options.rows and not any(fnmatchcase(name, pattern) for pattern in options.rows):
            continue
        torch.set_num_threads(threads)
        for row in run():
            put(row)
    if options.out:
        put.add_to(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
