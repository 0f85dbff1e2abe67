"""Import TensorFlow, Keras and tf2onnx: settings, and the error if one is missing."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from layertap.errors import DependencyError, install_hint

START_UP = re.compile(rb"^(I\d{4} |WARNING: All log messages before absl|To enable the following)")
"""Lines that TensorFlow prints on import at any log level."""


@contextmanager
def prepared() -> Iterator[None]:
    """Prepare the environment for imports of TensorFlow and Keras in this block.

    TensorFlow's start-up messages are hidden unless the user set `TF_CPP_MIN_LOG_LEVEL` to 0 or 1,
    and the backend of Keras is set to TensorFlow, whose graphs tf2onnx converts. oneDNN is enabled
    on every CPU, as TensorFlow does itself on some: without it, TensorFlow cannot run transposed
    convolutions with dilation.

    Raises:
        DependencyError: TensorFlow, Keras, tf2onnx or onnx cannot be imported, or Keras is already
            set to another backend.
    """
    if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise DependencyError(
            f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']!r}, but the export needs the backend "
            "tensorflow. Unset it, or set it to tensorflow: models that were saved with another "
            "backend load with TensorFlow too."
        )
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        # Level 2: errors are logged, warnings are not.
        verbose = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") < "2"
        if verbose or "tensorflow" in sys.modules:
            yield
        else:
            with _without_start_up_messages():
                yield
    except ImportError as exc:
        if isinstance(exc, DependencyError):
            raise
        missing = (exc.name or str(exc)).partition(".")[0]
        raise DependencyError(
            f"the export needs {missing}, which cannot be imported ({exc}). "
            f"Install it with {install_hint('export', 'cpu')}; if you have TensorFlow already, "
            "with the extra convert instead of export."
        ) from exc


@contextmanager
def _without_start_up_messages() -> Iterator[None]:
    """Hold back what is written to stderr in this block, then write it without START_UP lines."""
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
