"""The command line: `layertap COMMAND ...`.

Data goes to stdout, messages to stderr. Exit codes: 0 all well; 1 a verification failed, or some
of several inputs; 2 anything that stopped the command. Commands that need more than the runtime
come from the entry-point group `layertap.commands`, so that this package imports none of it.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from layertap._record import Record
from layertap._version import __version__
from layertap.errors import LayertapError, LayertapWarning, UsageError, suggest

TYPE_CHECKING = False  # see _record.py: the table of layers is to be quick
if TYPE_CHECKING:
    import argparse

GROUP = "layertap.commands"

OK, PARTLY_FAILED, STOPPED = 0, 1, 2
"""Exit codes."""


class Command(Record):
    """One command of the command line."""

    help: str
    """What it does, in a few words."""
    configure: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments to its parser."""
    run: Callable[[argparse.Namespace], int]
    """Does it, and returns the exit code."""
    plain: Callable[[str], int] | None = None
    """Does it for one file without options: argparse is not needed then, and takes its time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        # What is in memory when a program ends, Python need not look through for cycles.
        atexit.register(gc.freeze)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names may come from anywhere
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", LayertapWarning)
            warnings.showwarning = _warning_printer()
            code = _run(arguments)
            if sys.stdout:  # there is none where it was closed
                sys.stdout.flush()
            return code
    except LayertapError as exc:
        _complain(str(exc))
    except KeyboardInterrupt:
        _complain("interrupted; nothing was left half-written.")
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        _give_up_stdout()
        return OK
    except MemoryError as exc:
        _complain(f"there is not enough memory{f' ({exc})' if str(exc) else ''}.")
    except OSError as exc:  # stdout on a full disk, for one
        _complain(": ".join(str(part) for part in (exc.filename, exc.strerror or exc) if part))
        _give_up_stdout()
    return STOPPED


def _run(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[0] in OWN and arguments[1][:1] not in ("", "-"):
        plain = _own(arguments[0]).plain
        if plain is not None:
            return _uncollected(plain, arguments[1])
    try:
        args = _parse(arguments)
    except SystemExit as exc:  # argparse has printed its help, or what is wrong
        return int(exc.code or 0)
    return int(args.run(args))


def _uncollected(plain: Callable[[str], int], file: str) -> int:
    """Do without the garbage collector what is soon done, and makes no garbage."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return plain(file)
    finally:
        if collecting:
            gc.enable()


def _complain(message: str) -> None:
    print(f"layertap: {message}", file=sys.stderr)


def _give_up_stdout() -> None:
    """Where stdout takes no more, keep Python from trying once again when it ends."""
    import contextlib

    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def _parse(arguments: list[str]) -> argparse.Namespace:
    import argparse

    parser = argparse.ArgumentParser(
        prog="layertap", description="Read any layer's activations out of an ONNX file."
    )
    parser.add_argument("--version", action="version", version=f"layertap {__version__}")
    wanted = arguments[0] if arguments else ""
    commands = {} if wanted == "--version" else _commands(wanted)
    if arguments and not wanted.startswith("-") and wanted not in commands:
        raise UsageError(
            f"there is no command {wanted!r}.{suggest(wanted, list(commands))} "
            "`layertap --help` lists them."
        )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in commands.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        command.configure(subparser)
        subparser.set_defaults(run=command.run)
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(STOPPED)
    return parser.parse_args(_negative_slices_joined(arguments))


def _negative_slices_joined(arguments: list[str]) -> list[str]:
    """`--layers -3:` as `--layers=-3:`: what begins with `-`, argparse takes for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--layers" and re.fullmatch(r"-\d+:.*", argument):
            joined[-1] = f"--layers={argument}"
        else:
            joined.append(argument)
    return joined


OWN = {
    "cam": "draw heat maps: where the evidence for a class is",
    "check": "compare this machine with the sample in the file",
    "cut": "write a part of a model as a file of its own",
    "devices": "list the devices that models can run on",
    "info": "print what a file says about itself",
    "layers": "print the table of a file's layers",
    "run": "fetch activations or predictions for images",
    "stats": "mean and deviation of an image collection, as a recipe",
}
"""The runtime's own commands, each a module here, and what they do."""


def _commands(wanted: str) -> dict[str, Command]:
    """The wanted command if it is one of the runtime's own, else all that there are."""
    if wanted in OWN:
        return {wanted: _own(wanted)}
    from importlib.metadata import entry_points  # costs more than all the rest here

    others = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            others[entry.name] = entry.load()
        except Exception as exc:  # noqa: BLE001 - other people's packages; the rest works
            message = f"the command {entry.name!r} ({entry.value}) cannot be loaded: {exc}"
            warnings.warn(message, LayertapWarning, stacklevel=2)
    if wanted in ("", "-h", "--help"):  # to be listed alone: none of them needs to be loaded
        own = {name: Command(text, lambda _: None, lambda _: STOPPED) for name, text in OWN.items()}
    else:
        own = {name: _own(name) for name in OWN}
    return {**others, **own}


def _own(name: str) -> Command:
    command: Command = import_module(f"{__name__}.{name}").COMMAND
    return command


def _warning_printer() -> Callable[..., None]:
    """A `warnings.showwarning` that prints layertap's warnings, each text once."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        text = str(message)
        if issubclass(category, LayertapWarning) and text not in seen:
            seen.add(text)
            _complain(f"warning: {text}")

    return show
