"""How far the values of layers are from those on another collection, or in another file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from layertap._public import public
from layertap._record import Record, as_json
from layertap.errors import UsageError
from layertap.format.text import Readable, class_text, number_of

from .columns import Column, count_text, in_order, number_text, table
from .histogram import divergence, from_ordered
from .layer_statistics import LayerStatistics, LayerValues


@public
class LayerDrift(Record):
    """How far one layer's values are from those of a reference."""

    name: str
    type: str
    index: int
    shift: float | None
    """Difference of the means, in deviations of the reference; `None` if the deviation is 0."""
    ratio: float | None
    """The deviation, divided by that of the reference; `None` if that is 0."""
    divergence: float | None
    """Jensen-Shannon divergence of the histograms in bits: 0 if they are equal, 1 if they do not
    overlap; `None` without values."""
    zeros: float | None
    """Difference of the shares of zeros."""
    not_finite: float | None
    """Difference of the shares of values that are NaN or infinite; `None` without values."""
    newly_dead: tuple[int, ...] | None
    """Channels that are dead here and not in the reference; `None` if there are no channels, or
    not as many."""
    revived: tuple[int, ...] | None
    """Channels that are dead in the reference and not here."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        return as_json(self)


@public
class Drift(Readable):
    """How far the statistics of layers are from those on another collection, or of another file.

    print(layertap.Drift(model.layer_statistics("today"), model.layer_statistics("training")))
    """

    rows: tuple[LayerDrift, ...]
    """One for each layer that both have, in the order of the layers."""
    on: LayerStatistics
    """The statistics."""
    against: LayerStatistics
    """The reference."""
    only_on: tuple[str, ...]
    """Layers that the reference does not have."""
    only_against: tuple[str, ...]
    """Layers that only the reference has."""

    def __init__(self, on: LayerStatistics, against: LayerStatistics) -> None:
        """Compare layers of the same name.

        Raises:
            UsageError: they have no layer in common, or one is no `LayerStatistics`.
        """
        for value in (on, against):
            if not isinstance(value, LayerStatistics):
                raise UsageError(
                    "a drift is that of one LayerStatistics from another, got "
                    f"{class_text(value)}. `Model.layer_statistics` measures them, and "
                    "`LayerStatistics.load` reads a file of them."
                )
        reference = {row.name: row for row in against.rows}
        self.on, self.against = on, against
        self.rows = tuple(
            _row(row, reference[row.name]) for row in on.rows if row.name in reference
        )
        both = {row.name for row in self.rows}
        self.only_on = tuple(row.name for row in on.rows if row.name not in both)
        self.only_against = tuple(row.name for row in against.rows if row.name not in both)
        if not both:
            raise UsageError(
                f"{on.model} and {against.model} have no layer of the same name among those that "
                "were measured, so they cannot be compared."
            )

    def __str__(self) -> str:
        """A table. Columns for what is rare are left out if they would be empty."""
        lines = [self.head, "", table(self.rows, self._columns)]
        alone = [
            f"{title}: {_listed(names)}"
            for title, names in (
                ("Not in the reference", self.only_on),
                ("Only in the reference", self.only_against),
            )
            if names
        ]
        return "\n".join([*lines, *([""] if alone else []), *alone])

    def sorted(self, column: str) -> Drift:
        """The same with the rows in the order of a column, what is furthest from the reference
        first.

        Args:
            column: its title in the table: `"divergence"`, `"shift"`, `"newly dead"`.

        Raises:
            UsageError: the table has no such column.
        """
        return in_order(self, self._columns, column)

    @property
    def _columns(self) -> tuple[Column, ...]:
        """The columns of the table, after index, name and class."""
        own = {row.name: row for row in self.on.rows}
        mean = Column("mean", lambda row: own[row.name].mean, number_text)
        std = Column("deviation", lambda row: own[row.name].std, number_text)
        shift, *others = DRIFTS
        return (mean, shift, std, *others)

    @property
    def head(self) -> str:
        """What is compared with what, in one line."""
        others = number_of(self.against.images, "image")
        where = "" if self.on.model == self.against.model else f" in {self.against.model}"
        return f"{self.on.head}, against {others}{where}"

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        return {
            "on": {"model": self.on.model, "images": self.on.images},
            "against": {"model": self.against.model, "images": self.against.images},
            "only_on": list(self.only_on),
            "only_against": list(self.only_against),
            "layers": [row.to_dict() for row in self.rows],
        }


LISTED = 20
"""Most layers without a partner that a table names."""


def _listed(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    return ", ".join([*names[:LISTED], *([f"and {more} more"] if more > 0 else [])])


def _difference(share: float) -> str:
    """A difference of shares in percent."""
    return f"{100 * share:+.1f}%"


def _away(ratio: float) -> float:
    """How far a ratio is from 1, the same for 2 and for a half."""
    return abs(math.log(ratio)) if ratio > 0 else math.inf


DRIFTS = (
    Column("shift", lambda row: row.shift, "{:+.3f}".format, abs),
    Column("ratio", lambda row: row.ratio, "{:.3f}".format, _away),
    Column("divergence", lambda row: row.divergence, "{:.4f}".format),
    Column("zeros", lambda row: row.zeros, _difference, abs),
    Column(
        "NaN, Inf",
        lambda row: row.not_finite,
        lambda share: _difference(share) if share else "",
        abs,
        rare=True,
    ),
    Column("newly dead", lambda row: len(row.newly_dead or ()), count_text),
    Column("revived", lambda row: len(row.revived or ()), count_text),
)
"""What the tables show of a `LayerDrift`, on a page as well."""

TITLES = ("mean", "deviation", *(column.title for column in DRIFTS))
"""The columns that a drift can be sorted by."""


def _row(on: LayerValues, against: LayerValues) -> LayerDrift:
    newly = revived = None
    if on.dead is not None and against.dead is not None and on.channels == against.channels:
        newly = tuple(sorted({*on.dead} - {*against.dead}))
        revived = tuple(sorted({*against.dead} - {*on.dead}))
    shift = ratio = None
    if on.mean is not None and on.std is not None and against.mean is not None and against.std:
        shift, ratio = (on.mean - against.mean) / against.std, on.std / against.std
    zeros = None
    if on.zeros is not None and against.zeros is not None:
        zeros = on.zeros - against.zeros
    not_finite = None
    if on.count and against.count:
        shares = [(row.nans + row.infinities) / row.count for row in (on, against)]
        not_finite = shares[0] - shares[1]
    return LayerDrift(
        name=on.name,
        type=on.type,
        index=on.index,
        shift=shift,
        ratio=ratio,
        divergence=divergence(from_ordered(on.histogram), from_ordered(against.histogram)),
        zeros=zeros,
        not_finite=not_finite,
        newly_dead=newly,
        revived=revived,
    )
