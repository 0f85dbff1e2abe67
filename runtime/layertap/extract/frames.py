"""Batches of rows as engines for tables pass them: dicts of arrays, pandas, Arrow.

Each gives the values of a column, and is made again without this column and with others. pandas and
pyarrow are used only for batches of theirs.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import InputError, UsageError, suggest
from layertap.format.text import class_text


class Frame(ABC):
    """Some rows of a table. It is not changed."""

    names: list[str]
    """Of the columns, in order."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def _values(self, name: str) -> Sequence[Any]:
        """The values of a column that is there once."""

    @abstractmethod
    def with_columns(self, dropped: str, added: Mapping[str, NDArray[Any]]) -> Any:
        """A table of the same kind without a column, and with others at its end.

        Args:
            dropped: the name of a column.
            added: by name, arrays with a row for each row; texts as an array of `str`.
        """

    def values(self, name: str) -> Sequence[Any]:
        """The values of a column, one for each row.

        Raises:
            UsageError: there is no such column, or there are two.
            InputError: the column cannot be read.
        """
        there = self.names.count(name)
        if there != 1:
            listed = ", ".join(map(repr, self.names[:20])) or "none"
            raise UsageError(
                f"the batch has {there or 'no'} column{'s' * (there > 1)} {name!r}; its columns "
                f'are {listed}. Say which one holds the images, as in source="bytes".'
                + suggest(name, [*map(str, self.names)])
            )
        try:
            found, rows = self._values(name), len(self)
        except InputError:
            raise
        except Exception as exc:  # types of other libraries
            raise InputError(f"the column {name!r} cannot be read: {exc}.") from exc
        if len(found) != rows:
            raise InputError(
                f"the column {name!r} has {len(found)} values, and the batch {rows} rows."
            )
        return found


def frame_of(batch: Any) -> Frame:
    """A batch in any of the forms.

    Raises:
        InputError: it has another form.
    """
    if isinstance(batch, Mapping):
        return _DictFrame(batch)
    pandas, arrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    if pandas is not None and isinstance(batch, pandas.DataFrame):
        return _PandasFrame(batch)
    if arrow is not None and isinstance(batch, arrow.Table):
        return _ArrowFrame(batch)
    raise InputError(
        "a batch is a dict of arrays, a pandas.DataFrame or a pyarrow.Table, got "
        f"{class_text(batch)}."
    )


class _DictFrame(Frame):
    def __init__(self, batch: Mapping[str, Any]) -> None:
        self._batch = batch
        self.names = list(batch)

    def __len__(self) -> int:
        return len(next(iter(self._batch.values()), ()))

    def _values(self, name: str) -> Sequence[Any]:
        column = self._batch[name]
        if isinstance(column, (str, bytes, bytearray, memoryview, Mapping)):
            raise InputError(
                f"the column {name!r} is {class_text(column)}. Give a list or an array with a "
                "value for each row."
            )
        if isinstance(column, np.ndarray) and column.dtype.kind == "S":
            raise InputError(
                f"the column {name!r} is an array of {column.dtype}, which leaves out zeros at the "
                "end of its values. Give bytes in an array of objects."
            )
        return list(column)

    def with_columns(self, dropped: str, added: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {**{name: self._batch[name] for name in self.names if name != dropped}, **added}


class _PandasFrame(Frame):
    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self.names = list(batch.columns)

    def __len__(self) -> int:
        return len(self._batch)

    def _values(self, name: str) -> Sequence[Any]:
        return list(self._batch[name])

    def with_columns(self, dropped: str, added: Mapping[str, NDArray[Any]]) -> Any:
        import pandas

        def series(column: NDArray[Any]) -> Any:
            if column.dtype.kind == "U":
                return pandas.Series(column.tolist(), self._batch.index, dtype=str)
            if column.ndim == 1:
                return pandas.Series(column, self._batch.index)
            return pandas.Series(list(column), self._batch.index, dtype=object)

        made = {name: series(column) for name, column in added.items()}
        return pandas.concat([self._batch.drop(columns=[dropped]), pandas.DataFrame(made)], axis=1)


class _ArrowFrame(Frame):
    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self.names = list(batch.column_names)

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def _values(self, name: str) -> Sequence[Any]:
        import pyarrow

        column = self._batch.column(name)
        kind = column.type
        if isinstance(kind, pyarrow.BaseExtensionType):
            return [value for chunk in column.chunks for value in _tensors(chunk)]
        lists = (pyarrow.ListType, pyarrow.LargeListType, pyarrow.FixedSizeListType)
        if isinstance(kind, lists) and pyarrow.types.is_primitive(kind.value_type):
            return [
                row.values.to_numpy(zero_copy_only=False) if row.is_valid else None
                for row in column
            ]
        found: list[Any] = column.to_pylist()
        return found

    def with_columns(self, dropped: str, added: Mapping[str, NDArray[Any]]) -> Any:
        made = self._batch.drop_columns([dropped])
        for name, column in added.items():
            made = made.append_column(name, _arrow_column(name, column))
        return made


def _tensors(chunk: Any) -> Sequence[Any]:
    """The rows of an array of Arrow whose type is an extension, as one for tensors is."""
    if hasattr(chunk, "to_numpy_ndarray"):
        rows = list(chunk.to_numpy_ndarray())
    else:
        rows = list(chunk.to_numpy(zero_copy_only=False))
    valid = chunk.is_valid().to_pylist()
    return [row if there else None for row, there in zip(rows, valid, strict=True)]


def _arrow_column(name: str, column: NDArray[Any]) -> Any:
    """An array of Arrow: numbers and texts as they are, vectors as lists of a fixed size, maps as
    tensors of a fixed shape."""
    import pyarrow

    if column.dtype.kind == "U":
        return pyarrow.array(column.tolist(), pyarrow.string())
    shape = column.shape[1:]
    if 0 in shape or column.dtype.kind == "c":
        what = "complex numbers" if column.dtype.kind == "c" else f"rows of the shape {shape}"
        raise UsageError(f"{name!r} has {what}, which an Arrow table cannot hold.")
    flat = pyarrow.array(np.ascontiguousarray(column).reshape(-1))
    if not shape:
        return flat
    lists = pyarrow.FixedSizeListArray.from_arrays(flat, math.prod(shape))
    if len(shape) == 1:
        return lists
    kind = pyarrow.fixed_shape_tensor(flat.type, shape)
    return pyarrow.ExtensionArray.from_storage(kind, lists)
