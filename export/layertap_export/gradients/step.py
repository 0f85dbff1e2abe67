"""One step of backpropagation: a node of the forward half, and the gradients of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from layertap_export.errors import GradientError
from layertap_export.graph.graph import attributes
from layertap_export.graph.shapes.sizes import Dims, Size

from .builder import Builder, Value

Differentiator: TypeAlias = Callable[
    [Builder, Sequence[onnx.NodeProto], Sequence[str], Mapping[str, Value]], "dict[str, Value]"
]
"""Gives the gradients of the weighted sum of some tensors with respect to others, by name. Its
arguments: what writes them; the nodes, in topological order; the others; the weights, by tensor."""


@dataclass(frozen=True)
class Step:
    """The arguments of a rule."""

    build: Builder
    node: onnx.NodeProto
    inputs: tuple[Value | None, ...]
    """`None` for an input that is left out."""
    outputs: tuple[Value | None, ...]
    gradients: tuple[Value | None, ...]
    """Of the outputs; `None` for an output that the score does not depend on."""
    wanted: tuple[bool, ...]
    """Whether each input's gradient is needed."""
    differentiate: Differentiator
    """Differentiates a graph inside a rule."""

    @property
    def x(self) -> Value:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Value:
        """The first output."""
        assert self.outputs[0] is not None
        return self.outputs[0]

    @property
    def gradient(self) -> Value:
        """The gradient of the first output."""
        if self.gradients[0] is None:
            raise self.unsupported("with a score that depends on another output than the first")
        return self.gradients[0]

    @property
    def dims(self) -> Dims:
        """Sizes of the first input."""
        return self.build.dims(self.x)

    def input(self, index: int) -> Value:
        value = self.inputs[index]
        assert value is not None
        return value

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def constant(self, index: int) -> NDArray[Any] | None:
        """The value of an input that is known when the file is made."""
        return self.build.shapes.value(self.input(index).name) if self.has(index) else None

    def integers(self, index: int) -> list[Size | None] | None:
        """The value of an input that holds integers, as far as it is known."""
        values = self.build.shapes.integers(self.input(index).name) if self.has(index) else None
        return None if values is None else list(values.ravel())

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        return attributes(self.node)

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def text(self, name: str, default: str = "") -> str:
        found: bytes = self.attributes.get(name, default.encode())
        return found.decode()

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        rank = len(self.dims) if rank is None else rank
        return int(self.attribute("axis", default)) % rank

    def axes(self, index: int = 1) -> list[int] | None:
        """Axes, from the front and sorted, by attribute or by input; `None` if none are given."""
        given = self.attribute("axes")
        if given is None:
            if not self.has(index):
                return None
            given = self.constant(index)
            if given is None:
                raise self.unsupported("with computed axes")
        return sorted({int(axis) % len(self.dims) for axis in np.ravel(given)})

    def only(self, *indices: int) -> None:
        """Refuse gradients of inputs other than these."""
        for index, wanted in enumerate(self.wanted):
            if wanted and index not in indices:
                formal = _formal(self, index)
                raise self.unsupported(f"with {formal} that depends on the layer")

    def unsupported(self, form: str) -> GradientError:
        """The error for a form of the operator that has no rule.

        Args:
            form: as in `with a kernel of free size`.
        """
        return GradientError(f"layertap has no rule for {self.node.op_type} {form}")


def _formal(step: Step, index: int) -> str:
    try:
        schema = onnx.defs.get_schema(step.node.op_type, step.build.opset, step.node.domain)
    except onnx.defs.SchemaError:
        return f"input {index}"
    return f"input {schema.inputs[index].name!r}"


Gradients: TypeAlias = "Sequence[Value | None]"
"""Of the inputs, in order; those at the end may be left out."""

Rule: TypeAlias = Callable[[Step], Gradients]
"""Appends nodes that compute the gradients of a node's inputs."""
