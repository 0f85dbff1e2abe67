"""A node of a graph, and what is known of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from layertap_export.graph.graph import attributes

from .sizes import Dims
from .windows import Window

Integers: TypeAlias = "NDArray[np.object_]"
"""Integers, free sizes, and `None` for elements that are not known."""


class TensorFacts(Protocol):
    """What is known of tensors, by name."""

    def dims(self, name: str) -> Dims | None: ...

    def integers(self, name: str) -> Integers | None: ...

    def value(self, name: str) -> NDArray[Any] | None: ...


class NodeFacts:
    """A node, and what is known of its inputs."""

    def __init__(self, facts: TensorFacts, node: onnx.NodeProto) -> None:
        self._facts = facts
        self._node = node
        self._attributes = attributes(node)

    def dims(self, index: int = 0) -> Dims | None:
        names = self._node.input
        return self._facts.dims(names[index]) if index < len(names) else None

    def integers(self, index: int = 0) -> Integers | None:
        names = self._node.input
        return self._facts.integers(names[index]) if index < len(names) else None

    def value(self, index: int) -> NDArray[Any] | None:
        names = self._node.input
        return self._facts.value(names[index]) if index < len(names) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        return self._attributes.get(name, default)

    @property
    def input_count(self) -> int:
        return len(self._node.input)

    @property
    def output_count(self) -> int:
        return len(self._node.output)

    def window(self, kernel: Sequence[int]) -> Window:
        return Window.of(self._attributes, kernel)
