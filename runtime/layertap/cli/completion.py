"""`layertap completion`: a script that completes commands, options, layers and values in a shell.

Commands, options and values are in the script. The names of layers come from the file that has been
typed, by `layertap layers FILE --names`, which imports neither numpy nor onnxruntime.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import OK, OWN, Command, configure, every_command
from .completion_scripts import SHELLS, Option
from .printing import show


def options_of(name: str, command: Command) -> Iterator[Option]:
    """The options of a command with this name."""
    parser = argparse.ArgumentParser()
    configure(parser, command)
    words = _words()
    for action in parser._actions:
        names = tuple(name for name in action.option_strings if _is_plain(name))
        if not names:
            continue
        metavar, last = str(action.metavar or ""), names[-1]
        given = action.choices or words.get(f"{name} {last}", words.get(last, ()))
        yield Option(
            names,
            " ".join(str(action.help or "").replace("%%", "%").split()),
            tuple(word for word in map(str, given) if _is_plain(word)),
            metavar.startswith("LAYER"),
            action.nargs == "+",
            action.nargs == 0,
        )


def _words() -> Mapping[str, Sequence[str]]:
    """The words that options take, by option, or by command and option."""
    from layertap._cut.reductions import DTYPES
    from layertap._engine.devices import DEVICES
    from layertap.cam import attributions, methods
    from layertap.format.card import CLASS_INPUTS
    from layertap.images.families import FAMILIES
    from layertap.view.colormaps import COLORMAPS
    from layertap.view.documents import FORMATS
    from layertap.view.explained import SHOWS
    from layertap.view.pictures import SCALES

    return {
        **dict.fromkeys(("--device", "--device-a", "--device-b"), ("auto", *DEVICES)),
        **dict.fromkeys(("--method", "--methods"), tuple(methods.METHODS)),
        "attribute --method": attributions.METHODS,
        "--preprocess": tuple(FAMILIES),
        "--colormap": COLORMAPS,
        "--dtype": DTYPES,
        "--class-input": CLASS_INPUTS,
        "--format": FORMATS,
        "--scale": SCALES,
        "--show": SHOWS,
        "quantize --to": ("float16", "int8"),
    }


def _is_plain(word: str) -> bool:
    """Whether a word means itself in every shell: packages of others add commands, too."""
    return re.fullmatch(r"[-+\w.]+", word, re.ASCII) is not None


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(SHELLS), help="the shell that the script is for")


def _run(args: argparse.Namespace) -> int:
    known: Any = {
        name: (command.help, list(options_of(name, command)))
        for name, command in every_command().items()
        if _is_plain(name)
    }
    show(SHELLS[args.shell](known))
    return OK


COMMAND = Command(
    OWN["completion"],
    _configure,
    _run,
    examples=(
        "layertap completion bash",
        "layertap completion fish",
    ),
)
