"""Losses that keep their digits for large logits."""

from __future__ import annotations

import numpy as np

from .expressions import Value, arange


def sparse_cross_entropy(logits: Value, labels: Value) -> list[Value]:
    """The cross entropy of logits `(n, classes)` and labels `(n,)`, and its gradient.

    By LogSoftmax: the logarithm of a softmax is infinite where that rounds to 0.
    """
    log = logits.op("LogSoftmax", axis=-1)
    index = labels.cast(np.int64).unsqueeze(1)
    loss = -log.op("GatherElements", index, axis=1).squeeze(1)
    chosen = arange(logits.size(1)).unsqueeze(0).equals(index)
    return [loss, log.op("Exp") - chosen.cast(logits.dtype)]
