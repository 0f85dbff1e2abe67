"""A page for the browser: a comparison as a drawing and a table, in one HTML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from layertap.view.report import numbers, reasons, report_page, row_head, table, text

from .row import LayerComparison, cosine_text, decibels, error_text, name_text, share

LEAST, MOST = -8, 0
"""The powers of 10 between which errors are drawn; smaller and larger ones are at the edge."""

WIDTH, HEIGHT = 900, 160

LEFT = 40
"""Room for the labels of the vertical axis."""


def comparison_page(
    summary: str,
    layers: Sequence[LayerComparison],
    rows: Sequence[LayerComparison],
    only_a: Mapping[str, str],
    only_b: Mapping[str, str],
) -> bytes:
    """The page.

    Args:
        summary: some lines; the first is the title.
        layers: in the order of the drawing.
        rows: the layers in the order of the table.
        only_a: layers of the first file that were not compared, with the reason.
        only_b: the same of the second file.
    """
    head, *lines = summary.split("\n")
    columns = ["layer", "passed", "scaled error", "allowed", "born here", "cosine", "SNR dB"]
    columns += ["channels", "same best class"]
    parts = [
        *(f"<p>{text(line)}</p>" for line in lines),
        _drawing(layers),
        "<p class=soft>From left to right the layers as they are computed; the height is the "
        f"scaled error, from 1e{LEAST} to 1. Bars: the error that is born in a layer. Line: the "
        "whole error. Dashes: what is allowed.</p>",
        reasons("Not compared, of A", only_a),
        reasons("Not compared, of B", only_b),
        table(columns, [_cells(row) for row in rows]),
    ]
    return report_page(head, parts)


def _cells(row: LayerComparison) -> list[str]:
    verdict = "yes" if row.passed else row.problem or "no"
    return [
        row_head(name_text(row), row.type),
        f"<td>{text(verdict)}</td>",
        *numbers(
            error_text(row.scaled),
            f"{row.allowed:.0e}",
            error_text(row.born),
            cosine_text(row.cosine),
            decibels(row.snr),
            share(row.channels, 3),
            share(row.top_class, 4),
        ),
    ]


def _drawing(layers: Sequence[LayerComparison]) -> str:
    """The errors of the layers in graph order, as SVG."""
    step = (WIDTH - LEFT) / max(len(layers), 1)
    shapes = []
    for power in range(LEAST, MOST + 1, 2):
        y = _height(10.0**power)
        label = "1" if power == 0 else f"1e{power}"
        shapes.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text x="{LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{label}</text>')
    whole: list[str] = []
    allowed: list[str] = []
    for at, row in enumerate(layers):
        x = LEFT + at * step
        if row.born:
            y = _height(row.born)
            shapes.append(
                f'<rect x="{x:.2f}" y="{y:.1f}" width="{max(step - 0.4, 0.6):.2f}" '
                f'height="{HEIGHT - y:.1f}"><title>{text(row.name)}</title></rect>'
            )
        for line, value in ((whole, row.scaled), (allowed, row.allowed)):
            y = _height(value)
            line.append(f"{x:.2f},{y:.1f} {x + step:.2f},{y:.1f}")
    shapes.append(f'<polyline points="{" ".join(whole)}"/>')
    shapes.append(f'<polyline class="allowed" points="{" ".join(allowed)}"/>')
    return (
        f'<svg viewBox="0 -6 {WIDTH} {HEIGHT + 12}" width="{WIDTH}" height="{HEIGHT + 12}" '
        f'role="img" aria-label="errors of the layers">{"".join(shapes)}</svg>'
    )


def _height(error: float) -> float:
    """The vertical position of an error, from 0 at the top."""
    power = MOST if not math.isfinite(error) else math.log10(error) if error > 0 else LEAST
    return HEIGHT * (MOST - min(max(power, LEAST), MOST)) / (MOST - LEAST)
