"""Collections of images: found in folders, read, and put into batches.

One image that cannot be read does not stop the others: it is handed to a function of the caller.

In a folder, and all folders below it, a file is an image when its suffix is one of a format that
`load_image` reads (`image_suffixes`), in capitals or not. Files and folders whose name begins with
a dot are left out, and links to folders are not followed. Pictures that layertap itself wrote
(heat maps, contact sheets) are left out too, with a warning that says how many.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap._arguments import items
from layertap._engine.library import available_threads
from layertap.errors import ImageError, InputError, LayertapWarning
from layertap.images.load import FORMATS, load_image
from layertap.images.own_pictures import check_not_own, kind_of_own
from layertap.images.preprocessing import Pixels, Preprocessing


def find_images(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    any_suffix: bool = False,
    known: Callable[[str], bool] = lambda path: False,
) -> list[str]:
    """The images of a folder, or of paths of images and folders; each once, sorted.

    A path that is no folder is taken as an image, whatever its suffix.

    Args:
        images: the folder, or the paths.
        output: a folder that is written to. Where it is inside one of the folders, it is left out.
        any_suffix: take all files of a folder, whatever their suffix.
        known: whether the file of a path is known not to be a picture of layertap. Other files are
            opened to see it.

    Raises:
        ImageError: a path does not exist, a folder cannot be listed, or there is no image.
    """
    alone = isinstance(images, (str, os.PathLike))
    sources: list[Any] = [images] if alone else items("images", images)
    for one in [*sources, *([] if output is None else [output])]:
        if not isinstance(one, (str, os.PathLike)):
            raise InputError(f"images are found by paths, got {one!r}.")
    found: dict[str, None] = {}
    own: dict[str, None] = {}
    inside: dict[str, None] = {}
    for source in sorted(Path(source) for source in sources):
        if source.is_dir():
            for _, path, in_output in sorted(_walk(source, output, any_suffix)):
                if path not in found:
                    is_own = not known(path) and kind_of_own(path) is not None
                    left = own if is_own else inside if in_output else found
                    left[path] = None
        elif source.exists():
            found[str(source)] = None
        else:
            raise ImageError(f"{source}: there is no such file or folder.")
    _warn_of(list(own), "layertap wrote " + ("it" if len(own) == 1 else "them"))
    _warn_of(list(inside), f"{os.fspath(output or '')!r} is the output folder")
    if not found:
        where = ", ".join(map(os.fsdecode, sources)) or "the list of images"
        raise ImageError(
            f"{where}: there is no image here. Images have a suffix like .png, .jpg or .tif."
        )
    return list(found)


def _warn_of(paths: Sequence[str], reason: str) -> None:
    """Warn of images that are left out."""
    if paths:
        others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        text = f"{paths[0]}{others}: left out, because {reason}."
        warnings.warn(text, LayertapWarning, stacklevel=3)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in small letters and with their dot, of the formats that `load_image` reads."""
    known = Image.registered_extensions()
    readable = {*FORMATS, "MPO"}  # which is read as JPEG
    return frozenset(suffix.lower() for suffix, kind in known.items() if kind in readable)


def _walk(
    folder: Path, output: str | os.PathLike[str] | None, any_suffix: bool
) -> Iterator[tuple[str, str, bool]]:
    """Of each file of a folder and of those below, its path relative to the folder, with `/`; its
    path; and whether it is in `output`, a folder below. As text: there may be millions."""

    def give_up(exc: OSError) -> None:
        raise ImageError(f"{exc.filename}: it cannot be listed ({exc.strerror}).") from exc

    suffixes = image_suffixes()
    target = None if output is None else os.path.realpath(output)
    for root, folders, files in os.walk(folder, onerror=give_up):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below, path = (str(one / "x")[:-1] for one in (Path(root).relative_to(folder), Path(root)))
        below = below.replace(os.sep, "/")
        within = target is not None and _is_within(os.path.realpath(root), target, folder)
        for name in files:
            known = any_suffix or name[name.rfind(".") :].lower() in suffixes
            if known and not name.startswith("."):
                yield below + name, path + name, within


def _is_within(path: str, target: str, folder: Path) -> bool:
    """Whether `path` is in the folder `target`, and that is below `folder`."""
    top = os.path.realpath(folder)
    return (
        f"{path}{os.sep}".startswith(f"{target}{os.sep}")
        and target != top
        and not (f"{top}{os.sep}".startswith(f"{target}{os.sep}"))
    )


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
    """Read the images, and those of the folders, among `sources`, in order.

    Threads read and prepare a few images before they are needed.

    Args:
        sources: paths of images and folders.
        recipe: how the model takes images.
        failed: called with the path of each image that cannot be read, or folder that cannot be
            searched, and the reason; reading goes on with the next one.
    """
    threads = available_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="layertap-reader")
    found, ahead = _found(sources), deque[tuple[str, Future[Pixels]]]()
    try:
        while True:
            for path, problem in islice(found, 2 * threads - len(ahead)):
                reading = pool.submit(recipe, path) if problem is None else _failed(problem)
                ahead.append((path, reading))
            if not ahead:
                return
            path, reading = ahead.popleft()
            try:
                image = PreparedImage(path, reading.result())
            except ImageError as exc:
                failed(path, exc)
                continue
            yield image
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _found(
    sources: Iterable[str | os.PathLike[str]],
) -> Iterator[tuple[str, ImageError | None]]:
    """The paths of all images, and those that cannot be images, with the reason."""
    for source in sources:
        problems: list[tuple[str, ImageError]] = []
        paths = list_images([source], lambda *problem: problems.append(problem))  # noqa: B023
        yield from problems
        yield from ((path, None) for path in paths)


def _failed(problem: ImageError) -> Future[Pixels]:
    """What a thread would give that cannot read an image."""
    failed: Future[Pixels] = Future()
    failed.set_exception(problem)
    return failed


def list_images(
    sources: Iterable[str | os.PathLike[str]],
    failed: Callable[[str, ImageError], None],
    output: str | os.PathLike[str] | None = None,
) -> list[str]:
    """The paths of the images, and of those of the folders, among `sources`, in order.

    Args:
        sources: paths of images and folders.
        failed: called with a folder that cannot be searched, or the path of a picture that layertap
            wrote, and the reason.
        output: see `find_images`.
    """
    paths: list[str] = []
    for given in sources:
        source = os.fspath(given)
        try:
            if Path(source).is_dir():
                paths += find_images(source, output)
            else:
                check_not_own(source)
                paths.append(source)
        except ImageError as exc:
            failed(source, exc)
    return paths


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
