"""A seeded input for a model that is only known from its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap._engine.session import reason_of
from layertap._engine.stopping import STOPPED
from layertap.comparing.golden import feeds
from layertap.format.card import Card, Golden, GoldenInput, TensorInfo
from layertap_export.errors import ExportError

from .draws import HIGHS, WHOLE, Draw
from .sizes import Layout, given_sizes, layouts


def sample(
    ready: Any, card: Card, sizes: Mapping[str, int] | None = None
) -> tuple[Golden, dict[str, NDArray[Any]]]:
    """A seeded input on which the model runs: that of its golden sample, if it has one.

    Args:
        ready: a session of onnxruntime over the file.
        card: its card.
        sizes: values for free sizes of the inputs, by the symbol in the file; if there are any, the
            golden sample is not used.

    Raises:
        ExportError: onnxruntime runs the model with none of the inputs that are tried.
        UsageError: a size is unknown.
    """
    if card.golden is not None and (sizes is None or sizes == {}):
        return card.golden, feeds(card.golden, card.inputs)
    stated = {entry.name: tuple(entry.shape) for entry in ready.get_inputs()}
    first = Layout(given=given_sizes({} if sizes is None else sizes, card.inputs, stated))
    trouble: Exception | None = None
    for high in (WHOLE, *HIGHS) if any(map(_is_whole, card.inputs)) else (WHOLE,):
        for layout in layouts(card.inputs, first):
            golden = Golden(
                seed=0, inputs=tuple(_golden_inputs(card.inputs, layout, high)), layers={}
            )
            arrays = feeds(golden, card.inputs)
            try:
                results = ready.run(None, arrays)
            except STOPPED:
                raise
            except Exception as exc:  # noqa: BLE001 - onnxruntime's errors have no common class
                trouble = exc
                continue
            if all(np.size(result) for result in results):
                return golden, arrays
    # A deep network may shrink small sizes to nothing.
    reason = "an output is empty" if trouble is None else reason_of(trouble)
    raise ExportError(
        f"onnxruntime cannot run the model on a test batch: {reason}. Give the sizes of its free "
        "axes: --size NAME=VALUE (sizes= in Python)."
    ) from trouble


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
    except STOPPED:
        raise
    except Exception:  # noqa: BLE001 - a file may state a free batch, and compute with one sample
        return None
    return arrays


def _is_whole(info: TensorInfo) -> bool:
    return info.dtype not in ("bool", "string") and np.dtype(info.dtype).kind in "iu"


def _golden_inputs(
    inputs: Sequence[TensorInfo], layout: Layout, high: int
) -> Iterator[GoldenInput]:
    """One sample of each input: from -1 to 1, or whole numbers, which may be indices."""
    for info, shape in zip(inputs, layout.shapes(inputs, 1), strict=True):
        draw = Draw(low=0.0, high=float(high), whole=True) if _is_whole(info) else Draw()
        if info.dtype == "bool":
            draw = Draw(low=0.0, high=1.0)
        yield draw.golden(info, shape)
