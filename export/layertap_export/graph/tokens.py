"""Finds the tokens of a graph that are patches of an image.

From an image's rows and columns on, each operator says what the axes of its result stand for. They
become tokens where a reshape joins rows and columns, are shifted where a class token is put before
them, and go through attention as its queries and keys. Nothing is guessed: an operator that mixes
positions, or that is not known here, ends what is known. A sum keeps what is known of one operand.

The operators: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import onnx

from layertap.format.layer import Axes, Layer, Tokens

from .graph import attribute, is_standard
from .operators import facts
from .positions import Labels, Positions, is_samples, reshaped, whole
from .shapes.shapes import Shapes
from .shapes.sizes import Dims, Size, fixed


class TokenGrids:
    """What the axes of a graph's tensors stand for."""

    def __init__(self, model: onnx.ModelProto, inputs: Mapping[str, Axes]) -> None:
        """Follow the positions of images through a graph.

        Args:
            model: its nodes are in topological order; large weights may be stubs.
            inputs: what the axes of its inputs mean, as far as it is known.
        """
        self.shapes = Shapes(model)
        self.labels: dict[str, Labels] = {}
        for name, axes in inputs.items():
            dims = self.shapes.dims(name)
            if dims is not None and len(dims) == len(axes):
                self.labels[name] = tuple(
                    whole(kind, size) if kind else None  # type: ignore[arg-type]
                    for kind, size in zip(map(_KINDS.get, axes), dims, strict=True)
                )
        for node in model.graph.node:
            if any(name in self.labels for name in node.input) and is_standard(node):
                _follow(self, node)

    def tokens(self, tensor: str, axis: int) -> Tokens | None:
        """The patches on one axis of a tensor with an axis of samples; `None` if they are not all
        there in order."""
        labels, dims = self.labels.get(tensor), self.shapes.dims(tensor)
        if labels is None or dims is None or not (is_samples(labels[0]) or dims[0] == 1):
            return None
        found = labels[axis]
        if found is None or found.grid is None or min(found.grid) < 2:
            return None
        return Tokens(grid=found.grid, first=found.first)


def with_tokens(layer: Layer, grids: TokenGrids) -> Layer:
    """A layer with what is known of its tokens: of a sequence `(n, tokens, channels)`, or of the
    queries and keys of attention scores."""
    rank, tensor = len(layer.shape), layer.tensor or ""
    attention = layer.attention
    if attention is None:
        found = grids.tokens(tensor, 1) if rank == 3 else None
        return replace(layer, tokens=found) if found else layer
    if rank != (4 if attention.heads else 3):
        return layer
    queries, keys = grids.tokens(tensor, rank - 2), grids.tokens(tensor, rank - 1)
    if queries is None or queries != keys:
        return layer
    known = replace(attention, grid=queries.grid, first=queries.first)
    return replace(layer, attention=known)


_KINDS = {"N": "samples", "H": "rows", "W": "columns"}


def _follow(grids: TokenGrids, node: onnx.NodeProto) -> None:
    """Note what the axes of a node's results stand for."""
    row = facts(node)
    rule = _RULES.get(node.op_type) or (_KIND_RULES.get(row.kind) if row else None)
    if rule is None:
        return
    for at, name in enumerate(node.output):
        dims = grids.shapes.dims(name)
        if not name or dims is None:
            continue
        labels = rule(_Step(grids, node, at, dims))
        if len(labels) == len(dims) and any(labels):
            grids.labels[name] = labels


class _Step:
    """One result of one node, and what is known of the node's inputs."""

    def __init__(self, grids: TokenGrids, node: onnx.NodeProto, output: int, dims: Dims) -> None:
        self._grids, self._node = grids, node
        self.output, self.dims = output, dims

    def attribute(self, name: str, default: Any = None) -> Any:
        return attribute(self._node, name, default)

    @property
    def count(self) -> int:
        """Number of inputs."""
        return len(self._node.input)

    def labels(self, at: int = 0) -> Labels:
        """What is known of an input's axes."""
        known = self._grids.labels.get(self._node.input[at])
        return known or (None,) * len(self.sizes(at))

    def sizes(self, at: int = 0) -> Dims:
        """The sizes of an input's axes; none if its rank is not known."""
        return self._grids.shapes.dims(self._node.input[at]) or ()

    def sizes_of_outputs(self) -> list[Dims]:
        return [self._grids.shapes.dims(name) or () for name in self._node.output]

    def integers(self, at: int) -> list[int] | None:
        """The value of an input, if it is known."""
        if at >= self.count or not self._node.input[at]:
            return None
        value = self._grids.shapes.value(self._node.input[at])
        return None if value is None else [int(x) for x in value.ravel()]

    def axes(self, at: int) -> list[int] | None:
        """The axes that an attribute or an input states."""
        found = self.attribute("axes")
        return self.integers(at) if found is None else list(found)


def _agreed(found: list[Positions | None]) -> Positions | None:
    """What several operands say of one axis of a result; `None` if they disagree."""
    known = {positions for positions in found if positions is not None}
    return known.pop() if len(known) == 1 else None


def _aligned(step: _Step, operands: range) -> Labels:
    """Of operands whose axes are aligned at the last one."""
    rank = len(step.dims)
    said: list[list[Positions | None]] = [[] for _ in range(rank)]
    for at in operands:
        sizes = step.sizes(at)
        for axis, (positions, size) in enumerate(zip(step.labels(at), sizes, strict=True)):
            target = axis + rank - len(sizes)
            if target >= 0 and size == step.dims[target]:
                said[target].append(positions)
    return tuple(map(_agreed, said))


def _elementwise(step: _Step) -> Labels:
    return _aligned(step, range(step.count))


def _first(step: _Step) -> Labels:
    return _aligned(step, range(1))


def _maps(step: _Step) -> Labels:
    """Convolutions, poolings and resampling: the rows and columns of new feature maps."""
    made: list[Positions | None] = [step.labels()[0], None]
    for positions, size in zip(step.labels()[2:], step.dims[2:], strict=False):
        made.append(_scaled(positions, size))
    return tuple(made)


def _resized(step: _Step) -> Labels:
    return tuple(
        positions if size == old else _scaled(positions, size)
        for positions, old, size in zip(step.labels(), step.sizes(), step.dims, strict=True)
    )


def _scaled(positions: Positions | None, size: Any) -> Positions | None:
    """All rows (or columns) in another resolution."""
    if positions is None or not positions.alone or len(positions.factors) != 1:
        return None
    factor = positions.factors[0]
    return whole(factor.kind, size) if factor.covers and factor.kind != "samples" else None


def _transpose(step: _Step) -> Labels:
    labels = step.labels()
    perm = step.attribute("perm") or [*reversed(range(len(labels)))]
    return tuple(labels[axis] for axis in perm)


def _reshape(step: _Step) -> Labels:
    return reshaped(step.labels(), step.sizes(), step.dims)


def _concat(step: _Step) -> Labels:
    rank = len(step.dims)
    axis = int(step.attribute("axis", 0)) % rank
    made = [_agreed([step.labels(at)[i] for at in range(step.count)]) for i in range(rank)]
    parts = [step.labels(at)[axis] for at in range(step.count)]
    known = [at for at, part in enumerate(parts) if part is not None]
    made[axis] = None
    if len(known) == 1:
        found, before = parts[known[0]], _total(step.sizes(at)[axis] for at in range(known[0]))
        made[axis] = found.moved(before, step.dims[axis]) if found and before is not None else None
    return tuple(made)


def _split(step: _Step) -> Labels:
    made = [*step.labels()]
    axis = int(step.attribute("axis", 0)) % len(made)
    found = made[axis]
    before = _total(dims[axis] for dims in step.sizes_of_outputs()[: step.output])
    made[axis] = found.moved(-before, step.dims[axis]) if found and before is not None else None
    return tuple(made)


def _total(sizes: Iterable[Size]) -> int | None:
    """The sum of sizes; `None` if one of them is free."""
    known = fixed(tuple(sizes))
    return None if known is None else sum(known)


def _slice(step: _Step) -> Labels:
    made = [*step.labels()]
    starts, axes = step.integers(1), step.integers(3)
    steps = step.integers(4) or [1] * len(starts or ())
    cut = range(len(made)) if starts is None else axes or range(len(starts))
    for at, axis in enumerate(cut):
        found, size = made[axis], step.sizes()[axis]
        made[axis] = None
        if size == step.dims[axis] and starts is not None and steps[at] == 1:
            made[axis] = found
        elif found and starts is not None and isinstance(size, int) and steps[at] == 1:
            start = min(max(starts[at] + (size if starts[at] < 0 else 0), 0), size)
            made[axis] = found.moved(-start, step.dims[axis])
    return tuple(made)


def _gather(step: _Step) -> Labels:
    labels = step.labels()
    axis = int(step.attribute("axis", 0)) % len(labels)
    added = len(step.sizes(1))
    return (*labels[:axis], *((None,) * added), *labels[axis + 1 :])


def _pad(step: _Step) -> Labels:
    made = [*step.labels()]
    pads, axes = step.integers(1), step.integers(3)
    for at, axis in enumerate(axes or range(len(made))):
        if step.sizes()[axis] == step.dims[axis]:
            continue
        found = made[axis]
        made[axis] = _scaled(found, step.dims[axis])
        if made[axis] is None and found and pads is not None:
            made[axis] = found.moved(pads[at], step.dims[axis])
    return tuple(made)


def _reduction(step: _Step) -> Labels:
    labels, axes = step.labels(), step.axes(1)
    if step.attribute("axis") is not None:
        axes = [int(step.attribute("axis"))]
    rank = len(labels)
    gone = {axis % rank for axis in (range(rank) if axes is None else axes)}
    if len(step.dims) == rank:
        return tuple(None if axis in gone else labels[axis] for axis in range(rank))
    return tuple(labels[axis] for axis in range(rank) if axis not in gone)


def _matmul(step: _Step) -> Labels:
    one, other = step.labels(0), step.labels(1)
    if min(len(one), len(other)) < 2:
        return ()
    return (*_elementwise(step)[:-2], one[-2], other[-1])


def _gemm(step: _Step) -> Labels:
    return (step.labels()[1 if step.attribute("transA", 0) else 0], None)


def _einsum(step: _Step) -> Labels:
    equation = step.attribute("equation", b"").decode().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    operands = terms.split(",")
    if not arrow or "." in equation or len(operands) != step.count:
        return ()
    said: dict[str, list[Positions | None]] = {letter: [] for letter in result}
    for at, term in enumerate(operands):
        for letter, positions in zip(term, step.labels(at), strict=True):
            if letter in said:
                said[letter].append(positions)
    return tuple(_agreed(said[letter]) for letter in result)


_Rule = Callable[[_Step], Labels]

_RULES: Mapping[str, _Rule] = {
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    **dict.fromkeys(("Expand", "Tile"), _first),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Resize": _resized,
}

_KIND_RULES: Mapping[str, _Rule] = {
    "elementwise": _elementwise,
    "elementwise first": _first,
    "along axis": _first,
    "cumulative": _first,
    "normalisation": _first,
    "reduction": _reduction,
    "convolution": _maps,
    "pooling": _maps,
}
