"""Finding images in folders.

In a folder, and all folders below it, a file is an image when its suffix is one of a kind that
Pillow can decode (`image_suffixes`), in capitals or not. Files and folders whose name begins with a
dot are left out, and links to folders are not followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from layertap.errors import ImageError

_STUBS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow recognises these, but cannot decode them


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
    """The suffixes, in small letters and with their dot, of the files that Pillow can decode."""
    known = Image.registered_extensions()
    readable = Image.OPEN.keys() - _STUBS
    return frozenset(suffix.lower() for suffix, kind in known.items() if kind in readable)


def _walk(folder: Path) -> Iterator[Path]:
    def give_up(exc: OSError) -> None:
        raise ImageError(f"{exc.filename}: it cannot be listed ({exc.strerror}).") from exc

    for root, folders, files in os.walk(folder, onerror=give_up):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in files if not name.startswith("."))
