"""Inputs as users state them, for models that do not state them or state something else.

No TensorFlow is needed to read them: the command line checks `--input` before it is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from layertap.errors import UsageError, suggest
from layertap.format.layer import Shape

DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "bool", "string"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
"""Dtypes that an input may have."""

FORMS = (
    "Give a shape with the batch first, for example (None, 224, 224, 3), or shape and dtype, "
    'for example ((None, 9), "int32"), or a keras.Input(...); None is a free size.'
)
TEXT_FORMS = (
    "Give NAME=SHAPE or NAME=SHAPE:DTYPE with the batch first, for example x=?,224,224,3:float32; "
    "? is a free size."
)


@dataclass(frozen=True)
class Stated:
    """What a user states of one input."""

    shape: Shape | None
    """`None` if only the dtype is stated."""
    dtype: str | None
    """`None` if only the shape is stated."""


def parsed(texts: Sequence[str]) -> dict[str, Stated]:
    """The inputs that the command line states, each as `NAME=SHAPE` or `NAME=SHAPE:DTYPE`.

    Raises:
        UsageError: a text has another form, or two have one name.
    """
    found: dict[str, Stated] = {}
    for text in texts:
        name, equals, kind = text.rpartition("=")
        if not equals or not name:
            raise UsageError(f"cannot read the input {text!r}. {TEXT_FORMS}")
        if name in found:
            raise UsageError(f"the input {name!r} is stated twice: {text!r} is the second.")
        found[name] = _of_text(kind, repr(text), TEXT_FORMS)
    return found


def stated_inputs(given: Any) -> dict[str, Any]:
    """The inputs that a caller states, by name; the name `""` stands for the only input.

    Each is a `Stated`, or for an argument of `call` that is a dict or list of tensors, a dict or
    list of them.

    Args:
        given: `None`, a mapping by name, or one value for a model with one input.

    Raises:
        UsageError: a value is not a shape, a dtype, both, or a symbolic tensor.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {"": _stated(given, "the input")}
    for name in given:
        if not isinstance(name, str):
            raise UsageError(f"the names of inputs must be strings, got {name!r}.")
    return {name: _stated(value, f"the input {name!r}") for name, value in given.items()}


def _stated(value: Any, what: str) -> Any:
    if isinstance(value, Stated):
        return value
    if isinstance(value, str):
        return _of_text(value, f"{value!r} for {what}", FORMS)
    if isinstance(value, Mapping):
        return {key: _stated(item, f"{what}, {key!r}") for key, item in value.items()}
    if _is_dtype(value):
        return Stated(None, _dtype(value, what))
    if _is_symbol(value):
        return Stated(_shape(tuple(value.shape), what), _dtype(value.dtype, what))
    try:
        items = tuple(value)
    except (TypeError, ValueError):
        raise UsageError(f"got {value!r} for {what}. {FORMS}") from None
    if len(items) == 2 and _is_sizes(items[0]) and (isinstance(items[1], str) or items[1] is None):
        return Stated(_shape(items[0], what), items[1] and _dtype(items[1], what))
    if len(items) == 2 and _is_sizes(items[0]) and _is_dtype(items[1]):
        return Stated(_shape(items[0], what), _dtype(items[1], what))
    if items and all(_is_sizes(x) or isinstance(x, Mapping) or _is_symbol(x) for x in items):
        return [_stated(item, f"{what}, {number}") for number, item in enumerate(items)]
    return Stated(_shape(items, what), None)


def _is_sizes(value: Any) -> bool:
    """Whether this may be a shape, and not one size."""
    return isinstance(value, (tuple, list)) or type(value).__name__ == "TensorShape"


def _is_symbol(value: Any) -> bool:
    """Whether this is a symbolic tensor, or the description of one; arrays are not."""
    is_array = hasattr(value, "tobytes") or hasattr(value, "numpy")
    return hasattr(value, "shape") and hasattr(value, "dtype") and not is_array


def _is_dtype(value: Any) -> bool:
    """Whether this is a dtype of numpy or TensorFlow, or a class such as `np.float32`."""
    is_numpy = hasattr(value, "kind") and hasattr(value, "itemsize")
    return isinstance(value, type) or type(value).__name__ == "DType" or is_numpy


def _of_text(text: str, what: str, forms: str) -> Stated:
    """A shape, a dtype, or both as `SHAPE:DTYPE`."""
    shape, colon, dtype = text.partition(":")
    if not colon and text.strip() in DTYPES:
        shape, dtype = "", text
    dtype = dtype.strip()
    if dtype and dtype not in DTYPES:
        raise UsageError(f"{what} has the unknown dtype {dtype!r}.{suggest(dtype, DTYPES)} {forms}")
    sizes: list[int | None] = []
    for size in re.split("[,x]", shape.strip().strip("()[]")):
        word = size.strip()
        if word in ("?", "*", "-1", "None", "none"):
            sizes.append(None)
        elif word.isascii() and word.isdecimal():
            sizes.append(int(word))
        elif word:
            raise UsageError(f"{what} has {word!r} as a size. {forms}")
    if not sizes and not dtype:
        raise UsageError(f"{what} has neither a shape nor a dtype. {forms}")
    return Stated(_shape(sizes, what) if sizes else None, dtype or None)


def _shape(sizes: Any, what: str) -> Shape:
    found: list[int | None] = []
    for size in sizes:
        if size is None or size == "?" or size == -1:
            found.append(None)
            continue
        try:
            number = index(size)
        except TypeError:
            raise UsageError(f"{what} has {size!r} as a size. {FORMS}") from None
        if isinstance(size, bool) or number < 1:
            raise UsageError(f"the sizes of {what} must be at least 1 or None, got {size!r}.")
        found.append(number)
    return tuple(found)


def _dtype(value: Any, what: str) -> str:
    """The name of a dtype of numpy, TensorFlow or Keras, or of Python's `float`."""
    words = [value, getattr(value, "name", None), getattr(value, "__name__", None), str(value)]
    name = next(word for word in words if isinstance(word, str))
    name = {"float": "float32", "int": "int64", "str": "string"}.get(name, name)
    if name not in DTYPES:
        raise UsageError(
            f"{what} has the unknown dtype {name!r}.{suggest(name, DTYPES)} Known dtypes are "
            f"{', '.join(DTYPES)}."
        )
    return name
