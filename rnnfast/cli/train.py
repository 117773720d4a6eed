"""``rnnfast train``: a character-level language model, from text to a folder."""

from __future__ import annotations

import shlex
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

from .. import get_num_threads, last_kernel
from ..errors import ArgumentError
from . import model_folder
from .curve import draw
from .ngram import WittenBell
from .stopping import StopRequest
from .text import default_text, read_text
from .training_run import Options, TrainingRun, learning_rate

CURVE = "loss.png"
_GLANCE = 65_536
"""Most characters that a validation on the way looks at; the last one looks at all."""


@dataclass(frozen=True)
class Plan:
    """How far to go and what to leave on the way; may differ from one resumption to the next."""

    out: Path
    steps: int | None = None
    minutes: float | None = None
    every: int = 200
    device: str = "auto"


def begin(options: Options, files: list[Path], plan: Plan) -> int:
    """Start a run in a folder that holds none; return the exit status."""
    if model_folder.exists(plan.out):
        raise ArgumentError(
            f"rnnfast train: {plan.out} already holds a model. Go on with it by --resume, "
            f"or choose another folder by --out."
        )
    text = read_text(files) if files else default_text()
    sources = [str(path.resolve()) for path in files]
    return _Session(TrainingRun(options, text, sources, plan.device), plan).train()


def resume(given: dict[str, Any], files: list[Path], plan: Plan) -> int:
    """Go on with the run in a folder; return the exit status.

    Parameters
    ----------
    given : dict
        Those of the `Options` that stood on the command line; they must be what the run began with.
    files : list of Path
        Where its text is now; empty if nothing has moved.
    plan : Plan
        Steps count from the very beginning; None for both limits means those of the time before.
    """
    _, description = model_folder.read(plan.out)
    for name, value in given.items():
        began = description["options"][name]
        if value != began:
            raise ArgumentError(
                f"rnnfast train: --{name} {value} was given, but the model in {plan.out} was begun "
                f"with {began}. Leave it out, or begin another model with --out."
            )
    if plan.steps is None and plan.minutes is None:
        plan = replace(plan, steps=description["steps"])
    if plan.steps is None and plan.minutes is None:
        raise ArgumentError(
            "rnnfast train: the run was begun without a number of steps; say --steps or --minutes."
        )
    if plan.steps is not None and plan.steps <= description["step"]:
        raise ArgumentError(
            f"rnnfast train: the model in {plan.out} has done {description['step']} steps, "
            f"--steps is {plan.steps}. Ask for more to go on."
        )
    paths = files or [Path(source) for source in description["text"]["sources"]]
    text = read_text(paths) if paths else default_text()
    return _Session(TrainingRun.resume(plan.out, text, plan.device), plan).train()


class _Session:
    """One process's share of a run, with its bar, its reports and its saves."""

    def __init__(self, run: TrainingRun, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        corpus = run.corpus
        # The n-gram model sees what the network sees, with the training text as context.
        bits = WittenBell(corpus.tokens[: corpus.cut], len(corpus.vocabulary)).bits_per_character(
            corpus.tokens, corpus.cut
        )
        self.order, self.ngram = int(bits.argmin()) + 1, float(bits.min())
        self.began = time.monotonic()
        self.first = run.step
        self.spent = 0.0  # seconds in steps, without validation and samples
        self.kernel = ""  # the last of a step

    def train(self) -> int:
        self._introduce()
        run, plan = self.run, self.plan
        with StopRequest() as stop, self._bar() as bar:
            while stop.signal is None and not self._finished():
                started = time.monotonic()
                loss = run.advance()
                self.spent += time.monotonic() - started
                self.kernel = last_kernel()
                bar.set_description_str(f"step {run.step}", refresh=False)
                bar.set_postfix_str(f"loss {loss:.3f} bits", refresh=False)
                bar.total = self._expected()
                bar.update(run.corpus.characters_per_step)
                if run.step % plan.every == 0 and not self._finished():
                    self._report(run.validate(_GLANCE))
                    self._save()
        if stop.signal is not None:
            self._save()
            self._draw()
            print(
                f"Stopped after step {run.step}; the model is saved. Go on with:\n"
                f"  rnnfast train --resume --out {shlex.quote(str(plan.out))}"
            )
            return 128 + stop.signal
        bits = run.validate()
        self._report(bits)
        self._save()
        self._draw()
        self._conclude(bits)
        return 0

    def _introduce(self) -> None:
        run, corpus = self.run, self.run.corpus
        o, held = run.options, sum(array.size for array in run.model.parameters.values())
        print(
            f"Text: {corpus.cut:,} characters to train on, {len(corpus.tokens) - corpus.cut:,} to "
            f"validate on, {len(corpus.vocabulary) - 1} different ones.\n"
            f"Model: {o.cell}, {o.layers} x {o.hidden} units, {held:,} parameters; "
            f"batch {o.batch} x length {o.length}; at most {get_num_threads()} threads.\n"
            f"Best n-gram model (order {self.order}): {self.ngram:.3f} bits per character.",
            flush=True,
        )

    def _bar(self) -> tqdm[NoReturn]:
        done = self.run.step * self.run.corpus.characters_per_step
        return tqdm(
            total=self._expected(),
            initial=done,
            unit=" characters",
            unit_scale=True,
            bar_format="{desc} {bar} {percentage:3.0f}%{postfix}  {rate_fmt}  {remaining} left",
            disable=None,  # where nobody watches, the reports suffice
            leave=False,
        )

    def _finished(self) -> bool:
        plan = self.plan
        if plan.steps is not None and self.run.step >= plan.steps:
            return True
        if self.run.step == self.first:
            return False  # one step at least, however short the time
        return plan.minutes is not None and time.monotonic() - self.began >= 60 * plan.minutes

    def _expected(self) -> int:
        """Characters that the run will have read at its end, by the pace so far."""
        run, plan = self.run, self.plan
        ends = [] if plan.steps is None else [plan.steps]
        if plan.minutes is not None:
            elapsed = max(time.monotonic() - self.began, 1e-3)
            pace = max(run.step - self.first, 1) / elapsed
            ends.append(max(run.step, self.first + int(pace * 60 * plan.minutes)))
        return min(ends) * run.corpus.characters_per_step

    def _report(self, bits: float) -> None:
        """Print a line of figures and a sample; note the validation."""
        run = self.run
        run.validation.append((run.step, bits))
        recent = run.losses[-self.plan.every :]
        read = (run.step - self.first) * run.corpus.characters_per_step
        tqdm.write(
            f"\nstep {run.step:,}   training {sum(recent) / len(recent):.3f}   "
            f"validation {bits:.3f} bits per character (n-gram {self.ngram:.3f})   "
            f"{read / self.spent:,.0f} characters/s   "
            f"lr {learning_rate(run.step - 1, run.options.lr):.2g}"
        )
        tqdm.write(textwrap.indent(self._sample(), "  | "))
        sys.stdout.flush()

    def _sample(self, length: int = 240) -> str:
        run, corpus = self.run, self.run.corpus
        vocabulary = corpus.vocabulary
        drawn = run.model.generate(
            vocabulary.encode("\n"),
            temperature=0.7,
            rng=np.random.default_rng([run.options.seed, run.step]),
            never=vocabulary.unknown,
        )
        return vocabulary.decode(islice(drawn, length))

    def _save(self) -> None:
        self.run.save(
            self.plan.out,
            steps=self.plan.steps,
            ngram={"order": self.order, "bits_per_character": self.ngram},
        )

    def _draw(self) -> None:
        run = self.run
        draw(self.plan.out / CURVE, run.losses, run.validation, self.ngram, self.order)

    def _conclude(self, bits: float) -> None:
        out = self.plan.out
        verdict = "better" if bits < self.ngram else "worse"
        print(
            f"\nValidation: {bits:.3f} bits per character, {abs(self.ngram - bits):.3f} {verdict} "
            f"than the best n-gram model (order {self.order}) with {self.ngram:.3f}.\n"
            f"{time.monotonic() - self.began:.0f} seconds; {self.kernel}.\n"
            f"The model is in {out}, its loss curve in {out / CURVE}. Let it write:\n"
            f'  rnnfast sample {shlex.quote(str(out))} --prompt "The " --length 500'
        )
