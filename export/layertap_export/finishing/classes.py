"""The scores of the classes, the best of them, and the weights for a chosen one, as nodes.

The rules are those of `layertap.cam.targets` and `layertap.cam.scores`.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from layertap._engine.pictures import TOP
from layertap_export.gradients.builder import Builder, Value

from .tensors import part, positions, reshaped


@dataclass(frozen=True, slots=True)
class Classes:
    """An output with scores of classes."""

    scores: Value
    """`(n, classes)`; their mean if there are several positions."""
    binary: bool
    """Whether the output has one score for two classes."""
    axis: int
    """The axis of the classes in the output, and in the weights of its scores."""
    probability: bool
    """Whether the scores end in a sigmoid or softmax."""

    def best(self, build: Builder, count: int) -> tuple[Value, Value]:
        """The highest scores and their classes, `(n, count)`, float32 and int64."""
        scores = self.scores
        if self.binary:
            negative = 1.0 - scores if self.probability else -scores
            scores = build.node("Concat", negative, scores, axis=1)
        values, classes = build.nodes("TopK", 2, scores, build.int64([count]), axis=1)
        return values.cast(TensorProto.FLOAT), Value(build, classes.name, TensorProto.INT64)

    def weights(self, build: Builder, target: Value) -> Value:
        """The weights of the scores, `(n, classes)`, float32, for a class of each picture.

        Args:
            target: int64, `(1,)` or `(n,)`; negative numbers below `TOP` count from the end.
        """
        if self.binary:
            limit = 0.5 if self.probability else 0.0
            high = self.scores > limit
            top = high.op("Squeeze", build.int64([1])).cast(TensorProto.INT64)
            known = build.int64([0, 1])
        else:
            top = self.scores.op("ArgMax", axis=1, keepdims=0)
            known = positions(build, part(build, self.scores.shape(), 0, 1, 2))
        is_top = target.equals(TOP)
        # Gather stops the run for a class that does not exist.
        named = known.op("Gather", is_top.where(build.int64([0]), target), axis=0)
        chosen = reshaped(build, is_top.where(top, named), -1, 1)
        if self.binary:
            return (chosen * 2 - 1).cast(TensorProto.FLOAT)
        return chosen.equals(known).cast(TensorProto.FLOAT)
