"""Conversion of the caller's inputs into arrays for onnxruntime.

Dtypes are converted as in Keras: real numbers of any dtype can be fed to a float input, integers to
an integer input of another width if all values fit. A contiguous array of the right dtype is not
copied.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from layertap._cut.plan import Leaf
from layertap.errors import InputError, ModelFileError, suggest
from layertap.format.graph import TensorType
from layertap.format.recipe import ValueRange
from layertap.format.text import class_text, shape_text

from .devices import HOST, DeviceMemory
from .on_device import dtype_of, is_ortvalue, memory_of, take

if TYPE_CHECKING:
    from layertap.images.preprocessing import Preprocessing

Array = npt.NDArray[Any]

Recipe: TypeAlias = "Preprocessing | Mapping[str, Any] | str | os.PathLike[str]"
"""A preprocessing recipe: an object, a dict, the path of a JSON file, or a name."""


def as_recipe(given: Recipe) -> Preprocessing:
    """The recipe as an object.

    Raises:
        PreprocessingError: the recipe is invalid, or its file cannot be read.
    """
    from layertap.images.preprocessing import Preprocessing  # needs Pillow; arrays do not

    return Preprocessing.of(given)


def prepare(
    given: Any,
    inputs: Mapping[str, TensorType],
    needed: Sequence[str],
    recipe: Preprocessing | None = None,
    batch: str | None = None,
    optional: Mapping[str, TensorType] | None = None,
    memory: DeviceMemory = HOST,
) -> dict[str, Any]:
    """Return arrays by input name, for the `needed` inputs and the given optional ones.

    Args:
        given: a value for the only input; a dict by input name; or a list in the inputs' order.
            A value is a batch (any array-like of the input's rank), or, for an input of images, an
            image, a list of images (see `is_image`), or a batch of integers: with a recipe, these
            are pixels, and are prepared. A batch of floating-point numbers is ready.
        inputs: all inputs of the model, in order.
        needed: the inputs that the request reads. Other given inputs are ignored.
        recipe: converts images into arrays `(n, h, w, c)`.
        batch: the name of the free size that is the batch: inputs with it must agree on it.
        optional: inputs with a default value, which a dict may replace.
        memory: the memory of the model's device. A value that is already there is not copied.

    Raises:
        InputError: an input is missing, unknown, or has the wrong rank, size or dtype.
    """
    values = _by_name(given, inputs, needed)
    known = {**inputs, **(optional or {})}
    for name in values:
        if name not in known:
            raise InputError(
                f"the model has no input {name!r}; it has {_listing(inputs)}."
                + suggest(str(name), list(known))
            )
    missing = [name for name in needed if name not in values]
    if missing:
        raise InputError(
            f"input {missing[0]!r} is missing: the request needs {_listing(needed)}, but only "
            f"{_listing(values)} was given."
            if values
            else f"input {missing[0]!r} is missing: the request needs {_listing(needed)}."
        )
    arrays = {name: _array(name, values[name], inputs[name], recipe, memory) for name in needed}
    if batch is not None and len(arrays) > 1:
        _check_batch(arrays, inputs, batch)
    chosen = [name for name in values if name not in inputs]
    return arrays | {name: _array(name, values[name], known[name], recipe) for name in chosen}


def prepare_layer(label: str, value: Any, spec: TensorType, leaf: Leaf) -> Any:
    """Convert a given activation into a value of the source tensor of its layer.

    A view of that tensor is converted back without a copy.

    Args:
        label: the activation's name in messages.
        spec: the layer's dtype and shape, as in Keras.
        leaf: how the layer is made from the source.

    Raises:
        InputError: the wrong rank, size or dtype.
    """
    if spec.dtype in ("sequence", "map", "optional"):
        return value
    array = _as_array(label, value)
    _check_shape(label, array.shape, spec)
    for perm in reversed(leaf.perms):
        order = list(reversed(range(array.ndim))) if perm is None else list(perm)
        if sorted(order) != list(range(array.ndim)):
            raise InputError(
                f"{label} has {array.ndim} axes, but a Transpose in the file reorders {order}."
            )
        array = array.transpose(np.argsort(order))
    return _cast(label, array, spec.dtype)


MOST_ONES = 1 << 24
"""The largest number of classes whose weights are made without being fed."""


def ones(kind: TensorType) -> Array:
    """Ones of a dtype, with a size of 1 for every axis that is free.

    Raises:
        ModelFileError: there would be more than `MOST_ONES`.
    """
    sizes = [size if isinstance(size, int) else 1 for size in kind.dims or ()]
    if math.prod(sizes) > MOST_ONES:
        raise ModelFileError(
            f"the file states the sizes {shape_text(tuple(sizes))} for the weights of its classes, "
            f"which are at most {MOST_ONES} numbers. Export the model again."
        )
    return np.ones(sizes, _NUMPY.get(kind.dtype, np.float32))


def is_ready(value: Any, spec: TensorType) -> bool:
    """Whether the value is an array that needs no conversion. A fast path for the usual case."""
    if type(value) is not np.ndarray or spec.dims is None or spec.dtype not in _NUMPY:
        return False
    if value.dtype != _NUMPY[spec.dtype] or not value.flags.c_contiguous:
        return False
    return len(value.shape) == len(spec.dims) and _fits(value.shape, spec.dims)


def unprepared(name: str, batch: Any, spec: TensorType, prepared: ValueRange) -> str:
    """What to tell a caller whose batch of images cannot be the result of the recipe.

    `prepared` is the range of the recipe. Of a large batch a sample is looked at, so that this
    takes microseconds.

    Returns:
        The message, or an empty string.
    """
    if not _is_image_batch(batch, spec):
        return ""
    sample = batch.reshape(-1)
    if sample.size > _SAMPLED:
        # The step is odd and no multiple of 3: the sample has values of every channel.
        sample = sample[:: sample.size // _SAMPLED // 6 * 6 + 1]
    low, high = float(sample.min()), float(sample.max())
    if prepared.low <= low <= high <= prepared.high or prepared.can_hold(low, high):
        return ""
    if low != low:
        return f"input {name!r}: the batch contains NaN. The result will, too."
    return (
        f"input {name!r}: the batch has values from {low:.4g} to {high:.4g}, but the model's "
        f"preprocessing returns {prepared}. A batch of dtype {batch.dtype} is used "
        "as it is; to have pixels prepared, give images or a batch of integers: x.astype('uint8')."
    )


_SAMPLED = 4096
"""How many values of a batch `unprepared` looks at."""


def _is_image_batch(batch: Any, spec: TensorType) -> bool:
    if not isinstance(batch, np.ndarray) or batch.dtype.kind != "f" or not batch.size:
        return False
    return spec.dims is not None and len(spec.dims) == batch.ndim == 4


def is_image(value: Any) -> bool:
    """Whether `value` is one image, for an input with four axes.

    A path, the bytes of an image file, a binary file object, a PIL image, or an array of integers
    of shape `(h, w)` or `(h, w, c)`. An array with four axes is a batch.
    """
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iu" and value.ndim in (2, 3)
    if isinstance(value, (str, bytes, bytearray, memoryview, os.PathLike)):
        return True
    if hasattr(value, "read"):
        return True
    pillow = sys.modules.get("PIL.Image")  # if the value is an image, PIL has been imported
    return pillow is not None and isinstance(value, pillow.Image)


def _is_image_file(value: Any) -> bool:
    """Whether `value` is an image and no array."""
    return is_image(value) and not isinstance(value, np.ndarray)


def _by_name(
    given: Any, inputs: Mapping[str, TensorType], needed: Sequence[str]
) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    if isinstance(given, (list, tuple)) and len(inputs) > 1 and len(given) == len(inputs):
        return dict(zip(inputs, given, strict=True))
    if len(inputs) == 1 or len(needed) == 1:
        name = needed[0] if needed else next(iter(inputs))
        if isinstance(given, (list, tuple)) and len(given) == 1 and len(inputs) == 1:
            (only,) = given
            rank = len(inputs[name].dims or ())
            if isinstance(only, np.ndarray) and only.ndim == rank:
                return {name: only}  # a list of inputs, with one item
        return {name: given}
    if not needed and given is None:
        return {}
    got = f"a list of {len(given)}" if isinstance(given, (list, tuple)) else kind_text(given)
    raise InputError(
        f"the model has {len(inputs)} inputs ({_listing(inputs)}), got {got}. Give a "
        "dict by input name; commands take an .npz file with an array for each input."
    )


def _array(
    name: str,
    value: Any,
    spec: TensorType,
    recipe: Preprocessing | None,
    memory: DeviceMemory = HOST,
) -> Any:
    if is_ready(value, spec) or spec.dtype in ("sequence", "map", "optional"):
        return value
    label = f"input {name!r}"
    source = memory_of(value)
    if source is not None:
        value = take(label, value, source, memory)
        if is_ortvalue(value):
            return _checked(label, value, spec)
    rank = None if spec.dims is None else len(spec.dims)
    value = _listed(value, spec)
    if rank in (4, None) and spec.dtype != "string":
        # An array without the number of axes to compare with is not taken for an image.
        suits = is_image if rank == 4 else _is_image_file
        images = [value] if suits(value) else value
        if isinstance(images, (list, tuple)) and images and all(map(suits, images)):
            if recipe is None:
                raise InputError(_no_recipe(name, spec, images[0]))
            value = _prepared(label, images, spec, recipe)
    array = _as_array(label, value)
    if not array.ndim and rank and array.dtype.kind in "OU" and spec.dtype != "string":
        raise InputError(f"{label} must be an array {_dims(spec)}, got {kind_text(value)}.")
    pixels = array.ndim == 4 and array.dtype.kind in "iu" and _is_float(spec)
    if recipe and rank == 4 and pixels:
        count = recipe.channel_count
        if recipe.channels == "first" and array.shape[1] == count != array.shape[3]:
            array = array.transpose(0, 2, 3, 1)
        array = _prepared(label, list(array), spec, recipe)
    _check_shape(label, array.shape, spec, recipe)
    return _cast(label, array, spec.dtype)


def _listed(value: Any, spec: TensorType) -> Any:
    """A generator, a pandas Series, or an array of paths as a list; no samples as an empty batch.

    Other values are returned as they are.
    """
    paths = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "UO"
    series = hasattr(value, "to_numpy") and getattr(value, "ndim", 0) == 1
    several = isinstance(value, Iterator) and not hasattr(value, "read")  # a file is one image
    if several or series or (paths and spec.dtype != "string"):
        value = list(value)
    free = spec.dims and not isinstance(spec.dims[0], int)
    if free and isinstance(value, (list, tuple)) and not value:
        sizes = [size if isinstance(size, int) else 1 for size in (spec.dims or ())[1:]]
        return np.empty((0, *sizes), _NUMPY.get(spec.dtype, object))
    return value


def _is_float(spec: TensorType) -> bool:
    return spec.dtype in _NUMPY and _NUMPY[spec.dtype].kind == "f"


def _prepared(label: str, images: Sequence[Any], spec: TensorType, recipe: Preprocessing) -> Array:
    """Images as a batch, by the recipe; no images as an empty one."""
    if not images:
        _, height, width, channels = spec.dims or (None,) * 4
        sizes = recipe.size or (height, width)
        free = [size if isinstance(size, int) else 1 for size in (*sizes, channels)]
        return np.empty((0, *free), np.float32)
    check_size(label, len(images), spec, recipe)
    batch = recipe.batch([as_pixels(label, image) for image in images])
    if recipe.scaling is None and spec.dtype in _NUMPY and _NUMPY[spec.dtype].kind in "iu":
        return batch.astype(np.int64)  # pixels, which are whole numbers
    return batch


def check_size(label: str, images: int, spec: TensorType, recipe: Preprocessing) -> None:
    """Check that images of a recipe will fit an input, before they are read: they may be large.

    Raises:
        InputError: the recipe's size or number of channels is not that of the input.
    """
    if recipe.size is None:
        return
    sizes, count = recipe.size, recipe.channel_count
    shape = (count, *sizes) if recipe.channels == "first" else (*sizes, count)
    try:
        _check_shape(label, (images, *shape), spec, recipe)
    except InputError as exc:
        raise InputError(f"{exc}{_fitting_size(recipe, spec.dims or ())}") from None


def _fitting_size(recipe: Preprocessing, wanted: Sequence[int | str | None]) -> str:
    """How a recipe gets the size of an input; nothing if that is not what is wrong."""
    if len(wanted) != 4:
        return ""
    count, height, width = wanted[1:] if recipe.channels == "first" else (wanted[3], *wanted[1:3])
    fixed = isinstance(height, int) and isinstance(width, int)
    if not fixed or (isinstance(count, int) and count != recipe.channel_count):
        return ""
    return (
        f' Set the "size" of the recipe to [{height}, {width}]; of a recipe by name as in '
        f"resnet50:{height}x{width}."
    )


def as_pixels(label: str, image: Any) -> Any:
    """An image; an array of wide integers as one of 8 or 16 bits, which is how images are read.

    Raises:
        InputError: the integers are not pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype in (np.uint8, np.uint16):
        return image
    low, high = (int(image.min()), int(image.max())) if image.size else (0, 0)
    if low < 0 or high > 65535:
        raise InputError(
            f"{label}: integers in an image are pixels, from 0 to 255 (or to 65535 for 16 bits), "
            f"got {image.dtype} from {low} to {high}. If the batch is prepared already, convert it "
            "to float: x.astype('float32')."
        )
    return image.astype(np.uint8 if high <= 255 else np.uint16)


def _checked(label: str, value: Any, spec: TensorType) -> Any:
    """An `OrtValue` that stays on its device: it is checked, but not converted."""
    _check_shape(label, tuple(value.shape()), spec)
    given = dtype_of(value)
    if spec.dtype and given != spec.dtype:
        raise InputError(
            f"{label} has dtype {given}, expected {spec.dtype}. A value on a device is not "
            "converted; convert it there."
        )
    return value


def _no_recipe(name: str, spec: TensorType, image: Any) -> str:
    from layertap.images.preprocessing import example

    batch = " (for an array that is one sample, add the batch axis: x[None])"
    return (
        f"input {name!r}: got {kind_text(image)} as an image, but the model's file has no "
        f"preprocessing. Give a recipe, as in preprocess={example(spec.dims)}, or a batch of shape "
        f"{_dims(spec)}{batch if isinstance(image, np.ndarray) else ''}."
        if spec.dims is not None
        else f"input {name!r}: got {kind_text(image)} as an image, but the model's file has no "
        f"preprocessing, and does not state the shape of its input. Give a recipe, as in "
        f"preprocess={example(None)}, or a batch."
    )


def _as_array(label: str, value: Any) -> Array:
    if value is None or (is_image(value) and not isinstance(value, (str, np.ndarray))):
        raise InputError(f"{label} must be an array, got {kind_text(value)}.")
    if is_ortvalue(value):
        return np.asarray(take(label, value, HOST, HOST))
    try:
        return np.asarray(value)
    except Exception as exc:  # an array-like may raise anything
        raise InputError(
            f"{label}: cannot convert {kind_text(value)} to an array ({exc})."
        ) from exc


def _check_shape(
    label: str, given: tuple[int, ...], spec: TensorType, recipe: Preprocessing | None = None
) -> None:
    if spec.dims is None:
        return
    wanted = spec.dims
    if len(given) == len(wanted) and _fits(given, wanted):
        return
    problem = f"{label} has shape {given}, expected {_dims(spec)}"
    if len(given) != len(wanted):
        if len(given) == len(wanted) - 1 and _fits(given, wanted[1:]):
            if recipe is None or len(wanted) != 4:
                raise InputError(f"{problem}. Add the batch axis: x[None].")
            raise InputError(
                f"{problem}. If its values are prepared, add the batch axis: x[None]. If they are "
                "pixels, give them as integers, which are prepared: x.astype('uint8')."
            )
        raise InputError(f"{problem}: it must have {len(wanted)} axes, got {len(given)}.")
    if len(given) == 4 and _fits((given[0], given[2], given[3], given[1]), wanted):
        raise InputError(f"{problem}. Its channels come first; use x.transpose(0, 2, 3, 1).")
    if len(given) == 4 and _fits((given[0], given[3], given[1], given[2]), wanted):
        raise InputError(f"{problem}. Its channels come last; use x.transpose(0, 3, 1, 2).")
    if len(given) == 4 and _fits((given[0], given[2], given[1], given[3]), wanted):
        raise InputError(f"{problem}. Height and width are swapped.")
    axis = next(i for i in range(len(given)) if not _fits(given[i : i + 1], wanted[i : i + 1]))
    kind = " (channels)" if len(given) == 4 and axis == 3 else ""
    raise InputError(f"{problem}: axis {axis}{kind} must be {wanted[axis]}, got {given[axis]}.")


def _fits(given: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    return all(
        not isinstance(want, int) or have == want for have, want in zip(given, wanted, strict=True)
    )


def _cast(label: str, array: Array, wanted: str) -> Array:
    """Convert `array` to the dtype of the input, C-contiguous."""
    given = array.dtype
    if wanted == "string":
        if given.kind not in "UO" or not all(isinstance(item, str) for item in array.flat):
            raise InputError(f"{label} must contain strings, got dtype {given}.")
        return np.asarray(array, dtype=object, order="C")
    if not wanted:
        return np.asarray(array, order="C")
    if wanted not in _NUMPY:  # bfloat16 and such: only an array of ml_dtypes
        if given.name != wanted:
            raise InputError(
                f"{label} must have dtype {wanted}, which numpy lacks, got {given}. Use ml_dtypes."
            )
        return np.asarray(array, order="C")
    dtype = _NUMPY[wanted]
    if given.kind in "USO" and dtype.kind in "biufc":
        raise InputError(
            f"{label} takes numbers ({dtype}), got values of dtype {given}. An image is only taken "
            "by an input with four axes, and an .npy file is read with np.load."
        )
    if given != dtype and given.kind not in "biuf":
        raise InputError(
            f"{label} has dtype {given}, expected {dtype}."
            + (" Give its real part, or its absolute value." if given.kind == "c" else "")
        )
    if dtype.kind in "biu" and given != dtype:
        _check_integers(label, array, dtype)
    with np.errstate(over="ignore"):  # values too large for float32 become inf, as in Keras
        return np.asarray(array, dtype=dtype, order="C")


_NAMES = (
    "bool float16 float32 float64 complex64 complex128 "
    "int8 int16 int32 int64 uint8 uint16 uint32 uint64"
).split()
_NUMPY = dict(zip(_NAMES, map(np.dtype, _NAMES), strict=True))
"""Dtypes that numpy itself supports."""


def _check_integers(label: str, array: Array, dtype: np.dtype[Any]) -> None:
    if array.dtype.kind == "f":
        raise InputError(
            f"{label} must contain integers ({dtype}), got dtype {array.dtype}. Round and "
            f"convert it: np.rint(x).astype({dtype.name!r})."
        )
    if not array.size or array.dtype == np.bool_:
        return
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise InputError(
            f"{label} has dtype {dtype}, with values from {low} to {high}, but the given values "
            f"range from {least} to {most}."
        )


def _check_batch(arrays: Mapping[str, Any], inputs: Mapping[str, TensorType], batch: str) -> None:
    sizes = {
        name: array.shape()[0] if is_ortvalue(array) else array.shape[0]
        for name, array in arrays.items()
        if hasattr(array, "shape") and (inputs[name].dims or (None,))[0] == batch
    }
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise InputError(f"the inputs have different batch sizes: {listing}.")


def _dims(spec: TensorType) -> str:
    sizes = ["n" if i == 0 and not isinstance(size, int) else size for i, size in _axes(spec)]
    shown = ["any" if size is None else str(size) for size in sizes]
    return f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"


def _axes(spec: TensorType) -> list[tuple[int, int | str | None]]:
    return list(enumerate(spec.dims or ()))


def _listing(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) or "none"


def kind_text(value: Any) -> str:
    """What a caller gave, for messages."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, (str, os.PathLike)):
        return repr(os.fsdecode(value))
    if value is None or isinstance(value, bytes):
        return "None" if value is None else "bytes"
    return class_text(value)
