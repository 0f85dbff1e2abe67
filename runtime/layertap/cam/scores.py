"""Scores of the classes: which tensor of the graph they are, and how its values are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

from layertap._cut.plan import Perm, view
from layertap.errors import UsageError, suggest

from . import available

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layertap._engine.program import Program


class Scores(NamedTuple):
    """Where scores are in a graph."""

    tensor: str
    perms: tuple[Perm, ...]
    """The Transposes that bring its classes to the last axis."""

    def read(self, values: Mapping[str, Any]) -> npt.NDArray[Any]:
        """`(n, classes)`, out of the values of a run."""
        return by_class(view(values[self.tensor], self.perms))


def by_class(outputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The scores of the classes, `(n, classes)`; where there are many places, their mean."""
    if outputs.ndim < 2:
        raise UsageError(
            f"the scores have the shape {outputs.shape}, but classes are the last of two axes or "
            "more, (n, classes)."
        )
    scores: npt.NDArray[Any] = outputs.reshape(len(outputs), -1, outputs.shape[-1]).mean(axis=1)
    return scores


def choose_output(program: Program, output: str | None, *, with_gradients: bool = False) -> str:
    """The output whose classes are meant: the one given, that of the gradients, or the first.

    Args:
        with_gradients: whether it must be that of the gradients.

    Raises:
        UsageError: the model has no such output, or none, or the gradients are of another.
    """
    names = [info.name for info in program.outputs]
    if output is not None and output not in names:
        raise UsageError(
            f"the model has no output {output!r}; it has {', '.join(map(repr, names))}."
            + suggest(output, names)
        )
    record = available.find(program)
    if with_gradients and record and output not in (None, record.output):
        raise UsageError(
            f"{program.name} gives gradients of the scores of {record.output!r}, and not of "
            f"{output!r}."
        )
    if output is not None:
        return output
    if record is not None:
        return record.output
    if not names:
        raise UsageError(f"{program.name} has no output of its own whose classes could be meant.")
    return names[0]


def find_scores(program: Program, output: str) -> Scores:
    """The tensor that the scores of an output are: those that the file's gradients are of; in a
    file without gradients, what goes into the output's final sigmoid or softmax if it has one.
    """
    record = available.find(program)
    if record is not None and record.output == output and record.score != "logits":
        return Scores(output, ())
    graph = program.graph
    makers = {name: node for node in graph.nodes for name in node.writes}
    perms: list[Perm] = []
    node = makers.pop(output, None)
    while node and (node.domain, node.op_type) in _MOVES - graph.functions:
        if node.op_type == "Transpose":
            perms.insert(0, node.perm)
        node = makers.pop(node.reads[0], None)
    if node and (node.domain, node.op_type) in _FINAL - graph.functions:
        return Scores(node.reads[0], tuple(perms))
    return Scores(output, ())


_FINAL = {("", "Sigmoid"), ("", "Softmax"), ("", "LogSoftmax")}
_MOVES = {("", "Identity"), ("", "Cast"), ("", "Transpose")}
