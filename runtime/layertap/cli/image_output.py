"""Files that a command writes for images: their names, and what they must not replace."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from PIL import Image

from layertap.errors import OutputError
from layertap.format.atomic import make_folder, replacing
from layertap.format.file_names import file_name
from layertap.images.own_pictures import kind_of_own

from .picture_options import PrintOptions


class OutputFiles:
    """The files that are written to one folder for a list of images.

    The folders of the images are mirrored: below the folder that was given, or, if several files
    or folders were given, below the deepest folder that contains them all.
    """

    def __init__(self, folder: Path, sources: Sequence[str], images: Sequence[str]) -> None:
        """
        Args:
            folder: where the files are written.
            sources: the images and folders as the command was given them.
            images: the images that were found.
        """
        self.folder = folder
        self._images = images
        self._names = dict(zip(images, _mirrored(sources, images), strict=True))
        self._inputs: frozenset[tuple[int, int]] | None = None

    def name(self, image: str, part: str, row: int | None = None) -> str:
        """The name of the file for a part of an image, without its suffix: `p1/chest.bn`; for one
        of several rows of a ready batch `batch_2.bn`."""
        folders, _, stem = self._names[image].rpartition("/")
        number = "" if row is None else f"_{row}"
        parts = [*filter(None, folders.split("/")), f"{stem}{number}.{part}"]
        return "/".join(map(file_name, parts))

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Like `replacing`, for a file in the folder; folders above it are created.

        Raises:
            OutputError: it is one of the images, or cannot be written.
        """
        target = self.folder / name
        self._check_apart(target)
        make_folder(target.parent)
        with replacing(target) as temporary:
            yield temporary

    def save_picture(self, picture: Image.Image, name: str, kind: str, print_: PrintOptions) -> str:
        """Write a picture, marked as one that layertap wrote.

        Args:
            picture: the picture.
            name: the file in the folder, without its suffix.
            kind: what it shows: `cam`, `attribute` or `sheet`.
            print_: the format of the file, and the size on paper.

        Returns:
            The name of the file, with its suffix.

        Raises:
            OutputError: see `writing`.
            UsageError: the page cannot hold the picture.
        """
        data = print_.encoded(picture, kind)
        name = f"{name}.{print_.format}"
        with self.writing(name) as temporary:
            temporary.write_bytes(data)
        return name

    def _check_apart(self, target: Path) -> None:
        try:
            status = os.stat(target)
        except OSError:
            return
        if self._inputs is None:  # asked once: there may be thousands
            self._inputs = frozenset(_identities(self._images))
        if (status.st_dev, status.st_ino) in self._inputs:
            raise OutputError(
                f"{str(target)!r} is one of the images, and writing the output would destroy it. "
                "Give another folder."
            )


def remove_own(folder: Path, names: Iterable[str], kind: str) -> int:
    """Remove files that an earlier run wrote to a folder, and that it listed.

    Args:
        folder: the output folder.
        names: the files, relative to it. What is not inside it, or was not written by layertap,
            stays.
        kind: the kind of the pictures: `cam`, `attribute` or `sheet`.

    Returns:
        How many files were removed.
    """
    count = 0
    for name in names:
        parts = PurePath(name).parts
        if not parts or PurePath(name).is_absolute() or ".." in parts or "\0" in name:
            continue
        file = folder / name
        inside = os.path.realpath(file).startswith(os.path.realpath(folder) + os.sep)
        if inside and not file.is_symlink() and _is_own(file, kind):
            with contextlib.suppress(OSError):
                file.unlink()
                count += 1
    return count


_STARTS = {".npy": b"\x93NUMPY", ".pdf": b"%PDF", ".svg": b"<svg"}
"""The first bytes of files that have no mark of their own, but a name."""


def _is_own(file: Path, kind: str) -> bool:
    """Whether layertap wrote a picture of this kind, or an array."""
    start = _STARTS.get(file.suffix)
    if start is None or not file.stem.endswith(f".{kind}"):
        return kind_of_own(file) == kind
    try:
        with file.open("rb") as stream:
            return stream.read(len(start)) == start
    except OSError:
        return False


def _mirrored(sources: Sequence[str], images: Sequence[str]) -> list[str]:
    """The names for images, with `/` and without suffix; the suffix stays where it distinguishes
    two images."""
    root = _root(sources)
    paths = [_below(root, image) for image in images]
    whole = [path.as_posix() for path in paths]
    plain = [path.with_suffix("").as_posix() if path.suffix else path.as_posix() for path in paths]
    counts = Counter(dict(zip(whole, plain, strict=True)).values())
    names = [long if counts[short] > 1 else short for long, short in zip(whole, plain, strict=True)]
    owners: dict[str, str] = {}
    for name, path, image in zip(names, whole, images, strict=True):
        if owners.setdefault(name, path) != path:
            raise OutputError(
                f"the files for {image!r} would replace those for {owners[name]!r}. Give them in "
                "separate commands, with separate output folders."
            )
    return names


def _root(sources: Sequence[str]) -> str | None:
    """The folder below which folders are mirrored; `None` on Windows, for several drives."""
    tops = [
        os.path.abspath(source)
        if os.path.isdir(source)
        else os.path.dirname(os.path.abspath(source))
        for source in sources
    ]
    try:
        return os.path.commonpath(tops)
    except ValueError:
        return None


def _below(root: str | None, image: str) -> PurePath:
    return PurePath(os.path.relpath(os.path.abspath(image), root) if root else Path(image).name)


def _identities(paths: Iterable[str]) -> Iterator[tuple[int, int]]:
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            yield status.st_dev, status.st_ino
