"""An Einsum of two tensors as a matrix product.

onnxruntime computes an Einsum on one core, and fuses nothing with it. Nearly every Einsum that a
network has, those of attention first, is a matrix product of axes in another order:

    Einsum("btnh,bsnh->bnts", q, k)    becomes    MatMul(Transpose(q), Transpose(k))

The axes of the two tensors are of four kinds: `batch` stands in both tensors and in the result,
`summed` in both tensors only, `rows` in the first tensor and the result, `columns` in the second
tensor and the result. MatMul takes `(batch..., row, summed)` and `(batch..., summed, column)`, so
several axes of one kind are joined by a Reshape before the product, and taken apart after it. A
bias is added in between, where onnxruntime computes it with the product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from layertap.format.layer import Shape
from layertap_export.graph.formulas import Formulas
from layertap_export.graph.graph import attribute, is_standard
from layertap_export.graph.replacement import Replacement

from .contract import graph_pass, in_order, outputs_exist


@graph_pass(requires=[in_order, outputs_exist], ensures=[in_order, outputs_exist])
def products_of_einsum(model: onnx.ModelProto, shapes: dict[str, Shape]) -> None:
    """Rewrite `model` in place.

    Args:
        model: as tf2onnx made it.
        shapes: what is known of its tensors' shapes. Those of the new tensors are added.
    """
    products = _Products(model.graph, shapes)
    nodes = [made for node in model.graph.node for made in products.instead_of(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class _Axes(NamedTuple):
    """The axes of a product as letters of its equation, by kind."""

    batch: str
    rows: str
    columns: str
    summed: str


class _Operand(NamedTuple):
    """One tensor of an Einsum."""

    name: str
    letters: str


class _Products:
    """Writes the products of one graph."""

    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
        self._graph = graph
        self._shapes = shapes
        self._formulas = Formulas(graph)
        self._with_bias: dict[str, list[onnx.NodeProto]] = {}
        """By output of the Add of a bias, the nodes of the product with it."""

    def instead_of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that replace a node: itself, unless it is a product."""
        equation = _equation(node)
        if equation is None:
            return self._with_bias.get(node.output[0], [node])
        (left, right), result = equation
        first, second = _Operand(node.input[0], left), _Operand(node.input[1], right)
        axes = _by_kind(left, right, result)
        sizes = self._sizes(first, second)
        if axes is None or sizes is None:
            return [node]
        rows, columns = axes.rows[:1], axes.columns[:1]
        if rows and columns and result.index(columns) < result.index(rows):
            first, second = second, first
            axes = axes._replace(rows=axes.columns, columns=axes.rows)
        bias = self._bias(node.output[0], axes, result, sizes)
        output, constant = bias or (node.output[0], "")
        self._made = Replacement(self._graph, self._shapes, output)
        self._write(axes, first, second, result, sizes, constant)
        if bias is None:
            return self._made.finished()
        self._with_bias[output] = self._made.finished()
        return []

    def _bias(
        self, product: str, axes: _Axes, result: str, sizes: Mapping[str, int | None]
    ) -> tuple[str, str] | None:
        """What an Add makes of a product, and the constant that it adds: one value for each of
        several columns, which are the last axes of the product."""
        add = self._formulas.only_reader(product)
        if add is None or add.op_type != "Add" or len(axes.columns) == 1:
            return None
        if result != axes.batch + axes.rows + axes.columns:
            return None
        one, other = map(self._formulas.source, add.input)
        constant = other if one == product else one
        if constant not in self._formulas.constants:
            return None
        shape = tuple(sizes[letter] for letter in axes.columns)
        fits = None not in shape and self._shapes.get(constant) == shape
        return (add.output[0], constant) if fits else None

    def _sizes(self, *operands: _Operand) -> dict[str, int | None] | None:
        """The size of each axis, as far as it is known; `None` if there is no product."""
        sizes: dict[str, int | None] = {}
        for name, letters in operands:
            shape = self._shapes.get(name)
            if shape is None or len(shape) != len(letters):
                return None
            for letter, size in zip(letters, shape, strict=True):
                known = sizes.get(letter)
                if known is not None and size is not None and known != size:
                    return None  # one of them is broadcast
                sizes[letter] = size if known is None else known
        return None if 0 in sizes.values() else sizes

    def _write(
        self,
        axes: _Axes,
        first: _Operand,
        second: _Operand,
        result: str,
        sizes: Mapping[str, int | None],
        bias: str,
    ) -> None:
        batch, rows, columns, summed = axes
        # MatMul takes any number of axes in front of the last two if the second is a matrix.
        groups = [*batch, *rows] if not batch and rows else [*batch, rows]
        left = self._joined(first, [*groups, summed], sizes)
        right = self._joined(second, [*batch, summed, columns], sizes)
        shape = _joined_shape([*groups, columns], sizes)
        product = self._made.emit("MatMul", [left, right], shape)
        if bias:
            target = self._made.constant(np.array([-1], np.int64))
            joined = self._made.emit("Reshape", [bias, target], shape[-1:])
            product = self._made.emit("Add", [product, joined], shape)
        found = batch + rows + columns
        if any(len(group) != 1 for group in [*groups, columns]):
            product = self._reshaped(product, [*groups, columns], [*found], sizes, first, second)
        if found != result:
            self._made.transposed(product, [found.index(letter) for letter in result])

    def _joined(
        self, operand: _Operand, groups: Sequence[str], sizes: Mapping[str, int | None]
    ) -> str:
        """A tensor with its axes in the order of the groups, and those of each group joined."""
        name, letters = operand
        order = "".join(groups)
        if order != letters:
            name = self._made.transposed(name, [letters.index(letter) for letter in order])
        if any(len(group) != 1 for group in groups):
            name = self._reshaped(name, [*order], groups, sizes, operand)
        return name

    def _reshaped(
        self,
        name: str,
        before: Sequence[str],
        after: Sequence[str],
        sizes: Mapping[str, int | None],
        *operands: _Operand,
    ) -> str:
        """A Reshape from one grouping of the axes to another."""
        shape = _joined_shape(after, sizes)
        pairs = enumerate(zip(before, after, strict=False))
        same = next((at for at, (x, y) in pairs if x != y), len(shape))
        free = [0 if at < same else -1 for at in range(len(shape))]  # 0: the size that it has
        target = [free[at] if size is None else size for at, size in enumerate(shape)]
        if target.count(-1) <= 1:
            wanted = self._made.constant(np.array(target, np.int64))
        else:
            wanted = self._computed(after, sizes, operands)
        return self._made.emit("Reshape", [name, wanted], shape)

    def _computed(
        self, groups: Sequence[str], sizes: Mapping[str, int | None], operands: Sequence[_Operand]
    ) -> str:
        """A shape as a tensor, from the shapes of the tensors that have its axes."""
        one = self._made.constant(np.array([1], np.int64))
        parts: list[str] = []
        for group in groups:
            factors = [self._size(letter, sizes, operands) for letter in group]
            part = factors[0] if factors else one
            for factor in factors[1:]:
                part = self._made.emit("Mul", [part, factor], (1,))
            parts.append(part)
        return self._made.emit("Concat", parts, (len(parts),), axis=0)

    def _size(
        self, letter: str, sizes: Mapping[str, int | None], operands: Sequence[_Operand]
    ) -> str:
        known = sizes[letter]
        if known is not None:
            return self._made.constant(np.array([known], np.int64))
        owner = next(operand for operand in operands if letter in operand.letters)
        shape = self._made.emit("Shape", [owner.name], (len(owner.letters),))
        at = self._made.constant(np.array([owner.letters.index(letter)], np.int64))
        return self._made.emit("Gather", [shape, at], (1,), axis=0)


def _joined_shape(groups: Sequence[str], sizes: Mapping[str, int | None]) -> Shape:
    """The sizes of joined axes; `None` where a factor is free."""
    shape: list[int | None] = []
    for group in groups:
        factors = [sizes[letter] for letter in group]
        known = [size for size in factors if size is not None]
        shape.append(math.prod(known) if len(known) == len(factors) else None)
    return tuple(shape)


def _equation(node: onnx.NodeProto) -> tuple[tuple[str, str], str] | None:
    """The letters of the two tensors and of the result; `None` for what is no product of two."""
    if node.op_type != "Einsum" or not is_standard(node) or len(node.input) != 2:
        return None
    text = attribute(node, "equation", b"").decode().replace(" ", "")
    left, comma, right = text.partition("->")[0].partition(",")
    result = text.partition("->")[2]
    if not comma or "->" not in text or not (left + right + result).isalpha():
        return None
    if any(len({*term}) != len(term) for term in (left, right, result)):
        return None  # a diagonal
    return (left, right), result


def _by_kind(left: str, right: str, result: str) -> _Axes | None:
    """The axes by kind; `None` if one of them is summed in a single tensor, or is not there."""
    kinds = _Axes(
        "".join(letter for letter in result if letter in left and letter in right),
        "".join(letter for letter in result if letter in left and letter not in right),
        "".join(letter for letter in result if letter not in left and letter in right),
        "".join(letter for letter in left if letter in right and letter not in result),
    )
    complete = {*left, *right, *result} == {*"".join(kinds)} and kinds.summed
    return kinds if complete else None
