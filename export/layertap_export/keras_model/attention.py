"""Notes the scores of attention while Keras computes them: the weights after the softmax.

Keras returns them only with `return_attention_scores=True`, and then computes in other steps. Here
the layers compute as always. `MultiHeadAttention`, `GroupQueryAttention`, `Attention` and
`AdditiveAttention` have a method that returns them together with the result, or `None` where
`keras.ops.dot_product_attention` computes both; there they are what the values are multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from .families import is_a
from .wrapping import wrapped

_METHODS = {
    "_compute_attention": ("layers.MultiHeadAttention", "layers.GroupQueryAttention"),
    "_apply_scores": ("layers.Attention", "layers.AdditiveAttention"),
}
"""The method that returns result and scores, and the classes that have it."""

OPERATION = "DotProductAttention"
"""The class of `keras.ops.dot_product_attention` in a Functional graph."""


def computes_attention(layer: Any) -> bool:
    """Whether it is a layer, or an operation of a Functional graph, that has attention scores."""
    is_operation = not is_a(layer, "layers.Layer") and type(layer).__name__ == OPERATION
    return is_operation or _method_of(layer) is not None


def heads_of(layer: Any, rank: int) -> bool:
    """Whether the second axis of a layer's scores is that of the heads.

    Args:
        layer: a layer whose scores were noted.
        rank: the number of axes of the scores.
    """
    if _method_of(layer) == "_apply_scores":
        return False
    axes = getattr(layer, "_attention_axes", None)
    return rank == (2 + 2 * len(axes) if axes else 4)


def _method_of(layer: Any) -> str | None:
    return next((method for method, classes in _METHODS.items() if is_a(layer, *classes)), None)


@contextmanager
def scores_noted(layer: Any, found: list[Any]) -> Iterator[None]:
    """Append the scores that an attention layer computes in this block to `found`.

    Also those of a subclass that computes attention in its own way, if its method returns them.
    """
    method = _method_of(layer)
    if method is None:
        yield
        return

    def compute(original: Any, *args: Any, **kwargs: Any) -> Any:
        before = len(found)
        result = original(*args, **kwargs)
        if isinstance(result, tuple) and len(result) == 2 and result[1] is not None:
            found[before:] = [result[1]]
        return result

    with wrapped(layer, method, compute):
        yield


@contextmanager
def products_noted(note: Callable[[Any], None]) -> Iterator[None]:
    """Give `note` the scores of each `keras.ops.dot_product_attention` in this block."""

    def attend(original: Any, *args: Any, **kwargs: Any) -> Any:
        weights: list[Any] = []

        def einsum(original: Any, equation: str, *operands: Any, **named: Any) -> Any:
            weights[:] = operands[:1]
            return original(equation, *operands, **named)

        with wrapped(tf, "einsum", einsum):
            result = original(*args, **kwargs)
        if weights and _is_softmax(weights[0]):
            note(weights[0])
        return result

    with wrapped(keras.src.backend.nn, "dot_product_attention", attend):
        yield


def _is_softmax(tensor: Any) -> bool:
    """Whether a tensor of a graph is the result of a softmax, perhaps in another dtype."""
    if getattr(tensor, "graph", None) is None:
        return False
    operation = tensor.op
    if operation.type == "Cast":
        operation = operation.inputs[0].op
    return bool(operation.type == "Softmax")
