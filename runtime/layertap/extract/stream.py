"""Streams: the layers of a collection, batch by batch, without files."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import count
from layertap._engine.program import Program
from layertap._public import public
from layertap.errors import UsageError, suggest

from .columns import columns_of
from .inputs import check_fits, check_readable, recipe_for
from .sequences import StreamItems
from .sources import find_items
from .workers import Chunk, Finished, default_batch, default_workers, run_chunks

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe

ROWS = 16
"""The number of items in a batch that a stream gives."""


@public
class Batch:
    """Some items of a stream, in order, and what was computed for them. Made by `Model.stream`.

    `batch["bn"]` is an array `(n, ...)` with a row for each item. The rows of items that failed are
    NaN, and 0 for integers.
    """

    ids: tuple[str, ...]
    """Of each item: its path, the key in its archive, or its number."""
    ok: NDArray[np.bool_]
    """`(n,)`: whether the item was read."""
    errors: tuple[str, ...]
    """Why each item failed; an empty text where it did not."""
    first: int
    """The number of the first item in the whole collection."""
    arrays: Mapping[str, NDArray[Any]]
    """What was computed, by name."""

    def __init__(self, ids: tuple[str, ...], finished: Finished) -> None:
        self.first = finished.chunk.first
        rows = range(self.first, self.first + finished.chunk.count)
        self.ids = ids
        self.errors = tuple(finished.failed.get(row, "") for row in rows)
        self.ok = np.array([not error for error in self.errors], bool)
        self.arrays = finished.blocks

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: str) -> NDArray[Any]:
        """The array of a layer.

        Raises:
            UsageError: nothing with this name was asked for.
        """
        if key not in self.arrays:
            known = list(self.arrays)
            raise UsageError(
                f"the batch has no {key!r}; it has {', '.join(map(repr, known[:10]))}."
                + suggest(str(key), known)
            )
        return self.arrays[key]

    def keys(self) -> tuple[str, ...]:
        """The names of the arrays, in the order requested."""
        return tuple(self.arrays)

    def __repr__(self) -> str:
        failed = int((~self.ok).sum())
        rows = f"{self.first} to {self.first + len(self) - 1}"
        return (
            f"<layertap.Batch of items {rows}: {', '.join(map(repr, self.arrays))}; "
            f"{failed} failed>"
        )


def stream(
    program: Program,
    source: Any,
    layers: Any = None,
    *,
    dtype: Any = None,
    batch_size: int = ROWS,
    workers: int | None = None,
    preprocess: Recipe | None = None,
    reader: Any = None,
) -> Iterator[Batch]:
    """See `Model.stream`. Everything that can be checked is checked before this returns."""
    rows = count("batch_size", batch_size)
    threads = default_workers() if workers is None else count("workers", workers)
    recipe = recipe_for(program, preprocess)
    columns = columns_of(program, layers, dtype=dtype, recipe=recipe)
    once = isinstance(source, Iterator) and not hasattr(source, "read")
    if once and reader is not None:
        raise UsageError("a reader is for paths and bytes in a sequence, not for an iterator.")
    taken = StreamItems(source, recipe) if once else None
    items = taken or find_items(source, reader=reader, recipe=recipe, digest=False, unique=False)
    items.hashing(False)
    check_readable(program, items, recipe)
    if taken is None:
        check_fits(program, items, columns.work.input)

    def chunks() -> Iterator[Chunk]:
        first = number = 0
        while True:
            held = min(rows, len(items.items) - first) if taken is None else taken.take(rows)
            if not held:
                return
            yield Chunk(number, first, held)
            first, number = first + held, number + 1

    def batches() -> Iterator[Batch]:
        try:
            for finished in run_chunks(
                program,
                items,
                columns,
                recipe,
                chunks(),
                batch=min(rows, default_batch(program)),
                workers=threads,
                ordered=True,
                stop=threading.Event(),
            ):
                first, held = finished.chunk.first, finished.chunk.count
                if taken is None:
                    ids = tuple(items.items[row].id for row in range(first, first + held))
                else:
                    ids = taken.forget(first, held)
                yield Batch(ids, finished)
        finally:
            items.close()

    return batches()
