"""What is computed for each item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Column(NamedTuple):
    """One array of a collection: a layer, a gradient or heat maps."""

    key: str
    """How the user reads it: `bn`, or `bn=mean` where a layer is requested in two ways."""
    folder: str
    """The part of a file name, unique also where capitals do not count."""
    asked: Mapping[str, Any]
    """As JSON: `{"layer": "bn", "reduction": "mean"}`."""
    dtype: str
    """Of the result, after a cast."""
    shape: tuple[int, ...]
    """Of one row; every size is known."""
    dims: tuple[str, ...]
    """Names of these axes: `height`, `width`, `channel`, `step`, `axis_1`."""
