"""`layertap cam`: heat maps for images, as pictures and as arrays."""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap import _model
from layertap._engine.program import program_of
from layertap._engine.stopping import time_limit
from layertap.errors import UsageError
from layertap.extract.images import color_picture, in_batches, naming_images
from layertap.images.load import load_image
from layertap.images.preprocessing import Preprocessing

from . import OK, OWN, PARTLY_FAILED, STOPPED, Command
from .image_input import ImageInput, batch_size, recipe_for
from .image_output import OutputFiles, remove_own
from .options import (
    add_device,
    add_preprocess,
    add_threads,
    add_timeout,
    check_folder,
    check_positive,
    one_layer,
    parse_target,
)
from .printing import tell
from .ready_batch import load_ready, ready_batch, row_names

if TYPE_CHECKING:
    from layertap.cam import HeatMaps

REPORT = "cam.json"
"""The name of the report in the output folder."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "inputs",
        metavar="IMAGE",
        nargs="+",
        help="images, or folders of images; or one ready batch: .npy, or .npz with an array for "
        "each input",
    )
    parser.add_argument(
        "--layer",
        metavar="LAYER",
        help="a name, an index, or last-conv, the last layer with feature maps (default: the last "
        "layer with gradients in the file)",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        action="extend",
        metavar="CLASS",
        help="labels or indices of classes, `all` of them, or `top` (default): each image's best "
        "class",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FOLDER",
        help=f"write the pictures, the arrays and {REPORT} to this folder",
    )
    parser.add_argument(
        "--method",
        help="gradcam (default), gradcam++, xgradcam, layercam, hirescam, gradcamelementwise or "
        "eigengradcam; without gradients eigencam, kpcacam, scorecam, ablationcam or reciprocam, "
        "and occlusion, rise or kernelshap, which mask the image without --layer; a finished "
        "file computes one of them",
    )
    parser.add_argument(
        "--aug-smooth", action="store_true", help="average the maps of augmented images"
    )
    parser.add_argument(
        "--eigen-smooth", action="store_true", help="use the first principal component"
    )
    parser.add_argument(
        "--at",
        metavar="PLACE",
        help="for scores at many positions, such as those of a segmentation: which of them, "
        "ROW,COLUMN or a box TOP,LEFT,BOTTOM,RIGHT without the last two (default: all)",
    )
    parser.add_argument(
        "--mask",
        metavar="FILE",
        help="the positions as a picture (0 is outside) or a .npy file of their size; with "
        "scorecam also what is masked: layer (default) or input",
    )
    parser.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="number of channels that scorecam and ablationcam test",
    )
    parser.add_argument(
        "--window",
        type=int,
        nargs="+",
        metavar="N",
        help="size of the windows of occlusion and the patches of kernelshap: one number, or one "
        "for each axis (default: an eighth)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        nargs="+",
        metavar="N",
        help="by how much the windows of occlusion move (default: half a window)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="number of masks of rise (default 1000), or of coalitions of kernelshap",
    )
    parser.add_argument(
        "--baseline",
        metavar="VALUE",
        help="what replaces masked parts: mean, blur, zero (default), or another number",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the masks (default 0)")
    parser.add_argument("--colormap", default="jet", help="jet (default), viridis or magma")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="opacity of the heat map, 0 to 1 (default 0.5)"
    )
    add_preprocess(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="number of images, or of tested channels or masks, in one batch (default 16)",
    )
    add_device(parser)
    add_threads(parser)
    add_timeout(parser)


def _run(args: argparse.Namespace) -> int:
    with time_limit(args.timeout):
        return _draw(args)


def _draw(args: argparse.Namespace) -> int:
    _check(args)
    model = _model.open(args.file, device=args.device, threads=args.threads)
    _check_method(model, args)
    images: list[dict[str, Any]] = []
    maps = None
    failures: list[str] = []
    ready = ready_batch(args.inputs)
    if ready is not None:
        files = OutputFiles(Path(args.output), args.inputs, [ready])
        maps = _heat_maps(model, args, (ready,), load_ready(ready))
        for row, path in enumerate(row_names(ready, {"maps": maps.maps})):
            name = files.name(ready, "cam", row if len(maps.maps) > 1 else None)
            images.append(_write_image(model, args, None, path, files, name, maps, row))
    else:
        recipe = recipe_for(model, args)
        given = ImageInput(args.inputs, args.output, progress=False)
        failures = given.failures
        files = OutputFiles(Path(args.output), args.inputs, given.paths)
        for batch in in_batches(given.prepared(recipe), batch_size(model, args)):
            paths, arrays = zip(*batch, strict=True)
            maps = _heat_maps(model, args, paths, np.stack(arrays))
            for row, path in enumerate(paths):
                name = files.name(path, "cam")
                images.append(_write_image(model, args, recipe, path, files, name, maps, row))
    if maps is None:
        return STOPPED
    report = {
        "model": args.file,
        "layer": maps.layer,
        "method": maps.method,
        "colormap": args.colormap,
        "alpha": args.alpha,
        "images": images,
        **({"at": args.at or _mask_file(args)} if args.at or _mask_file(args) else {}),
        "failures": failures,
    }
    before = _listed(files.folder)
    with files.writing(REPORT) as temporary:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    tell(f"wrote {Path(args.output, REPORT)}")
    removed = remove_own(files.folder, before - _files_of(images), "cam")
    if removed:
        noun = "file" if removed == 1 else "files"
        tell(f"removed {removed} {noun} of the run before from {args.output}")
    return PARTLY_FAILED if failures else OK


def _check(args: argparse.Namespace) -> None:
    """Validate the arguments before the work."""
    from layertap.view.colormaps import shades

    check_positive("--batch-size", args.batch_size)
    if not 0 <= args.alpha <= 1:
        raise UsageError(f"--alpha must be between 0 and 1, got {args.alpha:g}.")
    shades(args.colormap)
    ready_batch(args.inputs)
    check_folder("-o", args.output)


def _check_method(model: _model.Model, args: argparse.Namespace) -> None:
    """Check that the method exists, and that the options are for it."""
    from layertap.cam.masking import TAKES
    from layertap.cam.methods import DEFAULT, find_method

    facts = program_of(model).finished
    name = args.method or (facts.method if facts else None) or DEFAULT
    method = find_method(name)
    file = _mask_file(args)
    if args.mask is not None and file is None and method.takes != "masked":
        raise UsageError(
            f"--mask {args.mask} is for --method scorecam, got --method {name}. A file with a mask "
            "of the positions of the scores has a suffix, such as .png."
        )
    given = "--at" if args.at is not None else "--mask" if file is not None else None
    if given and method.takes != "gradients":
        raise UsageError(
            f"{given} gives the positions of the scores for methods that take gradients, got "
            f"--method {name}."
        )
    if args.at is not None and file is not None:
        raise UsageError("give --at or --mask, not both.")
    if given and args.aug_smooth:
        raise UsageError(f"{given} cannot be combined with --aug-smooth.")
    if args.channels is not None and method.takes not in ("masked", "ablated"):
        raise UsageError(
            f"--channels is for --method scorecam and ablationcam, got --method {name}."
        )
    for option in ("window", "stride", "samples", "baseline"):
        takes = (*TAKES.get(method.name, ()), *(["baseline"] if method.name in TAKES else []))
        if getattr(args, option) is not None and option not in takes:
            known = [one for one, takes in TAKES.items() if option in (*takes, "baseline")]
            raise UsageError(f"--{option} is for --method {', '.join(known)}, got --method {name}.")
    if args.target and not method.takes:
        raise UsageError(
            f"--target is for methods that explain a class; the map of {name} is the same "
            "for every class. Leave out --target."
        )


def _heat_maps(
    model: _model.Model, args: argparse.Namespace, paths: tuple[str, ...], batch: NDArray[Any]
) -> HeatMaps:
    from layertap.cam import heat_maps

    layer = None if args.layer is None else one_layer("--layer", args.layer, model.layers)
    with naming_images(paths):
        return heat_maps(
            model,
            batch,
            layer,
            [parse_target(text, model.labels or ()) for text in args.target or ["top"]],
            method=args.method,
            aug_smooth=args.aug_smooth,
            eigen_smooth=args.eigen_smooth,
            mask="layer" if args.mask is None or _mask_file(args) else args.mask,
            at=_places(args),
            channels=args.channels,
            window=_sizes(args.window),
            stride=_sizes(args.stride),
            samples=args.samples,
            baseline=_baseline(args.baseline),
            seed=args.seed,
            batch_size=args.batch_size,
        )


def _places(args: argparse.Namespace) -> Any:
    """The positions of the scores that --at or --mask give; `None` for all of them."""
    if args.at is not None:
        parts = args.at.split(",")
        if not all(re.fullmatch(r"\s*-?\d{1,9}\s*", part) for part in parts):
            raise UsageError(
                f"--at must be ROW,COLUMN or TOP,LEFT,BOTTOM,RIGHT in integers, got {args.at!r}."
            )
        return [int(part) for part in parts]
    file = _mask_file(args)
    if file is None:
        return None
    if file.lower().endswith(".npy"):
        return load_ready(file)
    pixels = load_image(file, color_mode="grayscale")[..., 0]
    return pixels / max(float(pixels.max()), 1.0)


def _mask_file(args: argparse.Namespace) -> str | None:
    """The file that --mask names; `None` for one of the words of scorecam."""
    return args.mask if args.mask is not None and Path(args.mask).suffix else None


def _sizes(given: list[int] | None) -> Any:
    """One size for all axes, or one for each."""
    return given[0] if given is not None and len(given) == 1 else given


def _baseline(text: str | None) -> Any:
    """A number if it is one, otherwise a name."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _write_image(
    model: _model.Model,
    args: argparse.Namespace,
    recipe: Preprocessing | None,
    path: str,
    files: OutputFiles,
    name: str,
    maps: HeatMaps,
    row: int,
) -> dict[str, Any]:
    """Write the heat maps of one image as an array and as a picture; return its report entry.

    Without a recipe, for a ready batch, the picture shows the colours alone; maps that do not have
    two axes have no picture.
    """
    heats = maps.maps[row]
    columns = range(len(heats)) if maps.explains_class else ()
    targets = [_describe(model, maps, row, column) for column in columns]
    titles = [f"{target['label']} {_score_text(target['score'])}" for target in targets]
    titles = titles or [maps.method]
    picture = _picture(args, recipe, path, heats, titles) if heats.ndim == 3 else None
    if picture is not None:
        files.save_picture(picture, f"{name}.png", "cam")
    with files.writing(f"{name}.npy") as temporary:
        np.save(temporary, heats[0] if len(heats) == 1 else heats)
    shown = f"{name}.npy" if picture is None else f"{name}.png"
    tell(f"wrote {files.folder / shown}: {', '.join(titles)}")
    entry = {"image": path, "maps": f"{name}.npy", "targets": targets}
    return entry if picture is None else {**entry, "overlay": f"{name}.png"}


def _picture(
    args: argparse.Namespace,
    recipe: Preprocessing | None,
    path: str,
    heats: NDArray[Any],
    titles: list[str],
) -> Image.Image:
    """The original and an overlay for each target; for a ready batch the colours of the maps."""
    from layertap.view.colormaps import colored
    from layertap.view.overlays import overlay, panel

    if recipe is None:
        tiles = [Image.fromarray(colored(heat, args.colormap)) for heat in heats]
        return panel(list(zip(titles, tiles, strict=True)))
    original = color_picture(
        path,
        size=heats.shape[1:],
        interpolation=recipe.interpolation,
        keep_aspect_ratio=recipe.keep_aspect_ratio,
        shorter_side=recipe.shorter_side,
    )
    overlays = [overlay(original, heat, colormap=args.colormap, alpha=args.alpha) for heat in heats]
    return panel([("Original", original), *zip(titles, overlays, strict=True)])


def _listed(folder: Path) -> set[str]:
    """The files that the report of an earlier run in the folder lists."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return _files_of(report["images"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()


def _files_of(images: Any) -> set[str]:
    """The pictures and arrays in the entries of a report."""
    entries = [image for image in images if isinstance(image, dict)]
    names = (image.get(key) for image in entries for key in ("overlay", "maps"))
    return {name for name in names if isinstance(name, str)}


def _describe(model: _model.Model, maps: HeatMaps, row: int, column: int) -> dict[str, Any]:
    """The label, index and score of one target, for the report."""
    assert maps.classes is not None  # it is only None for targets that are weights of classes
    index = int(maps.classes[row, column])
    labels = model.labels or ()
    label = labels[index] if index < len(labels) else f"class {index}"
    score = float(maps.scores[row, column])
    return {"label": label, "index": index, "score": score if math.isfinite(score) else None}


def _score_text(score: float | None) -> str:
    return "nan" if score is None else f"{score:.3f}"


COMMAND = Command(OWN["cam"], _configure, _run)
