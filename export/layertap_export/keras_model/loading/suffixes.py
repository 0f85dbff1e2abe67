"""Files under names that Keras goes by."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def named(path: Path, suffix: str) -> Iterator[str]:
    """The file under a name with this ending, by which Keras knows its kind; any without one."""
    if path.name.endswith(suffix) or (suffix == ".h5" and path.suffix == ".hdf5"):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, f"model{suffix}")
        try:
            os.symlink(path.resolve(), other)
        except OSError:  # Windows wants a privilege for that
            shutil.copyfile(path, other)
        yield str(other)
