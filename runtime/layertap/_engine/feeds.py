"""Conversion of the caller's inputs into arrays for onnxruntime.

Dtypes are converted as in Keras: real numbers of any dtype can be fed to a float input, integers to
an integer input of another width if all values fit. A contiguous array of the right dtype is not
copied.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from layertap._cut.plan import Leaf
from layertap.errors import InputError, suggest
from layertap.format.graph import TensorType
from layertap.format.text import class_text

from .devices import HOST, DeviceMemory
from .on_device import dtype_of, is_ortvalue, memory_of, take

if TYPE_CHECKING:
    from layertap.images.preprocessing import Preprocessing

Array = npt.NDArray[Any]

Recipe: TypeAlias = "Preprocessing | Mapping[str, Any] | str | os.PathLike[str]"
"""A preprocessing recipe: an object, a dict, or the path of a JSON file."""


def as_recipe(given: Recipe) -> Preprocessing:
    """The recipe as an object.

    Raises:
        PreprocessingError: the recipe is invalid, or its file cannot be read.
    """
    from layertap.images.preprocessing import Preprocessing  # needs Pillow; arrays do not

    if isinstance(given, Preprocessing):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Preprocessing.load(given)
    return Preprocessing.from_dict(given)


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
            image or a list of images (see `is_image`).
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


def is_ready(value: Any, spec: TensorType) -> bool:
    """Whether the value is an array that needs no conversion. A fast path for the usual case."""
    if type(value) is not np.ndarray or spec.dims is None or spec.dtype not in _NUMPY:
        return False
    if value.dtype != _NUMPY[spec.dtype] or not value.flags.c_contiguous:
        return False
    return len(value.shape) == len(spec.dims) and _fits(value.shape, spec.dims)


def is_image(value: Any) -> bool:
    """Whether `value` is one image, for an input with four axes.

    A path, the bytes of an image file, a binary file object, a PIL image, or an array of uint8 or
    uint16 of shape `(h, w)` or `(h, w, c)`. An array with four axes is a batch.
    """
    if isinstance(value, np.ndarray):
        return value.dtype in (np.uint8, np.uint16) and value.ndim in (2, 3)
    if isinstance(value, (str, bytes, bytearray, memoryview, os.PathLike)):
        return True
    if hasattr(value, "read"):
        return True
    pillow = sys.modules.get("PIL.Image")  # if the value is an image, PIL has been imported
    return pillow is not None and isinstance(value, pillow.Image)


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
    got = f"a list of {len(given)}" if isinstance(given, (list, tuple)) else _kind(given)
    raise InputError(
        f"the model has {len(inputs)} inputs ({_listing(inputs)}), got {got}. Give a dict by input "
        "name."
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
    if rank == 4 and spec.dtype != "string":
        images = [value] if is_image(value) else value
        if isinstance(images, (list, tuple)) and images and all(map(is_image, images)):
            if recipe is None:
                raise InputError(_no_recipe(name, spec, images[0]))
            value = recipe.batch(images)
    array = _as_array(label, value)
    _check_shape(label, array.shape, spec)
    return _cast(label, array, spec.dtype)


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
    _, height, width, _ = spec.dims or (None,) * 4
    size = [height, width] if isinstance(height, int) and isinstance(width, int) else [320, 320]
    batch = " (for an array that is one sample, add the batch axis: x[None])"
    return (
        f"input {name!r}: got {_kind(image)} as an image, but the model's file has no "
        f'preprocessing. Give a recipe, as in preprocess={{"size": {size}}}, or a batch of shape '
        f"{_dims(spec)}{batch if isinstance(image, np.ndarray) else ''}."
    )


def _as_array(label: str, value: Any) -> Array:
    if value is None or (is_image(value) and not isinstance(value, (str, np.ndarray))):
        raise InputError(f"{label} must be an array, got {_kind(value)}.")
    if is_ortvalue(value):
        return np.asarray(take(label, value, HOST, HOST))
    try:
        return np.asarray(value)
    except Exception as exc:  # an array-like may raise anything
        raise InputError(f"{label}: cannot convert {_kind(value)} to an array ({exc}).") from exc


def _check_shape(label: str, given: tuple[int, ...], spec: TensorType) -> None:
    if spec.dims is None:
        return
    wanted = spec.dims
    if len(given) == len(wanted) and _fits(given, wanted):
        return
    problem = f"{label} has shape {given}, expected {_dims(spec)}"
    if len(given) != len(wanted):
        if len(given) == len(wanted) - 1 and _fits(given, wanted[1:]):
            raise InputError(f"{problem}. Add the batch axis: x[None].")
        raise InputError(f"{problem}: it must have {len(wanted)} axes, got {len(given)}.")
    if len(given) == 4 and _fits((given[0], given[2], given[3], given[1]), wanted):
        raise InputError(f"{problem}. Its channels come first; use x.transpose(0, 2, 3, 1).")
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


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype},"
    if isinstance(value, (str, os.PathLike)):
        return repr(os.fsdecode(value))
    if value is None or isinstance(value, bytes):
        return "None" if value is None else "bytes"
    return class_text(value)
