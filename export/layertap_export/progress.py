"""One line on the terminal that shows the current stage and its duration."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from layertap._log import log, wanted

CLEAR = "\r\x1b[K"
"""Moves to the start of the line and clears it."""


def timed(progress: Callable[[str], None]) -> Callable[[str], None]:
    """A callback that raises an error if the `time_limit` of this thread is over, between stages.

    TensorFlow cannot be stopped within a stage.

    Args:
        progress: called with the name of each stage.
    """
    from layertap._engine.stopping import time_left  # not above: it slows `--help`

    stage, begin = "this step", logged(progress)

    def begin_in_time(following: str) -> None:
        nonlocal stage
        time_left(stage)
        stage = following
        begin(following)

    return begin_in_time


def logged(progress: Callable[[str], None]) -> Callable[[str], None]:
    """A callback that also writes the name of each stage to the logger `layertap`."""

    def begin(stage: str) -> None:
        if wanted():
            log(stage)
        progress(stage)

    return begin


class ProgressLine:
    """A line that is rewritten once a second: the stage, and its seconds. It is cleared at the end.

    It is a callback for `export(progress=...)`. If the stream is not a terminal, or debug messages
    are printed, it does nothing.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 1.0) -> None:
        """Write to `stream`, by default stderr, every `interval` seconds."""
        stream = sys.stderr if stream is None else stream
        self._shown = bool(stream) and stream.isatty() and not wanted()
        self._stream = self._given = stream
        self._interval = interval
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._stage = ""
        self._since = 0.0
        self._thread: threading.Thread | None = None
        self._show_warning = warnings.showwarning

    def __call__(self, stage: str) -> None:
        """Begin a stage."""
        if not self._shown:
            return
        with self._lock:
            self._stage, self._since = stage, time.monotonic()
        self._draw()

    def _draw(self) -> None:
        with self._lock:
            if self._stage and not self._over.is_set():
                seconds = time.monotonic() - self._since
                self._stream.write(f"{CLEAR}{self._stage} ... {seconds:.0f} s")
                self._stream.flush()

    def _clear(self) -> None:
        with self._lock:
            self._stream.write(CLEAR)
            self._stream.flush()

    def _tick(self) -> None:
        while not self._over.wait(self._interval):
            self._draw()

    def _warn(self, *args: Any, **kwargs: Any) -> None:
        """Show a warning on a separate line."""
        self._clear()
        self._show_warning(*args, **kwargs)

    def __enter__(self) -> ProgressLine:
        if self._shown:
            self._stream = _of_its_own(self._given)
            self._show_warning = warnings.showwarning
            warnings.showwarning = self._warn
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        warnings.showwarning = self._show_warning
        self._clear()
        if self._stream is not self._given:
            self._stream.close()


def _of_its_own(stream: TextIO) -> TextIO:
    """The same terminal by another file descriptor: stderr is led elsewhere while TensorFlow is
    imported."""
    try:
        return os.fdopen(os.dup(stream.fileno()), "w")
    except OSError:  # it has none
        return stream
