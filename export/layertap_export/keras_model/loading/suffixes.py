"""Give files the suffix by which Keras recognizes their format."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def named(path: Path, suffix: str) -> Iterator[str]:
    """A path of the file that ends in `suffix`; if needed, that of a temporary link or copy."""
    if path.name.endswith(suffix) or (suffix == ".h5" and path.suffix == ".hdf5"):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, f"model{suffix}")
        try:
            os.symlink(path.resolve(), other)
        except OSError:  # Windows needs a privilege for symbolic links
            shutil.copyfile(path, other)
        yield str(other)
