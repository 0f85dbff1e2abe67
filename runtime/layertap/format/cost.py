"""How many bytes a layer's activations take."""

from __future__ import annotations

from collections.abc import Sequence

from layertap._record import Record
from layertap.errors import UsageError

from .layer import ITEM_BYTES, Layer

TYPE_CHECKING = False  # see _record.py: the table of layers is to be quick
if TYPE_CHECKING:
    from .card import Card, Golden


class Cost(Record):
    """Bytes of one layer's activations."""

    nbytes: int | None
    """`None` where the file does not tell."""
    exact: bool = True
    """False for an estimate, from what the layer took at the sizes it was verified with."""


def activation_costs(
    layers: Sequence[Layer],
    card: Card | None,
    size: Sequence[int] | None = None,
    batch: int = 1,
) -> list[Cost]:
    """What each layer's activations take for `batch` samples.

    Args:
        layers: the layers.
        card: the file's card; its golden sample tells how layers with free axes grow.
        size: the free sizes of the first input behind the batch axis, `(height, width)` for
            images.
        batch: number of samples.

    Raises:
        UsageError: a size or batch below 1.
    """
    if batch < 1:
        raise UsageError(f"a batch of {batch} makes no sense: give 1 or more.")
    if size is not None and any(axis < 1 for axis in size):
        raise UsageError(f"the size {tuple(size)} makes no sense: each axis has 1 or more.")
    return [_cost(layer, card, size, batch) for layer in layers]


def _measured(layer: Layer, golden: Golden) -> tuple[int, ...] | None:
    """The shape that the layer, or the input it stands for, had on the golden sample."""
    fed = {item.name: item.shape for item in golden.inputs}
    known = golden.layers.get(layer.tensor or "")
    return known.shape if known else fed.get(layer.tensor or "")


def _cost(layer: Layer, card: Card | None, size: Sequence[int] | None, batch: int) -> Cost:
    nbytes = layer.nbytes(batch)
    if nbytes is not None or card is None or card.golden is None:
        return Cost.trusted({"nbytes": nbytes, "exact": True})
    import math

    known = _measured(layer, card.golden)
    item = ITEM_BYTES.get(layer.dtype)
    if known is None or item is None or not card.inputs or not card.golden.inputs:
        return Cost(None)
    first, measured = card.inputs[0].shape, card.golden.inputs[0].shape
    if not measured or len(first) != len(measured) or 0 in measured:
        return Cost(None)
    free = [measured[axis] for axis, stated in enumerate(first) if axis and stated is None]
    size = size or ()
    if len(free) != len(size):
        return Cost(None)
    growth = math.prod(size) / math.prod(free) if free else 1.0
    share = batch if layer.shape[:1] == (None,) else 1
    return Cost(round(math.prod(known) / measured[0] * share * growth) * item, exact=False)
