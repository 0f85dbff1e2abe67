"""Debug messages to the logger `layertap`, which cost nothing where nobody reads them.

The standard library's `logging` takes as long to import as Python takes to start. It is not
imported here: as long as nobody else has, there is no handler that could print a message.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ._escaping import one_line

T = TypeVar("T")

NAME = "layertap"
"""The name of the logger. The exporter writes to it, too."""

_logger: Any = None


def wanted() -> bool:
    """Whether debug messages of layertap are read."""
    global _logger
    if _logger is None:
        logging = sys.modules.get("logging")
        if logging is None or not hasattr(logging, "NullHandler"):  # being imported
            return False
        _logger = logging.getLogger(NAME)
        _logger.addHandler(logging.NullHandler())
    return bool(_logger.isEnabledFor(10))


def log(text: str) -> None:
    """Write a message, in one line without control characters. Call `wanted` before."""
    _logger.debug("%s", one_line(text))


def timed(call: Callable[[], T], what: Callable[[], str]) -> Callable[[], T]:
    """The call with a message after it: what it was, and its milliseconds."""

    def run() -> T:
        began = time.perf_counter()
        result = call()
        log(f"{what()}: {(time.perf_counter() - began) * 1000:.1f} ms")
        return result

    return run
