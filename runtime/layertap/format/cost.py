"""The size of a layer's activations in bytes."""

from __future__ import annotations

from collections.abc import Sequence

from layertap._record import Record
from layertap.errors import UsageError

from .card import Card, Golden
from .layer import ITEM_BYTES, Layer


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
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}.")
    if size is not None and any(axis < 1 for axis in size):
        raise UsageError(f"each axis of the size must be at least 1, got {tuple(size)}.")
    return [_cost(layer, card, size, batch) for layer in layers]


def _measured(layer: Layer, golden: Golden) -> tuple[int, ...] | None:
    """The shape of the layer in the golden sample; for an input layer, of the input."""
    inputs = {item.name: item.shape for item in golden.inputs}
    found = golden.layers.get(layer.tensor or "")
    return found.shape if found else inputs.get(layer.tensor or "")


def _cost(layer: Layer, card: Card | None, size: Sequence[int] | None, batch: int) -> Cost:
    nbytes = layer.nbytes(batch)
    if nbytes is not None or card is None or card.golden is None:
        return Cost.trusted({"nbytes": nbytes, "exact": True})
    import math

    measured = _measured(layer, card.golden)
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
    growth = math.prod(size) / math.prod(free) if free else 1.0
    samples = batch if layer.shape[:1] == (None,) else 1
    elements = round(math.prod(measured) / sample_shape[0] * samples * growth)
    return Cost(elements * item_bytes, exact=False)
