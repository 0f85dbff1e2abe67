"""Explanations of images, as pictures and as arrays: what `cam` and `attribute` share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from layertap import _model
from layertap._engine.program import program_of
from layertap.extract.images import in_batches, naming_images
from layertap.images.preprocessing import Preprocessing

from . import OK, PARTLY_FAILED, STOPPED
from .image_input import ImageInput, batch_size, recipe_for
from .image_output import OutputFiles, remove_own
from .options import (
    add_device,
    add_preprocess,
    add_threads,
    add_timeout,
    check_folder,
    check_positive,
)
from .picture_options import PrintOptions, add_print, add_style, style_of
from .printing import tell
from .ready_batch import load_ready, ready_batch, row_names

if TYPE_CHECKING:
    from layertap.view.explained import Explanation, Style


class Explained(NamedTuple):
    """What a command computed for a batch."""

    values: NDArray[Any]
    """`(n, targets, ...)`, which are written as arrays."""
    samples: list[Explanation]
    """What is drawn of each sample."""
    facts: dict[str, Any]
    """For the report."""


Explain: TypeAlias = Callable[[NDArray[Any] | dict[str, NDArray[Any]]], Explained]
"""Computes a batch."""


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the file and the images."""
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "inputs",
        metavar="IMAGE",
        nargs="+",
        help="images, or folders of images; or one ready batch: .npy, or .npz with an array for "
        "each input",
    )


def add_output(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add `-o`."""
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FOLDER",
        help=f"write the pictures, the arrays and {kind}.json to this folder",
    )


def add_shared(parser: argparse.ArgumentParser, *, colormap: str, batch: str, drawn: str) -> None:
    """Add the options for pictures and for the run.

    Args:
        parser: of the command.
        colormap: describes the default one.
        batch: what `--batch-size` counts.
        drawn: names the pictures.
    """
    add_style(parser, colormap)
    add_print(parser, drawn)
    add_preprocess(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help=f"number of {batch} in one batch (default 16)",
    )
    add_device(parser)
    add_threads(parser)
    add_timeout(parser)


def explain_images(
    args: argparse.Namespace,
    kind: str,
    check: Callable[[argparse.Namespace], None],
    explaining: Callable[[_model.Model, argparse.Namespace], Explain],
) -> int:
    """Write a picture and an array for each image, and a report.

    Args:
        args: the options that the functions above add.
        kind: `cam` or `attribute`: a part of the names of files.
        check: checks the other options before the work.
        explaining: reads what the options name, once, and returns what computes a batch.

    Returns:
        The exit code.
    """
    check_positive("--batch-size", args.batch_size)
    print_ = PrintOptions.of(args)
    style = style_of(args, print_)
    check(args)
    ready = ready_batch(args.inputs)
    check_folder("-o", args.output)
    model = _model.open(args.file, device=args.device, threads=args.threads)
    images: list[dict[str, Any]] = []
    found: Explained | None = None
    explain: Explain | None = None
    failures: list[str] = []
    if ready is not None:
        files = OutputFiles(Path(args.output), args.inputs, [ready])
        with naming_images([ready]):
            found = explaining(model, args)(load_ready(ready))
        for row, path in enumerate(row_names(ready, {"maps": found.values})):
            name = files.name(ready, kind, row if len(found.values) > 1 else None)
            one = _Sample(path, name, found.values[row], found.samples[row])
            images.append(_write(model, one, None, files, kind, style, print_))
    else:
        recipe = recipe_for(model, args)
        given = ImageInput(args.inputs, args.output, progress=False)
        failures = given.failures
        files = OutputFiles(Path(args.output), args.inputs, given.paths)
        for batch in in_batches(given.prepared(recipe), batch_size(model, args)):
            paths, arrays = zip(*batch, strict=True)
            with naming_images(paths):
                explain = explain or explaining(model, args)
                found = explain(np.stack(arrays))
            for row, path in enumerate(paths):
                name = files.name(path, kind)
                one = _Sample(path, name, found.values[row], found.samples[row])
                images.append(_write(model, one, recipe, files, kind, style, print_))
    if found is None:
        return STOPPED
    colormap, alpha = style.drawn_with(found.samples[0].signed)
    report = {
        "model": args.file,
        **found.facts,
        "colormap": colormap,
        "alpha": alpha,
        "images": images,
        "failures": failures,
    }
    name = f"{kind}.json"
    before = _listed(files.folder / name)
    with files.writing(name) as temporary:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    tell(f"wrote {Path(args.output, name)}")
    removed = remove_own(files.folder, before - _files_of(images), kind)
    if removed:
        noun = "file" if removed == 1 else "files"
        tell(f"removed {removed} {noun} of the run before from {args.output}")
    return PARTLY_FAILED if failures else OK


class _Sample(NamedTuple):
    """One image, and what is written for it."""

    path: str
    name: str
    values: NDArray[Any]
    explanation: Explanation


def _write(
    model: _model.Model,
    one: _Sample,
    recipe: Preprocessing | None,
    files: OutputFiles,
    kind: str,
    style: Style,
    print_: PrintOptions,
) -> dict[str, Any]:
    """Write the values of one image as an array and as a picture; return its report entry.

    Without a recipe, for a ready batch, the picture shows the colours alone; maps that do not have
    two axes have no picture.
    """
    from layertap.images.shown import shown
    from layertap.view.explained import drawn, seen_by

    found = one.explanation
    overlay = None
    if found.maps.ndim == 3:
        source = None if recipe is None else shown(one.path)
        region = seen_by(program_of(model), source, recipe)
        picture = drawn(found, source, region, style)
        overlay = files.save_picture(picture, one.name, kind, print_)
    with files.writing(f"{one.name}.npy") as temporary:
        np.save(temporary, one.values[0] if len(one.values) == 1 else one.values)
    titles = ", ".join(found.titles)
    tell(f"wrote {files.folder / (overlay or f'{one.name}.npy')}: {titles}")
    targets = [target.to_dict() for target in found.targets]
    entry = {"image": one.path, "maps": f"{one.name}.npy", "targets": targets}
    return entry if overlay is None else {**entry, "overlay": overlay}


def _listed(report: Path) -> set[str]:
    """The files that the report of an earlier run lists."""
    try:
        return _files_of(json.loads(report.read_text(encoding="utf-8"))["images"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()


def _files_of(images: Any) -> set[str]:
    """The pictures and arrays in the entries of a report."""
    entries = [image for image in images if isinstance(image, dict)]
    names = (image.get(key) for image in entries for key in ("overlay", "maps"))
    return {name for name in names if isinstance(name, str)}
