"""The size of a layer's activations in bytes."""

from __future__ import annotations

from collections.abc import Sequence

from layertap._arguments import count, sizes
from layertap._record import Record

from .card import Card
from .layer import ITEM_BYTES, MOST_BYTES, Layer


class Cost(Record):
    """The size of one layer's activations."""

    nbytes: int | None
    """In bytes; `None` if the file does not state enough to compute it."""
    exact: bool = True
    """False for an estimate, which is based on the layer's size in the golden sample."""


def activation_costs(
    layers: Sequence[Layer],
    card: Card | None,
    size: Sequence[int] | None = None,
    batch: int = 1,
) -> list[Cost]:
    """The size of each layer's activations for `batch` samples.

    Args:
        layers: the layers.
        card: the file's card. The size of a layer with free axes is estimated from the shapes in
            its golden sample.
        size: the sizes of the first input's free axes after the batch axis; `(height, width)` for
            images.
        batch: the number of samples.

    Raises:
        UsageError: a size or `batch` is less than 1.
    """
    batch = count("batch", batch)
    size = None if size is None else sizes("size", size)
    measured: dict[str | None, tuple[int, ...]] = {}
    if card is not None and card.golden is not None:
        measured = {item.name: item.shape for item in card.golden.inputs}
        measured |= {tensor: found.shape for tensor, found in card.golden.layers.items()}
    return [_cost(layer, card, size, batch, measured.get(layer.tensor)) for layer in layers]


def _cost(
    layer: Layer,
    card: Card | None,
    size: Sequence[int] | None,
    batch: int,
    measured: tuple[int, ...] | None,
) -> Cost:
    """
    Args:
        measured: the shape of the layer, or of the input that it is, in the golden sample.
    """
    nbytes = layer.nbytes(batch)
    if nbytes is not None or card is None or card.golden is None:
        return Cost.trusted({"nbytes": nbytes, "exact": True})
    import math

    item_bytes = ITEM_BYTES.get(layer.dtype)
    if measured is None or item_bytes is None or not card.inputs or not card.golden.inputs:
        return Cost(None)
    input_shape, sample_shape = card.inputs[0].shape, card.golden.inputs[0].shape
    if not sample_shape or len(input_shape) != len(sample_shape) or 0 in sample_shape:
        return Cost(None)
    free = [sample_shape[axis] for axis, dim in enumerate(input_shape) if axis and dim is None]
    size = size or ()
    if len(free) != len(size):
        return Cost(None)
    samples = batch if layer.shape[:1] == (None,) else 1
    # In whole numbers: a product of sizes may be more than a float can hold.
    above = math.prod(measured) * samples * math.prod(size if free else ())
    below = sample_shape[0] * math.prod(free)
    nbytes = (above + below // 2) // below * item_bytes
    return Cost(nbytes if nbytes < MOST_BYTES else None, exact=False)
