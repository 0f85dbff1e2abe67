"""What is known of the tensors of a graph before it runs: which are not empty, and their dtypes.

A tensor is called *filled* if it has at least one element in every run whose inputs have. All facts
are certain; where nothing is known, nothing is said.
"""

from __future__ import annotations

from typing import NamedTuple

from layertap.format.graph import element_type, read_tensor, read_type
from layertap.format.wire import (
    LEN,
    VARINT,
    Buffer,
    Span,
    fields,
    find_text,
    integer,
    integers,
    text,
)

_FILLED = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitwiseNot Cast
    CastLike Ceil Celu Clip Conv Cos Cosh CumSum DequantizeLinear Div Dropout Einsum Elu Equal Erf
    Exp Flatten Floor GRU Gather GatherElements Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf
    IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul
    MatMulInteger Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear RNN Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu ReverseSequence Round ScatterElements ScatterND Selu Sigmoid Sign
    Sin Sinh Size Softmax Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Transpose Trilu
    Where Xor
""".split()
)
"""Operators whose results are filled if all their inputs are."""

_FIRST_FILLED = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose result has as many elements as their first input."""

_SAME_DTYPE = frozenset(
    """
    Abs Add AveragePool BatchNormalization Ceil Clip Compress Concat Conv ConvTranspose CumSum
    DepthToSpace Div Dropout Einsum Exp Expand Flatten Floor Gather GatherElements GatherND Gemm
    GlobalAveragePool GlobalMaxPool Identity LayerNormalization MatMul Max MaxPool Mean Min Mod Mul
    Neg Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape
    Resize ReverseSequence Round ScatterElements ScatterND Sigmoid Sign Slice Softmax SpaceToDepth
    Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Trilu Unique Unsqueeze
""".split()
)
"""Operators whose first result has the dtype of their first input."""

_INT64 = frozenset({"ArgMax", "ArgMin", "NonZero", "Shape", "Size"})

LARGEST = 64
"""Bytes of a constant whose numbers are looked at."""


class Parsed(NamedTuple):
    """A node with all its inputs and outputs; those that are left out are empty."""

    reads: list[str]
    writes: list[str]
    op_type: str
    domain: str
    attributes: list[Span]


def parsed(buffer: Buffer, start: int, end: int) -> Parsed:
    """The `NodeProto` in `buffer[start:end]`."""
    found: dict[int, list[str]] = {1: [], 2: [], 4: [], 7: []}
    attributes = []
    for number, wire, _, at, stop in fields(buffer, start, end):
        if wire != LEN:
            continue
        if number in found:
            found[number].append(text(buffer, at, stop))
        elif number == 5:
            attributes.append((at, stop))
    domain = "".join(found[7][-1:])
    return Parsed(
        found[1],
        found[2],
        "".join(found[4][-1:]),
        "" if domain == "ai.onnx" else domain,
        attributes,
    )


class Facts:
    """What is known of some tensors, by name."""

    def __init__(self) -> None:
        self.filled: set[str] = set()
        self.dtypes: dict[str, str] = {}
        self.ranks: dict[str, int] = {}
        """The numbers of axes of constants."""
        self.numbers: dict[str, tuple[int, ...]] = {}
        """The values of small constants of integers."""

    def copy(self) -> Facts:
        """The same facts, to be extended for a graph inside the graph."""
        copy = Facts()
        copy.filled |= self.filled
        copy.dtypes |= self.dtypes
        copy.ranks |= self.ranks
        copy.numbers |= self.numbers
        return copy

    def read_graph(self, buffer: Buffer, start: int, end: int, inputs_filled: bool) -> None:
        """Note the inputs and weights of the `GraphProto` in `buffer[start:end]`.

        Args:
            inputs_filled: whether the inputs have at least one element.
        """
        for number, wire, _, at, stop in fields(buffer, start, end):
            if wire != LEN:
                continue
            if number == 5:
                self._tensor(buffer, at, stop)
            elif number == 11:
                name, kind = find_text(buffer, at, stop, 1), read_type(buffer, (at, stop))
                self.dtypes[name] = kind.dtype
                if inputs_filled and kind.dims is not None:
                    self.filled.add(name)

    def read_node(self, buffer: Buffer, node: Parsed) -> None:
        """Note what follows for the results of a node."""
        if node.domain or not node.writes:
            return
        op_type, first = node.op_type, "".join(node.reads[:1])
        given = [name for name in node.reads if name]
        if op_type == "Constant":
            for span in node.attributes:
                self._attribute(buffer, *span, node.writes[0])
        elif op_type == "Concat":
            if not self.filled.isdisjoint(given):
                self.filled.add(node.writes[0])
        elif (op_type in _FILLED and given and self.filled.issuperset(given)) or (
            op_type in _FIRST_FILLED and first in self.filled
        ):
            self.filled.update(node.writes)
        dtype = ""
        if op_type in _INT64:
            dtype = "int64"
        elif op_type == "Where" and len(node.reads) > 1:
            dtype = self.dtypes.get(node.reads[1], "")
        elif op_type == "Cast":
            codes = [_number(buffer, *span) for span in node.attributes]
            dtype = next((element_type(code) for name, code in codes if name == "to"), "")
        elif op_type in _SAME_DTYPE:
            dtype = self.dtypes.get(first, "")
        if dtype:
            results = node.writes if op_type == "Split" else node.writes[:1]
            self.dtypes |= dict.fromkeys(results, dtype)

    def _attribute(self, buffer: Buffer, start: int, end: int, result: str) -> None:
        """Note the tensor in an attribute of a Constant."""
        for number, wire, _, at, stop in fields(buffer, start, end):
            if number == 5 and wire == LEN:
                self._tensor(buffer, at, stop, result)

    def _tensor(self, buffer: Buffer, start: int, end: int, result: str = "") -> None:
        """Note a `TensorProto`."""
        name, kind, external = read_tensor(buffer, start, end)
        name = result or name
        self.dtypes[name] = kind.dtype
        sizes = kind.dims or ()
        self.ranks[name] = len(sizes)
        if 0 not in sizes:
            self.filled.add(name)
        if external is None and kind.dtype in ("int32", "int64") and end - start <= LARGEST:
            found = _integers(buffer, start, end, kind.dtype)
            if found:
                self.numbers[name] = found


def _number(buffer: Buffer, start: int, end: int) -> tuple[str, int]:
    """The name and the integer of an attribute."""
    value = 0
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 3 and wire == VARINT:
            value = integer(buffer, at, stop)
    return find_text(buffer, start, end, 1), value


def _integers(buffer: Buffer, start: int, end: int, dtype: str) -> tuple[int, ...]:
    """The values of a `TensorProto` of integers."""
    width = 4 if dtype == "int32" else 8
    values: list[int] = []
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 9 and wire == LEN:
            raw = [bytes(buffer[i : i + width]) for i in range(at, stop, width)]
            values = [int.from_bytes(one, "little", signed=True) for one in raw]
        elif number in (5, 7):
            values += integers(buffer, wire, at, stop)
    return tuple(values)
