"""The result of a comparison: a row for each layer, as a table, as JSON, as CSV, as an overlay."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from layertap._arguments import choice
from layertap._public import public
from layertap.format.atomic import check_target, replacing
from layertap.format.text import Readable, Text, aligned, finite, number_of, printable, shortened

from .page import comparison_page
from .row import LayerComparison, cosine_text, decibels, error_text, name_text, share

Order: TypeAlias = Literal["graph", "damage"]
"""The order of rows: in which layers are computed, or by the error that is born in them."""

ORDERS: tuple[str, ...] = get_args(Order)


@public
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(Readable):
    """How far two files are apart, layer by layer. True if every compared layer passed.

    Made by `layertap.compare`. `str` of it is a table for people.
    """

    a: str
    """The first file, of which the values are expected, and its device."""
    b: str
    """The second file, which is judged, and its device."""
    samples: int
    """The number of samples that both computed."""
    tolerance: float
    """Largest scaled error that passes, unless a row allows more."""
    layers: tuple[LayerComparison, ...]
    """In the order in which the second file computes them."""
    only_a: Mapping[str, str]
    """The layers of the first file that were not compared, by name, with the reason."""
    only_b: Mapping[str, str]
    """The layers of the second file that were not compared."""
    notes: tuple[str, ...] = ()
    """Sentences: what else has to be known, as that a file was fed by the recipe of the other."""
    estimated: bool = False
    """Whether the measures are estimates, out of the values that a record keeps."""

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[LayerComparison, ...]:
        """The layers that did not pass, in the order of `layers`."""
        return tuple(row for row in self.layers if not row.passed)

    @property
    def first(self) -> LayerComparison | None:
        """The first layer that did not pass; `None` if all did."""
        return next(iter(self.failed), None)

    @property
    def born_in(self) -> LayerComparison | None:
        """The layer in which the largest error is born; `None` if none is, or it is not known."""
        known = [row for row in self.layers if row.born]
        return max(known, key=lambda row: row.born or 0.0, default=None)

    def rows(self, order: Order = "graph") -> tuple[LayerComparison, ...]:
        """The layers in an order.

        Args:
            order: `graph`, in which they are computed; or `damage`, the largest error that is born
                in a layer first.

        Raises:
            UsageError: it is neither.
        """
        if choice("order", order, ORDERS) == "graph":
            return self.layers
        return tuple(sorted(self.layers, key=lambda row: -_finite_or_first(row.damage)))

    def summary(self) -> str:
        """Some lines: whether the files agree, the first layer to diverge, where errors are born,
        and what was not compared."""
        return Text("\n".join(map(printable, self._summary())))

    def _summary(self) -> list[str]:
        samples = number_of(self.samples, "sample")
        count = number_of(len(self.layers), "layer")
        lines = []
        first, born = self.first, self.born_in
        if first is None:
            worst = max(self.layers, key=lambda row: row.scaled / (row.allowed or 1.0))
            lines.append(
                f"{count} agree on {samples}: largest scaled error {error_text(worst.scaled)} in "
                f"{worst.name!r}, allowed {worst.allowed:.0e}"
            )
        else:
            why = f" ({first.problem})" if first.problem else ""
            lines.append(
                f"The first to diverge is {first.name!r}, by {error_text(first.scaled)} of its "
                f"scale{why}; allowed are {first.allowed:.0e}. {len(self.failed)} of {count} "
                f"{'differs' if len(self.failed) == 1 else 'differ'} on {samples}."
            )
        if born is not None:
            own = "" if born.born == born.scaled else f"; {error_text(born.scaled)} in all"
            lines.append(
                f"The largest error is born in {born.name!r}: {error_text(born.born)} of its "
                f"scale{own}."
            )
        for row in self.layers:
            if row.top_class is not None:
                same = share(row.top_class, 4)
                lines.append(f"The best class of {row.name!r} is the same for {same}.")
        lines.append(f"A: {self.a}")
        lines.append(f"B: {self.b}")
        for side, alone in (("A", self.only_a), ("B", self.only_b)):
            if alone:
                lines.append(f"Not compared, of {side}: {_listed(alone)}")
        unknown = {row.name: row.born_unknown for row in self.layers if row.born_unknown}
        if len(set(unknown.values())) == 1 and len(unknown) == len(self.layers):
            lines.append(f"Where errors are born is not known: {next(iter(unknown.values()))}")
        elif unknown:
            lines.append(f"Where errors are born is not known for {_listed(unknown)}")
        if self.estimated:
            lines.append(
                "A record keeps some values and sums of each layer: the errors are at least these; "
                "cosine, SNR and channels are estimates."
            )
        return [*lines, *self.notes]

    def table(self, order: Order = "graph") -> str:
        """A line for each layer.

        Args:
            order: see `rows`.

        Raises:
            UsageError: see `rows`.
        """
        head = ["layer", "class", "scaled error", "born here", "cosine", "SNR dB", "channels", ""]
        cells = [head]
        cells += [
            [
                name_text(row),
                row.type,
                error_text(row.scaled),
                error_text(row.born),
                cosine_text(row.cosine),
                decibels(row.snr),
                share(row.channels, 3),
                "" if row.passed else row.problem or "differs",
            ]
            for row in self.rows(order)
        ]
        return Text(aligned(cells, right=(2, 3, 4, 5, 6)))

    def __str__(self) -> str:
        return f"{self.summary()}\n\n{self.table()}"

    def to_dict(self, order: Order = "graph") -> dict[str, Any]:
        """The comparison as JSON-compatible objects.

        Numbers that are NaN are `None`, infinite ones the texts `inf` and `-inf`.

        Args:
            order: see `rows`.

        Raises:
            UsageError: see `rows`.
        """
        first, born = self.first, self.born_in
        return {
            "passed": bool(self),
            "a": self.a,
            "b": self.b,
            "samples": self.samples,
            "tolerance": self.tolerance,
            "first": first and first.name,
            "born_in": born and born.name,
            "estimated": self.estimated,
            "layers": [_as_object(row) for row in self.rows(order)],
            "only_a": dict(self.only_a),
            "only_b": dict(self.only_b),
            "notes": list(self.notes),
        }

    def to_csv(self, path: str | os.PathLike[str] | None = None, order: Order = "graph") -> str:
        """A header and a line for each layer, with the columns of `to_dict`.

        Args:
            path: a file to write the text to; an existing one is replaced.
            order: see `rows`.

        Returns:
            The text.

        Raises:
            UsageError: see `rows`.
            OutputError: the file cannot be written.
        """
        out = io.StringIO()
        rows = [_as_object(row) for row in self.rows(order)]
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)  # `None` is written as an empty cell
        return _written(out.getvalue(), path)

    def to_page(self, path: str | os.PathLike[str] | None = None, order: Order = "graph") -> str:
        """A page for the browser: the errors as a drawing, and a row for each layer.

        It contains no scripts, and loads nothing.

        Args:
            path: a file to write the page to, `.html`; an existing one is replaced.
            order: of the rows, see `rows`.

        Returns:
            The page, as HTML.

        Raises:
            UsageError: see `rows`.
            OutputError: the file cannot be written.
        """
        rows = self.rows(order)
        page = comparison_page(self.summary(), self.layers, rows, self.only_a, self.only_b)
        return _written(page.decode(), path)

    def to_overlay(self, path: str | os.PathLike[str] | None = None) -> str:
        """The errors as node data of Model Explorer, in which the second file is open.

        The file is loaded there as custom node data. The number at a node is the error that is born
        in its layer, or where that is not known, its scaled error; the larger one for a node of two
        layers. Infinite ones are left out.

        Args:
            path: a file to write the text to, `.json`; an existing one is replaced.

        Returns:
            The text.

        Raises:
            OutputError: the file cannot be written.
        """
        known = [row for row in self.layers if math.isfinite(row.damage)]
        found: list[dict[str, float]] = [{}, {}]
        for row in known:
            for values, names in zip(found, (row.tensors, row.nodes), strict=True):
                values |= {name: max(row.damage, values.get(name, 0.0)) for name in names}
        # Nodes are found by their names, or by tensors, depending on what opened the file there.
        results = {name: {"value": value} for x in found for name, value in x.items()}
        stops = [(0, "#ffffff"), (0.25, "#fde0a0"), (1, "#d7301f")]
        gradient = [{"stop": stop, "bgColor": colour} for stop, colour in stops]
        data = {"results": results, "gradient": gradient}
        return _written(json.dumps(data, indent=1) + "\n", path)


COLUMNS = (
    "name", "other_name", "type", "passed", "scaled", "allowed", "born", "max_abs", "cosine", "snr",
    "channels", "top_class", "problem", "born_unknown",
)  # fmt: skip
"""What JSON and CSV say of a layer."""


def _as_object(row: LayerComparison) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in COLUMNS}
    return {name: finite(x) if isinstance(x, float) else x for name, x in values.items()}


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        check_target(path)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return text


def _finite_or_first(value: float) -> float:
    """A number to sort by, with NaN before all others."""
    return math.inf if math.isnan(value) else value


MOST_NAMES = 5
"""Layers that are named in a sentence."""


def _listed(reasons: Mapping[str, str]) -> str:
    """Names by their reasons: `'a', 'b' (no layer of this name)`."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    parts = []
    for reason, names in groups.items():
        shown = ", ".join(repr(shortened(name, 80)) for name in names[:MOST_NAMES])
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        parts.append(f"{shown}{more} ({reason.rstrip('.')})")
    return "; ".join(parts[:MOST_NAMES]) + ("; ..." if len(parts) > MOST_NAMES else "")


def device_text(name: str, device: str, version: str) -> str:
    """A side of a comparison: `'a.onnx' on cpu, onnxruntime 1.27.0`."""
    return f"{name} on {device}, onnxruntime {version}"
