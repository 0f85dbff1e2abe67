"""`layertap run`: activations or predictions for images, as an `.npz` file or a table."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from layertap import _model
from layertap._engine.stopping import time_limit
from layertap.errors import InputError, LayerNotFoundError, UsageError
from layertap.extract.images import PreparedImage, color_picture, in_batches, naming_images
from layertap.format.atomic import check_target, replacing
from layertap.format.text import aligned, printable, shape_text
from layertap.view.pictures import contact_sheet

from . import OK, OWN, PARTLY_FAILED, STOPPED, Command
from .image_input import ImageInput, recipe_for
from .image_output import OutputFiles, layer_parts
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

FILES = "layertap.files"
"""The name of the array in the `.npz` file that contains the path of the image of each row."""

READY = (".npy", ".npz")
"""Suffixes of ready batches, which are fed without preprocessing."""

Arrays: TypeAlias = "dict[str, NDArray[Any]]"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "inputs",
        metavar="IMAGE",
        nargs="+",
        help="images, or folders of images; or one ready batch: .npy, or .npz with an array for "
        "each input",
    )
    add_layer_selection(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT.npz", help="write one array per layer, with a row per image"
    )
    parser.add_argument(
        "--sheet",
        metavar="FOLDER",
        help="draw the strongest feature maps, one PNG per image and layer",
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
        default=5,
        metavar="N",
        help="number of classes to print per image (default 5)",
    )
    add_device(parser)
    add_threads(parser)
    add_timeout(parser)


def _run(args: argparse.Namespace) -> int:
    with time_limit(args.timeout):
        return _fetch_and_write(args)


def _fetch_and_write(args: argparse.Namespace) -> int:
    _check(args)
    model = _model.open(args.file, device=args.device, threads=args.threads)
    fetch = _fetcher(model, args)
    failures: list[str] = []
    paths: list[str] = []
    ready = Path(args.inputs[0]).suffix in READY
    if ready:
        results = fetch(_load_ready(args.inputs[0]))
        names, paths = _row_names(args.inputs[0], results), args.inputs
    else:
        recipe = recipe_for(model, args)
        given = ImageInput(args.inputs, args.sheet)
        paths, failures = given.paths, given.failures
        names, results = _run_images(given.prepared(recipe), args.batch_size, fetch)
    if not names and not ready:
        return STOPPED
    if args.output:
        _save(Path(args.output), names, results)
    if args.sheet:
        files = OutputFiles(Path(args.sheet), args.inputs, paths)
        parts = layer_parts([*(layer.name for layer in model.layers), *results])
        rows = [(name, "") for name in names]
        if ready and len(rows) > 1:
            rows = [(args.inputs[0], f"{row}.") for row in range(len(rows))]
        _draw_sheets(files, parts, rows, results, images=not ready)
    if not args.output and not args.sheet:
        print(_summary(model, names, results, args))
    return PARTLY_FAILED if failures else OK


def _check(args: argparse.Namespace) -> None:
    """Validate the arguments before the work."""
    check_positive("--batch-size", args.batch_size)
    check_positive("--top", args.top)
    if len(args.inputs) > 1 and any(Path(name).suffix in READY for name in args.inputs):
        raise UsageError("give images, or one ready batch (.npy or .npz), not several batches.")
    if args.output:
        check_target(args.output, ".npz", [args.file, *args.inputs])
    if args.sheet:
        check_folder("--sheet", args.sheet)


def _fetcher(model: _model.Model, args: argparse.Namespace) -> Callable[[Any], Arrays]:
    """A function from a preprocessed batch to the layers' or the model's outputs, by name."""
    selectors = layer_selectors(args, model.layers)
    if selectors is None and not args.layers and not args.type:
        if not model.outputs:
            raise UsageError(f"{args.file!r} has no outputs. Select layers with --layers.")
        return lambda batch: _as_dict(model.predict(batch), model.outputs[0].name)
    layers = model.select(selectors, args.type)
    if not layers:
        raise LayerNotFoundError(f"{args.file!r} does not expose any layers.")
    return model.tap(layers)


def _as_dict(value: Any, name: str) -> Arrays:
    return value if isinstance(value, dict) else {name: value}


def _run_images(
    images: Iterable[PreparedImage], batch_size: int, fetch: Callable[[Any], Arrays]
) -> tuple[list[str], Arrays]:
    """Run the images batch by batch; return the paths, and arrays with a row per image."""
    names: list[str] = []
    parts: dict[str, list[NDArray[Any]]] = {}
    for batch in in_batches(images, batch_size):
        paths, arrays = zip(*batch, strict=True)
        with naming_images(paths):
            values = fetch(np.stack(arrays))
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
        names += paths
    return names, {name: _concatenated(name, values) for name, values in parts.items()}


def _concatenated(name: str, parts: list[Any]) -> Any:
    """The results of all batches for one layer, as one array."""
    if len(parts) == 1:
        return parts[0]
    shapes = [shape_text(np.shape(part)) for part in parts if isinstance(part, np.ndarray)]
    try:
        if len(shapes) == len(parts):
            return np.concatenate(parts)
    except ValueError:
        pass
    other = next((shape for shape in shapes if shape != shapes[0]), "not an array")
    raise InputError(
        f"the activations of {name!r} do not fit in one array: {shapes[0]} for some images, "
        f'{other} for others. Give a recipe with a "size" (--preprocess), or run the images one '
        "by one."
    )


def _load_ready(path: str) -> Any:
    """Load a ready batch: an array, or a dict of arrays by input name."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                # A file written by `-o` can be fed to the next part of a cut model.
                return {name: loaded[name] for name in loaded.files if name != FILES}
    except FileNotFoundError as exc:
        raise InputError(f"{path}: there is no such file.") from exc
    except Exception as exc:  # zipfile, zlib and numpy raise many different exceptions
        raise InputError(f"{path}: it cannot be read as arrays ({exc}).") from exc
    return loaded


def _row_names(path: str, results: Arrays) -> list[str]:
    """`batch.npy[0]`, ... if all arrays have the same number of rows, and more than one row."""
    rows = {len(value) if np.ndim(value) else 1 for value in results.values()}
    count = rows.pop() if len(rows) == 1 else 1
    return [path] if count == 1 else [f"{path}[{row}]" for row in range(count)]


def _save(path: Path, names: list[str], results: Arrays) -> None:
    """Write an `.npz` file like `numpy.savez`, which does not accept every layer name."""
    arrays = {name: _storable(name, value) for name, value in results.items()}
    arrays[FILES] = np.array(names)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, value, allow_pickle=False)
    shapes = [f"{name} {shape_text(value.shape)}" for name, value in results.items()]
    listed = ", ".join(shapes[:3]) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "")
    print(f"wrote {path}: {listed}", file=sys.stderr)


def _storable(name: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        raise UsageError(f"{name!r} is a list of tensors, which an .npz file cannot contain.")
    return value.astype(str) if value.dtype == object else value  # onnxruntime's strings


def _draw_sheets(
    files: OutputFiles,
    parts: Mapping[str, str],
    rows: Sequence[tuple[str, str]],
    results: Arrays,
    *,
    images: bool,
) -> None:
    """Write one contact sheet per row and layer with feature maps, for example `chest.bn.png`.

    Args:
        files: the files to write.
        parts: parts of file names by layer.
        rows: for each row the image or batch, and what distinguishes the rows of a batch.
        results: the arrays by layer.
        images: whether there is an image for each row, instead of a ready batch.
    """
    maps = {name: value for name, value in results.items() if np.ndim(value) == 4}
    if not maps:
        raise UsageError(
            "--sheet draws layers with four axes, (batch, height, width, channels), but none of "
            f"the results has four axes: {', '.join(results)}."
        )
    for layer, value in maps.items():
        for (path, row), activation in zip(rows, value, strict=False):
            file = f"{files.name(path, row + parts[layer])}.png"
            image = color_picture(path) if images else None
            files.save_picture(contact_sheet(activation, image=image), file, "sheet")
            print(f"wrote {files.folder / file}", file=sys.stderr)


def _summary(
    model: _model.Model, names: list[str], results: Arrays, args: argparse.Namespace
) -> str:
    """The best labels per image for predictions with labels; else each array's shape and range."""
    labels, value = model.labels, next(iter(results.values()))
    predicted = labels and names and len(results) == 1 and not args.layers and not args.type
    if predicted and labels and np.shape(value) == (len(names), len(labels)):
        rows = zip(names, value, strict=True)
        return "\n".join(f"{name}: {_best(row, labels, args.top)}" for name, row in rows)
    head = ("name", "shape", "dtype", "min", "mean", "max")
    return aligned([head, *(_cells(name, x) for name, x in results.items())], right={3, 4, 5})


def _cells(name: str, value: Any) -> tuple[str, ...]:
    """The cells of one result in the table."""
    if not isinstance(value, np.ndarray):
        return name, f"{len(value)} tensors", "sequence", "", "", ""
    numbers = ["", "", ""]
    if value.size and value.dtype.kind in "biuf":
        with np.errstate(all="ignore"):  # NaN and infinity are printed without a warning
            numbers = [f"{function(value):.6g}" for function in (np.min, np.mean, np.max)]
    return name, shape_text(value.shape), value.dtype.name, *numbers


def _best(scores: NDArray[Any], labels: Sequence[str], top: int) -> str:
    order = np.argsort(-scores, kind="stable")[:top]
    return ", ".join(f"{printable(labels[i])} {scores[i]:.3f}" for i in order)


COMMAND = Command(OWN["run"], _configure, _run)
