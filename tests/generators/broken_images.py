"""Folders of images of which one in a hundred is broken, in every way in which one can be."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

PICTURES = 50
"""Number of different pictures; picture `i` is `png(i)`."""


class Kind(NamedTuple):
    """One way in which an image is broken."""

    make: Callable[[Path], object]
    """Puts it where there is nothing."""
    reason: str
    """Part of what is said about it."""
    late: bool = False
    """Whether it takes the place of an image after the list was made."""


def png(seed: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """A picture as the bytes of a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@cache
def _bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (20000, 20000)).save(file, "PNG")
    return file.getvalue()


def _holds(data: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data())


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 30)  # takes no room


def _unreadable(path: Path) -> None:
    path.write_bytes(png(0))
    path.chmod(0)


KINDS = {
    "empty": Kind(_holds(bytes), "this is not an image"),
    "cut": Kind(_holds(lambda: png(0)[:60]), "it cannot be read as an image"),
    "header": Kind(_holds(lambda: png(0)[:20]), "it cannot be read as an image"),
    "text": Kind(_holds(lambda: b"this is text"), "this is not an image"),
    "bomb": Kind(_holds(_bomb), "Image size (400000000 pixels) exceeds limit"),
    "large": Kind(_large, "it has 3.2 GB"),
    "pipe": Kind(lambda path: os.mkfifo(path), "pipe"),
    "folder": Kind(Path.mkdir, "this is a folder", late=True),
    "vanished": Kind(lambda _: None, "there is no such file", late=True),
    "dangling": Kind(lambda path: path.symlink_to("nowhere"), "there is no such file", late=True),
    "loop": Kind(lambda path: path.symlink_to(path.name), "symbolic links", late=True),
    "unreadable": Kind(_unreadable, "Permission denied"),
}

HERE = [name for name in KINDS if name != "unreadable" or getattr(os, "geteuid", int)()]
"""The kinds that this user can make: for root, every file can be read."""


class Folder(NamedTuple):
    """A folder of images, some of them broken."""

    paths: list[Path]
    """In the order of their names."""
    broken: dict[int, str]
    """The kind of each broken one, by its number; the others are `png(number % PICTURES)`."""

    def age(self) -> None:
        """Replace the images that break after the list was made."""
        for row, kind in self.broken.items():
            if KINDS[kind].late:
                self.paths[row].unlink()
                KINDS[kind].make(self.paths[row])

    def renew(self) -> None:
        """Put the images back that broke late."""
        for row, kind in self.broken.items():
            if KINDS[kind].late:
                path = self.paths[row]
                if path.is_dir():
                    path.rmdir()
                path.unlink(missing_ok=True)
                path.write_bytes(png(row % PICTURES))


def folder_of(folder: Path, count: int) -> Folder:
    """Fill a folder with `count` images, of which one in a hundred is broken, or is going to be.

    Every kind is among them if there are at least 100 images for each.
    """
    kinds = cycle(HERE)
    broken = {row: next(kinds) for row in range(37, count, 97)}
    pictures = [png(seed) for seed in range(PICTURES)]
    paths = [folder / f"{row:05}-{broken.get(row, 'good')}.png" for row in range(count)]
    for row, path in enumerate(paths):
        kind = KINDS.get(broken.get(row, ""))
        if kind is None or kind.late:
            path.write_bytes(pictures[row % PICTURES])
        else:
            kind.make(path)
    return Folder(paths, broken)
