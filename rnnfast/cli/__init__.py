"""The command line: ``rnnfast train``, ``sample``, ``bench``, ``info`` and ``check``.

``info`` and ``check`` need NumPy alone. The others need what ``pip install "rnnfast[cli]"`` brings,
and say so where it is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import ArgumentError, DeviceError

_NEEDED = ("typer", "tqdm", "matplotlib", "safetensors")
_WITH_EXTRAS = {
    "train": "train a character model",
    "sample": "let one write",
    "bench": "the benchmark suite",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted (and saved).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as end:  # both parsers end so, on --help and on wrong usage
        return int(end.code or 0)
    except (ArgumentError, DeviceError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nrnnfast: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone. What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: list[str]) -> int:
    if arguments[:1] in (["info"], ["check"]):
        return _without_extras(arguments)
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        return _without_extras(arguments, error.name)
    return app(args=arguments, prog_name="rnnfast")


def _without_extras(arguments: list[str], missing: str | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rnnfast", description="Fast recurrent networks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="CPU, kernels, threads, back ends, versions")
    commands.add_parser("check", help="every kernel against the reference, on this machine")
    for name, purpose in _WITH_EXTRAS.items():
        help_text = f'{purpose} (needs: pip install "rnnfast[cli]")'
        commands.add_parser(name, help=help_text, add_help=False)
    known, rest = parser.parse_known_args(arguments)
    if known.command in _WITH_EXTRAS:
        print(
            f"rnnfast {known.command} needs {missing}, which is not installed. "
            f'Install it with: pip install "rnnfast[cli]"',
            file=sys.stderr,
        )
        return 1
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if known.command == "info":
        from .info import info as command
    else:
        from .check import check as command
    return command()
