"""Layer normalisation as the one operator that ONNX has for it, from opset 17 on.

TensorFlow computes it in some ten steps, of which seven go through the whole activation:

    x * i - mean * i + beta,    i = gamma / sqrt(variance + epsilon)

The pass finds the mean and the deviation of a tensor, and follows what is computed from them. With
the mean `m` and the reciprocal `r` of the deviation, `gamma x r - gamma m r + beta` is a layer
normalisation, however it is written:

    LayerNormalization(x - mean, gamma, beta)

The mean is subtracted first, although the operator would do so itself: onnxruntime before 1.27
computes the variance as the difference of two large numbers. At a mean of 100 deviations its result
is wrong by 0.6 %, at 1000 it is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import onnx

from layertap_export.graph.formulas import Formulas, Polynomial, letter, minus
from layertap_export.graph.graph import attribute, opset_of
from layertap_export.graph.operators import is_stop
from layertap_export.graph.replacement import Replacement, Shape

from .contract import graph_pass, in_order, outputs_exist


@graph_pass(requires=[in_order, outputs_exist], ensures=[in_order, outputs_exist])
def layer_normalisations(model: onnx.ModelProto, shapes: dict[str, Shape]) -> None:
    """Rewrite `model` in place. Nodes that nothing reads any more stay; the next pass removes them.

    Args:
        model: as tf2onnx made it.
        shapes: what is known of its tensors' shapes. Those of the new tensors are added.
    """
    if opset_of(model) < 17:
        return
    found = _Normalisations(model.graph, shapes).replacements()
    if found:
        nodes = [made for node in model.graph.node for made in found.get(node.output[0], [node])]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


class _Deviation(NamedTuple):
    """The deviation of a tensor from its mean, or from 0."""

    node: onnx.NodeProto
    """The Sqrt that makes it."""
    tensor: str
    centred: str
    """The tensor less its mean; empty if the deviation is that from 0."""
    mean: str
    axes: tuple[int, ...]
    epsilon: float


class _Normalisations:
    """Finds the normalisations in one graph."""

    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
        self._graph = graph
        self._shapes = shapes
        self._formulas = Formulas(graph)

    def replacements(self) -> dict[str, list[onnx.NodeProto]]:
        """By tensor, the nodes that make it instead of the node that makes it now."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self._graph.node:
            deviation = self._deviation(node) if node.op_type == "Sqrt" else None
            if deviation is not None:
                for output, (scale, offset) in self._normalised(deviation).items():
                    made = self._written(deviation, output, scale, offset)
                    if made:
                        found[output] = made
        return found

    # -- what a tensor is

    def _mean(self, name: str) -> onnx.NodeProto | None:
        """The ReduceMean that makes a tensor. Keras stops the gradient behind it."""
        stop = self._formulas.maker(name, "Dropout")
        behind = stop.input[0] if stop is not None and is_stop(stop) else name
        return self._formulas.maker(behind, "ReduceMean")

    def _deviation(self, root: onnx.NodeProto) -> _Deviation | None:
        """The deviation that a Sqrt ends: sqrt(mean((x - mean(x))^2) + epsilon)."""
        total = self._formulas.maker(root.input[0], "Add")
        if total is None:
            return None
        for name, other in (total.input, reversed(total.input)):
            variance = self._formulas.maker(name, "ReduceMean")
            epsilon = self._formulas.values.get(self._formulas.source(other))
            axes = self._axes(variance)
            if variance is None or epsilon is None or axes is None:
                continue
            if epsilon.dtype != np.float32 or epsilon.size != 1:
                return None
            square = self._formulas.maker(variance.input[0], "Mul", "Pow")
            if square is None or not self._is_square(square):
                continue
            base = self._formulas.source(square.input[0])
            centred = self._formulas.maker(base, "Sub")
            mean = centred and self._mean(centred.input[1])
            if centred and mean and self._axes(mean) == axes:
                tensor = self._formulas.source(centred.input[0])
                if self._formulas.source(mean.input[0]) == tensor:
                    return _Deviation(
                        root, tensor, base, mean.output[0], axes, float(epsilon.reshape(()))
                    )
            return _Deviation(root, base, "", "", axes, float(epsilon.reshape(())))
        return None

    def _is_square(self, node: onnx.NodeProto) -> bool:
        one, other = map(self._formulas.source, node.input)
        return one == other if node.op_type == "Mul" else self._formulas.number(other) == 2.0

    def _axes(self, node: onnx.NodeProto | None) -> tuple[int, ...] | None:
        """The axes of a ReduceMean that keeps them, in order; `None` if they are not known."""
        shape = None if node is None else self._shapes.get(node.input[0])
        if node is None or shape is None or attribute(node, "keepdims", 1) != 1:
            return None
        if len(node.input) > 1 and node.input[1]:
            cast = self._formulas.maker(node.input[1], "Cast")  # tf2onnx makes them int64
            name = self._formulas.source(cast.input[0] if cast is not None else node.input[1])
            value = self._formulas.values.get(name)
            axes = [] if value is None else value.reshape(-1).tolist()
        else:
            axes = list(attribute(node, "axes", ()))
        return tuple(sorted(axis % len(shape) for axis in axes)) or None

    def _normalised(self, deviation: _Deviation) -> dict[str, tuple[str, str]]:
        """The normalised tensors, with the names of scale and offset; empty for none."""
        root = deviation.node.output[0]
        x, m = letter("x"), letter("m")
        given = {deviation.tensor: x}
        if deviation.mean:
            given |= {deviation.mean: m, deviation.centred: (*x, *minus(m))}
            stops = filter(is_stop, self._formulas.readers[deviation.mean])
            given |= {stop.output[0]: m for stop in stops}
        match = _centred if deviation.mean else _not_centred
        return self._formulas.matches(given, match, {root: letter("r")})

    # -- what is written instead

    def _written(
        self, deviation: _Deviation, output: str, scale: str, offset: str
    ) -> list[onnx.NodeProto]:
        """The nodes of one normalisation; none if there is no operator for it."""
        shape, axes = self._shapes.get(deviation.tensor, ()), deviation.axes
        sizes = [shape[axis] for axis in axes]
        known = [size for size in sizes if size is not None]
        if len(known) != len(sizes) or not all(known) or self._shapes.get(output) != shape:
            return []
        if any(name and not self._fits(name, shape, axes) for name in (scale, offset)):
            return []
        made = Replacement(self._graph, self._shapes, output)
        rank = len(shape)
        if not deviation.mean:
            return self._root_mean_square(made, deviation, scale) if scale else []
        perm = [axis for axis in range(rank) if axis not in axes] + list(axes)
        moved = perm != sorted(perm)
        source = made.emit("Sub", [deviation.tensor, deviation.mean], shape)
        if moved:
            source = made.emit("Transpose", [source], tuple(shape[i] for i in perm), perm=perm)
        target = made.constant(np.array(known, np.int64))
        if scale:
            factors = [made.emit("Reshape", [scale, target], tuple(known))]
        else:
            factors = [made.constant(np.ones(known, np.float32))]
        if offset:
            factors.append(made.emit("Reshape", [offset, target], tuple(known)))
        name = made.emit(
            "LayerNormalization",
            [source, *factors],
            tuple(shape[i] for i in perm),
            axis=rank - len(axes),
            epsilon=deviation.epsilon,
        )
        if moved:
            back = [perm.index(axis) for axis in range(rank)]
            made.emit("Transpose", [name], shape, perm=back)
        return made.finished()

    def _fits(self, name: str, shape: Shape, axes: Iterable[int]) -> bool:
        """Whether a constant has one value for each place along the normalised axes."""
        given = self._shapes.get(name)
        if given is None or len(given) > len(shape):
            return False
        full = (1,) * (len(shape) - len(given)) + given
        return full == tuple(size if i in axes else 1 for i, size in enumerate(shape))

    def _root_mean_square(
        self, made: Replacement, deviation: _Deviation, scale: str
    ) -> list[onnx.NodeProto]:
        """The steps from which onnxruntime makes its operator. ONNX has one from opset 23 on."""
        shape = self._shapes[deviation.tensor]
        small = tuple(1 if i in deviation.axes else size for i, size in enumerate(shape))
        axes = made.constant(np.array([axis - len(shape) for axis in deviation.axes], np.int64))
        square = made.emit("Pow", [deviation.tensor, made.constant(np.array(2, np.float32))], shape)
        mean = made.emit("ReduceMean", [square, axes], small, keepdims=1)
        epsilon = made.constant(np.array(deviation.epsilon, np.float32))
        root = made.emit("Sqrt", [made.emit("Add", [mean, epsilon], small)], small)
        divided = made.emit("Div", [deviation.tensor, root], shape)
        made.emit("Mul", [divided, scale], shape)
        return made.finished()


def _centred(value: Polynomial) -> tuple[str, str] | None:
    """The constants, empty for none, of `scale x r - scale m r + offset`; else `None`."""
    terms = {term.letters: term for term in value}
    scaled, offset = terms.pop("rx", None), terms.pop("", None)
    if len(terms) + 1 + (offset is not None) != len(value) or scaled is None:
        return None
    if terms != {"mr": scaled._replace(letters="mr", factor=-1.0)} or scaled.factor != 1.0:
        return None
    if offset is None:
        return "".join(scaled.constants), ""
    if offset.factor != 1.0 or not offset.constants:
        return None
    return "".join(scaled.constants), "".join(offset.constants)


def _not_centred(value: Polynomial) -> tuple[str, str] | None:
    """The constant of `scale x r`; else `None`."""
    if len(value) != 1 or value[0][:2] != (1.0, "rx") or not value[0].constants:
        return None
    return "".join(value[0].constants), ""
