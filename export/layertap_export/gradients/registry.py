"""Which operators have a gradient, and by which rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .rules import (
    arithmetic,
    convolution,
    elementwise,
    fourier,
    indexing,
    layout,
    matrix,
    normalisation,
    pooling,
    reduction,
    resampling,
)
from .step import Rule


def table(rows: Iterable[tuple[str, Rule]]) -> Mapping[str, Rule]:
    """A table of rules by operators, in which no operator has two.

    Raises:
        ValueError: one has.
    """
    found: dict[str, Rule] = {}
    for operators, rule in rows:
        for operator in operators.split():
            if operator in found:
                raise ValueError(f"{operator} has two rules.")
            found[operator] = rule
    return found


RULES = table(
    [
        # of one tensor, element by element
        ("Identity Dropout", elementwise.identity),
        ("Cast CastLike", elementwise.cast),
        ("Relu", elementwise.relu),
        ("LeakyRelu", elementwise.leaky_relu),
        ("ThresholdedRelu", elementwise.thresholded_relu),
        ("Clip", elementwise.clip),
        ("Abs", elementwise.absolute),
        ("HardSigmoid", elementwise.hard_sigmoid),
        ("HardSwish", elementwise.hard_swish),
        ("Shrink", elementwise.shrink),
        ("Elu", elementwise.elu),
        ("Celu", elementwise.celu),
        ("Selu", elementwise.selu),
        ("Sigmoid", elementwise.sigmoid),
        ("Tanh", elementwise.tanh),
        ("Softplus", elementwise.softplus),
        ("Softsign", elementwise.softsign),
        ("Mish", elementwise.mish),
        ("Gelu", elementwise.gelu),
        ("Erf", elementwise.erf),
        ("Exp", elementwise.exponential),
        ("Log", elementwise.logarithm),
        ("Sqrt", elementwise.square_root),
        ("Reciprocal", elementwise.reciprocal),
        ("Neg", elementwise.negative),
        ("Sin", elementwise.sine),
        ("Cos", elementwise.cosine),
        ("Tan", elementwise.tangent),
        ("Asin", elementwise.arc_sine),
        ("Acos", elementwise.arc_cosine),
        ("Atan", elementwise.arc_tangent),
        ("Sinh", elementwise.hyperbolic_sine),
        ("Cosh", elementwise.hyperbolic_cosine),
        ("Asinh", elementwise.area_sine),
        ("Acosh", elementwise.area_cosine),
        ("Atanh", elementwise.area_tangent),
        # of several tensors, element by element
        ("Add Sum", arithmetic.addition),
        ("Mean", arithmetic.mean),
        ("Sub", arithmetic.subtraction),
        ("Mul", arithmetic.multiplication),
        ("Div", arithmetic.division),
        ("Pow", arithmetic.power),
        ("Mod", arithmetic.remainder),
        ("Max Min", arithmetic.extreme),
        ("Where", arithmetic.where),
        ("PRelu", arithmetic.prelu),
        # over axes
        ("ReduceSum", reduction.total),
        ("ReduceMean", reduction.mean),
        ("ReduceMax ReduceMin", reduction.extreme),
        ("ReduceSumSquare", reduction.sum_of_squares),
        ("ReduceL2", reduction.length),
        ("ReduceL1", reduction.absolute_total),
        ("ReduceLogSum", reduction.logarithm),
        ("ReduceLogSumExp", reduction.logarithm_of_exponentials),
        ("ReduceProd", reduction.product),
        ("GlobalAveragePool", reduction.global_average),
        ("GlobalMaxPool", reduction.global_maximum),
        ("GlobalLpPool", reduction.global_norm),
        ("CumSum", reduction.cumulative_sum),
        # of the layout
        ("Reshape Flatten Squeeze Unsqueeze", layout.reshape),
        ("Transpose", layout.transpose),
        ("Expand", layout.expand),
        ("Tile", layout.tile),
        ("Concat", layout.concat),
        ("Split", layout.split),
        ("Slice", layout.slice_),
        ("Pad", layout.pad),
        ("DepthToSpace", layout.depth_to_space),
        ("SpaceToDepth", layout.space_to_depth),
        ("Trilu", layout.trilu),
        ("ReverseSequence", layout.reverse_sequence),
        # by number
        ("Gather", indexing.gather),
        ("GatherElements", indexing.gather_elements),
        ("GatherND", indexing.gather_nd),
        ("TopK", indexing.top),
        ("ScatterElements", indexing.scatter_elements),
        ("ScatterND", indexing.scatter_nd),
        # products of matrices
        ("MatMul", matrix.matmul),
        ("Gemm", matrix.gemm),
        ("Einsum", matrix.einsum),
        # spectra
        ("DFT", fourier.transform),
        # windows
        ("Conv", convolution.conv),
        ("ConvTranspose", convolution.conv_transpose),
        ("MaxPool", pooling.maximum),
        ("AveragePool", pooling.average),
        ("LpPool", pooling.norm),
        ("MaxUnpool", pooling.unpool),
        ("Resize", resampling.resize),
        # normalisations
        ("Softmax", normalisation.softmax),
        ("LogSoftmax", normalisation.log_softmax),
        ("BatchNormalization", normalisation.batch),
        ("LayerNormalization", normalisation.layer),
        ("InstanceNormalization", normalisation.instance),
        ("GroupNormalization", normalisation.group),
        ("MeanVarianceNormalization", normalisation.mean_variance),
        ("LpNormalization", normalisation.length),
        ("LRN", normalisation.local_response),
        ("RMSNormalization", normalisation.root_mean_square),
    ]
)
"""Rules by operator."""

NO_GRADIENT = frozenset(
    # Steps, whose slope is 0 wherever there is one.
    "Ceil Floor Round Sign Hardmax "
    # What is no function of numbers, but of shapes or places, or random.
    "Bernoulli ConstantOfShape EyeLike Multinomial NonZero OneHot RandomNormal RandomNormalLike "
    "RandomUniform RandomUniformLike Range Shape Size "
    # Comparisons, logic and whole numbers.
    "And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Equal Greater "
    "GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor".split()
)
"""Operators through which no gradient flows: what they give does not change with small changes of
what goes in. A layer that the score depends on in no other way has the gradient 0."""
