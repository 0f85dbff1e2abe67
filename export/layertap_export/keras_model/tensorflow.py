"""Importing TensorFlow, Keras and tf2onnx: settings, and what to say if one is missing."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from layertap.errors import DependencyError

START_UP = re.compile(rb"^(I\d{4} |WARNING: All log messages before absl|To enable the following)")
"""Lines that TensorFlow prints while it is imported whatever its log level."""


@contextmanager
def prepared() -> Iterator[None]:
    """Settings under which TensorFlow may be imported in this block.

    Its start-up notes are silenced unless the user set `TF_CPP_MIN_LOG_LEVEL` to 0 or 1, and Keras
    is told to run on TensorFlow, which is what tf2onnx reads.

    Raises:
        DependencyError: TensorFlow, Keras, tf2onnx or onnx is missing, or Keras is set to another
            backend already.
    """
    if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise DependencyError(
            f"Keras is set to the backend {os.environ['KERAS_BACKEND']!r}, but the export traces "
            "with TensorFlow. Unset KERAS_BACKEND, or set it to tensorflow; models saved under "
            "another backend load there too."
        )
    try:
        # Level 2: warnings off, errors on.
        wordy = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") < "2"
        if wordy or "tensorflow" in sys.modules:
            yield
        else:
            with _without_start_up_notes():
                yield
    except ImportError as exc:
        if isinstance(exc, DependencyError):
            raise
        missing = (exc.name or str(exc)).partition(".")[0]
        raise DependencyError(
            f"the export needs {missing}, which cannot be imported ({exc}). "
            'Install it with `pip install "layertap[export,cpu]"`, or, if you have TensorFlow '
            'already, `pip install "layertap[convert,cpu]"`.'
        ) from exc


@contextmanager
def _without_start_up_notes() -> Iterator[None]:
    """Pass on what is written to stderr in this block, but for the lines of START_UP."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            lines = [line for line in held if not START_UP.match(line)]
            os.write(2, b"".join(lines))
