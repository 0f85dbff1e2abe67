"""The shapes that a file declares, compared with the arrays that it gives.

Comparing values does not find a fault here: Keras gives arrays of the same sizes, whatever is
declared. A size that was declared as fixed, and is another one in some batch, should be free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from layertap.format.layer import Shape

from .card_like import CardLike


def contradicted(card: CardLike, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Shape]:
    """The tensors whose arrays do not have the sizes that the card declares.

    Args:
        card: the card of the file, or its draft.
        arrays: values of the graph's inputs and outputs, by name.

    Returns:
        By name of the tensor, the declared shape with `None` for each size that is another one.
    """
    found: dict[str, Shape] = {}
    for name, shape in _declared(card):
        if name in arrays:
            free = freed(shape, arrays[name].shape)
            if free != shape:
                found[name] = freed(free, found.get(name, free))
    return found


def _declared(card: CardLike) -> Iterator[tuple[str, Shape]]:
    """The inputs and outputs with their declared shapes; several layers may show one tensor."""
    for info in (*card.inputs, *card.outputs):
        yield info.name, info.shape
    for layer in card.layers:
        if layer.tensor is not None:
            yield layer.tensor, layer.shape


def freed(shape: Shape, other: Shape) -> Shape:
    """A shape with `None` for each size that is another one, or free, in the other shape."""
    if len(shape) != len(other):
        return (None,) * len(other)
    return tuple(size if size == have else None for size, have in zip(shape, other, strict=True))


def declare(graph: onnx.GraphProto, card: CardLike) -> None:
    """Free the sizes of a graph's outputs, gradients too, that are free in the card, in place."""
    shapes = dict(_declared(card))
    if card.gradients:
        layers = {layer.name: layer.shape for layer in card.layers}
        for name, output in card.gradients.tensors.items():
            shapes[output] = layers.get(name, shapes.get(name, ()))
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            if size is None:
                dim.ClearField("dim_value")
