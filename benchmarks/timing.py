"""Measuring several cases in turn, and the table of the results."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Samples = tuple[float, ...]

PAUSE = 0.05
"""Seconds between calls. onnxruntime's threads keep a core busy for a short time after a call,
which must not slow down the next case."""


def alternate(
    cases: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[str, Samples]:
    """Measure the cases in turn, so that other load on the machine affects all of them equally.

    Each round measures every case once. The rounds start with different cases, so no case always
    runs first.

    Args:
        cases: functions that measure a case once, by name.
        rounds: the number of measurements of each case.
        warm_up: the number of additional rounds at the start, which are discarded.

    Returns:
        The measurements of each case, in the order of the rounds.
    """
    names = list(cases)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            value = cases[name]()
            if number >= warm_up:
                taken[name].append(value)
    return {name: tuple(values) for name, values in taken.items()}


def timed(call: Callable[[], object], pause: float = 0.0) -> Callable[[], float]:
    """A case for `alternate` that measures the duration of `call` in seconds.

    Args:
        call: the function to time. The release of its result is not included.
        pause: seconds to wait before each call.
    """

    def measure() -> float:
        time.sleep(pause)
        started = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - started
        del result
        return seconds

    return measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison: our measurements, a peer's measurements of the same rounds, and a target."""

    what: str
    peer: str
    unit: str
    """The unit of the measurements: `s`, `MB`, or `x` for ratios."""
    ours: Samples
    theirs: Samples
    most: float | None = None
    """The target for the ratio, as an upper limit; `None` for no target."""
    most_ours: float | None = None
    """The target for our median instead of the ratio, in `unit`."""
    detail: bool = False
    """Whether the row belongs to the details, which other rows summarize."""

    @property
    def ratio(self) -> float:
        """Our median, divided by the peer's."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and upper quartile of the ratios of the individual rounds."""
        ratios = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    @property
    def met(self) -> bool | None:
        """Whether the target is met; `None` if there is no target."""
        if self.most_ours is not None:
            return statistics.median(self.ours) <= self.most_ours
        return None if self.most is None else self.ratio <= self.most

    def changed(self, **changes: Any) -> Row:
        """A copy with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Create a row from the result of `to_dict`."""
        samples = {name: tuple(data[name]) for name in ("ours", "theirs")}
        return cls(**{**data, **samples})


def compare(
    what: str, seconds: Mapping[str, Samples], peers: Mapping[str, tuple[str, float | None]]
) -> list[Row]:
    """One row for each peer that compares it with the case `ours`.

    Args:
        what: a description of the measurement.
        seconds: the result of `alternate` for `ours` and the peers.
        peers: a description and the target, if any, by the name of the case.
    """
    return [
        Row(what=what, peer=peer, unit="s", ours=seconds["ours"], theirs=seconds[name], most=most)
        for name, (peer, most) in peers.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """The comparisons as a Markdown table, one line each."""
    head = ("measured", "ours", "peer", "peer's", "ratio", "middle half", "target", "")
    lines = [head, tuple("-" * len(title) or "---" for title in head)]
    for row in rows:
        low, high = row.quartiles
        lines.append(
            (
                row.what,
                _quantity(statistics.median(row.ours), row.unit),
                row.peer,
                _quantity(statistics.median(row.theirs), row.unit),
                f"{row.ratio:.3f}",
                f"{low:.3f} - {high:.3f}",
                _target(row),
                {True: "met", False: "MISSED", None: ""}[row.met],
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(_padded(line, widths) for line in lines)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    filler = "-" if cells[0].startswith("---") else " "
    padded = [cell.ljust(width, filler) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def _target(row: Row) -> str:
    if row.most_ours is not None:
        return f"<= {_quantity(row.most_ours, row.unit)}"
    return "" if row.most is None else f"<= {row.most:g}"


def _quantity(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.3f}"
    if unit == "s" and value < 1:
        value, unit = (value * 1e6, "µs") if value < 1e-3 else (value * 1e3, "ms")
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2
    return f"{value:.{digits}f} {unit}"
