"""A collection as a table: a row for each item, with the vectors of its layers.

The columns are `row`, `id`, `ok`, `sha256` and `error`, and then one for each layer. Rows without
values hold NaN, or 0 where a dtype has no NaN, and say why in `error`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import items as listed
from layertap.errors import DependencyError, UsageError, install_hint
from layertap.format.atomic import check_target, make_folder, replacing

from .columns import Column, fill_of
from .identity import Identity
from .item_list import escaped
from .layout import little, row_bytes

ABOUT = ("row", "id", "ok", "sha256", "error")
NOT_COMPUTED = "not computed yet"
"""The error of rows that are not finished."""

PIECE_ROWS, PIECE_BYTES = 1 << 16, 1 << 26


class Collection(Protocol):
    """What is needed of `Features`."""

    @property
    def columns(self) -> tuple[Column, ...]: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def ok(self) -> NDArray[np.bool_]: ...
    @property
    def errors(self) -> Mapping[int, str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: str) -> Any: ...
    def column(self, key: str) -> Column: ...
    def hashes(self) -> Iterator[str]: ...


class Piece(NamedTuple):
    """Some rows of the table."""

    first: int
    ids: list[str]
    ok: NDArray[np.bool_]
    sha256: list[str]
    errors: list[str]
    """"" for rows that are ok."""
    blocks: list[NDArray[Any]]
    """The rows of each column, in order."""

    @property
    def rows(self) -> range:
        """Of the collection."""
        return range(self.first, self.first + len(self.ids))


def vectors(features: Collection, keys: Any, *, most: int = 1) -> list[Column]:
    """The columns that a table is made of.

    Args:
        features: the collection.
        keys: their names, or `None` for all.
        most: axes of a row; more are refused.

    Raises:
        LayerNotFoundError: there is no such column.
        UsageError: a row of one is no vector, or there are none.
    """
    if isinstance(keys, str):
        keys = [keys]
    names = [one.key for one in features.columns] if keys is None else listed("columns", keys)
    columns = [features.column(name) for name in names]
    if not columns:
        raise UsageError("a table needs at least one column.")
    for column in columns:
        if len(column.shape) > most or 0 in column.shape:
            fit = [one.key for one in features.columns if len(one.shape) <= most]
            others = f" Vectors are {', '.join(map(repr, fit))}." if fit else ""
            raise UsageError(
                f"{column.key!r} cannot be part of a table: a row of it is {column.shape}. Tables "
                f"hold vectors, as those of a reduction ({column.key}=mean); read maps with "
                f"features[{column.key!r}].{others}"
            )
        if little(column.dtype).kind == "c":
            raise UsageError(f"{column.key!r} holds complex numbers, which no table does.")
    return columns


def pieces(features: Collection, columns: Sequence[Column]) -> Iterator[Piece]:
    """The rows of the table, so many at once that memory is bounded."""
    rows = len(features)
    wide = sum(row_bytes(column) for column in columns)
    step = max(1, min(PIECE_ROWS, PIECE_BYTES // max(1, wide)))
    ids, ok, errors = iter(features.ids), features.ok, features.errors
    hashes = features.hashes()
    for first in range(0, rows, step):
        end = min(rows, first + step)
        good = ok[first:end]
        yield Piece(
            first,
            [_valid(next(ids)) for _ in range(first, end)],
            good,
            [next(hashes) for _ in range(first, end)],
            [
                "" if fine else errors.get(row, NOT_COMPUTED)
                for row, fine in zip(range(first, end), good.tolist(), strict=True)
            ],
            [_filled(features[column.key][first:end], good) for column in columns],
        )


def _filled(block: Any, ok: NDArray[np.bool_]) -> NDArray[Any]:
    """The rows; those that are not finished may hold anything."""
    rows: NDArray[Any] = np.ascontiguousarray(block)
    if ok.all():
        return rows
    rows = rows.copy()
    rows[~ok] = fill_of(rows.dtype)
    return rows


def _valid(text: str) -> str:
    """A text without the surrogates of names that are not UTF-8: `\\udc80` takes their place."""
    if text.isprintable():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def names_of(columns: Sequence[Column]) -> list[str]:
    """The names of the layers' columns: their keys, with `_` behind one that is taken."""
    taken, found = {*ABOUT, *(column.key for column in columns)} - {""}, []
    for column in columns:
        name = column.key
        if name in ABOUT:
            while name in taken:
                name += "_"
            taken.add(name)
        found.append(name)
    return found


def table(features: Collection, keys: Any = None) -> Any:
    """A `pandas.DataFrame`, or, without pandas, a `pyarrow.Table`.

    Raises:
        DependencyError: neither is installed.
    """
    columns = vectors(features, keys)
    try:
        import pandas
    except ImportError:
        arrow = _arrow("table()", "pandas or pyarrow")
        schema = _schema(arrow, features, columns)
        batches = [_batch(arrow, schema, piece, columns) for piece in pieces(features, columns)]
        return arrow.Table.from_batches(batches, schema)
    found = list(pieces(features, columns))
    parts: dict[str, Any] = {
        "row": np.arange(len(features)),
        "id": [one for piece in found for one in piece.ids],
        "ok": features.ok.copy(),
        "sha256": [one for piece in found for one in piece.sha256],
        "error": [one for piece in found for one in piece.errors],
    }
    for at, (name, column) in enumerate(zip(names_of(columns), columns, strict=True)):
        rows = [row for piece in found for row in piece.blocks[at]]
        parts[name] = pandas.Series(rows, dtype=object if column.shape else column.dtype)
    return pandas.DataFrame(parts)


def to_parquet(features: Collection, path: str | os.PathLike[str], keys: Any = None) -> None:
    """Write a Parquet file.

    Raises:
        DependencyError: pyarrow is not installed.
        OutputError: the file cannot be written.
    """
    columns = vectors(features, keys)
    arrow = _arrow("a Parquet file", "pyarrow")
    import pyarrow.parquet

    check_target(path)
    schema = _schema(arrow, features, columns)
    with (
        replacing(path) as temporary,
        pyarrow.parquet.ParquetWriter(
            str(temporary), schema, compression="zstd", use_dictionary=["error"]
        ) as file,
    ):
        for piece in pieces(features, columns):
            file.write_batch(_batch(arrow, schema, piece, columns))


def to_csv(features: Collection, path: str | os.PathLike[str], keys: Any = None) -> None:
    """Write a CSV file: a vector of `bn` has the columns `bn.0`, `bn.1` and so on.

    Raises:
        OutputError: the file cannot be written.
    """
    columns = vectors(features, keys)
    check_target(path)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        head = list(ABOUT)
        for name, column in zip(names_of(columns), columns, strict=True):
            head += [f"{name}.{at}" for at in range(column.shape[0])] if column.shape else [name]
        out.writerow(head)
        for piece in pieces(features, columns):
            values = [_texts(block) for block in piece.blocks]
            about = zip(
                piece.rows, piece.ids, piece.ok.astype(int), piece.sha256, piece.errors, strict=True
            )
            for at, first in enumerate(about):
                out.writerow([*first, *(text for block in values for text in block[at])])


def to_tsv(features: Collection, folder: str | os.PathLike[str], key: str | None = None) -> None:
    """Write vectors.tsv and metadata.tsv for the Embedding Projector, without failed rows.

    Raises:
        UsageError: there are several columns, and none is chosen.
        OutputError: the files cannot be written.
    """
    columns = vectors(features, key)
    if len(columns) > 1:
        names = ", ".join(repr(column.key) for column in columns)
        raise UsageError(f"vectors.tsv holds one column; choose one of {names}.")
    make_folder(folder)
    target = os.path.join(folder, "vectors.tsv")
    about = os.path.join(folder, "metadata.tsv")
    with (
        replacing(about) as other,
        replacing(target) as temporary,
        open(temporary, "w", encoding="ascii") as file,
        open(other, "w", encoding="utf-8") as beside,
    ):
        beside.write("row\tid\n")
        for piece in pieces(features, columns):
            texts = _texts(piece.blocks[0])
            for row, text, good, values in zip(piece.rows, piece.ids, piece.ok, texts, strict=True):
                if good:
                    file.write("\t".join(values) + "\n")
                    beside.write(f"{row}\t{escaped(text)}\n")


def _texts(block: NDArray[Any]) -> list[list[str]]:
    """Numbers as the shortest text that is read as the same number."""
    rows = block.reshape(len(block), -1)
    if rows.dtype == np.bool_:
        rows = rows.astype(np.uint8)
    found: list[list[str]] = rows.astype(str).tolist()
    return found


def _arrow(what: str, package: str) -> Any:
    try:
        import pyarrow
    except ImportError as exc:
        hint = install_hint("tables")
        raise DependencyError(f"{what} needs {package}: {hint}.") from exc
    return pyarrow


def _schema(arrow: Any, features: Collection, columns: Sequence[Column]) -> Any:
    fields = [
        ("row", arrow.int64()),
        ("id", arrow.string()),
        ("ok", arrow.bool_()),
        ("sha256", arrow.string()),
        ("error", arrow.string()),
    ]
    for name, column in zip(names_of(columns), columns, strict=True):
        kind = arrow.from_numpy_dtype(little(column.dtype))
        fields.append((name, arrow.list_(kind, column.shape[0]) if column.shape else kind))
    about = {
        "layertap.identity": features.identity.sha256,
        "layertap.columns": json.dumps([dict(column.asked) for column in columns]),
    }
    return arrow.schema(fields, metadata=about)


def _batch(arrow: Any, schema: Any, piece: Piece, columns: Sequence[Column]) -> Any:
    arrays = [
        arrow.array(np.arange(piece.rows.start, piece.rows.stop)),
        arrow.array(piece.ids, arrow.string()),
        arrow.array(piece.ok),
        arrow.array(piece.sha256, arrow.string()),
        arrow.array(piece.errors, arrow.string()),
    ]
    for column, block in zip(columns, piece.blocks, strict=True):
        flat = arrow.array(block.reshape(-1))
        if column.shape:
            flat = arrow.FixedSizeListArray.from_arrays(flat, column.shape[0])
        arrays.append(flat)
    return arrow.RecordBatch.from_arrays(arrays, schema=schema)
