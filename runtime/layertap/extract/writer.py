"""Writes a collection: creates or continues it, chunk by chunk, so that a kill loses little.

The order of operations makes it safe. A new folder is complete before it gets its name. The rows of
a chunk are brought to the disk before the journal says that they are there. What is derived from
the journals (`manifest.csv`, `ok.npy`, and `summary.json` as the last) is written at the end.
"""

from __future__ import annotations

import csv
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layertap.errors import (
    CollectionError,
    CollectionMismatchError,
    ImageError,
    OutputError,
    UsageError,
)

from .columns import Column, fill_of
from .disk import (
    UNFINISHED,
    alone,
    create_folder,
    explaining,
    new_folder,
    remove,
    replace_file,
    sweep_folders,
    write_file,
)
from .identity import Identity, Stored, check_same, content_of, read_identity
from .item_list import ItemList, check_unique, digest_of_times, escaped, file_digest, written
from .items import Item
from .journal import Journal, Record, Summary, locked, records, release, summary_of
from .layout import (
    IDENTITY,
    ITEMS,
    JOURNAL,
    MANIFEST,
    OK,
    SUMMARY,
    Place,
    as_bytes,
    folders,
    header,
    little,
    place,
    readable,
    spread,
)
from .npy_parts import NpyParts, make_folders
from .workers import Chunk, Finished
from .zarr_arrays import ZarrArrays, make_store

UNDATED = 1000
"""Number of items without a time of modification that are read to see whether they are the same."""

AGAIN = "Run the same command again to continue."


class _Arrays(Protocol):
    """Where the rows go."""

    def write(self, key: str, first: int, block: NDArray[Any]) -> None: ...
    def synchronize(self) -> None: ...
    def close(self) -> None: ...


class Readable(Protocol):
    """What reads the items."""

    digest: bool

    def read(self, row: int) -> Any: ...


class Writer:
    """A collection, open for writing one shard. It is used by one thread."""

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        identity: Identity,
        items: Sequence[Item],
        columns: Sequence[Column],
        *,
        shard: tuple[int, int] = (0, 1),
        overwrite: bool = False,
        strict: bool = False,
    ) -> Writer:
        """Create a collection, or continue one that was begun with the same identity.

        Args:
            folder: where it is; a name that ends in `.zarr` makes a zarr store.
            identity: what is requested, from `identity_of`.
            items: the frozen list.
            columns: what is computed.
            shard: the index of the shard, from 0, and how many there are.
            overwrite: whether a collection that is there is replaced.
            strict: whether other versions or another device are an error instead of a warning.

        Raises:
            UsageError: the shard does not exist, two items have one id, or a column has no numbers.
            CollectionError: the folder is something else, or the collection is damaged.
            CollectionMismatchError: it was begun with something else.
            CollectionBusyError: another process writes this shard.
            DependencyError: zarr is needed and missing.
            OutputError: the folder cannot be written.
        """
        where = place(folder)
        _check_shard(shard, identity)
        for column in columns:
            little(column.dtype)
        with explaining(where.root):
            sweep_folders(where.root.parent)
            if is_free(where):
                _create(where, identity, items, columns)
            elif overwrite:
                with _to_overwrite(where, shard):
                    _create(where, identity, items, columns, replaced=True)
            stored = read_identity(where)
            told = _other_item(where, stored, items) if stored.sha256 != identity.sha256 else ""
            check_same(stored, identity, str(folder), strict=strict, items=told)
            _check_list(where, stored)
            return cls(where, stored, shard[0], items)

    def __init__(self, where: Place, stored: Stored, shard: int, items: Sequence[Item]) -> None:
        """Open it; `Writer.open` checks everything first."""
        self._place, self._stored, self._shard, self._items = where, stored, shard, items
        self.identity: Identity = stored
        """As it was begun."""
        self._columns = stored.columns
        self._grid = stored.grid
        self._numbers = self._grid.of_shard(shard)
        self._journal = Journal(where.journal(shard), self._numbers, self._grid)
        self._arrays: _Arrays
        try:
            if where.zarr:
                self._arrays = ZarrArrays(where, self._columns, self._grid)
            else:
                fresh = not self._journal.summary.places
                self._arrays = NpyParts(where, self._columns, self._grid, shard, fresh)
            self._finished = all((where.home / name).exists() for name in (MANIFEST, OK, SUMMARY))
            if not self.complete:
                self._reopen([])
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def rows(self) -> range:
        """The rows of this shard."""
        return self._grid.rows_of(self._shard)

    @property
    def done_rows(self) -> int:
        """How many rows of this shard are finished, failed ones included."""
        return self._grid.count(self._journal.summary.places)

    @property
    def failed(self) -> Mapping[int, str]:
        """The reasons of the rows of this shard that failed."""
        return self._journal.summary.failed

    @property
    def nonfinite(self) -> Mapping[str, int]:
        """By column, how many values of good rows are not finite; columns without any are left
        out."""
        return self._journal.summary.nonfinite

    @property
    def complete(self) -> bool:
        """Whether every row of this shard is finished."""
        return self._journal.complete

    def todo(self, *, retry_failed: bool = False) -> Iterator[Chunk]:
        """The chunks of this shard that are not finished, in order.

        Args:
            retry_failed: also those in which rows failed.
        """
        summary = self._journal.summary
        again = summary.with_failures if retry_failed else set[int]()
        numbers = [one for one in self._numbers if one not in summary.places or one in again]
        return map(self._grid.at, numbers)

    def write(self, *finished: Finished) -> None:
        """Write the rows of chunks, bring them to the disk, and then say so in the journal.

        Rows that failed are set to NaN, or 0 where a dtype has none.

        Raises:
            OutputError: the disk is full or fails. The rows that were finished before are kept.
        """
        kept = f"{self.done_rows} of {len(self.rows)} rows are complete and kept. {AGAIN}"
        with explaining(self._place.root, kept):
            again = [one.chunk.number for one in finished]
            again = [number for number in again if number in self._journal.summary.places]
            if again or self._finished:
                self._reopen(again)
            written_records = [self._write_rows(one) for one in finished]
            self._arrays.synchronize()
            self._journal.append((record.chunk.number, record) for record in written_records)

    def _write_rows(self, finished: Finished) -> Record:
        chunk = finished.chunk
        if chunk.number not in self._numbers or chunk != self._grid.at(chunk.number):
            raise UsageError(f"{chunk} is not a chunk of this shard.")
        failed = sorted(row - chunk.first for row in finished.failed)
        crc: dict[str, int] = {}
        for column in self._columns:
            dtype = little(column.dtype)
            block = np.asarray(finished.blocks[column.key])
            if block.shape != (chunk.count, *column.shape) or block.dtype != column.dtype:
                raise UsageError(
                    f"the rows of {column.key!r} must be {(chunk.count, *column.shape)} in "
                    f"{column.dtype}, got {block.shape} in {block.dtype}."
                )
            block = np.ascontiguousarray(block, dtype)
            if failed:
                block = block.copy()
                block[failed] = fill_of(dtype)
            crc[column.key] = zlib.crc32(as_bytes(block))
            self._arrays.write(column.key, chunk.first, block)
        nonfinite = {key: count for key, count in finished.nonfinite.items() if count}
        return Record(chunk, crc, finished.failed, nonfinite, finished.sha256)

    def _reopen(self, numbers: Sequence[int]) -> None:
        """Remove what says that the collection and some chunks are complete, before rows change.

        A writer of another shard that is just finishing may not come between.
        """
        with alone(self._place.home / IDENTITY):
            remove(self._place.home / SUMMARY)
            self._finished = False
            if numbers:
                self._journal.append((number, None) for number in numbers)

    def reopen(self, numbers: Sequence[int]) -> None:
        """Have chunks computed again: they are in `todo` from now on, also after a kill.

        Raises:
            OutputError: the journal cannot be written.
        """
        with explaining(self._place.root):
            self._reopen(numbers)

    def check_changed(self, items: Readable) -> None:
        """Check that no item whose row is finished has changed since.

        Only items are read whose time of modification is not the one in the list, and, of those
        that have none, such as arrays in memory, up to `UNDATED`. Items that cannot be read any
        more, and rows without a hash, are left as they are.

        Raises:
            CollectionMismatchError: an item has other contents, though the same size.
        """
        if not items.digest:
            return
        later = {row for row in spread(self.rows, UNDATED) if not self._items[row].mtime_ns}
        if digest_of_times(self._items) != self._stored.content["items"]["times"]:
            listed = ItemList(self._place.home / ITEMS, self._grid.rows)
            before = [item.mtime_ns for item in listed.items()]
            later |= {row for row in self.rows if before[row] != self._items[row].mtime_ns}
        numbers = {row // self._grid.chunk for row in later} & self._journal.summary.places.keys()
        if not numbers:
            return
        for record in self._journal.records():
            if record.chunk.number in numbers and record.sha256:
                rows = range(record.chunk.first, record.chunk.first + record.chunk.count)
                for row, known in zip(rows, record.sha256, strict=True):
                    if row in later and known and row not in record.failed:
                        self._compare(items, row, known)

    def _compare(self, items: Readable, row: int, known: str) -> None:
        try:
            now = items.read(row).sha256
        except ImageError:
            return
        if now != known:
            raise CollectionMismatchError(
                f"{self._items[row].id!r} has changed since its row {row} was computed. Give "
                "another folder, or overwrite it (--overwrite, overwrite=True)."
            )

    def finish(self) -> None:
        """Write manifest.csv, ok.npy and, last, summary.json, if all shards are complete.

        Nothing is done while rows of this shard are missing. Where the other shards are in other
        folders, `merge` does the same.

        Raises:
            OutputError: they cannot be written; `finish` can be called again.
        """
        if not self.complete or self._finished:
            return
        with explaining(self._place.root, f"All rows are complete and kept. {AGAIN}"):
            self._journal.tidy()
            with alone(self._place.home / IDENTITY):
                journals = {
                    shard: summary_of(self._place.journal(shard), numbers, self._grid)
                    for shard in range(self._grid.shards)
                    if (numbers := self._grid.of_shard(shard)) and shard != self._shard
                }
                journals[self._shard] = self._journal.summary
                if sum(len(one.places) for one in journals.values()) == self._grid.chunks:
                    _derive(self._place, self._stored, journals)
                    self._finished = True

    def close(self) -> None:
        """Close the files, and let other processes write."""
        try:
            self._arrays.close()
        finally:
            self._journal.close()


def _check_shard(shard: tuple[int, int], identity: Identity) -> None:
    index, count = shard
    if not 0 <= index < count:
        raise UsageError(f"there is no shard {index + 1} of {count}.")
    if count != identity.asked["shards"]:
        raise UsageError(f"the identity is that of {identity.asked['shards']} shards, not {count}.")


def is_free(where: Place) -> bool:
    """Whether there is no folder, or an empty one.

    Raises:
        CollectionError: there is something that is no collection.
        OutputError: there can be no folder.
    """
    root = where.root
    if not os.path.lexists(root):
        above = next(parent for parent in root.parents if os.path.lexists(parent))
        if not above.is_dir():
            raise OutputError(
                f"cannot write {str(root)!r}: {str(above)!r} is a file, not a folder."
            )
        return True
    if not root.is_dir():
        raise CollectionError(f"{str(root)!r} is a file. Give the name of a folder.")
    names = sorted(os.listdir(root))
    if UNFINISHED in names:  # its creation was interrupted
        return True
    if names and not (where.home / IDENTITY).exists():
        raise CollectionError(
            f"{str(root)!r} is not a collection: it contains {names[0]!r} and no {IDENTITY}. Give "
            "another folder; it may be missing, or empty."
        )
    return not names


@contextmanager
def _to_overwrite(where: Place, shard: tuple[int, int]) -> Iterator[None]:
    """Keep other processes away from a collection that is replaced.

    Raises:
        CollectionError: the folder does not look like a collection.
        CollectionBusyError: a process writes to it.
        UsageError: it would be done for one shard only.
    """
    if shard[1] > 1:
        raise UsageError(
            f"one shard cannot overwrite {str(where.root)!r}, which holds the others, too. Remove "
            "the folder first, once for all shards."
        )
    folder = where.home / JOURNAL
    if not folder.is_dir() or not (where.home / ITEMS).exists():
        raise CollectionError(
            f"{str(where.root)!r} is not overwritten, because it is not a collection: {JOURNAL} or "
            f"{ITEMS} is missing. Give another folder."
        )
    with ExitStack() as stack:
        for path in sorted(folder.glob("*.jsonl")):
            stack.callback(release, locked(path))
        yield


def _create(
    where: Place,
    identity: Identity,
    items: Sequence[Item],
    columns: Sequence[Column],
    replaced: bool = False,
) -> None:
    """Create the folder, without rows."""
    check_unique(items)
    named = folders(columns)
    columns = [column._replace(folder=named[column.key]) for column in columns]

    def fill(root: Path) -> None:
        home = root / where.home.relative_to(where.root)
        if where.zarr:
            make_store(root, columns, identity.grid)
        else:
            make_folders(root, columns)
        new_folder(home / JOURNAL)
        write_file(home / ITEMS, written(items))
        about = {"sha256": file_digest(home / ITEMS), "times": digest_of_times(items)}
        write_file(home / IDENTITY, [content_of(identity, columns, about)])

    create_folder(where.root, fill, replaced)


def _other_item(where: Place, stored: Stored, items: Sequence[Item]) -> str:
    """The first item that is not the one in the list, in words; empty if there is none."""
    found = ItemList(where.home / ITEMS, stored.grid.rows)
    for row, (before, now) in enumerate(zip(found.items(), items, strict=False)):
        if before.id != now.id:
            return f"row {row} is {before.id!r}, now {now.id!r}"
        if before.size != now.size:
            return f"{now.id!r} has {now.size} bytes, not {before.size}"
    return ""


def _check_list(where: Place, stored: Stored) -> None:
    """
    Raises:
        CollectionError: items.tsv is damaged.
    """
    path = where.home / ITEMS
    if file_digest(path) != stored.content["items"]["sha256"]:
        raise CollectionError(
            f"{str(path)!r} is damaged: its SHA-256 is not the one in {IDENTITY}. Restore it from "
            "a copy, or extract again into another folder."
        )


def _derive(where: Place, stored: Stored, journals: Mapping[int, Summary]) -> None:
    """Write what is derived from the journals of all shards.

    Args:
        where: the collection.
        stored: its identity.
        journals: what they say, by shard.
    """
    grid = stored.grid
    ok = np.ones(grid.rows, np.bool_)
    failed: dict[int, str] = {}
    nonfinite: dict[str, int] = {}
    for one in journals.values():
        failed.update(one.failed)
        for key, count in one.nonfinite.items():
            nonfinite[key] = nonfinite.get(key, 0) + count
    ok[list(failed)] = False
    replace_file(where.home / MANIFEST, _manifest(where, stored, journals))
    data = (header(ok.dtype, ok.shape), ok.tobytes())
    replace_file(where.home / OK, data)
    summary = {
        "identity": stored.sha256,
        "rows": grid.rows,
        "failed": len(failed),
        "nonfinite": nonfinite,
    }
    replace_file(where.home / SUMMARY, [readable(summary)])


def _manifest(where: Place, stored: Stored, journals: Mapping[int, Summary]) -> Iterator[bytes]:
    """manifest.csv, in pieces: row, id (as in items.tsv), ok, sha256, error."""
    grid = stored.grid
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(("row", "id", "ok", "sha256", "error"))
    ids = iter(ItemList(where.home / ITEMS, grid.rows))
    for shard in sorted(journals):
        numbers = grid.of_shard(shard)
        for record in records(where.journal(shard), numbers, grid, journals[shard]):
            chunk = record.chunk
            for at in range(chunk.count):
                row = chunk.first + at
                reason = record.failed.get(row)
                known = record.sha256[at] if record.sha256 else ""
                why = "" if reason is None else escaped(reason)
                out.writerow((row, escaped(next(ids)), int(reason is None), known, why))
            if text.tell() > 1 << 16:
                yield text.getvalue().encode()
                text.seek(0)
                text.truncate()
    yield text.getvalue().encode()
