"""Runs many inputs in batches, so that only the results of all are in memory at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import count
from layertap._engine.feeds import is_image
from layertap._engine.program import HasProgram, Program, program_of
from layertap.cam.heat_maps import cam
from layertap.errors import InputError, UsageError
from layertap.format.layer import Layer
from layertap.format.text import class_text, shape_text

from .images import find_images

IMAGES = 16
"""How many images are run at once, unless the caller says otherwise."""


class Many(NamedTuple):
    """Inputs that are run in batches."""

    parts: Iterator[tuple[Any, int]]
    """Each as a model takes it, with its number of samples."""
    whole: Callable[[], Any]
    """All of them at once, also after some parts were taken."""
    total: int | None
    """The number of samples; `None` where it is not known before the end."""


def many(program: Program, inputs: Any, batch_size: int | None) -> Many | None:
    """The inputs in batches; `None` if they are to be run at once.

    Args:
        program: the model's.
        inputs: see `Model.activations`; also a folder of images, or an iterator of images.
        batch_size: the number of samples in a batch. With `None`, images are run in batches of
            `IMAGES`, or of the size that the model's batch has, and other inputs at once.

    Raises:
        ImageError: the folder contains no image.
        UsageError: a size is given, and the inputs cannot be divided.
    """
    if isinstance(inputs, Iterator) and not hasattr(inputs, "read"):
        first = list(islice(inputs, 1))
        inputs = chain(first, inputs)
        if _images(program, first) is None:
            inputs = list(inputs)
            if batch_size is None:
                return Many(iter([(inputs, len(inputs))]), lambda: inputs, len(inputs))
    listed = _images(program, inputs)
    if listed is not None:
        return _of_images(listed, batch_size or _fixed_batch(program) or IMAGES)
    if batch_size is None or is_image(inputs):
        return None
    if isinstance(inputs, (list, tuple)) and len(inputs) == len(program.graph.inputs) > 1:
        inputs = dict(zip(program.graph.inputs, inputs, strict=True))
    if isinstance(inputs, Mapping):
        return _of_arrays(dict(inputs), batch_size)
    found = _of_arrays({"": inputs}, batch_size)
    parts = ((part[""], length) for part, length in found.parts)
    return Many(parts, lambda: inputs, found.total)


def _images(program: Program, inputs: Any) -> Any:
    """A list or an iterator of images; `None` if the inputs are something else."""
    if len(program.graph.inputs) != 1:
        return None
    dims = next(iter(program.graph.inputs.values())).dims
    if dims is not None and len(dims) != 4:
        return None
    if isinstance(inputs, (str, os.PathLike)):
        return find_images(inputs) if _is_folder(inputs) else None
    series = hasattr(inputs, "to_numpy") and getattr(inputs, "ndim", 0) == 1
    paths = isinstance(inputs, np.ndarray) and inputs.ndim == 1 and inputs.dtype.kind in "UO"
    if series or paths:
        inputs = list(inputs)
    if isinstance(inputs, chain):
        return inputs
    if isinstance(inputs, (list, tuple)) and inputs:
        suits = all(_is_image_of(dims, one) for one in inputs)
        return list(inputs) if suits else None
    return None


def _is_image_of(dims: Any, value: Any) -> bool:
    """Whether a value is an image; where the rank of the input is not known, an array is none."""
    return is_image(value) and not (dims is None and isinstance(value, np.ndarray))


def _is_folder(path: Any) -> bool:
    try:
        return os.path.isdir(path)
    except ValueError:
        return False


def _fixed_batch(program: Program) -> int | None:
    dims = next(iter(program.graph.inputs.values())).dims
    return dims[0] if dims and isinstance(dims[0], int) else None


def _of_images(images: Any, size: int) -> Many | None:
    if isinstance(images, list):
        if len(images) <= size:
            return Many(iter([(images, len(images))]), lambda: images, len(images))
        starts = range(0, len(images), size)
        lists = (images[start : start + size] for start in starts)
        return Many(((one, len(one)) for one in lists), lambda: images, len(images))
    taken: list[Any] = []

    def parts() -> Iterator[tuple[Any, int]]:
        while part := list(islice(images, size)):
            taken[:] = part
            yield part, len(part)

    return Many(parts(), lambda: [*taken, *images], None)


def _of_arrays(given: Mapping[str, Any], size: int) -> Many:
    arrays: dict[str, Any] = {}
    for name, value in given.items():
        sliceable = hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, Mapping))
        shape = np.shape(value) if isinstance(value, (list, tuple)) else getattr(value, "shape", ())
        if not sliceable or callable(shape) or not len(shape):
            raise UsageError(
                f"batch_size divides arrays and lists of images, got {class_text(value)}. Leave it "
                "out."
            )
        arrays[name] = value
    lengths = {name: len(value) for name, value in arrays.items()}
    total = next(iter(lengths.values()), 0)
    if len({*lengths.values()}) > 1:
        listing = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise InputError(f"the inputs have different batch sizes: {listing}.")
    starts = range(0, total, size) or range(1)
    parts = (
        ({name: value[start : start + size] for name, value in arrays.items()},
         min(size, total - start))
        for start in starts
    )  # fmt: skip
    return Many(parts, lambda: dict(arrays), total)


def run_in_batches(
    program: Program,
    run: Callable[[Any], Any],
    inputs: Any,
    batch_size: int | None,
    layers: Sequence[Layer],
    on_device: bool,
) -> Any:
    """The result for inputs, which are run in batches where there may be many.

    Args:
        program: the model's.
        run: gives the result for one batch.
        inputs: see `many`.
        batch_size: see `many`.
        layers: what is computed; none for the model's own outputs.
        on_device: whether results stay on the device, where they are not joined.

    Raises:
        UsageError: a size is given, and the inputs or results cannot be divided.
    """
    size = None if batch_size is None else count("batch_size", batch_size)
    given = many(program, inputs, size)
    if given is None:
        return run(inputs)
    fixed = _fixed_batch(program)
    shapes = [row.shape for row in layers or program.outputs]
    divisible = not (
        on_device
        or any(layer.per_sample is False for layer in layers)
        or any(shape and shape[0] not in (None, fixed) for shape in shapes)
    )
    return run_many(run, given, divisible, size is not None)


def run_many(run: Callable[[Any], Any], given: Many, divisible: bool, explicit: bool) -> Any:
    """The result for all inputs, from runs on batches.

    Args:
        run: gives the result for one batch: an array, a named tuple of arrays, or a dict of these.
        given: the inputs.
        divisible: whether each result has a row for each sample, as far as is known.
        explicit: whether the caller asked for batches. Otherwise what cannot be divided is run at
            once.

    Raises:
        UsageError: the results of batches cannot be joined.
        InputError: they have different shapes.
    """
    if not divisible:
        if explicit:
            raise UsageError(_INDIVISIBLE)
        return run(given.whole())
    rows: list[_Rows] = []
    first: Any = None
    for number, (part, length) in enumerate(given.parts):
        value = run(part)
        if given.total == length:
            return value
        arrays = list(_leaves(value))
        if any(not isinstance(x, np.ndarray) or x.shape[:1] != (length,) for x in arrays):
            if explicit or number:
                raise UsageError(_INDIVISIBLE)
            return run(given.whole())
        if number == 0:
            first, rows = value, [_Rows(given.total) for _ in arrays]
        for row, array in zip(rows, arrays, strict=True):
            row.add(array)
    if not rows:
        return run(given.whole())
    return _rebuilt(first, iter([row.joined() for row in rows]))


_INDIVISIBLE = (
    "batch_size is for arrays with a row for each sample, which do not stay on a device, and some "
    "results are others. Leave it out."
)


class _Rows:
    """Rows of several batches in one array."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._whole: NDArray[Any] | None = None
        self._parts: list[NDArray[Any]] = []
        self._filled = 0

    def add(self, part: NDArray[Any]) -> None:
        """Add the rows of a batch."""
        before = self._whole if self._whole is not None else next(iter(self._parts), part)
        if part.shape[1:] != before.shape[1:]:
            raise InputError(
                f"the results do not fit in one array: {shape_text(before.shape[1:])} for some "
                f"samples, {shape_text(part.shape[1:])} for others. Give a recipe with a "
                '"size", or use `stream` with a reduction.'
            )
        if self._total is None:
            self._parts.append(np.ascontiguousarray(part))
            return
        if self._whole is None:
            self._whole = np.empty((self._total, *part.shape[1:]), part.dtype)
        self._whole[self._filled : self._filled + len(part)] = part
        self._filled += len(part)

    def joined(self) -> NDArray[Any]:
        """All rows."""
        return np.concatenate(self._parts) if self._whole is None else self._whole


def _leaves(value: Any) -> Iterator[Any]:
    """The arrays in a result."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, tuple):
        yield from value
    else:
        yield value


def _rebuilt(value: Any, arrays: Iterator[NDArray[Any]]) -> Any:
    """A result like another one, with other arrays."""
    if isinstance(value, dict):
        return {key: _rebuilt(one, arrays) for key, one in value.items()}
    if isinstance(value, tuple):
        return type(value)(*islice(arrays, len(value)))
    return next(arrays)


def cam_in_batches(
    model: HasProgram, inputs: Any, layer: Any, target: Any, batch_size: Any, **options: Any
) -> Any:
    """See `Model.cam`. Lists, folders and iterators of images, and large arrays, are divided."""
    size = count("batch_size", batch_size)

    def run(images: Any, target: Any) -> Any:
        return cam(model, images, layer, target, batch_size=size, **options)

    given = _many_pictures(program_of(model), inputs, size)
    if given is None:
        return run(inputs, target)
    if given.total is not None and given.total <= size:
        return run(given.whole(), target)
    each = _is_each(target)
    if each and given.total not in (None, len(target)):
        raise UsageError(f"expected targets for {given.total} images, got {len(target)}.")
    rows, start = _Rows(given.total), 0
    for part, length in given.parts:
        own = target[start : start + length] if each else target
        rows.add(run(part, own))
        start += length
    return rows.joined() if start else run(given.whole(), target)


def _many_pictures(program: Program, inputs: Any, size: int) -> Many | None:
    """The inputs of heat maps in batches; `None` if they are not many."""
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "biuf":
        dims = [kind.dims for kind in program.graph.inputs.values()]
        if len(dims) > 1 or dims[0] is None or len(dims[0]) != inputs.ndim or _fixed_batch(program):
            return None
        return many(program, inputs, size)
    if isinstance(inputs, Iterator) or _images(program, inputs) is not None:
        return many(program, inputs, size)
    return None


def _is_each(target: Any) -> bool:
    """Whether a target, see `Model.gradients`, differs by image."""
    if isinstance(target, np.ndarray):
        return target.ndim >= 2 and len(target) > 1
    lists = (list, tuple, np.ndarray)
    return isinstance(target, (list, tuple)) and all(isinstance(one, lists) for one in target)
