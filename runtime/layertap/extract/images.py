"""Collections of images: found in folders, read, and put into batches.

One image that cannot be read does not stop the others: it is handed to a function of the caller.

In a folder, and all folders below it, a file is an image when its suffix is one of a format that
`load_image` reads (`image_suffixes`), in capitals or not. Files and folders whose name begins with
a dot are left out, and links to folders are not followed.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap.errors import ImageError, InputError
from layertap.images.load import FORMATS, load_image
from layertap.images.preprocessing import Preprocessing


def find_images(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[str]:
    """The images of a folder, or of paths of images and folders; each once, sorted.

    A path that is no folder is taken as an image, whatever its suffix.

    Raises:
        ImageError: a path does not exist, a folder cannot be listed, or there is no image.
    """
    sources = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    suffixes = image_suffixes()
    found: dict[str, None] = {}
    for source in sorted(Path(source) for source in sources):
        if source.is_dir():
            inside = [file for file in _walk(source) if file.suffix.lower() in suffixes]
            inside.sort(key=lambda file: file.relative_to(source).as_posix())
            found.update(dict.fromkeys(map(str, inside)))
        elif source.exists():
            found[str(source)] = None
        else:
            raise ImageError(f"{source}: there is no such file or folder.")
    if not found:
        where = ", ".join(map(os.fsdecode, sources)) or "the list of images"
        raise ImageError(
            f"{where}: there is no image here. Images have a suffix like .png, .jpg or .tif."
        )
    return list(found)


def image_suffixes() -> frozenset[str]:
    """The suffixes, in small letters and with their dot, of the formats that `load_image` reads."""
    known = Image.registered_extensions()
    readable = {*FORMATS, "MPO"}  # which is read as JPEG
    return frozenset(suffix.lower() for suffix, kind in known.items() if kind in readable)


def _walk(folder: Path) -> Iterator[Path]:
    def give_up(exc: OSError) -> None:
        raise ImageError(f"{exc.filename}: it cannot be listed ({exc.strerror}).") from exc

    for root, folders, files in os.walk(folder, onerror=give_up):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in files if not name.startswith("."))


class PreparedImage(NamedTuple):
    """An image as the model takes it."""

    path: str
    pixels: NDArray[np.float32]
    """`(h, w, c)`, or `(c, h, w)` if the recipe says so."""


def read_images(
    sources: Iterable[str | os.PathLike[str]],
    recipe: Preprocessing,
    failed: Callable[[str, ImageError], None],
) -> Iterator[PreparedImage]:
    """Read the images, and those of the folders, among `sources`, one at a time and in order.

    Args:
        sources: paths of images and folders.
        recipe: how the model takes images.
        failed: called with the path of each image that cannot be read, or folder that cannot be
            searched, and the reason; reading goes on with the next one.
    """
    for given in sources:
        source = os.fspath(given)
        try:
            paths = find_images(source) if Path(source).is_dir() else [source]
        except ImageError as exc:
            failed(source, exc)
            continue
        for path in paths:
            try:
                yield PreparedImage(path, recipe(path))
            except ImageError as exc:
                failed(path, exc)


def in_batches(images: Iterable[PreparedImage], most: int) -> Iterator[list[PreparedImage]]:
    """Lists of up to `most` images that follow one another and have one shape."""
    batch: list[PreparedImage] = []
    for image in images:
        if batch and (len(batch) == most or batch[0].pixels.shape != image.pixels.shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


@contextlib.contextmanager
def naming_images(paths: Sequence[str]) -> Iterator[None]:
    """Put the images' paths into the error of a model that cannot be run on them.

    Raises:
        InputError: the same error, with the paths in front.
    """
    try:
        yield
    except InputError as exc:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise InputError(f"{paths[0]}{more}: {exc}") from exc


def color_picture(path: str, **geometry: Any) -> Image.Image:
    """An image as a picture to look at: in RGB, its values scaled to 0..255 where that is known.

    Args:
        path: the image, which was read for the model before: its warnings are not repeated.
        geometry: `size`, `interpolation` and such, as in `load_image`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = load_image(path, color_mode="rgb", depth="scale", **geometry)
        except ImageError:  # the range of its values is not known
            pixels = load_image(path, color_mode="rgb", **geometry)
    return Image.fromarray(np.round(pixels).astype(np.uint8))
