"""The user's own batches: images, arrays and files of arrays, for one input or for several."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap._engine.feeds import is_image, prepare
from layertap.errors import InputError, LayertapWarning
from layertap.extract.images import find_images
from layertap.format.card import TensorInfo
from layertap.format.graph import TensorType
from layertap.images.preprocessing import Preprocessing

READY = (".npy", ".npz")
"""Suffixes of files that hold arrays."""

BATCH = "batch"
"""The symbol under which the inputs must agree on the size of the batch."""

UserBatch = tuple[str, tuple[NDArray[Any], ...]]
"""What it is, in words, and a value for each input of the model, in order."""


def user_batches(
    samples: Any, inputs: Sequence[TensorInfo], recipe: Preprocessing | None
) -> list[UserBatch]:
    """The batches that the user gives.

    Args:
        samples: one of these, or an iterable of them: a path of an image, of a folder of images, of
            an `.npy` or an `.npz` file (arrays by the name of the input); an image as bytes or as a
            PIL image; an array, which is a batch of the only input, or, as uint8 `(h, w, c)`, an
            image; a dict of arrays, images or paths by the name of the input. Images of one size
            form one batch.
        inputs: the inputs of the model.
        recipe: how an image becomes an input; by default it is not scaled.

    Raises:
        InputError: a value has other names, sizes or another dtype than the inputs.
        ImageError: an image cannot be read.
    """
    types = {info.name: _type(info) for info in inputs}
    recipe = recipe or Preprocessing()
    batches: list[UserBatch] = []
    for group in _grouped(samples):
        for label, value in _split(group, types, recipe):
            batches.append((label, _prepared(value, types, recipe)))
    return batches


def _type(info: TensorInfo) -> TensorType:
    dims = [BATCH if index == 0 and size is None else size for index, size in enumerate(info.shape)]
    return TensorType(info.dtype, tuple(dims))


def _items(samples: Any) -> Iterator[Any]:
    """Each of the samples; one that is given alone, too."""
    if samples is None:
        return
    if isinstance(samples, Mapping) or is_image(samples) or hasattr(samples, "__array__"):
        yield samples
    elif isinstance(samples, Iterable):
        yield from samples
    else:
        raise InputError(
            f"samples must be images, arrays, dicts of arrays, or paths, got {samples!r}."
        )


def _grouped(samples: Any) -> Iterator[Any]:
    """The samples, where consecutive images are a list."""
    images: list[Any] = []
    for item in _items(samples):
        value = _loaded(item)
        if isinstance(value, list):
            images += value
        elif is_image(value):
            images.append(value)
        else:
            if images:
                yield images
                images = []
            yield value
    if images:
        yield images


def _loaded(item: Any) -> Any:
    """The contents of a file of arrays, or the images of a folder; anything else is as it was."""
    if not isinstance(item, (str, os.PathLike)):
        return item
    path = Path(item)
    if path.is_dir():
        return list(find_images(path))
    return load_arrays(path) if path.suffix.lower() in READY else item


def load_arrays(path: str | os.PathLike[str]) -> Any:
    """The array of an `.npy` file, or the arrays of an `.npz` file by name.

    Raises:
        InputError: it cannot be read.
    """
    name = os.fsdecode(path)
    try:
        with open(path, "rb") as file:  # numpy would not close a damaged one
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError as exc:
        raise InputError(f"{name}: there is no such file.") from exc
    except Exception as exc:  # zipfile, zlib and numpy raise many different exceptions
        raise InputError(f"{name}: it cannot be read as arrays ({exc}).") from exc
    return loaded


def _split(
    group: Any, types: Mapping[str, TensorType], recipe: Preprocessing
) -> Iterator[tuple[str, Any]]:
    """A group as batches, each with what it is: images of several sizes are several batches."""
    if not isinstance(group, list):
        if isinstance(group, Mapping):
            group = {name: _loaded(value) for name, value in group.items()}
        yield "your sample", group
        return
    if len(types) > 1:
        raise InputError(
            f"the model has {len(types)} inputs ({', '.join(map(repr, types))}), got an image. Say "
            "which input each value is for: a dict by input name, an .npz file, or --sample "
            "NAME=FILE."
        )
    (spec,) = types.values()
    if len(spec.dims or ()) != 4:
        raise InputError(
            f"the model takes no images: its input {next(iter(types))!r} has the shape "
            f"{spec.dims}, got {_name_of(group[0])}. Give an array: .npy or .npz."
        )
    by_shape: dict[tuple[int, ...], list[Any]] = {}
    for image in group:
        by_shape.setdefault(np.shape(recipe.batch([image]))[1:], []).append(image)
    for images in by_shape.values():
        yield "your images", images


def _name_of(image: Any) -> str:
    return repr(os.fsdecode(image)) if isinstance(image, (str, os.PathLike)) else "an image"


def _prepared(
    value: Any, types: Mapping[str, TensorType], recipe: Preprocessing
) -> tuple[NDArray[Any], ...]:
    arrays = prepare(value, types, list(types), recipe, BATCH)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            warnings.warn(
                f"the sample for input {name!r} contains NaN or infinite values; where they reach, "
                "it can only be compared that Keras and the file both return such values.",
                LayertapWarning,
                stacklevel=2,
            )
    return tuple(np.asarray(arrays[name]) for name in types)
