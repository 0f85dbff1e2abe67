"""Images as commands are given them: found, read, in batches, and named in what they write."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap import _model
from layertap.errors import ImageError, InputError, UsageError
from layertap.extract.images import find_images
from layertap.format.text import shape_text
from layertap.images.load import load_image
from layertap.images.preprocessing import Preprocessing

Prepared: TypeAlias = "tuple[str, NDArray[np.float32]]"
"""An image's path, and what the model takes of it, `(h, w, c)`."""


def recipe_for(model: _model.Model, args: argparse.Namespace) -> Preprocessing:
    """The recipe of `--preprocess`, or the file's own.

    Raises:
        UsageError: there is none.
    """
    if args.preprocess:
        return Preprocessing.load(args.preprocess)
    if model.preprocessing:
        return model.preprocessing
    shapes = [info.shape for info in model.inputs if len(info.shape) == 4 or not info.dtype]
    if not shapes:
        inputs = ", ".join(f"{info.name} {shape_text(info.shape)}" for info in model.inputs)
        raise UsageError(
            f"{args.file!r} takes no images; its input is {inputs}. Give a ready batch: .npy, or "
            ".npz with an array for each input."
        )
    _, *sides, channels = shapes[0] or (None,) * 4
    size = [side or 320 for side in sides] if channels in (1, 3, 4) else [320, 320]
    raise UsageError(
        f"{args.file!r} does not say how an image becomes its input. Say it in a file for "
        f'--preprocess, as in {{"size": {size}}}, or give a ready batch (.npy).'
    )


def prepared(
    inputs: Iterable[str], recipe: Preprocessing, failures: list[str]
) -> Iterator[Prepared]:
    """The images, and those of the folders among `inputs`; one that cannot be read is reported, and
    left out.
    """
    for path in _found(inputs, failures):
        try:
            yield path, recipe(path)
        except ImageError as exc:
            _report(exc, failures)


def _found(inputs: Iterable[str], failures: list[str]) -> Iterator[str]:
    for given in inputs:
        try:
            yield from find_images(given) if Path(given).is_dir() else [given]
        except ImageError as exc:
            _report(exc, failures)


def _report(exc: Exception, failures: list[str]) -> None:
    failures.append(str(exc))
    print(f"layertap: {exc}", file=sys.stderr)


@contextlib.contextmanager
def naming(paths: Sequence[str]) -> Iterator[None]:
    """Say of which images it is that a model cannot be run on them."""
    try:
        yield
    except InputError as exc:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise InputError(f"{paths[0]}{more}: {exc}") from exc


def batches(images: Iterable[Prepared], most: int) -> Iterator[list[Prepared]]:
    """Up to `most` images of one size at a time."""
    batch: list[Prepared] = []
    for image in images:
        if batch and (len(batch) == most or batch[0][1].shape != image[1].shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def free_name(image: str, layer: str, taken: set[str]) -> str:
    """`chest.bn`; with a number where two images or layers would have the same file."""
    plain = re.sub(r'[\\/:*?"<>|]', "_", f"{image}.{layer}")
    name, number = plain, 1
    while name.lower() in taken:
        number += 1
        name = f"{plain}_{number}"
    taken.add(name.lower())
    return name


def picture(name: str, **geometry: Any) -> Image.Image:
    """The picture in colour; `geometry` goes to `load_image`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were given when it was read for the model
        try:
            pixels = load_image(name, color_mode="rgb", depth="scale", **geometry)
        except ImageError:  # values that are in no known range
            pixels = load_image(name, color_mode="rgb", **geometry)
    return Image.fromarray(np.round(pixels).astype(np.uint8))
