"""What a collection is made from: folders, images, archives, arrays, lists and Python sequences.

The rows follow the order of what is given; a folder's images are sorted by their paths. The ids:

    one folder                          paths below it
    one image                           its name
    one archive (.tar, .zip, .npy)      keys, paths, row numbers
    several of these                    paths below the deepest folder that contains all of them;
                                        the path of an archive comes before the ids in it
    a list in a file                    the paths as they are written there
    a Python sequence of image paths    the paths as they are given
    (id, image) pairs                   the ids
    other Python sequences              row numbers
"""

from __future__ import annotations

import csv
import io
import os
import stat
from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np

from layertap.errors import ImageError, InputError, UsageError, suggest
from layertap.format.text import class_text
from layertap.images.own_pictures import check_not_own
from layertap.images.preprocessing import Preprocessing

from .archives import ArrayItems, is_archive, open_archive
from .images import find_images
from .items import FileItems, Items, ItemTable, JoinedItems, fields_of
from .readers import Reader, ReaderItems
from .sequences import SequenceItems


def find_items(
    source: Any = (),
    *,
    listed: str | os.PathLike[str] | None = None,
    column: str | None = None,
    reader: str | Callable[[Any], Any] | None = None,
    recipe: Preprocessing | None = None,
    output: str | os.PathLike[str] | None = None,
    known: Container[str] = (),
    digest: bool = True,
    unique: bool = True,
) -> Items:
    """The frozen list of items of a collection.

    Args:
        source: a path of a folder, an image or an archive; an array with a row for each item; or a
            sequence: of such paths, of images in any form (paths, bytes, arrays, PIL images), of
            (id, image) pairs, or anything else with a length and items that are images, such as a
            data set of Hugging Face or torch, or a pandas Series.
        listed: a text file with a path in each line, or a CSV or TSV file, in addition to `source`.
            Paths are relative to its folder, or, if it is a pipe, to the current one. `-` is stdin.
        column: the column of the paths in a CSV or TSV file; by default the first.
        reader: a function that makes an image of a path (or of bytes, for members of archives), or
            `MODULE:FUNCTION`; it runs in processes of its own.
        recipe: how images become inputs, if they do.
        output: a folder that is written to, and left out.
        known: ids of files that were items before. They are not opened to see whether they are
            pictures that layertap wrote.
        digest: whether the bytes that are read are hashed.
        unique: whether ids have to be.

    Raises:
        ImageError: a path does not exist, or there is no image.
        InputError: `source` is no collection; or two items have one id.
        UsageError: the column, or the reader, does not exist.
    """
    found = None if reader is None else Reader(reader)
    parts: list[Items] = []
    if listed is not None:
        parts.append(_from_list(os.fspath(listed), column))
    elif column is not None:
        raise UsageError("a column is given without a list of items.")
    given = [source] if isinstance(source, (str, os.PathLike)) else source
    if not (isinstance(given, (list, tuple)) and not given and parts):
        parts = [_from_python(given, recipe, output, found is not None, known), *parts]
    if len({part.ready for part in parts}) > 1:
        raise InputError(_MIXED)
    items = parts[0] if len(parts) == 1 else JoinedItems(parts)
    items.hashing(digest)
    if not len(items.items):
        raise InputError("there are no items: the list is empty.")
    if unique:
        _check_unique(items)
    return items if found is None else ReaderItems(items, found, ready=recipe is None)


_MIXED = (
    "some items are images, and others are arrays that are ready for the model. Give them in "
    "separate collections."
)


def _from_python(
    given: Any, recipe: Preprocessing | None, output: Any, any_suffix: bool, known: Container[str]
) -> Items:
    """The items of anything that is given in Python, or of the paths of a command."""
    if isinstance(given, (bytes, bytearray, memoryview)) or not (
        hasattr(given, "__len__") and hasattr(given, "__getitem__")
    ):
        once = isinstance(given, Iterator)
        raise InputError(
            f"a collection is a path, or a sequence with a length, got {class_text(given)}."
            + (" Only `stream` takes one that is read once; give list(...) of it." * once)
        )
    if isinstance(given, dict):
        raise InputError("a collection is a path or a sequence, got a dict. Give its values.")
    if isinstance(given, np.ndarray) and given.ndim > 1:
        try:
            return ArrayItems(given, recipe)
        except ValueError as exc:
            raise InputError(f"the array cannot be a collection: {exc}.") from exc
    if not isinstance(given, (list, tuple)) and hasattr(given, "tolist"):
        given = given.tolist()  # an array of paths, or a pandas Series
    if isinstance(given, (list, tuple)) and given and all(map(_is_path, given)):
        return _from_paths([os.fspath(path) for path in given], recipe, output, any_suffix, known)
    return SequenceItems(given, recipe)


_LIST = "If it lists images, give it to `layertap extract` as --items, in Python as items=."
_NO_IMAGES = {
    ".txt": _LIST,
    ".csv": _LIST,
    ".tsv": _LIST,
    ".tab": _LIST,
    ".npz": "Give the array as an .npy file.",
    ".onnx": "Give the model first, and then images, folders or archives.",
    ".parquet": "Give its images in Python, as a list of (id, bytes) pairs.",
}
"""Advice for files that are given in place of images."""


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _from_paths(
    paths: Sequence[str],
    recipe: Preprocessing | None,
    output: Any,
    any_suffix: bool,
    known: Container[str],
) -> Items:
    """The items of paths: of images, or of folders and archives, too."""
    kinds = ["archive" if is_archive(p) else "folder" if os.path.isdir(p) else "" for p in paths]
    single = [path for path, kind in zip(paths, kinds, strict=True) if not kind]
    advice = [_NO_IMAGES.get(os.path.splitext(path)[1].lower()) for path in single]
    if single and all(advice) and not any_suffix and os.path.isfile(single[0]):
        raise ImageError(f"{single[0]}: this is no image. {advice[0]}")
    if not any(kinds):
        items = FileItems(paths, [_posix(path) for path in paths])
        _check_there(items, paths, "the list")
        if len(paths) == 1:
            check_not_own(paths[0])
            items = FileItems(paths, [os.path.basename(paths[0])])
        return items
    root = _common(paths)
    parts: list[Items] = []
    files: list[str] = []
    seen: set[str] = set()
    id_of = _ByFolder(lambda folder: _posix(_below(folder, root)))
    # A folder alone has each file once.
    whole = _ByFolder(os.path.abspath) if len(paths) > 1 else str

    def flush() -> None:
        if files:
            parts.append(FileItems(list(files), [*map(id_of, files)]))
            files.clear()

    for path, kind in zip(paths, kinds, strict=True):
        if kind == "archive":
            if os.path.abspath(path) not in seen:
                seen.add(os.path.abspath(path))
                flush()
                part = open_archive(path, recipe, any_suffix)
                prefix = "" if len(paths) == 1 else _posix(os.path.relpath(path, root)) + "/"
                parts.append(_Prefixed(part, prefix) if prefix else part)
            continue
        for file in find_images(
            path, output, any_suffix=any_suffix, known=lambda file: id_of(file) in known
        ):
            full = whole(file)
            if full not in seen:
                seen.add(full)
                if not kind:
                    check_not_own(file)
                files.append(file)
    flush()
    if len({part.ready for part in parts}) > 1:
        raise InputError(_MIXED)
    return parts[0] if len(parts) == 1 else JoinedItems(parts)


class _ByFolder:
    """A function of the paths of files that changes the path of the folder only, which is computed
    once for each folder."""

    def __init__(self, change: Callable[[str], str]) -> None:
        self._change = change
        self._changed: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        at = path.rfind(os.sep) + 1
        folder = path[:at]
        changed = self._changed.get(folder)
        if changed is None:
            other = self._change(folder or os.curdir)
            changed = self._changed[folder] = os.path.join(other, "") if other else ""
        return changed + path[at:]


def _below(folder: str, root: str) -> str:
    """The path of a folder from another one; empty for the same."""
    found = os.path.relpath(folder, root)
    return "" if found == os.curdir else found


class _Prefixed(JoinedItems):
    """The items of an archive among others."""

    def __init__(self, part: Items, prefix: str) -> None:
        super().__init__([part])
        ids, sizes, mtimes = [], array("q"), array("q")
        for item in part.items:
            ids.append(prefix + item.id)
            sizes.append(item.size)
            mtimes.append(item.mtime_ns)
        self.items = ItemTable(ids, sizes, mtimes)


def _common(paths: Sequence[str]) -> str:
    """The deepest folder that contains all of these folders and files."""
    whole = [os.path.abspath(path) for path in paths]
    tops = [path if os.path.isdir(path) else os.path.dirname(path) for path in whole]
    try:
        return os.path.commonpath(tops)
    except ValueError:  # several drives of Windows
        return os.curdir


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")


# --- Lists in files -------------------------------------------------------------------------------


def _from_list(path: str, column: str | None) -> FileItems:
    """The files that a text or CSV file lists."""
    folder = os.path.dirname(path)
    try:
        with open(
            0 if path == "-" else path,
            encoding="utf-8-sig",
            errors="surrogateescape",
            newline="",
            closefd=path != "-",
        ) as file:
            text = file.read()
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                folder = ""  # a pipe is in no folder with its images
    except OSError as exc:
        raise ImageError(f"{path}: the list cannot be read ({exc.strerror}).") from exc
    if path.lower().endswith((".csv", ".tsv", ".tab")) or column is not None:
        names = _of_column(path, text, column, folder)
    else:
        names = [line for line in text.splitlines() if line.strip()]
    if not names:
        raise ImageError(f"{path}: the list is empty.")
    items = FileItems([os.path.join(folder, name) for name in names], [*map(_posix, names)])
    _check_there(items, names, path)
    return items


def _of_column(path: str, text: str, column: str | None, folder: str) -> list[str]:
    """The paths in a table, without its head."""
    lines = text[:10_000].splitlines()
    first = lines[0] if lines else ""
    mark = "\t" if path.lower().endswith((".tsv", ".tab")) else max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if row]
    except csv.Error as exc:
        raise ImageError(f"{path}: the list cannot be read as a table ({exc}).") from exc
    if not rows:
        return []
    at = 0
    if column is not None:
        if column not in rows[0]:
            listed = ", ".join(map(repr, rows[0][:10]))
            raise UsageError(
                f"{path}: the list has no column {column!r}; it has {listed}."
                + suggest(column, rows[0])
            )
        at = rows[0].index(column)
        rows = rows[1:]
    elif not _exists(os.path.join(folder, rows[0][0])):  # a head, and not a file
        rows = rows[1:]
    for number, row in enumerate(rows):
        if len(row) <= at or not row[at].strip():
            raise ImageError(f"{path}: row {number} of the list has no path.")
    return [row[at] for row in rows]


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:
        return False


def _check_there(items: FileItems, names: Sequence[str], where: str) -> None:
    """Refuse a list in which files are missing."""
    missing = [row for row, item in enumerate(items.items) if item.size < 0]
    if missing:
        row = missing[0]
        if len(names) == 1:
            raise ImageError(f"{names[0] or repr('')}: there is no such file or folder.")
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ImageError(
            f"{names[row]}{others}: there is no such file. {len(missing)} of the {len(names)} "
            f"files in {where} {'is' if len(missing) == 1 else 'are'} missing; this is row {row}."
        )


def _check_unique(items: Items) -> None:
    ids = fields_of(items.items).ids
    if len(set(ids)) == len(ids):
        return
    rows: dict[str, int] = {}
    for row, text in enumerate(ids):
        before = rows.setdefault(text, row)
        if before != row:
            raise InputError(
                f"the rows {before} and {row} have one id, {text!r}. Each item must have an id "
                "of its own, so that its row can be found."
            )
