"""The formulas of attention rollout: from the scores of all layers to the relevance of tokens.

Each works on one sample, in float64. `A` are the scores of a layer, `(heads, tokens, tokens)`:
rows are queries, columns keys, and each row sums to 1. Layers come in the order in which they run.
The result is `(tokens, tokens)`: how much each token of the last layer (rows) depends on each
token of the first (columns).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]

HEADS: dict[str, Callable[..., Scores]] = {"mean": np.mean, "max": np.max, "min": np.min}
"""How `rollout` makes one matrix of those of all heads, by name."""


def rollout(layers: Iterable[Scores], heads: str = "mean") -> Scores:
    """The product of `(A + I) / 2` over the layers, the last one first: the same for every class.

    `A` is the mean over the heads; `I`, the identity, stands for the residual connection. With the
    maximum or the minimum over the heads instead, which is common in practice, each row is divided
    by its sum.

    Abnar and Zuidema 2020: Quantifying Attention Flow in Transformers.
    https://arxiv.org/abs/2005.00928

    Args:
        layers: the scores of each layer.
        heads: `mean`, `max` or `min`.
    """
    flow: Scores | None = None
    for scores in layers:
        joined = HEADS[heads](scores, axis=0) + np.eye(scores.shape[-1])
        joined /= joined.sum(axis=-1, keepdims=True)
        flow = joined if flow is None else joined @ flow
    return _some(flow)


def gradient_rollout(layers: Iterable[tuple[Scores, Scores]]) -> Scores:
    """`R = R + mean(relu(G A)) R` over the layers, where `R` is the identity at first.

    `G` is the gradient of the target's score with respect to `A`, and the mean is over the heads.

    Chefer et al. 2021: Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers. https://arxiv.org/abs/2103.15679

    Args:
        layers: the scores of each layer, and their gradient.
    """
    relevance: Scores | None = None
    for scores, gradient in layers:
        seen = np.maximum(gradient * scores, 0).mean(axis=0)
        before = np.eye(len(seen)) if relevance is None else relevance
        relevance = before + seen @ before
    return _some(relevance)


def _some(found: Scores | None) -> Scores:
    if found is None:
        raise ValueError("no layers")
    return found


def of_patches(relevance: Scores, grid: tuple[int, int], first: int) -> Scores:
    """The relevance of the patches of an image, `(rows, columns)`.

    Args:
        relevance: `(tokens, tokens)`.
        grid: the number of rows and of columns.
        first: how many tokens come before the patches.
    """
    count = grid[0] * grid[1]
    row = class_token(len(relevance), count, first)
    whole = relevance.mean(axis=0) if row is None else relevance[row]
    patches: Scores = whole[first : first + count].reshape(grid)
    return patches


def class_token(tokens: int, patches: int, first: int) -> int | None:
    """The index of the class token: the first token that is no patch; `None` if all are patches."""
    if first:
        return 0
    return patches if tokens > patches else None
