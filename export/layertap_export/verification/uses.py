"""What the inputs of a traced model are used for: followed to the tables that they are indices of.

Every tensor of the TensorFlow graph is traced back to the inputs whose elements it holds: as they
are, or times and plus a constant. Where such a tensor is an index, a key, a segment or the start of
a slice, the input must hold whole numbers of that range. The graph of TensorFlow is followed, not
that of the file: a fault in the file must not decide on what the file is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.ops.control_flow_util_v2 import get_func_graph

from layertap_export.keras_model.tracing import Trace

from .draws import Use


class Origin(NamedTuple):
    """An input whose elements are in a tensor, as `element * scale + offset`."""

    position: int
    """The index of the input."""
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of weights, or keys, of which those are used that an index or the sizes select."""

    name: str
    """The layer that reads it, or else the TensorFlow operation."""
    rows: int
    read: tuple[Any, ...]
    """TensorFlow's tensors that say what is read: the indices; of a slice, its begin and end."""
    keys: NDArray[Any] | None = None
    """The keys, if it is a lookup table."""
    axis: int = 0
    """The element of begin and end that counts, for a slice."""
    by_size: bool = False
    """Whether the sizes of the inputs alone select the rows, as of learned positions."""
    strict: bool = False
    """Whether an index of no row is an error."""
    pointwise: frozenset[int] = frozenset()
    """The inputs that the index is computed from, element by element."""
    dims: tuple[int, ...] | None = None
    """The sizes of the axes that an index of several numbers selects from, `rows` in product."""

    def ids(self, index: NDArray[Any]) -> NDArray[np.int64]:
        """The rows that indices or keys select, -1 where there is none, one for each."""
        if self.keys is not None:
            place = np.searchsorted(self.keys, index).clip(0, self.rows - 1)
            return np.where(self.keys[place] == index, place, -1).astype(np.int64)
        columns = index.astype(np.int64)
        columns = columns[..., None] if self.dims is None else columns
        dims = np.array(self.dims or [self.rows])
        inside = ((columns >= 0) & (columns < dims)).all(-1)
        strides = np.cumprod([1, *dims[:0:-1]])[::-1]
        return np.where(inside, columns @ strides, -1)


@dataclass(eq=False)
class Uses:
    """The uses of all inputs of a model, and its tables."""

    by_input: tuple[list[Use], ...]
    tables: list[Table] = field(default_factory=list)
    products: set[int] = field(default_factory=set)
    """Numbers of elements, of which those of a tensor must be a multiple: it is reshaped, one size
    of the result is open, and these are the others."""
    loops: bool = False
    """Whether a loop runs over the steps of a sequence."""


def follow(traced: Trace) -> Uses:
    """Follow the inputs of a traced model."""
    walk = _Walk(traced)
    walk.run()
    return walk.uses


PASSING: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        [
            *("Identity", "Cast", "Reshape", "ExpandDims", "Squeeze", "Transpose", "StridedSlice"),
            *("Slice", "Tile", "BroadcastTo", "GatherV2", "GatherNd", "Unpack", "SplitV", "Round"),
            *("Floor", "Ceil", "Rint", "ClipByValue", "FloorMod", "Abs", "Pad", "PadV2", "Relu"),
            *("MirrorPad", "ReverseV2", "Roll", "Max", "Min", "StopGradient", "EnsureShape"),
            *("CheckNumerics", "PreventGradient", "Snapshot", "ReverseSequence", "Mod"),
        ],
        (0,),
    ),
    "Split": (1,),
    "Where": (),
    "Maximum": (0, 1),
    "Minimum": (0, 1),
    "SelectV2": (1, 2),
    "Select": (1, 2),
    "Fill": (1,),
    "IdentityN": None,
    "Pack": None,
    "ConcatV2": None,
}
"""The operands whose elements are in the results of an operation; `None` for all of them."""

CALLS = {"PartitionedCall": ("f",), "StatefulPartitionedCall": ("f",)}
LOOPS = {"While": ("cond", "body"), "StatelessWhile": ("cond", "body")}
BRANCHES = {"If": ("then_branch", "else_branch"), "StatelessIf": ("then_branch", "else_branch")}

MOST_ORIGINS = 8
"""Origins of one tensor that are followed; more are combinations of the same few."""


HEAVY = ("Conv", "MatMul", "BatchMatMul", "Einsum", "DepthwiseConv", "While", "Cudnn")
"""Operations that cost more than their results have elements, by the begin of their names."""

Key = tuple[int, str]


def _key(tensor: Any) -> Key:
    """What identifies a tensor: TensorFlow makes new Python objects for the same one."""
    return id(tensor.graph), tensor.name


class _Walk:
    """One walk through a graph and the functions that it calls, in the order of execution."""

    def __init__(self, traced: Trace) -> None:
        self._traced, self._graph = traced, traced.function.graph
        self.uses = Uses(tuple([] for _ in traced.inputs))
        self._origins: dict[Key, list[Origin]] = {}
        self._by_value: set[Key] = set()
        """Tensors whose values depend on those of the inputs."""
        self._by_size: set[Key] = set()
        """Tensors whose values depend on the sizes of the inputs alone."""
        self._pointwise: dict[Key, frozenset[int]] = {}
        """The inputs that a tensor is computed from, up to operations as convolutions."""
        self._outer: dict[Key, Any] = {}
        """What a tensor of an inner function stands for."""
        self._captured = {_key(inner): outer for outer, inner in self._graph.captures}
        self._entered: list[str] = []
        self._graphs: list[Any] = []
        """Keeps the graphs alive, by whose identity tensors are known."""

    def run(self) -> None:
        """Find the uses and the tables."""
        entries = self._traced.function.inputs[: len(self._traced.inputs)]
        for position, tensor in enumerate(entries):
            self._origins[_key(tensor)] = [Origin(position)]
            self._by_value.add(_key(tensor))
            self._pointwise[_key(tensor)] = frozenset([position])
        self._graph_of(self._graph)

    def _graph_of(self, graph: Any) -> None:
        for op in graph.get_operations():
            if not any(_key(x) in self._by_value or _key(x) in self._by_size for x in op.inputs):
                continue
            self._note(op)
            if op.type in CALLS or op.type in LOOPS or op.type in BRANCHES:
                self._enter(op)
            self._pass_on(op)

    def _pass_on(self, op: Any) -> None:
        """What is known of an operation's results."""
        sizes = op.type in ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")
        value = not sizes and any(_key(x) in self._by_value for x in op.inputs)
        for result in op.outputs:
            (self._by_value if value else self._by_size).add(_key(result))
        if value and not op.type.startswith(HEAVY):
            inputs = frozenset[int]().union(*(self._pointwise.get(_key(x), ()) for x in op.inputs))
            self._pointwise.update(dict.fromkeys(map(_key, op.outputs), inputs))
        found = dict.fromkeys(self._found(op)) if value else {}
        if found:
            for result in op.outputs:
                self._origins.setdefault(_key(result), list(found)[:MOST_ORIGINS])

    def _found(self, op: Any) -> Iterator[Origin]:
        if op.type in PASSING:
            chosen = PASSING[op.type]
            for index in range(len(op.inputs)) if chosen is None else chosen:
                yield from self._of(op.inputs[index])
        elif op.type in ARITHMETIC and len(op.inputs) == 2:
            for index in (0, 1):
                other = self._number(op.inputs[1 - index])
                if other is None:
                    continue
                scale, offset = ARITHMETIC[op.type](index, other)
                for origin in self._of(op.inputs[index]) if scale else ():
                    factor, shift = origin.scale * scale, origin.offset * scale + offset
                    yield Origin(origin.position, factor, shift)
        elif op.type == "Neg":
            for origin in self._of(op.inputs[0]):
                yield Origin(origin.position, -origin.scale, -origin.offset)

    def _of(self, tensor: Any) -> list[Origin]:
        return self._origins.get(_key(tensor), [])

    def _number(self, tensor: Any) -> float | None:
        """A constant of one element, or of equal elements."""
        value = self.constant(tensor)
        if value is None or value.size == 0 or value.dtype.kind not in "iuf":
            return None
        first = float(value.flat[0])
        return first if (value == value.flat[0]).all() else None

    def constant(self, tensor: Any) -> NDArray[Any] | None:
        """The value of a tensor that depends on nothing, if it is known."""
        value = tf.get_static_value(tensor)
        if value is None:
            outer = self._resolved(tensor)
            if isinstance(outer, tf.__internal__.EagerTensor) and outer.dtype != tf.resource:
                value = outer.numpy()
        return None if value is None else np.asarray(value)

    def _resolved(self, tensor: Any) -> Any:
        """What a tensor stands for outside the function that it is in."""
        while _key(tensor) in self._outer:
            tensor = self._outer[_key(tensor)]
        return self._captured.get(_key(tensor), tensor)

    def _enter(self, op: Any) -> None:
        """Follow the inputs of an operation into the functions that it calls."""
        self.uses.loops |= op.type in LOOPS
        names = {**CALLS, **LOOPS, **BRANCHES}[op.type]
        given = op.inputs[1:] if op.type in BRANCHES else op.inputs
        for name in names:
            function = op.get_attr(name).name
            if function in self._entered:  # a function that calls itself
                continue
            inner = get_func_graph(op, [x.shape for x in given], function)
            self._graphs.append(inner)
            for outside, inside in zip(given, inner.inputs, strict=False):
                self._outer[_key(inside)] = outside
                self._copy(outside, inside)
            self._entered.append(function)
            self._graph_of(inner)
            self._entered.pop()
            if op.type in CALLS or op.type in BRANCHES:
                for outside, inside in zip(op.outputs, inner.outputs, strict=False):
                    self._copy(inside, outside)

    def _copy(self, source: Any, target: Any) -> None:
        for known in (self._by_value, self._by_size):
            if _key(source) in known:
                known.add(_key(target))
        if _key(source) in self._pointwise:
            self._pointwise[_key(target)] = self._pointwise[_key(source)]
        if _key(source) in self._origins:
            self._origins[_key(target)] = self._origins[_key(source)]

    # --- Uses ------------------------------------------------------------------------------------

    def _note(self, op: Any) -> None:
        """Note the use that an operation makes of its inputs, if it is one."""
        if op.type == "Cast":
            self._note_cast(op)
        elif op.type == "LookupTableFindV2":
            self._note_lookup(op)
        elif op.type == "Reshape":
            self._note_reshape(op)
        elif op.type in INDEXING:
            for index, rows, strict in INDEXING[op.type](self, op):
                self._add(index, 0, rows, strict=strict, ascending=op.type in SORTED)
        table = self._table(op)
        if table is not None and not self._entered:
            self.uses.tables.append(table)

    def _add(self, tensor: Any, low: float, rows: float | None, **options: Any) -> None:
        """A use of each input that is in a tensor whose elements are in `[low, rows)`."""
        best: dict[int, Origin] = {}
        for origin in self._of(tensor):
            # Of x and of x + n, which stands for a negative index, x is meant.
            known = best.get(origin.position)
            if known is None or abs(origin.offset) < abs(known.offset):
                best[origin.position] = origin
        for origin in best.values():
            bounds = [(low - origin.offset) / origin.scale]
            if rows is not None:
                bounds.append((rows - origin.offset) / origin.scale)
            elif origin.scale < 0:
                continue
            high = max(bounds) if rows is not None else None
            whole = abs(origin.scale) == 1.0
            use = Use(
                low=min(bounds) + (1 if origin.scale < 0 and whole else 0),
                high=high if high is None or origin.scale > 0 or not whole else high + 1,
                rows=1 if whole or rows is None else max(1, int(rows - low)),
                tensor=None if self._entered else tensor,
                **options,
            )
            self.uses.by_input[origin.position].append(use)

    def _note_cast(self, op: Any) -> None:
        """A narrow integer holds a range; beyond it, machines give different values."""
        source, target = op.inputs[0].dtype, op.outputs[0].dtype
        narrower = not source.is_integer or source.size > target.size
        if target.is_integer and target.size < 4 and narrower and not source.is_bool:
            self._add(op.inputs[0], target.min, target.max + 1, indexes=False)

    def _note_reshape(self, op: Any) -> None:
        """The sizes that are fixed where one is open; those of a made result are `_made_size`."""
        sizes = tf.get_static_value(op.inputs[1], partial=True)
        known = [int(size) for size in (() if sizes is None else sizes) if size is not None]
        if -1 in known:
            self.uses.products.add(math.prod(size for size in known if size > 0))
        for index, rows, strict in _made_size(self, op):
            self._add(index, 0, rows, strict=strict)

    def _note_lookup(self, op: Any) -> None:
        keys = self._keys(op)
        if keys is not None:
            for origin in self._of(op.inputs[1]):
                listed = tuple(sorted(keys.tolist()))
                tensor = None if self._entered else op.inputs[1]
                use = Use(0, None, keys=listed, tensor=tensor)
                self.uses.by_input[origin.position].append(use)

    def _keys(self, op: Any) -> NDArray[Any] | None:
        handle = self._resolved(op.inputs[0])
        if not isinstance(handle, tf.__internal__.EagerTensor):
            return None
        keys, _ = tf.raw_ops.LookupTableExportV2(
            table_handle=handle, Tkeys=op.get_attr("Tin"), Tvalues=op.get_attr("Tout")
        )
        found: NDArray[Any] = keys.numpy()
        if found.dtype == object:
            found = np.array([key.decode(errors="replace") for key in found], object)
        return found

    def _table(self, op: Any) -> Table | None:
        """The table of weights that an operation reads rows of."""
        if op.type == "LookupTableFindV2":
            keys = self._keys(op)
            if keys is not None and _key(op.inputs[1]) in self._by_value:
                return Table(self._name(op), len(keys), (op.inputs[1],), keys=np.unique(keys))
            return None
        if op.type == "StridedSlice":
            return self._sliced(op)
        if op.type not in TABLES:
            return None
        if op.type in GATHERS and _key(op.inputs[0]) in self._by_value:
            return None  # these are no weights
        for index, rows, strict in INDEXING[op.type](self, op):
            by_value, by_size = _key(index) in self._by_value, _key(index) in self._by_size
            if rows is not None and (by_value or by_size):
                dims = self._indexed(op) if op.type in GATHERS_ND else None
                return Table(
                    self._name(op),
                    math.prod(dims) if dims else int(rows),
                    (index,),
                    by_size=not by_value,
                    strict=strict,
                    dims=dims,
                    pointwise=self._pointwise.get(_key(index), frozenset()),
                )
        return None

    def _indexed(self, op: Any) -> tuple[int, ...]:
        """The sizes of the axes that each index of a GatherNd selects from."""
        depth = op.inputs[1].shape[-1]
        return tuple(int(self.size(op.inputs[0], axis) or 1) for axis in range(depth))

    def _sliced(self, op: Any) -> Table | None:
        """Weights from which a slice is taken that ends where the sizes of the inputs say."""
        weights, begin, end = op.inputs[:3]
        dims, known = weights.shape, {*self._by_value, *self._by_size}
        if _key(weights) in known or _key(end) not in self._by_size or not dims.rank:
            return None
        if op.get_attr("shrink_axis_mask") or op.get_attr("ellipsis_mask"):
            return None
        stop = tf.get_static_value(end, partial=True)
        axes = [] if stop is None else [i for i, x in enumerate(stop) if x is None]
        if len(axes) != 1 or axes[0] >= dims.rank or dims[axes[0]] is None or _key(begin) in known:
            return None
        axis = axes[0]
        return Table(self._name(op), int(dims[axis]), (begin, end), axis=axis, by_size=True)

    def _name(self, op: Any) -> str:
        scopes = [part for part in op.name.split("/") if part in self._traced.scopes]
        return self._traced.scopes[scopes[-1]] if scopes else str(op.name)

    # --- What operations index -------------------------------------------------------------------

    def size(self, tensor: Any, axis: int) -> int | None:
        """The size of one axis, if it is known; of a variable, by its handle."""
        shape = tensor.shape
        if tensor.dtype == tf.resource:
            data = getattr(self._resolved(tensor), "_handle_data", None) or tensor._handle_data
            shape = tf.TensorShape(data.shape_and_type[0].shape) if data else tf.TensorShape(None)
        if shape.rank is None or not -shape.rank <= axis < shape.rank:
            return None
        known: int | None = shape[axis]
        return known

    def number(self, tensor: Any) -> int | None:
        """A constant of one element, as an integer."""
        value = self._number(tensor)
        return None if value is None else int(value)

    def least_room(self, tensor: Any, sizes: Any) -> int | None:
        """The largest start, plus one, of a slice of constant sizes, over all axes."""
        lengths = self.constant(sizes)
        if lengths is None or tensor.shape.rank is None:
            return None
        rooms = [
            have - max(int(length), 0) + 1
            for have, length in zip(tensor.shape, lengths, strict=True)
            if have is not None and have != length
        ]
        return min(rooms, default=None)


Indices = Iterator[tuple[Any, "int | None", bool]]


def _least(sizes: Sequence[int | None]) -> int | None:
    """The least of several sizes; `None` if one is not known, or there is none."""
    known = [size for size in sizes if size is not None]
    return min(known) if known and len(known) == len(sizes) else None


def _gather(walk: _Walk, op: Any) -> Indices:
    axis = walk.number(op.inputs[2])
    yield op.inputs[1], None if axis is None else walk.size(op.inputs[0], axis), True


def _resource_gather(walk: _Walk, op: Any) -> Indices:
    yield op.inputs[1], walk.size(op.inputs[0], op.get_attr("batch_dims")), True


def _gather_nd(walk: _Walk, op: Any) -> Indices:
    depth = op.inputs[1].shape[-1] if op.inputs[1].shape.rank else None
    yield op.inputs[1], _least([walk.size(op.inputs[0], i) for i in range(depth or 0)]), True


def _one_hot(walk: _Walk, op: Any) -> Indices:
    yield op.inputs[0], walk.number(op.inputs[1]), False


def _count(walk: _Walk, op: Any) -> Indices:
    """The number of rows may be stated as the upper bound of a computed one."""
    size = op.inputs[1]
    bounds = size.op.inputs if size.op.type == "Minimum" else [size]
    yield op.inputs[0], _least([n for n in map(walk.number, bounds) if n is not None]), False


def _segments(walk: _Walk, op: Any) -> Indices:
    yield op.inputs[1], walk.number(op.inputs[2]), True


def _sorted_segments(walk: _Walk, op: Any) -> Indices:
    yield op.inputs[1], None, True


def _slice(walk: _Walk, op: Any) -> Indices:
    yield op.inputs[1], walk.least_room(op.inputs[0], op.inputs[2]), True


def _strided_slice(walk: _Walk, op: Any) -> Indices:
    shape = op.inputs[0].shape
    for bound in op.inputs[1:3]:
        yield bound, _least(list(shape) if shape.rank else []), True


def _scatter(walk: _Walk, op: Any) -> Indices:
    """Into a tensor, of which the first axes are indexed."""
    into, at = (None, op.inputs[0]) if op.type == "ScatterNd" else (op.inputs[0], op.inputs[1])
    depth = at.shape[-1] if at.shape.rank else None
    if into is None:
        shape = walk.constant(op.inputs[2])
        yield at, _least([] if shape is None else [int(x) for x in shape[: depth or 0]]), True
    else:
        yield at, _least([walk.size(into, axis) for axis in range(depth or 0)]), True


def _lengths(walk: _Walk, op: Any) -> Indices:
    size = walk.size(op.inputs[0], op.get_attr("seq_dim"))
    yield op.inputs[1], None if size is None else size + 1, True


def _classes(walk: _Walk, op: Any) -> Indices:
    yield op.inputs[1], walk.size(op.inputs[0], -1), True


def _made_size(walk: _Walk, op: Any) -> Indices:
    """Sizes of a result, which become large with the elements."""
    for position in SIZING[op.type]:
        yield op.inputs[position], None, True


SIZING: Mapping[str, tuple[int, ...]] = {
    "BroadcastTo": (1,),
    "Fill": (0,),
    "LinSpace": (2,),
    "Pad": (1,),
    "PadV2": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Tile": (1,),
    "TopKV2": (1,),
}
"""The operands that determine how large a result is."""

SEGMENTS = ("Sum", "Max", "Min", "Prod", "Mean")
SORTED = tuple(f"Segment{name}" for name in SEGMENTS)

INDEXING: Mapping[str, Callable[[_Walk, Any], Indices]] = {
    "GatherV2": _gather,
    "ResourceGather": _resource_gather,
    "GatherNd": _gather_nd,
    "ResourceGatherNd": _gather_nd,
    "OneHot": _one_hot,
    "DenseBincount": _count,
    "Bincount": _count,
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    "ScatterNd": _scatter,
    "TensorScatterUpdate": _scatter,
    "TensorScatterAdd": _scatter,
    "TensorScatterSub": _scatter,
    "TensorScatterMax": _scatter,
    "TensorScatterMin": _scatter,
    "ReverseSequence": _lengths,
    "SparseSoftmaxCrossEntropyWithLogits": _classes,
    "InTopKV2": _classes,
    **{f"UnsortedSegment{name}": _segments for name in SEGMENTS},
    **dict.fromkeys(SORTED, _sorted_segments),
    **dict.fromkeys(SIZING, _made_size),
}
"""The tensors that index something, how many rows it has, and whether others are an error."""

GATHERS_ND = ("GatherNd", "ResourceGatherNd")
GATHERS = ("GatherV2", "ResourceGather", *GATHERS_ND)
TABLES = (*GATHERS, "OneHot", "Bincount", "DenseBincount")
"""The operations that read rows of a table; those that encode a number are before the weights."""

ARITHMETIC: Mapping[str, Callable[[int, float], tuple[float, float]]] = {
    "AddV2": lambda index, other: (1.0, other),
    "Add": lambda index, other: (1.0, other),
    "Sub": lambda index, other: (1.0, -other) if index == 0 else (-1.0, other),
    "Mul": lambda index, other: (other, 0.0),
    "RealDiv": lambda index, other: (1 / other, 0.0) if index == 0 and other else (0.0, 0.0),
    "FloorDiv": lambda index, other: (1 / other, 0.0) if index == 0 and other else (0.0, 0.0),
}
"""The scale and the offset by which an operation changes one of its two operands, if the other is a
constant."""
