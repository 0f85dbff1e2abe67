"""Python sequences as collections: lists, data sets of Hugging Face and torch, and generators."""

from __future__ import annotations

import contextlib
import os
import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from PIL import Image

from layertap.errors import ImageError
from layertap.format.text import class_text
from layertap.images.preprocessing import Preprocessing

from .archives import pixels
from .items import Data, Item, Items, ItemTable, file_bytes

_IMAGE_KEYS = ("image", "img", "pixel_values", "bytes", "path")
"""The names under which data sets have their images; the first that is there counts."""

ID_KEYS = ("id", "image_id", "key", "__key__", "file_name")


class SequenceItems(Items):
    """Anything with a length and items: an image each, or an (id, image) pair."""

    def __init__(self, given: Any, recipe: Preprocessing | None) -> None:
        """
        Args:
            given: images in any form, (id, image) pairs, dicts with an image, or
                (image, label) pairs.
            recipe: how images become inputs, if they do.
        """
        self._given = given
        # A data set may read from one open file, in which two threads would lose their places.
        self._lock = None if isinstance(given, (list, tuple)) else threading.Lock()
        count = len(given)
        first = self._typical(count)
        self.ready = is_ready(first, recipe)
        named = count and split(first)[0] is not None
        ids = [self._id(row) for row in range(count)] if named else [*map(str, range(count))]
        self.items = ItemTable(ids, array("q"), array("q"))

    def _typical(self, count: int) -> Any:
        """The first element that can be read and holds something: the others are of its kind."""
        for row in range(count):
            with contextlib.suppress(ImageError):
                element = self._element(row)
                if split(element)[1] is not None:
                    return element
        return None

    def _element(self, row: int) -> Any:
        try:
            if self._lock is None:
                return self._given[row]
            with self._lock:
                return self._given[row]
        except Exception as exc:  # a data set's own code may raise anything
            raise ImageError(one_line_reason(exc, "the data set raised")) from exc

    def _id(self, row: int) -> str:
        try:
            found, _ = split(self._element(row))
        except ImageError:
            found = None
        return str(row) if found is None else found

    def read(self, row: int) -> Data:
        """The image of one element."""
        _, image = split(self._element(row))
        return content_of(image, self)


class StreamItems(Items):
    """What an iterator gives, in the order in which it is read."""

    def __init__(self, given: Iterator[Any], recipe: Preprocessing | None) -> None:
        """
        Args:
            given: elements as in `SequenceItems`; the first is taken at once.
            recipe: how images become inputs, if they do.
        """
        first = list(islice(given, 1))
        self._given = chain(first, given)
        self.ready = bool(first) and is_ready(first[0], recipe)
        self._count = 0
        self._held: dict[int, Any] = {}
        self._ids: dict[int, str] = {}
        self.items = _Held(self._ids)

    def take(self, most: int) -> int:
        """Take up to `most` elements from the iterator; how many there were."""
        taken = 0
        for element in self._given:
            row = self._count
            name, image = split(element)
            self._held[row], self._ids[row] = image, str(row) if name is None else name
            self._count += 1
            taken += 1
            if taken == most:
                break
        return taken

    def read(self, row: int) -> Data:
        """The image of one element, which is not kept."""
        return content_of(self._held.pop(row), self)

    def forget(self, first: int, count: int) -> tuple[str, ...]:
        """The ids of some rows, which are needed no longer."""
        for row in range(first, first + count):
            self._held.pop(row, None)
        return tuple(self._ids.pop(row) for row in range(first, first + count))


class _Held(Sequence[Item]):
    """The items that were taken and not forgotten."""

    def __init__(self, ids: Mapping[int, str]) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: Any) -> Any:
        return Item(self._ids[row])


def split(element: Any) -> tuple[str | None, Any]:
    """The id, if it has one, and the image of an element.

    It may be an image; an (id, image) pair; an (image, label) pair, as a data set of torch gives;
    or a dict, as one of Hugging Face gives.
    """
    if isinstance(element, Mapping):
        key = next((key for key in _IMAGE_KEYS if element.get(key) is not None), None)
        if key is None:
            key = next((key for key, value in element.items() if _is_image(value)), None)
        image = element if key is None else element[key]
        if key is not None and isinstance(image, Mapping):  # {"bytes": ..., "path": ...}
            _, image = split(image)
        named = next((element[key] for key in ID_KEYS if key in element), None)
        return (str(named) if _is_name(named) else None), image
    if isinstance(element, (tuple, list)) and len(element) >= 2:
        first, second = element[0], element[1]
        if len(element) == 2 and _is_name(first) and _is_image(second):
            return str(first), second
        return None, first
    return None, element


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int, np.integer)) and not isinstance(value, bool)


def _is_image(value: Any) -> bool:
    """Whether it is an image in any form, or an array."""
    forms = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    if isinstance(value, forms) or hasattr(value, "read"):
        return True
    return np.ndim(value) > 1 if hasattr(value, "__array__") else False


def is_ready(element: Any, recipe: Preprocessing | None) -> bool:
    """Whether the elements are arrays that the model takes, by the first of them."""
    _, image = split(element)
    if isinstance(image, (Image.Image, str, bytes)) or not hasattr(image, "__array__"):
        return False  # numpy's own texts have `__array__`
    return recipe is None or np.asarray(image).dtype.kind not in "iub"


def content_of(image: Any, items: Items) -> Data:
    """An image in any form as `Preprocessing` takes it, or an array that is ready.

    Raises:
        ImageError: it is none; the message is the reason alone.
    """
    if isinstance(image, Image.Image):
        if items.ready:
            raise ImageError(_NOT_READY)
        return Data(image, _hash_of(image, items))
    if isinstance(image, (str, os.PathLike)):
        image = file_bytes(os.fspath(image))
    elif hasattr(image, "read"):
        try:
            image.seek(0)
            image = image.read()
        except Exception as exc:  # any object with these methods
            raise ImageError(one_line_reason(exc, "reading it raised")) from exc
    if isinstance(image, (bytes, bytearray, memoryview)):
        if items.ready:
            raise ImageError(_NOT_READY)
        return Data(bytes(image), items.sha256(image))
    if not hasattr(image, "__array__"):
        raise ImageError(f"{class_text(image)} is no image.")
    try:
        values = np.ascontiguousarray(image)
    except Exception as exc:  # the tensor of another library, for example on a device
        raise ImageError(one_line_reason(exc, "making an array of it raised")) from exc
    hashed = items.sha256(values.data) if values.dtype.kind in "biuf" else ""
    if items.ready:
        return Data(values, hashed)
    if values.dtype.kind not in "iub":
        raise ImageError(
            f"an array of {values.dtype} is no image: pixels are integers from 0 to 255 (or to "
            "65535 for 16 bits)."
        )
    return Data(pixels(values) if values.dtype.kind != "b" else values, hashed)


def _hash_of(image: Image.Image, items: Items) -> str:
    """The hash of an image's mode, size, palette and pixels."""
    if not items.digest:
        return ""
    try:
        about = repr((image.mode, image.size, image.getpalette() if image.mode == "P" else None))
        return items.sha256(about.encode() + image.tobytes())
    except Exception as exc:  # the file behind it may be cut off
        raise ImageError(one_line_reason(exc, "reading it raised")) from exc


_NOT_READY = "this is an image, and the first item was an array that is ready for the model."


def one_line_reason(exc: BaseException, what: str) -> str:
    """Why someone else's code failed, in one line."""
    text = " ".join(str(exc).split())[:300]
    return f"{what} {type(exc).__name__}{': ' + text if text else ''}."
