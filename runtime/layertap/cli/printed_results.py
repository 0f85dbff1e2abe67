"""The results of a run, as `layertap run` prints them: classes or a table for people, or JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from layertap._engine.program import Program, program_of
from layertap._model import Model
from layertap.cam.decoding import Named, best, with_labels
from layertap.errors import UsageError
from layertap.format.text import aligned, finite, printable, shape_text

Arrays: TypeAlias = "dict[str, NDArray[Any]]"


def summary(model: Model, names: list[str], results: Arrays, args: argparse.Namespace) -> str:
    """The best classes per image for predictions with labels, or if `--top` asks for them; else
    each array's shape and range."""
    classes = _best_classes(model, names, results, args)
    if classes is not None:
        return "\n".join(
            f"{printable(name)}: "
            + ", ".join(f"{printable(label)} {score:.3f}" for label, score in row)
            for name, row in zip(names, classes, strict=True)
        )
    head = ("name", "shape", "dtype", "min", "mean", "max")
    return aligned([head, *(_cells(name, x) for name, x in results.items())], right={3, 4, 5})


def as_object(
    model: Model,
    names: list[str],
    results: Arrays,
    written: list[str],
    failures: list[str],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """What `--json` prints."""
    classes = _best_classes(model, names, results, args)
    return {
        "images": names,
        "failed": failures,
        "classes": classes
        and [[{"name": name, "score": finite(score)} for name, score in row] for row in classes],
        "results": [_result_as_object(name, value) for name, value in results.items()],
        "written": written,
    }


def _result_as_object(name: str, value: Any) -> dict[str, Any]:
    """A row of the table as JSON data; a sequence of tensors has a count and no shape."""
    if not isinstance(value, np.ndarray):
        return {"name": name, "dtype": "sequence", "tensors": len(value)}
    numbers = dict(zip(("min", "mean", "max"), _extent(value), strict=False))
    return {
        "name": name,
        "shape": list(value.shape),
        "dtype": value.dtype.name,
        **{key: finite(float(number)) for key, number in numbers.items()},
    }


def _best_classes(
    model: Model, names: list[str], results: Arrays, args: argparse.Namespace
) -> list[Named] | None:
    """The best classes per image; `None` for layers, and for predictions that have no classes, or
    no labels unless `--top` asks for classes.

    Raises:
        UsageError: `--top` asks for them, and there are none.
    """
    found = None if args.layers or args.type else _scores(program_of(model), len(names), results)
    if found is None and args.top is not None:
        shapes = ", ".join(f"{name} {shape_text(np.shape(x))}" for name, x in results.items())
        raise UsageError(
            "--top needs a model with one output of class scores, (samples, classes); this one "
            f"gives {shapes}."
        )
    if found is None or (found[1] is None and args.top is None):
        return None
    return list(best(*found, args.top or 5))


def _scores(
    program: Program, rows: int, results: Arrays
) -> tuple[NDArray[Any], Sequence[str] | None] | None:
    """The scores of the classes among predictions, and their labels; see `with_labels`."""
    facts = program.finished
    if facts is not None and facts.scores in results:
        results = {facts.scores: results[facts.scores]}
    if not rows or len(results) != 1:
        return None
    (value,) = results.values()
    if np.ndim(value) != 2 or len(value) != rows or not value.shape[1]:
        return None
    return with_labels(program, value)


def _cells(name: str, value: Any) -> tuple[str, ...]:
    """The cells of one result in the table."""
    if not isinstance(value, np.ndarray):
        return name, f"{len(value)} tensors", "sequence", "", "", ""
    numbers = [f"{number:.6g}" for number in _extent(value)] or ["", "", ""]
    return name, shape_text(value.shape), value.dtype.name, *numbers


def _extent(value: NDArray[Any]) -> list[Any]:
    """The smallest value, the mean and the largest; none of what is empty, or no numbers."""
    if not value.size or value.dtype.kind not in "biuf":
        return []
    with np.errstate(all="ignore"):  # NaN and infinity are printed without a warning
        return [function(value) for function in (np.min, np.mean, np.max)]
