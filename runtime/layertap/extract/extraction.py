"""Extraction: what is computed for each item of a collection, written to a folder.

The same call continues what an earlier one began: the rows that are done are not computed again.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any

from layertap._arguments import count, flag, number
from layertap._engine.program import Program
from layertap._escaping import one_line
from layertap.errors import ImageError, UsageError
from layertap.format.digest import digest_of
from layertap.format.text import number_of

from .bill import Bill, bytes_of, free_bytes
from .columns import Columns, columns_of
from .features import Features, features
from .identity import Identity, identity_of, read_identity
from .inputs import check_fits, check_readable, recipe_for
from .item_list import Known, digest
from .items import Item
from .layout import MOST_SHARDS, Grid, Place, place, spread
from .made_with import made_with
from .progress import Meter, Progress, Reporter, reporter_for
from .readers import ReaderItems
from .sources import find_items
from .workers import (
    Chunk,
    Finished,
    default_batch,
    default_workers,
    on_one_thread,
    preparation,
    run_chunks,
)
from .writer import Writer, is_free

TRIED = 8
"""Number of images that are tried for the bill."""

WORTH_CHECKING = 4 * TRIED
"""Number of rows from which on it is an error if none of those that are tried can be read."""

WORTH_TRYING = 50 * TRIED
"""Number of rows from which on the time is estimated: it takes up to 2 % longer."""

CHUNK_BYTES, CHUNK_ROWS, CHUNKS = 16_000_000, 256, 32
"""A chunk has at most so many bytes and rows, and each shard at least so many chunks if it has as
many rows: so a kill loses little, and all workers have work until the end."""

READY_BATCH = 32
"""Rows in one run if they are arrays, which need no preparation."""


class Extraction:
    """A request for features of a collection, checked; nothing is written before `run`."""

    def __init__(
        self,
        program: Program,
        source: Any,
        layers: Any,
        output: str | os.PathLike[str],
        *,
        dtype: Any = None,
        preprocess: Any = None,
        listed: str | os.PathLike[str] | None = None,
        column: str | None = None,
        reader: Any = None,
        cam_layer: Any = None,
        batch_size: int | None = None,
        chunk: int | None = None,
        workers: int | None = None,
        shard: str | Sequence[int] | None = None,
        max_failures: str | float | None = None,
        retry_failed: bool = False,
        overwrite: bool = False,
        strict: bool = False,
    ) -> None:
        """See `Model.extract`."""
        self._program = program
        self.output = output
        self._place: Place = place(output)
        self._shard = shard_of(shard)
        self._most = Limit(max_failures)
        self._retry = flag("retry_failed", retry_failed)
        self._overwrite, self._strict = flag("overwrite", overwrite), flag("strict", strict)
        self._workers = default_workers() if workers is None else count("workers", workers)
        batch = None if batch_size is None else count("batch_size", batch_size)
        chunk = None if chunk is None else count("chunk", chunk)
        self._recipe = recipe_for(program, preprocess)
        self._closing = ExitStack()
        self._opened: Writer | None = None
        begun = self._begun()
        self._items = find_items(
            source,
            listed=listed,
            column=column,
            reader=reader,
            recipe=self._recipe,
            output=output,
            known=() if begun is None else Known(features(output).ids),
        )
        self._closing.callback(self._items.close)
        self._closing.callback(self._close_writer)
        try:
            check_readable(program, self._items, self._recipe)
            rows = len(self._items.items)
            if self._shard[1] > rows:
                raise UsageError(f"{number_of(rows, 'item')} cannot be {self._shard[1]} shards.")
            self._columns = columns_of(
                program,
                layers,
                dtype=dtype,
                recipe=None if self._items.ready else self._recipe,
                cam_layer=cam_layer,
            )
            check_fits(program, self._items, self._columns.work.input)
            self._batch = batch or self._default("batch", begun, rows)
            self._chunk = chunk or self._default("chunk", begun, rows)
            file = digest_of(program.source)
            self._listed, listed_digest = self._reconciled(begun)
            self._identity = identity_of(
                self._listed,
                self._columns.columns,
                model=f"{file.graph} {file.weights}",
                preprocess=self._prepared_by(),
                chunk=self._chunk,
                batch=self._batch,
                shards=self._shard[1],
                made_with=made_with(program),
                listed=listed_digest,
            )
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Extraction:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _begun(self) -> Identity | None:
        """How the collection was begun, if it is to be continued."""
        if is_free(self._place) or self._overwrite:
            return None
        return read_identity(self._place)

    def _reconciled(self, begun: Identity | None) -> tuple[Sequence[Item], str]:
        """The list and its digest, with the stored sizes of items that may have others now: of
        images that failed and were repaired since, or whose repaired contents are those that the
        row was computed from. No row depends on what they were."""
        listed = self._items.items
        found = digest(listed)
        if begun is None or found == begun.asked["items"] or len(listed) != begun.asked["rows"]:
            return listed, found
        collection = features(self.output)
        before = collection.ids.items()
        pairs = enumerate(zip(before, listed, strict=True))
        other = {row: old for row, (old, new) in pairs if old.id == new.id and old.size != new.size}
        computed = {
            row: record.sha256[row - record.chunk.first]
            for record in collection.records()
            for row in other.keys() & set(_rows(record.chunk))
            if record.sha256 and row not in record.failed
        }
        reconciled = list(listed)
        for row, old in other.items():
            if row in collection.errors or self._is(row, computed):
                reconciled[row] = old
        return reconciled, digest(reconciled)

    def _is(self, row: int, computed: Mapping[int, str]) -> bool:
        """Whether an item has the contents that its row was computed from."""
        try:
            return row in computed and self._items.read(row).sha256 == computed[row]
        except ImageError:
            return False

    def _default(self, name: str, begun: Identity | None, rows: int) -> int:
        """The rows in a batch or chunk: those of the collection that is continued; or else what
        suits, which is the same on every machine that computes a shard."""
        if begun is not None:
            size: int = begun.asked[name]
            return size
        if name == "batch":
            return READY_BATCH if self._items.ready else default_batch(self._program)
        row_bytes = sum(map(bytes_of, self._columns.columns))
        most = min(CHUNK_ROWS, CHUNK_BYTES // max(row_bytes, 1), rows // (CHUNKS * self._shard[1]))
        return max(1, most // self._batch) * self._batch

    def _prepared_by(self) -> Any:
        """What makes an input of an item, as JSON."""
        about: dict[str, Any] = {}
        if self._recipe is not None and not self._items.ready:
            about["recipe"] = self._recipe.to_dict()
        if isinstance(self._items, ReaderItems):
            reader = self._items.reader
            about["reader"] = {"name": reader.name, "sha256": reader.sha256}
        return about or None

    # --- The bill -------------------------------------------------------------------------------

    def bill(self, *, tried: bool = False) -> Bill:
        """What will be written, and how long it will take.

        Args:
            tried: try some images even if there are few.

        Raises:
            ImageError: none of the images that were tried can be read.
            OutputError: the disk cannot hold it.
        """
        bill, left = self._untried()
        if left and (tried or len(left) >= WORTH_TRYING):
            tries = spread(left, TRIED)
            seconds = self._try(tries) * len(left)
            return replace(bill, tried=len(tries), seconds=seconds)
        self._check_readable(left)
        return bill

    def check(self) -> None:
        """Check what can be checked before the work, as `bill` does, without an estimate.

        Raises:
            ImageError: none of the images that were tried can be read.
            OutputError: the disk cannot hold it.
        """
        _, left = self._untried()
        self._check_readable(left)

    def _untried(self) -> tuple[Bill, Sequence[int]]:
        """The bill without the time, and the rows of this shard that have to be computed."""
        left = self._rows_left()
        bill = Bill(
            rows=len(self._items.items),
            left=len(left),
            columns=self._columns.columns,
            free=free_bytes(self._place.root),
        )
        bill.check(self.output)
        return bill, left

    def _rows_left(self) -> Sequence[int]:
        """The rows of this shard that have to be computed."""
        grid: Grid = self._identity.grid
        rows = grid.rows_of(self._shard[0])
        if self._begun() is None:
            return rows
        todo = self._writer().todo(retry_failed=self._retry)
        return list(chain.from_iterable(_rows(chunk) for chunk in todo))

    def _check_readable(self, left: Sequence[int]) -> None:
        """Read some of the images until one can be read."""
        if len(left) < WORTH_CHECKING:
            return
        prepare = preparation(self._items, self._program, self._columns.work.input, self._recipe)
        failed: dict[int, str] = {}
        for row in spread(left, TRIED):
            try:
                prepare(self._items.read(row).content)
                return
            except ImageError as exc:
                failed[row] = str(exc)
        raise self._unreadable(failed)

    def _try(self, rows: Sequence[int]) -> float:
        """Compute some rows: the seconds that one takes."""
        first, *others = [Chunk(at, row, 1) for at, row in enumerate(rows)]
        failed: dict[int, str] = {}
        began = time.monotonic()
        # The first one makes the session, which is not counted.
        for at, one in enumerate(self._computed(iter([first, *others]), threading.Event())):
            failed.update(one.failed)
            if not at and others:
                began = time.monotonic()
        seconds = (time.monotonic() - began) / max(len(others), 1)
        if len(failed) == len(rows):
            raise self._unreadable(failed)
        return seconds

    def _unreadable(self, failed: Mapping[int, str]) -> ImageError:
        row, reason = min(failed.items())
        return ImageError(
            f"{self._items.items[row].id}: {reason} None of the {number_of(len(failed), 'image')} "
            "that were tried can be read."
        )

    # --- Running it -----------------------------------------------------------------------------

    def run(
        self, progress: Progress | Reporter = None, stop: threading.Event | None = None
    ) -> Features:
        """Compute the rows that are missing, and write them.

        Args:
            progress: see `Model.extract`; or a reporter.
            stop: once it is set, the chunks that have begun are finished, and the rest is left.

        Returns:
            The collection; it is incomplete if it was stopped, or other shards are missing.

        Raises:
            ImageError: more images failed than may fail; what was computed is kept.
            CollectionError: see `Writer.open`.
            OutputError: the disk is full or fails.
        """
        reporter = reporter_for(progress)
        stop = threading.Event() if stop is None else stop
        with self._writer(overwrite=self._overwrite) as writer:
            self._opened = None
            writer.check_changed(self._items)
            meter = Meter(reporter, len(writer.rows), writer.done_rows, len(writer.failed))
            chunks = writer.todo(retry_failed=self._retry)
            try:
                with closing(self._computed(chunks, stop)) as results:
                    for finished in results:
                        writer.write(finished)
                        meter.update(writer.done_rows, len(writer.failed))
                        if self._most.exceeded(len(writer.failed), len(writer.rows)):
                            raise self._too_many(writer)
            finally:
                meter.close()
            if self._most.exceeded(len(writer.failed), len(writer.rows)):
                raise self._too_many(writer)
            writer.finish()
        self._overwrite = False
        return features(self.output)

    def _writer(self, overwrite: bool = False) -> Writer:
        """The collection, open for writing: the bill hands it on to the run."""
        if self._opened is None:
            self._opened = Writer.open(
                self.output,
                self._identity,
                self._listed,
                self._columns.columns,
                shard=self._shard,
                overwrite=overwrite,
                strict=self._strict,
            )
        return self._opened

    def _close_writer(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def _computed(
        self, chunks: Iterator[Chunk], stop: threading.Event
    ) -> Generator[Finished, None, None]:
        first = next(chunks, None)
        if first is None:  # no session is needed
            return
        yield from run_chunks(
            self._program,
            self._items,
            self._working,
            self._recipe,
            chain([first], chunks),
            batch=self._batch,
            workers=self._workers,
            ordered=False,
            stop=stop,
        )

    @cached_property
    def _working(self) -> Columns:
        """The columns as the workers compute them: one session serves the bill and the run."""
        if self._program.engine.device != "cpu":
            return self._columns
        return self._closing.enter_context(on_one_thread(self._columns))

    def _too_many(self, writer: Writer) -> ImageError:
        row, reason = min(writer.failed.items())
        return ImageError(
            f"{number_of(len(writer.failed), 'image')} failed, and at most {self._most} may. The "
            f"first is {self._items.items[row].id!r} (row {row}): {one_line(reason)} "
            f"{writer.done_rows:,} rows are complete and kept; the same command continues with "
            "another limit."
        )


class Limit:
    """How many items may fail: a number, or a share of them."""

    def __init__(self, given: str | float | None) -> None:
        """
        Args:
            given: an integer; a share below 1, such as 0.01; or a text, such as `"1%"` or `"20"`.

        Raises:
            UsageError: it is something else.
        """
        self._given = given
        self._share: float | None = None
        self._count: int | None = None
        if given is None:
            return
        try:
            if isinstance(given, str):
                found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", given)
                if found is None:
                    raise ValueError
                value = float(found[1]) / (100 if found[2] else 1)
                share = bool(found[2]) or 0 < value < 1
            else:
                value = number("max_failures", given)
                share = 0 < value < 1
            if not share and value != int(value):
                raise ValueError
        except (ValueError, OverflowError) as exc:
            raise UsageError(
                "max_failures must be a number of images, or a share of them such as '1%' or "
                f"0.01, got {given!r}."
            ) from exc
        if share:
            self._share = value
        else:
            self._count = int(value)

    def exceeded(self, failed: int, rows: int) -> bool:
        """Whether too many of these rows failed."""
        if self._share is not None:
            return failed > self._share * rows
        return self._count is not None and failed > self._count

    def __str__(self) -> str:
        return f"{self._share:.4g} of all" if self._share is not None else f"{self._count}"


def shard_of(given: str | Sequence[int] | None) -> tuple[int, int]:
    """A shard as its index, from 0, and the number of shards.

    Args:
        given: `"2/8"` or `(2, 8)` for the second of eight.

    Raises:
        UsageError: it is something else, or there is no such shard.
    """
    if given is None:
        return 0, 1
    parts: Sequence[Any] = given.split("/") if isinstance(given, str) else given
    try:
        one, many = (int(part) if isinstance(part, str) else count("shard", part) for part in parts)
    except (TypeError, ValueError) as exc:
        raise UsageError(
            f"a shard is given as '2/8' or (2, 8), the second of eight, got {given!r}."
        ) from exc
    if not 1 <= one <= many:
        raise UsageError(
            f"there is no shard {one} of {many}: shards are 1/{many} to {many}/{many}."
        )
    if many > MOST_SHARDS:
        raise UsageError(f"there can be {MOST_SHARDS:,} shards at most, got {many:,}.")
    return one - 1, many


def _rows(chunk: Chunk) -> range:
    return range(chunk.first, chunk.first + chunk.count)
