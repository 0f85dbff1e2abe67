"""How far the values of layers are from those on another collection, or in another file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layertap._public import public
from layertap._record import Record
from layertap.errors import UsageError
from layertap.format.text import Readable, aligned, number_of

from .histogram import divergence, from_ordered
from .layer_statistics import LayerStatistics, LayerValues, count_text, number_text


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
    newly_dead: tuple[int, ...] | None
    """Channels that are dead here and not in the reference; `None` if there are no channels, or
    not as many."""
    revived: tuple[int, ...] | None
    """Channels that are dead in the reference and not here."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        values = {name: getattr(self, name) for name in self._names}
        return {key: list(x) if isinstance(x, tuple) else x for key, x in values.items()}


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
    unmatched: tuple[str, ...]
    """Layers that only one of them has."""

    def __init__(self, on: LayerStatistics, against: LayerStatistics) -> None:
        """Compare layers of the same name.

        Raises:
            UsageError: they have no layer in common.
        """
        reference = {row.name: row for row in against.rows}
        self.on, self.against = on, against
        self.rows = tuple(
            _row(row, reference[row.name]) for row in on.rows if row.name in reference
        )
        both = {row.name for row in self.rows}
        self.unmatched = tuple(
            row.name for row in (*on.rows, *against.rows) if row.name not in both
        )
        if not both:
            raise UsageError(
                f"{on.model} and {against.model} have no layer of the same name among those that "
                "were measured, so they cannot be compared."
            )

    def __str__(self) -> str:
        """A table."""
        head = (
            "index", "name", "class", "mean", "shift", "deviation", "ratio", "divergence", "zeros",
            "newly dead", "revived",
        )  # fmt: skip
        table: list[Sequence[str]] = [head]
        values = {row.name: row for row in self.on.rows}
        for row in self.rows:
            own = values[row.name]
            table.append(
                (
                    str(row.index),
                    row.name,
                    row.type,
                    number_text(own.mean),
                    "" if row.shift is None else f"{row.shift:+.3f}",
                    number_text(own.std),
                    "" if row.ratio is None else f"{row.ratio:.3f}",
                    "" if row.divergence is None else f"{row.divergence:.4f}",
                    "" if row.zeros is None else f"{100 * row.zeros:+.1f}%",
                    count_text(len(row.newly_dead or ())),
                    count_text(len(row.revived or ())),
                )
            )
        lines = [self.head, "", aligned(table, {0, *range(3, 11)})]
        if self.unmatched:
            lines += ["", f"Only one has: {', '.join(self.unmatched)}"]
        return "\n".join(lines)

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
            "unmatched": list(self.unmatched),
            "layers": [row.to_dict() for row in self.rows],
        }


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
    return LayerDrift(
        name=on.name,
        type=on.type,
        index=on.index,
        shift=shift,
        ratio=ratio,
        divergence=divergence(from_ordered(on.histogram), from_ordered(against.histogram)),
        zeros=zeros,
        newly_dead=newly,
        revived=revived,
    )
