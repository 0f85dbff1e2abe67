"""Predictions as names: the best classes of each sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from layertap._arguments import count
from layertap._engine.program import Program
from layertap.errors import UsageError
from layertap.format.text import class_text, number_of, shape_text

from .scores import of_both_classes
from .targets import is_binary

Array: TypeAlias = npt.NDArray[Any]
Named: TypeAlias = list[tuple[str, float]]
"""Names of classes and their scores, the best first."""


def decode(program: Program, scores: Any, top: int = 5) -> list[Named]:
    """The best classes of each sample; see `Model.decode`.

    Raises:
        UsageError: `scores` are not scores of the file's classes, or `top` is no count.
    """
    top = count("top", top)
    found, labels = with_labels(program, _checked(scores))
    if labels is None and program.labels:
        classes = number_of(found.shape[1], "class", "classes")
        raise UsageError(
            f"the scores are of {classes}, but {program.name} "
            f"has {number_of(len(program.labels), 'label')}. Give what predict returned."
        )
    return list(best(found, labels, top))


def with_labels(program: Program, scores: Array) -> tuple[Array, Sequence[str] | None]:
    """Scores `(n, classes)` of all classes, and the file's labels if there is one for each.

    A single score of two labels becomes that of both, [negative, positive].
    """
    labels = program.labels
    if scores.shape[1] == 1 and is_binary(1, labels):
        facts = program.finished
        own = facts.scores if facts is not None and facts.scores else program.outputs[0].name
        scores = of_both_classes(program, own, scores)
    return scores, labels if len(labels or ()) == scores.shape[1] else None


def best(scores: Array, labels: Sequence[str] | None, top: int) -> Iterator[Named]:
    """The `top` classes of each row of `(n, classes)`; equal scores in the order of the classes.

    Without labels the names are the numbers of the classes.
    """
    names = labels or [str(number) for number in range(scores.shape[1])]
    for row in scores:
        order = np.argsort(-row, kind="stable")[:top]
        yield [(names[at], float(row[at])) for at in order]


def _checked(scores: Any) -> Array:
    """Scores as an array of floats, `(n, classes)`."""
    if isinstance(scores, dict):
        names = ", ".join(map(repr, scores))
        raise UsageError(
            f"decode takes the scores of one output, got a dict of {names}. Give one of them."
        )
    try:
        array = np.asarray(scores)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, tensors on a device
        array = np.asarray(None)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        shown = f"an array of shape {shape_text(array.shape)} and dtype {array.dtype}"
        raise UsageError(
            "decode takes scores as predict returns them, an array (samples, classes), got "
            f"{shown if isinstance(scores, np.ndarray) else class_text(scores)}."
        )
    return array if array.dtype.kind == "f" else array.astype(np.float64)
