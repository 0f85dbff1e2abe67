"""`layertap cam`: heat maps over images, as pictures and as arrays."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap import _model
from layertap.errors import OutputError, UsageError
from layertap.extract.images import color_picture, in_batches, naming_images
from layertap.format.atomic import make_folder, replacing
from layertap.format.select import parse_selector
from layertap.images.preprocessing import Preprocessing

from . import OK, OWN, PARTLY_FAILED, STOPPED, Command
from .image_input import free_name, prepared, recipe_for
from .options import add_device

if TYPE_CHECKING:
    from layertap.cam import HeatMaps

REPORT = "cam.json"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument("inputs", metavar="IMAGE", nargs="+", help="images, or folders of them")
    parser.add_argument(
        "--layer",
        metavar="LAYER",
        help="a name or index (default: the last layer that the file gives gradients of)",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        action="extend",
        metavar="CLASS",
        help="labels or indices of classes, or `top`, the best of each image (default)",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER")
    parser.add_argument(
        "--method",
        default="gradcam",
        help="gradcam (default), gradcam++, xgradcam, layercam, hirescam, gradcamelementwise or "
        "eigengradcam; without gradients eigencam, kpcacam, scorecam or ablationcam",
    )
    parser.add_argument("--aug-smooth", action="store_true", help="average over changed images")
    parser.add_argument("--eigen-smooth", action="store_true", help="take a principal component")
    parser.add_argument("--mask", default="layer", help="what scorecam masks: layer or input")
    parser.add_argument(
        "--channels", type=int, metavar="N", help="how many scorecam and ablationcam try"
    )
    parser.add_argument("--colormap", default="jet", help="jet (default), viridis or magma")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="how much of the colours is seen, 0 to 1"
    )
    parser.add_argument(
        "--preprocess", metavar="FILE.json", help="a recipe for images instead of the file's own"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="images, or channels that are tried, at a time (default 16)",
    )
    add_device(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores there are")


def _run(args: argparse.Namespace) -> int:
    _check(args)
    model = _model.open(args.file, device=args.device, threads=args.threads)
    recipe = recipe_for(model, args)
    images: list[dict[str, Any]] = []
    failures: list[str] = []
    found = None
    taken: set[str] = set()
    for batch in in_batches(prepared(args.inputs, recipe, failures), args.batch_size):
        paths, arrays = zip(*batch, strict=True)
        found = _heat_maps(model, args, paths, np.stack(arrays))
        for row, path in enumerate(paths):
            name = free_name(Path(path).stem, "cam", taken)
            images.append(_written(model, args, recipe, path, name, found, row))
    if found is None:
        return STOPPED
    report = {
        "model": args.file,
        "layer": found.layer,
        "method": found.method,
        "colormap": args.colormap,
        "alpha": args.alpha,
        "images": images,
        "failures": failures,
    }
    with replacing(Path(args.output, REPORT)) as temporary:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {Path(args.output, REPORT)}", file=sys.stderr)
    return PARTLY_FAILED if failures else OK


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot come to a good end, before the work is done."""
    from layertap.view.colormaps import shades

    if args.batch_size < 1:
        raise UsageError(f"--batch-size {args.batch_size} makes no sense: give 1 or more.")
    if not 0 <= args.alpha <= 1:
        raise UsageError(f"--alpha {args.alpha:g} makes no sense: give 0 to 1.")
    shades(args.colormap)
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise OutputError(f"-o takes a folder, and {args.output!r} is a file.")


def _heat_maps(
    model: _model.Model, args: argparse.Namespace, paths: tuple[str, ...], batch: NDArray[Any]
) -> HeatMaps:
    from layertap.cam import heat_maps

    layer = None if args.layer is None else parse_selector(args.layer, model.layers)
    if isinstance(layer, slice):
        raise UsageError(f"--layer takes a name or an index, and not {args.layer!r}.")
    with naming_images(paths):
        return heat_maps(
            model,
            batch,
            layer,
            [_target(text, model.labels or ()) for text in args.target or ["top"]],
            method=args.method,
            aug_smooth=args.aug_smooth,
            eigen_smooth=args.eigen_smooth,
            mask=args.mask,
            channels=args.channels,
            batch_size=args.batch_size,
        )


def _target(text: str, labels: tuple[str, ...]) -> str | int:
    """A target as typed in a shell: what is a number and no label is an index."""
    return int(text) if text not in labels and text.lstrip("-").isdecimal() else text


def _written(
    model: _model.Model,
    args: argparse.Namespace,
    recipe: Preprocessing,
    path: str,
    name: str,
    found: HeatMaps,
    row: int,
) -> dict[str, Any]:
    """Write the maps of an image, and them over it; returns what the report says of them."""
    from layertap.view.overlays import overlay, panel

    maps = found.maps[row]
    targets = [_described(model, found, row, at) for at in range(len(maps))]
    seen = color_picture(
        path,
        size=maps.shape[1:],
        interpolation=recipe.interpolation,
        keep_aspect_ratio=recipe.keep_aspect_ratio,
    )
    titles = [f"{target['label']} {_number(target['score'])}" for target in targets]
    overlays = [overlay(seen, heat, colormap=args.colormap, alpha=args.alpha) for heat in maps]
    folder = Path(args.output)
    make_folder(folder)
    with replacing(folder / f"{name}.png") as temporary:
        sheet: Image.Image = panel([("Original", seen), *zip(titles, overlays, strict=True)])
        sheet.save(temporary, format="PNG")
    with replacing(folder / f"{name}.npy") as temporary:
        np.save(temporary, maps[0] if len(maps) == 1 else maps)
    print(f"wrote {folder / name}.png: {', '.join(titles)}", file=sys.stderr)
    return {"image": path, "overlay": f"{name}.png", "maps": f"{name}.npy", "targets": targets}


def _described(model: _model.Model, found: HeatMaps, row: int, at: int) -> dict[str, Any]:
    assert found.classes is not None  # weights of the classes are nothing for a shell
    index = int(found.classes[row, at])
    labels = model.labels or ()
    label = labels[index] if index < len(labels) else f"class {index}"
    score = float(found.scores[row, at])
    return {"label": label, "index": index, "score": score if math.isfinite(score) else None}


def _number(score: float | None) -> str:
    return "nan" if score is None else f"{score:.3f}"


COMMAND = Command(OWN["cam"], _configure, _run)
