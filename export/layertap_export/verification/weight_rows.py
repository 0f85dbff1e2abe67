"""Whether a file gives several gradients of one sample, by several rows of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap._engine.stopping import STOPPED
from layertap.comparing.measures import difference
from layertap.format.card import Gradients

WEIGHT_ROWS = 3
"""How many rows of weights are tried on one sample."""

ROWS_TOLERANCE = 1e-4
"""The largest scaled difference of two runs that count as equal: their sums may be in another
order."""


def broadcasts(
    opened: Any,
    gradients: Gradients,
    feeds: Mapping[str, NDArray[Any]],
    shape: Sequence[int],
    dtype: Any,
) -> bool:
    """Whether one sample with several rows of weights has the gradients of as many runs.

    Args:
        opened: a session over the model.
        gradients: the card's entry for them.
        feeds: a value for each input, of which the first sample is used.
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
    except STOPPED:
        raise
    except Exception:  # noqa: BLE001 - the shapes do not fit: the answer is no
        return False
    return all(
        difference(rows, _joined([run[i] for run in alone])).scaled <= ROWS_TOLERANCE
        for i, rows in enumerate(together)
    )


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Gradients of one row of weights each, as those of all rows; numbers are stacked."""
    return np.concatenate(parts) if parts[0].ndim else np.stack(parts)
