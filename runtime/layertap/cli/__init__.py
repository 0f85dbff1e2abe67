"""The command line: `layertap COMMAND ...`.

Errors go to stderr; docs/command-line.md says what else does. Exit codes: 0 for success; 1 if a
verification or some of several inputs failed; 2 if an error stopped the command; 128 and the number
of the signal if a signal did (130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP). Other packages
add commands through the entry-point group `layertap.commands`, so this package does not depend on
them.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from layertap._escaping import printable
from layertap._record import Record
from layertap._version import __version__
from layertap.errors import LayertapError, LayertapWarning, UsageError, suggest

from .printing import tell
from .signals import Signals

GROUP = "layertap.commands"
"""The entry-point group of commands from other packages."""

OK, PARTLY_FAILED, STOPPED, SIGNALLED = 0, 1, 2, 128
"""Exit codes; the number of the signal is added to the last."""


class Command(Record):
    """One command of the command line."""

    help: str
    """A short description."""
    configure: Callable[[argparse.ArgumentParser], None]
    """Adds the command's arguments to its parser."""
    run: Callable[[argparse.Namespace], int]
    """Runs the command and returns the exit code."""
    examples: tuple[str, ...] = ()
    """Whole commands, which its help shows."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signals = Signals()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names may contain any characters
    try:
        if argv is None:
            # At exit, skip the search for reference cycles among all objects: the process ends.
            atexit.register(gc.freeze)
            signals.take()
        with warnings.catch_warnings():
            warnings.simplefilter("always", LayertapWarning)
            warnings.showwarning = _warning_printer()
            code = _run(arguments)
            if sys.stdout:  # it is None if it was closed
                sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader of the pipe, for example `head`, has ended
        _discard_stdout()
        return OK
    except (Exception, KeyboardInterrupt) as exc:
        if signals.seen or isinstance(exc, KeyboardInterrupt):
            # An import may have turned the exception of the handler into an error of its own.
            return _signalled(signals.seen[0] if signals.seen else 2)
        if isinstance(exc, LayertapError):
            _print_message(str(exc))
        elif isinstance(exc, MemoryError):
            _print_message(f"not enough memory{f' ({exc})' if str(exc) else ''}.")
        elif isinstance(exc, OSError):  # for example stdout on a full disk
            parts = (exc.filename, exc.strerror or exc)
            _print_message(": ".join(str(part) for part in parts if part))
            _discard_stdout()
        else:
            raise
        return STOPPED
    finally:
        signals.give_back()


def _signalled(number: int) -> int:
    """Say that a signal ended the command; return its exit code."""
    name = {1: "ended by SIGHUP", 2: "interrupted", 15: "ended by SIGTERM"}[number]
    _print_message(f"{name}; no file was left incomplete.")
    return SIGNALLED + number


def _run(arguments: list[str]) -> int:
    try:
        args = _parse(arguments)
    except SystemExit as exc:  # argparse has printed its help or an error message
        return int(exc.code or 0)
    if not getattr(args, "verbose", False):
        return int(args.run(args))
    from .verbose import verbose  # imports logging

    with verbose():
        return int(args.run(args))


def _print_message(message: str) -> None:
    tell(f"layertap: {message}")


def _discard_stdout() -> None:
    """If stdout cannot be written, discard its buffer, so that Python does not fail at exit."""
    import contextlib

    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)


def _parse(arguments: list[str]) -> argparse.Namespace:
    if arguments[:1] == ["help"]:  # as in git and docker
        arguments = [*arguments[1:2], "--help"]
    if arguments[:1] in (["-v"], ["--verbose"]):  # before the command
        arguments = [*arguments[1:2], *arguments[:1], *arguments[2:]]
    parser = _Parser(prog="layertap", description="Read any layer's activations from an ONNX file.")
    parser.add_argument("--version", action="version", version=f"layertap {__version__}")
    requested = arguments[0] if arguments else ""
    commands = {} if requested == "--version" else _commands(requested)
    if arguments and not requested.startswith("-") and requested not in commands:
        raise UsageError(
            f"the command {requested!r} is unknown.{suggest(requested, list(commands))} "
            "`layertap --help` lists the commands."
        )
    parser.epilog = "`layertap help COMMAND` prints the options of a command, and examples."
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    lists: list[argparse.Action] = []
    for name, command in commands.items():
        lines = "".join(f"  {example}\n" for example in command.examples)
        subparser = subparsers.add_parser(
            name,
            help=command.help,
            description=command.help,
            epilog=f"examples:\n{lines}" if lines else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the lines
        )
        configure(subparser, command)
        subparser.set_defaults(run=command.run)
        options = (action for action in subparser._actions if action.option_strings)
        lists += [action for action in options if action.nargs == "+"]
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(STOPPED)
    try:
        _Parser.raises = True
        return parser.parse_args(_join_negative_slices(arguments, lists))
    except _UnparsableError:
        # A list such as `--layers bn chest.png` takes all words up to the next option. If that is
        # too many, each takes one.
        for action in lists:
            action.nargs = 1
    finally:
        _Parser.raises = False
    return parser.parse_args(_join_negative_slices(arguments, ()))


def configure(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add the arguments of a command, and `-v` unless it has an option of this name itself."""
    command.configure(parser)
    names = [x for x in ("-v", "--verbose") if x not in parser._option_string_actions]
    if "--verbose" in names:
        text = "print what is done, and how long it takes, to stderr"
        parser.add_argument(*names, action="store_true", help=text)


class _UnparsableError(Exception):
    """Arguments that do not fit."""


class _Parser(argparse.ArgumentParser):
    """A parser that can raise an exception instead of ending the process.

    Its messages are printed as all others are; so are those of its commands.
    """

    raises = False

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """The same, with `FILE -o OUT SOURCE` read as `FILE SOURCE -o OUT`: a list of arguments
        that may be empty is ended by the first option otherwise."""
        found, left = super().parse_known_args(*args, **kwargs)
        lists = [x for x in self._actions if not x.option_strings and x.nargs == "*"]
        if lists and left and not any(word.startswith("-") for word in left):
            setattr(found, lists[-1].dest, [*getattr(found, lists[-1].dest), *left])
            left = []
        return found, left

    def error(self, message: str) -> NoReturn:
        if _Parser.raises:
            raise _UnparsableError(message)
        super().error(printable(message))


def _join_negative_slices(arguments: list[str], lists: Sequence[argparse.Action]) -> list[str]:
    """Replace `--layers -3:` by `--layers=-3:`, because argparse would read `-3:` as an option.

    Args:
        lists: options that take several words; words after such a slice belong to them.
    """
    many = {text for action in lists for text in action.option_strings}
    joined: list[str] = []
    option, ended = "", False
    for argument in arguments:
        follows = bool(joined) and joined[-1] == option
        if re.fullmatch(r"-\d+:.*", argument) and (follows or option in many):
            if follows:
                joined.pop()
            joined.append(f"{option}={argument}")
            ended = True
            continue
        if argument.startswith("--"):
            option, ended = argument, False
        elif ended and option in many:
            joined.append(option)
            ended = False
        joined.append(argument)
    return joined


OWN = {
    "attribute": "draw how much each pixel counts for a class",
    "cam": "draw heat maps that show the evidence for a class",
    "check": "compare this machine's results with the sample in the file",
    "compare": "compare two files layer by layer: what differs, and where it starts",
    "completion": "print a script that completes commands, options and layers in a shell",
    "cut": "write a part of a model to a new file",
    "devices": "list the devices that models can run on",
    "extract": "fetch layers of a whole collection of images, into a folder",
    "features": "print what a collection holds, write it as a table, or join its shards",
    "info": "print a description of a file",
    "layers": "print the table of a file's layers",
    "record": "write what this machine computes, to compare it on another machine",
    "run": "fetch activations or predictions for images",
    "stats": "compute the mean and deviation of images, as a preprocessing recipe",
    "view": "make a page for the browser: layers, feature maps, scores and heat maps",
}
"""The runtime's own commands, each in a module of this package, and their descriptions."""


def _commands(requested: str) -> dict[str, Command]:
    """The requested command if it is one of the runtime's own; otherwise all commands."""
    if requested in OWN:
        return {requested: _own(requested)}
    if requested in ("", "-h", "--help"):  # the list of commands does not need their modules
        own = {name: Command(text, lambda _: None, lambda _: STOPPED) for name, text in OWN.items()}
        return {**_others(), **own}
    return every_command()


def every_command() -> dict[str, Command]:
    """All commands, the runtime's own and those of other packages."""
    return {**_others(), **{name: _own(name) for name in OWN}}


def _others() -> dict[str, Command]:
    """The commands of other packages."""
    from importlib.metadata import entry_points  # slow to import

    others = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            others[entry.name] = entry.load()
        except Exception as exc:  # noqa: BLE001 - a broken package must not break the others
            message = f"the command {entry.name!r} ({entry.value}) cannot be loaded: {exc}"
            warnings.warn(message, LayertapWarning, stacklevel=2)
    return others


def _own(name: str) -> Command:
    command: Command = import_module(f"{__name__}.{name}").COMMAND
    return command


def _warning_printer() -> Callable[..., None]:
    """A `warnings.showwarning` that prints each of layertap's warnings once."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        text = str(message)
        if issubclass(category, LayertapWarning) and text not in seen:
            seen.add(text)
            _print_message(f"warning: {text}")

    return show
