"""Progress of a long run: on a terminal, in a log, as JSON, or to a function of the caller.

On a terminal one line is rewritten, by `tqdm` where that is installed. Elsewhere a line is printed
every 30 seconds, as the logs of batch systems need it.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO, TypeAlias

from layertap._escaping import printable
from layertap.errors import UsageError

LOG_SECONDS = 30.0
"""Time between two lines in a log."""

DRAW_SECONDS = 0.2
"""Time between two drawings of the line on a terminal."""

CLEAR = "\r\x1b[K"
"""Moves to the start of the line and clears it."""

Progress: TypeAlias = "bool | Callable[[int, int], object] | None"
"""`True` for a line on stderr; or a function of the number of rows that are done and of all rows;
`None` or `False` for nothing."""


class State(NamedTuple):
    """How far a run is."""

    done: int
    """Rows that are done, with those of earlier runs."""
    total: int
    """All rows."""
    failed: int
    """Rows that failed, with those of earlier runs."""
    seconds: float
    """Time since this run began."""
    rate: float
    """Rows per second in this run; 0 at its start."""

    @property
    def seconds_left(self) -> float | None:
        """An estimate, if there is a rate."""
        return (self.total - self.done) / self.rate if self.rate else None

    def text(self) -> str:
        """`1,200/5,000 images, 31/s, 2 min left, 3 failed`."""
        parts = [f"{self.done:,}/{self.total:,} images"]
        if self.rate:
            parts.append(f"{rate_text(self.rate)}/s")
        left = self.seconds_left
        if left is not None and self.done < self.total:
            parts.append(f"{duration(left)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)


class Reporter(ABC):
    """Shows progress; by itself nothing."""

    @abstractmethod
    def __call__(self, state: State) -> None:
        """Show how far the run is."""

    def pause(self) -> None:  # noqa: B027 - most have nothing to do
        """Make room for another line on the same terminal."""

    def close(self) -> None:  # noqa: B027
        """The run has ended, in whichever way."""


class Meter:
    """Measures the rate, and passes the state to a reporter."""

    def __init__(self, reporter: Reporter, total: int, done: int, failed: int) -> None:
        self._reporter, self._total, self._first = reporter, total, done
        self._began = time.monotonic()
        self.update(done, failed)

    def update(self, done: int, failed: int) -> None:
        """Report how many rows are done, and how many of them failed."""
        seconds = time.monotonic() - self._began
        new = done - self._first
        rate = new / seconds if new and seconds else 0.0
        self._reporter(State(done, self._total, failed, seconds, rate))

    def close(self) -> None:
        """End the report."""
        self._reporter.close()


class Silent(Reporter):
    """Shows nothing."""

    def __call__(self, state: State) -> None:
        """Do nothing."""


class ToFunction(Reporter):
    """Calls a function of the caller with the number of rows that are done, and of all."""

    def __init__(self, function: Callable[[int, int], object]) -> None:
        self._function = function

    def __call__(self, state: State) -> None:
        """Call it."""
        self._function(state.done, state.total)


class Bar(Reporter):
    """A bar of `tqdm`, on a terminal or in a notebook."""

    def __init__(self, tqdm: Any, stream: TextIO) -> None:
        self._tqdm, self._stream = tqdm, stream
        self._bar: Any = None

    def __call__(self, state: State) -> None:
        """Draw the bar."""
        if self._bar is None:
            self._bar = self._tqdm(
                total=state.total, initial=state.done, unit=" images", file=self._stream
            )
        if state.failed:
            self._bar.set_postfix_str(f"{state.failed:,} failed", refresh=False)
        self._bar.update(state.done - self._bar.n)

    def pause(self) -> None:
        """Clear the bar, until it is drawn again."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.close()


class Line(Reporter):
    """One line on a terminal, rewritten a few times a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = -DRAW_SECONDS

    def __call__(self, state: State) -> None:
        """Draw the line."""
        now = time.monotonic()
        if now - self._drawn >= DRAW_SECONDS or state.done == state.total:
            self._drawn = now
            self._stream.write(f"{CLEAR}{state.text()}")
            self._stream.flush()

    def pause(self) -> None:
        """Clear the line."""
        self._stream.write(CLEAR)
        self._stream.flush()

    def close(self) -> None:
        """Clear the line."""
        self.pause()


class Log(Reporter):
    """A line every 30 seconds, and one at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._printed: float | None = None

    def __call__(self, state: State) -> None:
        """Print a line, if it is time."""
        now = time.monotonic()
        if self._printed is None:
            self._printed = now
        elif now - self._printed >= LOG_SECONDS:
            self._printed = now
            self._stream.write(f"{printable(state.text())}\n")
            self._stream.flush()


class JsonLines(Reporter):
    """One JSON object in a line for each step, for machines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, state: State) -> None:
        """Print a line."""
        left = state.seconds_left
        self.write(
            "progress",
            done=state.done,
            total=state.total,
            failed=state.failed,
            rate=round(state.rate, 3),
            seconds=round(state.seconds, 3),
            seconds_left=None if left is None else round(left, 1),
        )

    def write(self, event: str, **values: Any) -> None:
        """Print a line of another kind, for example of the bill."""
        self._stream.write(f"{json.dumps({'event': event, **values})}\n")
        self._stream.flush()


def on_stream(stream: TextIO | None) -> Reporter:
    """What suits a stream: a bar or a line on a terminal, a log elsewhere; nothing without one."""
    if stream is None:
        return Silent()
    if not stream.isatty():
        return Log(stream)
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return Line(stream)
    return Bar(tqdm, stream)


def reporter_for(progress: Progress | Reporter) -> Reporter:
    """The reporter for an argument `progress`; a reporter is returned as it is.

    Raises:
        UsageError: it is neither a truth value nor a function.
    """
    if progress is None or progress is False:
        return Silent()
    if progress is True:
        return on_stream(sys.stderr)
    if isinstance(progress, Reporter):
        return progress
    if not callable(progress):
        raise UsageError(
            "progress must be True, False or a function of two integers, the rows that are done "
            f"and all rows, got {progress!r}."
        )
    return ToFunction(progress)


def rate_text(rate: float) -> str:
    """`31`, `0.52`."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """A duration with its largest unit: `45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 1:
        return "1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
