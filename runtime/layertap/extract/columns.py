"""Columns: what is computed for each item of a collection, and how it is stored.

Each has a fixed shape for one item, so that files can be laid out before anything is computed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._cut.reductions import check_dtype
from layertap._engine.program import Program
from layertap.errors import InputError, UsageError
from layertap.format.file_names import distinct_names
from layertap.format.text import shape_text

from .asked import Asked, what_is_asked
from .computing import Arrays, Work

if TYPE_CHECKING:
    from layertap.images.preprocessing import Preprocessing

RESERVED = (
    "journal", "extract.json", "items.tsv", "manifest.csv", "ok.npy", "summary.json", "zarr.json",
)  # fmt: skip
"""Names in the folder of a collection that no column has."""

_WORDS = {"C": "channel", "D": "depth", "H": "height", "W": "width", "T": "step"}


class Column(NamedTuple):
    """What is computed for each item, and how it is stored."""

    key: str
    """How the user reads it: `bn`; `bn=mean` where a layer is asked for in several ways;
    `bn.channels` and `bn.values` for the strongest channels; `grad:bn`, `cam:Edema`."""
    folder: str
    """A part of a file name, unique without regard to capitals."""
    asked: Mapping[str, Any]
    """What it is, as JSON: `{"layer": "bn", "reduction": "mean"}`, `{"gradient": "bn", "target":
    "top"}`, `{"cam": "Edema", "method": "gradcam", "layer": "conv5"}`."""
    dtype: str
    """Of the result, after a cast."""
    shape: tuple[int, ...]
    """Of one row."""
    dims: tuple[str, ...]
    """The names of these axes: `height`, `width`, `channel`, `step`, `axis_1`, ..."""


def fill_of(dtype: np.dtype[Any]) -> Any:
    """What rows of failed items hold: NaN, or 0 where there is none."""
    return dtype.type(np.nan) if dtype.kind in "fc" else dtype.type(0)


def unfilled(column: Column, rows: int) -> NDArray[Any]:
    """Rows of a column before anything is computed."""
    dtype = np.dtype(column.dtype)
    return np.full((rows, *column.shape), fill_of(dtype), dtype)


class Columns:
    """What is computed for each item. It is safe to use from several threads."""

    def __init__(
        self,
        program: Program,
        asked: Sequence[Asked],
        dtype: str | None,
        cam_layer: Any,
        columns: Sequence[Column] = (),
    ) -> None:
        self.program = program
        """What computes them."""
        self.columns = tuple(columns)
        """One for each array of a result, in the order requested."""
        self._asked, self._dtype, self._cam_layer = asked, dtype, cam_layer
        self._lock = threading.Lock()
        self._work: Work | None = None

    def on(self, program: Program) -> Columns:
        """The same columns, computed by another program of the same file."""
        return Columns(program, self._asked, self._dtype, self._cam_layer, self.columns)

    @property
    def work(self) -> Work:
        """What is computed; made once, without a session."""
        with self._lock:
            if self._work is None:
                self._work = Work(self.program, self._asked, self._dtype, self._cam_layer)
            return self._work

    def start(self) -> None:
        """Make the session, so that several threads do not make it at once."""
        work = self.work
        with self._lock:
            work.start()

    def __call__(self, batch: NDArray[Any], *, watch: bool = False) -> Arrays:
        """The columns' values for a prepared batch.

        Args:
            batch: `(n, ...)`, as the model takes it, with at least one row.
            watch: warn of a batch that no image can have become.

        Returns:
            By key, `(n, *shape)`.

        Raises:
            InputError: the batch does not fit the model, or a result does not fit its column.
        """
        found = self.work(batch, watch)
        for column in self.columns:
            shape = found[column.key].shape
            if shape[1:] != column.shape:
                raise InputError(
                    f"{column.key!r} has the shape {shape_text(shape)} for {len(batch)} images, "
                    f"expected {shape_text((len(batch), *column.shape))}. Give a recipe with a "
                    '"size", or a reduction such as "mean".'
                )
        return found


def columns_of(
    program: Program,
    asked: Any,
    *,
    dtype: Any = None,
    recipe: Preprocessing | None = None,
    cam_layer: Any = None,
) -> Columns:
    """The columns for what a user asks for.

    Args:
        program: the model's.
        asked: see `Model.tap`. In addition, several reductions of one layer may be given as a list
            (`{"bn": ["mean", "max", None]}`), and a text in a list may contain its reduction, as
            on the command line (`"bn=mean"`): the exact name of a layer wins, otherwise what
            follows the last `=` is the reduction. `grad:LAYER` is the gradient of a class's score,
            of the class that follows (`"grad:bn=Edema"`, `{"grad:bn": "Edema"}`), or of each
            image's best. `cam:CLASS` is the heat map of a class, or of `top`, by the method that
            follows (`"cam:Edema=gradcam++"`), as large as the model's input.
        dtype: `float16`, `float32` or `float64`: what floating-point results are cast to.
        recipe: how images become inputs; its size determines the free sizes of layers.
        cam_layer: the layer of the heat maps; see `Model.cam`.

    Raises:
        LayerNotFoundError: a selector matches nothing.
        UsageError: an unknown reduction, or class; a layer whose size depends on the image, or
            whose values are not numbers; a model that needs several inputs.
        ModelFileError: gradients are asked for, and the file has none.
    """
    wanted = what_is_asked(program, asked)
    cast = None if dtype is None else check_dtype(dtype)
    if cam_layer is not None and not any(one.kind == "cam" for one in wanted):
        raise UsageError(
            f"the layer of heat maps is {cam_layer!r}, but no heat map is asked for. Give one, "
            "such as 'cam:top', or leave it out."
        )
    columns = Columns(program, wanted, cast, cam_layer)
    columns.columns = _described(program, columns.work, recipe)
    return columns


def _described(program: Program, work: Work, recipe: Preprocessing | None) -> tuple[Column, ...]:
    """The columns, with every size known."""
    known = {key: work.stated(key) for key in work.parts}
    if None in known.values():
        size = _input_shape(program, work.input, recipe)
        if size is None:
            _refuse_free_sizes(program, work, [key for key, found in known.items() if not found])
        dtype = program.graph.inputs[work.input].dtype
        kind = np.dtype(dtype if dtype in np.sctypeDict else "float32")
        trial = work(np.zeros((1, *(size or ())), kind))
        for key, value in trial.items():
            known[key] = known[key] or (value.dtype.name, value.shape[1:])
    folders = distinct_names(work.parts, RESERVED)
    columns = []
    for key in work.parts:
        dtype, shape = known[key] or ("", ())
        if dtype not in np.sctypeDict or np.dtype(dtype).kind not in "biufc":
            raise UsageError(
                f"{key!r} has the dtype {dtype or 'of no tensor'}, and columns hold numbers that "
                "numpy knows. Give a dtype such as 'float32', or leave it out."
            )
        dims = _dims(program, work, key, len(shape))
        columns.append(Column(key, folders[key], work.asked_json(key), dtype, shape, dims))
    return tuple(columns)


def _input_shape(
    program: Program, name: str, recipe: Preprocessing | None
) -> tuple[int, ...] | None:
    """The shape of one row of the input; `None` if it depends on the image."""
    dims = program.graph.inputs[name].dims
    sizes = [size for size in (dims or ())[1:] if isinstance(size, int)]
    if dims is not None and len(sizes) == len(dims) - 1:
        return tuple(sizes)
    if recipe is None or recipe.size is None or (dims is not None and len(dims) != 4):
        return None
    if recipe.fitted(program.axes(name, 4)).channels == "first":
        return (recipe.channel_count, *recipe.size)
    return (*recipe.size, recipe.channel_count)


def _refuse_free_sizes(program: Program, work: Work, keys: Sequence[str]) -> None:
    one, _ = work.parts[keys[0]]
    if one.kind == "layer":
        shape = shape_text(program.layer(one.name).shape)
        raise UsageError(
            f"the size of {keys[0]!r}, {shape}, depends on the image. Ask for a reduction, such as "
            f'{one.name}=mean, or give a recipe with a "size".'
        )
    raise UsageError(f'the size of {keys[0]!r} depends on the image. Give a recipe with a "size".')


def _dims(program: Program, work: Work, key: str, rank: int) -> tuple[str, ...]:
    """The names of the axes of one row."""
    one, field = work.parts[key]
    numbered = tuple(f"axis_{axis}" for axis in range(1, rank + 1))
    if one.kind == "cam":
        return ("height", "width") if rank == 2 else numbered
    if one.how is not None and one.kind == "layer":
        return ("rank" if field else "feature" if one.how == "flatten" else "channel",)
    tensors = {layer.name: layer.tensor for layer in program.layers}
    letters = program.axes(tensors.get(one.name) or one.name, rank + 1)[1:]
    pairs = zip(letters, numbered, strict=True)
    return tuple(_WORDS.get(letter, number) for letter, number in pairs)
