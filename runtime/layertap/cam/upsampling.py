"""Bilinear resizing, equal to `cv2.resize` with `INTER_LINEAR` on float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from layertap._arguments import array, sizes
from layertap.errors import InputError


def resize(maps: npt.ArrayLike, size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Resize the last axes of `maps` to `size`, by linear interpolation along each.

    The center of new pixel `i` is at `(i + 0.5) * old / new - 0.5` in old pixels; beyond the center
    of the first or last pixel its value is repeated. Shrinking does not average. OpenCV's result
    differs by rounding only (it computes in float32).

    Args:
        maps: `(..., h, w)` for a size of two; as many axes as `size` has at the end.
        size: `(new h, new w)`.

    Returns:
        `(..., new h, new w)`.
    """
    values, size = array("maps", maps), sizes("size", size)
    if values.ndim < len(size) or 0 in values.shape[-len(size) :]:
        raise InputError(
            f"maps of the shape {values.shape} cannot be resized to {size}: they need a pixel and "
            "as many axes."
        )
    for axis, new in enumerate(size, start=values.ndim - len(size)):
        values = _along(values, axis, new)
    return values.astype(np.float32)


def _along(values: npt.NDArray[np.float64], axis: int, new: int) -> npt.NDArray[np.float64]:
    old = values.shape[axis]
    if new == old:
        return values
    position = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.minimum(position.astype(np.intp), max(old - 2, 0))
    share = (position - low).reshape(-1, *(1,) * (values.ndim - axis - 1))
    high = np.minimum(low + 1, old - 1)
    resized: npt.NDArray[np.float64] = (
        values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    )
    return resized
