"""Places of a score: which of the positions of a segmentation, say, a gradient is taken at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from layertap.errors import UsageError
from layertap.format.select import is_integer
from layertap.format.text import class_text

At: TypeAlias = "int | Sequence[int] | npt.NDArray[Any]"
"""A point, a box or a mask; see `weights_at`."""


def weights_at(at: Any, sizes: Sequence[int]) -> npt.NDArray[np.float32]:
    """The weight of each place, `(1, *sizes)`, the same for all samples.

    Args:
        at: a point, one index per axis (negative ones count from the end), as in `(row, column)`;
            a box, the first index of each axis and then the index after the last one of each, as in
            `(top, left, bottom, right)`; or an array with the shape `sizes`: a mask of truth
            values, or weights.
        sizes: the sizes of the axes of the score between samples and classes.

    Raises:
        UsageError: the score has one place only, `at` is none of these, it does not fit, or it
            selects nothing.
    """
    sizes = tuple(sizes)
    if not sizes:
        raise UsageError(
            "at is for scores at several places, as in a segmentation, (n, h, w, classes). This "
            "score has one place, (n, classes): leave out at."
        )
    if is_integer(at):
        at = [at]
    is_array = isinstance(at, np.ndarray)
    if is_array and (at.ndim != 1 or len(sizes) == 1):
        return _mask(at, sizes)
    if not (is_array or isinstance(at, (list, tuple))):
        raise UsageError(
            f"at must be a point, a box or a mask, got {class_text(at)}. {_expected(sizes)}"
        )
    indices = [one.item() if isinstance(one, np.generic) else one for one in at]
    if not all(map(is_integer, indices)):
        raise UsageError(f"the indices in at must be integers, got {at!r}. {_expected(sizes)}")
    if len(indices) == len(sizes):
        box: list[Any] = [
            _point(int(one), size, at, sizes) for one, size in zip(indices, sizes, strict=True)
        ]
    elif len(indices) == 2 * len(sizes):
        ends = zip(indices[: len(sizes)], indices[len(sizes) :], sizes, strict=True)
        box = [_range(int(first), int(last), size, at, sizes) for first, last, size in ends]
    else:
        raise UsageError(f"at has {len(indices)} indices. {_expected(sizes)}")
    weights = np.zeros((1, *sizes), np.float32)
    weights[0][tuple(box)] = 1
    return weights


def _mask(at: npt.NDArray[Any], sizes: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if at.shape != sizes:
        raise UsageError(f"the mask has the shape {at.shape}. {_expected(sizes)}")
    if at.dtype.kind not in "biuf":
        raise UsageError(f"the mask holds {at.dtype}; it must hold truth values or numbers.")
    with np.errstate(over="ignore"):
        weights = at.astype(np.float32)[None]
    if not np.isfinite(weights).all():
        raise UsageError("the mask has a value that is not finite in float32.")
    if not weights.any():
        raise UsageError("the mask is 0 everywhere, so it selects no place.")
    return weights


def _point(index: int, size: int, at: Any, sizes: tuple[int, ...]) -> slice:
    if not -size <= index < size:
        raise UsageError(f"at={at!r} is outside: the places have the sizes {sizes}.")
    return slice(index % size, index % size + 1)


def _range(first: int, last: int, size: int, at: Any, sizes: tuple[int, ...]) -> slice:
    if not 0 <= first < last <= size:
        raise UsageError(
            f"the box at={at!r} is empty or outside: the places have the sizes {sizes}. A box is "
            "the first index of each axis, and then the index after the last one of each."
        )
    return slice(first, last)


def _expected(sizes: tuple[int, ...]) -> str:
    count = len(sizes)
    noun = "index" if count == 1 else "indices"
    return (
        f"The score has {sizes} places: give a point of {count} {noun}, a box of {2 * count}, or "
        f"an array of the shape {sizes}."
    )
