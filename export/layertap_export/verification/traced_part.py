"""Runs a part of a traced model: TensorFlow computes the requested tensors alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.eager.wrap_function import VariableHolder, WrappedFunction

from layertap_export.convert.dtypes import as_in_file
from layertap_export.keras_model.tracing import Trace


class TracedPart:
    """The part of a traced model that computes some of its tensors."""

    def __init__(self, traced: Trace, tensors: Sequence[Any]) -> None:
        """Take the part.

        Args:
            traced: the model.
            tensors: tensors of the graph of its function.
        """
        function = traced.function
        entries = function.inputs[: len(traced.inputs)]
        wrapped = WrappedFunction(function.graph, VariableHolder())
        self._function = wrapped.prune(entries, list(tensors))

    @property
    def operations(self) -> list[str]:
        """The kinds of the operations that are computed."""
        return [op.type for op in self._function.graph.get_operations()]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The values of the tensors, from the inputs in order."""
        values = self._function(*map(tf.convert_to_tensor, arrays))
        return [as_in_file(value.numpy()) for value in values]


def layer_tensors(traced: Trace) -> dict[str, Any]:
    """The tensors of the layers, by the names of the layers."""
    rows = [row for row in traced.rows if row.symbol is not None]
    tensors = traced.function.outputs[len(traced.outputs) :]
    return {row.layer.name: tensor for row, tensor in zip(rows, tensors, strict=True)}
