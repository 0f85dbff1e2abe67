"""Compares two sides, each of which is a file or a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from layertap._engine.program import Program
from layertap.errors import ImageError
from layertap.format.select import Selector

from .against_record import compare_records
from .comparison import Comparison
from .models import compare_programs
from .record import Record

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe


def compare_sides(
    a: Program | Record,
    b: Program | Record,
    inputs: Any = None,
    layers: Selector | Iterable[Selector] | None = None,
    *,
    tolerance: float | None = None,
    born: bool = True,
    preprocess: Recipe | None = None,
    failed: Callable[[str, ImageError], None] | None = None,
) -> Comparison:
    """See `layertap.compare`.

    Args:
        failed: called with each image that cannot be read, and the reason; it is left out then.
    """
    if isinstance(a, Program) and isinstance(b, Program):
        return compare_programs(
            a,
            b,
            inputs,
            layers,
            tolerance=tolerance,
            born=born,
            preprocess=preprocess,
            failed=failed,
        )
    return compare_records(
        a, b, inputs, layers, tolerance=tolerance, preprocess=preprocess, failed=failed
    )
