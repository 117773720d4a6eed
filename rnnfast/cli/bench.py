"""``rnnfast bench``: the suite's commands as a typer application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._files import replace_file
from ..bench import compare as comparing
from ..bench import environments, pages, picture, report, results
from ..bench.driver import Driver, missing_rows
from ..bench.grid import DTYPES, PASSES, THREADS, select
from ..bench.summary import summary
from ..errors import ArgumentError

# 18 minutes for the whole grid: of an hour, the rest is for building, checking and slow calls.
SECONDS = 4.0

app = typer.Typer(
    help="The benchmark suite: rnnfast and its peers, checked, then timed in turns.",
    no_args_is_help=True,
    add_completion=False,
)

Rows = Annotated[
    list[str] | None,
    typer.Option(
        "--rows",
        metavar="PATTERN",
        help='Of row ids, "lstm.*.t1"; may be given again. An id is '
        "CELL[+OPTION].PASS.DTYPE.TxBxIxH[xL].tTHREADS.",
    ),
]


@app.command()
def run(
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Gets a line of JSON per row; rows that it has already are not run again.",
        ),
    ] = Path("bench.jsonl"),
    rows: Rows = None,
    cell: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="lstm, gru, ...")
    ] = None,
    passed: Annotated[
        list[str] | None, typer.Option("--pass", metavar="PATTERN", help=" or ".join(PASSES))
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help=" or ".join(DTYPES))
    ] = None,
    threads: Annotated[list[int] | None, typer.Option(help=" or ".join(map(str, THREADS)))] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PYTHON", help="A peer and its environment's Python."),
    ] = None,
    peers: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Environments that `rnnfast bench peers` made."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A peer that takes no part.")
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.01, help="Time measured per row, shared by all; slow calls take more."),
    ] = SECONDS,
    again: Annotated[
        bool, typer.Option("--again", help="Run rows that the file has already, too.")
    ] = False,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Time rows that differ in threads alone in the same rounds, so that the speed-up "
            "and the CPU time of two threads are taken in pairs.",
        ),
    ] = False,
) -> None:
    """Check and time rows of the grid; the exit status is 1 if a result of rnnfast is wrong."""
    pythons = environments.given(peer or (), peers, without or ())
    chosen = select(rows or (), cell or (), passed or (), dtype or (), threads or ())
    to_do = missing_rows(chosen, out, again)
    if len(to_do) < len(chosen):
        typer.echo(f"{len(chosen) - len(to_do)} of {len(chosen)} rows are in {out} already.")
    if not to_do:
        return
    with Driver(pythons, seconds, typer.echo, together) as driver:
        wrong = driver.run(to_do, out)
    if wrong:
        typer.echo(f"rnnfast: {wrong} rows have WRONG results.", err=True)
        raise typer.Exit(1)


@app.command()
def table(
    file: Annotated[Path | None, typer.Argument(help="Results of `run`.")] = None,
    rows: Rows = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE",
            help="Renew the tables and summaries of this page instead, each between <!-- rnnfast "
            "bench table FILE [--rows PATTERN]... --> and <!-- end of table -->, or the same of "
            "summary FILE.",
        ),
    ] = None,
    below: Annotated[
        bool,
        typer.Option(
            "--below",
            help="Instead of the table the rows that reach less of their limit than is wanted, "
            "and where their time went.",
        ),
    ] = False,
) -> None:
    """Print results as a Markdown table, or renew those of a page."""
    if file is not None and into is None:
        made = report.below if below else report.table
        typer.echo(made(results.read(file), rows or ()), nl=False)
    elif file is None and into is not None and not rows and not below:
        replace_file(into, pages.fill(into).encode())
    else:
        raise ArgumentError(
            "rnnfast bench table: expected either FILE [--rows] [--below] or --into PAGE."
        )


@app.command(name="summary")
def summarise(file: Annotated[Path, typer.Argument(help="Results of `run`.")]) -> None:
    """Print what plain rows of float32 come to, against what is wanted."""
    typer.echo(summary(results.read(file)), nl=False)


@app.command(name="picture")
def draw(
    file: Annotated[Path, typer.Argument(help="Results of `run`.")],
    out: Annotated[Path, typer.Argument(help=".png, .svg or .pdf")],
    threads: Annotated[int, typer.Option(min=1)] = THREADS[-1],
) -> None:
    """Draw how many times its limit each contender takes."""
    picture.draw(results.read(file), out, threads)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Results of one build.")],
    after: Annotated[Path, typer.Argument(help="Results of another.")],
    least: Annotated[
        float, typer.Option(min=0, help="A change that is smaller is none.")
    ] = comparing.LEAST,
) -> None:
    """Say of each row whether rnnfast became faster or slower; the exit status is 1 if slower."""
    both = results.read(before), results.read(after)
    verdicts = list(comparing.compare(*both, least=least))
    for line in comparing.unpaired(*both):
        typer.echo(line)
    typer.echo(comparing.table(verdicts))
    if any(verdict.word == "slower" for verdict in verdicts):
        raise typer.Exit(1)


@app.command(name="peers")
def make_peers(
    folder: Annotated[Path, typer.Argument(help="Gets a folder per peer.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None,
    requirements: Annotated[
        Path, typer.Option(metavar="FOLDER", help="With NAME.txt for each peer.")
    ] = environments.REQUIREMENTS,
) -> None:
    """Make the environments of peers from pinned lists."""
    raise typer.Exit(int(environments.make(folder, names or (), requirements, typer.echo) > 0))
