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


class DeclaredShapes:
    """The shapes that the card of a file declares, compared with arrays of several batches."""

    def __init__(self, card: CardLike) -> None:
        """
        Args:
            card: the card of the file, or its draft.
        """
        self._declared = list(_declared(card))
        self._free: dict[str, Shape] = {}
        self._ranks: dict[str, set[int]] = {}

    def compare(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Compare with one batch: values of the graph's inputs and outputs, by name."""
        for name, shape in self._declared:
            if name in arrays:
                have = arrays[name].shape
                self._ranks.setdefault(name, set()).add(len(have))
                if len(have) == len(shape) and freed(shape, have) != shape:
                    self._free[name] = freed(shape, freed(have, self._free.get(name, have)))

    @property
    def contradicted(self) -> dict[str, Shape]:
        """The tensors whose arrays do not have the declared sizes: by name, the declared shape with
        `None` for each size that is another one."""
        found = dict(self._free)
        for name, shape in self._declared:
            ranks = self._ranks.get(name, {len(shape)})
            if len(shape) not in ranks:
                found[name] = (None,) * min(ranks)
        return found

    @property
    def notes(self) -> list[str]:
        """What no declaration of a shape can say, in words: numbers of axes that vary."""
        return [
            f"{name!r} has {' or '.join(map(str, sorted(ranks)))} axes, depending on the sizes of "
            "the inputs"
            for name, ranks in self._ranks.items()
            if len(ranks) > 1
        ]


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
