"""All commands as a typer application; needs the extra ``rnnfast[cli]``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .. import set_num_threads
from ..errors import ArgumentError
from . import train as training
from .bench import app as bench
from .character_model import CELLS
from .check import check as run_check
from .info import info as run_info
from .sample import sample as run_sample
from .training_run import Options

Cell = StrEnum("Cell", {name: name for name in CELLS})
Device = StrEnum("Device", {name: name for name in ("auto", "cpu", "numpy", "cuda")})
DEFAULT = Options()
DEFAULT_CELL = Cell(DEFAULT.cell)
AUTO = Device("auto")
STEPS = 1500

app = typer.Typer(
    help="Recurrent networks at the speed of the machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")


@app.command()
def train(
    context: typer.Context,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...",
            help="UTF-8 text to learn, any number of files. Default: the documentation that Python "
            "brings (pydoc_data.topics), about 465,000 characters of English.",
        ),
    ] = None,
    more_text: Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="")] = None,
    cell: Annotated[Cell, typer.Option()] = DEFAULT_CELL,
    hidden: Annotated[int, typer.Option(min=1, help="Units per layer.")] = DEFAULT.hidden,
    layers: Annotated[int, typer.Option(min=1)] = DEFAULT.layers,
    length: Annotated[
        int, typer.Option(min=1, help="Characters through which a gradient goes back.")
    ] = DEFAULT.length,
    batch: Annotated[
        int, typer.Option(min=1, help="Places of the text read side by side.")
    ] = DEFAULT.batch,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Steps in all, default {STEPS} unless --minutes is given."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after so long, whatever the step."),
    ] = None,
    lr: Annotated[
        float, typer.Option(help="Adam's learning rate at first; it falls over 1500 steps.")
    ] = DEFAULT.lr,
    clip: Annotated[float, typer.Option(help="Greatest norm of the gradient.")] = DEFAULT.clip,
    dropout: Annotated[
        float, typer.Option(min=0, max=0.99, help="Between layers and before the output.")
    ] = DEFAULT.dropout,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULT.seed,
    threads: Annotated[
        int | None, typer.Option(min=1, help="At most so many; results do not depend on it.")
    ] = None,
    device: Annotated[Device, typer.Option()] = AUTO,
    every: Annotated[
        int, typer.Option(min=1, help="Steps between validations, samples and saves.")
    ] = training.Plan.every,
    out: Annotated[Path, typer.Option(help="Folder of the model.")] = Path("model"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the model in --out, to the same bits.")
    ] = False,
) -> None:
    """Train a character-level language model and show how it learns.

    Ctrl-C saves and stops; --resume goes on to the same bits as if nothing had happened.
    """
    if more_text and not text:
        raise ArgumentError(
            f"rnnfast train: {more_text[0]} is not expected; files of text come after --text."
        )
    files = [*(text or []), *(more_text or [])]
    if threads is not None:
        set_num_threads(threads)
    chosen = {
        "cell": cell.value,
        "hidden": hidden,
        "layers": layers,
        "length": length,
        "batch": batch,
        "lr": lr,
        "clip": clip,
        "dropout": dropout,
        "seed": seed,
    }
    plan = training.Plan(out, steps, minutes, every, device.value)
    if resume:
        given = {name: value for name, value in chosen.items() if _stood(context, name)}
        status = training.resume(given, files, plan)
    else:
        if steps is None and minutes is None:
            plan = training.Plan(out, STEPS, minutes, every, device.value)
        status = training.begin(Options(**chosen), files, plan)
    raise typer.Exit(status)


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="Folder of a model that train made.")],
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "",
    length: Annotated[int, typer.Option(min=0, help="Characters to write.")] = 500,
    temperature: Annotated[
        float, typer.Option(min=0, help="0: always the likeliest; 1: as the model believes.")
    ] = 0.7,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Same seed, same text; default: differs.")
    ] = None,
    device: Annotated[Device, typer.Option()] = AUTO,
) -> None:
    """Let a model write, character by character."""
    raise typer.Exit(run_sample(model, prompt, length, temperature, seed, device.value))


@app.command()
def info() -> None:
    """CPU, kernels, threads, back ends and versions."""
    raise typer.Exit(run_info())


@app.command()
def check() -> None:
    """Every kernel against the reference, on this machine."""
    raise typer.Exit(run_check())


def _stood(context: typer.Context, name: str) -> bool:
    """Whether an option stood on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
