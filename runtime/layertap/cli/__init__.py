"""The command line: `layertap COMMAND ...`.

Data goes to stdout, messages to stderr. Exit codes: 0 all well; 1 a verification failed, or some
of several inputs; 2 anything that stopped the command. Commands that need more than the runtime
come from the entry-point group `layertap.commands`, so that this package imports none of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TextIO

from layertap._version import __version__
from layertap.errors import LayertapError, LayertapWarning, suggest

GROUP = "layertap.commands"

OK, PARTLY_FAILED, STOPPED = 0, 1, 2
"""Exit codes."""


@dataclass(frozen=True)
class Command:
    """One command of the command line."""

    help: str
    """What it does, in a few words."""
    configure: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments to its parser."""
    run: Callable[[argparse.Namespace], int]
    """Does it, and returns the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", LayertapWarning)
            warnings.showwarning = _show_warning
            args = _parse(arguments)
            code = int(args.run(args))
            sys.stdout.flush()
            return code
    except LayertapError as exc:
        print(f"layertap: {exc}", file=sys.stderr)
    except KeyboardInterrupt:
        print("layertap: interrupted; nothing was left half-written.", file=sys.stderr)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as exc:  # stdout on a full disk, for one
        print(f"layertap: {exc}", file=sys.stderr)
    return STOPPED


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="layertap", description="Read any layer's activations out of an ONNX file."
    )
    parser.add_argument("--version", action="version", version=f"layertap {__version__}")
    wanted = arguments[0] if arguments else ""
    commands = _commands(wanted)
    if wanted and not wanted.startswith("-") and wanted not in commands:
        parser.error(f"there is no command {wanted!r}.{suggest(wanted, list(commands))}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in commands.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        command.configure(subparser)
        subparser.set_defaults(run=command.run)
    return parser.parse_args(arguments)


OWN = ("check", "info", "layers", "run", "stats")
"""The runtime's own commands, each a module here."""


def _commands(wanted: str) -> dict[str, Command]:
    """The wanted command if it is one of the runtime's own, else all that there are."""
    if wanted in OWN:
        return {wanted: _own(wanted)}
    from importlib.metadata import entry_points  # costs more than all the rest here

    others = {entry.name: entry.load() for entry in entry_points(group=GROUP)}
    return {**{name: others[name] for name in sorted(others)}, **{n: _own(n) for n in OWN}}


def _own(name: str) -> Command:
    command: Command = import_module(f"{__name__}.{name}").COMMAND
    return command


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, LayertapWarning):
        print(f"layertap: warning: {message}", file=sys.stderr)
