"""A node of a graph, and what is known of what goes into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from layertap_export.graph.graph import attributes

from .sizes import Dims
from .windows import Window

Values: TypeAlias = "NDArray[np.object_]"
"""Whole numbers; some of them free sizes, and `None` for those that nothing is known of."""


class Facts(Protocol):
    """What is known of tensors, by name."""

    def dims(self, name: str) -> Dims | None: ...

    def whole(self, name: str) -> Values | None: ...

    def value(self, name: str) -> NDArray[Any] | None: ...


class Known:
    """A node, and what is known of what goes into it."""

    def __init__(self, facts: Facts, node: onnx.NodeProto) -> None:
        self._facts = facts
        self._node = node
        self._attributes = attributes(node)

    def dims(self, index: int = 0) -> Dims | None:
        names = self._node.input
        return self._facts.dims(names[index]) if index < len(names) else None

    def whole(self, index: int = 0) -> Values | None:
        names = self._node.input
        return self._facts.whole(names[index]) if index < len(names) else None

    def value(self, index: int) -> NDArray[Any] | None:
        names = self._node.input
        return self._facts.value(names[index]) if index < len(names) else None

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
