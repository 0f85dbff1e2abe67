"""The best classes of an output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def best_classes(value: Any, final: bool) -> NDArray[np.int64] | None:
    """The best class of each sample or position; `None` for what has no classes.

    Scores `(n, classes)` have classes, and so has what ends in a sigmoid or softmax. A single
    probability is that of two classes. Where a score is NaN there is no best class: -1.

    Args:
        value: the values of an output, classes last.
        final: whether it ends in a sigmoid or softmax, see `scores.ends_in_activation`.
    """
    if not isinstance(value, np.ndarray) or value.ndim < 2 or value.dtype.kind != "f":
        return None
    if value.shape[-1] > 1 and (value.ndim == 2 or final):
        best = np.asarray(np.argmax(value, axis=-1), np.int64)
    elif value.shape[-1] == 1 and final:
        best = np.asarray(value[..., 0] > 0.5, np.int64)
    else:
        return None
    best[np.isnan(value).any(axis=-1)] = -1
    return best
