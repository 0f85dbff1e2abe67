"""`--verbose`: the debug messages of layertap on stderr, with the seconds since the start."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from layertap._log import NAME

from .printing import tell


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(f"layertap: [{record.relativeCreated / 1000:7.3f} s] {record.getMessage()}")


@contextmanager
def verbose() -> Iterator[None]:
    """Print the messages in this block."""
    logger, handler = logging.getLogger(NAME), _ToStderr()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # TensorFlow gives the root logger a handler that prints, too
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(handler)
