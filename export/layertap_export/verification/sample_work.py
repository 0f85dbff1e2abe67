"""How much work one sample of a model is, which decides how many samples can be compared."""

from __future__ import annotations

import math
from typing import Any

from layertap_export.keras_model.tracing import Trace

STEPS_PER_ELEMENT = 400.0
"""How many products of a convolution or a matrix take as long as to compare one element."""

PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
CONVOLUTIONS = ("Conv", "DepthwiseConv")
"""Operations of TensorFlow; of convolutions, the beginnings of their names."""

NOT_COMPUTED = frozenset({"Const", "ReadVariableOp", "Placeholder", "Identity", "VarHandleOp"})
"""Operations whose results do not depend on the samples, or are not computed."""


def sample_work(traced: Trace, length: int) -> float:
    """About how many elements one sample has in all tensors, those inside layers too; with the
    products of convolutions and matrices, counted in the time that an element takes.

    It follows from the graph alone, and not from a clock, because the batches are in the card.

    Args:
        traced: the model.
        length: the size that free axes have.
    """
    graph = traced.function.graph
    inputs = sum(_elements(x, length) for x in traced.function.inputs[: len(traced.inputs)])
    return inputs + sum(_work(op, length) for op in graph.get_operations())


def _work(op: Any, length: int) -> float:
    if op.type in NOT_COMPUTED:
        return 0.0
    elements = sum(_elements(x, length) for x in op.outputs)
    if op.type in PRODUCTS and len(op.inputs) > 1:
        return elements + elements * _size(op.inputs[1], -2, length) / STEPS_PER_ELEMENT
    if op.type.startswith(CONVOLUTIONS) and len(op.inputs) > 1:
        kernel = _elements(op.inputs[1], length)
        return elements + elements * kernel / _size(op.inputs[1], -1, length) / STEPS_PER_ELEMENT
    return elements


def _elements(tensor: Any, length: int) -> float:
    """The elements of a tensor for one sample; 1 if the number of its axes is not known."""
    if tensor.shape.rank in (None, 0):
        return 1.0
    batch, *sizes = tensor.shape
    return float(math.prod([batch or 1, *(length if size is None else size for size in sizes)]))


def _size(tensor: Any, axis: int, length: int) -> int:
    rank = tensor.shape.rank
    size = tensor.shape[axis] if rank is not None and rank >= -axis else None
    return max(1, length if size is None else size)
