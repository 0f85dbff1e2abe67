"""`layertap run`: activations or predictions for images, into an `.npz` file or as a table."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from layertap import _model
from layertap.errors import InputError, LayerNotFoundError, OutputError, UsageError
from layertap.extract.images import color_picture, in_batches, naming_images
from layertap.format.atomic import check_target, make_folder, replacing
from layertap.format.text import aligned, printable, shape_text
from layertap.images.preprocessing import Preprocessing
from layertap.view.pictures import contact_sheet

from . import OK, OWN, PARTLY_FAILED, STOPPED, Command
from .image_input import free_name, prepared, recipe_for
from .options import add_device, add_layer_choice, chosen_layers

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
    add_device(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores there are")


def _run(args: argparse.Namespace) -> int:
    _check(args)
    model = _model.open(args.file, device=args.device, threads=args.threads)
    fetch = _fetcher(model, args)
    failures: list[str] = []
    ready = Path(args.inputs[0]).suffix in READY
    if ready:
        results = fetch(_ready(args.inputs[0]))
        names = _row_names(args.inputs[0], results)
    else:
        names, results = _over_images(args, recipe_for(model, args), fetch, failures)
    if not names:
        return STOPPED
    if args.output:
        _save(Path(args.output), names, results)
    if args.sheet:
        _draw(Path(args.sheet), names, results, images=not ready)
    if not args.output and not args.sheet:
        print(_described(model, names, results, args))
    return PARTLY_FAILED if failures else OK


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot come to a good end, before the work is done."""
    for option, value in (("--batch-size", args.batch_size), ("--top", args.top)):
        if value < 1:
            raise UsageError(f"{option} {value} makes no sense: give 1 or more.")
    if len(args.inputs) > 1 and any(Path(name).suffix in READY for name in args.inputs):
        raise UsageError("give one ready batch (.npy or .npz) at a time, or images.")
    if args.output:
        if Path(args.output).suffix != ".npz":
            raise UsageError(f"the output {args.output!r} must have a name that ends in .npz.")
        check_target(args.output)
    if args.sheet and Path(args.sheet).exists() and not Path(args.sheet).is_dir():
        raise OutputError(f"--sheet takes a folder, and {args.sheet!r} is a file.")


def _fetcher(model: _model.Model, args: argparse.Namespace) -> Callable[[Any], Arrays]:
    """A function from a ready batch to arrays by name: layers, or the model's outputs."""
    chosen = chosen_layers(args, model.layers)
    if chosen is None and not args.layers and not args.type:
        if not model.outputs:
            raise UsageError(f"{args.file!r} has no output of its own. Say which --layers.")
        return lambda batch: _as_dict(model.predict(batch), model.outputs[0].name)
    layers = model.select(chosen, args.type)
    if not layers:
        raise LayerNotFoundError(f"{args.file!r} has no layers whose activations it gives.")
    return model.tap(layers)


def _as_dict(value: Any, name: str) -> Arrays:
    return value if isinstance(value, dict) else {name: value}


def _over_images(
    args: argparse.Namespace,
    recipe: Preprocessing,
    fetch: Callable[[Any], Arrays],
    failures: list[str],
) -> tuple[list[str], Arrays]:
    """Run batch by batch."""
    names: list[str] = []
    parts: dict[str, list[NDArray[Any]]] = {}
    for batch in in_batches(prepared(args.inputs, recipe, failures), args.batch_size):
        paths, arrays = zip(*batch, strict=True)
        with naming_images(paths):
            values = fetch(np.stack(arrays))
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
        names += paths
    return names, {name: _joined(name, values) for name, values in parts.items()}


def _joined(name: str, parts: list[Any]) -> Any:
    """What one layer gave, batch after batch, as one array."""
    if len(parts) == 1:
        return parts[0]
    shapes = [shape_text(np.shape(part)) for part in parts if isinstance(part, np.ndarray)]
    try:
        if len(shapes) == len(parts):
            return np.concatenate(parts)
    except ValueError:
        pass
    other = next((shape for shape in shapes if shape != shapes[0]), "no array")
    raise InputError(
        f"the activations of {name!r} fit in no one array: {shapes[0]} for some images, {other} "
        'for others. Give a recipe with a "size" (--preprocess), or run them one by one.'
    )


def _ready(path: str) -> Any:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                # What `-o` wrote can be fed to the next part of a model as it is.
                return {name: loaded[name] for name in loaded.files if name != FILES}
    except FileNotFoundError as exc:
        raise InputError(f"{path}: there is no such file.") from exc
    except Exception as exc:  # zipfile, zlib and numpy raise what they like
        raise InputError(f"{path}: it cannot be read as arrays ({exc}).") from exc
    return loaded


def _row_names(path: str, results: Arrays) -> list[str]:
    """`batch.npy[0]`, ... if all the arrays have the same number of rows, and more than one."""
    rows = {len(value) if np.ndim(value) else 1 for value in results.values()}
    count = rows.pop() if len(rows) == 1 else 1
    return [path] if count <= 1 else [f"{path}[{row}]" for row in range(count)]


def _save(path: Path, names: list[str], results: Arrays) -> None:
    """What `numpy.savez` writes, for any layer name."""
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
        raise UsageError(f"{name!r} gives a list of tensors, which an .npz cannot hold.")
    return value.astype(str) if value.dtype == object else value  # onnxruntime's strings


def _draw(folder: Path, names: list[str], results: Arrays, *, images: bool) -> None:
    """One contact sheet per row and layer that has feature maps: `chest.bn.png`.

    `images` says whether the names are those of images, and not rows of a ready batch.
    """
    maps = {name: value for name, value in results.items() if np.ndim(value) == 4}
    if not maps:
        raise UsageError(
            "--sheet draws layers with four axes, (batch, height, width, channels), and none of "
            f"these has them: {', '.join(results)}."
        )
    make_folder(folder)
    taken: set[str] = set()
    for layer, value in maps.items():
        for name, activation in zip(names, value, strict=False):
            target = folder / f"{free_name(Path(name).stem, layer, taken)}.png"
            with replacing(target) as temporary:
                image = color_picture(name) if images else None
                contact_sheet(activation, image=image).save(temporary, format="PNG")
            print(f"wrote {target}", file=sys.stderr)


def _described(
    model: _model.Model, names: list[str], results: Arrays, args: argparse.Namespace
) -> str:
    """Predictions by label where there are labels, else each array's shape and range."""
    labels, value = model.labels, next(iter(results.values()))
    predicted = labels and len(results) == 1 and not args.layers and not args.type
    if predicted and labels and np.shape(value) == (len(names), len(labels)):
        rows = zip(names, value, strict=True)
        return "\n".join(f"{name}: {_best(row, labels, args.top)}" for name, row in rows)
    head = ("name", "shape", "dtype", "min", "mean", "max")
    return aligned([head, *(_facts(name, x) for name, x in results.items())], right={3, 4, 5})


def _facts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, np.ndarray):
        return name, f"{len(value)} tensors", "sequence", "", "", ""
    numbers = ["", "", ""]
    if value.size and value.dtype.kind in "biuf":
        with np.errstate(all="ignore"):  # NaN and infinity are what they are
            numbers = [f"{of(value):.6g}" for of in (np.min, np.mean, np.max)]
    return name, shape_text(value.shape), value.dtype.name, *numbers


def _best(scores: NDArray[Any], labels: Sequence[str], top: int) -> str:
    order = np.argsort(-scores, kind="stable")[:top]
    return ", ".join(f"{printable(labels[i])} {scores[i]:.3f}" for i in order)


COMMAND = Command(OWN["run"], _configure, _run)
