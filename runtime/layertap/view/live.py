"""A page with the model inside, which runs it in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layertap.cam import available
from layertap.cam.heat_maps import choose_layer
from layertap.cam.methods import METHODS, find_method
from layertap.cam.scores import (
    choose_output,
    class_axis,
    ends_in_activation,
    labels_of,
    static_shape,
)
from layertap.cam.targets import is_binary
from layertap.errors import LayertapError, UsageError
from layertap.format.select import LAST
from layertap.format.text import number_of, shape_text

from .about import file_data, file_title, shown
from .html_page import Page, html_page
from .samples import Sample, as_uri

if TYPE_CHECKING:
    from layertap._engine.program import Program
    from layertap.format.layer import Layer
    from layertap.images.preprocessing import Preprocessing

    from .engine import Engine

MOST_BYTES = 350_000_000
"""Of a model in a page: browsers have no strings of more than 536,870,888 characters."""

MOST_CLASSES = 2000
"""Classes to choose the heat map of."""


def live_page(
    program: Program,
    samples: Sequence[Sample],
    top: int,
    channels: int | None,
    recipe: Preprocessing | None,
    engine: Engine,
) -> Page:
    """A page with a model and an engine inside.

    Args:
        program: the model.
        samples: pictures that the page begins with.
        top: how many classes are listed.
        channels: how many channels of a layer are shown.
        recipe: how a picture becomes the input.
        engine: runs the model.

    Raises:
        UsageError: the model takes no pictures, or is too large.
    """
    name = _input(program)
    if recipe is None:
        raise UsageError(
            f"{program.name} does not say how a picture becomes its input. Give preprocess= "
            "(--preprocess)."
        )
    model = _model(program)
    data: dict[str, Any] = {**file_data(program), "top": top}
    for row, layer in zip(data["layers"], program.layers, strict=True):
        if layer.exposed and layer.shape:
            row["order"] = program.axes(str(layer.tensor), len(layer.shape))
    data["live"] = {
        "input": name,
        "recipe": program.fitted(recipe).to_dict(),
        "channels": channels,
    }
    left_out: list[str] = []
    data["scores"], count = _scores(program)
    data["heat"] = _heat_maps(program, count, left_out)
    blocks: list[bytes] = []
    for sample in samples:
        feeds = program.prepare_arrays([name], sample.inputs, sample.recipe)
        values = np.asarray(feeds[name], "<f4")
        picture = sample.picture
        if picture is None:
            raise UsageError("a live page begins with pictures; arrays are not pictures.")
        data["samples"].append(
            {
                "name": shown(sample.name),
                "picture": as_uri(picture),
                "origin": "image",
                "width": picture.width,
                "height": picture.height,
                "input": len(blocks),
                "dims": list(values.shape),
            }
        )
        blocks.append(values.tobytes())
    data["leftOut"] = [shown(text) for text in left_out]
    html = html_page(f"{data['model']} - layertap", data, blocks, engine, model)
    contents = f"{number_of(len(program.layers), 'layer')}, live"
    if samples:
        contents = f"{number_of(len(samples), 'image')}, {contents}"
    return Page(html, tuple(left_out), contents)


def _input(program: Program) -> str:
    """The input of pictures."""
    if program.finished is not None:
        raise UsageError(
            f"{program.name} is a finished file. Make a live page of the file it was made from."
        )
    inputs = program.graph.inputs
    dims = next(iter(inputs.values())).dims if len(inputs) == 1 else None
    if dims is None or len(dims) != 4:
        listed = ", ".join(f"{info.name} {shape_text(info.shape)}" for info in program.inputs)
        raise UsageError(
            f"a live page takes pictures, but the inputs of {program.name} are "
            f"{listed or 'none'}. Make a page of its values instead: leave out live (--live)."
        )
    return next(iter(inputs))


def _model(program: Program) -> bytes:
    """The contents of the file."""
    if program.graph.locations:
        raise UsageError(
            f"{program.name} has its weights in other files, which cannot be put into a page."
        )
    with program.source.read() as buffer:
        size = len(buffer)
        if size > MOST_BYTES:
            raise UsageError(
                f"{program.name} has {size / 1e6:,.0f} MB; a page can hold a model of at most "
                f"{MOST_BYTES / 1e6:,.0f} MB. `layertap cut` writes a part of it; a page without "
                "live (--live) has the values inside instead of the model."
            )
        return bytes(buffer)


def _scores(program: Program) -> tuple[list[dict[str, Any]] | None, int]:
    """What the page says about the scores, and the number of classes."""
    try:
        output = choose_output(program, None)
    except UsageError:
        return None, 0
    shape = static_shape(program, output) or ()
    units = shape[class_axis(program, output, len(shape))] if len(shape) >= 2 else None
    labels = labels_of(program, output) or ()
    if not isinstance(units, int) or not units:
        return None, 0
    count = 2 if is_binary(units, labels) else units
    scores = {
        "output": shown(output),
        "labels": len(labels) == count,
        "classes": count,
        "probability": ends_in_activation(program, output),
    }
    return [scores], count


def _heat_maps(program: Program, count: int, left_out: list[str]) -> dict[str, Any] | None:
    gradients = available.find(program)
    known = list(gradients.tensors) if gradients else []
    by_gradient = [one for one in METHODS.values() if one.takes == "gradients"]
    methods = [one for one in by_gradient if known and not one.of_attention]
    methods.append(find_method("eigencam"))
    try:
        layer = choose_layer(program, None if known else LAST, methods[0])
    except LayertapError as exc:
        reason = str(exc).replace(program.name, file_title(program)).rstrip(".")
        left_out.append(f"heat maps: {reason}")
        return None
    rows = {row.name: row for row in program.layers}
    layers = [name for name in known if name in rows and _has_maps(rows[name])]
    return {
        "layer": shown(layer.name),
        "layers": [shown(name) for name in layers],
        "classes": list(range(min(count, MOST_CLASSES))),
        "labels": len(program.labels or ()) == count,
        "methods": [{"name": one.name, "byClass": bool(one.takes), "step": 1} for one in methods],
    }


def _has_maps(row: Layer) -> bool:
    """Whether a layer has feature maps, or tokens that are patches."""
    return row.attention is None and (len(row.shape) == 4 or row.tokens is not None)
