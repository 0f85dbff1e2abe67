"""Multiply-adds of one run of an ONNX operator, from the shapes of what it read and wrote.

One multiplication and the addition that follows it count as 1, as papers on networks count them
(He et al. 2016 give 3.8e9 for ResNet50). Only products of matrices and convolutions count; what
works element by element, poolings, normalisations and the gates of recurrent layers do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Shape = Sequence[int]
Shapes = Sequence[Shape]


def _convolution(weights: int) -> Callable[[Shapes, Shapes], int]:
    """Each output sums over a window and the channels of one group: the axes of a kernel but the
    first."""
    return lambda reads, writes: math.prod(writes[0]) * math.prod(reads[weights][1:])


def _transposed(reads: Shapes, writes: Shapes) -> int:
    """Each input is spread over a window and the outputs of one group."""
    return math.prod(reads[0]) * math.prod(reads[1][1:])


def _product(reads: Shapes, writes: Shapes) -> int:
    """Each output sums over the last axis of the first matrix."""
    return math.prod(writes[0]) * reads[0][-1]


def _gemm(reads: Shapes, writes: Shapes) -> int:
    """The same, where either matrix may be transposed."""
    rows = writes[0][0]
    return math.prod(writes[0]) * (math.prod(reads[0]) // rows) if rows else 0


def _recurrent(reads: Shapes, writes: Shapes) -> int:
    """In each step, each sample meets every weight of the input and of the state once."""
    steps_and_samples = math.prod(reads[0][:2])
    return steps_and_samples * (math.prod(reads[1]) + math.prod(reads[2]))


def _attention(reads: Shapes, writes: Shapes) -> int:
    """Queries times keys, and weights times values: keys for each element of both."""
    keys = reads[1][-2]
    return keys * (math.prod(reads[0]) + math.prod(writes[0]))


def _fused_attention(reads: Shapes, writes: Shapes) -> int:
    """The operator of onnxruntime that projects its input to queries, keys and values, too."""
    samples, length, features = reads[0]
    projected = samples * length * features * reads[1][1]
    return projected + 2 * length * math.prod(writes[0])


_FORMULAS: dict[str, Callable[[Shapes, Shapes], int]] = {
    **dict.fromkeys(
        ("Conv", "FusedConv", "ConvInteger", "DeformConv", "NhwcConv"), _convolution(1)
    ),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    **dict.fromkeys(
        ("MatMul", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "FusedMatMul"), _product
    ),
    **dict.fromkeys(("Gemm", "QGemm", "FusedGemm"), _gemm),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(("Attention", "MultiHeadAttention"), _attention),
}


def multiply_adds(
    op_type: str, reads: Shapes, writes: Shapes, equation: str = "", domain: str = ""
) -> int:
    """The multiply-adds of one run; 0 for operators that are not counted.

    Args:
        op_type: the operator.
        reads: shapes of its inputs.
        writes: shapes of its outputs.
        equation: of an `Einsum`.
        domain: the operator set.
    """
    if op_type == "Einsum":
        return _einsum(equation, reads)
    formula = _FORMULAS.get(op_type)
    if op_type == "Attention" and domain == "com.microsoft":
        formula = _fused_attention
    try:
        return 0 if formula is None else formula(reads, writes)
    except (IndexError, ValueError):  # an operator of another domain with the same name
        return 0


def _einsum(equation: str, reads: Shapes) -> int:
    """All combinations of the letters, each once; none for one operand, which moves or adds."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) < 2 or len(terms) != len(reads):
        return 0
    sizes: dict[object, int] = {}
    for term, shape in zip(terms, reads, strict=True):
        before, dots, after = term.partition("...")
        middle = len(shape) - len(before) - len(after)
        letters: list[object] = [*before]
        # The axes of an ellipsis are aligned at their end.
        letters += [("...", middle - at) for at in range(middle)] if dots else []
        letters += [*after]
        for letter, size in zip(letters, shape, strict=False):
            sizes[letter] = max(sizes.get(letter, 1), size)
    return math.prod(sizes.values()) * (len(terms) - 1)
