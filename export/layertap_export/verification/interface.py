"""The inputs and outputs that a file states, compared with those that its card names.

Comparing values does not find a fault here: onnxruntime computes the same values whatever order,
sizes and default weights the file states.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from onnx import numpy_helper

from layertap.format.card import CLASS_INPUTS
from layertap.format.graph import Graph, TensorType, read_graph, read_types
from layertap.format.layer import Shape
from layertap.format.source import FileSource
from layertap_export.errors import ExportError

from .card_like import CardLike
from .written_file import WrittenFile


def check_interface(file: WrittenFile, card: CardLike) -> None:
    """Check the inputs and outputs that a file exported from Keras states.

    Raises:
        ExportError: a name, the order of the model's own outputs, a dtype, a size or the symbol of
            the batch is not what the card says; or see `check_gradients`.
    """
    graph, types = _read(file)
    inputs = {info.name: (info.dtype, info.shape) for info in card.inputs}
    own = {info.name: (info.dtype, info.shape) for info in card.outputs}
    # Of several layers with one tensor, the first states its type.
    exposed = [layer for layer in reversed(card.layers) if layer.tensor is not None]
    layers = {str(layer.tensor): (layer.dtype, layer.shape) for layer in exposed}
    shown = {name: kind for name, kind in layers.items() if name not in inputs} | own
    gradients = card.gradients.added if card.gradients else ()
    _check_names("inputs", list(graph.inputs), [*inputs, *_weights_to_feed(card)])
    _check_names("first outputs", list(graph.outputs)[: len(own)], list(own))
    _check_names("outputs", sorted(graph.outputs), sorted({*shown, *gradients}))
    symbols = {size for name in inputs for size in types[name].dims or ()}
    batch = {size for name in inputs for size in (types[name].dims or ())[:1]}
    for name, kind in inputs.items():
        _check_type(name, types[name], *kind, [symbols] * len(kind[1]))
    for name, kind in shown.items():
        _check_type(name, types[name], *kind, [batch])
    if card.gradients:
        check_gradients(file, card)


def check_gradients(file: WrittenFile, card: CardLike) -> None:
    """Check the gradients that a file states, and the default weights of the scores.

    Raises:
        ExportError: a gradient does not have the dtype and the axes of its layer; the default
            weights are not ones; or there are default weights although they are required.
    """
    assert card.gradients is not None
    graph, types = _read(file)
    kinds = {info.name: (info.dtype, info.shape) for info in card.inputs}
    kinds |= {layer.name: (layer.dtype, layer.shape) for layer in card.layers}
    for name, output in card.gradients.tensors.items():
        if output not in graph.outputs:
            raise ExportError(f"the gradient {output!r} is not an output of the written file.")
        (dtype, shape), stated = kinds[name], types[output]
        # A file from elsewhere may not state the type of a layer, nor of what is in a loop the
        # rank; the graph may know sizes that the layer leaves free.
        if dtype and shape and stated.dims is not None:
            pairs = zip_longest(shape[1:], stated.dims[1 : len(shape)])
            sizes: list[Any] = [have if size is None else size for size, have in pairs]
            _check_type(output, stated, dtype, (None, *sizes), ())
    weights = card.gradients.weights
    if card.gradients.class_input == CLASS_INPUTS[1]:
        if weights not in graph.inputs:
            raise ExportError(f"the input {weights!r} has a default, although it is required.")
        return
    items = (x for x in file.model.graph.initializer if x.name == weights)
    values = [numpy_helper.to_array(file.loaded(item)) for item in items]
    if weights not in graph.optional or len(values) != 1 or not (values[0] == 1).all():
        raise ExportError(f"the default of {weights!r} is not a tensor of ones.")


def _weights_to_feed(card: CardLike) -> list[str]:
    """The input with the weights of the scores, if clients have to feed it."""
    gradients = card.gradients
    required = gradients is not None and gradients.class_input == CLASS_INPUTS[1]
    return [gradients.weights] if gradients is not None and required else []


def _read(file: WrittenFile) -> tuple[Graph, Mapping[str, TensorType]]:
    with FileSource(file.path).read(sparsely=True) as buffer:
        graph = read_graph(buffer)
        return graph, read_types(buffer, graph)


def _check_names(what: str, stated: Sequence[str], expected: Sequence[str]) -> None:
    if list(stated) != list(expected):
        raise ExportError(
            f"the {what} of the written file are {list(stated)}, expected {list(expected)}."
        )


def _check_type(
    name: str,
    stated: TensorType,
    dtype: str,
    shape: Shape,
    symbols: Sequence[Collection[int | str | None]],
) -> None:
    """
    Args:
        name: the name of an input or output.
        stated: its type in the file.
        dtype: its dtype.
        shape: its shape.
        symbols: for each axis, the symbols that a free size may have; further axes have none.
    """
    dims = stated.dims
    allowed = [*symbols, *[()] * len(shape)]
    if (
        stated.dtype != dtype
        or dims is None
        or len(dims) != len(shape)
        or not all(
            have == size if size is not None else have is None or have in names
            for have, size, names in zip(dims, shape, allowed, strict=False)
        )
    ):
        raise ExportError(
            f"the written file states the type {stated.dtype} {dims} for {name!r}, expected "
            f"{dtype} {shape}."
        )
