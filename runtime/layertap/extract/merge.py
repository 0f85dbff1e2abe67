"""Joins the shards of a collection into one that is the same, byte for byte, as without shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layertap._arguments import items as listed
from layertap.errors import CollectionError, CollectionMismatchError, UsageError
from layertap.format.text import number_of

from .features import Features, features
from .identity import Identity, check_same, differences
from .journal import Record
from .layout import place
from .workers import Finished
from .writer import Writer

ROUND = 1 << 26
"""Bytes that are copied before they are brought to the disk."""


def merge(
    folders: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    strict: bool = False,
) -> Features:
    """Join collections that hold the shards of one list.

    Every row is compared with its checksum. If it is interrupted, the same call continues.

    Args:
        folders: the collections; all shards may be in one folder, or each in its own.
        output: where the whole is written, as by one process without shards. A name that ends in
            `.zarr` makes a zarr store.
        overwrite: whether a collection that is there is replaced.
        strict: whether it is an error that the shards were computed with different versions or on
            different devices, instead of a warning.

    Raises:
        CollectionError: a folder is no collection, rows are missing or damaged, or are there twice.
        CollectionMismatchError: the collections were not begun with the same request.
        UsageError: there is no folder, or the output is one of them.
        OutputError: the output cannot be written.
    """
    alone = isinstance(folders, (str, os.PathLike))
    given: list[Any] = [folders] if alone else listed("folders", folders)
    if not given:
        raise UsageError("there is nothing to merge: give the folders of the shards.")
    target = place(output).root
    found: dict[str, Features] = {}
    for one in given:
        root = str(place(one).root)
        if root == str(target):
            raise UsageError(f"{os.fsdecode(one)!r} is merged and cannot be the output, too.")
        found[root] = features(one)
    parts = list(found.values())
    whole = _whole(parts, strict)
    sources = _sources(parts)
    first = parts[0]
    items = list(first.ids.items())
    with Writer.open(
        output, whole, items, first.columns, overwrite=overwrite, strict=strict
    ) as writer:
        todo = {chunk.number for chunk in writer.todo()}
        held: list[Finished] = []
        for part, record in _records(sources):
            if record.chunk.number not in todo:
                continue
            held.append(_read(part, record))
            if sum(block.nbytes for one in held for block in one.blocks.values()) > ROUND:
                writer.write(*held)
                held = []
        if held:
            writer.write(*held)
        writer.finish()
    return features(output)


def _whole(parts: Sequence[Features], strict: bool) -> Identity:
    """The identity of the whole: that of the shards, but for their number.

    Raises:
        CollectionMismatchError: they are not the same.
    """
    first = parts[0]
    for part in parts[1:]:
        other = differences(first.identity, part.identity)
        if other:
            raise CollectionMismatchError(
                f"{str(first.path)!r} and {str(part.path)!r} do not belong together: the first was "
                f"begun with {other}."
            )
        check_same(first.identity, part.identity, str(first.path), strict=strict)
    return Identity({**first.identity.asked, "shards": 1}, first.identity.made_with)


def _sources(parts: Sequence[Features]) -> list[tuple[Features, int]]:
    """Where each shard is, in order.

    Raises:
        CollectionError: rows are missing, or are in two collections.
    """
    grid = parts[0].identity.grid
    found = []
    for shard, rows in grid.parts():
        name = f"shard {shard + 1} of {grid.shards}"
        having = [part for part in parts if part.done_in(shard)]
        if len(having) > 1:
            both = " and ".join(repr(str(part.path)) for part in having[:2])
            raise CollectionError(
                f"{name} (rows {rows.start} to {rows.stop - 1}) is in both {both}. Give only one "
                "of them."
            )
        if not having:
            raise CollectionError(
                f"{name} (rows {rows.start} to {rows.stop - 1}) is in none of the folders."
            )
        left = len(rows) - having[0].done_in(shard)
        if left:
            raise CollectionError(
                f"{name} is not finished in {str(having[0].path)!r}: {number_of(left, 'row')} "
                f"of {len(rows)} are missing. Continue it first."
            )
        found.append((having[0], shard))
    return found


def _records(sources: Sequence[tuple[Features, int]]) -> Iterator[tuple[Features, Record]]:
    for part, shard in sources:
        for record in part.records(shard):
            yield part, record


def _read(part: Features, record: Record) -> Finished:
    """The rows of a chunk.

    Raises:
        CollectionError: they are damaged.
    """
    chunk = record.chunk
    blocks: dict[str, Any] = {}
    for key in part:
        block = part.block(key, record)
        if block is None:
            raise CollectionError(
                f"the rows {chunk.first} to {chunk.first + chunk.count - 1} of {key!r} in "
                f"{str(part.path)!r} are damaged: their checksum is another one. Compute this "
                "shard again."
            )
        blocks[key] = block
    hashes = tuple(record.sha256) or ("",) * chunk.count
    failed: Mapping[int, str] = record.failed
    return Finished(chunk, blocks, hashes, failed, record.nonfinite)
