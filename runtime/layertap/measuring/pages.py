"""A page for the browser: the statistics of layers with their histograms, as one HTML file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from layertap.format.text import number_of
from layertap.view.report import numbers, reasons, report_page, row_head, table, text

from .drift import DRIFTS, Drift
from .layer_statistics import COLUMNS, LayerStatistics, LayerValues

OCTAVES = 12
"""Powers of 2 below the largest absolute value that a drawing shows; smaller values are one bar."""

PER_OCTAVE = 2
"""Bars for each power of 2."""

WIDTH, HEIGHT = 240, 44

Bars = dict[int, float]
"""The share of the values in each bar, by its number; that of the values around 0 is 0."""


def statistics_page(found: LayerStatistics, drift: Drift | None = None) -> bytes:
    """The page.

    Args:
        found: what is shown.
        drift: how far it is from a reference, whose histograms are drawn as lines.
    """
    head = drift.head if drift else found.head
    shown = _filled(found.rows)
    drifts = {row.name: row for row in drift.rows} if drift else {}
    reference = {row.name: row for row in drift.against.rows} if drift else {}
    changes = [
        (f"{column.title} drift" if column.title in shown else column.title, column.cell)
        for column in DRIFTS
        if any(map(column.cell, drifts.values()))
    ]
    columns = ["layer", "histogram", *shown, *(title for title, _ in changes)]
    rows = []
    for row in found.rows:
        one = drifts.get(row.name)
        cells = [cell(row) for cell in shown.values()]
        cells += ["" if one is None else cell(one) for _, cell in changes]
        drawing = _drawing(row, reference.get(row.name))
        rows.append([row_head(row.name, row.type), f"<td>{drawing}</td>", *numbers(*cells)])
    parts = [
        f"<p class=soft>{text(_explained(drift))}</p>",
        reasons("Failed", found.failures),
        reasons("Left out", found.left_out),
        table(columns, rows),
    ]
    return report_page(head, parts)


def _filled(rows: Sequence[LayerValues]) -> dict[str, Callable[[LayerValues], str]]:
    """The columns of which some cell is not empty, by their titles."""
    cells = {column.title: column.cell for column in COLUMNS if column.title != "channels"}
    cells["dead"] = lambda row: _of(row.dead, row.channels)
    cells["saturated"] = lambda row: _of(row.saturated, row.channels)
    return {title: cell for title, cell in cells.items() if any(map(cell, rows))}


def _explained(drift: Drift | None) -> str:
    explained = (
        "The horizontal axis of a histogram is logarithmic on both sides of 0; the bar in the "
        f"middle holds the values closer to 0 than 1/{2**OCTAVES:,} of the largest. The height is "
        "the share of values, up to the largest bar."
    )
    if drift:
        others = number_of(drift.against.images, "image")
        explained += f" The line is the reference: {others}, {drift.against.model}."
    return explained


def _of(indices: Sequence[int] | None, channels: int | None) -> str:
    if indices is None:
        return ""
    return f"{len(indices):,} of {channels:,}" if indices else "0"


def _drawing(row: LayerValues, reference: LayerValues | None) -> str:
    """The histogram as SVG, over that of a reference."""
    both = [row, *([reference] if reference else [])]
    ends = [abs(end) for one in both for low, high, _ in one.histogram for end in (low, high)]
    largest = max(ends, default=0.0)
    if not largest:
        return ""
    drawn = [_bars(one, largest) for one in both]
    used = sorted({0, *(number for bars in drawn for number in bars)})
    first, count = used[0], used[-1] - used[0] + 1
    top = max(max(bars.values(), default=0.0) for bars in drawn) or 1.0
    width = WIDTH / count

    def left(number: int) -> float:
        return (number - first) * width

    def height(share: float) -> float:
        return HEIGHT * share / top

    shapes = [
        f'<rect x="{left(number):.1f}" y="{HEIGHT - height(share):.1f}" '
        f'width="{max(width - 0.5, 0.5):.1f}" height="{height(share):.1f}"/>'
        for number, share in sorted(drawn[0].items())
    ]
    if len(drawn) > 1:
        steps = []
        for number in range(first, first + count):
            y = HEIGHT - height(drawn[1].get(number, 0.0))
            steps.append(f"{left(number):.1f},{y:.1f} {left(number + 1):.1f},{y:.1f}")
        shapes.append(f'<polyline points="{" ".join(steps)}"/>')
    zero = left(0) + width / 2
    shapes.append(f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="{HEIGHT}" y2="{HEIGHT + 4}"/>')
    texts = [
        f'<text x="{x:.1f}" y="{HEIGHT + 14}" text-anchor="{anchor}">{text(label)}</text>'
        for x, anchor, label in (
            (0.0, "start", f"{_edge(first, largest):.3g}" if first < 0 else ""),
            (zero, "middle" if first < 0 < used[-1] else "start" if first == 0 else "end", "0"),
            (WIDTH, "end", f"{_edge(used[-1], largest):.3g}" if used[-1] > 0 else ""),
        )
        if label
    ]
    label = text(f"histogram of {row.name}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 16}" width="{WIDTH}" height="{HEIGHT + 16}" '
        f'role="img" aria-label="{label}">{"".join(shapes)}{"".join(texts)}</svg>'
    )


def _bars(row: LayerValues, largest: float) -> Bars:
    """The bars of a histogram, by their distance from 0: negative values to the left."""
    bars: Bars = {}
    total = sum(count for *_, count in row.histogram)
    for low, high, count in row.histogram:
        middle = (low + high) / 2
        number = 0
        if abs(middle) > largest * 2.0**-OCTAVES:
            place = (math.log2(abs(middle) / largest) + OCTAVES) * PER_OCTAVE
            number = int(math.copysign(1 + min(place, OCTAVES * PER_OCTAVE - 1), middle))
        bars[number] = bars.get(number, 0.0) + count / total
    return bars


def _edge(number: int, largest: float) -> float:
    """The outer edge of a bar."""
    return math.copysign(largest * 2.0 ** (abs(number) / PER_OCTAVE - OCTAVES), number)
