"""Adding up values at the elements that they came from."""

from __future__ import annotations

from layertap_export.errors import GradientError
from layertap_export.gradients.builder import Builder, Value

ADDING = 16
"""The first opset in which ONNX can add several values to one element."""


def scatter(
    build: Builder, values: Value, positions: Value, like: Value, *, unique: bool = False
) -> Value:
    """Zeros in the shape of a forward tensor, with each value added at its position.

    Args:
        values: a row per sample, of any shape after the first axis.
        positions: numbers of elements within a sample of `like`, `(rows or 1, values in a row)`.
        like: the forward tensor.
        unique: whether no two values of a row go to one element.
    """
    rest = range(1, build.rank(like))
    count = build.count(like, rest)
    size = build.int64([count]) if isinstance(count, int) else count.op("Reshape", build.int64([1]))
    rows = build.rows(values)
    updates = values.op("Reshape", build.vector([rows, -1]))
    zeros = build.zeros(build.vector([rows, size]), values.dtype)
    indices = positions.op("Expand", updates.shape())
    adding = {} if unique else {"reduction": added(build)}
    filled = zeros.op("ScatterElements", indices, updates, axis=1, **adding)
    return build.shaped(filled, like)


def added(build: Builder) -> str:
    """The `reduction` of a scattering operator that adds up.

    Raises:
        GradientError: the file's opset is too old.
    """
    if build.opset < ADDING:
        raise GradientError(
            f"adding several values to one element needs opset {ADDING} or newer, and this file "
            f"has opset {build.opset}"
        )
    return "add"
