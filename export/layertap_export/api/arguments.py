"""The arguments of `export`, in the forms in which users give them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from enum import Enum
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from layertap.errors import UsageError
from layertap.format.select import ALL, as_selectors, parse_selector, select
from layertap.format.text import class_text, number_of, shape_text
from layertap.images.preprocessing import Preprocessing

if TYPE_CHECKING:  # it imports TensorFlow; the arguments are checked before
    from layertap_export.keras_model.tracing import Trace

Labels: TypeAlias = "Iterable[Any] | Mapping[Any, Any] | str | os.PathLike[str]"
"""What a caller may give as the names of the classes; see `labels_of`."""


def chosen_layers(traced: Trace, layers: Any, types: str | Iterable[str] | None) -> set[str]:
    """The names of the layers that the file exposes; attention layers come with their scores.

    Args:
        traced: the model.
        layers: `"all"`, or one or more names, globs, `re:` patterns, indices, slices or layers.
        types: Keras class names, which narrow down `layers`.

    Raises:
        LayerNotFoundError: a selector or type matches nothing.
    """
    table = [row.layer for row in traced.rows]
    selectors = as_selectors(layers)
    if isinstance(selectors, str):
        selectors = [selectors]
    if isinstance(selectors, list):
        # Here the word comes before a layer of this name, because it is the default.
        everything = any(isinstance(x, str) and x == ALL for x in selectors)
        parsed = [parse_selector(x, table) if isinstance(x, str) else x for x in selectors]
        selectors = None if everything else parsed
    chosen = {layer.name for layer in select(table, selectors, types)}
    # The model's own outputs are in the file anyway.
    own = {info.name for info in traced.outputs}
    shown = {*chosen, None} if selectors is None else chosen  # of a model itself: no layer
    chosen |= {row.name for row in table if row.tensor and row.attention and row.parent in shown}
    return chosen | {layer.name for layer in table if layer.tensor in own}


def preprocessing_of(given: Any) -> Preprocessing | None:
    """How an image becomes an input: from anything that `Preprocessing.of` takes.

    Raises:
        PreprocessingError: it is not valid.
    """
    return None if given is None else Preprocessing.of(given)


def target_of(model: Any, path: Any) -> Path:
    """The path of the file that is written.

    Raises:
        UsageError: it is not a path.
    """
    if isinstance(path, (str, os.PathLike)):
        return Path(path)
    swapped = isinstance(model, (str, os.PathLike))
    raise UsageError(
        f"the path of the file to write must be a string or a Path, got {class_text(path)}."
        + (" The model comes first: export(model, path)." if swapped else "")
    )


def check_source(source: Any) -> None:
    """Check that the file that is read is given by its path.

    Raises:
        UsageError: it is not a path.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(
            f"the file to read must be a string or a Path, got {class_text(source)}. Save a model "
            "that is in memory to a file first."
        )


def labels_of(given: Labels | None) -> tuple[str, ...] | None:
    """Names of the classes, in order.

    Args:
        given: a sequence of names; a mapping from indices to names or from names to indices (such
            as Keras's `class_indices`); or the path of a text file with one name per line, or of
            such a sequence or mapping as JSON (`.json`). Numbers and truth values become text; of
            pairs the second is the name, as in Keras's `imagenet_class_index.json`.

    Raises:
        UsageError: the file cannot be read, or the labels are not names of classes.
    """
    if given is None:
        return None
    if isinstance(given, (str, os.PathLike)):
        return _labels_in(given)
    if isinstance(given, Mapping):
        return _labels_by_index(given)
    series: Any = given
    if hasattr(series, "to_dict") and hasattr(series, "index"):  # of pandas
        keys = list(series.index)
        if any(isinstance(key, str) for key in keys):
            return _labels_by_index(series.to_dict())  # indices by name
        if sorted(keys, key=str) == sorted(range(len(keys)), key=str):
            named = dict(zip(keys, series, strict=True))
            return tuple(_label(named[index]) for index in range(len(keys)))
    if isinstance(given, (bytes, set, frozenset)) or not isinstance(given, Iterable):
        kind = "a set, which has no order" if isinstance(given, (set, frozenset)) else repr(given)
        raise UsageError(
            f"labels must be a list of names, a dict of names by index, or a file, got {kind}."
        )
    try:
        return tuple(_label(item) for item in given)
    except TypeError as exc:  # an array without axes
        raise UsageError(f"labels must be a list of names, got {given!r}.") from exc


def _labels_in(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    name = os.fsdecode(path)
    form = "Give a text file with one label per line, or JSON."
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as exc:
        raise UsageError(f"labels: there is no file {name!r}. {form}") from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"cannot read the labels from {name!r}: {reason}. {form}") from exc
    if Path(path).suffix.lower() == ".json":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise UsageError(
                f"cannot read the labels from {name!r}, no valid JSON: {exc}."
            ) from exc
        if not isinstance(found, (list, dict)):
            raise UsageError(f"labels: {name!r} must contain a list or an object, got {found!r}.")
        return labels_of(found)
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _labels_by_index(given: Mapping[Any, Any]) -> tuple[str, ...]:
    """The names from a mapping from indices to names, or from names to indices."""
    by_key = {_index(key): value for key, value in given.items()}
    by_value = {_index(value): key for key, value in given.items()}
    wanted = set(range(len(given)))
    readings = [
        [reading[index] for index in range(len(given))]
        for reading in (by_key, by_value)
        if given and reading.keys() == wanted
    ]
    if len(readings) == 2 and isinstance(next(iter(given)), str):
        readings = readings[1:]  # class_indices of folders whose names are numbers
    if not readings or readings[0] != readings[-1]:
        raise UsageError(
            f"labels as a dict must map each index, 0 to {max(len(given) - 1, 0)}, to a name, or "
            f"each name to its index, got {repr(dict(given))[:100]}."
        )
    return tuple(_label(item) for item in readings[0])


def _index(value: object) -> int | None:
    """An integer, a truth value or a text of digits, as an index."""
    if isinstance(value, (Integral, np.bool_)):
        return int(value)
    return int(value) if isinstance(value, str) and value.isdecimal() else None


def _label(item: object) -> str:
    """The name of one class as text."""
    if isinstance(item, np.generic):
        item = item.item()
    if isinstance(item, Enum):
        item = item.name
    if isinstance(item, (list, tuple)) and len(item) == 2:  # Keras's imagenet_class_index.json
        item = item[1]
    if isinstance(item, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            item = item.decode()
    if isinstance(item, (str, int, float)) and item == item:  # but not NaN
        text = str(item)
        if not any("\ud800" <= character <= "\udfff" for character in text):
            return text
    raise UsageError(f"each label must be a name or a number, got {item!r}.")


def paths_in(*arguments: Any) -> list[str | os.PathLike[str]]:
    """Those of the arguments that are paths, or may be."""
    return [given for given in arguments if isinstance(given, (str, os.PathLike))]


def sample_paths(samples: Any) -> list[str | os.PathLike[str]]:
    """The paths among the user's samples, without reading an iterator."""
    if isinstance(samples, Mapping):
        return paths_in(*samples.values())
    if not isinstance(samples, (list, tuple)):
        return paths_in(samples)
    return [path for one in samples for path in sample_paths(one)]


def check_fit(traced: Trace, recipe: Preprocessing | None, labels: tuple[str, ...] | None) -> None:
    """Raise UsageError unless labels and preprocessing fit this model."""
    last = traced.outputs[0].shape[-1] if traced.outputs and traced.outputs[0].shape else None
    # One unit for two classes: the names are [negative, positive].
    fitting = last is None or (labels and len(labels) in ((1, 2) if last == 1 else (last,)))
    if labels is not None and not fitting:
        name = traced.outputs[0].name
        raise UsageError(
            f"got {number_of(len(labels), 'label')}, but the model's output {name!r} has "
            f"{number_of(last or 0, 'class', 'classes')}. Give one label for each class, in order"
            + (", or two: [negative, positive]." if last == 1 else ".")
        )
    images = [info for info in traced.inputs if len(info.shape) == 4]
    if recipe is None or not images:
        if recipe is not None:
            shown = ", ".join(f"{x.name!r} {shape_text(x.shape)}" for x in traced.inputs)
            raise UsageError(
                "got a preprocessing, but no input of the model is an image, with the axes "
                f"(n, h, w, c): its inputs are {shown}. Export it without a preprocessing."
            )
        return
    height, width, channels = images[0].shape[1:]
    fits_first = channels != recipe.channel_count == images[0].shape[1]
    if recipe.channels == "first" or (recipe.channels is None and fits_first):
        channels, height, width = images[0].shape[1:]
    size = recipe.size or (None, None)
    wrong_size = any(
        want is not None and got is not None and want != got
        for want, got in zip((height, width), size, strict=True)
    )
    if wrong_size or (channels is not None and channels != recipe.channel_count):
        fits = ""
        if wrong_size and height is not None and width is not None:
            fits = (
                f' Set its "size" to [{height}, {width}]; of a recipe by name as in '
                f"resnet50:{height}x{width}."
            )
        raise UsageError(
            f"the preprocessing returns images of {size[0]} x {size[1]} x {recipe.channel_count}, "
            f"but the model's input {images[0].name!r} takes {height} x {width} x {channels}.{fits}"
        )
