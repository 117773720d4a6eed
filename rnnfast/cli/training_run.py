"""A training run: everything that the next step depends on, taken step by step, saved and resumed.

What happens in step k follows from k, the options and the text alone; no clock, no thread count and
no random stream that remembers. So a run that is interrupted and resumed goes on to the same bits.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ArgumentError
from ..training import Adam, clip_by_global_norm
from . import model_folder
from .character_model import CharacterModel
from .text import Corpus, Vocabulary


@dataclass(frozen=True)
class Options:
    """What a run is; fixed when it begins, kept by ``--resume``."""

    cell: str = "lstm"
    hidden: int = 256
    layers: int = 1
    length: int = 64
    batch: int = 32
    lr: float = 1e-2
    clip: float = 1.0
    dropout: float = 0.25
    seed: int = 0


def learning_rate(step: int, peak: float) -> float:
    """Return the learning rate of a step, counted from 0: a function of the step alone.

    Half a cosine from `peak` to a twenty-fifth of it over the first 1500 steps, constant after.
    """
    fallen = 0.5 * (1 - math.cos(math.pi * min(step / 1500, 1.0)))
    return peak * (1 - 0.96 * fallen)


class TrainingRun:
    """Parameters, optimiser, carried state and history of one run.

    Parameters
    ----------
    options : Options
    text : str
    sources : list of str
        Where the text comes from, for the model's description; empty is the default text.
    device : str
        As the layers'. Not part of the options: a run may move, to the bit between equal machines.

    Attributes
    ----------
    step : int
        Steps done.
    losses : list of float
        Bits per character of every step, before its update.
    validation : list of (int, float)
        Steps done, and bits per character on the validation text.
    """

    def __init__(self, options: Options, text: str, sources: list[str], device: str) -> None:
        self.options = options
        self.corpus = Corpus(text, options.batch, options.length)
        self.model = CharacterModel(
            len(self.corpus.vocabulary),
            options.cell,
            options.hidden,
            options.layers,
            options.dropout,
            options.seed,
            device,
        )
        # A shorter memory of the second moment than the usual 0.999 suits a run of 1500 steps.
        self.optimizer = Adam(self.model.parameters, options.lr, betas=(0.9, 0.99))
        self.step = 0
        self.state: Any = None
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self._text = {
            "sources": sources,
            "characters": len(text),
            "sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        }

    @classmethod
    def resume(cls, folder: Path, text: str, device: str) -> TrainingRun:
        """Go on from the model in `folder`.

        Raises
        ------
        ArgumentError
            If there is none, or it was begun on another text.
        """
        arrays, description = model_folder.read(folder)
        options = options_of(description)
        run = cls(options, text, description["text"]["sources"], device)
        if run._text != description["text"]:
            began, now = description["text"], run._text
            same = "text" if began["sources"] else "text and the same Python, which brings it"
            raise ArgumentError(
                f"rnnfast train: the model in {folder} was begun on {_describe(began)}, "
                f"this is {_describe(now)}. Resume with the same {same}."
            )
        run._take(arrays)
        return run

    def advance(self) -> float:
        """Take one step.

        Returns
        -------
        loss : float
            In bits per character, of the parameters before the step.

        Raises
        ------
        FloatingPointError
            If loss or gradient is not finite. Nothing is changed then.
        """
        x, targets = self.corpus.window(self.step)
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            loss, gradients, state = self.model.gradients(
                x, targets, self.state, (self.options.seed, self.step)
            )
            norm = clip_by_global_norm(gradients, self.options.clip)
        self._expect_finite(f"the loss is {loss} and the gradient's norm {norm}", loss + norm)
        self.optimizer.step(gradients, learning_rate(self.step, self.options.lr))
        self.state = state
        self.step += 1
        bits = loss / math.log(2)
        self.losses.append(bits)
        return bits

    def validate(self, most: int | None = None) -> float:
        """Return bits per character on the last tenth of the text, or on its first `most`.

        Raises
        ------
        FloatingPointError
            If the result is not finite.
        """
        tokens, start = self.corpus.tokens, self.corpus.cut
        stop = len(tokens) if most is None else min(len(tokens), start + most)
        bits = self.model.bits_per_character(tokens, start, stop)
        self._expect_finite(f"the validation gives {bits} bits per character", bits)
        return bits

    def save(self, folder: Path, **more: Any) -> None:
        """Write the model into `folder`; `more` goes into its description."""
        arrays = {
            **self.model.parameters,
            **{f"optimizer.{name}": array for name, array in self.optimizer.state_dict().items()},
            # All randomness is a function of these two.
            "random.seed": np.array(self.options.seed, np.int64),
            "random.step": np.array(self.step, np.int64),
            "history.losses": np.array(self.losses, np.float64),
            "history.validation_steps": np.array([step for step, _ in self.validation], np.int64),
            "history.validation_bits": np.array([bits for _, bits in self.validation], np.float64),
        }
        for name, array in zip(("h", "c"), _as_tuple(self.state), strict=False):
            arrays[f"state.{name}"] = array
        description = {
            "rnnfast": __version__,
            "step": self.step,
            "options": asdict(self.options),
            "vocabulary": self.corpus.vocabulary.characters,
            "text": self._text,
            **more,
        }
        model_folder.write(folder, self.step, arrays, description)

    def _expect_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(
                f"rnnfast train: in step {self.step} {what}. A lower --lr or --clip may help; "
                f"what was saved before is untouched."
            )

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        self.model.load(arrays)
        prefix = "optimizer."
        self.optimizer.load_state_dict(
            {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
        )
        self.step = int(arrays["random.step"])
        states = tuple(arrays[name] for name in ("state.h", "state.c") if name in arrays)
        self.state = None if not states else states if len(states) > 1 else states[0]
        self.losses = arrays["history.losses"].tolist()
        self.validation = list(
            zip(
                arrays["history.validation_steps"].tolist(),
                arrays["history.validation_bits"].tolist(),
                strict=True,
            )
        )


def _describe(text: dict[str, Any]) -> str:
    return f"a text of {text['characters']:,} characters (SHA-256 {text['sha256'][:12]})"


def options_of(description: dict[str, Any]) -> Options:
    """Return the options in a model's description."""
    return Options(**{field.name: description["options"][field.name] for field in fields(Options)})


def load_model(folder: Path, device: str) -> tuple[CharacterModel, Vocabulary]:
    """Read a model for use, without what only training needs.

    Raises
    ------
    ArgumentError
        If there is none in `folder`.
    """
    arrays, description = model_folder.read(folder)
    vocabulary, o = Vocabulary(description["vocabulary"]), options_of(description)
    model = CharacterModel(len(vocabulary), o.cell, o.hidden, o.layers, 0.0, o.seed, device)
    model.load(arrays)
    return model, vocabulary


def _as_tuple(state: Any) -> tuple[np.ndarray, ...]:
    if state is None:
        return ()
    return state if isinstance(state, tuple) else (state,)
