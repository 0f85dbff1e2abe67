"""layertap in Ray Data: a class for `map_batches`, which runs in a pool of actors.

    import ray
    from layertap.ray import Extract

    images = ray.data.read_binary_files("s3://bucket/xrays", include_paths=True)
    images.map_batches(
        Extract,
        fn_constructor_args=("/models/chest.onnx", {"bn": "mean"}),
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=8),
        num_cpus=2,
    ).write_parquet("s3://bucket/features")

This module does not import ray. The class computes batches of Daft and Spark in the same way.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import choice, count
from layertap._engine.library import available_threads
from layertap._engine.program import Program, outside, program_of
from layertap._escaping import one_line
from layertap._model import open as open_model
from layertap.errors import ImageError, InputError, LayertapWarning, UsageError
from layertap.extract.cells import CellItems, is_ready_cell, missing
from layertap.extract.columns import Columns, columns_of, fill_of, unfilled
from layertap.extract.frames import Frame, frame_of
from layertap.extract.inputs import check_readable, recipe_for
from layertap.extract.items import Items
from layertap.extract.readers import Reader, ReaderItems
from layertap.extract.sequences import ID_KEYS
from layertap.extract.workers import Chunk, default_batch, run_chunks
from layertap.format.text import class_text, number_of

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap.images.preprocessing import Preprocessing

ERROR = "error"
"""The column of the reasons why rows failed."""


class Extract:
    """Computes layers of the images in a column of a batch.

        extract = Extract("chest.onnx", {"bn": "mean"})
        extract({"bytes": [png], "path": ["a.png"]})
        # {"path": ["a.png"], "bn": array (1, 1024), "error": array([""])}

    A batch is a dict of arrays, a `pandas.DataFrame` or a `pyarrow.Table`, and the result has the
    same form. It has the same rows in the same order; all columns but the one of the images; a
    column for each layer, named as in `Model.stream`; and `error`, a text that is empty for rows
    that were computed. Where an image cannot be read, or there is none, its row is NaN (0 for
    integers), and `error` says why. Values that are not finite in rows that were computed are a
    `LayertapWarning`, once for each layer.

    In a dict, a layer is an array `(n, c)` for vectors, `(n, h, w, c)` for maps, and `(n,)` for
    single numbers. A DataFrame has one array in each row. In Arrow, vectors are lists of a fixed
    size and maps are tensors of a fixed shape. The two results of `top5` are two columns, as
    `bn.channels` and `bn.values`.

    The file is opened with the first batch. Its sessions are kept until the object is deleted, so
    an actor makes them once. A pickle holds the arguments only: the path of the file, and not its
    contents. Calls from several threads are safe.

    On a CPU each thread reads its images and runs the model on one core. On other devices the
    threads prepare images, and the model runs on parts of the batch, one after another; the last
    bits of values may depend on the size of the parts there, and in models of less than 1 MB.
    """

    def __init__(
        self,
        file: Any,
        layers: Any,
        *,
        source: str = "bytes",
        dtype: Any = None,
        device: str | None = None,
        threads: int | None = None,
        preprocess: Recipe | None = None,
        reader: str | Callable[[Any], Any] | None = None,
        cam_layer: Any = None,
        errors: str = "column",
    ) -> None:
        """
        Args:
            file: the path of the `.onnx` file, which every node must have; its contents, as bytes;
                or a `ray.ObjectRef` of either: `ray.put(Path("chest.onnx").read_bytes())` sends the
                file once to each node.
            layers: see `Model.stream`: layers, reductions, gradients and heat maps.
            source: the column of the images: bytes of files, paths, arrays of integers, or dicts
                with `bytes` or `path`. Arrays of floats are ready for the model, and so are all
                arrays if there is no recipe.
            dtype: `float16`, `float32` or `float64`; floating-point results are cast to it.
            device: see `layertap.open`. By default `cuda` in a worker of Ray that was given a GPU
                (`num_gpus=1`), and otherwise `cpu`.
            threads: how many images are prepared at once, and on a CPU computed. By default the
                CPUs that Ray has assigned to the worker (`num_cpus=4`), at least 1; outside of Ray
                the number of cores that the process may use.
            preprocess: a recipe for images instead of the card's.
            reader: a function that makes an image of a path or of bytes, or its name,
                `"module:function"`. It runs in one process for each thread, beside the worker, and
                is imported there: its module must be installed on every node. The processes are
                kept from batch to batch. An image that ends its process is a failed row, and the
                worker goes on.
            cam_layer: the layer of heat maps, see `Model.cam`.
            errors: `"column"`, or `"raise"`: an image that fails is an `ImageError` that names it,
                and there is no column `error`.

        Raises:
            UsageError: an argument of the wrong type. Whatever depends on the file is checked with
                the first batch.
        """
        paths = isinstance(file, (str, os.PathLike))
        if not (paths or isinstance(file, (bytes, bytearray, memoryview)) or _is_reference(file)):
            raise UsageError(
                "file is the path of an .onnx file, its bytes, or a ray.ObjectRef of these, got "
                f"{class_text(file)}."
            )
        if not isinstance(source, str):
            raise UsageError(f"source is the name of a column, got {class_text(source)}.")
        self._file = file if paths or _is_reference(file) else bytes(file)
        self._layers, self._source, self._dtype = layers, source, dtype
        self._device, self._preprocess, self._reader = device, preprocess, reader
        self._threads = None if threads is None else count("threads", threads)
        self._cam_layer = cam_layer
        self._errors = choice("errors", errors, ("column", "raise"))
        self._lock = threading.Lock()
        self._opened: _Opened | None = None
        self._warned: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """The arguments; the copy opens the file again."""
        state = {**vars(self), "_lock": None, "_opened": None, "_warned": set()}
        if isinstance(self._file, (str, os.PathLike)):
            state["_file"] = os.path.abspath(self._file)
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __call__(self, batch: Any) -> Any:
        """The layers of a batch.

        Args:
            batch: a dict of arrays `(n, ...)` or lists, a `pandas.DataFrame`, or a `pyarrow.Table`.

        Returns:
            A table of the same kind, see the class.

        Raises:
            UsageError: there is no column with the name of `source`, another column has the name of
                a result, or the arguments do not suit the file.
            InputError: the batch is of another kind.
            ImageError: an image failed, with `errors="raise"`.
            ModelFileError: the file cannot be read.
            LayerNotFoundError: it has no such layer.
            DeviceError: the device is not available.
        """
        frame = frame_of(batch)
        values = frame.values(self._source)
        opened = self._open()
        asked = [column.key for column in opened.columns.columns]
        added = asked if self._errors == "raise" else [*asked, ERROR]
        twice = [name for name in frame.names if name in added and name != self._source]
        if twice:
            raise UsageError(
                f"the batch has a column {twice[0]!r}, and so has the result. Rename it or leave "
                "it out before."
            )
        if added.count(ERROR) > 1:
            raise UsageError(
                f"a layer and the column of reasons are both named {ERROR!r}. Ask for "
                f'errors="raise", or for two reductions: {{{ERROR!r}: ["mean", "max"]}}.'
            )
        ids = _names(frame, values, self._source)
        run = _Run(opened, values, ids)
        run.all_rows()
        self._warn_of(run)
        failed = {row: error for row, error in enumerate(run.errors) if error}
        results = dict(run.blocks)
        if self._errors == "column":
            results[ERROR] = np.array(run.errors, dtype=str)
        elif failed:
            row, error = next(iter(failed.items()))
            more = f" {len(failed) - 1} more in this batch failed." if len(failed) > 1 else ""
            raise ImageError(f"{ids[row]}: {error}{more}")
        return frame.with_columns(self._source, results)

    def _warn_of(self, run: _Run) -> None:
        """Warn of rows that were computed and are not finite, once for each layer."""
        for key, block in run.blocks.items():
            if key not in self._warned and (found := run.nonfinite(block)):
                self._warned.add(key)
                warnings.warn(
                    f"{key!r}: {number_of(found, 'value')} of a batch not finite. float16 holds "
                    "numbers up to 65,504.",
                    LayertapWarning,
                    stacklevel=outside(),
                )

    def _open(self) -> _Opened:
        """What is made once from the file."""
        with self._lock:
            if self._opened is None:
                self._opened = self._made()
            return self._opened

    def _made(self) -> _Opened:
        share = _share()
        device = ("cuda" if share.gpu else "cpu") if self._device is None else self._device
        threads = self._threads or share.threads
        file = self._file
        if _is_reference(file):
            file = sys.modules["ray"].get(file)
        # On a CPU a session of one thread is shared by the threads that read.
        program = program_of(open_model(file, device=device, threads=1))
        if program.engine.device != "cpu" and threads > 1:
            program = program_of(open_model(file, device=device, threads=threads))
        recipe = recipe_for(program, self._preprocess)
        columns = columns_of(
            program, self._layers, dtype=self._dtype, recipe=recipe, cam_layer=self._cam_layer
        )
        reader = None if self._reader is None else Reader(self._reader)
        return _Opened(program, recipe, columns, reader, threads)


class _Opened(NamedTuple):
    """What is made once from the file."""

    program: Program
    recipe: Preprocessing | None
    columns: Columns
    reader: Reader | None
    threads: int


class _Run:
    """Computes one batch."""

    def __init__(self, opened: _Opened, values: Sequence[Any], ids: Sequence[str]) -> None:
        self._opened, self._values, self._ids = opened, values, ids
        rows = len(values)
        self.errors = [""] * rows
        self.blocks = {column.key: unfilled(column, rows) for column in opened.columns.columns}

    def all_rows(self) -> None:
        """Compute the rows of the batch: images, and arrays that are ready for the model."""
        recipe, reader = self._opened.recipe, self._opened.reader
        groups: dict[bool, list[int]] = {False: [], True: []}
        for row, value in enumerate(self._values):
            if missing(value):
                self.errors[row] = "there is no image: the value is missing."
            else:
                ready = recipe is None if reader else is_ready_cell(value, recipe)
                groups[ready].append(row)
        for ready, rows in groups.items():
            if rows:
                self._compute(rows, ready)

    def nonfinite(self, block: NDArray[Any]) -> int:
        """How many values are NaN or infinite in the rows that were computed."""
        if block.dtype.kind not in "fc":
            return 0
        failed = sum(map(bool, self.errors)) * math.prod(block.shape[1:])
        return block.size - failed - int(np.count_nonzero(np.isfinite(block)))

    def _compute(self, rows: list[int], ready: bool) -> None:
        """Compute some rows. Those that the model cannot be run on are found by halves."""
        try:
            self._run(rows, ready)
        except InputError as exc:
            if len(rows) == 1:
                reason = str(exc).removeprefix(f"{one_line(self._ids[rows[0]])}: ")
                self.errors[rows[0]] = reason
                for block in self.blocks.values():
                    block[rows[0]] = fill_of(block.dtype)
                return
            half = len(rows) // 2
            self._compute(rows[:half], ready)
            self._compute(rows[half:], ready)

    def _run(self, rows: list[int], ready: bool) -> None:
        program, recipe, columns, reader, threads = self._opened
        cells = [self._values[row] for row in rows]
        items: Items = CellItems(cells, [self._ids[row] for row in rows], ready=ready)
        if reader is not None:
            items = ReaderItems(items, reader, ready=ready)
        check_readable(program, items, recipe)
        size = default_batch(program)
        if program.engine.device != "cpu":  # so that the threads share what is prepared
            size = min(size, -(-len(rows) // threads))
        starts = range(0, len(rows), size)
        chunks = [Chunk(i, at, min(size, len(rows) - at)) for i, at in enumerate(starts)]
        done = run_chunks(
            program, items, columns, recipe, chunks,
            batch=size, workers=threads, ordered=False, stop=threading.Event(),
        )  # fmt: skip
        for finished in done:
            first = finished.chunk.first
            places = rows[first : first + finished.chunk.count]
            for key, block in finished.blocks.items():
                self.blocks[key][places] = block
            for row, error in finished.failed.items():
                self.errors[rows[row]] = one_line(error)


class _Share(NamedTuple):
    """What a process may use."""

    threads: int
    gpu: bool


def _share() -> _Share:
    """What Ray has assigned to this worker; outside of its workers, all cores."""
    ray = sys.modules.get("ray")
    try:
        assigned = ray.get_runtime_context().get_assigned_resources() if ray else None
    except Exception:  # noqa: BLE001 - not connected, or a driver: the kind depends on the version
        assigned = None
    if assigned is None:
        return _Share(available_threads(), False)
    return _Share(max(1, int(assigned.get("CPU", 0))), assigned.get("GPU", 0) > 0)


def _is_reference(given: Any) -> bool:
    """Whether it is a reference to an object of Ray."""
    kind = getattr(sys.modules.get("ray"), "ObjectRef", None)
    return kind is not None and isinstance(given, kind)


def _names(frame: Frame, values: Sequence[Any], source: str) -> list[str]:
    """What messages call the rows: the paths, or the values of a column of ids."""
    if values and all(isinstance(value, str) for value in values):
        return [str(value) for value in values]
    key = next((key for key in (*ID_KEYS, "path") if key in frame.names and key != source), None)
    if key is not None and frame.names.count(key) == 1:
        return [str(value) for value in frame.values(key)]
    return [f"row {row} of the batch" for row in range(len(values))]
