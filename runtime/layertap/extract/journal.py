"""The journal of a shard: one line for each finished chunk, `JSON space CRC-32 line feed`.

A line stands for rows that are on the disk: it is written after they are. Of several lines of one
chunk, the last one counts. Reading ends at the first line that is not whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layertap.errors import CollectionBusyError, CollectionError

from .disk import MADE, File, reading, remove, rename, synchronize_folder, write_file
from .layout import Grid, canonical
from .workers import Chunk


class Record(NamedTuple):
    """What a line says."""

    chunk: Chunk
    crc: Mapping[str, int]
    """By column, the CRC-32 of the bytes of its rows."""
    failed: Mapping[int, str]
    """Reasons by rows of the whole list."""
    nonfinite: Mapping[str, int]
    """By column, how many values of the good rows are not finite; those with 0 are left out."""
    sha256: Sequence[str]
    """One for each row, "" where nothing was read; empty if nothing was hashed."""

    def line(self) -> bytes:
        """The line."""
        return _line(
            {
                "chunk": self.chunk.number,
                "first": self.chunk.first,
                "rows": self.chunk.count,
                "crc": dict(self.crc),
                "failed": sorted(map(list, self.failed.items())),
                "nonfinite": dict(self.nonfinite),
                "sha256": list(self.sha256) if any(self.sha256) else [],
            }
        )


def reopened(number: int) -> bytes:
    """The line that says that a chunk is computed again, so that its former line does not count."""
    return _line({"chunk": number, "reopened": True})


def _line(fields: Mapping[str, Any]) -> bytes:
    text = canonical(fields)
    return b"%b %08x\n" % (text, zlib.crc32(text))


class Line(NamedTuple):
    """A line of a journal."""

    at: int
    """Where it begins in the file."""
    end: int
    number: int
    """Of the chunk."""
    record: Record | None
    """`None` for a chunk that was reopened."""


def read_lines(path: Path, numbers: range, grid: Grid) -> Iterator[Line]:
    """The whole lines at the beginning of a journal; none if there is no file.

    Args:
        path: the journal.
        numbers: the chunks of its shard.
        grid: which rows they have.
    """
    with contextlib.suppress(FileNotFoundError), reading(path) as file:
        at = 0
        for line in file:
            found = _parsed(line, numbers, grid)
            if found is None:
                return
            yield Line(at, at + len(line), *found)
            at += len(line)


def _parsed(line: bytes, numbers: range, grid: Grid) -> tuple[int, Record | None] | None:
    """The chunk and its record; `None` if the line is not whole or does not belong here."""
    text = line[:-10]
    if line[-10:] != b" %08x\n" % zlib.crc32(text):
        return None
    try:
        found = json.loads(text.decode())
        number = found["chunk"]
        if type(number) is not int or number not in numbers:
            return None
        if found.get("reopened") is True:
            return number, None
        chunk = grid.at(number)
        if (found["first"], found["rows"]) != (chunk.first, chunk.count):
            return None
        failed = {row: str(reason) for row, reason in found["failed"]}
        rows = range(chunk.first, chunk.first + chunk.count)
        hashes = found["sha256"]
        if any(row not in rows for row in failed) or len(hashes) not in (0, chunk.count):
            return None
        return number, Record(chunk, found["crc"], failed, found["nonfinite"], hashes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


class Summary:
    """What the lines of a journal add up to; the hashes stay on the disk."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[int, int]] = {}
        """Of each finished chunk, where its line begins and ends."""
        self._failed: dict[int, Mapping[int, str]] = {}
        self._nonfinite: dict[int, Mapping[str, int]] = {}

    def add(self, line: Line) -> None:
        """Take a line into account, after all lines before it."""
        for kept in (self.places, self._failed, self._nonfinite):
            kept.pop(line.number, None)
        if line.record is not None:
            self.places[line.number] = line.at, line.end
            if line.record.failed:
                self._failed[line.number] = line.record.failed
            if line.record.nonfinite:
                self._nonfinite[line.number] = line.record.nonfinite

    @property
    def with_failures(self) -> set[int]:
        """The chunks that have failed rows."""
        return set(self._failed)

    @property
    def failed(self) -> dict[int, str]:
        """The reasons of failed rows, by row."""
        return {row: text for _, part in sorted(self._failed.items()) for row, text in part.items()}

    @property
    def nonfinite(self) -> dict[str, int]:
        """By column, how many values of good rows are not finite; columns without any are left
        out."""
        total: dict[str, int] = {}
        for part in self._nonfinite.values():
            for key, count in part.items():
                total[key] = total.get(key, 0) + count
        return total


def summary_of(path: Path, numbers: range, grid: Grid) -> Summary:
    """What a journal says."""
    summary = Summary()
    for line in read_lines(path, numbers, grid):
        summary.add(line)
    return summary


def records(path: Path, numbers: range, grid: Grid, summary: Summary) -> Iterator[Record]:
    """The records of all finished chunks, by their numbers, one in memory at a time."""
    if not summary.places:
        return
    with reading(path) as file:
        for number in sorted(summary.places):
            at, end = summary.places[number]
            file.seek(at)
            found = _parsed(file.read(end - at), numbers, grid)
            if found and found[1]:
                yield found[1]


class Journal:
    """The journal of a shard, open for writing, and locked."""

    def __init__(self, path: Path, numbers: range, grid: Grid) -> None:
        """Open it, or make it; cut off what is not whole.

        Raises:
            CollectionBusyError: another process writes to it.
            OSError: it cannot be written.
        """
        self.path, self._numbers, self._grid = path, numbers, grid
        self._broken = False
        self._file = locked(path)
        try:
            self.summary = Summary()
            self._end = self._count = 0
            for line in read_lines(path, numbers, grid):
                self.summary.add(line)
                self._end, self._count = line.end, self._count + 1
            if self._file.size() != self._end:
                # Before a row is written: whole lines behind the damaged one stand for old rows.
                self._file.truncate(self._end)
                self._file.synchronize()
        except BaseException:
            self.close()
            raise

    def append(self, lines: Iterable[tuple[int, Record | None]]) -> None:
        """Write lines for chunks, `None` for one that is reopened, and bring them to the disk.

        Raises:
            CollectionError: the journal is not there any more.
            OSError: they could not be written; no other line can be, until it is opened again.
        """
        if self._broken:
            raise OSError("an earlier line of the journal could not be written")
        self._file.check_name()
        added, data, at = [], b"", self._end
        for number, record in lines:
            text = record.line() if record else reopened(number)
            added.append(Line(at + len(data), at + len(data) + len(text), number, record))
            data += text
        self._broken = True
        self._file.write(data, at)
        self._file.synchronize()
        self._broken = False
        self._end += len(data)
        self._count += len(added)
        for line in added:
            self.summary.add(line)

    @property
    def complete(self) -> bool:
        """Whether every chunk of the shard is finished."""
        return len(self.summary.places) == len(self._numbers)

    def tidy(self) -> None:
        """Write it with one line for each chunk, in order, if it is not so already."""
        places = list(self.summary.places.items())
        if self._count == len(places) and places == sorted(places):
            return
        fresh = self.path.with_name(f".{self.path.name}.part")
        numbered = records(self.path, self._numbers, self._grid, self.summary)
        write_file(fresh, (record.line() for record in numbered))
        file = File(fresh)
        try:
            file.lock()  # before it has the name, so that nobody else can be faster
            if os.name == "nt":  # which renames no open files
                file.close()
                self._file.close()
            rename(fresh, self.path)
        except BaseException:
            file.close()
            raise
        self._file.close()
        self._file = File(self.path) if os.name == "nt" else file
        self._file.path = self.path
        self.summary = Summary()
        for line in read_lines(self.path, self._numbers, self._grid):
            self.summary.add(line)
        self._end, self._count = file.size(), len(places)

    def records(self) -> Iterator[Record]:
        """The records of all finished chunks, in order."""
        return records(self.path, self._numbers, self._grid, self.summary)

    def close(self) -> None:
        """Close it, and give up the lock."""
        release(self._file)


def locked(path: Path) -> File:
    """Open a journal, which is made if it is missing, and lock it.

    Raises:
        CollectionBusyError: another process has locked it.
        OSError: it cannot be written.
    """
    import platform

    while True:
        file = File(path, MADE)
        try:
            if not file.lock():
                raise CollectionBusyError(_busy(path))
            if file.has_its_name():
                if not file.size():
                    synchronize_folder(path.parent)
                who = canonical({"pid": os.getpid(), "host": platform.node()})
                with contextlib.suppress(OSError):
                    write_file(_writer(path), [who])
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # another process has just written it in order


def release(file: File) -> None:
    """Close a journal that is locked, and give up the lock."""
    try:
        if file.has_its_name():
            with contextlib.suppress(OSError):
                remove(_writer(file.path))
    finally:
        file.close()


def _writer(path: Path) -> Path:
    """The file that says which process writes a journal."""
    return path.with_suffix(".writer")


def _busy(path: Path) -> str:
    try:
        with reading(_writer(path)) as file:
            found = json.loads(file.read())
        who = f"the process {int(found['pid'])} on {str(found['host'])!r}"
    except (OSError, CollectionError, ValueError, TypeError, KeyError):
        who = "another process"
    return (
        f"{who} is writing to {str(path.parent.parent)!r}. Wait until it has ended, or give "
        "another folder. Several processes can share the work as shards."
    )
