"""The values of a column of a table as items: bytes, paths, arrays and images."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layertap.errors import ImageError
from layertap.images.preprocessing import Preprocessing

from .items import Data, Items, ItemTable
from .sequences import content_of, is_ready, one_line_reason, split


class CellItems(Items):
    """Values of a column, each an image or an array. None of them may be missing."""

    def __init__(self, values: Sequence[Any], ids: Sequence[str], *, ready: bool) -> None:
        """
        Args:
            values: images in any form, dicts with an image (as data sets of Hugging Face have), or
                arrays, also as nested lists.
            ids: what messages call them.
            ready: whether the values are arrays that the model takes.
        """
        self._values, self.ready, self.digest = values, ready, False
        self.items = ItemTable(ids, array("q"), array("q"))

    def path(self, row: int) -> str | None:
        """The file of a row, if its value is a path."""
        value = self._values[row]
        return os.fspath(value) if isinstance(value, (str, os.PathLike)) else None

    def read(self, row: int) -> Data:
        """The image or the array of one row."""
        value = self._values[row]
        if isinstance(value, Mapping):
            _, value = split(value)
        if isinstance(value, str) and "://" in value and not os.path.exists(value):
            raise ImageError(
                "this is a URL, and layertap reads files. Read the bytes before, as "
                "ray.data.read_binary_files does."
            )
        return content_of(_dense(value), self)


def missing(value: Any) -> bool:
    """Whether it is what tables have where there is no value."""
    return (
        value is None
        or (isinstance(value, (float, np.floating)) and value != value)
        or type(value).__name__ in ("NAType", "NaTType")
    )


def is_ready_cell(value: Any, recipe: Preprocessing | None) -> bool:
    """Whether a value is an array that the model takes as it is."""
    if isinstance(value, Mapping):
        return is_ready(value, recipe)
    try:
        return is_ready(_dense(value), recipe)
    except ImageError:
        return recipe is None


def _dense(value: Any) -> Any:
    """Nested lists, or arrays of arrays, as one array; anything else as it is.

    Raises:
        ImageError: they have different lengths.
    """
    try:
        return _array(value) if _is_nested(value) else value
    except Exception as exc:  # an array-like may raise anything
        raise ImageError(one_line_reason(exc, "making an array of it raised")) from exc


def _is_nested(value: Any) -> bool:
    nested = isinstance(value, np.ndarray) and value.dtype == object and value.ndim > 0
    return nested or isinstance(value, (list, tuple))


def _array(value: Any) -> Any:
    return np.array([_array(one) if _is_nested(one) else one for one in value])
