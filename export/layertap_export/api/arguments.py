"""The arguments of `export`, in the forms in which users give them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layertap.errors import UsageError
from layertap.format.layer import Layer
from layertap.format.select import parse_selector, select
from layertap.format.text import shape_text
from layertap.images.preprocessing import Preprocessing
from layertap_export.keras_model.tracing import Trace


def chosen_layers(traced: Trace, layers: Any, types: str | Iterable[str] | None) -> set[str]:
    """The names of the layers that the file exposes.

    Args:
        traced: the model.
        layers: `"all"`, or one or more names, globs, `re:` patterns, indices, slices or layers.
        types: Keras class names, which narrow down `layers`.

    Raises:
        LayerNotFoundError: a selector or type matches nothing.
    """
    table = [row.layer for row in traced.rows]
    selectors: Any = layers
    if isinstance(layers, str):
        selectors = None if layers == "all" else parse_selector(layers, table)
    elif not isinstance(layers, (int, slice, Layer)):
        selectors = [parse_selector(x, table) if isinstance(x, str) else x for x in layers]
        if "all" in selectors:
            selectors = None
    chosen = {layer.name for layer in select(table, selectors, types)}
    # The model's own outputs are in the file anyway.
    own = {info.name for info in traced.outputs}
    return chosen | {layer.name for layer in table if layer.tensor in own}


def preprocessing_of(given: Any) -> Preprocessing | None:
    """How an image becomes an input: from a `Preprocessing`, its dict, or a JSON file with it.

    Raises:
        PreprocessingError: it is not valid.
    """
    if given is None or isinstance(given, Preprocessing):
        return given
    if isinstance(given, Mapping):
        return Preprocessing.from_dict(given)
    return Preprocessing.load(given)


def labels_of(given: Sequence[str] | str | os.PathLike[str] | None) -> tuple[str, ...] | None:
    """Names of the classes: from a sequence of them, or a text file with one per line.

    Raises:
        UsageError: the file cannot be read.
    """
    if given is None:
        return None
    if isinstance(given, (str, os.PathLike)):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(
                f"cannot read the labels from {os.fspath(given)!r}: {exc}. Give a text file with "
                "one label per line."
            ) from exc
        given = [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(given)


def paths_in(*arguments: Any) -> list[str | os.PathLike[str]]:
    """Those of the arguments that are paths, or may be."""
    return [given for given in arguments if isinstance(given, (str, os.PathLike))]


def check_fit(traced: Trace, recipe: Preprocessing | None, labels: tuple[str, ...] | None) -> None:
    """Raise UsageError unless labels and preprocessing fit this model."""
    last = traced.outputs[0].shape[-1] if traced.outputs and traced.outputs[0].shape else None
    if labels is not None and last is not None and len(labels) != last:
        raise UsageError(
            f"got {len(labels)} labels, but the model's output "
            f"{traced.outputs[0].name!r} has {last} classes. Give one label for each "
            "class, in order."
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
    size = recipe.size or (None, None)
    wrong_size = any(
        want is not None and got is not None and want != got
        for want, got in zip((height, width), size, strict=True)
    )
    if wrong_size or (channels is not None and channels != recipe.channels):
        raise UsageError(
            f"the preprocessing returns images of {size[0]} x {size[1]} x {recipe.channels}, but "
            f"the model's input {images[0].name!r} takes {height} x {width} x {channels}."
        )
