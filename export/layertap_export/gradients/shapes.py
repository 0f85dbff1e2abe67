"""What is known of a graph's tensors before it runs: dtypes, sizes of axes, values.

ONNX's own shape inference does the most of it, node by node. It gives up on sizes that are computed
from free ones; those are worked out here, as expressions (see `sizes`), along with the whole
numbers that a graph computes from shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .sizes import Dims, Free, Size, fixed, product, quotient
from .windows import Window

Values: TypeAlias = "NDArray[np.object_]"
"""Whole numbers, some of them free sizes."""

SMALL = 1024
"""Elements up to which a constant is looked into while shapes are inferred."""


class Shapes:
    """What is known of the tensors of one graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Walk over a model whose nodes are in topological order."""
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._imports = list(model.opset_import)
        self._weights = {item.name: item for item in model.graph.initializer}
        self._dtypes: dict[str, int] = {}
        self._dims: dict[str, Dims] = {}
        self._values: dict[str, Values] = {}
        self._free: dict[str, Free] = {}
        graph = model.graph
        for item in graph.initializer:
            self._dtypes[item.name], self._dims[item.name] = item.data_type, tuple(item.dims)
        for value in graph.input:
            if value.name not in self._weights:
                self._set_type(value.name, value.type)
        firsts = [dims[0] for dims in self._dims.values() if dims]
        self.batch = frozenset(
            name for size in firsts if isinstance(size, Free) for name in size.names
        )
        """Names of the free sizes of the inputs' first axes."""
        stated = {value.name: value.type for value in (*graph.value_info, *graph.output)}
        for node in graph.node:
            self._visit(node, stated)

    def dtype(self, name: str) -> int:
        """The `TensorProto.DataType`; 0 where it is unknown."""
        return self._dtypes.get(name, 0)

    def dims(self, name: str) -> Dims | None:
        """Sizes of the axes, `None` where not even their number is known."""
        return self._dims.get(name)

    def liken(self, name: str, other: str) -> None:
        """Take note of a new tensor that has another's dtype and sizes."""
        self._dtypes[name] = self.dtype(other)
        if other in self._dims:
            self._dims[name] = self._dims[other]

    def value(self, name: str) -> NDArray[Any] | None:
        """The value of a constant, or of whole numbers that follow from the shapes that are known.

        Not of an initialiser that may be fed, for which the graph has a default only.
        """
        if name in self._weights:
            return numpy_helper.to_array(self._weights[name])
        values = self._values.get(name)
        if values is None or any(isinstance(size, Free) for size in values.ravel()):
            return None
        return values.astype(np.int64)

    # -- one node

    def _visit(self, node: onnx.NodeProto, stated: Mapping[str, onnx.TypeProto]) -> None:
        if node.op_type == "Constant" and self._constant(node):
            return
        for name, kind in self._inferred(node).items():
            self._set_type(name, kind)
        refine = _REFINED.get(node.op_type)
        refined = refine(_Node(self, node)) if refine else None
        for name in filter(None, node.output):
            if name in stated:
                self._note_stated(name, stated[name])
            self._settle(name, self._dims.get(name), refined)
        self._compute(node)

    def _settle(self, name: str, dims: Dims | None, refined: Sequence[Size | None] | None) -> None:
        """Sizes that nothing is known of get names of their own."""
        if dims is None and refined is None:
            return
        known: Sequence[Size | None] = refined if dims is None else dims  # type: ignore[assignment]
        if dims is not None and refined is not None and len(dims) == len(refined):
            known = [
                better if self._is_own(name, axis, size) and better is not None else size
                for axis, (size, better) in enumerate(zip(dims, refined, strict=True))
            ]
        self._dims[name] = tuple(
            self._own(name, axis) if size is None else size for axis, size in enumerate(known)
        )

    def _own(self, name: str, axis: int) -> Free:
        return Free.named(f"{name}[{axis}]")

    def _is_own(self, name: str, axis: int, size: Size) -> bool:
        return isinstance(size, Free) and size == self._own(name, axis)

    def _set_type(self, name: str, kind: onnx.TypeProto) -> None:
        tensor = kind.tensor_type
        self._dtypes[name] = tensor.elem_type
        if tensor.HasField("shape"):
            self._dims[name] = tuple(
                self._decoded(dim, name, axis) for axis, dim in enumerate(tensor.shape.dim)
            )

    def _decoded(self, dim: Any, name: str, axis: int) -> Size:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            return int(dim.dim_value)
        if not dim.dim_param:
            return self._own(name, axis)
        return self._free.get(dim.dim_param) or Free.named(dim.dim_param)

    def _note_stated(self, name: str, kind: onnx.TypeProto) -> None:
        """Numbers that the file states where inference knows none."""
        tensor = kind.tensor_type
        if not self._dtypes.get(name):
            self._dtypes[name] = tensor.elem_type
        if not tensor.HasField("shape"):
            return
        dims = self._dims.get(name) or tuple(
            self._own(name, axis) for axis in range(len(tensor.shape.dim))
        )
        if len(dims) == len(tensor.shape.dim):
            self._dims[name] = tuple(
                int(dim.dim_value)
                if self._is_own(name, axis, size) and dim.HasField("dim_value")
                else size
                for axis, (size, dim) in enumerate(zip(dims, tensor.shape.dim, strict=True))
            )

    def _type(self, name: str) -> onnx.TypeProto:
        dims = self._dims.get(name)
        shape = None
        if dims is not None:
            shape = [size if isinstance(size, int) else self._encoded(size) for size in dims]
        return helper.make_tensor_type_proto(self._dtypes[name], shape)

    def _encoded(self, size: Free) -> str:
        text = str(size)
        self._free[text] = size
        return text

    def _inferred(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """What ONNX's inference says of a node's outputs, if it can."""
        names = [name for name in node.input if name]
        if any(not self._dtypes.get(name) for name in names):
            return {}
        if node.op_type == "GroupNormalization":  # of opset 18, which the package does not infer
            return {node.output[0]: self._type(names[0])}
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
            return dict(
                onnx.shape_inference.infer_node_outputs(
                    schema,
                    node,
                    {name: self._type(name) for name in names},
                    {name: data for name in names if (data := self._data(name)) is not None},
                    opset_imports=self._imports,
                )
            )
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError):
            return {}

    def _data(self, name: str) -> TensorProto | None:
        """The value of a small constant, by which the shapes of others may be found."""
        if name in self._weights:
            item = self._weights[name]
            return item if math.prod(item.dims) <= SMALL else None
        value = self.value(name)
        if value is None:
            return None
        dtype = helper.tensor_dtype_to_np_dtype(self._dtypes[name])
        return numpy_helper.from_array(value.astype(dtype), name)

    def _constant(self, node: onnx.NodeProto) -> bool:
        attribute = node.attribute[0]
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            tensor = value
        elif attribute.name in ("value_float", "value_floats"):
            tensor = numpy_helper.from_array(np.array(value, np.float32))
        elif attribute.name in ("value_int", "value_ints"):
            tensor = numpy_helper.from_array(np.array(value, np.int64))
        else:
            return False
        name = node.output[0]
        self._weights[name] = tensor
        self._dtypes[name], self._dims[name] = tensor.data_type, tuple(tensor.dims)
        return True

    # -- whole numbers

    def whole(self, name: str) -> Values | None:
        """The value of a small tensor of whole numbers, free sizes among them."""
        if name in self._values:
            return self._values[name]
        if self._dtypes.get(name) not in _WHOLE:
            return None
        item = self._weights.get(name)
        if item is None or math.prod(item.dims) > SMALL:
            return None
        return np.array(numpy_helper.to_array(item).tolist(), object)

    def _compute(self, node: onnx.NodeProto) -> None:
        compute = _COMPUTED.get(node.op_type)
        if compute is None or self._dtypes.get(node.output[0]) not in _WHOLE:
            return
        values = compute(_Node(self, node))
        if values is not None and values.size <= SMALL:
            self._values[node.output[0]] = values


_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


class _Node:
    """A node, and what is known of what goes into it."""

    def __init__(self, shapes: Shapes, node: onnx.NodeProto) -> None:
        self._shapes = shapes
        self._node = node
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def dims(self, index: int = 0) -> Dims | None:
        names = self._node.input
        return self._shapes.dims(names[index]) if index < len(names) else None

    def whole(self, index: int = 0) -> Values | None:
        names = self._node.input
        return self._shapes.whole(names[index]) if index < len(names) else None

    def value(self, index: int) -> NDArray[Any] | None:
        names = self._node.input
        return self._shapes.value(names[index]) if index < len(names) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        return self._attributes.get(name, default)

    @property
    def count(self) -> int:
        return len(self._node.input)

    @property
    def outputs(self) -> int:
        return len(self._node.output)

    def window(self, kernel: Sequence[int]) -> Window:
        return Window.of(self._attributes, kernel)


Refined: TypeAlias = "Sequence[Size | None] | None"
"""Sizes of the outputs; `None` for one that is not known, or for all of them."""


def _convolved(node: _Node) -> Refined:
    dims, kernel = node.dims(0), node.dims(1)
    cells = fixed(kernel)
    if dims is None or cells is None:
        return None
    return (dims[0], cells[0], *node.window(cells[2:]).outputs(dims[2:]))


def _pooled(node: _Node) -> Refined:
    dims = node.dims(0)
    if dims is None:
        return None
    return (*dims[:2], *node.window(node.attribute("kernel_shape")).outputs(dims[2:]))


def _spread(node: _Node) -> Refined:
    dims, kernel = node.dims(0), node.dims(1)
    cells = fixed(kernel)
    if dims is None or cells is None:
        return None
    sizes = node.window(cells[2:]).spread(dims[2:], node.attribute("output_padding"))
    return (dims[0], cells[1] * node.attribute("group", 1), *sizes)


def _reshaped(node: _Node) -> Refined:
    dims, target = node.dims(0), node.whole(1)
    if target is None:
        return None
    sizes: list[Size | None] = list(target)
    if not node.attribute("allowzero", 0):
        for axis, size in enumerate(sizes):
            if isinstance(size, int) and size == 0:
                sizes[axis] = dims[axis] if dims is not None and axis < len(dims) else None
    if -1 in sizes:
        at = sizes.index(-1)
        others = [size for axis, size in enumerate(sizes) if axis != at]
        sizes[at] = None
        if dims is not None and None not in others:
            rest = product(size for size in others if size is not None)
            sizes[at] = quotient(product(dims), rest)
    return sizes


def _flattened(node: _Node) -> Refined:
    dims = node.dims()
    if dims is None:
        return None
    axis = node.attribute("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    return (product(dims[:axis]), product(dims[axis:]))


def _joined(node: _Node) -> Refined:
    parts = [node.dims(index) for index in range(node.count)]
    known = [dims for dims in parts if dims is not None]
    if not known or len(known) < len(parts):
        return None
    axis = node.attribute("axis") % len(known[0])
    sizes: list[Size | None] = list(known[0])
    total: Size = 0
    for dims in known:
        total = total + dims[axis]
    sizes[axis] = total
    return sizes


def _sliced(node: _Node) -> Refined:
    dims, starts, ends = node.dims(0), node.whole(1), node.whole(2)
    if dims is None or starts is None or ends is None:
        return None
    axes = node.value(3) if node.count > 3 else np.arange(len(starts))
    steps = node.value(4) if node.count > 4 else np.ones(len(starts), np.int64)
    if axes is None or steps is None:
        return None
    sizes: list[Size | None] = list(dims)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        sizes[int(axis)] = taken(dims[int(axis)], start, end, int(step))
    return sizes


def taken(size: Size, start: Size, end: Size, step: int) -> Size | None:
    """How many a Slice takes of an axis; `None` where that depends on a free size."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        stop = None if step < 0 and end < -size else end
        return len(range(*slice(start, stop, step).indices(size)))
    if step != 1:
        return None
    if isinstance(start, int) and start < 0:
        start = size + start
    if isinstance(end, int) and end < 0:
        end = size + end
    elif isinstance(end, int) and end >= 2**31 - 1:
        end = size
    if isinstance(end, int) and isinstance(size, Free):
        return None  # the axis may be shorter
    return end - start


def _parted(node: _Node) -> Refined:
    dims = node.dims()
    if dims is None or node.count > 1:
        return None
    axis = node.attribute("axis", 0)
    sizes: list[Size | None] = list(dims)
    sizes[axis] = dims[axis] // node.outputs
    return sizes


def _padded(node: _Node) -> Refined:
    dims, pads = node.dims(0), node.whole(1)
    if dims is None or pads is None or node.count > 3:
        return None
    rank = len(dims)
    return [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(dims)]


def _expanded(node: _Node) -> Refined:
    dims, target = node.dims(0), node.whole(1)
    if dims is None or target is None:
        return None
    rank = max(len(dims), len(target))
    left = (1,) * (rank - len(dims)) + dims
    right = (1,) * (rank - len(target)) + tuple(target)
    return [_broadcast(*pair) for pair in zip(left, right, strict=True)]


def _broadcast(left: Size, right: Size) -> Size | None:
    if left == right or right == 1:
        return left
    if left == 1:
        return right
    return next((size for size in (left, right) if isinstance(size, int)), None)


def _tiled(node: _Node) -> Refined:
    dims, repeats = node.dims(0), node.whole(1)
    if dims is None or repeats is None:
        return None
    return [size * count for size, count in zip(dims, repeats, strict=True)]


def _filled(node: _Node) -> Refined:
    target = node.whole()
    return None if target is None else list(target)


def _resized(node: _Node) -> Refined:
    dims = node.dims()
    if dims is None:
        return None
    sizes = node.whole(3) if node.count > 3 else None
    axes = node.attribute("axes") or range(len(dims))
    found: list[Size | None] = list(dims)
    if sizes is not None:
        for axis, size in zip(axes, sizes, strict=True):
            found[axis] = size
        return found
    scales = node.value(2) if node.count > 2 else None
    if scales is None:
        return None
    for axis, scale in zip(axes, scales.tolist(), strict=True):
        size = dims[axis]
        found[axis] = math.floor(size * scale) if isinstance(size, int) else None
        if isinstance(size, Free) and float(scale).is_integer():
            found[axis] = size * int(scale)
    return found


def _to_depth(node: _Node) -> Refined:
    dims, block = node.dims(), node.attribute("blocksize")
    if dims is None:
        return None
    return (dims[0], dims[1] * block**2, dims[2] // block, dims[3] // block)


def _to_space(node: _Node) -> Refined:
    dims, block = node.dims(), node.attribute("blocksize")
    if dims is None:
        return None
    return (dims[0], dims[1] // block**2, dims[2] * block, dims[3] * block)


_REFINED: Mapping[str, Callable[[_Node], Refined]] = {
    "Conv": _convolved,
    "ConvTranspose": _spread,
    "MaxPool": _pooled,
    "AveragePool": _pooled,
    "LpPool": _pooled,
    "Reshape": _reshaped,
    "Flatten": _flattened,
    "Concat": _joined,
    "Slice": _sliced,
    "Split": _parted,
    "Pad": _padded,
    "Expand": _expanded,
    "Tile": _tiled,
    "ConstantOfShape": _filled,
    "Resize": _resized,
    "SpaceToDepth": _to_depth,
    "DepthToSpace": _to_space,
}
"""Sizes of the outputs where ONNX's inference leaves them out. Of several outputs (those of a
Split, and the indices of a MaxPool) all have the same."""


# --- Whole numbers that follow from shapes ------------------------------------------------------


def _shape(node: _Node) -> Values | None:
    dims = node.dims()
    if dims is None:
        return None
    return _array(dims[node.attribute("start", 0) : node.attribute("end")])


def _array(sizes: Sequence[Any]) -> Values:
    values = np.empty(len(sizes), object)
    values[:] = sizes
    return values


def _same(node: _Node) -> Values | None:
    return node.whole()


def _gathered(node: _Node) -> Values | None:
    values, indices = node.whole(0), node.value(1)
    if values is None or indices is None or node.attribute("axis", 0) not in (0, -values.ndim):
        return None
    return np.asarray(values[indices], object)


def _cut(node: _Node) -> Values | None:
    values = node.whole(0)
    rest = [node.value(index) for index in range(1, node.count)]
    if values is None or values.ndim != 1 or any(part is None for part in rest):
        return None
    start, end, *others = (part for part in rest if part is not None)
    step = int(others[1][0]) if len(others) > 1 else 1
    stop = None if step < 0 and end[0] < -len(values) else int(end[0])
    return values[slice(int(start[0]), stop, step)]


def _concatenated(node: _Node) -> Values | None:
    parts = [node.whole(index) for index in range(node.count)]
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _unsqueezed(node: _Node) -> Values | None:
    values, axes = node.whole(0), node.value(1)
    if values is None or axes is None:
        return None
    return np.expand_dims(values, tuple(int(axis) for axis in axes))


def _squeezed(node: _Node) -> Values | None:
    values = node.whole(0)
    axes = node.value(1) if node.count > 1 else None
    if values is None or (node.count > 1 and axes is None):
        return None
    found = np.squeeze(values, None if axes is None else tuple(int(axis) for axis in axes))
    return np.asarray(found, object)


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[[_Node], Values | None]:
    def compute(node: _Node) -> Values | None:
        left, right = node.whole(0), node.whole(1)
        if left is None or right is None:
            return None
        pairs = np.broadcast(left, right)
        found = [function(*pair) for pair in pairs]
        if any(item is None for item in found):
            return None
        return _array(found).reshape(pairs.shape)

    return compute


def _quotient(left: Size, right: Size) -> Size | None:
    """ONNX rounds towards zero, but sizes are not negative."""
    return quotient(left, right) if isinstance(right, Free) else left // right if right else None


def _larger(left: Size, right: Size) -> Size | None:
    both = isinstance(left, int) and isinstance(right, int)
    return max(left, right) if both else left if left == right else None  # type: ignore[type-var]


def _equal(left: Size, right: Size) -> bool | None:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    if left == right:
        return True
    known = left if isinstance(left, int) else right
    return False if isinstance(known, int) and known < 0 else None


def _chosen(node: _Node) -> Values | None:
    condition, left, right = (node.whole(index) for index in range(3))
    if condition is None or left is None or right is None:
        return None
    return np.where(condition.astype(bool), left, right).astype(object)


def _multiplied(node: _Node) -> Values | None:
    values = node.whole(0)
    if values is None or values.ndim != 1:
        return None
    total = _array([product(values)])
    return total if node.attribute("keepdims", 1) else total.reshape(())


def _repeated(node: _Node) -> Values | None:
    target = node.value(0)
    if target is None or math.prod(target) > SMALL:
        return None
    tensor = node.attribute("value")
    value = 0 if tensor is None else numpy_helper.to_array(tensor).ravel()[0].item()
    return np.full(tuple(target), value, object)


_COMPUTED: Mapping[str, Callable[[_Node], Values | None]] = {
    "Shape": _shape,
    "Identity": _same,
    "Cast": _same,
    "Gather": _gathered,
    "Slice": _cut,
    "Concat": _concatenated,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Add": _elementwise(lambda left, right: left + right),
    "Sub": _elementwise(lambda left, right: left - right),
    "Mul": _elementwise(lambda left, right: left * right),
    "Div": _elementwise(_quotient),
    "Max": _elementwise(_larger),
    "Equal": _elementwise(_equal),
    "Where": _chosen,
    "ReduceProd": _multiplied,
    "ConstantOfShape": _repeated,
}
"""Values of tensors of whole numbers, free sizes among them."""
