"""Statistics of layers on a collection: as a record, a table, JSON and a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap._public import public
from layertap._record import Record, as_json
from layertap.errors import InputError
from layertap.format.atomic import replacing
from layertap.format.text import Readable, number_of, shortened

from . import histogram
from .columns import Column, count_text, in_order, number_text, table
from .sums import Bounds, Sums, merged

VERSION = 1
"""The version of the files of statistics."""


@public
class LayerValues(Record):
    """What one layer's values were, over all images.

    Mean, deviation, extremes and share of zeros are those of the finite values; `None` if there is
    none, or if a float64 cannot hold them.
    """

    name: str
    type: str
    """Keras class name; in a file without a card, the ONNX op type."""
    index: int
    """Index in `Model.layers`."""
    count: int
    """Number of values: all elements of all images."""
    mean: float | None
    std: float | None
    """Population standard deviation (divided by n)."""
    min: float | None
    max: float | None
    zeros: float | None
    """Share of the values that are 0, between 0 and 1."""
    nans: int
    """Number of values that are NaN."""
    infinities: int
    """Number of values that are infinite."""
    channels: int | None
    """Number of channels; `None` if the layer has none, or if they are not known."""
    dead: tuple[int, ...] | None
    """Indices of the channels that are 0 in every image; `None` if there are no channels."""
    bounds: tuple[float, float] | None
    """The values between which the layer's activation function stays; `None` if it has no two."""
    saturated: tuple[int, ...] | None
    """Indices of the channels whose values were all at one of `bounds`, up to a thousandth of the
    range between them, and which are not dead; `None` without bounds or channels."""
    histogram: tuple[tuple[float, float, int], ...]
    """Lower edge, upper edge and number of values of each bin that is not empty. At most 1,024
    values of each image are counted, drawn evenly from all."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        return as_json(self)


@public
class LayerStatistics(Readable):
    """What the layers of a model do on a collection. Made by `Model.layer_statistics`."""

    rows: tuple[LayerValues, ...]
    """One for each layer, in the order requested."""
    model: str
    """The name of the file."""
    images: int
    """Number of images that were run."""
    failures: Mapping[str, str]
    """The images that could not be read, with the reasons."""
    left_out: Mapping[str, str]
    """Layers that have no statistics, with the reasons."""

    def __init__(
        self,
        rows: Sequence[LayerValues],
        model: str,
        images: int,
        failures: Mapping[str, str] | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.rows, self.model, self.images = tuple(rows), model, images
        self.failures, self.left_out = dict(failures or {}), dict(left_out or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerStatistics) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> LayerValues:
        """The row of a layer.

        Raises:
            KeyError: it is not among them.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        """A table. Columns for what is rare are left out if they would be empty."""
        return f"{self.head}\n\n{table(self.rows, COLUMNS)}"

    def sorted(self, column: str) -> LayerStatistics:
        """The same with the rows in the order of a column, the largest number first.

        Args:
            column: its title in the table: `"dead"`, `"zeros"`, `"deviation"`.

        Raises:
            UsageError: the table has no such column.
        """
        return in_order(self, COLUMNS, column)

    @property
    def head(self) -> str:
        """What was measured, in one line."""
        failed = f", {len(self.failures):,} failed" if self.failures else ""
        return (
            f"{self.model}: {number_of(len(self.rows), 'layer')} on "
            f"{number_of(self.images, 'image')}{failed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values; `from_dict` reads them."""
        return {
            "layer_statistics": VERSION,
            "model": self.model,
            "images": self.images,
            "failures": dict(self.failures),
            "left_out": dict(self.left_out),
            "layers": [row.to_dict() for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: Any) -> LayerStatistics:
        """The statistics that `to_dict` wrote.

        Raises:
            InputError: the values are something else, or are not complete.
        """
        try:
            if data["layer_statistics"] > VERSION:
                raise InputError(
                    "the statistics were written by a newer layertap. Upgrade layertap."
                )
            rows = [_row(item) for item in data["layers"]]
            for row in rows:
                histogram.from_ordered(row.histogram)
            return cls(
                rows,
                _checked(data["model"], str),
                _checked(data["images"], int),
                {str(key): str(value) for key, value in data["failures"].items()},
                {str(key): str(value) for key, value in data["left_out"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            if isinstance(exc, InputError):
                raise
            raise InputError(
                "this is not the whole of what layer statistics are saved as "
                f"({type(exc).__name__}: {shortened(str(exc), 100)})."
            ) from exc

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file that `load` reads; an existing file is replaced once it is complete.

        Raises:
            OutputError: it cannot be written.
        """
        text = json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))
        with replacing(path) as temporary:
            temporary.write_text(text.replace(',{"name"', ',\n{"name"') + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LayerStatistics:
        """The statistics in a file that `save` wrote.

        Raises:
            InputError: the file is missing, something else, or not complete.
        """
        try:
            data = json.loads(Path(path).read_text("utf-8"))
            return cls.from_dict(data)
        except (OSError, ValueError, RecursionError) as exc:
            reason = (exc.strerror if isinstance(exc, OSError) else "") or str(exc)
            raise InputError(
                f"{os.fspath(path)!r} holds no layer statistics: {reason.rstrip('.')}. `layertap "
                "layers FILE --on IMAGES -o OUT.json` writes such a file."
            ) from exc


def values_of(
    name: str,
    kind: str,
    index: int,
    sums: Sums,
    counts: histogram.Histogram,
    has_channels: bool,
    bounds: Bounds | None,
) -> LayerValues:
    """The statistics of a layer, from what was added up."""
    whole = sums
    if len(sums.number) > 1:
        # Channels are merged in pairs, so that errors do not add up.
        whole = _joined(sums)
    finite = int(whole.number[0]) if len(whole.number) else 0
    known = finite > 0
    dead = (sums.number > 0) & (sums.low == 0) & (sums.high == 0)
    saturated = None
    if bounds is not None and has_channels:
        at_bound = (sums.number > 0) & (sums.inside <= bounds.margin) & ~dead
        saturated = _indices(at_bound)
    return LayerValues(
        name=name,
        type=kind,
        index=index,
        count=finite + sums.nans + sums.infinities,
        mean=_finite(whole.mean[0]) if known else None,
        std=_finite(math.sqrt(whole.squares[0] / finite)) if known else None,
        min=float(whole.low[0]) if known else None,
        max=float(whole.high[0]) if known else None,
        zeros=sums.zeros / finite if known else None,
        nans=sums.nans,
        infinities=sums.infinities,
        channels=len(sums.number) if has_channels else None,
        dead=_indices(dead) if has_channels else None,
        bounds=None if bounds is None else (bounds.low, bounds.high),
        saturated=saturated,
        histogram=tuple(histogram.ordered(counts)),
    )


def _finite(value: float) -> float | None:
    """A number; `None` for one that overflowed, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def _joined(sums: Sums) -> Sums:
    """The sums of all channels together."""
    while len(sums.number) > 1:
        half = len(sums.number) // 2
        parts = [
            sums._replace(**{key: getattr(sums, key)[at] for key in _ARRAYS})
            for at in (slice(half), slice(half, 2 * half), slice(2 * half, None))
        ]
        pair = merged(parts[0], parts[1])
        both: dict[str, Any] = {
            key: np.concatenate([getattr(pair, key), getattr(parts[2], key)]) for key in _ARRAYS
        }
        sums = sums._replace(**both)
    return sums


_ARRAYS = ("number", "mean", "squares", "low", "high", "inside")


def _indices(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())


def _share_text(share: float) -> str:
    return f"{100 * share:.1f}%"


COLUMNS = (
    Column("mean", lambda row: row.mean, number_text),
    Column("deviation", lambda row: row.std, number_text),
    Column("min", lambda row: row.min, number_text),
    Column("max", lambda row: row.max, number_text),
    Column("zeros", lambda row: row.zeros, _share_text),
    Column("NaN", lambda row: row.nans, count_text, rare=True),
    Column("Inf", lambda row: row.infinities, count_text, rare=True),
    Column("channels", lambda row: row.channels, str),
    Column("dead", lambda row: len(row.dead or ()), count_text),
    Column("saturated", lambda row: len(row.saturated or ()), count_text, rare=True),
)
"""The columns of the table, after index, name and class."""


def _checked(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


_KINDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,), "type": (str,), "index": (int,), "count": (int,), "mean": (float, int),
    "std": (float, int), "min": (float, int), "max": (float, int), "zeros": (float, int),
    "nans": (int,), "infinities": (int,), "channels": (int,), "dead": (list,), "bounds": (list,),
    "saturated": (list,), "histogram": (list,),
}  # fmt: skip
_OPTIONAL = {"mean", "std", "min", "max", "zeros", "channels", "dead", "bounds", "saturated"}


def _row(item: Mapping[str, Any]) -> LayerValues:
    """A row out of JSON."""
    values: dict[str, Any] = {}
    for key, kinds in _KINDS.items():
        value = item[key]
        if value is None and key in _OPTIONAL:
            values[key] = None
            continue
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{key} is {value!r}")
        values[key] = value
    for key in ("dead", "saturated"):
        if values[key] is not None:
            values[key] = tuple(_checked(index, int) for index in values[key])
    if values["bounds"] is not None:
        low, high = values["bounds"]
        values["bounds"] = float(low), float(high)
    values["histogram"] = tuple(
        (float(low), float(high), int(_checked(count, int)))
        for low, high, count in values["histogram"]
    )
    return LayerValues(**values)
