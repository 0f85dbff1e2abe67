"""Scores of the classes: the tensor that contains them, and how its values are read."""

from __future__ import annotations

import math
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
from .targets import Target, Targets

if TYPE_CHECKING:
    from layertap._engine.program import Program


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
        """`(n, classes)`, out of the values of a run."""
        value = values[self.tensor]
        return by_class(np.moveaxis(value, self.axis(value.ndim), -1))


def class_axis(program: Program, output: str, rank: int) -> int:
    """The axis of the classes: the last one in a model from Keras, and where the file of another
    framework has scores at several positions, that of the channels, as in `(n, classes, h, w)`."""
    if rank < 3 or (program.card is not None and program.card.channels_last):
        return rank - 1
    known = program.known_axes(output)
    return known.index("C") if len(known) == rank and "C" in known[1:] else rank - 1


def classes_last(program: Program, output: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values of an output with the axis of the classes last."""
    return np.moveaxis(values, class_axis(program, output, values.ndim), -1)


def by_class(outputs: npt.NDArray[Any], places: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """The scores of the classes, `(n, classes)`; their mean if there are several positions.

    Args:
        outputs: `(n, ..., classes)`.
        places: weights of the positions, `(1, ...)`, for a weighted mean.
    """
    if outputs.ndim < 2:
        raise UsageError(
            f"the scores must have at least two axes, classes last, (n, classes), got shape "
            f"{outputs.shape}."
        )
    if places is not None:
        whole = np.abs(places).sum(dtype=np.float64)
        axes = tuple(range(1, outputs.ndim - 1))
        mixed: npt.NDArray[Any] = (outputs * places[..., None]).sum(axis=axes) / whole
        return mixed.astype(outputs.dtype)
    scores: npt.NDArray[Any] = outputs.reshape(
        len(outputs), math.prod(outputs.shape[1:-1]), outputs.shape[-1]
    ).mean(axis=1)
    return scores


def class_scores(program: Program, output: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The scores of the classes, `(n, classes)`, in the values of an output; see `by_class`."""
    return by_class(classes_last(program, output, values))


def resolve_target(
    program: Program, output: str, target: Target, scores: npt.NDArray[Any]
) -> Targets:
    """What a target means for a batch with these scores `(n, classes)` in an output; see
    `targets.resolve`."""
    samples, classes = scores.shape
    return targets.resolve(
        target,
        samples=samples,
        classes=classes,
        labels=program.labels,
        scores=scores,
        probability=ends_in_activation(program, output),
    )


def of_both_classes(program: Program, output: str, scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scores `(n, 1)` of the positive one of two classes as `(n, 2)`, [negative, positive]."""
    negative = 1 - scores if ends_in_activation(program, output) else -scores
    return np.concatenate([negative, scores], axis=1)


def choose_output(program: Program, output: str | None, *, with_gradients: bool = False) -> str:
    """The output that contains the classes: the given one, that of the gradients, or the first.

    Args:
        with_gradients: whether it must be that of the gradients.

    Raises:
        UsageError: unknown output, the model has none, or the gradients belong to another.
    """
    names = [info.name for info in program.outputs]
    if output is not None and (not isinstance(output, str) or output not in names):
        raise UsageError(
            f"the model has no output {output!r}; it has {', '.join(map(repr, names))}."
            + suggest(str(output), names)
        )
    gradients = available.find(program)
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
