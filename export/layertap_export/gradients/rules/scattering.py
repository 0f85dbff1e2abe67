"""Adding values up at the places where they came from."""

from __future__ import annotations

from layertap_export.errors import GradientError
from layertap_export.gradients.builder import Builder, Value

ADDING = 16
"""The opset from which on ONNX can add what is scattered to one place."""


def scatter(
    build: Builder, values: Value, places: Value, like: Value, *, unique: bool = False
) -> Value:
    """Zeros in the shape of a forward tensor, with each value added where its place tells.

    Args:
        values: a row per sample, of any shape behind the first axis.
        places: numbers of elements within a sample of `like`, `(rows or 1, values in a row)`.
        like: the forward tensor.
        unique: whether no two values of a row go to one place.
    """
    rest = range(1, build.rank(like))
    count = build.count(like, rest)
    size = build.whole([count]) if isinstance(count, int) else count.op("Reshape", build.whole([1]))
    rows = build.rows(values)
    updates = values.op("Reshape", build.vector([rows, -1]))
    zeros = build.zeros(build.vector([rows, size]), values.dtype)
    indices = places.op("Expand", updates.shape())
    adding = {} if unique else {"reduction": added(build)}
    filled = zeros.op("ScatterElements", indices, updates, axis=1, **adding)
    return build.shaped(filled, like)


def added(build: Builder) -> str:
    """The `reduction` of a scattering operator that adds up.

    Raises:
        GradientError: the file's opset has none.
    """
    if build.opset < ADDING:
        raise GradientError(
            f"to add up what goes to one place, ONNX needs opset {ADDING} or newer, and this file "
            f"has opset {build.opset}"
        )
    return "add"
