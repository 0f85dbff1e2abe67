"""`layertap models`: what there is, and the files that the other commands take."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from layertap.cli import Command
from layertap.errors import OutputError, UsageError
from layertap.format.atomic import replacing

from .registry import MODELS as SPECS
from .registry import ModelSpec, find

_LINE = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `layertap models`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="tell all about this model")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--json", action="store_true", help="print JSON, for machines")
    instead.add_argument(
        "--write",
        metavar="FOLDER",
        help="write NAME's labels.txt and preprocess.json there, as `layertap export` takes them",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="with --write: also write N images to try the model on, into FOLDER/images",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="with --samples: another seed, other images"
    )


def run(args: argparse.Namespace) -> int:
    """Print the models or one of them, or write what belongs to one; the exit code is 0."""
    if args.write is not None:
        _write(args)
        return 0
    if args.samples is not None or args.seed is not None:
        raise UsageError("--samples and --seed need --write FOLDER, which says where to.")
    if args.name is None:
        specs = list(SPECS.values())
        print(json.dumps([*map(_plain, specs)], indent=2) if args.json else _table(specs))
    else:
        spec = find(args.name)
        print(json.dumps(_plain(spec), indent=2) if args.json else _page(spec))
    return 0


MODELS = Command(help="list the Keras models that come with layertap", configure=configure, run=run)


def _write(args: argparse.Namespace) -> None:
    if args.name is None:
        raise UsageError(f"--write needs the NAME of a model: {' or '.join(SPECS)}.")
    if args.seed is not None and args.samples is None:
        raise UsageError("--seed needs --samples N: it is the images that it changes.")
    spec, folder = find(args.name), Path(args.write)
    images: list[Path] = []
    if args.samples is not None:
        images = spec.write_samples(folder / "images", args.samples, args.seed or 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot make the folder {str(folder)!r}: {exc.strerror}.") from exc
    labels, preprocess = folder / "labels.txt", folder / "preprocess.json"
    _write_text(labels, "\n".join(spec.labels))
    _write_text(preprocess, json.dumps(dict(spec.preprocessing), indent=2))
    print(*[labels, preprocess, *images], sep="\n")
    command = ["layertap", "export", spec.entry_point, "-o", f"{spec.name}.onnx"]
    command += ["--labels", str(labels), "--preprocess", str(preprocess)]
    print(f"next: {shlex.join(command)}", file=sys.stderr)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(spec: ModelSpec) -> dict[str, Any]:
    """The spec as JSON data, keys in the order in which the class declares them."""
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
