"""Scores of the classes: the tensor that contains them, and how its values are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from layertap._cut.nodes import renamed_node
from layertap._cut.plan import Appended
from layertap.errors import UsageError, suggest
from layertap.format.graph import Node, TensorType
from layertap.format.operators import behind_final_activation

from . import available, targets
from .places import At
from .targets import Target, Targets, by_class

if TYPE_CHECKING:
    from layertap._engine.program import Program
    from layertap.format.layer import Layer


class Scores(NamedTuple):
    """The tensor of a graph that contains the scores."""

    tensor: str
    """The tensor that holds them, laid out as the output is."""
    appended: tuple[Appended, ...] = ()
    """The nodes that make it, if it is not in the file."""
    axis: Callable[[int], int] = lambda rank: rank - 1
    """The axis of the classes, by the number of all axes."""

    @property
    def tensors(self) -> list[str]:
        """The file's own tensors to fetch."""
        return [] if self.appended else [self.tensor]

    def read(self, values: Mapping[str, Any]) -> npt.NDArray[Any]:
        """`(n, ..., classes)`, out of the values of a run."""
        value = values[self.tensor]
        return np.moveaxis(value, self.axis(value.ndim), -1)


class _Part(NamedTuple):
    """What scores are taken from, whose tensor is no output of the model."""

    of: str
    """The name of a layer, or of an output."""
    channel: int | None
    """The only channel of it; `None` for all."""
    layer: Layer | None
    """`None` for an output."""


def _part(program: Program, output: str) -> _Part | None:
    """What the scores in a tensor are taken from; `None` if that is an output of the model."""
    gradients = available.find(program)
    if gradients is None or gradients.output != output or gradients.of is None:
        return None
    layer = None
    if all(info.name != gradients.of for info in program.outputs):
        layer = next((layer for layer in program.layers if layer.name == gradients.of), None)
    return _Part(gradients.of, gradients.channel, layer)


def class_axis(program: Program, output: str, rank: int) -> int:
    """The axis of the classes: the last one in a model from Keras, and where the file of another
    framework has scores at several positions, that of the channels, as in `(n, classes, h, w)`; of
    a layer that is the score, the channels."""
    part = _part(program, output)
    if part is None:
        return program.class_axis(output, rank)
    if part.layer is None:  # one channel of an output, laid out as the output is
        return program.class_axis(part.of, rank)
    return program.channel_axis(str(part.layer.tensor), rank)


def labels_of(program: Program, output: str) -> Sequence[str] | None:
    """The names of the classes of an output; the channels of a layer have none."""
    part, labels = _part(program, output), program.labels
    if part is None or labels is None:
        return labels
    if part.channel is None or part.layer is not None:
        return None
    shapes = [info.shape for info in program.outputs if info.name == part.of]
    widths = [shape[class_axis(program, part.of, len(shape))] for shape in shapes]
    return labels[part.channel : part.channel + 1] if widths == [len(labels)] else None


def static_shape(program: Program, output: str) -> tuple[int | str | None, ...] | None:
    """The shape of the scores as the file states it; `None` if it does not."""
    shapes = {info.name: tuple(info.shape) for info in program.outputs}
    part = _part(program, output)
    if part is None:
        return shapes.get(output)
    shape = shapes.get(part.of) if part.layer is None else tuple(part.layer.shape)
    if not shape or part.channel is None:
        return shape
    axis = class_axis(program, output, len(shape))
    return (*shape[:axis], 1, *shape[axis + 1 :])


def classes_last(program: Program, output: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values of an output with the axis of the classes last."""
    return np.moveaxis(values, class_axis(program, output, values.ndim), -1)


def class_scores(program: Program, output: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The scores of the classes, `(n, classes)`, in the values of an output; see
    `targets.by_class`."""
    return by_class(classes_last(program, output, values))


def resolve_target(
    program: Program,
    output: str,
    target: Target | Targets,
    values: npt.NDArray[Any],
    at: At | None = None,
) -> Targets:
    """What a target means for a batch with these values `(n, ..., classes)` of an output; see
    `targets.resolve`.

    Args:
        at: the places of the scores, see `places.weights_at`; all of them by default.
    """
    if values.ndim < 2:
        by_class(values)  # says that there are no classes
    return targets.resolve(
        as_classes_last(program, output, target, values.ndim),
        samples=len(values),
        classes=values.shape[-1],
        sizes=values.shape[1:-1],
        labels=labels_of(program, output),
        values=values,
        probability=ends_in_activation(program, output),
        at=at,
    )


def as_classes_last(
    program: Program, output: str, target: Target | Targets, rank: int
) -> Target | Targets:
    """An array with weights of places, which has the axes of the output, with the classes last."""
    if not targets.is_by_place(target, rank):
        return target
    assert isinstance(target, np.ndarray)
    if target.ndim < rank - 1:
        return target
    return np.moveaxis(target, class_axis(program, output, rank) - rank, -1)


def of_both_classes(program: Program, output: str, scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scores `(n, 1)` of the positive one of two classes as `(n, 2)`, [negative, positive]."""
    negative = 1 - scores if ends_in_activation(program, output) else -scores
    return np.concatenate([negative, scores], axis=1)


def choose_output(program: Program, output: str | None, *, with_gradients: bool = False) -> str:
    """The output that contains the classes: the given one, that of the gradients, or the first.

    That of the gradients may be the tensor of a layer.

    Args:
        with_gradients: whether it must be that of the gradients.

    Raises:
        UsageError: unknown output, the model has none, or the gradients belong to another.
    """
    names = [info.name for info in program.outputs]
    gradients = available.find(program)
    scored = gradients.output if gradients else None
    if output is not None and (not isinstance(output, str) or output not in (*names, scored)):
        raise UsageError(
            f"the model has no output {output!r}; it has {', '.join(map(repr, names))}."
            + suggest(str(output), names)
        )
    if with_gradients and gradients and output not in (None, gradients.output):
        raise UsageError(
            f"{program.name} has gradients of the scores of {gradients.output!r}, not of "
            f"{output!r}."
        )
    if output is not None:
        return output
    if gradients is not None:
        return gradients.output
    if not names:
        raise UsageError(f"{program.name} has no outputs, and so no scores of classes.")
    return names[0]


def find_scores(program: Program, output: str) -> Scores:
    """The scores of an output: those that the file's gradients are of; in a file without gradients,
    the logits, where the output ends in a sigmoid or softmax.

    The exporter differentiates the same: what comes after the final activation (a Flatten, say) is
    repeated after the logits, so that their classes lie as the output's do.
    """
    gradients = available.find(program)
    if gradients is not None and gradients.output == output and gradients.score != "logits":
        return scores_of(program, output)
    found = behind_final_activation(output, _maker(program))
    if found is None:
        return scores_of(program, output)
    logits, movers = found
    scores = _moved(program, output, logits, movers) if movers else Scores(logits)
    return scores._replace(axis=partial(class_axis, program, output))


def scores_of(program: Program, output: str) -> Scores:
    """The values of an output themselves as scores."""
    return Scores(output, axis=partial(class_axis, program, output))


def ends_in_activation(program: Program, output: str) -> bool:
    """Whether the values of an output are probabilities: it ends in a sigmoid or softmax."""
    return behind_final_activation(output, _maker(program)) is not None


def _maker(program: Program) -> Callable[[str], Node | None]:
    """Finds the node that writes a tensor; `None` for a function of the file itself."""
    graph = program.graph
    makers = {name: node for node in graph.nodes for name in node.writes}

    def maker(tensor: str) -> Node | None:
        node = makers.get(tensor)
        own = node is not None and (node.domain, node.op_type) in graph.functions
        return None if own else node

    return maker


def _moved(program: Program, output: str, logits: str, movers: Sequence[Node]) -> Scores:
    """The logits after copies of the movers."""
    reads, nodes, now = [logits], b"", logits
    with program.source.read(sparsely=True) as buffer:
        for at, node in enumerate(movers, 1):
            label = f"layertap:scores:{output}" + (f"/{at}" if at < len(movers) else "")
            renamed = {node.reads[0]: now}, {node.writes[0]: label}
            nodes += renamed_node(buffer, node, *renamed, named=False)
            reads += node.reads[1:]
            now = label
    return Scores(now, (Appended(tuple(reads), {now: (TensorType(), ())}, nodes),))
