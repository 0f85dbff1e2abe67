"""Whether a file computes what the file computes that it was made from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from numpy.typing import NDArray

from layertap import Model
from layertap._engine.program import program_of
from layertap.comparing.measures import difference


def first_difference(
    source: Model,
    file: Model,
    tensors: Collection[str],
    feeds: Mapping[str, NDArray[Any]],
    tolerance: float,
) -> tuple[str, float] | None:
    """The first tensor that two files compute differently, and its scaled error.

    What differs between two runs of the source, as the results of random operators do, is left out.

    Args:
        source: the file that the other one was made from.
        file: the other file.
        tensors: names of tensors of both.
        feeds: a value for each input.
        tolerance: largest scaled error that is no difference.
    """
    asked = list(tensors)
    run = program_of(source).fetch(asked)
    expected, again = run(feeds), run(feeds)
    actual = program_of(file).fetch(asked)(feeds)
    for name in asked:
        apart = difference(actual[name], expected[name]).scaled
        if apart > tolerance >= difference(again[name], expected[name]).scaled:
            return name, apart
    return None
