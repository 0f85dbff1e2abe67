"""Kinds of operators, and the final activation of a model with what may follow it.

The exporter and the runtime both read this module, so that both mean the same tensor by "the
scores of the classes".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

VIEWS = ("Identity", "Transpose")
"""Operators whose result is a view of their input: numpy can do the same without a copy."""

MOVERS = (*VIEWS, "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")
"""Operators whose result has the values of their first input, in another shape, order or dtype."""

FINAL_ACTIVATIONS = ("Sigmoid", "Softmax", "LogSoftmax")
"""Operators that turn logits into probabilities, or into their logarithms."""

ELEMENTWISE = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh "
    "DequantizeLinear Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN "
    "LeakyRelu Log Mish Neg Not QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin "
    "Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu"
).split()
"""Operators whose result has, at each place, a function of their first input's value there."""

BROADCAST = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less "
    "LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
).split()
"""Operators that work on several inputs element by element, aligned at their last axes."""

REDUCTIONS = (
    "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare"
).split()
"""Operators that make one value of all along some axes."""

STANDARD_DOMAINS = ("", "ai.onnx")
"""The two names of ONNX's own operator set."""


class NodeLike(Protocol):
    """What this module needs to know of a node."""

    @property
    def domain(self) -> str:
        """The operator set that `op_type` belongs to."""

    @property
    def op_type(self) -> str:
        """The operator's name."""

    @property
    def reads(self) -> Sequence[str]:
        """The tensors that the node reads, its data input first."""


N = TypeVar("N", bound=NodeLike)


def is_one_of(node: NodeLike, op_types: Sequence[str]) -> bool:
    """Whether a node is one of these standard operators."""
    return node.domain in STANDARD_DOMAINS and node.op_type in op_types


def behind_final_activation(
    output: str, maker: Callable[[str], N | None]
) -> tuple[str, list[N]] | None:
    """Look through the sigmoid or softmax that a model ends in.

    Args:
        output: the tensor at the end, which may be made from the probabilities by movers.
        maker: gives the node that writes a tensor; `None` where no node does, or where the node is
            a function of the file that only has the name of a standard operator.

    Returns:
        The tensor that goes into the final activation (the logits), and the movers that come
        after the activation, the first one first. `None` if there is no such activation.
    """
    movers: list[N] = []
    passed = set[str]()
    tensor = output
    while tensor not in passed and (node := maker(tensor)) is not None and node.reads:
        if is_one_of(node, FINAL_ACTIVATIONS):
            return node.reads[0], movers[::-1]
        if not is_one_of(node, MOVERS):
            return None
        passed.add(tensor)  # a damaged file may have a circle
        movers.append(node)
        tensor = node.reads[0]
    return None
