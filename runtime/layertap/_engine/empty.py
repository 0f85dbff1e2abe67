"""Batches without a sample, and other empty arrays.

Not all operators take a size of 0. The shapes of most results are known without running on it: they
are those for a size of 1 and of 2, continued to 0. Other results are computed on the empty arrays,
with guards around the operators that end the process there (`_cut.guards`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from layertap.errors import InputError

from .on_device import dtype_of, is_ortvalue

Run: TypeAlias = Callable[[Mapping[str, Any]], Sequence[Any]]


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array or an `OrtValue`; for anything else, that of a number."""
    if is_ortvalue(value):
        return tuple(value.shape()) if value.is_tensor() else ()
    return tuple(getattr(value, "shape", ()))


def is_empty_batch(feeds: Mapping[str, Any]) -> bool:
    """Whether a value has no row."""
    return any(shape_of(value)[:1] == (0,) for value in feeds.values())


def with_samples(feeds: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The values with `count` rows of zeros in place of none, and likewise along other axes."""
    return {
        name: _filled(value, count) if 0 in shape_of(value) else value
        for name, value in feeds.items()
    }


def _filled(value: Any, count: int) -> Any:
    shape = tuple(size or count for size in shape_of(value))
    dtype = dtype_of(value) if is_ortvalue(value) else value.dtype
    return np.full(shape, "", object) if dtype in (object, "string") else np.zeros(shape, dtype)


def run_empty(run: Run, feeds: Mapping[str, Any], guarded: Callable[[], Run]) -> Sequence[Any]:
    """The results for values of which some are empty.

    Args:
        run: computes the results, as arrays.
        feeds: the values.
        guarded: makes a function that computes them on empty values, too.

    Raises:
        InputError: the results do not follow from the shapes, and cannot be computed.
    """
    found = _continued(run, feeds)
    return guarded()(feeds) if found is None else found


def _continued(run: Run, feeds: Mapping[str, Any]) -> list[Any] | None:
    """Empty arrays of the dtypes and shapes that follow from the sizes 1 and 2; `None` if they are
    not all empty."""
    try:
        one, two = (run(with_samples(feeds, count)) for count in (1, 2))
    except InputError:  # sizes that depend on each other
        return None
    results = []
    for first, second in zip(one, two, strict=True):
        if not hasattr(first, "dtype") or first.ndim != second.ndim:
            return None
        pairs = zip(first.shape, second.shape, strict=True)
        shape = [at if at == next_ else 2 * at - next_ for at, next_ in pairs]
        if 0 not in shape or min(shape) < 0:
            return None
        results.append(np.empty(shape, first.dtype))
    return results
