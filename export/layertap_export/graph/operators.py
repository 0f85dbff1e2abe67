"""What is known of each ONNX operator: one row of facts per operator.

The other modules decide by these facts and hold no lists of operators. To support an operator, add
its row here, its gradient in `gradients/rules`, and its cases in `tests/generators/gradient_rules`:
docs/adding-an-operator.md walks through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx
from onnx import TensorProto

from layertap.format.operators import VIEWS

from . import array_functions
from .array_functions import ArrayFunction
from .graph import is_standard
from .shapes import integer_values, output_sizes
from .shapes.node_facts import Integers, NodeFacts
from .shapes.output_sizes import OutputSizes

Kind: TypeAlias = Literal[
    "elementwise",  # each element alike; the inputs broadcast as in numpy
    "elementwise first",  # each element of the first input alike; the others are options
    "reduction",  # over the axes in `axes` or `axis`
    "along axis",  # each vector along `axis` by itself
    "cumulative",
    "layout",  # moves or repeats elements
    "indexing",  # selects elements by number
    "matrix",
    "convolution",
    "pooling",
    "resampling",
    "normalisation",
    "spectrum",
    "size",  # the sizes of a tensor
    "generator",  # makes a tensor from sizes or attributes
    "random",
    "recurrent",
    "control flow",
    "sequence",  # of tensors, and optional tensors
    "quantised",
    "loss",
    "detection",
    "text",
]
"""What an operator does. Passes rely on the meaning of the first four."""

NoGradient: TypeAlias = Literal[
    "step",  # the slope is 0 wherever it exists
    "discrete",  # comparisons, logic, arithmetic of integers
    "not of values",  # of sizes and positions only
    "random",
]
"""Why no gradient flows through an operator."""

NARROW = "int8 int16 uint8 uint16"
WIDE_UNSIGNED = "uint32 uint64"


@dataclass(frozen=True, slots=True)
class Operator:
    """Facts about one operator."""

    kind: Kind
    moves: bool = False
    """Whether the result has the values of the first input, in another shape, order or dtype. The
    runtime has the same list, `layertap.format.operators.MOVERS`."""
    axis: int = -1
    """The default of the attribute `axis` of an operator of the kind "along axis"."""
    result: int = 0
    """The `TensorProto.DataType` of the first output; 0 if it is that of the input `typed_by`."""
    typed_by: int = 0
    """The index of the input that selects the kernel by its dtype."""
    no_gradient: NoGradient | None = None
    """Set for an operator whose result does not change with small changes of its inputs."""
    selects: bool = False
    """Whether its gradient goes to those inputs that equal the result."""
    sizes: Callable[[NodeFacts], OutputSizes] | None = None
    """Works out the sizes of the outputs where ONNX's shape inference leaves them open. Several
    outputs (of a Split, and the indices of a MaxPool) all have the same sizes."""
    integers: Callable[[NodeFacts], Integers | None] | None = None
    """Works out the integers that it computes from sizes, free sizes among them."""
    array: ArrayFunction | None = None
    """Computes it with numpy, without a copy where that is possible."""
    own_float64: bool = False
    """Whether `verification/float64_operators.py` replaces it: the reference evaluator of the
    `onnx` package is slow, computes in float32, or has another formula than onnxruntime."""
    no_kernel: str = ""
    """The dtypes of the input `typed_by` for which some onnxruntime since 1.19 has no kernel on the
    CPU, and float16 where 1.15 and 1.16 reject the operator. Probed with one node per operator and
    dtype; `tests/export/convert/test_dtypes.py` does so again."""


def facts(node: onnx.NodeProto) -> Operator | None:
    """The facts about a node's operator; `None` for an operator that has no row, and for one of
    another domain than ONNX's own."""
    return OPERATORS.get(node.op_type) if is_standard(node) else None


def is_kind(node: onnx.NodeProto, kind: Kind) -> bool:
    """Whether a node is an operator of a kind."""
    row = facts(node)
    return row is not None and row.kind == kind


def is_mover(node: onnx.NodeProto) -> bool:
    """Whether a node only puts the values of its first input in another shape, order or dtype."""
    row = facts(node)
    return row is not None and row.moves


STOP_GRADIENT = "stop_gradient"
"""The doc string of a Dropout, an identity, through which no gradient flows: `tf.stop_gradient`."""


def is_stop(node: onnx.NodeProto) -> bool:
    """Whether a node is an identity through which no gradient flows."""
    return is_standard(node) and node.op_type == "Dropout" and node.doc_string == STOP_GRADIENT


def stops_gradient(node: onnx.NodeProto) -> bool:
    """Whether no gradient flows through a node, because of its operator or its doc string."""
    row = facts(node)
    return is_stop(node) or (row is not None and row.no_gradient is not None)


def is_view(node: onnx.NodeProto) -> bool:
    """Whether a node only changes the order of axes, or nothing at all."""
    return is_standard(node) and node.op_type in VIEWS


def views(name: str, made: Mapping[str, onnx.NodeProto]) -> Iterator[str]:
    """A tensor, the one that it shows in another order of axes, and so on to one that shows none.

    Args:
        name: the tensor.
        made: by tensor, the node that writes it.
    """
    yield name
    while name in made and is_view(made[name]):
        name = made[name].input[0]
        yield name


OPERATORS: Mapping[str, Operator] = {
    "Abs": Operator("elementwise"),
    "Acos": Operator("elementwise", no_kernel="float64"),
    "Acosh": Operator("elementwise", no_kernel="float64"),
    "Add": Operator(
        "elementwise", integers=integer_values.add, no_kernel=f"{NARROW} {WIDE_UNSIGNED}"
    ),
    "And": Operator("elementwise", no_gradient="discrete", result=TensorProto.BOOL),
    "ArgMax": Operator(
        "reduction",
        no_gradient="not of values",
        result=TensorProto.INT64,
        no_kernel=f"{WIDE_UNSIGNED} int16 uint16 int64",
    ),
    "ArgMin": Operator(
        "reduction",
        no_gradient="not of values",
        result=TensorProto.INT64,
        no_kernel=f"{NARROW} {WIDE_UNSIGNED} int64",
    ),
    "Asin": Operator("elementwise", no_kernel="float64"),
    "Asinh": Operator("elementwise", no_kernel="float64"),
    "Atan": Operator("elementwise", no_kernel="float64"),
    "Atanh": Operator("elementwise", no_kernel="float64"),
    "AveragePool": Operator("pooling", sizes=output_sizes.pool, no_kernel="float64"),
    "BatchNormalization": Operator("normalisation"),
    "Bernoulli": Operator("random", no_gradient="random"),
    "BitShift": Operator("elementwise", no_gradient="discrete", no_kernel="uint16"),
    "BitwiseAnd": Operator("elementwise", no_gradient="discrete"),
    "BitwiseNot": Operator("elementwise", no_gradient="discrete"),
    "BitwiseOr": Operator("elementwise", no_gradient="discrete"),
    "BitwiseXor": Operator("elementwise", no_gradient="discrete"),
    "BlackmanWindow": Operator("generator"),
    "Cast": Operator(
        "elementwise first",
        moves=True,
        integers=integer_values.identity,
        array=array_functions.cast,
    ),
    "CastLike": Operator("elementwise first"),
    "Ceil": Operator("elementwise", no_gradient="step"),
    "Celu": Operator("elementwise"),
    "CenterCropPad": Operator("layout", no_kernel="int16 uint16"),
    "Clip": Operator("elementwise first"),
    "Col2Im": Operator("layout", no_kernel=f"{NARROW} {WIDE_UNSIGNED} int32 int64 float64 bool"),
    "Compress": Operator("indexing"),
    "Concat": Operator("layout", sizes=output_sizes.concat, integers=integer_values.concat),
    "ConcatFromSequence": Operator("sequence"),
    "Constant": Operator("generator"),
    "ConstantOfShape": Operator(
        "generator",
        no_gradient="not of values",
        sizes=output_sizes.constant_of_shape,
        integers=integer_values.constant_of_shape,
    ),
    "Conv": Operator("convolution", sizes=output_sizes.conv, own_float64=True, no_kernel="float64"),
    "ConvInteger": Operator("quantised"),
    "ConvTranspose": Operator(
        "convolution", sizes=output_sizes.conv_transpose, own_float64=True, no_kernel="float64"
    ),
    "Cos": Operator("elementwise", no_kernel="float64"),
    "Cosh": Operator("elementwise", no_kernel="float64"),
    "CumSum": Operator("cumulative", no_kernel=WIDE_UNSIGNED),
    "DFT": Operator("spectrum"),
    "DepthToSpace": Operator(
        "layout",
        sizes=output_sizes.depth_to_space,
        no_kernel=f"{NARROW} {WIDE_UNSIGNED} int32 int64 bool",
    ),
    "DequantizeLinear": Operator("quantised"),
    "Det": Operator("matrix", no_kernel="float64"),
    "Div": Operator(
        "elementwise", integers=integer_values.divide, no_kernel=f"{NARROW} {WIDE_UNSIGNED}"
    ),
    "Dropout": Operator("elementwise first"),
    "DynamicQuantizeLinear": Operator("quantised"),
    "Einsum": Operator("matrix", no_kernel=f"{NARROW} {WIDE_UNSIGNED}"),
    "Elu": Operator("elementwise", no_kernel="float64"),
    "Equal": Operator(
        "elementwise",
        no_gradient="discrete",
        result=TensorProto.BOOL,
        integers=integer_values.equal,
        no_kernel=f"{NARROW} {WIDE_UNSIGNED}",
    ),
    "Erf": Operator("elementwise", own_float64=True, no_kernel="float64"),
    "Exp": Operator("elementwise"),
    "Expand": Operator("layout", sizes=output_sizes.expand),
    "EyeLike": Operator("generator", no_gradient="not of values"),
    "Flatten": Operator("layout", moves=True, sizes=output_sizes.flatten),
    "Floor": Operator("elementwise", no_gradient="step"),
    "GRU": Operator("recurrent", own_float64=True, no_kernel="float64"),
    "Gather": Operator("indexing", integers=integer_values.gather, array=array_functions.gather),
    "GatherElements": Operator("indexing"),
    "GatherND": Operator("indexing"),
    "Gelu": Operator("elementwise", own_float64=True),
    "Gemm": Operator("matrix", no_kernel=f"{WIDE_UNSIGNED} int32 int64"),
    "GlobalAveragePool": Operator("pooling", no_kernel="float64"),
    "GlobalLpPool": Operator("pooling", own_float64=True, no_kernel="float64"),
    "GlobalMaxPool": Operator("pooling", selects=True, no_kernel="float64"),
    "Greater": Operator(
        "elementwise",
        no_gradient="discrete",
        result=TensorProto.BOOL,
        no_kernel=f"{NARROW} {WIDE_UNSIGNED}",
    ),
    "GreaterOrEqual": Operator(
        "elementwise",
        no_gradient="discrete",
        result=TensorProto.BOOL,
        no_kernel=f"{NARROW} {WIDE_UNSIGNED}",
    ),
    "GridSample": Operator("resampling"),
    "GroupNormalization": Operator("normalisation", own_float64=True),
    "HammingWindow": Operator("generator"),
    "HannWindow": Operator("generator"),
    "HardSigmoid": Operator("elementwise"),
    "HardSwish": Operator("elementwise"),
    "Hardmax": Operator("along axis", no_gradient="step", no_kernel="float64"),
    "Identity": Operator(
        "elementwise", moves=True, integers=integer_values.identity, array=array_functions.identity
    ),
    "If": Operator("control flow"),
    "InstanceNormalization": Operator("normalisation", no_kernel="float64"),
    "IsInf": Operator("elementwise", no_gradient="discrete", result=TensorProto.BOOL),
    "IsNaN": Operator("elementwise", no_gradient="discrete", result=TensorProto.BOOL),
    "LRN": Operator("normalisation", own_float64=True, no_kernel="float64"),
    "LSTM": Operator("recurrent", own_float64=True, no_kernel="float64"),
    "LayerNormalization": Operator("normalisation", no_kernel="float16"),
    "LeakyRelu": Operator("elementwise"),
    "Less": Operator(
        "elementwise",
        no_gradient="discrete",
        result=TensorProto.BOOL,
        no_kernel=f"{NARROW} {WIDE_UNSIGNED}",
    ),
    "LessOrEqual": Operator(
        "elementwise",
        no_gradient="discrete",
        result=TensorProto.BOOL,
        no_kernel=f"{NARROW} {WIDE_UNSIGNED}",
    ),
    "Log": Operator("elementwise"),
    "LogSoftmax": Operator("along axis", no_kernel="float16"),
    "Loop": Operator("control flow"),
    "LpNormalization": Operator("along axis", own_float64=True),
    "LpPool": Operator("pooling", sizes=output_sizes.pool, no_kernel="float64"),
    "MatMul": Operator("matrix"),
    "MatMulInteger": Operator("quantised", result=TensorProto.INT32),
    "Max": Operator("elementwise", selects=True, integers=integer_values.maximum, no_kernel=NARROW),
    "MaxPool": Operator("pooling", sizes=output_sizes.pool),
    "MaxRoiPool": Operator("pooling"),
    "MaxUnpool": Operator("pooling"),
    "Mean": Operator("elementwise", no_kernel="float64"),
    "MeanVarianceNormalization": Operator("normalisation", own_float64=True),
    "MelWeightMatrix": Operator("generator"),
    "Min": Operator("elementwise", selects=True, integers=integer_values.minimum, no_kernel=NARROW),
    "Mish": Operator("elementwise"),
    "Mod": Operator("elementwise"),
    "Mul": Operator(
        "elementwise", integers=integer_values.multiply, no_kernel=f"{NARROW} {WIDE_UNSIGNED}"
    ),
    "Multinomial": Operator("random", no_gradient="random"),
    "Neg": Operator("elementwise", integers=integer_values.negate, no_kernel="int16"),
    "NegativeLogLikelihoodLoss": Operator("loss"),
    "NonMaxSuppression": Operator("detection"),
    "NonZero": Operator(
        "indexing",
        no_gradient="not of values",
        result=TensorProto.INT64,
        no_kernel=f"{WIDE_UNSIGNED} int8 int16 uint16 float64",
    ),
    "Not": Operator("elementwise", no_gradient="discrete", result=TensorProto.BOOL),
    "OneHot": Operator("indexing", no_gradient="not of values"),
    "Optional": Operator("sequence"),
    "OptionalGetElement": Operator("sequence"),
    "OptionalHasElement": Operator("sequence"),
    "Or": Operator("elementwise", no_gradient="discrete", result=TensorProto.BOOL),
    "PRelu": Operator("elementwise", no_kernel=WIDE_UNSIGNED),
    "Pad": Operator("layout", sizes=output_sizes.pad, own_float64=True, no_kernel="int16 uint16"),
    "Pow": Operator("elementwise", no_kernel=f"{NARROW} {WIDE_UNSIGNED}"),
    "QLinearConv": Operator("quantised"),
    "QLinearMatMul": Operator("quantised"),
    "QuantizeLinear": Operator("quantised"),
    "RMSNormalization": Operator("normalisation", typed_by=1),
    "RNN": Operator("recurrent", own_float64=True, no_kernel="float64"),
    "RandomNormal": Operator("random", no_gradient="random"),
    "RandomNormalLike": Operator("random", no_gradient="random"),
    "RandomUniform": Operator("random", no_gradient="random"),
    "RandomUniformLike": Operator("random", no_gradient="random"),
    "Range": Operator("generator", no_gradient="not of values"),
    "Reciprocal": Operator("elementwise"),
    "ReduceL1": Operator("reduction", no_kernel=WIDE_UNSIGNED),
    "ReduceL2": Operator("reduction", no_kernel=WIDE_UNSIGNED),
    "ReduceLogSum": Operator("reduction"),
    "ReduceLogSumExp": Operator("reduction"),
    "ReduceMax": Operator("reduction", selects=True, no_kernel=WIDE_UNSIGNED),
    "ReduceMean": Operator("reduction", no_kernel=f"{WIDE_UNSIGNED} int64"),
    "ReduceMin": Operator("reduction", selects=True, no_kernel=WIDE_UNSIGNED),
    "ReduceProd": Operator(
        "reduction", integers=integer_values.reduce_prod, no_kernel=f"{WIDE_UNSIGNED} float64"
    ),
    "ReduceSum": Operator("reduction", no_kernel=WIDE_UNSIGNED),
    "ReduceSumSquare": Operator("reduction", no_kernel=WIDE_UNSIGNED),
    "Relu": Operator("elementwise", no_kernel="int16"),
    "Reshape": Operator(
        "layout", moves=True, sizes=output_sizes.reshape, array=array_functions.reshape
    ),
    "Resize": Operator(
        "resampling",
        sizes=output_sizes.resize,
        no_kernel=f"{WIDE_UNSIGNED} int16 uint16 int64 float64 bool",
    ),
    "ReverseSequence": Operator("layout"),
    "RoiAlign": Operator("resampling"),
    "Round": Operator("elementwise", no_gradient="step"),
    "STFT": Operator("spectrum"),
    "Scan": Operator("control flow"),
    "ScatterElements": Operator("indexing"),
    "ScatterND": Operator("indexing"),
    "Selu": Operator("elementwise"),
    "SequenceAt": Operator("sequence"),
    "SequenceConstruct": Operator("sequence"),
    "SequenceEmpty": Operator("sequence"),
    "SequenceErase": Operator("sequence"),
    "SequenceInsert": Operator("sequence"),
    "SequenceLength": Operator("sequence", result=TensorProto.INT64),
    "SequenceMap": Operator("sequence"),
    "Shape": Operator(
        "size", no_gradient="not of values", result=TensorProto.INT64, integers=integer_values.shape
    ),
    "Shrink": Operator("elementwise"),
    "Sigmoid": Operator("elementwise"),
    "Sign": Operator("elementwise", no_gradient="step"),
    "Sin": Operator("elementwise"),
    "Sinh": Operator("elementwise", no_kernel="float64"),
    "Size": Operator("size", no_gradient="not of values", result=TensorProto.INT64),
    "Slice": Operator("layout", sizes=output_sizes.slice_, integers=integer_values.slice_),
    "Softmax": Operator("along axis", no_kernel="float16"),
    "SoftmaxCrossEntropyLoss": Operator("loss"),
    "Softplus": Operator("elementwise"),
    "Softsign": Operator("elementwise"),
    "SpaceToDepth": Operator(
        "layout",
        sizes=output_sizes.space_to_depth,
        no_kernel=f"{NARROW} {WIDE_UNSIGNED} int32 int64 bool",
    ),
    "Split": Operator("along axis", sizes=output_sizes.split, axis=0),
    "SplitToSequence": Operator("sequence"),
    "Sqrt": Operator("elementwise"),
    "Squeeze": Operator(
        "layout", moves=True, integers=integer_values.squeeze, array=array_functions.squeeze
    ),
    "StringNormalizer": Operator("text"),
    "Sub": Operator(
        "elementwise", integers=integer_values.subtract, no_kernel=f"{NARROW} {WIDE_UNSIGNED}"
    ),
    "Sum": Operator("elementwise"),
    "Tan": Operator("elementwise", no_kernel="float64"),
    "Tanh": Operator("elementwise"),
    "TfIdfVectorizer": Operator("text"),
    "ThresholdedRelu": Operator("elementwise"),
    "Tile": Operator("layout", sizes=output_sizes.tile),
    "TopK": Operator("indexing", no_kernel=f"{NARROW} {WIDE_UNSIGNED}"),
    "Transpose": Operator("layout", moves=True, array=array_functions.transpose),
    "Trilu": Operator("layout", no_kernel=f"{NARROW} {WIDE_UNSIGNED} int32"),
    "Unique": Operator("indexing", no_kernel=f"{WIDE_UNSIGNED} int16 uint8 uint16 int32 bool"),
    "Unsqueeze": Operator(
        "layout", moves=True, integers=integer_values.unsqueeze, array=array_functions.unsqueeze
    ),
    "Where": Operator(
        "elementwise",
        integers=integer_values.where,
        typed_by=1,
        no_kernel=f"{WIDE_UNSIGNED} int8 int16 uint16 bool",
    ),
    "Xor": Operator("elementwise", no_gradient="discrete", result=TensorProto.BOOL),
}
"""All operators of opset 18, and newer ones that have a gradient rule."""
