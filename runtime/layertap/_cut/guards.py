"""Guards: nodes around operators that end the process on some values.

As of onnxruntime 1.32, some operators end the process where an input has no element, and Div does
where the smallest integer is divided by -1. So in what onnxruntime gets, such a node is the second
branch of an If, whose first one computes the result without it; and a Div of integers gets operands
that it can divide. The results of all other runs are bit for bit the same. Nodes whose inputs
cannot be empty stay as they are (see `facts`).

The result for an empty input follows from those for one row and for two rows of zeros in its place:
the sizes are continued to none, and the values are the first ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from layertap.format.graph import MAX_DEPTH, Graph, Node, TensorType, may_nest
from layertap.format.wire import LEN, WireError, encode, fields, find_text, header, integer

from .facts import Facts, Parsed, parsed
from .nodes import Body, int64_tensor, node_field, scalar_tensor

FATAL: Mapping[tuple[str, str], str] = {
    ("", "Einsum"): "sums",
    ("", "GRU"): "states",
    ("", "LSTM"): "states",
    ("com.microsoft", "DynamicQuantizeLSTM"): "states",
    ("", "ConvTranspose"): "values",
    ("", "STFT"): "nothing",
    ("", "Unique"): "nothing",
}
"""Operators that an empty array must not reach, and what is special in their results: sums over
nothing are 0, whatever the other inputs are; states after no step are those at the start; and
nothing is computed of nothing, which is an error. Of ConvTranspose it is the one with three axes,
of Unique the one along an axis with several results."""

ERROR = "layertap: nothing is computed of nothing by "
"""What the name of a node begins with that raises an error; the operator's name follows."""

_NESTING = frozenset({"If", "Loop", "Scan", "SequenceMap"})

SUSPECTS = frozenset({op_type for _, op_type in FATAL} | {"Div"} | _NESTING)
"""Names of operators that may need a guard, or have others inside that do. Functions of a file may
have any name."""

_NAMES = tuple(name.encode() for name in SUSPECTS - _NESTING)

OLDEST_OPSET = 11
"""The opset from which on the nodes that compute a result are available. In older files, a node
with an empty input raises an error."""

_FLOATS = frozenset({"Sqrt", "Exp", "Softmax", "ReduceL2", "Sigmoid", "Log", "Erf", "Tanh"})
"""Operators on floating-point numbers only."""


def may_need_guards(graph: Graph, nodes: Iterable[int]) -> bool:
    """Whether some nodes may be operators that end the process. A quick test.

    Args:
        graph: the index of a file.
        nodes: indices of nodes.
    """
    weights, makers = graph.initializers, dict[str, Node]()
    for node in map(graph.nodes.__getitem__, nodes):
        if (node.domain, node.op_type) in FATAL:
            kernel = weights.get(node.reads[1]) if len(node.reads) > 1 else None
            if node.op_type != "ConvTranspose" or not kernel or not _is_flat(kernel.type):
                return True
        elif node.op_type == "Div":
            if not makers:
                makers = {name: one for one in graph.nodes for name in one.writes}
            operands = [makers.get(name) for name in node.reads]
            read = [*node.reads, *(name for one in operands if one for name in one.reads)]
            kinds = {weights[name].type.dtype for name in read if name in weights}
            floats = any(one and one.op_type in _FLOATS for one in operands)
            if not (floats or any("float" in kind for kind in kinds)):
                return True
        if node.op_type in _NESTING or (node.domain, node.op_type) in graph.functions:
            return True
    return False


def _is_flat(kernel: TensorType) -> bool:
    """Whether a kernel has fewer than three axes of its own."""
    return kernel.dims is not None and len(kernel.dims) < 5


def guarded(model: bytes, everywhere: bool = False) -> bytes:
    """The model with guards around the nodes that need them.

    Args:
        model: a whole model.
        everywhere: whether the inputs of the model may be empty, too.

    Raises:
        WireError: the bytes are not an ONNX model.
    """
    if not any(name in model for name in _NAMES):
        return model
    whole = [*fields(model, 0, len(model))]
    opset, redefined = 0, False
    for number, _, _, at, stop in whole:
        if number == 8 and find_text(model, at, stop, 1) in ("", "ai.onnx"):
            versions = [integer(model, a, b) for n, _, _, a, b in fields(model, at, stop) if n == 2]
            opset = max([opset, *versions])
        elif number == 25:
            redefined = redefined or find_text(model, at, stop, 10) in ("", "ai.onnx")
    guards = _Guards(model, opset, trusting=not redefined)
    parts: list[bytes | memoryview] = []
    with memoryview(model) as view:
        for number, wire, tag, at, stop in whole:
            found = None
            if number == 7 and wire == LEN:
                found = guards.graph(at, stop, Facts(), inputs_filled=not everywhere)
            elif number == 25 and wire == LEN:
                found = guards.nodes(at, stop, 7, Facts(), 0)
            if found is None:
                parts.append(view[tag:stop])
            else:
                size = sum(map(len, found))
                parts += [header(number, size), *found]
        return b"".join(parts) if guards.count else model


class _Guards:
    """Writes the guards of one model."""

    def __init__(self, buffer: bytes, opset: int, trusting: bool) -> None:
        """
        Args:
            opset: the version of the standard operators.
            trusting: whether these are what their names say.
        """
        self.buffer = buffer
        self.opset = opset
        self.trusting = trusting
        self.count = 0

    def graph(
        self, start: int, end: int, facts: Facts, *, inputs_filled: bool = False, depth: int = 0
    ) -> list[bytes] | None:
        """The fields of a `GraphProto`; `None` if they stay as they are."""
        if depth > MAX_DEPTH:
            raise WireError(f"subgraphs are nested more than {MAX_DEPTH} deep")
        facts.read_graph(self.buffer, start, end, inputs_filled and self.trusting)
        return self.nodes(start, end, 1, facts, depth)

    def nodes(
        self, start: int, end: int, number: int, facts: Facts, depth: int
    ) -> list[bytes] | None:
        """The fields of a message with nodes in its field `number`; `None` if they stay."""
        buffer, before = self.buffer, self.count
        found: list[bytes] = []
        for field, wire, tag, at, stop in fields(buffer, start, end):
            new = None
            if field == number and wire == LEN:
                node = parsed(buffer, at, stop)
                new = self._node(node, at, stop, facts, depth)
                if self.trusting:
                    facts.read_node(buffer, node)
            if new is None:
                found.append(buffer[tag:stop])
            elif number == 1:
                found.append(new)
            else:  # a function has its nodes in a field of another number
                found += [encode(number, new[a:b]) for _, _, _, a, b in fields(new, 0, len(new))]
        return found if self.count > before else None

    def _node(self, node: Parsed, start: int, end: int, facts: Facts, depth: int) -> bytes | None:
        """The fields of a graph in place of a node; `None` if it stays."""
        if (node.domain, node.op_type) in FATAL:
            empty = [name for name in dict.fromkeys(node.reads) if name]
            empty = [name for name in empty if name not in facts.filled]
            if not empty or not any(node.writes) or not self._is_fatal(node, facts):
                return None
            self.count += 1
            return self._around(node, empty)
        if node.op_type == "Div" and not node.domain:
            return self._division(node, facts)
        before, parts = self.count, []
        for number, wire, tag, at, stop in fields(self.buffer, start, end):
            changed = number == 5 and wire == LEN and may_nest(self.buffer, at, stop)
            new = self._attribute(at, stop, facts, depth) if changed else None
            parts.append(self.buffer[tag:stop] if new is None else encode(5, new))
        return encode(1, b"".join(parts)) if self.count > before else None

    def _is_fatal(self, node: Parsed, facts: Facts) -> bool:
        """Whether a node of one of the fatal operators is of the kind that is."""
        if node.op_type == "ConvTranspose":
            return facts.ranks.get("".join(node.reads[1:2]), 5) == 5
        if node.op_type == "Unique":
            names = [find_text(self.buffer, *span, 1) for span in node.attributes]
            return "axis" in names and len(list(filter(None, node.writes))) > 1
        return True

    def _attribute(self, start: int, end: int, facts: Facts, depth: int) -> bytes | None:
        before, parts = self.count, []
        for number, wire, tag, at, stop in fields(self.buffer, start, end):
            new = None
            if number in (6, 11) and wire == LEN:
                new = self.graph(at, stop, facts.copy(), depth=depth + 1)
            parts.append(self.buffer[tag:stop] if new is None else encode(number, b"".join(new)))
        return b"".join(parts) if self.count > before else None

    def _around(self, node: Parsed, empty: Sequence[str]) -> bytes:
        """An If around a node that must not read the tensors in `empty` if they are."""
        prefix = f"layertap:guard{self.count}"
        outer, then = _Nodes(f"{prefix}:"), _Nodes(f"{prefix}:then:")
        zero = outer.number(0)
        tests = [outer("Equal", outer("Size", name), zero) for name in empty]
        condition = tests[0]
        for test in tests[1:]:
            condition = outer("Or", condition, test)
        kept = [at for at, name in enumerate(node.writes) if name]
        special = FATAL[node.domain, node.op_type]
        if special == "nothing" or self.opset < OLDEST_OPSET:
            results = self._error(node, empty[0], then, kept)
        elif special == "sums":
            results = self._sums(node, then)
        else:
            results = self._continued(node, empty, then, kept)
        otherwise = [f"{prefix}:else:{name}" if name else "" for name in node.writes]
        branches = {
            "then_branch": _body(then.fields, results),
            "else_branch": _body(
                [self._copy(node, node.reads, otherwise)], [otherwise[at] for at in kept]
            ),
        }
        names = [node.writes[at] for at in kept]
        # Named for what it writes: a profile then says which node it is around.
        around = node_field("If", [condition], names, names[0] if names else "", **branches)
        return b"".join(outer.fields) + around

    def _error(self, node: Parsed, empty: str, nodes: _Nodes, kept: Sequence[int]) -> list[str]:
        """The node itself, behind a Reshape that raises an error: there are not enough elements."""
        more = nodes("Add", nodes("Shape", empty), nodes.number(1))
        failed = nodes.new()
        parts = [encode(1, empty), encode(1, more), encode(2, failed), encode(4, "Reshape")]
        nodes.fields.append(encode(1, b"".join([*parts, encode(3, ERROR + node.op_type)])))
        reads = [failed if name == empty else name for name in node.reads]
        writes = [nodes.new() for _ in node.writes]
        nodes.fields.append(self._copy(node, reads, writes))
        return [writes[at] for at in kept]

    def _sums(self, node: Parsed, nodes: _Nodes) -> list[str]:
        """Zeros of the right shape."""
        flat = nodes("Reshape", node.reads[0], nodes.vector(-1))
        none = nodes("Slice", flat, nodes.vector(0), nodes.vector(0))
        zero = nodes("Reshape", nodes("Pad", none, nodes.vector(0, 1)), nodes.vector())
        shapes = []
        for count in (1, 2):
            inputs: dict[str, str] = {}
            for name in dict.fromkeys(node.reads):
                shape = nodes("Shape", name)
                size = nodes("Equal", shape, nodes.number(0))
                size = nodes("Where", size, nodes.number(count), shape)
                inputs[name] = nodes("Expand", zero, size)
            result = nodes.new()
            nodes.fields.append(self._copy(node, [inputs[name] for name in node.reads], [result]))
            shapes.append(nodes("Shape", result))
        first, second = shapes
        return [nodes("Expand", zero, nodes("Sub", nodes("Add", first, first), second))]

    def _continued(
        self, node: Parsed, empty: Sequence[str], nodes: _Nodes, kept: Sequence[int]
    ) -> list[str]:
        """The first part of what the node gives for one row, as large as its sizes say."""
        zero = nodes.number(0)
        found: list[list[str]] = []
        for count in (1, 2):
            inputs: dict[str, str] = {}
            for name in empty:
                shape = nodes("Shape", name)
                test, none = nodes("Equal", shape, zero), nodes("Sub", shape, shape)
                added = nodes("Where", test, nodes.number(count), zero)
                inputs[name] = nodes("Pad", name, nodes.pads(none, added))
            writes = [nodes.new() for _ in node.writes]
            reads = [inputs.get(name, name) for name in node.reads]
            nodes.fields.append(self._copy(node, reads, writes))
            found.append(writes)
        results: dict[int, str] = {}
        for at in sorted({0, *kept}):
            first, second = nodes("Shape", found[0][at]), nodes("Shape", found[1][at])
            none, more = nodes("Sub", first, first), nodes("Sub", first, second)
            result = nodes("Pad", found[0][at], nodes.pads(none, more))
            if at and FATAL[node.domain, node.op_type] == "states":
                no_step = nodes("Equal", nodes("Size", results[0]), zero)
                start = "".join(node.reads[at + 4 : at + 5])
                if not start:
                    nothing = nodes("Slice", result, none, none)
                    start = nodes("Pad", nothing, nodes.pads(none, nodes("Shape", result)))
                result = nodes("Where", no_step, start, result)
            results[at] = result
        return [results[at] for at in kept]

    def _division(self, node: Parsed, facts: Facts) -> bytes | None:
        """A Div of integers with operands that it can divide; `None` if it needs no guard.

        x / -1 is computed as -x / 1.
        """
        if len(node.reads) != 2 or len(node.writes) != 1 or self.opset < 9:
            return None
        first, second = node.reads
        dtype = facts.dtypes.get(first) or facts.dtypes.get(second, "")
        if dtype not in _SMALLEST or -1 not in facts.numbers.get(second, (-1,)):
            return None
        if _SMALLEST[dtype] not in facts.numbers.get(first, (_SMALLEST[dtype],)):
            return None
        self.count += 1
        nodes = _Nodes(f"layertap:guard{self.count}:")
        turns = nodes("Equal", second, nodes.number(-1, dtype))
        divisor = nodes("Where", turns, nodes.number(1, dtype), second)
        dividend = nodes("Where", turns, nodes("Neg", first), first)
        nodes.fields.append(self._copy(node, [dividend, divisor], node.writes))
        return b"".join(nodes.fields)

    def _copy(self, node: Parsed, reads: Sequence[str], writes: Sequence[str]) -> bytes:
        """The node with other inputs and outputs, and without a name, as a field of a graph."""
        parts = [encode(1, name) for name in reads] + [encode(2, name) for name in writes]
        parts += [encode(4, node.op_type), encode(7, node.domain)]
        parts += [encode(5, self.buffer[slice(*span)]) for span in node.attributes]
        return encode(1, b"".join(parts))


_SMALLEST = {"int32": -(1 << 31), "int64": -(1 << 63)}


class _Nodes:
    """Nodes of the standard operator set, one after another, each with one result."""

    def __init__(self, prefix: str) -> None:
        self.fields: list[bytes] = []
        self._prefix = prefix
        self._count = 0
        self._numbers: dict[tuple[int, str], str] = {}

    def new(self) -> str:
        """A name for a tensor."""
        self._count += 1
        return f"{self._prefix}{self._count}"

    def __call__(self, op_type: str, *reads: str, **attributes: int | bytes) -> str:
        """Append a node, and return the name of its result."""
        name = self.new()
        self.fields.append(node_field(op_type, reads, [name], **attributes))
        return name

    def number(self, value: int, dtype: str = "int64") -> str:
        """A constant without axes."""
        if (value, dtype) not in self._numbers:
            self._numbers[value, dtype] = self("Constant", value=scalar_tensor(value, dtype))
        return self._numbers[value, dtype]

    def vector(self, *values: int) -> str:
        """A constant with one axis."""
        return self("Constant", value=int64_tensor(values))

    def pads(self, before: str, after: str) -> str:
        """The second input of a Pad."""
        return self("Concat", before, after, axis=0)


def _body(nodes: Iterable[bytes], outputs: Iterable[str]) -> Body:
    """A branch of an If, a `GraphProto`."""
    named = [encode(12, encode(1, name)) for name in outputs]
    return Body(b"".join([*nodes, encode(2, "guard"), *named]))
