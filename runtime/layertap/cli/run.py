"""`layertap run`: activations or predictions for images, as a file or a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layertap import _model
from layertap._cut.reductions import check_dtype
from layertap._engine.program import Program, program_of
from layertap._engine.stopping import time_limit
from layertap.errors import LayerNotFoundError, UsageError
from layertap.extract.asked import what_is_asked
from layertap.extract.computing import Work
from layertap.extract.images import PreparedImage, in_batches, naming_images
from layertap.extract.kept_rows import KeptRows
from layertap.format.atomic import check_target
from layertap.format.file_names import distinct_names
from layertap.view.sheets import SheetMaps, sheet_maps

from . import OK, OWN, PARTLY_FAILED, STOPPED, Command
from .attended_tokens import attended, read_tokens
from .image_input import ImageInput, batch_size, recipe_for
from .image_output import OutputFiles
from .options import (
    add_device,
    add_layer_selection,
    add_preprocess,
    add_threads,
    add_timeout,
    check_folder,
    check_positive,
    layer_selectors,
)
from .printed_results import Arrays, as_object, summary
from .printing import show, tell
from .ready_batch import load_ready, ready_batch, row_names
from .result_files import check_suffix, write_results
from .sheet_options import SheetOptions, add_sheet


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "inputs",
        metavar="IMAGE",
        nargs="+",
        help="images, or folders of images; or one ready batch: .npy, or .npz with an array for "
        "each input",
    )
    add_layer_selection(parser, reductions=True)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.npz",
        help="write one array per layer, with a row per image; .npy: of one "
        "layer; .csv: a column for each value",
    )
    parser.add_argument(
        "--sheet",
        metavar="FOLDER",
        help="draw the strongest feature maps, one picture per image and layer",
    )
    add_sheet(parser)
    parser.add_argument(
        "--dtype", help="cast layers to float16, float32 or float64 before they leave the session"
    )
    add_preprocess(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="number of images in one batch (default 16)",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="N",
        help="number of classes to print per image (default 5 if the file has labels)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the best classes, the values of each result, and the files that were written, "
        "as JSON",
    )
    parser.add_argument(
        "--tokens",
        metavar="FILE",
        help="the tokens of a text, one a line, which are printed with the scores of attention",
    )
    add_device(parser)
    add_threads(parser)
    add_timeout(parser)


def _run(args: argparse.Namespace) -> int:
    with time_limit(args.timeout):
        return _fetch_and_write(args)


def _fetch_and_write(args: argparse.Namespace) -> int:
    _check(args)
    tokens = None if args.tokens is None else read_tokens(args.tokens)
    model = _model.open(args.file, device=args.device, threads=args.threads)
    fetch = _fetcher(model, args)
    failures: list[str] = []
    ready = ready_batch(args.inputs)
    if ready is not None:
        results = fetch(load_ready(ready))
        names, paths = row_names(ready, results), [ready]
    else:
        recipe = recipe_for(model, args)
        given = ImageInput(args.inputs, args.sheet)
        paths, failures = given.paths, given.failures
        folder = str(Path(args.output).parent) if args.output else None
        size = batch_size(model, args)
        names, results = _run_images(given.prepared(recipe), size, fetch, folder)
    if not names and ready is None:
        return STOPPED
    written = []
    if args.output:
        write_results(Path(args.output), names, results)
        written.append(args.output)
    if args.sheet:
        maps = _sheet_maps(model, results)
        drawn = SheetOptions.of(args)
        files = OutputFiles(Path(args.sheet), args.inputs, paths)
        parts = distinct_names([*(layer.name for layer in model.layers), *results])
        rows: list[tuple[str, int | None]] = [(name, None) for name in names]
        if ready is not None and len(rows) > 1:
            rows = [(ready, row) for row in range(len(rows))]
        written += _draw_sheets(files, parts, rows, maps, drawn, images=ready is None)
    if args.json:
        show(json.dumps(as_object(model, names, results, written, failures, args), indent=1))
    elif not args.output and not args.sheet:
        table = attended(model, results, tokens)
        show(summary(model, names, results, args) + (f"\n\n{table}" if table else ""))
    return PARTLY_FAILED if failures else OK


def _check(args: argparse.Namespace) -> None:
    """Validate the arguments before the work."""
    check_positive("--batch-size", args.batch_size)
    if args.top is not None:
        check_positive("--top", args.top)
    ready_batch(args.inputs)
    unused = [
        option
        for option, given in (
            ("--layers", args.layers), ("--type", args.type), ("-o", args.output),
            ("--sheet", args.sheet),
        )
        if given and args.top is not None
    ]  # fmt: skip
    if unused:
        raise UsageError(
            f"--top prints the best classes of the model's predictions, which {unused[0]} does not "
            "print. Leave out one of the two."
        )
    instead = "-o" if args.output else "--sheet" if args.sheet else "--json" if args.json else None
    if args.tokens is not None and instead:
        raise UsageError(f"--tokens is for the table that is printed, which {instead} replaces.")
    if args.output:
        check_target(args.output, "", [args.file, *args.inputs])
        check_suffix(args.output)
    SheetOptions.of(args)
    if args.sheet:
        check_folder("--sheet", args.sheet)


def _fetcher(model: _model.Model, args: argparse.Namespace) -> Callable[[Any], Arrays]:
    """A function from a preprocessed batch to the layers' or the model's outputs, by name."""
    selectors = layer_selectors(args, model.layers)
    if selectors is None and not args.layers and not args.type:
        if not model.outputs:
            raise UsageError(f"{args.file!r} has no outputs. Select layers with --layers.")
        if args.dtype:
            raise UsageError("--dtype is for layers. Select some with --layers.")
        facts = program_of(model).finished
        if facts is not None and facts.heat_map is not None:
            # The map has the size of each picture; `layertap cam` writes it.
            shown = [info.name for info in model.outputs if info.name != facts.heat_map]
            return _outputs(program_of(model), shown)
        return lambda batch: _as_dict(model.predict(batch), model.outputs[0].name)
    if not any(layer.exposed for layer in model.layers):
        raise LayerNotFoundError(f"{args.file!r} does not expose any layers.")
    program = program_of(model)
    asked = what_is_asked(program, args.layers if selectors is not None else None)
    if args.type:
        typed = {layer.name for layer in model.select(None, args.type)}
        asked = [one for one in asked if one.kind != "layer" or one.name in typed]
    if not asked:
        model.select(selectors, args.type)  # which says why
    if all(one.kind == "layer" and not one.how for one in asked):
        return model.tap([one.name for one in asked], dtype=args.dtype)
    work = Work(program, asked, args.dtype and check_dtype(args.dtype), None)
    return lambda batch: work(batch if isinstance(batch, np.ndarray) else batch[work.input])


def _outputs(program: Program, names: Sequence[str]) -> Callable[[Any], Arrays]:
    """A function from a batch to some of the model's outputs."""
    fetch = program.fetch(names)
    return lambda batch: fetch(program.prepare_arrays(fetch.plan.needs, batch, None))


def _as_dict(value: Any, name: str) -> Arrays:
    return value if isinstance(value, dict) else {name: value}


def _run_images(
    images: Iterable[PreparedImage],
    batch_size: int,
    fetch: Callable[[Any], Arrays],
    folder: str | None = None,
) -> tuple[list[str], Arrays]:
    """Run the images batch by batch; return the paths, and arrays with a row per image.

    Args:
        folder: where large results are kept until all are there.
    """
    names: list[str] = []
    kept: dict[str, KeptRows] = {}
    for batch in in_batches(images, batch_size):
        paths, arrays = zip(*batch, strict=True)
        with naming_images(paths):
            values = fetch(np.stack(arrays))
        for name, value in values.items():
            kept.setdefault(name, KeptRows(name, folder)).add(value)
        names += paths
    return names, {name: rows.array() for name, rows in kept.items()}


def _sheet_maps(model: _model.Model, results: Arrays) -> dict[str, SheetMaps]:
    """The results that a sheet can show.

    Raises:
        UsageError: none is.
    """
    program = program_of(model)
    tensors = {layer.name: str(layer.tensor) for layer in model.layers}
    maps = {}
    for name, value in results.items():
        tensor = tensors.get(name, name)
        found = sheet_maps(program, name, tensor, value)
        if found is not None:
            maps[name] = found
    if not maps:
        raise UsageError(
            "--sheet draws feature maps, which have four axes: samples, height, width and "
            f"channels. None of the results has them: {', '.join(results)}."
        )
    return maps


def _draw_sheets(
    files: OutputFiles,
    parts: Mapping[str, str],
    rows: Sequence[tuple[str, int | None]],
    maps: Mapping[str, SheetMaps],
    drawn: SheetOptions,
    *,
    images: bool,
) -> list[str]:
    """Write one contact sheet per row and layer with feature maps, for example `chest.bn.png`;
    return their paths.

    Args:
        files: the files to write.
        parts: parts of file names by layer.
        rows: for each row the image; or the batch, and the number of the row in it.
        maps: what the sheets show, by layer.
        drawn: how they are drawn.
        images: whether there is an image for each row, instead of a ready batch.
    """
    written = []
    for layer, value in maps.items():
        for (path, row), sample in zip(rows, value.values, strict=False):
            picture = drawn.sheet(value, sample, path if images else None)
            name = files.name(path, parts[layer], row)
            file = files.save_picture(picture, name, "sheet", drawn.print_)
            tell(f"wrote {files.folder / file}")
            written.append(str(files.folder / file))
    return written


COMMAND = Command(
    OWN["run"],
    _configure,
    _run,
    examples=(
        "layertap run chest.onnx images --top 3",
        "layertap run chest.onnx images --top 3 --json",
        "layertap run chest.onnx images --layers bn=mean -o features.npz",
        "layertap run chest.onnx images -o scores.csv",
        "layertap run chest.onnx chest.png --layers 'conv5_*' --sheet sheets --scale common",
        "layertap run text.onnx ids.npz --layers attention --tokens tokens.txt",
    ),
)
