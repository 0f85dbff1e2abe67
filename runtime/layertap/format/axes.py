"""What each axis of a graph's tensors means, inferred from the operators.

A convolution fixes the axes of its input and output: samples, channels, then the space. From there
the meanings are carried through the graph in both directions: an elementwise operator keeps them, a
Transpose permutes them, a product with a matrix of weights makes the last axis one of features. An
operator that mixes axes ends what is known. Nothing is guessed: a tensor whose axes do not follow
from the operators is left out.

The operators: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from .card import TensorInfo
from .graph import Dims, Graph, Node, element_type, read_types
from .layer import Axes, Layer
from .operators import BROADCAST, ELEMENTWISE, REDUCTIONS, STANDARD_DOMAINS
from .wire import LEN, VARINT, Buffer, Span, WireError, fields, find, integer, integers, text

SPACE = {1: "T", 2: "HW", 3: "DHW"}
"""The letters of the axes that are neither samples nor channels, by their number."""

MAX_RANK = 16
"""Tensors with more axes are left out."""

_SWEEPS = 12
"""Limit on the passes over the graph; models need two or three."""

_MICROSOFT = ("com.microsoft", "com.microsoft.nchwc")
"""The operator sets of onnxruntime: what its quantiser and its optimiser put in place of others."""

Values: TypeAlias = "tuple[int, ...]"


def infer_axes(
    buffer: Buffer,
    graph: Graph,
    known: Mapping[str, Axes] | None = None,
    *,
    by_size: bool = False,
) -> dict[str, Axes]:
    """The axes of the graph's tensors, as far as they follow from the operators.

    Args:
        buffer: the file that `graph` is the index of.
        known: the axes of some tensors, where `?` leaves an axis open.
        by_size: whether an axis of 1 or 3 decides where the channels of an input with four axes
            are, if no operator does. The others must be free, or at least 8.

    Returns:
        The axes by name of the tensor, in the notation of `layer.Axes`. A tensor without channels,
        such as attention scores, has no `C`. A tensor of which it is not known is left out.
    """
    try:
        found = _Inference(buffer, graph)
        found.run(known or {}, by_size)
    except (WireError, IndexError):  # a node that breaks the rules of its operator
        return {}
    named = ((name, _as_text(labels)) for name, labels in found.varying())
    return {name: axes for name, axes in named if axes}


def stated_axes(layers: Iterable[Layer], tensors: Iterable[TensorInfo]) -> dict[str, Axes]:
    """The axes that a card states, by name of the tensor."""
    found = {info.name: info.axes for info in tensors if info.axes is not None}
    found |= {row.tensor: row.axes for row in layers if row.tensor and row.axes is not None}
    return found


def _as_text(labels: Sequence[str]) -> Axes | None:
    """The labels of one tensor in the notation of the card; `None` if too little is known."""
    others = [label for label in labels if label not in ("N", "C")]
    if "C" not in labels:
        if "" in others:
            return None
        letters = others if others == ["T"] else ["?"] * len(others)
    elif not any(others) or (len(others) == 1 and others != ["?"]):
        letters = [*SPACE.get(len(others), "?" * len(others))]
    else:
        letters = [label or "?" for label in others]
    named = iter(letters)
    return "".join(label if label in ("N", "C") else next(named) for label in labels)


def image_axes(rank: int, channels: int) -> Axes:
    """The axes of images, volumes or sequences whose channels are the axis `channels`."""
    others = [*SPACE.get(rank - 2, "?" * (rank - 2))]
    others.insert(channels % rank - 1, "C")
    return "".join(["N", *others])


class _Op(NamedTuple):
    """A node with what the rules read of it."""

    kind: str
    reads: tuple[str, ...]
    """Its inputs by position; empty for one that is left out."""
    writes: tuple[str, ...]
    needs: tuple[str, ...]
    """All tensors that it depends on, those in its subgraphs included."""
    numbers: Mapping[str, Values]
    """Attributes that are integers."""
    equation: str
    """Of an Einsum."""

    def number(self, name: str, default: int) -> int:
        values = self.numbers.get(name)
        return values[0] if values else default


class _Inference:
    """The labels of each tensor's axes: a letter of `Axes`, or empty where it is open."""

    def __init__(self, buffer: Buffer, graph: Graph) -> None:
        self.labels: dict[str, list[str]] = {}
        self._buffer = buffer
        self._graph = graph
        self._changed = False
        self._dims: dict[str, Dims] = {}
        self._integers: dict[str, Values] = {}
        self._ops = [*self._read()]
        self._constant = {*graph.initializers}
        for op in self._ops:
            if self._constant.issuperset(op.needs):
                self._constant.update(op.writes)
        for name, kind in read_types(buffer, graph).items():
            if kind.dims is not None and len(kind.dims) <= MAX_RANK:
                self._give_rank(name, len(kind.dims))
                self._dims[name] = kind.dims
        for name, weights in graph.initializers.items():
            self._dims[name] = weights.type.dims or ()

    def varying(self) -> Iterator[tuple[str, list[str]]]:
        """The labels of the tensors that are not constants."""
        for name, labels in self.labels.items():
            if name not in self._constant:
                if labels and not labels[0] and "C" in labels and "N" not in labels:
                    labels = ["N", *labels[1:]]
                yield name, labels

    def run(self, known: Mapping[str, Axes], by_size: bool) -> None:
        """Find the labels."""
        for name, axes in known.items():
            self._give_rank(name, len(axes))
            for axis, label in enumerate(axes):
                self._put(name, axis, "" if label == "?" else label)
        for op in self._ops:
            if op.kind in _IMAGES:
                self._fix(op)
        self._settle()
        self._assume(by_size)
        self._settle()

    def _settle(self) -> None:
        """Carry labels through the graph until nothing changes."""
        for _ in range(_SWEEPS):
            self._changed = False
            for op in self._ops:
                self._carry(op)
            for op in reversed(self._ops):
                self._carry(op)
            if not self._changed:
                return

    def _carry(self, op: _Op) -> None:
        rule = _RULES.get(op.kind)
        if rule is not None and op.reads and op.writes:
            rule(self, op)

    def _assume(self, by_size: bool) -> None:
        """What is usual, where no operator says otherwise."""
        for name in self._graph.inputs:
            dims = self._dims.get(name, ())
            if "N" not in self.labels.get(name, ()):
                self._put(name, 0, "N")
            for axis in (1, 3) if by_size and len(dims) == 4 else ():
                sides = [size for at, size in enumerate(dims) if at not in (0, axis)]
                small = any(isinstance(size, int) and size < 8 for size in sides)
                if dims[axis] in (1, 3) and not small and self._lacks_channels(name):
                    self._put(name, axis, "C")
        for op in self._ops:
            if op.kind in ("MatMul", "Gemm", "MatMulInteger"):
                on_last = self._constant.issuperset(op.reads[1:2])
            else:
                on_last = "LayerNormalization" in op.kind and op.number("axis", -1) == -1
            if on_last and op.reads and self._lacks_channels(op.reads[0]):
                self._put(op.reads[0], -1, "C")

    def _lacks_channels(self, name: str) -> bool:
        return "C" not in self.labels.get(name, ())

    # --- Labels -------------------------------------------------------------------------------

    def _give_rank(self, name: str, rank: int) -> None:
        if name and name not in self.labels and name not in self._dims and rank <= MAX_RANK:
            self.labels[name] = [""] * rank
            self._changed = True

    def _rank(self, name: str) -> int | None:
        if name in self._dims:
            return len(self._dims[name])
        labels = self.labels.get(name)
        return None if labels is None else len(labels)

    def _put(self, name: str, axis: int, label: str) -> None:
        """Label an axis that is open. A letter that another axis has becomes `?`."""
        labels = self.labels.get(name)
        if not label or not labels or not -len(labels) <= axis < len(labels) or labels[axis]:
            return
        if name in self._constant:
            return
        labels[axis] = "?" if label in labels else label
        self._changed = True

    def _tie(self, one: str, axis: int, other: str, other_axis: int) -> None:
        """Two axes mean the same."""
        first, second = self.labels.get(one), self.labels.get(other)
        if first and -len(first) <= axis < len(first):
            self._put(other, other_axis, first[axis])
        if second and -len(second) <= other_axis < len(second):
            self._put(one, axis, second[other_axis])

    def _same(self, one: str, other: str) -> None:
        """Two tensors have the same axes."""
        for name, source in ((one, other), (other, one)):
            rank = self._rank(source)
            if rank is not None:
                self._give_rank(name, rank)
        if self._rank(one) == self._rank(other):
            for axis in range(self._rank(one) or 0):
                self._tie(one, axis, other, axis)

    def _fix(self, op: _Op) -> None:
        """Samples, channels, then the space: the input and the output of a convolution."""
        rank = next((len(op.numbers[x]) + 2 for x in ("kernel_shape",) if x in op.numbers), None)
        if rank is None and "Conv" in op.kind and len(op.reads) > 1:
            rank = self._rank(op.reads[1])
        for name in (op.reads[:1] + op.writes[:1]) if op.reads else ():
            if rank is not None:
                self._give_rank(name, rank)
            labels = self.labels.get(name)
            if labels and len(labels) >= 2:
                space = SPACE.get(len(labels) - 2, "")
                last = op.number("channels_last", 0) or op.kind.startswith("Nhwc")
                for axis, label in enumerate(f"N{space}C" if last else f"NC{space}"):
                    self._put(name, axis, label)

    def images(self, op: _Op) -> None:
        """Convolutions, poolings and normalisations of images."""
        self._same(op.reads[0], op.writes[0])
        self._fix(op)

    def reorder(self, op: _Op) -> None:
        """Into the blocks of channels that onnxruntime's optimiser uses, and back from them."""
        plain, blocked = op.reads[0], op.writes[0]
        if op.kind == "ReorderOutput":
            plain, blocked = blocked, plain
        last = op.number("channels_last", 0)
        for name, axes in ((plain, "NHWC" if last else "NCHW"), (blocked, "NCHW")):
            self._give_rank(name, 4)
            for axis, label in enumerate(axes):
                self._put(name, axis, label)

    # --- Operators ----------------------------------------------------------------------------

    def same(self, op: _Op) -> None:
        """Operators of single elements, and others that keep the axes of their first input."""
        self._same(op.reads[0], op.writes[0])

    def broadcast(self, op: _Op) -> None:
        """Operators of several operands, whose axes are aligned at the last one."""
        out = op.writes[0]
        reads = op.reads[:1] if op.kind == "Expand" else op.reads
        ranks = [self._rank(name) for name in reads if name not in self._constant]
        if ranks and None not in ranks and op.kind != "Expand":
            ranks += [self._rank(name) for name in reads if name in self._constant]
            self._give_rank(out, max(rank or 0 for rank in ranks))
        rank = self._rank(out)
        for name in reads:
            own = self._rank(name)
            dims = self._dims.get(name, ())
            if own is None or rank is None or own > rank:
                continue
            for axis in range(-own, 0):
                if not dims or dims[axis] != 1:
                    self._tie(name, axis, out, axis)

    def concat(self, op: _Op) -> None:
        for name in op.reads:
            if name not in self._constant:
                self._same(name, op.writes[0])

    def split(self, op: _Op) -> None:
        for name in op.writes:
            self._same(op.reads[0], name)

    def transpose(self, op: _Op) -> None:
        source, out = op.reads[0], op.writes[0]
        perm = op.numbers.get("perm")
        rank = len(perm) if perm else self._rank(source) or self._rank(out)
        if rank is None:
            return
        perm = perm or tuple(reversed(range(rank)))
        if sorted(perm) == list(range(rank)):
            self._mapped(source, out, dict(enumerate(perm)), rank, rank)

    def _mapped(
        self, source: str, out: str, axes: Mapping[int, int], rank: int | None, made: int | None
    ) -> None:
        """Axis `i` of `out` is axis `axes[i]` of `source`; `rank` and `made` are their ranks."""
        if rank is not None:
            self._give_rank(source, rank)
        if made is not None:
            self._give_rank(out, made)
        if self._rank(source) == rank and self._rank(out) == made:
            for axis, old in axes.items():
                self._tie(out, axis, source, old)

    def _axes_of(self, op: _Op, at: int = 1) -> Values | None:
        """The attribute `axes`, or the input that it became; `None` if it is not known."""
        if "axes" in op.numbers:
            return op.numbers["axes"]
        if len(op.reads) > at and op.reads[at]:
            return self._integers.get(op.reads[at])
        return ()

    def unsqueeze(self, op: _Op) -> None:
        axes, rank = self._axes_of(op), self._rank(op.reads[0])
        if not axes or rank is None:
            return
        made = rank + len(axes)
        new = {axis % made for axis in axes}
        kept = [axis for axis in range(made) if axis not in new]
        if len(kept) == rank:
            self._mapped(
                op.reads[0], op.writes[0], dict(zip(kept, range(rank), strict=True)), rank, made
            )

    def squeeze(self, op: _Op) -> None:
        axes, rank = self._axes_of(op), self._rank(op.reads[0])
        if not axes and rank is not None:
            dims = self._dims.get(op.reads[0])
            axes = tuple(i for i, size in enumerate(dims) if size == 1) if dims else None
        if axes is None or rank is None:
            return
        self._without(op, axes, rank)

    def _without(self, op: _Op, axes: Iterable[int], rank: int) -> None:
        gone = {axis % rank for axis in axes} if rank else set()
        kept = [axis for axis in range(rank) if axis not in gone]
        for out in op.writes[:1]:
            self._mapped(op.reads[0], out, dict(enumerate(kept)), rank, len(kept))

    def reduce(self, op: _Op) -> None:
        axes, rank = self._axes_of(op), self._rank(op.reads[0])
        if op.kind.startswith("Arg"):
            axes = (op.number("axis", 0),)
        if axes is None or rank is None:
            return
        if op.number("keepdims", 1) or (not axes and op.number("noop_with_empty_axes", 0)):
            self._same(op.reads[0], op.writes[0])
        else:
            self._without(op, axes or range(rank), rank)

    def flatten(self, op: _Op) -> None:
        if op.number("axis", 1) == 1:
            self._give_rank(op.writes[0], 2)
            self._tie(op.reads[0], 0, op.writes[0], 0)
            if self._rank(op.reads[0]) == 2:
                self._tie(op.reads[0], 1, op.writes[0], 1)

    def reshape(self, op: _Op) -> None:
        """Axes of the same size at the start and at the end keep their meaning.

        In between, channels stay channels if they are the last of the axes that are joined, as when
        the heads of attention are; and the axes of the space become a sequence.
        """
        source, out = op.reads[0], op.writes[0]
        target = self._integers.get(op.reads[1]) if len(op.reads) > 1 else None
        if target is not None:
            self._give_rank(out, len(target))
        rank, made = self._rank(source), self._rank(out)
        if not rank or not made:
            return
        sizes = [*self._dims.get(source, (None,) * rank)]
        wanted = [*self._dims.get(out, (None,) * made)]
        for axis, size in enumerate(target if target and len(target) == made else ()):
            if size > 0:
                wanted[axis] = size
            elif size == 0 and axis < rank and not op.number("allowzero", 0):
                wanted[axis] = sizes[axis] or f"copied {axis}"
                sizes[axis] = wanted[axis]
        start = 0
        while start < min(rank, made) and sizes[start] and sizes[start] == wanted[start]:
            self._tie(source, start, out, start)
            start += 1
        end = 0
        while (
            end < min(rank, made) - start
            and sizes[-1 - end]
            and sizes[-1 - end] == wanted[-1 - end]
        ):
            self._tie(source, -1 - end, out, -1 - end)
            end += 1
        labels = self.labels.get(source, [""] * rank)[start : rank - end]
        if start and made - end - start == 1 and labels:
            if labels[-1] == "C":
                self._put(out, start, "C")
            elif all(label in ("D", "H", "W", "T") for label in labels):
                self._put(out, start, "T")
        elif start and len(labels) == 1 and labels[0] == "C" and made - end > start:
            for axis in range(start, made - end - 1):
                self._put(out, axis, "?")
            self._put(out, made - end - 1, "C")

    def matmul(self, op: _Op) -> None:
        if len(op.reads) < 2:
            return
        first, second, out = op.reads[0], op.reads[1], op.writes[0]
        ranks = self._rank(first), self._rank(second)
        if ranks[0] is None or ranks[1] is None or min(ranks[0], ranks[1]) < 2:
            return
        rank = max(ranks[0], ranks[1])
        self._give_rank(out, rank)
        if self._rank(out) != rank:
            return
        for name, own in ((first, ranks[0]), (second, ranks[1])):
            for axis in range(-own, -2):
                self._tie(name, axis, out, axis)
        if first not in self._constant:
            self._tie(first, -2, out, -2)
        if second not in self._constant:
            self._tie(second, -1, out, -1)
        else:
            self._put(out, -1, self._weighted(first))

    def _weighted(self, source: str) -> str:
        """What a matrix of weights makes of the last axis: features, unless it mixes others."""
        labels = self.labels.get(source, [])
        return (labels[-1] or "?") if "C" in labels[:-1] else "C"

    def gemm(self, op: _Op) -> None:
        self._give_rank(op.writes[0], 2)
        self._give_rank(op.reads[0], 2)
        if not op.number("transA", 0):
            self._tie(op.reads[0], 0, op.writes[0], 0)
        self._put(op.writes[0], 1, "C")

    def gather(self, op: _Op) -> None:
        if len(op.reads) < 2:
            return
        table, indices, out = op.reads[0], op.reads[1], op.writes[0]
        rank, added = self._rank(table), self._rank(indices)
        if rank is None or added is None or not rank:
            return
        axis, made = op.number("axis", 0) % rank, rank - 1 + added
        self._give_rank(out, made)
        if self._rank(out) != made:
            return
        if table in self._constant and axis == 0:
            for at in range(added):
                self._tie(indices, at, out, at)
            if rank == 2 and added:
                self._put(out, -1, "C")
            if rank == 2 and added == 2:
                self._put(out, 1, "T")
            return
        for at in range(rank):
            if at != axis:
                self._tie(table, at, out, at if at < axis else at - 1 + added)
        if added == 1:
            self._tie(table, axis, out, axis)

    def recurrent(self, op: _Op) -> None:
        """X is (time, samples, channels), Y has the directions behind the time."""
        first = "NTC" if op.number("layout", 0) else "TNC"
        rest = ("NT?C", "N?C", "N?C") if op.number("layout", 0) else ("T?NC", "?NC", "?NC")
        for name, letters in zip((op.reads[0], *op.writes), (first, *rest), strict=False):
            self._give_rank(name, len(letters))
            for axis, label in enumerate(letters):
                self._put(name, axis, label)

    def einsum(self, op: _Op) -> None:
        terms, _, result = op.equation.replace(" ", "").partition("->")
        operands = terms.split(",")
        if not result or "." in op.equation or len(operands) != len(op.reads):
            return
        self._give_rank(op.writes[0], len(result))
        for name, term in zip(op.reads, operands, strict=True):
            self._give_rank(name, len(term))
            if name not in self._constant and self._rank(name) == len(term):
                for axis, letter in enumerate(term):
                    if letter in result:
                        self._tie(name, axis, op.writes[0], result.index(letter))
        data = {
            letter
            for name, term in zip(op.reads, operands, strict=True)
            for letter in term
            if name not in self._constant
        }
        new = [axis for axis, letter in enumerate(result) if letter not in data]
        for axis in reversed(new):  # axes of the weights: features, in several parts
            last = axis == new[-1]
            self._put(op.writes[0], axis, "C" if last else "?")

    # --- Reading the nodes --------------------------------------------------------------------

    def _read(self) -> Iterator[_Op]:
        for name, weights in self._graph.initializers.items():
            dtype = weights.type.dtype
            if dtype in _INTEGERS and _is_short(weights.type.dims or ()):
                for span in _messages(self._buffer, weights.span):
                    self._integers[name] = _tensor(self._buffer, span, dtype)
        for node in self._graph.nodes:
            if (node.domain, node.op_type) in self._graph.functions:
                continue
            if node.domain in STANDARD_DOMAINS or node.domain in _MICROSOFT:
                op = self._op(node)
                if op.kind == "Constant" and op.writes:
                    if "value" in op.numbers:
                        self._integers[op.writes[0]] = op.numbers["value"]
                    self._dims[op.writes[0]] = op.numbers.get("dims", ())
                yield op

    def _op(self, node: Node) -> _Op:
        buffer = self._buffer
        reads: list[str] = []
        writes: list[str] = []
        numbers: dict[str, Values] = {}
        equation = ""
        for span in _messages(buffer, node.span):
            for number, wire, _, at, stop in fields(buffer, *span):
                if wire != LEN:
                    continue
                if number == 1:
                    reads.append(text(buffer, at, stop))
                elif number == 2:
                    writes.append(text(buffer, at, stop))
                elif number == 5 and node.op_type == "Constant":
                    numbers |= _constant(buffer, at, stop)
                elif number == 5 and stop - at <= _LONG:
                    name, values, letters = attribute(buffer, at, stop)
                    if values:
                        numbers[name] = values
                    if name == "equation":
                        equation = letters
        kind, places = _QUANTISED.get(node.op_type, (node.op_type, slice(None)))
        return _Op(kind, tuple(reads[places]), tuple(writes), node.reads, numbers, equation)


_LONG = 1024
"""Bytes of the longest attribute or constant that may be a list of axes."""

_INTEGERS = {"int32": 4, "int64": 8}
"""Bytes of one integer, by dtype."""


def _is_short(dims: Dims) -> bool:
    return len(dims) <= 1 and all(isinstance(size, int) and size <= MAX_RANK for size in dims)


def _messages(buffer: Buffer, span: Span) -> Iterator[Span]:
    """The contents of the field at `span`, which includes its tag."""
    for _, wire, _, start, end in fields(buffer, *span):
        if wire == LEN:
            yield start, end


def attribute(buffer: Buffer, start: int, end: int) -> tuple[str, Values, str]:
    """Name, integers and text of an `AttributeProto`."""
    name, letters = "", ""
    values: list[int] = []
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 1 and wire == LEN:
            name = text(buffer, at, stop)
        elif (number == 3 and wire == VARINT) or number == 8:
            values += integers(buffer, wire, at, stop)
        elif number == 4 and wire == LEN and stop - at <= _LONG:
            letters = bytes(buffer[at:stop]).decode(errors="replace")
    return name, tuple(values), letters


def _constant(buffer: Buffer, start: int, end: int) -> dict[str, Values]:
    """The value of a Constant, if it is integers, and its sizes."""
    name, values, _ = attribute(buffer, start, end)
    if name in ("value_int", "value_ints"):
        return {"value": values, "dims": (len(values),) * (name == "value_ints")}
    if name in ("value_floats", "value_strings"):
        return {"dims": (0,)}
    tensor = find(buffer, start, end, 5)
    if tensor is None:
        return {}
    dims: list[int] = []
    dtype = ""
    for number, wire, _, at, stop in fields(buffer, *tensor):
        if number == 1 and len(dims) <= MAX_RANK:
            dims += integers(buffer, wire, at, stop)
        elif number == 2 and wire == VARINT:
            dtype = element_type(integer(buffer, at, stop))
    found: dict[str, Values] = {"dims": tuple(dims)}
    if dtype in _INTEGERS and _is_short(tuple(dims)):
        found["value"] = _tensor(buffer, tensor, dtype)
    return found


def _tensor(buffer: Buffer, span: Span, dtype: str) -> Values:
    """The integers of a small `TensorProto` of int32 or int64."""
    raw = find(buffer, *span, 9)
    if raw is None:
        values: list[int] = []
        for number, wire, _, at, stop in fields(buffer, *span):
            if number in (5, 7) and stop - at <= _LONG:
                values += integers(buffer, wire, at, stop)
        return tuple(values)
    width = _INTEGERS[dtype]
    data = bytes(buffer[raw[0] : min(raw[1], raw[0] + _LONG)])
    return tuple(
        int.from_bytes(data[at : at + width], "little", signed=True)
        for at in range(0, len(data) - width + 1, width)
    )


_QUANTISED: dict[str, tuple[str, slice]] = {
    **{f"QLinear{kind}": (kind, slice(0, 4, 3)) for kind in ("Add", "Conv", "MatMul", "Mul")},
    **{
        f"QLinear{kind}": (kind, slice(1))
        for kind in (
            *("AveragePool", "GlobalAveragePool", "LeakyRelu"),
            *("ReduceMean", "Sigmoid", "Softmax"),
        )
    },
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QGemm": ("Gemm", slice(0, 4, 3)),
    "DynamicQuantizeMatMul": ("MatMul", slice(2)),
    "MatMulIntegerToFloat": ("MatMul", slice(2)),
    "FusedGemm": ("Gemm", slice(2)),
}
"""The operator that a quantised one computes, and which of its inputs are operands; the others are
scales and zero points."""

_IMAGES = frozenset(
    "Conv ConvTranspose ConvInteger FusedConv NhwcFusedConv DeformConv MaxPool NhwcMaxPool "
    "AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool MaxUnpool BatchNormalization "
    "InstanceNormalization GroupNormalization LRN DepthToSpace SpaceToDepth GridSample".split()
)
"""Their channels are the second axis, or the last one if they say so."""

_SAME = (
    "BiasGelu CumSum DynamicQuantizeLinear FastGelu Hardmax LayerNormalization LogSoftmax "
    "LpNormalization MeanVarianceNormalization Pad QuickGelu Resize ReverseSequence "
    "ScatterElements ScatterND SimplifiedLayerNormalization SkipLayerNormalization Slice Softmax "
    "Tile TopK Upsample"
).split()
"""Operators that keep the meaning of their first input's axes, besides the elementwise ones."""

_RULES: dict[str, Callable[[_Inference, _Op], None]] = {
    **dict.fromkeys(_IMAGES, _Inference.images),
    **dict.fromkeys(("ReorderInput", "ReorderOutput"), _Inference.reorder),
    **dict.fromkeys((*ELEMENTWISE, *_SAME), _Inference.same),
    **dict.fromkeys((*BROADCAST, "Expand"), _Inference.broadcast),
    **dict.fromkeys(REDUCTIONS, _Inference.reduce),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _Inference.recurrent),
    **dict.fromkeys(("MatMul", "MatMulInteger"), _Inference.matmul),
    "Concat": _Inference.concat,
    "Split": _Inference.split,
    "Transpose": _Inference.transpose,
    "Unsqueeze": _Inference.unsqueeze,
    "Squeeze": _Inference.squeeze,
    "Flatten": _Inference.flatten,
    "Reshape": _Inference.reshape,
    "Gemm": _Inference.gemm,
    "Gather": _Inference.gather,
    "Einsum": _Inference.einsum,
}
