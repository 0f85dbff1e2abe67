"""The `.keras` archives that TensorFlow 2.12 to 2.14 wrote, in the layout that Keras reads today.

These versions kept the layers of a model in the group `_layer_checkpoint_dependencies`, which is
`layers` today. Their names consist of the class and a number, which went up by two for each layer
with weights: `dense`, `dense_2`, `dense_4`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .configs import WEIGHTS
from .hdf5 import h5py_for, opened

OLD, NEW = "_layer_checkpoint_dependencies", "layers"


def is_old(path: Path) -> bool:
    """Whether a `.keras` archive has the old layout."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        if WEIGHTS not in archive.namelist():
            return False
        with archive.open(WEIGHTS) as weights, opened(weights, path, "read .keras files") as file:
            return OLD in file


@contextmanager
def in_new_layout(path: Path) -> Iterator[Path]:
    """A temporary copy of an archive, with its layers named as today."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(path) as archive:
            with archive.open(WEIGHTS) as source, (folder / WEIGHTS).open("wb") as target:
                shutil.copyfileobj(source, target)
            with h5py_for("read .keras files").File(folder / WEIGHTS, "r+") as file:
                rename(file)
            copy = folder / "model.keras"
            with zipfile.ZipFile(copy, "w") as new:
                for member in archive.namelist():
                    if member == WEIGHTS:
                        new.write(folder / WEIGHTS, WEIGHTS)
                    else:
                        new.writestr(member, archive.read(member))
        (folder / WEIGHTS).unlink()
        yield copy


def rename(group: Any) -> None:
    """Rename the layers in an HDF5 group, at every depth."""
    if OLD in group:
        group.move(OLD, NEW)
        _renumber(group[NEW])
    for name in group:
        if hasattr(group[name], "keys"):
            rename(group[name])


def _renumber(layers: Any) -> None:
    """Give the layers of each class the numbers 0, 1, ... in their order; 0 is not written."""
    by_class: dict[str, list[tuple[int, str]]] = {}
    for name in layers:
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()  # type: ignore[union-attr]
        by_class.setdefault(kind, []).append((int(number or 0), name))
    for kind, found in by_class.items():
        for number, (_, name) in enumerate(sorted(found)):
            wanted = f"{kind}_{number}" if number else kind
            if wanted != name:
                layers.move(name, wanted)
