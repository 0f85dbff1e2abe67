"""`layertap run`: activations or predictions for images, into an `.npz` file or as a table."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap import _model
from layertap._table import aligned, shape_text
from layertap.errors import ImageError, InputError, OutputError, UsageError
from layertap.files import replacing
from layertap.images import load_image
from layertap.pictures import contact_sheet
from layertap.preprocessing import Preprocessing
from layertap.statistics import find_images

from . import OK, PARTLY_FAILED, STOPPED, Command
from .options import add_layer_choice, chosen_layers

FILES = "layertap.files"
"""The array in the `.npz` that names the row's images."""

READY = (".npy", ".npz")
"""Suffixes of ready batches."""

Arrays: TypeAlias = "dict[str, NDArray[Any]]"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "inputs",
        metavar="IMAGE",
        nargs="+",
        help="images, or folders of them; or one ready batch: .npy, or .npz by input name",
    )
    add_layer_choice(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT.npz", help="write one array per layer, rows as the images"
    )
    parser.add_argument(
        "--sheet",
        metavar="FOLDER",
        help="draw the strongest feature maps, a PNG per image and layer",
    )
    parser.add_argument(
        "--preprocess", metavar="FILE.json", help="a recipe for images instead of the file's own"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="images at a time (default 16)"
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="classes to print per image (default 5)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, or auto")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores there are")


def _run(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise UsageError(f"--batch-size {args.batch_size} makes no sense: give 1 or more.")
    if args.output and Path(args.output).suffix != ".npz":
        raise UsageError(f"the output {args.output!r} must have a name that ends in .npz.")
    model = _model.open(args.file, device=args.device, threads=args.threads)
    fetch = _fetcher(model, args)
    failures: list[str] = []
    if Path(args.inputs[0]).suffix in READY:
        if len(args.inputs) > 1:
            raise UsageError("give one ready batch (.npy or .npz) at a time, or images.")
        names, results = [args.inputs[0]], fetch(_ready(args.inputs[0]))
    else:
        recipe = Preprocessing.load(args.preprocess) if args.preprocess else model.preprocessing
        names, results = _over_images(args, recipe or Preprocessing(), fetch, failures)
    if not names:
        return STOPPED
    if args.sheet:
        _draw(Path(args.sheet), names, results)
    if args.output:
        _save(Path(args.output), names, results)
    if not args.output and not args.sheet:
        print(_described(model, names, results, args))
    return PARTLY_FAILED if failures else OK


def _fetcher(model: _model.Model, args: argparse.Namespace) -> Callable[[Any], Arrays]:
    """A function from a ready batch to arrays by name: layers, or the model's outputs."""
    chosen = chosen_layers(args, model.layers)
    if chosen is None and not args.layers and not args.type:
        return lambda batch: _as_dict(model.predict(batch), model.outputs[0].name)
    return model.tap(model.select(chosen, args.type))


def _as_dict(value: Any, name: str) -> Arrays:
    return value if isinstance(value, dict) else {name: value}


def _over_images(
    args: argparse.Namespace,
    recipe: Preprocessing,
    fetch: Callable[[Any], Arrays],
    failures: list[str],
) -> tuple[list[str], Arrays]:
    """Run batch by batch; an image that cannot be read is reported and left out."""
    names: list[str] = []
    parts: dict[str, list[NDArray[Any]]] = {}
    images = _read(_found(args.inputs, failures), recipe, failures)
    for batch in _batches(images, args.batch_size):
        for name, value in fetch(np.stack([pixels for _, pixels in batch])).items():
            parts.setdefault(name, []).append(value)
        names += [path for path, _ in batch]
    try:
        return names, {name: np.concatenate(values) for name, values in parts.items()}
    except ValueError as exc:
        raise InputError(
            "the images differ in size, and so do their activations, which then fit in no one "
            'array. Give a recipe with a "size" (--preprocess), or run them one by one.'
        ) from exc


def _found(inputs: Sequence[str], failures: list[str]) -> Iterator[str]:
    for given in inputs:
        try:
            yield from find_images(given) if Path(given).is_dir() else [given]
        except ImageError as exc:
            _report(exc, failures)


def _read(
    paths: Iterable[str], recipe: Preprocessing, failures: list[str]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for path in paths:
        try:
            yield path, recipe(path)
        except ImageError as exc:
            _report(exc, failures)


def _report(exc: Exception, failures: list[str]) -> None:
    failures.append(str(exc))
    print(f"layertap: {exc}", file=sys.stderr)


def _batches(
    images: Iterable[tuple[str, NDArray[np.float32]]], most: int
) -> Iterator[list[tuple[str, NDArray[np.float32]]]]:
    """Up to `most` images of one size at a time."""
    batch: list[tuple[str, NDArray[np.float32]]] = []
    for image in images:
        if batch and (len(batch) == most or batch[0][1].shape != image[1].shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _ready(path: str) -> Any:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if path.endswith(".npz") else loaded
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise InputError(f"{path!r} cannot be read as arrays: {exc}") from exc


def _save(path: Path, names: list[str], results: Arrays) -> None:
    """What `numpy.savez` writes, for any layer name."""
    arrays = {**results, FILES: np.array(names)}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(value), allow_pickle=False)
    shapes = [f"{name} {shape_text(value.shape)}" for name, value in results.items()]
    listed = ", ".join(shapes[:3]) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "")
    print(f"wrote {path}: {listed}", file=sys.stderr)


def _draw(folder: Path, names: list[str], results: Arrays) -> None:
    """One contact sheet per image and layer that has feature maps: `chest.bn.png`."""
    maps = {name: value for name, value in results.items() if value.ndim == 4}
    if not maps:
        raise UsageError(
            "--sheet draws layers with four axes, (batch, height, width, channels), and none of "
            f"these has them: {', '.join(results)}."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot make the folder {str(folder)!r}: {exc.strerror}.") from exc
    for layer, value in maps.items():
        for path, activation in zip(names, value, strict=False):
            image = None if Path(path).suffix in READY else _thumbnail(path)
            target = folder / f"{Path(path).stem}.{layer.replace('/', '_')}.png"
            with replacing(target) as temporary:
                contact_sheet(activation, image=image).save(temporary, format="PNG")
            print(f"wrote {target}", file=sys.stderr)


def _thumbnail(path: str) -> Image.Image:
    pixels = load_image(path, color_mode="rgb", depth="scale")
    return Image.fromarray(np.round(pixels).astype(np.uint8))


def _described(
    model: _model.Model, names: list[str], results: Arrays, args: argparse.Namespace
) -> str:
    """Predictions by label where there are labels, else each array's shape and range."""
    labels, value = model.labels, next(iter(results.values()))
    predicted = not args.layers and not args.type and labels is not None
    if predicted and labels and value.ndim == 2 and value.shape[1] == len(labels):
        return "\n".join(
            f"{name}: {_best(row, labels, args.top)}"
            for name, row in zip(names, value, strict=False)
        )
    rows = [("name", "shape", "dtype", "min", "mean", "max")]
    rows += [
        (
            name,
            shape_text(x.shape),
            x.dtype.name,
            *(f"{f(x):.6g}" for f in (np.min, np.mean, np.max)),
        )
        for name, x in results.items()
    ]
    return aligned(rows, right={3, 4, 5})


def _best(scores: NDArray[Any], labels: Sequence[str], top: int) -> str:
    order = np.argsort(-scores, kind="stable")[:top]
    return ", ".join(f"{labels[i]} {scores[i]:.3f}" for i in order)


COMMAND = Command("fetch activations or predictions for images", _configure, _run)
