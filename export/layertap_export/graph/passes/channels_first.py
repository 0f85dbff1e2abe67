"""One pass that makes convolutional parts run channels first, with no Transpose between layers.

TensorFlow's convolutions are channels last and ONNX's channels first, so tf2onnx puts a Transpose
before and after each of them. This pass visits the nodes once, in order, and records every
Transpose as a *view* (a source tensor and a permutation) instead of computing it:

    Conv -> Transpose -> Relu -> Transpose -> Conv      becomes      Conv -> Relu -> Conv

A node that can work on the source reads the source, with its axes renumbered, and its output is a
view again. Only other nodes get a real Transpose, and two permutations that cancel never appear. A
graph output is a view too; it becomes one Transpose at the end of the graph. Nodes between matrix
products and normalisations of features stay channels last where fewer values are turned that way:
`layertap_export.graph.layout` chooses them.

The pass also removes Identities, and computes nodes whose inputs are all constant, so that weights
become initializers in the shape in which they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from layertap.format.layer import Shape
from layertap_export.graph.constant_folding import compute
from layertap_export.graph.graph import attribute, bodies, captured, opset_of, prune, reads
from layertap_export.graph.layout import channels_last_nodes
from layertap_export.graph.operators import OPERATORS, facts
from layertap_export.graph.weights import Initializers

from .contract import graph_pass, in_order, no_identities, outputs_exist

Perm = tuple[int, ...]

FOLDED_BYTES = 1 << 24
"""Bytes above which a computed constant is left to the runtime, unless it shrinks what it reads."""


class View(NamedTuple):
    """A tensor known as `transpose(source, perm)`: its axis `i` is axis `perm[i]` of the source."""

    source: str
    perm: Perm

    @property
    def plain(self) -> bool:
        return self.perm == tuple(range(len(self.perm)))


class Layout(NamedTuple):
    """The result of the pass."""

    outputs: dict[str, View]
    """By output of the old graph, the view on a tensor of the new graph that it is."""
    shapes: dict[str, Shape]
    """What is known of the shapes of tensors, of both graphs."""


@graph_pass(requires=[in_order, outputs_exist], ensures=[in_order, no_identities])
def channels_first(
    model: onnx.ModelProto,
    shapes: Mapping[str, Shape],
    initializers: Initializers | None = None,
) -> Layout:
    """Rewrite a model in place. The graph has no outputs then: the caller names and orders them.

    Args:
        model: as tf2onnx made it.
        shapes: what is known of its tensors' shapes.
        initializers: the values of its large weights.
    """
    layout = _Pass(model, shapes, initializers or Initializers())
    return Layout(layout.run(), layout.shapes)


class _Pass:
    """The pass over one graph."""

    def __init__(
        self, model: onnx.ModelProto, shapes: Mapping[str, Shape], initializers: Initializers
    ) -> None:
        self.model = model
        self.initializers = initializers
        self.opset = opset_of(model)
        self.shapes: dict[str, Shape] = dict(shapes)
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.views: dict[str, View] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.channels_last: set[str] = set()
        self._made: dict[tuple[object, ...], str] = {}
        self._reshaped: dict[str, tuple[str, list[int]]] = {}
        """By output of a Reshape with a known target, its input and the target."""
        self._flattened: dict[str, View] = {}
        """By output of a Reshape that joins all axes but the first, its input as a view."""

    def run(self) -> dict[str, View]:
        """Rewrite the graph, and return each of its outputs as a view on the new graph."""
        graph = self.model.graph
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            self.shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in dims
            )
        for item in graph.initializer:
            self._add_constant(item.name, self.initializers.value(item))
        self.channels_last = channels_last_nodes(self.model, self.shapes, self.constants)
        for node in graph.node:
            self._visit(node)

        outputs = {value.name: self._view(value.name) for value in graph.output}
        del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        sources = {view.source for view in outputs.values()}
        read = {name for node in self.nodes for name in reads(node)} | sources
        graph.initializer.extend(
            self.initializers.make(value, name)
            for name, value in self.constants.items()
            if name in read
        )
        prune(self.model, sources)
        return outputs

    # -- what is known of a tensor

    def _view(self, name: str) -> View:
        known = self.views.get(name)
        if known is not None:
            return known
        return View(name, tuple(range(len(self.shapes.get(name, ())))))

    def _rank(self, name: str) -> int | None:
        shape = self.shapes.get(name)
        return None if shape is None else len(shape)

    def _constant(self, name: str) -> NDArray[np.generic] | None:
        """The value of a constant tensor, through any view; `None` if it is not constant."""
        view = self.views.get(name)
        if view is None:
            return self.constants.get(name)
        value = self.constants.get(view.source)
        return None if value is None else np.transpose(value, view.perm or None)

    def _add_constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = value
        self.shapes[name] = value.shape
        return name

    def _new_constant(self, value: NDArray[np.generic], near: str) -> str:
        key = ("constant", value.dtype.str, value.shape, value.tobytes())
        if key not in self._made:
            self._made[key] = self._add_constant(self._fresh(f"{near}/constant"), value)
        return self._made[key]

    def _fresh(self, base: str) -> str:
        return f"{base}/{len(self._made)}/{len(self.nodes)}"

    # -- emitting nodes

    def _emit(self, node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        del made.input[:], made.output[:]
        made.input.extend(inputs)
        made.output.extend(outputs)
        self.nodes.append(made)

    def _materialise(self, name: str) -> str:
        """A tensor in its own axis order: the source itself, or one Transpose of it."""
        if not name:
            return name
        view = self._view(name)
        return self._transposed(view.source, view.perm)

    def _transposed(self, source: str, perm: Perm) -> str:
        """`transpose(source, perm)` as a tensor of the graph, made once."""
        if perm == tuple(range(len(perm))):
            return source
        key = ("transpose", source, perm)
        if key in self._made:
            return self._made[key]
        shape = self.shapes.get(source)
        new_shape = None if shape is None else tuple(shape[axis] for axis in perm)
        if source in self.constants:
            value = np.transpose(self.constants[source], perm)
            self._made[key] = self._add_constant(self._fresh(source), value)
            return self._made[key]
        name = self._fresh(source)
        self._made[key] = name
        reshape = self._as_reshape(source, perm)
        if reshape is not None:
            origin, target = reshape
            sizes = self._new_constant(np.array(target, np.int64), source)
            self.nodes.append(helper.make_node("Reshape", [origin, sizes], [name]))
        else:
            self.nodes.append(helper.make_node("Transpose", [source], [name], perm=perm))
        if new_shape is not None:
            self.shapes[name] = new_shape
        return name

    def _as_reshape(self, source: str, perm: Perm) -> tuple[str, list[int]] | None:
        """The input and target of a Reshape that has the same result as a Transpose.

        There is one if the Transpose only moves axes of size 1: then no value moves in memory.
        """
        shape = self.shapes.get(source)
        if shape is None or not _keeps_order(shape, perm):
            return None
        origin, known = self._reshaped.get(source, (source, None))
        sizes = known or [-1 if size is None else size for size in shape]
        target = [sizes[axis] for axis in perm]
        return (origin, target) if target.count(-1) <= 1 and 0 not in target else None

    # -- visiting

    def _visit(self, node: onnx.NodeProto) -> None:
        if self._fold(node):
            return
        if node.op_type == "Identity":
            self.views[node.output[0]] = self._view(node.input[0])
            return
        if node.op_type == "Transpose" and self._visit_transpose(node):
            return
        if node.output[0] not in self.channels_last:
            for handle in self._handlers(node):
                if handle(node):
                    return
        self._visit_other(node)

    def _handlers(self, node: onnx.NodeProto) -> Iterable[Callable[[onnx.NodeProto], bool]]:
        op_type, row = node.op_type, facts(node)
        if row is None:
            return
        if op_type == "MatMul":
            yield self._visit_product_of_channels
            yield self._visit_product_of_flattened
            yield self._visit_product_of_last_axis
            return
        if not any(not self._view(name).plain for name in node.input if name):
            return  # no view to keep
        if row.kind == "elementwise":
            yield self._visit_elementwise
        elif row.kind == "elementwise first":
            yield self._visit_elementwise_first
        elif row.kind == "reduction" or op_type == "Squeeze":
            yield self._visit_reduction
        elif row.kind == "along axis":
            yield self._visit_along_axis
        elif op_type == "Unsqueeze":
            yield self._visit_unsqueeze
        elif op_type == "Concat":
            yield self._visit_concat
        elif op_type == "Pad":
            yield self._visit_pad
        elif op_type == "Slice":
            yield self._visit_slice
        elif op_type == "Shape":
            yield self._visit_shape
        elif op_type == "Reshape":
            yield self._visit_reshape

    def _visit_other(self, node: onnx.NodeProto) -> None:
        """Any other node gets its inputs in their own order."""
        inputs = [self._materialise(name) for name in node.input]
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for body in bodies(made):
            self._settle_captures(body)
        self._emit(made, inputs, node.output)
        if node.op_type == "Reshape":
            view = self._view(node.input[0])
            if self._flattens(view, self.shapes.get(node.output[0], ())):
                self._flattened[node.output[0]] = view
            target = self._constant(node.input[1])
            if target is not None and 0 not in target:
                self._reshaped[node.output[0]] = (inputs[0], [int(size) for size in target])

    def _flattens(self, view: View, result: Shape) -> bool:
        """Whether a Reshape joins all axes of a view but the first; their sizes are known."""
        sizes = self.shapes.get(view.source, ())
        if view.plain or not sizes or view.perm[0] != 0 or None in sizes[1:]:
            return False
        return len(result) == 2 and result[1] == math.prod(int(size or 0) for size in sizes[1:])

    def _settle_captures(self, body: onnx.GraphProto) -> None:
        """Let a body read the tensors of the new graph instead of those that it captures."""
        moved = {name: self._materialise(name) for name in captured(body) if name in self.views}
        _substitute(body, moved)

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Compute a node whose inputs are all constant."""
        known: dict[str, NDArray[np.generic]] = {}
        for name in filter(None, node.input):
            value = self._constant(name)
            if value is None:
                return False
            known[name] = value
        results = compute(node, known, self.model.opset_import)
        if results is None:
            return False
        size = sum(item.nbytes for item in results)
        if size > max(FOLDED_BYTES, sum(value.nbytes for value in known.values())):
            return False
        for name, result in zip(filter(None, node.output), results, strict=True):
            self._add_constant(name, result)
        return True

    def _visit_transpose(self, node: onnx.NodeProto) -> bool:
        view = self._view(node.input[0])
        perm = tuple(attribute(node, "perm", range(len(view.perm))[::-1]))
        if not perm:  # of a tensor of unknown rank, whose axes are reversed
            return False
        known = view.perm or tuple(range(len(perm)))
        self.shapes.setdefault(view.source, (None,) * len(perm))
        self._put_view(node.output[0], view.source, tuple(known[axis] for axis in perm))
        return True

    def _put_view(self, name: str, source: str, perm: Perm) -> None:
        self.views[name] = View(source, perm)

    def _common_perm(self, names: Iterable[str]) -> Perm | None:
        """The permutation that a node works under: that of the first view that is not plain."""
        for name in names:
            view = self._view(name)
            if not view.plain:
                return view.perm
        return None

    def _under(self, name: str, perm: Perm) -> str | None:
        """A tensor whose transpose by `perm` is, or broadcasts like, `name`; `None` if unknown."""
        value = self._constant(name)
        inverse = _inverse(perm)
        if value is not None:
            if value.ndim > len(perm):
                return None
            if value.size == 1 and value.ndim == 0:
                return self._materialise(name)
            full = value.reshape((1,) * (len(perm) - value.ndim) + value.shape)
            return self._new_constant(np.ascontiguousarray(full.transpose(inverse)), name)
        view = self._view(name)
        if view.perm == perm:
            return view.source
        rank = self._rank(view.source)
        if rank == 0:
            return view.source
        if rank != len(perm):
            return None
        return self._transposed(view.source, tuple(view.perm[axis] for axis in inverse))

    def _visit_elementwise(self, node: onnx.NodeProto) -> bool:
        perm = self._common_perm(node.input)
        assert perm is not None  # _handlers saw a view
        ranks = [self._rank(self._view(name).source) for name in node.input if name]
        if any(rank is None or rank > len(perm) for rank in ranks):
            return False
        inputs = [self._under(name, perm) for name in node.input]
        if any(name is None for name in inputs):
            return False
        self._emit_view(node, [name or "" for name in inputs], perm)
        return True

    def _visit_elementwise_first(self, node: onnx.NodeProto) -> bool:
        view = self._view(node.input[0])
        if view.plain:
            return False
        rest = [self._materialise(name) for name in node.input[1:]]
        self._emit_view(node, [view.source, *rest], view.perm)
        return True

    def _emit_view(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[str],
        perm: Perm,
        changes: Mapping[str, object] | None = None,
    ) -> None:
        """Emit `node` on sources; its outputs become views by `perm` on the new tensors."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for name, value in (changes or {}).items():
            kept = [a for a in made.attribute if a.name != name]
            del made.attribute[:]
            made.attribute.extend([*kept, helper.make_attribute(name, value)])
        plain = perm == tuple(range(len(perm)))
        outputs = [name if plain or not name else f"{name}/channels_first" for name in node.output]
        for name, output in zip(node.output, outputs, strict=True):
            shape = self.shapes.get(name)
            if shape is not None and len(shape) == len(perm):
                self.shapes[output] = tuple(shape[axis] for axis in _inverse(perm))
            elif output and perm:
                self.shapes.setdefault(output, (None,) * len(perm))
            if not plain and name:
                self._put_view(name, output, perm)
        self._emit(made, inputs, outputs)

    def _visit_concat(self, node: onnx.NodeProto) -> bool:
        perm = self._common_perm(node.input)
        if perm is None or any(self._rank(self._view(n).source) != len(perm) for n in node.input):
            return False
        inputs = [self._under(name, perm) for name in node.input]
        if any(name is None for name in inputs):
            return False
        axis = perm[attribute(node, "axis", 0) % len(perm)]
        self._emit_view(node, [name or "" for name in inputs], perm, {"axis": axis})
        return True

    def _visit_along_axis(self, node: onnx.NodeProto) -> bool:
        view = self._view(node.input[0])
        default = OPERATORS[node.op_type].axis
        axis = view.perm[attribute(node, "axis", default) % len(view.perm)]
        rest = [self._materialise(name) for name in node.input[1:]]
        self._emit_view(node, [view.source, *rest], view.perm, {"axis": axis})
        return True

    def _visit_pad(self, node: onnx.NodeProto) -> bool:
        view = self._view(node.input[0])
        if len(node.input) > 3 and node.input[3]:  # padding of some axes only
            return False
        rank, inverse = len(view.perm), _inverse(view.perm)
        pads = self._reordered(node.input[1], [*inverse, *(rank + axis for axis in inverse)])
        rest = [self._materialise(name) for name in node.input[2:]]
        self._emit_view(node, [view.source, pads, *rest], view.perm)
        return True

    def _reordered(self, name: str, order: Sequence[int]) -> str:
        """The elements of a vector, such as a shape, in another order."""
        value = self._constant(name)
        if value is not None:
            return self._new_constant(value[list(order)], name)
        indices = self._new_constant(np.array(order, np.int64), name)
        key = ("reordered", name, tuple(order))
        if key not in self._made:
            self._made[key] = self._fresh(name)
            inputs = [self._materialise(name), indices]
            self.nodes.append(helper.make_node("Gather", inputs, [self._made[key]], axis=0))
        return self._made[key]

    def _visit_slice(self, node: onnx.NodeProto) -> bool:
        view = self._view(node.input[0])
        starts = self._constant(node.input[1])
        axes = self._constant(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        if axes is None:
            if starts is None or (len(node.input) > 3 and node.input[3]):
                return False
            axes = np.arange(len(starts), dtype=starts.dtype)
        moved = np.array([view.perm[int(axis) % len(view.perm)] for axis in axes], axes.dtype)
        inputs = [view.source, *(self._materialise(name) for name in node.input[1:3])]
        inputs.append(self._new_constant(moved, node.input[0]))
        inputs += [self._materialise(name) for name in node.input[4:]]
        self._emit_view(node, inputs, view.perm)
        return True

    def _visit_shape(self, node: onnx.NodeProto) -> bool:
        view = self._view(node.input[0])
        if node.attribute:  # a part of the shape only
            return False
        key = ("shape", view.source)
        if key not in self._made:
            name = self._made[key] = self._fresh(view.source)
            self._emit(node, [view.source], [name])
        order = self._new_constant(np.array(view.perm, np.int64), node.input[0])
        self.nodes.append(helper.make_node("Gather", [self._made[key], order], node.output, axis=0))
        return True

    def _visit_reshape(self, node: onnx.NodeProto) -> bool:
        """Where the view only moves axes of size 1, the values are in the right order already."""
        view = self._view(node.input[0])
        target = self._constant(node.input[1])
        shape = self.shapes.get(view.source)
        if target is None or 0 in target or shape is None or not _keeps_order(shape, view.perm):
            return False
        self._emit(node, [view.source, self._materialise(node.input[1])], node.output)
        return True

    def _visit_product_of_last_axis(self, node: onnx.NodeProto) -> bool:
        """A matrix of weights acts on the last axis; if that stays last, the others stay permuted.

        (onnxruntime 1.32 crashes on a float16 Transpose of the first axes before a MatMul.)
        """
        view = self._view(node.input[0])
        weights = self._constant(node.input[1])
        rank = len(view.perm)
        if view.plain or view.perm[-1] != rank - 1 or weights is None or weights.ndim != 2:
            return False
        self._emit_view(node, [view.source, self._materialise(node.input[1])], view.perm)
        return True

    def _visit_product_of_channels(self, node: onnx.NodeProto) -> bool:
        """A product of each position's channels with a matrix is a convolution of size 1."""
        view, matrix = self._view(node.input[0]), self._constant(node.input[1])
        rank = len(view.perm)
        if view.plain or matrix is None or matrix.ndim != 2 or rank not in (3, 4, 5):
            return False
        if view.perm != (0, *range(2, rank), 1) or matrix.dtype not in (np.float32, np.float16):
            return False
        kernel = matrix.T.reshape(*matrix.shape[::-1], *(1,) * (rank - 2))
        weights = self._changed_weights(node.input[1], view.perm, kernel)
        product = helper.make_node("Conv", node.input, node.output)
        self._emit_view(product, [view.source, weights], view.perm)
        return True

    def _visit_product_of_flattened(self, node: onnx.NodeProto) -> bool:
        """A product of a flattened tensor with a matrix: its elements may be in another order if
        the rows of the matrix are too."""
        flat, matrix = self._view(node.input[0]), self._constant(node.input[1])
        view = self._flattened.get(flat.source) if flat.plain else None
        if view is None or matrix is None or matrix.ndim != 2:
            return False
        sizes = [int(size or 0) for size in self.shapes[view.source][1:]]
        order = [axis - 1 for axis in view.perm[1:]]
        rows = matrix.reshape(*(sizes[axis] for axis in order), -1)
        rows = rows.transpose(*_inverse(tuple(order)), len(order)).reshape(matrix.shape)
        weights = self._changed_weights(node.input[1], view.perm, rows)
        key = ("flattened", view.source)
        if key not in self._made:
            self._made[key] = self._fresh(view.source)
            target = self._new_constant(np.array([0, matrix.shape[0]], np.int64), view.source)
            reshape = helper.make_node("Reshape", [view.source, target], [self._made[key]])
            self.nodes.append(reshape)
        self._emit(node, [self._made[key], weights], node.output)
        return True

    def _changed_weights(self, name: str, perm: Perm, value: NDArray[np.generic]) -> str:
        """A weight in the form that a permutation needs, made once."""
        key = ("weights", self._view(name).source, perm)
        if key not in self._made:
            self._made[key] = self._add_constant(self._fresh(name), np.ascontiguousarray(value))
        return self._made[key]

    def _visit_reduction(self, node: onnx.NodeProto) -> bool:
        view = self._view(node.input[0])
        rank = len(view.perm)
        squeeze = node.op_type == "Squeeze"
        keep = not squeeze and attribute(node, "keepdims", 1) == 1
        by_attribute = node.op_type in ("ArgMax", "ArgMin")
        as_input = len(node.input) > 1 and bool(node.input[1])
        if by_attribute:
            axes = [attribute(node, "axis", 0)]
        elif as_input:
            value = self._constant(node.input[1])
            if value is None:
                return False
            axes = [int(axis) for axis in value]
        else:
            axes = list(attribute(node, "axes", ()))
        if not axes:  # all of them
            return False
        axes = [axis % rank for axis in axes]
        moved = [view.perm[axis] for axis in axes]
        if by_attribute:
            inputs, changes = [view.source], {"axis": moved[0]}
        elif as_input:
            inputs = [view.source, self._new_constant(np.array(moved, np.int64), node.input[1])]
            changes = {}
        else:
            inputs, changes = [view.source], {"axes": moved}
        if keep:
            perm = view.perm
        else:
            left = [view.perm[axis] for axis in range(rank) if axis not in axes]
            perm = tuple(sorted(left).index(axis) for axis in left)
        self._emit_view(node, inputs, perm, changes)
        return True

    def _visit_unsqueeze(self, node: onnx.NodeProto) -> bool:
        """In the source too, each new axis goes in front of the axis that follows it."""
        view, axes = self._view(node.input[0]), self._constant(node.input[1])
        if axes is None:
            return False
        rank = len(view.perm) + len(axes)
        new = {int(axis) % rank for axis in axes}
        old, following = list(view.perm), rank
        keys: list[tuple[int, bool]] = []  # by axis, the last one first
        for axis in reversed(range(rank)):
            following = following if axis in new else old.pop()
            keys.append((following, axis not in new))
        keys.reverse()
        perm = _inverse(tuple(sorted(range(rank), key=keys.__getitem__)))
        moved = np.array(sorted(perm[axis] for axis in new), np.int64)
        inputs = [view.source, self._new_constant(moved, node.input[1])]
        self._emit_view(node, inputs, perm)
        return True


def _substitute(body: onnx.GraphProto, moved: Mapping[str, str]) -> None:
    for node in body.node:
        for index, name in enumerate(node.input):
            node.input[index] = moved.get(name, name)
        for inner in bodies(node):
            _substitute(inner, moved)
    for value in body.output:
        if value.name in moved:  # a body returns only tensors that it makes: an Identity makes it
            inner_name = moved[value.name]
            body.node.append(helper.make_node("Identity", [inner_name], [value.name]))


def _inverse(perm: Perm) -> Perm:
    return tuple(perm.index(axis) for axis in range(len(perm)))


def _keeps_order(shape: Shape, perm: Perm) -> bool:
    """Whether a transpose moves only axes of size 1 past the others."""
    others = [axis for axis in perm if shape[axis] != 1]
    return others == sorted(others)
