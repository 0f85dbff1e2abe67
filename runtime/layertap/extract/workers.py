"""Reads, prepares and runs a collection, chunk by chunk, in several threads.

On the CPU each worker reads its images and runs the model on one core: the workers share one
session of one thread. This uses all cores from the first byte of a file to the last layer, and
values do not depend on how many workers there are. On another device the workers read and prepare
images, and run the model one after another.

Batches are cut at fixed places of a chunk. The place of an item that fails is filled with another
item of its batch, so that the values of the others do not depend on which items failed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._engine.library import available_threads
from layertap._engine.program import Program
from layertap.errors import ImageError, RunInterruptedError
from layertap.format.source import BytesSource
from layertap.images.load import image_name

from .columns import Columns, unfilled
from .images import naming_images
from .items import Items

if TYPE_CHECKING:
    from layertap._engine.settings import Settings
    from layertap.images.preprocessing import Preprocessing

SMALL = 1_000_000
"""The size in bytes of a model file below which starting a run takes longer than the run."""


class Chunk(NamedTuple):
    """Rows that are computed, and written, together."""

    number: int
    first: int
    """The first row, counted in the whole list."""
    count: int  # type: ignore[assignment]  # tuples have a method of this name


class Finished(NamedTuple):
    """A chunk that has been computed."""

    chunk: Chunk
    blocks: Mapping[str, NDArray[Any]]
    """By key, `(count, *shape)`, C-contiguous; rows that failed are NaN, and 0 for integers."""
    sha256: tuple[str, ...]
    """Of the bytes of each row; empty where nothing was read."""
    failed: Mapping[int, str]
    """The reasons why rows of the whole list failed, each in one line."""
    nonfinite: Mapping[str, int]
    """By key, the number of values in the good rows that are NaN or infinite."""


def default_batch(program: Program) -> int:
    """The number of rows in a run that is fast; it depends on the file and the kind of device only.

    On a CPU one row is as fast as many, except in a small model, and takes the least memory.
    """
    if program.engine.device != "cpu":
        return 32
    source = program.source
    size = len(source.data) if isinstance(source, BytesSource) else source.size
    return 16 if size < SMALL and not program.graph.locations else 1


def default_workers() -> int:
    """The number of threads that use all cores."""
    return available_threads()


def run_chunks(
    program: Program,
    items: Items,
    columns: Columns,
    recipe: Preprocessing | None,
    chunks: Iterable[Chunk],
    *,
    batch: int,
    workers: int,
    ordered: bool,
    stop: threading.Event,
) -> Generator[Finished, None, None]:
    """Compute chunks of a collection.

    At most two chunks for each worker are in memory, finished ones that are not fetched included.

    Args:
        program: of the opened model.
        items: what is read.
        columns: what is computed.
        recipe: how images become inputs; not used where the items are ready.
        chunks: which rows; a chunk is asked for, in the caller's thread, shortly before it begins.
        batch: the number of rows in a run.
        workers: the number of threads.
        ordered: whether chunks are given in their order, and not as they are finished.
        stop: once it is set, no chunk begins; those that have begun are finished and given.

    Raises:
        InputError: the model cannot be run; the message names the images.
        Exception: any other exception that is not the fault of one image.
    """
    with ExitStack() as stack:
        runs = nullcontext()
        if program.engine.device == "cpu":
            columns = stack.enter_context(on_one_thread(columns))
        else:
            runs = threading.Lock()  # type: ignore[assignment]
        if recipe is not None:
            recipe = program.fitted(recipe)
        left = threading.Event()
        run = _Run(items, columns, recipe, batch, runs, left)

        def compute(chunk: Chunk) -> Finished | None:
            return None if stop.is_set() or left.is_set() else run(chunk)

        pool = ThreadPoolExecutor(workers, thread_name_prefix="layertap-worker")
        pending: deque[Future[Finished | None]] = deque()
        remaining = iter(chunks)
        try:
            while True:
                while len(pending) < 2 * workers and not stop.is_set():
                    chunk = next(remaining, None)
                    if chunk is None:
                        break
                    pending.append(pool.submit(compute, chunk))
                if not pending:
                    return
                done = pending[0]
                if not ordered:
                    done = next(iter(wait(pending, return_when=FIRST_COMPLETED).done))
                finished = done.result()
                if finished is not None:
                    yield finished
                pending.remove(done)
                del done, finished
        finally:
            left.set()
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def on_one_thread(columns: Columns) -> Iterator[Columns]:
    """The same columns, computed by sessions of one thread, which are freed at the end."""
    program = columns.program
    settings: Settings = program.settings
    options = settings.session_options
    given = not (options is None or isinstance(options, Mapping))
    if settings.threads == 1 or settings.reproducible or given:
        yield columns  # an onnxruntime.SessionOptions is used unchanged
        return
    own = Program(program.source, replace(settings, threads=1))
    try:
        yield columns.on(own)
    finally:
        own.close()


class _Run:
    """Computes one chunk after another; used by all workers."""

    def __init__(
        self,
        items: Items,
        columns: Columns,
        recipe: Preprocessing | None,
        batch: int,
        runs: Any,
        left: threading.Event,
    ) -> None:
        """
        Args:
            batch: the number of rows in a run.
            runs: entered around each run of the model.
            left: set once nobody waits for the results.
        """
        self._items, self._columns = items, columns
        self._prepare = preparation(items, columns.program, columns.work.input, recipe)
        self._batch, self._runs, self._left = batch, runs, left

    def __call__(self, chunk: Chunk) -> Finished:
        count = chunk.count
        blocks = {column.key: unfilled(column, count) for column in self._columns.columns}
        hashes, failed = [""] * count, {}
        nonfinite = dict.fromkeys(blocks, 0)
        for start in range(0, count, self._batch):
            arrays: dict[int, NDArray[Any]] = {}
            places = range(start, min(start + self._batch, count))
            for place in places:
                if self._left.is_set():
                    break
                row = chunk.first + place
                try:
                    data = self._items.read(row)
                    hashes[place] = data.sha256
                    arrays[place] = self._prepare(data.content)
                except ImageError as exc:
                    failed[row] = str(exc)
            for group in _alike(arrays, places):
                if self._left.is_set():
                    break
                rows = [chunk.first + place for place in dict.fromkeys(group)]
                names = [self._items.items[row].id for row in rows]
                with naming_images(names):
                    found = self._compute(np.stack([arrays[place] for place in group]))
                at = {place: where for where, place in enumerate(group)}
                for key, values in found.items():
                    good = values[list(at.values())] if len(at) < len(values) else values
                    blocks[key][list(at)] = good
                    if good.dtype.kind in "fc":
                        nonfinite[key] += good.size - int(np.count_nonzero(np.isfinite(good)))
        return Finished(chunk, blocks, tuple(hashes), failed, nonfinite)

    def _compute(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The columns of a batch."""
        with self._runs:
            self._columns.start()
            try:
                return self._columns(batch, watch=self._items.ready)
            except RunInterruptedError:
                # Ctrl-C stops the runs of all threads. Where the main thread goes on, because it
                # finishes what is in hand, so does this one.
                if self._left.wait(0.5):
                    raise
                return self._columns(batch)


def preparation(
    items: Items, program: Program, name: str, recipe: Preprocessing | None
) -> Callable[[Any], NDArray[Any]]:
    """A function from the content of an item to a row of a batch."""
    if items.ready or recipe is None:
        return np.asarray
    kind = program.graph.inputs[name].dtype
    whole = recipe.scaling is None and kind.lstrip("u").startswith("int")

    def prepare(content: Any) -> NDArray[Any]:
        try:
            pixels = recipe(content)
        except ImageError as exc:
            raise ImageError(str(exc).removeprefix(f"{image_name(content)}: ")) from exc
        return pixels.astype(np.int64) if whole else pixels

    return prepare


def _alike(arrays: Mapping[int, NDArray[Any]], places: Sequence[int]) -> Iterator[list[int]]:
    """The places of a batch by the shapes and dtypes of their arrays.

    If all are alike, the places of failed items are taken by the first that did not fail.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, array in arrays.items():
        groups.setdefault((array.shape, array.dtype), []).append(place)
    if len(groups) == 1:
        (group,) = groups.values()
        yield group + group[:1] * (len(places) - len(group))
    else:
        yield from groups.values()
