"""Running a model that gives gradients, with plain onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from layertap._engine.session import plain_session
from layertap.compare.measures import difference
from layertap.format.card import Gradients
from layertap_export.errors import ExportError

WEIGHT_ROWS = 3
"""How many rows of weights are tried on one sample."""

ROWS_TOLERANCE = 1e-4
"""Difference, as a share of the largest value, up to which two runs count as equal: their sums may
be in another order."""


def session(model: Any) -> Any:
    """A session over a whole model, a path or bytes, that prints nothing.

    Raises:
        ExportError: onnxruntime does not take it.
    """
    try:  # without the arena, which would keep all memory that a run took
        return plain_session(model, enable_cpu_mem_arena=False)
    except Exception as exc:
        raise ExportError(f"onnxruntime cannot open the file with gradients: {exc}") from exc


def kinds(values: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, int]]:
    """Element types and ranks."""
    return {
        name: (helper.np_dtype_to_tensor_dtype(value.dtype), value.ndim)
        for name, value in values.items()
    }


def broadcasts(
    opened: Any,
    gradients: Gradients,
    feeds: Mapping[str, NDArray[Any]],
    shape: Sequence[int],
    dtype: Any,
) -> bool:
    """Whether one sample goes with many rows of weights, and gives what as many runs give.

    Args:
        opened: a session over the model.
        gradients: what its card says.
        feeds: a value for each input; the first sample of it is taken.
        shape: of the scores.
        dtype: of the scores.
    """
    one = {name: value[:1] if value.ndim else value for name, value in feeds.items()}
    names = list(gradients.tensors.values())
    if not shape:
        return False
    weights = np.random.default_rng(0).uniform(-1, 1, (WEIGHT_ROWS, *shape[1:])).astype(dtype)
    try:
        together = opened.run(names, {**one, gradients.weights: weights})
        alone = [
            opened.run(names, {**one, gradients.weights: weights[row : row + 1]})
            for row in range(WEIGHT_ROWS)
        ]
    except Exception:  # noqa: BLE001 - the shapes do not fit together: that is the answer
        return False
    return all(
        difference(rows, _joined([run[i] for run in alone])).scaled <= ROWS_TOLERANCE
        for i, rows in enumerate(together)
    )


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Gradients of one row of weights each, as those of all rows; numbers are stacked."""
    return np.concatenate(parts) if parts[0].ndim else np.stack(parts)
