"""The rows of a column that lie in several parts, read like an array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import fill_of


class Rows:
    """An array over several parts on the disk; only the rows that are accessed are read.

    Indices are those of numpy: a number, a slice, a mask, a list, and further axes behind them.
    `numpy.asarray` reads everything.
    """

    def __init__(
        self,
        parts: Sequence[tuple[range, Any]],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        """
        Args:
            parts: the rows of each part, and its array; `None` for one that is not there, whose
                rows are NaN or 0. Without gaps, in order.
            shape: of the whole.
            dtype: of the values.
        """
        self._parts = parts
        self.shape = shape
        """`(rows, ...)`."""
        self.dtype = dtype
        """Of the values."""

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"<{self.dtype} of {self.shape} in {len(self._parts)} parts>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the rows are in several parts: an array of them is a copy")
        return self._span(0, len(self)).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, at: Any) -> Any:
        first, *rest = at if isinstance(at, tuple) and at else (at,)
        if first is None or first is Ellipsis or (isinstance(first, (bool, np.bool_))):
            return np.asarray(self)[at]
        if isinstance(first, slice):
            start, stop, step = first.indices(len(self))
            whole = step == 1 and stop > start
            rows = self._span(start, stop) if whole else self._gather(np.arange(start, stop, step))
            further = (slice(None), *rest)
            return rows[further] if rest else rows
        index = np.asarray(first)
        if index.dtype == np.bool_:
            if index.ndim != 1:
                return np.asarray(self)[at]
            if len(index) != len(self):
                raise IndexError(f"the mask has {len(index)} rows, not {len(self)}")
            index = np.flatnonzero(index)
        elif not index.size and index.ndim == 1:
            index = index.astype(np.intp)
        if index.dtype.kind not in "iu":
            raise IndexError(f"rows are selected by integers, slices and masks, not {first!r}")
        index = index.astype(np.intp)
        outside = (index < -len(self)) | (index >= len(self))
        if outside.any():
            row = index[outside].flat[0]
            raise IndexError(f"row {row} is out of range: there are {len(self)} rows")
        index = np.where(index < 0, index + len(self), index)
        if index.ndim and rest and not all(isinstance(one, slice) for one in rest):
            # Lists of several axes are combined, as numpy does.
            used, back = np.unique(index, return_inverse=True)
            further = (back.reshape(index.shape), *rest)
            return self._gather(used)[further]
        rows = self._gather(index.ravel()).reshape((*index.shape, *self.shape[1:]))
        further = (*(slice(None),) * index.ndim, *rest)
        return rows[further]

    def _span(self, start: int, stop: int) -> NDArray[Any]:
        """Rows that follow one another; those of one part are not copied."""
        found = [
            (rows, part, max(start, rows.start), min(stop, rows.stop))
            for rows, part in self._parts
            if rows.start < stop and start < rows.stop
        ]
        if len(found) == 1 and found[0][1] is not None:
            rows, part, low, high = found[0]
            return np.asanyarray(part[low - rows.start : high - rows.start])
        out = np.full((max(0, stop - start), *self.shape[1:]), fill_of(self.dtype), self.dtype)
        for rows, part, low, high in found:
            if part is not None:
                out[low - start : high - start] = part[low - rows.start : high - rows.start]
        return out

    def _gather(self, index: NDArray[np.intp]) -> NDArray[Any]:
        """Rows in any order."""
        out = np.full((len(index), *self.shape[1:]), fill_of(self.dtype), self.dtype)
        for rows, part in self._parts:
            here = np.flatnonzero((index >= rows.start) & (index < rows.stop))
            if part is not None and len(here):
                chosen = index[here] - rows.start
                out[here] = part.oindex[chosen] if hasattr(part, "oindex") else part[chosen]
        return out
