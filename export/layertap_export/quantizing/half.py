"""float16: the weights, and the operators that may compute in it.

An operator may if it only moves values, or each of its results is a sum of products: convolutions,
products of matrices, poolings, most elementwise operators. Softmax, normalisations, reductions,
exponentials and quotients stay in float32: they subtract nearly equal numbers, or leave the range
of float16. So do operators whose tensors or weights have values beyond that range. The large
weights of operators that stay in float32 are stored in float16, and cast.

Every tensor of the graph stays in float32 on the way to what reads it, between two casts: float16
to float32 and back, which is exact. So a tensor that is replaced changes all that depends on it.
onnxruntime leaves out both casts unless the tensor is asked for.

onnxruntime and onnxconverter-common have converters for a whole graph. They round every tensor that
passes between two operators which stay in float32, gradients among them; they replace weights
beyond the range of float16 by its largest number; and a body of a branch that reads a tensor of the
graph gets it in the wrong dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from layertap.format.card import Card
from layertap_export.graph.graph import (
    bodies,
    in_order,
    makers,
    opset_of,
    prune,
    reads,
)
from layertap_export.graph.operators import facts, is_kind, views
from layertap_export.graph.shapes.shapes import Shapes

from .levels import Level, Levels, Ownership, unused_mark
from .ranges import Ranges

MOST = 2.0**14
"""Largest value of a tensor in float16: a quarter of what the dtype holds, since other inputs than
those that were seen may give larger ones."""

LEAST = 2.0**-8
"""Smallest largest value of a tensor in float16, unless it is 0: numbers below 2**-14 have fewer
correct digits there, so that a tensor of only small ones would lose them."""

ROUNDING = 2.0**-10
"""Largest relative error of a weight in float16: twice that of one rounding."""

STORED_BYTES = 512
"""Size of the smallest weight that is stored in float16 for an operator in float32."""

KINDS = ("elementwise", "elementwise first", "layout", "indexing", "matrix", "convolution",
         "pooling")  # fmt: skip
"""The kinds of operators that may compute in float16."""

WIDE = frozenset(
    "Cast CastLike Compress Cosh Det Div Einsum Exp GlobalAveragePool GlobalLpPool Log LpPool Mod "
    "NonZero OneHot Pow Reciprocal ScatterElements ScatterND Sinh Softplus Sqrt Tan TopK "
    "Unique".split()
)
"""Operators of these kinds that stay in float32."""

WITH_WEIGHTS = ("matrix", "convolution", "recurrent", "indexing", "normalisation")
"""The kinds of operators whose weights are stored in float16."""

SCALING = ("Mul", "PRelu")
"""Operators that scale by a constant, each element of which needs its own digits. So does each
scale and variance of a normalisation."""


class Half:
    """A model, and the same in float16 at any levels of its layers."""

    def __init__(
        self, model: onnx.ModelProto, card: Card, owned: Ownership, shapes: Shapes, seen: Ranges
    ) -> None:
        """
        Args:
            model: its nodes are in topological order, and all its weights inside.
            card: names its outputs.
            owned: which nodes belong to which layer.
            shapes: knows the dtypes of its tensors.
            seen: the ranges of its tensors.
        """
        self._model, self._shapes, self._seen, self._owned = model, shapes, seen, owned
        listed = {value.name for value in model.graph.input}
        self._weights = {
            item.name: numpy_helper.to_array(item)
            for item in model.graph.initializer
            if item.data_type == TensorProto.FLOAT and item.name not in listed
        }
        nodes, made = model.graph.node, makers(model.graph.node)
        self._mark = unused_mark(model, "/float16")
        self._computed_mark = unused_mark(model, "/computed")
        apart = set[int]()
        for info in card.outputs:
            *_, name = views(info.name, made)
            apart.add(id(made[name]) if name in made else 0)
        for layer in card.layers:  # a layer is found through its views, which a cast would end
            if layer.tensor is not None:
                *shown, _ = views(layer.tensor, made)
                apart.update(id(made[name]) for name in shown)
        self._able = {
            at for at in owned.owners if id(nodes[at]) not in apart and self._is_able(nodes[at])
        }
        self._stored = {at: self._large(nodes[at]) for at in owned.owners}
        at_all = [at for at in owned.owners if at in self._able or self._stored[at]]
        self.layers: tuple[str, ...] = tuple(dict.fromkeys(owned.owners[at] for at in at_all))
        """The layers that would change, in the order of the graph."""

    # --- What may change ------------------------------------------------------------------------

    def _typed(self, node: onnx.NodeProto, of_inputs: bool) -> list[int]:
        """The indices of the inputs or outputs that would be float16: those with the type of the
        first input in float32."""
        schema = onnx.defs.get_schema(node.op_type, opset_of(self._model), "")
        single = [at for at, name in enumerate(node.input) if self._is_single(name)]
        if not single:
            return []
        inputs = schema.inputs
        formal = inputs[min(single[0], len(inputs) - 1)]
        if "tensor(float16)" not in formal.types:
            return []
        stated = inputs if of_inputs else schema.outputs
        names = node.input if of_inputs else node.output
        return [
            at
            for at, name in enumerate(names)
            if self._is_single(name)
            and stated[min(at, len(stated) - 1)].type_str == formal.type_str
        ]

    def _is_single(self, name: str) -> bool:
        return bool(name) and (
            name in self._weights or self._shapes.dtype(name) == TensorProto.FLOAT
        )

    def _is_able(self, node: onnx.NodeProto) -> bool:
        """Whether a node may compute in float16."""
        row = facts(node)
        if row is None or row.kind not in KINDS or node.op_type in WIDE or bodies(node):
            return False
        if row.no_gradient is not None or not self._typed(node, of_inputs=False):
            return False
        read = [node.input[at] for at in self._typed(node, of_inputs=True)]
        written = [node.output[at] for at in self._typed(node, of_inputs=False)]
        exact = node.op_type in SCALING
        return all(
            fits(self._weights[name], exact) if name in self._weights else self._is_in_range(name)
            for name in (*read, *written)
        )

    def _is_in_range(self, name: str) -> bool:
        low, high = self._seen.get(name, (np.inf, -np.inf))
        largest = max(-low, high)
        return largest == 0 or LEAST <= largest <= MOST

    def _large(self, node: onnx.NodeProto) -> list[str]:
        """The weights that are stored in float16 if the node computes in float32."""
        row = facts(node)
        if row is None or row.kind not in WITH_WEIGHTS:
            return []
        return [
            name
            for name in node.input
            if name in self._weights
            and self._weights[name].nbytes >= STORED_BYTES
            and fits(self._weights[name], exact=row.kind == "normalisation")
        ]

    # --- The model ------------------------------------------------------------------------------

    def reached(self, levels: Levels) -> dict[str, Level]:
        """The level that each layer really has: that of its least exact node."""
        found: dict[str, Level] = {}
        narrow = self._narrow(levels)
        for at, layer in self._owned.owners.items():
            level = self._owned.level(at, levels)
            if level is Level.NARROW and at not in narrow:
                level = Level.STORED
            if level is Level.STORED and not self._stored[at]:
                level = Level.FLOAT
            found[layer] = min(found.get(layer, Level.FLOAT), level)
        return {layer: found[layer] for layer in self.layers}

    def _narrow(self, levels: Levels) -> set[int]:
        """The nodes that compute in float16. One that only moves values does so where they are in
        float16 already: elsewhere it would round them for nothing."""
        found: set[int] = set()
        halves: set[str] = set()
        for at, node in enumerate(self._model.graph.node):
            if at not in self._able or self._owned.level(at, levels) is not Level.NARROW:
                continue
            if is_kind(node, "layout") and halves.isdisjoint(node.input):
                continue
            found.add(at)
            halves.update(node.output)
        return found

    def at(self, levels: Levels) -> onnx.ModelProto:
        """The model at some levels; every tensor that it gives is float32, with its old name."""
        graph, narrow = self._model.graph, self._narrow(levels)
        known: dict[str, str] = {}
        halves: set[str] = set()
        stored: set[str] = set()
        exact: set[str] = set()
        wide: set[str] = set()
        nodes: list[onnx.NodeProto] = []
        for at, old in enumerate(graph.node):
            level = self._owned.level(at, levels) if at in self._owned.owners else None
            node = onnx.NodeProto()
            node.CopyFrom(old)
            if at in narrow:
                nodes += self._narrowed(node, known, halves)
                continue
            nodes.append(node)
            wide.update(reads(node))
            if level is Level.FLOAT:
                exact.update(reads(node))
            elif level is not None:
                stored.update(self._stored[at])
        replaced = {name for name in stored | halves if name not in exact}
        replaced -= wide - stored
        return self._assembled(nodes, (stored - exact) | halves, replaced)

    def _half(self, name: str) -> str:
        """The name of a tensor or a weight in float16."""
        return f"{name}{self._mark}"

    def _narrowed(
        self, node: onnx.NodeProto, known: dict[str, str], halves: set[str]
    ) -> list[onnx.NodeProto]:
        """A node that computes in float16, with the casts around it.

        Args:
            node: a copy of the node.
            known: the names in float16 of tensors that are read so; new ones are added.
            halves: takes the names of the weights that it reads.
        """
        casts, after = [], []
        outputs = self._typed(node, of_inputs=False)
        for at in self._typed(node, of_inputs=True):
            name = node.input[at]
            if name in self._weights:
                halves.add(name)
            elif name not in known:
                known[name] = self._half(name)
                casts.append(_cast(name, known[name], TensorProto.FLOAT16))
            node.input[at] = self._half(name)
        for at in outputs:
            name = node.output[at]
            node.output[at] = f"{name}{self._computed_mark}"
            after.append(_cast(node.output[at], name, TensorProto.FLOAT))
        return [*casts, node, *after]

    def _assembled(
        self, nodes: Sequence[onnx.NodeProto], halves: set[str], replaced: set[str]
    ) -> onnx.ModelProto:
        """The model with these nodes.

        Args:
            nodes: the new nodes.
            halves: the weights that are needed in float16.
            replaced: those of them whose float32 values are cast from float16.
        """
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        graph = made.graph
        kept = [item for item in graph.initializer if item.name not in replaced]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.initializer.extend(kept)
        for name in sorted(halves):
            value = self._weights[name].astype(np.float16)
            graph.initializer.append(numpy_helper.from_array(value, self._half(name)))
        casts = [_cast(self._half(name), name, TensorProto.FLOAT) for name in sorted(replaced)]
        graph.node.extend(in_order([*casts, *nodes]))
        prune(made, [value.name for value in graph.output])
        return made


def fits(value: NDArray[np.float32], exact: bool = False) -> bool:
    """Whether a weight can be in float16.

    Args:
        value: the weight.
        exact: whether each element needs its own digits, not only those of the largest.
    """
    with np.errstate(all="ignore"):
        error = np.abs(value.astype(np.float16).astype(np.float32) - value)
    scale = np.abs(value) if exact or value.size == 1 else np.abs(value).max(initial=0.0)
    return bool(np.all(error <= ROUNDING * scale))  # false for a NaN or an infinite difference


def _cast(source: str, target: str, dtype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], to=dtype)
