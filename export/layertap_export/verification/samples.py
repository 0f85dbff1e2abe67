"""A seeded input for a model that is only known from its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.compare.golden import feeds
from layertap.format.card import Card, Golden, GoldenInput, TensorInfo
from layertap_export.errors import ExportError

from .batches import doublings, filled


def sample(ready: Any, card: Card) -> tuple[Golden, dict[str, NDArray[Any]]]:
    """A seeded input on which the model runs: that of its golden sample, if it has one."""
    if card.golden is not None:
        return card.golden, feeds(card.golden, card.inputs)
    trouble: Exception | None = None
    for doubling in doublings(card.inputs):
        golden = Golden(seed=0, inputs=tuple(_golden_inputs(card.inputs, doubling)), layers={})
        arrays = feeds(golden, card.inputs)
        try:
            results = ready.run(None, arrays)
        except Exception as exc:  # noqa: BLE001 - onnxruntime's errors have no common class but this
            trouble = exc
            continue
        if all(np.size(result) for result in results):
            return golden, arrays
    # A deep network may shrink small sizes to nothing.
    reason = "an output is empty" if trouble is None else str(trouble)
    raise ExportError(f"onnxruntime cannot run the model on a test batch: {reason}") from trouble


def two_samples(
    ready: Any, golden: Golden, inputs: Sequence[TensorInfo]
) -> dict[str, NDArray[Any]] | None:
    """Two other samples, to find what is wrong only for several; `None` if the model takes one."""
    if not all(info.shape and info.shape[0] is None for info in inputs):
        return None
    items = [replace(item, shape=(2, *item.shape[1:])) for item in golden.inputs]
    arrays = feeds(replace(golden, seed=golden.seed + 1, inputs=tuple(items)), inputs)
    try:
        ready.run(None, arrays)
    except Exception:  # noqa: BLE001 - a file may state a free batch, and compute with one sample
        return None
    return arrays


def _golden_inputs(inputs: Sequence[TensorInfo], doubling: int) -> Iterator[GoldenInput]:
    """One sample of each input: from -1 to 1, or the integers 0 and 1, which are valid indices."""
    for info in inputs:
        whole = info.dtype == "bool" or np.dtype(info.dtype).kind in "iu"
        yield GoldenInput(
            name=info.name,
            shape=filled(info, 1, 0, doubling),
            low=0.0 if whole else -1.0,
            high=2.0 if whole and info.dtype != "bool" else 1.0,
        )
