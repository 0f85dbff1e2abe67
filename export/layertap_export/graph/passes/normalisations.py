"""Normalisations by mean and deviation, as the operators that onnxruntime has for them.

TensorFlow computes one in some ten steps, of which seven go through the whole activation:

    x * i - mean * i + offset,    i = scale / sqrt(variance + epsilon)

The pass finds the deviation of a tensor, and follows what is computed from it. With the mean `m`
and the reciprocal `r` of the deviation, `scale x r - scale m r + offset` is a normalisation,
however it is written. What is written instead depends on the axes:

- Scale and offset vary along the normalised axes only: LayerNormalization, for which other axes
  than the last are moved there and back.
- All axes but the batch and one other are normalised, as in group normalisation, where the other
  axis are the groups: InstanceNormalization, then scale and offset for each channel.

The mean is subtracted before a LayerNormalization, although the operator would do so itself:
onnxruntime before 1.27 computes the variance as the difference of two large numbers. At a mean of
100 deviations its result is wrong by 0.6 %, at 1000 it is NaN. layertap's sessions leave the
subtraction out where they do not need it (`layertap/_cut/means.py`).

A normalisation by the root mean square is `scale x r` with the deviation from 0. ONNX has an
operator for it from opset 23 on; before, onnxruntime makes one of six steps, which the pass writes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from layertap.format.layer import Shape
from layertap_export.graph.deviations import Deviation, deviation
from layertap_export.graph.formulas import Formulas, Polynomial, letter, minus
from layertap_export.graph.graph import opset_of
from layertap_export.graph.replacement import Replacement
from layertap_export.graph.shapes.shapes import Shapes

from .contract import graph_pass, in_order, outputs_exist


@graph_pass(requires=[in_order, outputs_exist], ensures=[in_order, outputs_exist])
def normalisations(model: onnx.ModelProto, shapes: dict[str, Shape]) -> None:
    """Rewrite `model` in place. Nodes that nothing reads any more stay; the next pass removes them.

    Args:
        model: as tf2onnx made it.
        shapes: what is known of its tensors' shapes. Those of the new tensors are added.
    """
    if opset_of(model) < 17:
        return
    found = _Normalisations(model, shapes).replacements()
    if found:
        nodes = [made for node in model.graph.node for made in found.get(node.output[0], [node])]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


class _Factors(NamedTuple):
    """The constants of a normalisation, by name; empty for none."""

    scale: str
    offset: str


class _Groups(NamedTuple):
    """A group normalisation, around which the channels are split into groups, and joined again."""

    tensor: str
    """With its channels in one axis."""
    output: str
    axis: int
    """Of the channels."""
    groups: int


class _Normalisations:
    """Finds the normalisations in one graph."""

    def __init__(self, model: onnx.ModelProto, shapes: dict[str, Shape]) -> None:
        self._model = model
        self._graph = model.graph
        self._shapes = shapes
        self._formulas = Formulas(model.graph)
        self._exact: Shapes | None = None

    def replacements(self) -> dict[str, list[onnx.NodeProto]]:
        """By tensor, the nodes that make it instead of the node that makes it now."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self._graph.node:
            if node.op_type == "Sqrt":
                known = deviation(node, self._formulas, self._shapes)
                for output, factors in (self._normalised(known) if known else {}).items():
                    assert known is not None
                    made = self._written(known, output, factors)
                    if made:
                        found[made[-1].output[0]] = made
        return found

    def _normalised(self, known: Deviation) -> dict[str, _Factors]:
        """The normalised tensors, with scale and offset."""
        x, m = letter("x"), letter("m")
        given = {known.tensor: x}
        if known.mean:
            given[known.mean] = m
        if known.centred:
            given[known.centred] = (*x, *minus(m))
        match = _centred if known.mean else _not_centred
        return self._formulas.matches(given, match, {known.root: letter("r")})

    def _written(self, known: Deviation, output: str, factors: _Factors) -> list[onnx.NodeProto]:
        """The nodes of one normalisation; none if there is no operator for it."""
        shape, axes = self._shapes[known.tensor], known.axes
        if self._shapes.get(output) != shape or 0 in shape:
            return []
        if not known.mean:
            return self._root_mean_square(known, output, factors.scale)
        groups = self._groups(known, output, factors)
        if groups is not None:
            return self._group(known, groups, factors)
        trailing = axes[0] + len(axes) == len(shape)
        if all(self._fits(name, shape, axes) for name in factors if name):
            if trailing or any(factors) or not self._by_instance(shape, axes):
                return self._layer(known, output, factors)
        elif trailing:
            return self._layer(known, output, factors, apart=True)
        return self._instance(known, output, factors) if self._by_instance(shape, axes) else []

    def _fits(self, name: str, shape: Shape, axes: Collection[int]) -> bool:
        """Whether a constant has one value for each place along some axes."""
        given = self._shapes.get(name)
        if given is None or len(given) > len(shape):
            return False
        full = (1,) * (len(shape) - len(given)) + given
        return full == tuple(size if i in axes else 1 for i, size in enumerate(shape))

    def _by_instance(self, shape: Shape, axes: Collection[int]) -> bool:
        """Whether all axes but the first and one other, of a known size, are normalised."""
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        return kept[:1] == [0] and len(kept) == 2 and shape[kept[1]] is not None

    def _groups(self, known: Deviation, output: str, factors: _Factors) -> _Groups | None:
        """The group normalisation of which a normalised tensor is a part."""
        shape, axes = self._shapes[known.tensor], known.axes
        split = self._formulas.maker(known.tensor, "Reshape")
        join = self._formulas.only_reader(output)
        if split is None or join is None or join.op_type != "Reshape":
            return None
        if not self._by_instance(shape, axes):
            return None
        (axis,) = (i for i in range(1, len(shape)) if i not in axes)
        before, after = (self._shapes.get(x) for x in (split.input[0], join.output[0]))
        count, size = shape[axis], (*shape, None)[axis + 1]
        if count is None or size is None or axis + 1 == len(shape):
            return None
        joined = (*shape[:axis], count * size, *shape[axis + 2 :])
        if before != joined or after != joined:
            return None
        if joined.count(None) > 1 and not self._same_sizes(split, join, axis):
            return None
        if not all(self._fits(name, shape, (axis, axis + 1)) for name in factors if name):
            return None
        return _Groups(split.input[0], join.output[0], axis, count)

    def _same_sizes(self, split: onnx.NodeProto, join: onnx.NodeProto, axis: int) -> bool:
        """Whether two Reshapes leave all axes but one as they are, also where sizes are free."""
        if self._exact is None:
            self._exact = Shapes(self._model)
        names = (split.input[0], split.output[0], join.output[0])
        before, between, after = (self._exact.dims(name) or () for name in names)
        others = (*between[:axis], None, *between[axis + 2 :])
        return before == after and all(
            size is not None and size == before[i] for i, size in enumerate(others) if i != axis
        )

    # -- what is written

    def _layer(
        self, known: Deviation, output: str, factors: _Factors, *, apart: bool = False
    ) -> list[onnx.NodeProto]:
        """A layer normalisation, with scale and offset in it or apart from it."""
        shape, axes = self._shapes[known.tensor], known.axes
        sizes = tuple(size for axis in axes if (size := shape[axis]) is not None)
        if len(sizes) != len(axes):
            return []
        made = Replacement(self._graph, self._shapes, output)
        perm = [axis for axis in range(len(shape)) if axis not in axes] + list(axes)
        source = made.emit("Sub", [known.tensor, known.mean], shape)
        source = made.transposed(source, perm)
        target = made.constant(np.array(sizes, np.int64))
        scale, offset = _NONE if apart else factors
        inputs = [source]
        if scale:
            inputs.append(made.emit("Reshape", [scale, target], sizes))
        else:
            inputs.append(made.constant(np.ones(sizes, np.float32)))
        if offset:
            inputs.append(made.emit("Reshape", [offset, target], sizes))
        name = made.emit(
            "LayerNormalization",
            inputs,
            tuple(shape[axis] for axis in perm),
            axis=-len(axes),
            epsilon=known.epsilon,
        )
        name = made.transposed(name, _inverse(perm))
        if apart:
            _scaled(made, name, factors, shape)
        return made.finished()

    def _instance(self, known: Deviation, output: str, factors: _Factors) -> list[onnx.NodeProto]:
        """A normalisation for each sample and each place along one axis."""
        shape = self._shapes[known.tensor]
        made = Replacement(self._graph, self._shapes, output)
        (axis,) = (i for i in range(1, len(shape)) if i not in known.axes)
        name = self._by_sample(made, known.tensor, axis, shape[axis] or 0, known.epsilon)
        _scaled(made, name, factors, shape)
        return made.finished()

    def _group(self, known: Deviation, groups: _Groups, factors: _Factors) -> list[onnx.NodeProto]:
        shape, axis = self._shapes[groups.tensor], groups.axis
        made = Replacement(self._graph, self._shapes, groups.output)
        name = self._by_sample(made, groups.tensor, axis, groups.groups, known.epsilon)
        sizes = tuple(size if i == axis else 1 for i, size in enumerate(shape))
        target = made.constant(np.array(sizes, np.int64))
        joined = (made.emit("Reshape", [x, target], sizes) if x else "" for x in factors)
        _scaled(made, name, _Factors(*joined), shape)
        return made.finished()

    def _by_sample(
        self, made: Replacement, tensor: str, axis: int, groups: int, epsilon: float
    ) -> str:
        """A tensor, normalised for each sample and each group of places along an axis."""
        shape = self._shapes[tensor]
        others = [i for i in range(1, len(shape)) if i != axis]
        # The order of what is in one group makes no difference.
        perm = [0, axis, *others] if groups > 1 else list(range(len(shape)))
        moved = made.transposed(tensor, perm)
        sizes = tuple(shape[i] for i in perm)
        known = [size for size in sizes[1:] if size is not None]
        whole = len(known) == len(sizes) - 1
        length = math.prod(known) // groups if whole else None
        target = [-1 if whole and shape[0] is None else 0, groups, length or -1]
        flat = (shape[0], groups, length)
        name = made.emit("Reshape", [moved, made.constant(np.array(target, np.int64))], flat)
        ones = made.constant(np.ones(groups, np.float32))
        zeros = made.constant(np.zeros(groups, np.float32))
        name = made.emit("InstanceNormalization", [name, ones, zeros], flat, epsilon=epsilon)
        if sizes.count(None) > 1:
            shape_of = made.emit("Shape", [moved], (len(sizes),))
        else:
            target = [-1 if size is None else size for size in sizes]
            shape_of = made.constant(np.array(target, np.int64))
        name = made.emit("Reshape", [name, shape_of], sizes)
        return made.transposed(name, _inverse(perm))

    def _root_mean_square(self, known: Deviation, output: str, scale: str) -> list[onnx.NodeProto]:
        """The steps from which onnxruntime makes its operator, for the last axis."""
        shape = self._shapes[known.tensor]
        if known.axes != (len(shape) - 1,) or not self._fits(scale, shape, known.axes):
            return []
        made = Replacement(self._graph, self._shapes, output)
        small = (*shape[:-1], 1)
        square = made.emit("Pow", [known.tensor, made.number(2)], shape)
        if opset_of(self._model) < 18:
            mean = made.emit("ReduceMean", [square], small, axes=[-1], keepdims=1)
        else:
            axes = made.constant(np.array([-1], np.int64))
            mean = made.emit("ReduceMean", [square, axes], small, keepdims=1)
        epsilon = made.number(known.epsilon)
        root = made.emit("Sqrt", [made.emit("Add", [mean, epsilon], small)], small)
        divided = made.emit("Div", [known.tensor, root], shape)
        made.emit("Mul", [divided, scale], shape)
        return made.finished()


_NONE = _Factors("", "")


def _scaled(made: Replacement, name: str, factors: _Factors, shape: Shape) -> str:
    """A tensor times the scale, plus the offset."""
    if factors.scale:
        name = made.emit("Mul", [name, factors.scale], shape)
    return made.emit("Add", [name, factors.offset], shape) if factors.offset else name


def _inverse(perm: Sequence[int]) -> list[int]:
    return [perm.index(axis) for axis in range(len(perm))]


def _centred(value: Polynomial) -> _Factors | None:
    """The constants of `scale x r - scale m r + offset`; `None` if it is something else."""
    terms = {term.letters: term for term in value}
    scaled, offset = terms.pop("rx", None), terms.pop("", None)
    if len(terms) + 1 + (offset is not None) != len(value) or scaled is None:
        return None
    if terms != {"mr": scaled._replace(letters="mr", factor=-1.0)} or scaled.factor != 1.0:
        return None
    if offset is None:
        return _Factors("".join(scaled.constants), "")
    if offset.factor != 1.0 or not offset.constants:
        return None
    return _Factors("".join(scaled.constants), "".join(offset.constants))


def _not_centred(value: Polynomial) -> _Factors | None:
    """The constant of `scale x r`; `None` if it is something else, or without a scale."""
    if len(value) != 1 or value[0][:2] != (1.0, "rx") or not value[0].constants:
        return None
    return _Factors("".join(value[0].constants), "")
