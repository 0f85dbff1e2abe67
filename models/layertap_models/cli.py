"""`layertap models`: a list of the models, and the files that other commands require."""

from __future__ import annotations

import argparse
import json
import shlex
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from layertap.cli import Command
from layertap.cli.printing import show, tell
from layertap.errors import UsageError
from layertap.format.atomic import make_folder, replacing

from .registry import MODELS as SPECS
from .registry import ModelSpec, find

_LINE = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `layertap models`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="describe this model in detail")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--json", action="store_true", help="print JSON")
    actions.add_argument(
        "--write",
        metavar="FOLDER",
        help="write labels.txt and preprocess.json of the model NAME, for `layertap export`",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="with --write: also write N sample images to FOLDER/images",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="with --samples: seed of the images (default 0)"
    )


def run(args: argparse.Namespace) -> int:
    """List the models, describe one, or write the files of one; return the exit code 0."""
    if args.write is not None:
        _write(args)
        return 0
    if args.samples is not None or args.seed is not None:
        raise UsageError("--samples and --seed require --write FOLDER.")
    if args.name is None:
        specs = list(SPECS.values())
        show(json.dumps([*map(_plain, specs)], indent=2) if args.json else _table(specs))
    else:
        spec = find(args.name)
        show(json.dumps(_plain(spec), indent=2) if args.json else _page(spec))
    return 0


MODELS = Command(
    help="list the Keras models that come with layertap",
    configure=configure,
    run=run,
    examples=("layertap models", "layertap models chest_xray --write demo --samples 3"),
)


def _write(args: argparse.Namespace) -> None:
    if args.name is None:
        raise UsageError(f"--write requires the NAME of a model: {' or '.join(SPECS)}.")
    if args.seed is not None and args.samples is None:
        raise UsageError("--seed requires --samples N, because it is the seed of the images.")
    spec, folder = find(args.name), Path(args.write)
    images: list[Path] = []
    if args.samples is not None:
        images = spec.write_samples(folder / "images", args.samples, args.seed or 0)
    make_folder(folder)
    labels, preprocess = folder / "labels.txt", folder / "preprocess.json"
    _write_text(labels, "\n".join(spec.labels))
    _write_text(preprocess, json.dumps(dict(spec.preprocessing), indent=2))
    show("\n".join(map(str, [labels, preprocess, *images])))
    command = ["layertap", "export", spec.entry_point, "-o", f"{spec.name}.onnx"]
    command += ["--labels", str(labels), "--preprocess", str(preprocess)]
    tell(f"next: {shlex.join(command)}")


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(spec: ModelSpec) -> dict[str, Any]:
    """The spec as JSON data, with the keys in the order of the class's fields."""
    return {
        "name": spec.name,
        "title": spec.title,
        "entry_point": spec.entry_point,
        "input_shape": list(spec.input_shape),
        "labels": list(spec.labels),
        "preprocessing": dict(spec.preprocessing),
        "source": spec.source,
        "licence": spec.licence,
    }


def _table(specs: Iterable[ModelSpec]) -> str:
    rows = [
        ("NAME", "INPUT", "OUTPUTS", "ENTRY POINT", "DESCRIPTION"),
        *(
            (spec.name, _size(spec), str(len(spec.labels)), spec.entry_point, spec.title)
            for spec in specs
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _page(spec: ModelSpec) -> str:
    facts = {
        "input": _size(spec),
        "outputs": ", ".join(spec.labels),
        "preprocessing": json.dumps(dict(spec.preprocessing)),
        "source": spec.source,
        "licence": spec.licence,
        "files": f"layertap models {spec.name} --write FOLDER",
        "export": f"layertap export {spec.entry_point} -o {spec.name}.onnx",
    }
    indent = max(map(len, facts)) + 2
    lines = [f"{spec.name}: {spec.title}", ""]
    for name, fact in facts.items():
        lines += textwrap.wrap(
            name.ljust(indent) + fact,
            _LINE,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _size(spec: ModelSpec) -> str:
    return " x ".join(map(str, spec.input_shape))
